"""
CPU and time of a message in a conversation of fifty members, each with all others, beside a plain Celery task.

Both have one prefork worker with two children. A message is an event of its run, a Celery message on the recipient's
queue, and a turn that is committed once; the plain task stores its result, as Celery does by default, and sends task
events in one of its sides, as ours does.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from typing import Any, Final

from benchmarks.measuring import Bench

LIMIT: Final = 300.0
SIDES: Final = (("plain", False), ("plain", True), ("ours", True))
NAMES: Final = {("plain", False): "plain task", ("plain", True): "plain with events", ("ours", True): "celeriac"}


@dataclass(frozen=True)
class Measured:
    """Per message: CPU in ms, Redis commands; messages, and seconds of all."""

    workers: float
    server: float
    producer: float
    commands: float
    count: int
    seconds: float

    @property
    def cpu(self) -> float:
        """All of it."""
        return self.workers + self.server + self.producer


def measure(kind: str, *, events: bool, count: int) -> Measured:
    """Run one side: a fresh server, one worker, a conversation of `count` messages or so many tasks."""
    plain = kind == "plain"
    app, queues = ("benchmarks.chatter:plain", "chatter-plain") if plain else ("orchestrator.app", "chatter.member")
    with Bench.fresh(plain=plain, agents="benchmarks.chatter") as bench:
        bench.start_worker(["-A", app, "worker", "-Q", queues, "-c", "2", *(["-E"] if events else [])])
        found, spent = bench.produce("benchmarks.chatter_producer", kind, count, limit=LIMIT)
    done = int(found["count"])
    return Measured(
        workers=spent.worker / done * 1000,
        server=spent.server / done * 1000,
        producer=found["cpu"] / done * 1000,
        commands=spent.commands / done,
        count=done,
        seconds=found["seconds"],
    )


def main(*, count: int, rounds: int) -> dict[str, Any]:
    """
    Measure every side `rounds` times in turn; keep each one's round of least CPU.

    Args:
        count: messages, about.
        rounds: of each.

    Returns:
        The figures and the ratios, for JSON.
    """
    best: dict[tuple[str, bool], Measured] = {}
    for _ in range(rounds):
        for kind, events in SIDES:
            one = measure(kind, events=events, count=count)
            if (kind, events) not in best or one.cpu < best[kind, events].cpu:
                best[kind, events] = one
            print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    ours, plain, seen = best["ours", True], best["plain", False], best["plain", True]
    return {
        "sides": {NAMES[side]: asdict(one) | {"cpu": one.cpu} for side, one in best.items()},
        "ratios": {
            "cpu to plain": ours.cpu / plain.cpu,
            "cpu to plain with events": ours.cpu / seen.cpu,
            "time to plain": (ours.seconds / ours.count) / (plain.seconds / plain.count),
            "time to plain with events": (ours.seconds / ours.count) / (seen.seconds / seen.count),
        },
    }


def show(found: dict[str, Any]) -> None:
    """Print a table."""
    print("Messages between fifty members: milliseconds of CPU per message")
    print(f"{'':20}{'messages':>9}{'workers':>9}{'server':>9}{'producer':>9}{'all':>9}{'seconds':>9}{'commands':>10}")
    for name, row in found["sides"].items():
        print(
            f"{name:20}{row['count']:9}{row['workers']:9.2f}{row['server']:9.2f}{row['producer']:9.2f}{row['cpu']:9.2f}"
            f"{row['seconds']:9.2f}{row['commands']:10.1f}"
        )
    for name, ratio in found["ratios"].items():
        print(f"{name:26} {ratio:.2f}")
