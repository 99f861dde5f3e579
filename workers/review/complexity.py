"""Specialist: cyclomatic complexity of functions, in the languages that lizard reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Final

from orchestrator import agent
from workers.review.apart import run_python, spread
from workers.review.measuring import Function, Measured
from workers.review.models import Files, Finding, Findings, Unchecked
from workers.review.tooling import load, message, result

THRESHOLD: Final = 15  # lizard's own; more than this is told
HARD: Final = 30  # more than this nobody tests in full
RULE: Final = "cyclomatic-complexity"
WITHIN: Final = 60.0  # s for all files of an assignment
MEASURING: Final = Path(__file__).with_name("measuring.py")


@agent("review.complexity", timeout=120.0, deadline=300.0)
def complexity(files: Files) -> Findings:
    """
    Measure the functions in files of one language.

    Raises:
        ToolMissing: lizard is not installed here.
        ToolFailed: it ended without a result.
    """
    load("lizard", "lizard")
    results, unchecked = spread(files.paths, partial(_run, files.root), WITHIN)
    found: list[Finding] = []
    for one in chain.from_iterable(results):
        path = one["path"].removeprefix("./")
        unchecked += [Unchecked(path=path, reason=reason) for reason in one["reasons"]]
        found += [_finding(path, function) for function in one["functions"]]
    return result("lizard", files, found, unchecked)


def _run(root: str, paths: Sequence[str], within: float) -> list[Measured]:
    # Always: forty characters can take it a day, and to start it takes a tenth of a second.
    arguments = [str(MEASURING), str(THRESHOLD), *(f"./{path}" for path in paths)]
    measured: list[Measured] = json.loads(run_python("lizard", arguments, root=root, within=within))
    return measured


def _finding(path: str, function: Function) -> Finding:
    number = function["number"]
    return Finding(
        rule=RULE,
        severity="medium" if number > HARD else "low",
        path=path,
        line=function["line"],
        message=message(
            f"{function['name'] or 'a function'} has a cyclomatic complexity of {number} (above {THRESHOLD})"
        ),
    )
