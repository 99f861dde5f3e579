"""
Thousands of tasks that wait in one worker: agents on the asyncio pool beside plain Celery on gevent and on threads.

Each task waits 1.0 s. One producer submits all of them and gets all results; the time runs from its first message to
its last result. Ours are full runs, from `Client.submit_many` to `Run.result`, with the log, leases and fenced commits
and with task events for Flower. Plain Celery stores results in Redis and sends no events; its producer publishes in
batches and takes results as they come (`ResultSet.join_native`), the fastest that Celery offers. Its pools of
connections are enlarged to the concurrency, and it runs twice: with `result_backend_thread_safe`, which is fastest, and
without, which is its default. Ratios are to the faster pool of the former.

Measured beside that:

- all at once: tasks that wait until all have begun, and then 1.0 s, for the memory of so many in flight;
- the loop's lag: a closed loop keeps 1,000 slots full with agents that wait 1.0 s, and one more agent sleeps 10 ms
  again and again and notes by how much it was longer; beside it what the worker itself says in `inspect stats`, and
  how late a process that does nothing is woken on this machine meanwhile.

A side that fails or takes too long is printed as n/a, with the reason.
"""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, Self

from benchmarks.measuring import Bench, NotMeasured
from benchmarks.waiters import AGENTS, percentiles
from orchestrator.cli.fleet import CUSTOM_POOL

AIM: Final = 1.3
"""How many times faster than the better plain pool, at least."""
AIM_MEMORY: Final = 400
"""MiB that the worker may have resident with 10,000 in flight."""
AIM_LAG: Final = 50
"""Milliseconds that an agent may be woken too late, at the 99th percentile."""

START_LIMIT: Final = 30.0
PER_TASK: Final = 0.015
"""Seconds for a task, above which a side is given up."""

IN_FLIGHT: Final = 1000
LAG_SECONDS: Final = 20.0


@dataclass(frozen=True)
class Side:
    """Whose tasks, on which of Celery's pools; `shared`: one result backend for all threads or greenlets."""

    name: str
    kind: Literal["ours", "plain"]
    pool: str
    shared: bool = True


OURS: Final = Side("celeriac", "ours", "custom")
PLAIN: Final = (Side("gevent", "plain", "gevent"), Side("threads", "plain", "threads"))
DEFAULT: Final = (
    Side("gevent, by default", "plain", "gevent", shared=False),
    Side("threads, by default", "plain", "threads", shared=False),
)


@dataclass(frozen=True)
class Measured:
    """
    Seconds in all; CPU in milliseconds and Redis commands per task; the most tasks that waited at once.

    `resident` is the worker's memory in MiB when all had begun, where they wait for that; `memory` its peak.
    """

    seconds: float
    worker: float
    server: float
    producer: float
    peak: int
    resident: float
    memory: float
    commands: float
    errors: int

    @property
    def cpu(self) -> float:
        """All of it."""
        return self.worker + self.server + self.producer


class Machine:
    """How late this machine wakes a thread that sleeps 10 ms, in a process that does nothing else."""

    def __init__(self) -> None:
        self._late: list[float] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        """Begin to watch."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.is_set():
            before = time.perf_counter()
            time.sleep(0.01)
            self._late.append((time.perf_counter() - before - 0.01) * 1000)

    def late(self) -> dict[str, float]:
        """Return the median, the 99th percentile and the maximum in milliseconds."""
        return percentiles(self._late)


def _start(bench: Bench, side: Side, concurrency: int) -> dict[str, str]:
    if side.kind == "ours":
        app, queues = "orchestrator.app", ",".join(AGENTS)
        extra = dict(CUSTOM_POOL)
    else:
        app, queues = "benchmarks.waiters:plain", "plain"
        extra = {"BENCH_CONCURRENCY": str(concurrency), "BENCH_SHARED_BACKEND": str(int(side.shared))}
    bench.start_worker(["-A", app, "worker", "-Q", queues, "-P", side.pool, "-c", str(concurrency)], extra)
    return extra


def measure(side: Side, count: int, *, all_at_once: bool = False) -> Measured:
    """
    Run one side: a fresh server, one worker with a slot for each task, one producer.

    Raises:
        NotMeasured: it failed, or took too long.
    """
    limit = START_LIMIT + count * PER_TASK
    with Bench.fresh(plain=side.kind == "plain", agents="benchmarks.waiters") as bench:
        extra = _start(bench, side, count)
        begun = count if all_at_once else 0
        arguments = ("together", side.kind, count, begun)
        found, spent = bench.produce("benchmarks.waiting_producer", *arguments, limit=limit, extra=extra)
        return Measured(
            seconds=found["seconds"],
            worker=spent.worker / count * 1000,
            server=spent.server / count * 1000,
            producer=found["cpu"] / count * 1000,
            peak=int(found["peak"]),
            resident=found["resident"],
            memory=bench.peak_memory(),
            commands=spent.commands / count,
            errors=len(bench.errors()),
        )


def measure_lag(wait: float) -> dict[str, float]:
    """Keep an asyncio pool's slots full, and see how late its loop is."""
    with Bench.fresh(plain=False, agents="benchmarks.waiters") as bench:
        extra = _start(bench, OURS, IN_FLIGHT + 1)
        limit = START_LIMIT + LAG_SECONDS + 10 * (wait + IN_FLIGHT * PER_TASK)
        arguments = ("lag", IN_FLIGHT, LAG_SECONDS, wait)
        with Machine() as machine:
            found, _ = bench.produce("benchmarks.waiting_producer", *arguments, limit=limit, extra=extra)
        beside = {f"machine {name}": late for name, late in machine.late().items()}
        return found | beside | {"memory": bench.peak_memory()}


