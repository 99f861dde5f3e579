"""The producer of waiting tasks, in a process of its own so that its CPU can be told apart."""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from functools import cache
from typing import TYPE_CHECKING

from celery.result import ResultSet

from benchmarks.waiters import lagging, plain, plain_seen, plain_wait, seeing, waiting
from orchestrator import Client

if TYPE_CHECKING:
    from benchmarks.waiters import Seen
    from orchestrator import Run

TIMEOUT = 600.0
"""Seconds for a result; the measurement has its own limit, which ends this process."""

BATCH = 50
LEAD = 0.25
"""Runs that a closed loop keeps in the queue, as a share of those in flight: so that no slot is ever empty."""


@cache
def _client() -> Client:
    return Client()


def _ours(count: int, begun: int) -> None:
    runs = _client().submit_many(waiting, [{"begun": begun}] * count)
    for run in runs:
        run.result(timeout=TIMEOUT)


def _plain(count: int, begun: int) -> None:
    # The fastest of what Celery offers: batches of messages, and results as they come, not one after another.
    with plain.producer_or_acquire() as producer, producer.batch():
        results = [plain_wait.apply_async((1.0, begun), producer=producer) for _ in range(count)]
    ResultSet(results, app=plain).join_native(timeout=TIMEOUT)


def _ours_seen() -> dict[str, float]:
    seen: Seen = _client().submit(seeing, {}).result(timeout=TIMEOUT)
    return seen.model_dump()


def _plain_seen() -> dict[str, float]:
    seen: dict[str, float] = plain_seen.apply_async().get(timeout=TIMEOUT)
    return seen


def together(kind: str, count: int, begun: int) -> dict[str, float]:
    """Run `count` tasks at once."""
    work, seen = {"ours": (_ours, _ours_seen), "plain": (_plain, _plain_seen)}[kind]
    work(1, 0)
    seen()
    _ready()
    cpu, started = time.process_time(), time.perf_counter()
    work(count, begun)
    return {"seconds": time.perf_counter() - started, "cpu": time.process_time() - cpu, **seen()}


def closed_loop(in_flight: int, seconds: float, wait: float) -> dict[str, float]:
    """Keep the worker's slots full for some seconds: what has ended is followed by as much anew."""
    client = _client()
    _ours(1, 0)
    _ready()
    cpu, started = time.process_time(), time.perf_counter()
    runs: deque[Run] = deque()

    def more(number: int) -> None:
        runs.extend(client.submit_many(waiting, [{"seconds": wait}] * number))

    def turn() -> None:
        for _ in range(BATCH):
            runs.popleft().result(timeout=TIMEOUT)
        more(BATCH)

    more(int(in_flight * (1 + LEAD)))
    for _ in range(in_flight // BATCH):  # all slots are full, and each has been so with an agent that came later
        turn()
    probe = client.submit(lagging, {"seconds": seconds})
    done, before = 0, time.perf_counter()
    while not probe.state().finished:
        turn()
        done += BATCH
    rate = done / (time.perf_counter() - before)
    (stats,) = (client.app.control.inspect(timeout=5.0).stats() or {}).values()
    while runs:
        runs.popleft().result(timeout=TIMEOUT)
    told = {name: stats["pool"][f"loop-lag-{name}-ms"] for name in ("p50", "p99", "max")}
    return {
        "seconds": time.perf_counter() - started,
        "cpu": time.process_time() - cpu,
        "rate": rate,
        **probe.result().model_dump(),
        **{f"worker {name}": late for name, late in told.items()},
    }


def _ready() -> None:
    print(json.dumps({"ready": True}), flush=True)
    sys.stdin.readline()


def main() -> None:
    """`together KIND COUNT BEGUN`, or `lag IN_FLIGHT SECONDS WAIT`: measure and print as JSON."""
    what, *rest = sys.argv[1:]
    if what == "together":
        found = together(rest[0], int(rest[1]), int(rest[2]))
    else:
        found = closed_loop(int(rest[0]), float(rest[1]), float(rest[2]))
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
