"""
CPU, time and bytes of a fan-out of assignments that do nothing, beside a plain Celery chord with its result backend.

Both have one prefork worker with two children on all queues. The plain chord is sent by a task that replaces itself by
it, as ours is by the boss's step; it runs as Celery is by default and with task events. Ours runs as it is configured
for production, once with room for all members and once with the default width.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from benchmarks.measuring import Bench

if TYPE_CHECKING:
    from redis import Redis

LIMIT: Final = 300.0
SIZES: Final = (100, 1000, 5000)
LEAST: Final = 2000  # members in all of a measurement: a small fan-out ends too soon to be measured alone
SIDES: Final = (("plain", False), ("plain", True), ("ours", True), ("narrow", True))
NAMES: Final = {
    ("plain", False): "plain",
    ("plain", True): "plain with events",
    ("ours", True): "celeriac",
    ("narrow", True): "celeriac, width 100",
}


@dataclass(frozen=True)
class Measured:
    """Per member: CPU in ms, Redis commands, KiB that the server received and keeps as results; seconds of one."""

    workers: float
    server: float
    producer: float
    seconds: float
    commands: float
    received: float
    kept: float

    @property
    def cpu(self) -> float:
        """All of it."""
        return self.workers + self.server + self.producer


def measure(kind: str, *, events: bool, count: int) -> Measured:
    """Run one side: a fresh server, one worker, fan-outs of `count` members one after another."""
    times = max(LEAST // count, 1)
    plain = kind == "plain"
    app, queues = (
        ("benchmarks.spread:plain", "spread-plain")
        if plain
        else (
            "orchestrator.app",
            "spread.plan,spread.work,spread.total",
        )
    )
    with Bench.fresh(plain=plain, agents="benchmarks.spread") as bench:
        bench.start_worker(["-A", app, "worker", "-Q", queues, "-c", "2", *(["-E"] if events else [])])
        client: Redis = bench.server.client()
        client.config_resetstat()
        found, spent = bench.produce("benchmarks.spread_producer", kind, count, times, limit=LIMIT)
        received = int(client.info("stats")["total_net_input_bytes"])
        results = sum(int(client.memory_usage(key) or 0) for key in client.scan_iter("celery-task-meta-*", count=1000))
    members = count * times
    return Measured(
        workers=spent.worker / members * 1000,
        server=spent.server / members * 1000,
        producer=found["cpu"] / count * 1000,
        seconds=found["seconds"],
        commands=spent.commands / members,
        received=received / members / 1024,
        kept=results / members / 1024,
    )


def main(*, count: int, rounds: int) -> dict[str, Any]:
    """
    Measure every side and size `rounds` times in turn; keep each one's round of least CPU.

    Args:
        count: the largest size; smaller ones of SIZES are measured too.
        rounds: of each.

    Returns:
        The figures and the ratios, for JSON.
    """
    sizes = sorted({min(size, count) for size in SIZES})
    found: dict[str, Any] = {"sizes": {}}
    for size in sizes:
        best: dict[tuple[str, bool], Measured] = {}
        for _ in range(rounds):
            for kind, events in SIDES:
                one = measure(kind, events=events, count=size)
                if (kind, events) not in best or one.cpu < best[kind, events].cpu:
                    best[kind, events] = one
                print(".", end="", file=sys.stderr, flush=True)
        ours, plain, seen = best["ours", True], best["plain", False], best["plain", True]
        found["sizes"][size] = {
            "sides": {NAMES[side]: asdict(one) | {"cpu": one.cpu} for side, one in best.items()},
            "ratios": {
                "cpu to plain": ours.cpu / plain.cpu,
                "cpu to plain with events": ours.cpu / seen.cpu,
                "time to plain": ours.seconds / plain.seconds,
                "time to plain with events": ours.seconds / seen.seconds,
            },
        }
    print(file=sys.stderr)
    return found


def show(found: dict[str, Any]) -> None:
    """Print a table for each size."""
    for size, one in found["sizes"].items():
        print(f"Fan-out of {size} assignments: milliseconds of CPU per assignment, KiB per assignment")
        print(
            f"{'':22}{'workers':>9}{'server':>9}{'producer':>9}{'all':>9}{'seconds':>9}{'commands':>10}"
            f"{'received':>10}{'results':>9}"
        )
        for name, row in one["sides"].items():
            print(
                f"{name:22}{row['workers']:9.2f}{row['server']:9.2f}{row['producer']:9.2f}{row['cpu']:9.2f}"
                f"{row['seconds']:9.2f}{row['commands']:10.1f}{row['received']:10.2f}{row['kept']:9.2f}"
            )
        for name, ratio in one["ratios"].items():
            print(f"{name:26} {ratio:.2f}")
