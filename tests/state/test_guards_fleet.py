"""Guards under sixteen processes at once, by the server's own clock."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import random
import time
from typing import TYPE_CHECKING, Final, cast

import pytest
from redis import Redis

from orchestrator.resilience.breaker import Breaker
from orchestrator.resilience.limit import RateLimit
from orchestrator.state.guards import Admitted, Guards
from tests.servers import on_valkey

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.state.guards import Outcome

PROCESSES: Final = 16
LOG: Final = "log"
TURNS: Final = "turns"
PROBING: Final = Breaker(failures=2, cooldown=0.1, probes=3, closes=4)
OUTCOMES: Final[list[Outcome]] = ["neutral", "neutral", "neutral", "ok", "failed"]
PROBING_SECONDS: Final = 2.0
LIMIT: Final = RateLimit(requests=200, per=1.0)
LIMIT_SECONDS: Final = 3.6
TICK: Final = 0.01

# Each is a process of its own; it is forked from a server of clean ones that has imported this module once.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([__name__])


def probe(url: str, number: int) -> None:
    """Call a provider that mostly fails; note each probe's beginning, and its end before it is settled."""
    chance = random.Random(number)  # noqa: S311  repeatable
    guards = (PROBING.guard("model"),)
    with Redis.from_url(url) as client:
        store = Guards(client)
        until = time.monotonic() + PROBING_SECONDS
        calls = 0
        while time.monotonic() < until:
            calls += 1
            member = f"{number}-{calls}/step"
            found = store.admit("model", member, guards, tenant="t", hold_ms=60_000, wait=False)
            if not isinstance(found, Admitted):
                continue
            if found.probe:
                client.rpush(LOG, f"begins {member}")
            outcome = chance.choice(OUTCOMES) if found.probe else "failed"
            if found.probe:
                client.rpush(LOG, f"ends {member}")
            store.settle("model", member, guards, outcome=outcome)


def call(url: str, number: int) -> None:
    """Call as fast as the limit lets it; where it has to wait, go on with whatever member has its turn."""
    guards = (LIMIT.guard("model"),)
    with Redis.from_url(url) as client:
        store = Guards(client)
        until = time.monotonic() + LIMIT_SECONDS
        calls = 0
        while time.monotonic() < until:
            calls += 1
            member = f"{number}-{calls}/step"
            found = store.admit("model", member, guards, tenant=f"t{number % 3}", hold_ms=60_000, wait=True)
            while not isinstance(found, Admitted) and time.monotonic() < until:
                turn = client.blpop(TURNS, timeout=1)
                if turn is None:
                    break
                member = turn[1].decode()
                found = store.admit("model", member, guards, tenant="t", hold_ms=60_000, wait=True)
            if isinstance(found, Admitted):
                client.rpush(LOG, found.at_ms)
                store.settle("model", member, guards, outcome="ok")


def at_once(target: Callable[[str, int], None], url: str, meanwhile: Callable[[], None]) -> None:
    """Run sixteen processes to their end."""
    processes = [CONTEXT.Process(target=target, args=(url, number)) for number in range(PROCESSES)]
    for process in processes:
        process.start()
    waited_for = {process.sentinel for process in processes}
    while waited_for:
        waited_for -= set(multiprocessing.connection.wait(waited_for, TICK))
        meanwhile()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * PROCESSES


@on_valkey
@pytest.mark.integration
def test_sixteen_processes_never_have_more_probes_under_way_than_allowed(redis_client: Redis, redis_url: str) -> None:
    # given a breaker that opens and half-opens again and again, when sixteen processes call as fast as they can
    at_once(probe, redis_url, lambda: None)

    # then never more probes are under way in the whole fleet than are allowed, and often as many
    under_way, most, probes = 0, 0, 0
    for entry in cast("list[bytes]", redis_client.lrange(LOG, 0, -1)):
        begins = entry.startswith(b"begins")
        under_way += 1 if begins else -1
        probes += begins
        most = max(most, under_way)
    assert 1 < most <= PROBING.probes
    assert probes > 20
    assert [state.probes for state in Guards(redis_client).breakers()] == [0]


@on_valkey
@pytest.mark.integration
def test_sixteen_processes_use_a_limit_and_never_pass_it(redis_client: Redis, redis_url: str) -> None:
    # given a limit of 200 a second, when sixteen processes ask for more than that
    store = Guards(redis_client)

    def caretaker() -> None:
        for agent, priority in store.waiting():
            if granted := store.grant(agent, priority):
                redis_client.rpush(TURNS, *granted)

    at_once(call, redis_url, caretaker)

    # then no second holds more; and the call that three full seconds have no room for came soon after them
    calls = sorted(int(entry) for entry in redis_client.lrange(LOG, 0, -1))
    limit, per_ms = LIMIT.requests or 0, LIMIT.per * 1000
    crowded = [(first, later) for first, later in zip(calls, calls[limit:], strict=False) if later - first < per_ms]
    assert crowded == []
    # Counted in three seconds, three bursts would be all of it, however long the pauses between them.
    used = 3 * per_ms / (calls[3 * limit] - calls[0])
    assert used >= 0.95, used
