"""`python -m benchmarks [pipeline|waiting]`: measure, print ratios; `--json` for the figures."""

from __future__ import annotations

import argparse
import json
import sys

from benchmarks import pipeline, waiting

COUNTS = {"pipeline": 400, "waiting": 2000}
ROUNDS = {"pipeline": 3, "waiting": 2}


def main() -> None:
    """Parse the arguments, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure beside plain Celery.")
    parser.add_argument("suite", nargs="?", choices=COUNTS, default="pipeline", help="what to measure")
    parser.add_argument("--count", type=int, help="pipelines (default 400) or waiting tasks (default 2000) at once")
    parser.add_argument("--rounds", type=int, help="of every side, the least disturbed one counts (default 3 or 2)")
    parser.add_argument("--single", type=int, default=20, help="pipelines one after another, for the latency")
    parser.add_argument("--wait", type=float, default=1.0, help="seconds an agent waits where the lag is measured")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    arguments = parser.parse_args()
    count = COUNTS[arguments.suite] if arguments.count is None else arguments.count
    rounds = ROUNDS[arguments.suite] if arguments.rounds is None else arguments.rounds
    if arguments.suite == "pipeline":
        found = pipeline.main(count=count, single=arguments.single, rounds=rounds)
    else:
        found = waiting.main(count=count, rounds=rounds, wait=arguments.wait)
    if arguments.json:
        json.dump(found, sys.stdout, indent=2)
        print()
    elif arguments.suite == "pipeline":
        pipeline.show(found)
    else:
        waiting.show(found)


if __name__ == "__main__":
    main()
