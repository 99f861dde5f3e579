"""The producer's side of a measurement, in a process of its own so that its CPU can be told apart."""

from __future__ import annotations

import json
import statistics
import sys
import time
from functools import cache
from typing import TYPE_CHECKING

from celery import chain

from benchmarks.flows import STAGES, pipeline, plain
from orchestrator import Client

if TYPE_CHECKING:
    from celery.result import AsyncResult

INPUT = {"text": "x" * 500, "seen": 0}


@cache
def _client() -> Client:
    return Client()


def _ours(count: int) -> float:
    client = _client()
    started = time.perf_counter()
    runs = [client.submit(pipeline, INPUT) for _ in range(count)]
    for run in runs:
        if run.result(timeout=120).seen != len(STAGES):
            raise SystemExit("a stage is missing")
    return time.perf_counter() - started


def _plain(count: int) -> float:
    def submit() -> AsyncResult:
        first, *rest = (plain.tasks[f"plain.{name}"] for name in STAGES)
        return chain(first.s(INPUT), *(task.s() for task in rest)).apply_async()

    started = time.perf_counter()
    results = [submit() for _ in range(count)]
    for result in results:
        if result.get(timeout=120)["seen"] != len(STAGES):
            raise SystemExit("a stage is missing")
    return time.perf_counter() - started


def main() -> None:
    """Run `count` pipelines at once, then `single` one after another; print seconds and CPU as JSON."""
    kind, count, single = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    run = {"ours": _ours, "plain": _plain}[kind]
    run(1)
    print(json.dumps({"ready": True}), flush=True)
    sys.stdin.readline()
    before = time.process_time()
    together = run(count)
    cpu = time.process_time() - before
    latency = statistics.median(run(1) for _ in range(single)) if single else 0.0
    print(json.dumps({"seconds": together, "cpu": cpu, "latency": latency}), flush=True)


if __name__ == "__main__":
    main()
