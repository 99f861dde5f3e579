"""
What guards cost a step: CPU of the worker and of the server, of an agent behind guards and of the same agent bare.

The guards let everything through: a closed breaker, a rate limit of requests and tokens whose estimate is corrected at
the call's end, a limit of calls at a time in all and by tenant; each alone, and all together. No agent has a retry or a
fallback. On each pool one worker has all of these agents, and batches of runs go through it in turn: what else the
machine does meanwhile disturbs all of them alike. Of each agent's batches the quarter of least CPU counts, which was
disturbed least.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections import defaultdict, deque
from dataclasses import asdict, astuple, dataclass
from typing import Any, Final

from pydantic import SecretStr

from benchmarks.guarded import FLOWS, STEPS
from benchmarks.measuring import Bench
from benchmarks.producer import INPUT
from orchestrator import Client, Settings
from orchestrator.cli.fleet import CUSTOM_POOL

AIM: Final = 0.3
"""Milliseconds of CPU a step that all guards together may cost, at most."""
BATCHES: Final = 16
TIMEOUT: Final = 120.0
POOLS: Final = {"asyncio": ("custom", 50), "prefork": ("prefork", 1)}
"""
What Celery calls each pool, and the worker's concurrency.

One child: with more, on two cores, it is measured how processes disturb each other's caches more than what they do.
"""


@dataclass(frozen=True)
class Measured:
    """One batch: milliseconds of CPU and Redis commands by step; steps per second."""

    workers: float
    server: float
    commands: float
    rate: float

    @property
    def cpu(self) -> float:
        """All of it; the producer does the same whatever the guards."""
        return self.workers + self.server


def _run(client: Client, name: str, count: int) -> None:
    for run in client.submit_many(FLOWS[name], [INPUT] * count):
        if run.result(timeout=TIMEOUT).seen != STEPS:
            raise SystemExit("a step is missing")


def measure(pool: str, count: int, batches: int) -> dict[str, list[Measured]]:
    """
    Send batches of every flow through one worker, in turn.

    Args:
        pool: a key of `POOLS`.
        count: runs of each flow, in so many batches.
    """
    kind, concurrency = POOLS[pool]
    found: dict[str, list[Measured]] = defaultdict(list)
    with Bench.fresh(plain=False, agents="benchmarks.guarded") as bench:
        queues = ",".join(f"bench.{name}" for name in FLOWS)
        arguments = ["-A", "orchestrator.app", "worker", "-Q", queues, "-P", kind, "-c", str(concurrency)]
        bench.start_worker(arguments, CUSTOM_POOL)
        client = Client(Settings(redis_url=SecretStr(bench.url), agents=("benchmarks.guarded",)))
        for name in FLOWS:
            _run(client, name, count // batches)  # connections, scripts, and what a process makes at its first step
        names = deque(FLOWS)
        for _ in range(batches):
            for name in names:
                found[name].append(_measure_batch(bench, client, name, count // batches))
            names.rotate()  # none comes always after the same other one, whose last calls may still be settled
            print(".", end="", file=sys.stderr, flush=True)
        client.app.close()
        client.store.client.close()
    return found


def _measure_batch(bench: Bench, client: Client, name: str, count: int) -> Measured:
    before, started = bench.spent(), time.perf_counter()
    _run(client, name, count)
    seconds, spent, steps = time.perf_counter() - started, bench.spent().since(before), count * STEPS
    return Measured(
        workers=spent.worker / steps * 1000,
        server=spent.server / steps * 1000,
        commands=spent.commands / steps,
        rate=steps / seconds,
    )


def main(*, count: int, rounds: int) -> dict[str, Any]:
    """
    Measure every pool `rounds` times.

    Args:
        count: runs of each flow in a round.

    Returns:
        The figures by pool, for JSON; `more`: CPU beyond the bare agent's.
    """
    found: dict[str, Any] = {"count": count, "steps": STEPS, "pools": {}}
    for pool in POOLS:
        batches: dict[str, list[Measured]] = defaultdict(list)
        for _ in range(rounds):
            for name, measured in measure(pool, count, BATCHES).items():
                batches[name] += measured
        found["pools"][pool] = _beside_bare(batches)
    print(file=sys.stderr)
    return found


def _beside_bare(batches: dict[str, list[Measured]]) -> dict[str, dict[str, float]]:
    means = {name: _mean(sorted(measured, key=lambda one: one.cpu)) for name, measured in batches.items()}
    bare = means["bare"]
    return {
        name: asdict(mean) | {"cpu": mean.cpu, "more": mean.cpu - bare.cpu, "ratio": mean.cpu / bare.cpu}
        for name, mean in means.items()
    }


def _mean(ordered: list[Measured]) -> Measured:
    """Return the mean of the first quarter."""
    first = ordered[: max(1, len(ordered) // 4)]
    return Measured(*(statistics.fmean(values) for values in zip(*map(astuple, first), strict=True)))


def show(found: dict[str, Any]) -> None:
    """Print the tables."""
    for pool, rows in found["pools"].items():
        print(f"{pool}: {found['count']:,} runs of {found['steps']} steps: milliseconds of CPU per step")
        print(f"{'':14}{'workers':>9}{'server':>9}{'both':>9}{'more':>9}{'ratio':>8}{'commands':>10}{'steps/s':>9}")
        for name, row in rows.items():
            print(
                f"{name:14}{row['workers']:9.3f}{row['server']:9.3f}{row['cpu']:9.3f}{row['more']:9.3f}"
                f"{row['ratio']:8.2f}{row['commands']:10.1f}{row['rate']:9.0f}"
            )
        print(f"(aim: all together at most {AIM} ms more)\n")
