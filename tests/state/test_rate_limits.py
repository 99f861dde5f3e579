"""What a rate limit lets through, by its table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from orchestrator.resilience.breaker import Breaker
from orchestrator.resilience.budget import Spend
from orchestrator.resilience.limit import Concurrency, RateLimit
from orchestrator.state.guards import Admitted, Refused
from tests.state.fleet import Fleet, admitted, nothing_is_held, refused

if TYPE_CHECKING:
    from redis import Redis

LIMIT: Final = RateLimit(requests=3, tokens=100, per=1.0)

# ask, ask:40 (tokens): a call that is admitted     end:10: the oldest call ends and has used 10
# 0.5s: time passes     closed:2s: a call ends with a Retry-After     wait: a call that queues
# grant: those whose turn it is     take: they come for it
GRANTED: Final = "ask ask ask wait 1.005s grant"
RATE_ROWS: Final = [
    # state, event, history, next call's tokens, what it gets
    ("room", "a call", "ask ask", 0, "passes"),
    ("full", "a call", "ask ask ask", 0, "rate 1005"),
    ("full", "a call when the oldest slice is not quite out of the window", "ask ask ask 1s", 0, "rate 5"),
    ("full", "a call when the oldest slice is out of the window", "ask ask ask 1.005s", 0, "passes"),
    ("full", "a call when some are out of the window", "ask 0.5s ask ask 0.51s ask", 0, "rate 495"),
    ("room", "a call that needs more tokens than are left", "ask:60", 41, "rate 1005"),
    ("room", "a call that needs what is left", "ask:60", 40, "passes"),
    ("room", "a call that needs more than the limit", "", 101, "rate -1"),
    ("no token left", "a call without an estimate", "ask:100", 0, "rate 1005"),
    ("no token left", "a call ends and used less", "ask:100 0.1s end:60", 40, "passes"),
    ("no token left", "a call ends after its slice has left, and used less", "ask:100 1.1s ask:100 end:60", 1,
     "rate 1005"),
    ("room", "a call ends and used more: it counts from its end", "ask:10 0.5s end:95", 16, "rate 1005"),
    ("room", "a call ends and says nothing of its use", "ask:60 end", 41, "rate 1005"),
    ("room", "a call ends with a Retry-After", "ask closed:2s 1.9s", 0, "gate 100"),
    ("closed by a Retry-After", "its time is over", "ask closed:2s 2s", 0, "passes"),
    ("closed by a Retry-After", "a call ends with a shorter one", "ask ask closed:2s closed:1s 1s", 0, "gate 1000"),
    ("full, one waits", "a turn that nobody has come for counts", f"{GRANTED} ask ask", 0, "rate 1005"),
    ("full, one waits", "a call that comes for its turn counts from then", f"{GRANTED} 0.5s take ask ask 0.6s", 0,
     "rate 405"),
    ("full, one waits", "its turn comes, and nobody for it, twice", f"{GRANTED} 11s grant 11s sweep ask ask", 0,
     "passes"),
]  # fmt: skip


def spend(fleet: Fleet, words: str) -> None:
    open_calls: list[str] = []
    granted: list[str] = []
    for word in words.split():
        first, _, second = word.partition(":")
        if first == "ask":
            admitted(fleet.ask(name := f"{fleet.made}/call", tokens=int(second or 0)))
            open_calls.append(name)
        elif first == "end":
            fleet.end(open_calls.pop(0), used=Spend(tokens=int(second)) if second else None)
        elif first == "closed":
            fleet.end(open_calls.pop(0), "neutral", closed=float(second[:-1]))
        elif first == "wait":
            assert refused(fleet.ask(wait=True)).queued
        elif first == "grant":
            granted = fleet.grant()
            assert granted
        elif first == "take":
            assert all(admitted(fleet.ask(member)) for member in granted)
        elif first == "sweep":
            assert fleet.store.waiting() == []
        else:
            fleet.clock.forward(float(first[:-1]))


@pytest.mark.parametrize("row", RATE_ROWS, ids=[f"{row[0]}: {row[1]}" for row in RATE_ROWS])
def test_a_rate_limit_lets_through_what_its_table_says(
    redis_client: Redis, row: tuple[str, str, str, int, str]
) -> None:
    # given a limit with a history
    fleet = Fleet(redis_client, LIMIT.guard("model"))
    _, _, history, tokens, expected = row
    spend(fleet, history)

    # when a call asks
    answer = fleet.ask(tokens=tokens)

    # then it passes, or is told by what and for how long it is held
    found = "passes" if isinstance(answer, Admitted) else f"{answer.kind} {answer.retry_ms}"
    assert found == expected


def test_what_can_never_pass_is_not_queued(redis_client: Redis) -> None:
    fleet = Fleet(redis_client, RateLimit(tokens=100).guard("model"))

    assert fleet.ask(tokens=101, wait=True) == Refused("rate", "model", -1, queued=False)
    assert nothing_is_held(redis_client)


def test_two_limits_of_an_agent_hold_together_and_nothing_is_taken_of_one_when_the_other_refuses(
    redis_client: Redis,
) -> None:
    # given two a second and three a minute
    fleet = Fleet(redis_client, *(RateLimit(requests=n, per=per).guard("model") for n, per in ((2, 1.0), (3, 60.0))))

    # when five ask in the first second and two in the next
    first = [isinstance(fleet.ask(), Admitted) for _ in range(5)]
    fleet.clock.forward(1.01)
    second = [isinstance(fleet.ask(), Admitted) for _ in range(2)]

    # then the refused ones took nothing of the longer limit
    assert (first, second) == ([True, True, False, False, False], [True, False])


def test_agents_that_name_the_same_limit_share_it(redis_client: Redis) -> None:
    # given two agents with one limit
    limit = RateLimit(requests=1, of="openai")
    one, two = (Fleet(redis_client, limit.guard(agent), agent=agent) for agent in ("one", "two"))

    # then what one takes, the other has not
    admitted(one.ask())
    assert refused(two.ask()).name == "openai"


def test_a_clock_that_was_set_back_lets_nothing_stay_for_ever(redis_client: Redis) -> None:
    # given a limit of which something was taken, when the clock goes back an hour, and the rest is taken then
    fleet = Fleet(redis_client, RateLimit(requests=2, per=1.0).guard("model"))
    spend(fleet, "ask")
    fleet.clock.forward(-3600)
    spend(fleet, "ask")
    refused(fleet.ask())

    # then it is full until the old time comes again, and not longer
    fleet.clock.forward(3601.01)
    spend(fleet, "ask ask")
    fleet.clock.forward(1.01)
    spend(fleet, "ask ask")


def test_a_limit_holds_nothing_where_it_is_told_so(redis_client: Redis) -> None:
    # given calls that will not be settled
    fleet = Fleet(redis_client, RateLimit(requests=2).guard("model"))
    for _ in range(2):
        admitted(fleet.ask(hold=0))

    # then the limit counts them and nothing is held; what must be settled cannot be asked for so
    refused(fleet.ask(hold=0))
    assert nothing_is_held(redis_client)
    with pytest.raises(ValueError, match="hold_ms"):
        Fleet(redis_client, Breaker().guard("model")).ask(hold=0)


def test_a_retry_after_closes_the_breaker_s_gate_where_there_is_no_limit(redis_client: Redis) -> None:
    # given an agent without limits, when a call ends with a Retry-After; another ended with none
    fleet = Fleet(redis_client, Breaker().guard("model"))
    spend(fleet, "ask ask closed:30s end")

    # then all wait for that time, and not longer
    assert fleet.ask(wait=True) == Refused("gate", "model", 30_000, queued=True)
    assert fleet.grant() == []
    fleet.clock.forward(30)
    assert len(fleet.grant()) == 1


def test_a_retry_after_closes_nothing_where_there_is_neither_a_limit_nor_a_breaker(redis_client: Redis) -> None:
    # given an agent that may only be called so often at a time, when a call ends with a Retry-After
    fleet = Fleet(redis_client, Concurrency(total=2).guard("model"))
    admitted(fleet.ask("a/step"))
    fleet.end("a/step", "neutral", closed=30)

    # then the others are not held
    admitted(fleet.ask())
