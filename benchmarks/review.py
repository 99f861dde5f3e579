"""
A code review of a package as large as they come: the installed Celery.

`celeriac demo review` starts a pool for each agent, submits one run and ends with its report; beside it the same tools
are run by hand over the whole folder. What counts is that both find the same, and the seconds from the command's start
to its end, of which the pools take a part to start.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import celery

from benchmarks.by_hand import by_hand, reported
from benchmarks.measuring import ROOT

LEAST: Final = 300
"""Assignments that the folder must make."""
AIM: Final = 90.0
"""Seconds, on two cores."""
TIMEOUT: Final = 300.0
COMMAND: Final = (sys.executable, "-c", "from orchestrator.cli import main; main()", "demo", "review", "--json")


def measure(folder: Path) -> dict[str, Any]:
    """Review a folder; returns what the command says of it, and its report."""
    with tempfile.TemporaryDirectory() as data:
        done = subprocess.run(
            [*COMMAND, "--input", str(folder)],
            cwd=ROOT,
            env={**os.environ, "CELERIAC_DATA_DIR": data},
            stdout=subprocess.PIPE,
            timeout=TIMEOUT,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"the review ended with {done.returncode}: {done.stdout.decode()[-2000:]}")
        said: dict[str, Any] = json.loads(done.stdout)
        return said | {"document": json.loads(Path(said["report"]).with_suffix(".json").read_text(encoding="utf-8"))}


def main(*, count: int, rounds: int) -> dict[str, Any]:
    """
    Review the installed Celery.

    Args:
        count: reviews in a round, each with pools of its own; the fastest of all counts.

    Returns:
        The figures, for JSON.
    """
    folder = Path(celery.__file__).parent
    fastest = min((measure(folder) for _ in range(count * rounds)), key=lambda one: float(one["total_seconds"]))
    document = fastest["document"]
    began = time.perf_counter()
    expected = by_hand(folder)
    seconds = time.perf_counter() - began
    found = reported(document)
    return {
        "folder": str(folder),
        "files": document["files"],
        "assignments": document["assignments"],
        "seconds": fastest["seconds"],
        "total_seconds": fastest["total_seconds"],
        "by_hand_seconds": round(seconds, 3),
        "issues": len(document["issues"]),
        "findings": found.total(),
        "tools": document["tools"],
        "unchecked": document["unchecked"],
        "only_by_hand": sorted(map(list, (expected - found).elements())),
        "only_in_the_report": sorted(map(list, (found - expected).elements())),
    }


def show(found: dict[str, Any]) -> None:
    """Print the figures."""
    tools = ", ".join(f"{tool} {number}" for tool, number in found["tools"].items())
    print(f"{found['folder']}: {found['files']} files, {found['assignments']} assignments (aim: at least {LEAST})")
    print(
        f"{found['total_seconds']:.1f} s in all, {found['seconds']:.1f} s of it from submit to end (aim: {AIM:g} s); "
        f"{found['by_hand_seconds']:.1f} s by hand, one tool after another"
    )
    print(f"{found['findings']} findings, {found['issues']} issues of them ({tools})")
    print(
        f"by hand: {len(found['only_by_hand'])} that the review has not, and lacks {len(found['only_in_the_report'])}"
    )
    for gap in found["unchecked"]:
        print(f"not checked: {gap['specialist']}, {gap['count']} files, {gap['reason']}")
