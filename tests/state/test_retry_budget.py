"""The retry budget of an agent, shared by the fleet: what is allowed at once, and what has to wait its turn."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis

from orchestrator.state import keys
from orchestrator.state.retry_budget import RetryBudget
from tests.docs.tables import table
from tests.servers import no_key_left_without_ttl_or_declaration, on_valkey

if TYPE_CHECKING:
    from collections.abc import Callable

AGENT = "support.answer"
RATIO, FLOOR = 0.2, 1.0
SAVED = 30
"""Retries that can be saved up: ten seconds of the floor, and what a hundred first attempts earn."""


class Clock:
    """Milliseconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now_ms = 1_800_000_000_000

    def __call__(self) -> int:
        return self.now_ms

    def advance(self, seconds: float) -> None:
        self.now_ms += round(seconds * 1000)


class Fleet:
    """One agent's budget with the default options, and a clock."""

    def __init__(self, client: Redis) -> None:
        self.client = client
        self.clock = Clock()
        self.budget = RetryBudget(client, self.clock)

    def retries(self, number: int, *, first: int = 0) -> list[float]:
        """Take so many retries; `first` attempts were made before."""
        firsts = [first] + [0] * (number - 1)
        return [self.budget.withdraw(AGENT, first_attempts=n, ratio=RATIO, floor=FLOOR) for n in firsts]


@pytest.fixture
def fleet(redis_client: Redis) -> Fleet:
    return Fleet(redis_client)


def an_agent_not_seen_before(fleet: Fleet) -> list[float]:
    return fleet.retries(10)


def the_next_ones(fleet: Fleet) -> list[float]:
    fleet.retries(10)
    return fleet.retries(3)


def a_hundred_first_attempts(fleet: Fleet) -> list[float]:
    fleet.retries(10)
    return fleet.retries(20, first=100)


def many_first_attempts(fleet: Fleet) -> list[float]:
    return fleet.retries(SAVED + 1, first=100_000)


def some_seconds(fleet: Fleet) -> list[float]:
    fleet.retries(10)
    fleet.clock.advance(5)
    return fleet.retries(6)


def seconds_beside_a_queue(fleet: Fleet) -> list[float]:
    fleet.retries(13)
    fleet.clock.advance(2)
    return fleet.retries(1)


def a_long_silence(fleet: Fleet) -> list[float]:
    fleet.retries(20)
    fleet.clock.advance(3000)
    return fleet.retries(SAVED + 1)


# The rows of the page, with the default options: what came before, and the waits of the next retries.
ROWS: dict[str, tuple[str, Callable[[Fleet], list[float]], list[float]]] = {
    "nothing": ("10 at once", an_agent_not_seen_before, [0.0] * 10),
    "10 retries": ("after 1 s, 2 s, 3 s, ...", the_next_ones, [1.0, 2.0, 3.0]),
    "10 retries, then 100 first attempts": ("20 at once", a_hundred_first_attempts, [0.0] * 20),
    "100,000 first attempts": ("30 at once, the next after 1 s", many_first_attempts, [0.0] * 30 + [1.0]),
    "10 retries, then 5 s": ("5 at once, the next after 1 s", some_seconds, [0.0] * 5 + [1.0]),
    "13 retries, then 2 s": ("after 2 s: behind the one that is due in 1 s", seconds_beside_a_queue, [2.0]),
    "20 retries, then nothing for 50 min": ("30 at once, the next after 1 s", a_long_silence, [0.0] * 30 + [1.0]),
}


@pytest.mark.parametrize("row", ROWS)
def test_retries_wait_as_the_table_says(fleet: Fleet, row: str) -> None:
    _, play, waits = ROWS[row]
    assert play(fleet) == pytest.approx(waits)


def test_the_table_has_these_rows_and_no_other() -> None:
    assert table("retry-and-timeouts.md", "Before") == [[row, said] for row, (said, _, _) in ROWS.items()]


@on_valkey
def test_agents_do_not_share_a_budget(fleet: Fleet) -> None:
    fleet.retries(50)
    assert fleet.budget.withdraw("support.triage", first_attempts=0, ratio=RATIO, floor=FLOOR) == 0


@on_valkey
def test_a_wait_that_is_too_long_takes_nothing(fleet: Fleet) -> None:
    # given a budget that is used up
    fleet.retries(12)

    # when one that has no time asks again and again
    asked = [fleet.budget.withdraw(AGENT, first_attempts=0, ratio=RATIO, floor=FLOOR, longest=2.5) for _ in range(5)]

    # then it is told, and the next one is not behind it
    assert asked == pytest.approx([3.0] * 5)
    assert fleet.budget.withdraw(AGENT, first_attempts=0, ratio=RATIO, floor=FLOOR, longest=3.0) == pytest.approx(3.0)
    assert fleet.retries(1) == pytest.approx([4.0])


