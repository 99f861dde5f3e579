"""The states of a breaker, by its table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from orchestrator.resilience.breaker import Breaker
from orchestrator.state import keys
from orchestrator.state.guards import Refused
from tests.state.fleet import HOLD, Fleet, admitted, refused

if TYPE_CHECKING:
    from redis import Redis

POLICY: Final = Breaker(failures=3, window=10.0, cooldown=5.0, slow=2.0, probes=2, closes=2)
BY_SHARE: Final = Breaker(rate=0.5, minimum=4, window=10.0, cooldown=5.0)

# What has happened, and what happens then, in words:
#   ok, failed, neutral, slow: a call with this outcome     begin:a: a call begins; a:ok: it ends
#   4s: time passes     lost: what is held is taken back     open, closed, auto: an operator's word
OPENED: Final = "begin:old failed failed failed"
HALF_OPEN: Final = f"{OPENED} 5s begin:a"
BREAKER_ROWS: Final = [
    # state, event, history, what happens, state afterwards, next call
    ("closed", "a call succeeds", "", "ok", "closed", "passes"),
    ("closed", "a call fails, fewer than `failures` in the window", "failed", "failed", "closed", "passes"),
    ("closed", "a call fails, the last of `failures` in the window", "failed failed", "failed", "open", "refused"),
    ("closed", "a call fails, the others are out of the window", "failed failed 11s", "failed", "closed", "passes"),
    ("closed", "a success that took longer than `slow`", "failed failed", "slow", "open", "refused"),
    ("closed", "a call ends without saying anything", "failed failed", "neutral", "closed", "passes"),
    ("open", "a call before the cooldown is over", OPENED, "4s", "open", "refused"),
    ("open", "the first call after the cooldown", OPENED, "5s begin:a", "half-open", "probe"),
    ("open", "a call that began before it opened succeeds", OPENED, "old:ok", "open", "refused"),
    ("open", "a call that began before it opened fails", OPENED, "4s old:failed", "open", "refused"),
    ("half-open", "a call while `probes` are under way", f"{HALF_OPEN} begin:b", "", "half-open", "refused"),
    ("half-open", "a probe succeeds, fewer than `closes`", HALF_OPEN, "a:ok", "half-open", "probe"),
    ("half-open", "a probe succeeds, the last of `closes`", f"{HALF_OPEN} a:ok begin:b", "b:ok", "closed", "passes"),
    ("half-open", "a probe fails", f"{HALF_OPEN} a:ok begin:b", "b:failed", "open", "refused"),
    ("half-open", "a probe takes longer than `slow`", HALF_OPEN, "a:slow", "open", "refused"),
    ("half-open", "a probe ends without saying anything", f"{HALF_OPEN} begin:b", "b:neutral", "half-open", "probe"),
    ("half-open", "a probe is never settled", f"{HALF_OPEN} begin:b", "lost", "half-open", "probe"),
    ("half-open", "a call that began before it opened succeeds", f"{HALF_OPEN} a:ok", "old:ok", "half-open", "probe"),
    ("half-open", "a call that began before it opened fails", HALF_OPEN, "old:failed", "half-open", "probe"),
    ("closed again", "a call fails", f"{HALF_OPEN} a:ok begin:b b:ok failed", "failed", "closed", "passes"),
    ("closed again", "a call that began before it opened fails", f"{HALF_OPEN} a:ok begin:b b:ok failed failed",
     "old:failed", "closed", "passes"),
    ("open again", "a probe of before succeeds", f"{HALF_OPEN} begin:b b:failed", "a:ok", "open", "refused"),
    ("any", "an operator opens it", "", "open", "open", "refused"),
    ("forced open", "the cooldown is over", "open", "5s", "open", "refused"),
    ("forced open", "it is left to itself", "open", "auto", "half-open", "probe"),
    ("any", "an operator closes it", OPENED, "closed", "closed", "passes"),
    ("forced closed", "calls fail", "closed", "failed failed failed failed", "closed", "passes"),
    ("forced closed", "it is left to itself", "closed failed failed failed", "auto", "closed", "passes"),
    ("forced closed", "a call that began while it was open fails", f"{HALF_OPEN} closed", "a:failed", "closed",
     "passes"),
]  # fmt: skip
SHARE_ROWS: Final = [
    ("closed", "fewer than `minimum` calls in the window", "failed failed", "failed", "closed", "passes"),
    ("closed", "a share of failures below `rate`", "ok ok ok failed", "failed", "closed", "passes"),
    ("closed", "a share of failures of `rate`", "ok ok failed", "failed", "open", "refused"),
    ("closed", "a success makes the calls `minimum`, of which `rate` failed", "failed failed ok", "ok", "open",
     "refused"),
]  # fmt: skip


def act(fleet: Fleet, words: str) -> None:
    for word in words.split():
        first, _, second = word.partition(":")
        if first == "begin":
            admitted(fleet.ask(second))
        elif second:
            end(fleet, first, second)
        elif first == "lost":
            fleet.clock.forward(HOLD + 1)
            fleet.store.waiting()
        elif first in {"open", "closed", "auto"}:
            fleet.store.force(fleet.agent, first)  # type: ignore[arg-type]  # one of the three
        elif first.endswith("s"):
            fleet.clock.forward(float(first[:-1]))
        else:
            admitted(fleet.ask(name := f"{fleet.made}/call"))
            end(fleet, name, first)


def end(fleet: Fleet, member: str, outcome: str) -> None:
    if outcome == "slow":
        fleet.end(member, "ok", took=2.001)
    else:
        fleet.end(member, outcome, took=2.0)  # type: ignore[arg-type]  # one of the three


@pytest.mark.parametrize(
    ("policy", "row"),
    [*((POLICY, row) for row in BREAKER_ROWS), *((BY_SHARE, row) for row in SHARE_ROWS)],
    ids=[f"{row[0]}: {row[1]}" for row in [*BREAKER_ROWS, *SHARE_ROWS]],
)
def test_a_breaker_goes_from_state_to_state_as_its_table_says(
    redis_client: Redis, policy: Breaker, row: tuple[str, str, str, str, str, str]
) -> None:
    # given a breaker with a history
    fleet = Fleet(redis_client, policy.guard("model"))
    _, _, history, event, state, following = row
    act(fleet, history)

    # when it happens
    act(fleet, event)

    # then the state is the table's, and the next call fares as it says
    found = {breaker.name: breaker.state for breaker in fleet.store.breakers()}
    assert found.get("model", "closed") == state
    answer = fleet.ask()
    if following == "refused":
        assert refused(answer).kind == "breaker"
    else:
        assert admitted(answer).probe == (following == "probe")


def test_an_open_breaker_says_when_it_may_be_asked_again_and_is_listed(redis_client: Redis) -> None:
    # given a breaker that opened two seconds ago
    fleet = Fleet(redis_client, Breaker(failures=2, cooldown=30.0, of="openai/gpt").guard("model"))
    act(fleet, "ok failed failed 2s")

    # then a call is refused until the cooldown is over, and the list says the same
    assert fleet.ask() == Refused("breaker", "openai/gpt", 28_000)
    (found,) = fleet.store.breakers()
    assert (found.name, found.state, found.forced, found.calls, found.failures) == ("openai/gpt", "open", False, 3, 2)
    assert (found.since, found.retry_in, found.probes) == (2.0, 28.0, 0)


def test_a_breaker_that_expired_is_not_listed(redis_client: Redis) -> None:
    # given a breaker that was called, when its key is gone
    fleet = Fleet(redis_client, Breaker().guard("model"))
    act(fleet, "failed")
    redis_client.delete(keys.breaker("model"))

    # then it is not listed, and its name has left the index; it is back with its next call
    assert fleet.store.breakers() == []
    assert not redis_client.exists(keys.GUARD_BREAKERS)
    act(fleet, "failed")
    assert [found.failures for found in fleet.store.breakers()] == [1]


def test_force_tells_whether_there_was_such_a_breaker(redis_client: Redis) -> None:
    fleet = Fleet(redis_client, Breaker().guard("model"))
    assert not fleet.store.force("nobody", "auto")
    assert not fleet.store.force("model", "open")
    assert fleet.store.force("model", "auto")
    assert fleet.store.force("mistyped", "open") is False
    # left to itself twice, one that nothing was called through is forgotten
    assert [fleet.store.force("mistyped", "auto") for _ in range(3)] == [True, True, False]
    assert [(found.name, found.state, found.forced) for found in fleet.store.breakers()] == [
        ("model", "half-open", False)
    ]
