"""What is measured: agents and plain Celery tasks that wait, and count how many of them wait at once."""

from __future__ import annotations

import asyncio
import os
import statistics
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from celery import Celery
from pydantic import BaseModel

from orchestrator import Pipeline, agent

if TYPE_CHECKING:
    from collections.abc import Sequence

SPARE = 100
"""Connections beyond the number of tasks at once."""


class Order(BaseModel):
    """Wait until so many tasks have begun, then for some seconds."""

    seconds: float = 1.0
    begun: int = 0


class Seen(BaseModel):
    """The most tasks of the worker that waited at once, and its resident MiB when all that were awaited had begun."""

    peak: int
    resident: float


class Lag(BaseModel):
    """By how much an agent was woken too late, in milliseconds; how many agents waited beside it, on average."""

    p50: float
    p99: float
    max: float
    beside: float


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """Return the median, the 99th percentile and the maximum."""
    ordered = sorted(values)
    return {"p50": ordered[len(ordered) // 2], "p99": ordered[len(ordered) * 99 // 100], "max": ordered[-1]}


class _Waiting:
    """Counts the tasks of this process that wait."""

    def __init__(self) -> None:
        self.now = self.peak = self._begun = 0
        self._resident = 0.0
        self.in_loop = asyncio.Event()
        self.in_threads = threading.Event()  # a gevent pool makes it one of greenlets
        self._lock = threading.Lock()

    def begin(self, awaited: int) -> None:
        """Count one in; with the last that is awaited all may go on."""
        with self._lock:
            self._begun += 1
            self.now += 1
            self.peak = max(self.peak, self.now)
            if awaited and self._begun >= awaited:
                self._resident = _resident()
                self.in_loop.set()
                self.in_threads.set()

    def end(self) -> None:
        """Count one out."""
        with self._lock:
            self.now -= 1

    def seen(self) -> Seen:
        """Tell, and count from here on: a producer's first task only finds out whether the worker is there."""
        with self._lock:
            found = Seen(peak=self.peak, resident=self._resident)
            self._begun = self.peak = 0
            return found


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


_waiting = _Waiting()


@agent("bench.wait")
async def wait(order: Order) -> Order:
    """Wait."""
    _waiting.begin(order.begun)
    try:
        if order.begun:
            await _waiting.in_loop.wait()
        await asyncio.sleep(order.seconds)
    finally:
        _waiting.end()
    return order


@agent("bench.seen")
async def seen(_: Order) -> Seen:
    """Tell what was seen since this was last asked."""
    return _waiting.seen()


@agent("bench.lag")
async def lag(order: Order) -> Lag:
    """Sleep for 10 ms again and again, and note by how much it was longer."""
    late: list[float] = []
    beside: list[int] = []
    until = time.monotonic() + order.seconds
    while time.monotonic() < until:
        before = time.perf_counter()
        await asyncio.sleep(0.01)
        late.append((time.perf_counter() - before - 0.01) * 1000)
        beside.append(_waiting.now)
    return Lag(**percentiles(late), beside=statistics.fmean(beside))


AGENTS = ("bench.wait", "bench.seen", "bench.lag")

waiting = Pipeline("bench.waiting", [wait])
seeing = Pipeline("bench.seeing", [seen])
lagging = Pipeline("bench.lagging", [lag])

_URL = os.environ.get("BENCH_URL", "redis://127.0.0.1:6379/0")
_CONNECTIONS = int(os.environ.get("BENCH_CONCURRENCY", "100")) + SPARE

plain = Celery("plain", set_as_current=False)
plain.conf.update(
    broker_url=_URL,
    result_backend=_URL,
    broker_connection_retry_on_startup=True,
    task_default_queue="plain",
    # Celery's and redis-py's own limits, 10 and 100, cost a pool of thousands acknowledgements and results.
    broker_pool_limit=_CONNECTIONS,
    broker_transport_options={"max_connections": _CONNECTIONS},
    redis_max_connections=_CONNECTIONS,
    # Without it each thread and greenlet makes a result backend of its own, and thereby half of a worker's CPU time.
    result_backend_thread_safe=os.environ.get("BENCH_SHARED_BACKEND") == "1",
)


def _plain_wait(seconds: float, begun: int) -> float:
    _waiting.begin(begun)
    try:
        if begun:
            _waiting.in_threads.wait()
        time.sleep(seconds)
    finally:
        _waiting.end()
    return seconds


def _plain_seen() -> dict[str, float]:
    return _waiting.seen().model_dump()


plain_wait = plain.task(name="plain.wait")(_plain_wait)
plain_seen = plain.task(name="plain.seen")(_plain_seen)
