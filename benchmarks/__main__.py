"""`python -m benchmarks [SUITE]`: measure, print ratios; `--json` for the figures, `--help` for the suites."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Final

from benchmarks import boards, fan_out, guards, pipeline, provider, review, rota, talks, waiting

SUITES: Final = {
    "pipeline": pipeline,
    "fan_out": fan_out,
    "waiting": waiting,
    "guards": guards,
    "provider": provider,
    "review": review,
    "boards": boards,
    "rota": rota,
    "talks": talks,
}
COUNTS: Final = {
    "pipeline": 400,
    "fan_out": 5000,
    "waiting": 2000,
    "guards": 1600,
    "provider": 500,
    "review": 1,
    "boards": 500,
    "rota": 120,
    "talks": 9800,
}
ROUNDS: Final = {
    "pipeline": 3,
    "fan_out": 1,
    "waiting": 2,
    "guards": 1,
    "provider": 1,
    "review": 1,
    "boards": 5,
    "rota": 1,
    "talks": 1,
}


def main() -> None:
    """Parse the arguments, measure, print."""
    counts = ", ".join(f"{suite} {count}" for suite, count in COUNTS.items())
    rounds = ", ".join(f"{suite} {number}" for suite, number in ROUNDS.items())
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure beside plain Celery.")
    parser.add_argument("suite", nargs="?", choices=SUITES, default="pipeline", help="what to measure")
    parser.add_argument(
        "--count",
        "--runs",
        type=int,
        help=f"of pipelines, members, waiting tasks, runs, increments, messages; seconds to solve (default: {counts})",
    )
    parser.add_argument(
        "--rounds",
        type=int,
        help=f"of every side, the least disturbed one counts, of boards the middle one (default: {rounds})",
    )
    parser.add_argument("--single", type=int, default=20, help="pipelines one after another, for the latency")
    parser.add_argument("--wait", type=float, default=1.0, help="seconds an agent waits where the lag is measured")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    arguments = parser.parse_args()
    suite = SUITES[arguments.suite]
    options = {
        "count": COUNTS[arguments.suite] if arguments.count is None else arguments.count,
        "rounds": ROUNDS[arguments.suite] if arguments.rounds is None else arguments.rounds,
    }
    if suite is pipeline:
        options["single"] = arguments.single
    elif suite is waiting:
        options["wait"] = arguments.wait
    found = suite.main(**options)
    if arguments.json:
        json.dump(found, sys.stdout, indent=2)
        print()
    else:
        suite.show(found)


if __name__ == "__main__":
    main()
