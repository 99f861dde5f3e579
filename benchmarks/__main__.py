"""`python -m benchmarks`: measure, print ratios; `--json` for the figures."""

from __future__ import annotations

import argparse
import json
import sys

from benchmarks import pipeline


def main() -> None:
    """Parse the arguments, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure beside plain Celery.")
    parser.add_argument("--count", type=int, default=400, help="pipelines at once (default 400)")
    parser.add_argument("--single", type=int, default=20, help="pipelines one after another, for the latency")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of every side; the least disturbed one counts")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    arguments = parser.parse_args()
    found = pipeline.main(count=arguments.count, single=arguments.single, rounds=arguments.rounds)
    if arguments.json:
        json.dump(found, sys.stdout, indent=2)
        print()
        return
    print(f"Pipeline of 5 stages, {found['stages']} stages: milliseconds of CPU per stage")
    print(f"{'':20}{'workers':>9}{'server':>9}{'producer':>9}{'all':>9}{'latency':>11}{'stages/s':>10}{'commands':>10}")
    for side in ("plain", "plain with events", "celeriac"):
        row = found[side]
        if not isinstance(row, dict):
            raise TypeError(side)
        print(
            f"{side:20}{row['workers']:9.2f}{row['server']:9.2f}{row['producer']:9.2f}{row['cpu']:9.2f}"
            f"{row['latency']:9.1f}ms{row['rate']:10.0f}{row['commands']:10.1f}"
        )
    ratios = found["ratios"]
    if isinstance(ratios, dict):
        for name, ratio in ratios.items():
            print(f"{name:26} {ratio:.2f}")


if __name__ == "__main__":
    main()