@on_valkey
def test_a_floor_below_one_still_allows_retries(fleet: Fleet) -> None:
    waits = [fleet.budget.withdraw(AGENT, first_attempts=0, ratio=0.0, floor=0.01) for _ in range(3)]
    assert waits == pytest.approx([0.0, 100.0, 200.0])


@on_valkey
def test_a_clock_that_was_set_back_earns_nothing_and_stops_nothing(fleet: Fleet) -> None:
    # given a budget that is used up, and a server whose clock is set back by an hour
    fleet.retries(12)
    fleet.clock.advance(-3600)
    assert fleet.retries(1) == pytest.approx([3.0])

    # when time goes on from there, then it counts
    fleet.clock.advance(3)
    assert fleet.retries(1) == pytest.approx([1.0])


def test_the_servers_clock_counts_where_no_other_is_given(redis_client: Redis) -> None:
    # given a budget by the server's clock, of one retry in a thousand seconds
    budget = RetryBudget(redis_client)
    before_ms = server_ms(redis_client)

    # when two are taken
    first, second = (budget.withdraw(AGENT, first_attempts=0, ratio=0.0, floor=0.001) for _ in range(2))
    passed_ms = server_ms(redis_client) - before_ms

    # then the second waits for what the time that passed has not earned
    assert first == 0
    assert 1_000_000 - passed_ms - 2 <= second * 1000 <= 1_000_000
    stored = cast("bytes", redis_client.hget(keys.retry_budget(AGENT), "at_ms"))
    assert before_ms <= int(stored) <= before_ms + passed_ms


def server_ms(client: Redis) -> int:
    seconds, microseconds = client.time()
    return seconds * 1000 + microseconds // 1000


@on_valkey
def test_the_budget_outlives_every_wait_it_has_given_out(fleet: Fleet) -> None:
    # given two hours of retries
    waits = fleet.retries(7210)
    assert waits[-1] == pytest.approx(7200.0)

    # then it is kept for longer, though not for ever
    left_ms = fleet.client.pttl(keys.retry_budget(AGENT))
    assert 7_200_000 + 3_500_000 < left_ms <= 7_200_000 + 3_601_000 + 1000
    no_key_left_without_ttl_or_declaration(fleet.client)


STEPS = st.lists(
    st.tuples(st.integers(0, 40), st.integers(0, 20), st.floats(0, 20)),
    min_size=1,
    max_size=30,
)


@on_valkey
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, ratio=st.sampled_from([0.0, 0.1, 0.5]), floor=st.sampled_from([0.2, 1.0, 5.0]))
def test_retries_are_never_more_than_what_was_saved_and_earned(
    redis_client: Redis, steps: list[tuple[int, int, float]], ratio: float, floor: float
) -> None:
    # given any sequence of first attempts, failures and pauses
    redis_client.delete(keys.retry_budget(AGENT))
    clock = Clock()
    budget = RetryBudget(redis_client, clock)
    start_ms = clock.now_ms
    earned, made = [], []
    for first, failures, pause in steps:
        for number in range(failures):
            count = 0 if number else first
            wait = budget.withdraw(AGENT, first_attempts=count, ratio=ratio, floor=floor)
            earned.append((clock.now_ms, count * ratio))
            made.append(clock.now_ms + wait * 1000)
        clock.advance(pause)

    # then up to any moment, the retries made are at most what the page says
    for count, at_ms in enumerate(sorted(made), 1):
        allowed = max(1, 10 * floor) + sum(worth for when, worth in earned if when <= at_ms)
        allowed += (at_ms - start_ms) / 1000 * floor
        assert count <= allowed + 0.01


def take(url: str, number: int, now_ms: int) -> list[float]:
    with Redis.from_url(url) as client:
        budget = RetryBudget(client, lambda: now_ms)
        return [budget.withdraw(AGENT, first_attempts=0, ratio=RATIO, floor=FLOOR) for _ in range(number)]


@on_valkey
def test_no_two_processes_take_the_same_retry(redis_url: str) -> None:
    # given two processes that fail at one moment
    now_ms = Clock().now_ms
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        taken = [pool.submit(take, redis_url, 100, now_ms) for _ in range(2)]
        waits = sorted(wait for future in taken for wait in future.result())

    # then ten may go at once, and of the others each has a second of its own
    assert waits == pytest.approx([0.0] * 10 + [float(second) for second in range(1, 191)])
