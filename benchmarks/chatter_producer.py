"""The producer's side of the benchmark of conversations, in a process of its own so that its CPU can be told apart."""

from __future__ import annotations

import json
import sys
import time

from celery.result import ResultSet

from benchmarks.chatter import MEMBERS, nothing
from orchestrator import Client

TIMEOUT = 280


def main() -> None:
    """Run a conversation of some messages, or so many tasks; print how many, the seconds and the CPU as JSON."""
    kind, messages = sys.argv[1], int(sys.argv[2])
    each = MEMBERS * (MEMBERS - 1)
    client = Client()

    def run(answers: int) -> int:
        if kind == "plain":
            count = each * (answers + 1)
            ResultSet([nothing.delay(number) for number in range(count)]).join(timeout=TIMEOUT)
            return count
        result = client.submit("chatter", {"answers": answers}).result(timeout=TIMEOUT)
        if result.outcome != "quiet" or result.turns != MEMBERS + each * (answers + 1):
            raise SystemExit(f"{result.outcome} after {result.turns} turns")
        return int(result.turns)

    nothing.delay(0).get(timeout=TIMEOUT) if kind == "plain" else run(0)
    print(json.dumps({"ready": True}), flush=True)
    sys.stdin.readline()
    before, started = time.process_time(), time.perf_counter()
    count = run(max(messages // each - 1, 0))
    seconds, cpu = time.perf_counter() - started, time.process_time() - before
    print(json.dumps({"count": count, "seconds": seconds, "cpu": cpu}), flush=True)


if __name__ == "__main__":
    main()
