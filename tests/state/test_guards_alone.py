"""A breaker and a limit around calls that no agent makes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from orchestrator.errors import CircuitOpen, LimitReached
from orchestrator.resilience.breaker import Breaker, CircuitBreaker
from orchestrator.resilience.limit import RateLimit, RateLimiter
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
