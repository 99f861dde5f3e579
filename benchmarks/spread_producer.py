"""The producer's side of the fan-out benchmark, in a process of its own so that its CPU can be told apart."""

from __future__ import annotations

import json
import sys
import time

from benchmarks.spread import narrow, plain_plan, spread
from orchestrator import Client

TIMEOUT = 280


def main() -> None:
    """Run one small fan-out, then `times` of `count` members; print the seconds and the CPU of one as JSON."""
    kind, count, times = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    client = Client()

    def run(members: int) -> None:
        if kind == "plain":
            given = plain_plan.delay(members).get(timeout=TIMEOUT)
        else:
            flow = narrow if kind == "narrow" else spread
            given = client.submit(flow, {"count": members}).result(timeout=TIMEOUT).count
        if given != members:
            raise SystemExit(f"{given} of {members}")

    run(10)
    print(json.dumps({"ready": True}), flush=True)
    sys.stdin.readline()
    before, started = time.process_time(), time.perf_counter()
    for _ in range(times):
        run(count)
    seconds, cpu = time.perf_counter() - started, time.process_time() - before
    print(json.dumps({"seconds": seconds / times, "cpu": cpu / times}), flush=True)


if __name__ == "__main__":
    main()
