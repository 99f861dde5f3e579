"""A breaker and a limit around calls that no agent makes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.errors import CircuitOpen, InvalidPolicy, LimitReached
from orchestrator.resilience.breaker import Breaker, CircuitBreaker
from orchestrator.resilience.limit import Concurrency, RateLimit, RateLimiter
from tests.state.fleet import Clock, Fleet, admitted, nothing_is_held, refused

if TYPE_CHECKING:
    from redis import Redis


def fails() -> None:
    raise ConnectionError


def test_a_breaker_around_a_call_opens_tries_again_and_closes(redis_client: Redis) -> None:
    # given a breaker that opens at two failures
    clock = Clock()
    breaker = CircuitBreaker(redis_client, "provider", Breaker(failures=2, cooldown=5.0), clock_ms=clock)
    assert breaker.call(int, "3") == 3

    # when two calls fail, then the next is not made, and is told when to come again
    for _ in range(2):
        with pytest.raises(ConnectionError):
            breaker.call(fails)
    with pytest.raises(CircuitOpen) as raised:
        breaker.call(fails)
    assert raised.value.args == ("provider", 5.0)

    # when the time has come and a call succeeds, then it is closed
    clock.forward(5)
    for _ in range(3):
        with breaker.attempt():
            pass
    assert nothing_is_held(redis_client)


def test_a_call_that_is_broken_off_says_nothing_about_its_provider(redis_client: Redis) -> None:
    # given a breaker that opens at the first failure, when a call is interrupted
    breaker = CircuitBreaker(redis_client, "provider", Breaker(failures=1))

    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        breaker.call(interrupted)

    # then the next is made
    assert breaker.call(int, "3") == 3
    assert nothing_is_held(redis_client)


def test_a_breaker_around_a_call_is_the_one_of_the_agents_that_name_it(redis_client: Redis) -> None:
    # given an agent and a function that call the same provider, when the function fails
    policy = Breaker(failures=1, of="provider")
    fleet = Fleet(redis_client, policy.guard("model"))
    with pytest.raises(ConnectionError):
        CircuitBreaker(redis_client, "script", policy, clock_ms=fleet.clock).call(fails)

    # then the agent's calls are refused too
    assert refused(fleet.ask()).name == "provider"


def test_a_limiter_takes_or_says_how_long_to_wait(redis_client: Redis) -> None:
    # given two requests and ten tokens a second, of an agent too
    policy = RateLimit(requests=2, tokens=10, per=1.0, of="provider")
    fleet = Fleet(redis_client, policy.guard("model"))
    limiter = RateLimiter(redis_client, "script", policy, clock_ms=fleet.clock)

    # when they are taken by both
    assert limiter.acquire(tokens=4) == 0.0
    admitted(fleet.ask(tokens=4))

    # then the next is told to wait, and it is right
    assert limiter.acquire() == 1.005
    fleet.clock.forward(1.005)
    assert limiter.acquire(tokens=10) == 0.0
    # and what can never pass says so
    with pytest.raises(LimitReached, match="11 tokens"):
        limiter.acquire(tokens=11)


@pytest.mark.parametrize(
    ("kind", "policy"), [(CircuitBreaker, Breaker(failures=1)), (RateLimiter, RateLimit(requests=1))]
)
def test_what_is_no_name_is_refused_with_the_line(redis_client: Redis, kind: Any, policy: Any) -> None:  # noqa: ANN401  one of each
    for name in (3, ""):
        with pytest.raises(InvalidPolicy) as raised:
            kind(redis_client, name, policy)
        assert raised.value.args[1].startswith(__file__)


def test_a_call_that_takes_longer_than_a_probe_may_still_counts(redis_client: Redis) -> None:
    # given a breaker that opens at the first failure, and a call that lasts longer than probes are waited for
    clock = Clock()
    breaker = CircuitBreaker(redis_client, "provider", Breaker(failures=1), hold=60.0, clock_ms=clock)
    others = Fleet(redis_client, Concurrency(total=1).guard("model"), clock=clock)

    def takes_long() -> None:
        clock.forward(61)
        others.store.grant("model")  # as the caretaker does: it takes back what is overdue
        raise ConnectionError

    # when it fails, then that counts
    with pytest.raises(ConnectionError):
        breaker.call(takes_long)
    with pytest.raises(CircuitOpen):
        breaker.call(fails)
    assert nothing_is_held(redis_client)


def test_a_probe_that_does_not_come_back_is_given_up(redis_client: Redis) -> None:
    # given an open breaker, and a probe that lasts longer than it may
    clock = Clock()
    breaker = CircuitBreaker(redis_client, "provider", Breaker(failures=1, cooldown=5.0), hold=60.0, clock_ms=clock)
    with pytest.raises(ConnectionError):
        breaker.call(fails)
    clock.forward(5)

    # when its time is over, then another is let through in its place
    with breaker.attempt():
        clock.forward(59)
        with pytest.raises(CircuitOpen):
            breaker.call(int, "3")
        clock.forward(2)
        assert breaker.call(int, "3") == 3
    assert nothing_is_held(redis_client)