Rows = dict[str, Measured | str]


def _keep(rows: Rows, side: Side, count: int, *, all_at_once: bool = False) -> None:
    """Measure once more; keep each side's fastest, which other load disturbed least."""
    best = rows.get(side.name)
    if isinstance(best, str):
        return  # what failed once, or took too long, is not tried again
    try:
        found = measure(side, count, all_at_once=all_at_once)
    except NotMeasured as error:
        rows[side.name] = best or f"n/a ({error})"
    else:
        if best is None or found.seconds < best.seconds:
            rows[side.name] = found
    print(".", end="", file=sys.stderr, flush=True)


def main(*, count: int, rounds: int, wait: float) -> dict[str, Any]:
    """
    Measure everything, the sides in turn.

    Args:
        count: tasks at once.
        rounds: of every side, but one of those that are only shown.
        wait: seconds that agents wait where the lag is measured.

    Returns:
        The figures and the ratios, for JSON.
    """
    rows: Rows = {}
    at_once: Rows = {}
    for number in range(rounds):
        for side in (OURS, *PLAIN, *(DEFAULT if number == 0 else ())):
            _keep(rows, side, count)
    for side in (OURS, *PLAIN):
        _keep(at_once, side, count, all_at_once=True)
    try:
        lag: dict[str, float] | str = measure_lag(wait)
    except NotMeasured as error:
        lag = f"n/a ({error})"
    print(file=sys.stderr)
    return {
        "count": count,
        "one second": {name: _figures(row) for name, row in rows.items()},
        "all at once": {name: _figures(row) for name, row in at_once.items()},
        "lag": lag,
        "ratios": _ratios(rows),
    }


def _figures(row: Measured | str) -> dict[str, float] | str:
    return row if isinstance(row, str) else asdict(row) | {"cpu": row.cpu}


def _ratios(rows: Rows) -> dict[str, float]:
    ours = rows[OURS.name]
    if isinstance(ours, str):
        return {}
    ratios: dict[str, float] = {}
    for what, sides in (("the better plain pool", PLAIN), ("the better plain pool by default", DEFAULT)):
        plain = [row for side in sides if isinstance(row := rows[side.name], Measured)]
        if plain:
            best = min(plain, key=lambda row: row.seconds)
            ratios[f"times faster than {what}"] = best.seconds / ours.seconds
            ratios[f"CPU to {what}"] = ours.cpu / best.cpu
    return ratios


def show(found: dict[str, Any]) -> None:
    """Print the tables."""
    count = found["count"]
    _table(f"{count:,} tasks that each wait 1.0 s, one worker", found["one second"])
    for name, ratio in found["ratios"].items():
        aim = f"  (aim: at least {AIM})" if name == "times faster than the better plain pool" else ""
        print(f"{name:50} {ratio:5.2f}{aim}")
    print()
    _table(f"{count:,} tasks that wait until all have begun, and 1.0 s more", found["all at once"])
    print(f"(aim: under {AIM_MEMORY} MiB at 10,000)\n")
    lag = found["lag"]
    print(f"Lag of the loop with {IN_FLIGHT:,} slots full for {LAG_SECONDS:g} s, in milliseconds")
    if isinstance(lag, str):
        print(lag)
        return
    print(f"{'':22}{'p50':>9}{'p99':>9}{'max':>9}")
    for name, of in (("as an agent sees it", ""), ("in inspect stats", "worker "), ("in an idle process", "machine ")):
        late = "".join(f"{lag[of + which]:9.1f}" for which in ("p50", "p99", "max"))
        print(f"{name:22}{late}{'' if of else f'  (aim: p99 under {AIM_LAG})'}")
    print(f"{lag['rate']:.0f} runs/s, {lag['beside']:.0f} agents waiting on average, {lag['memory']:.0f} MiB")


def _table(title: str, rows: dict[str, dict[str, float] | str]) -> None:
    print(f"{title}: milliseconds of CPU per task")
    print(
        f"{'':22}{'worker':>9}{'server':>9}{'producer':>9}{'all':>9}{'seconds':>10}{'in flight':>11}"
        f"{'MiB then':>10}{'peak MiB':>10}{'commands':>10}{'errors':>8}"
    )
    for name, row in rows.items():
        if isinstance(row, str):
            print(f"{name:22}  {row}")
            continue
        then = f"{row['resident']:.0f}" if row["resident"] else ""
        print(
            f"{name:22}{row['worker']:9.2f}{row['server']:9.2f}{row['producer']:9.2f}{row['cpu']:9.2f}"
            f"{row['seconds']:10.2f}{row['peak']:11,.0f}{then:>10}"
            f"{row['memory']:10.0f}{row['commands']:10.1f}{row['errors']:8.0f}"
        )
