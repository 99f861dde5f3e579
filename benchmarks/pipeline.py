"""
CPU per stage and latency of a five-stage pipeline, beside a plain Celery chain with its default result backend.

Ours runs as it is configured for production: task events for Flower, the log, leases and fenced commits included. The
plain chain runs twice: as Celery is by default (no task events), and with task events, as anyone who looks at Flower
has it.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.flows import STAGES
from benchmarks.measuring import Bench

LIMIT = 300.0


@dataclass(frozen=True)
class Measured:
    """CPU in milliseconds per stage; latency in milliseconds per pipeline; Redis commands per stage."""

    workers: float
    server: float
    producer: float
    latency: float
    rate: float
    commands: float

    @property
    def cpu(self) -> float:
        """All of it."""
        return self.workers + self.server + self.producer


def measure(kind: str, *, events: bool, count: int, single: int) -> Measured:
    """
    Run one side: a fresh server, one prefork worker with two children on all five queues, one producer.

    Args:
        kind: `ours` or `plain`.
        events: whether the worker sends task events, as Flower needs them.
        count: pipelines at once; `single`: one after another, for the latency.
    """
    app = "orchestrator.app" if kind == "ours" else "benchmarks.flows:plain"
    queues = ",".join(f"{'bench' if kind == 'ours' else 'plain'}.{name}" for name in STAGES)
    with Bench.fresh(plain=kind == "plain", agents="benchmarks.flows") as bench:
        bench.start_worker(["-A", app, "worker", "-Q", queues, "-c", "2", *(["-E"] if events else [])])
        found, spent = bench.produce("benchmarks.producer", kind, count, single, limit=LIMIT)
    stages = (count + single) * len(STAGES)
    return Measured(
        workers=spent.worker / stages * 1000,
        server=spent.server / stages * 1000,
        producer=found["cpu"] / (count * len(STAGES)) * 1000,
        latency=found["latency"] * 1000,
        rate=count * len(STAGES) / found["seconds"],
        commands=spent.commands / stages,
    )


SIDES = (("plain", False), ("plain", True), ("ours", True))


def main(*, count: int, single: int, rounds: int) -> dict[str, Any]:
    """
    Measure every side `rounds` times in turn; keep each one's round of least CPU, which other load disturbed least.

    Returns:
        The figures and the ratios, for JSON.
    """
    best: dict[tuple[str, bool], Measured] = {}
    for _ in range(rounds):
        for kind, events in SIDES:
            found = measure(kind, events=events, count=count, single=single)
            if (kind, events) not in best or found.cpu < best[kind, events].cpu:
                best[kind, events] = found
            print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    ours, plain, seen = best["ours", True], best["plain", False], best["plain", True]
    return {
        "stages": count * len(STAGES),
        "plain": asdict(plain) | {"cpu": plain.cpu},
        "plain with events": asdict(seen) | {"cpu": seen.cpu},
        "celeriac": asdict(ours) | {"cpu": ours.cpu},
        "ratios": {
            "cpu to plain": ours.cpu / plain.cpu,
            "cpu to plain with events": ours.cpu / seen.cpu,
            "latency to plain": ours.latency / plain.latency,
            "rate to plain": ours.rate / plain.rate,
        },
    }


def show(found: dict[str, Any]) -> None:
    """Print the table."""
    print(f"Pipeline of 5 stages, {found['stages']} stages: milliseconds of CPU per stage")
    print(f"{'':20}{'workers':>9}{'server':>9}{'producer':>9}{'all':>9}{'latency':>11}{'stages/s':>10}{'commands':>10}")
    for side in ("plain", "plain with events", "celeriac"):
        row = found[side]
        print(
            f"{side:20}{row['workers']:9.2f}{row['server']:9.2f}{row['producer']:9.2f}{row['cpu']:9.2f}"
            f"{row['latency']:9.1f}ms{row['rate']:10.0f}{row['commands']:10.1f}"
        )
    for name, ratio in found["ratios"].items():
        print(f"{name:26} {ratio:.2f}")
