"""Specialist: cyclomatic complexity of functions, in the languages that lizard reads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from orchestrator import agent
from workers.review.models import Files, Finding, Findings, Unchecked
from workers.review.tooling import load, message, result

THRESHOLD: Final = 15  # lizard's own; more than this is told
HARD: Final = 30  # more than this nobody tests in full
RULE: Final = "cyclomatic-complexity"


@agent("review.complexity", timeout=120.0, deadline=300.0)
def complexity(files: Files) -> Findings:
    """
    Measure the functions in files of one language.

    Raises:
        ToolMissing: lizard is not installed here.
    """
    lizard = load("lizard", "lizard")
    reader = load("lizard_ext.auto_open", "lizard")
    found: list[Finding] = []
    unchecked: list[Unchecked] = []
    for path in files.paths:
        file = Path(files.root, path)
        read_to_its_end: list[bool] = []

        def watch(tokens: Iterator[Any], _reader: object, seen: list[bool] = read_to_its_end) -> Iterator[Any]:
            yield from tokens
            seen.append(True)

        try:
            analyze = lizard.FileAnalyzer([*lizard.get_extensions([]), watch])
            functions = analyze.analyze_source_code(str(file), reader.auto_read(str(file))).function_list
        except OSError as error:
            unchecked.append(Unchecked(path=path, reason=f"cannot be read: {error.strerror}"))
            continue
        except Exception as error:  # noqa: BLE001  its readers are tolerant, yet not of everything
            unchecked.append(Unchecked(path=path, reason=message(f"lizard: {type(error).__name__}: {error}")))
            continue
        if not read_to_its_end:
            # It writes "[skip]" to stderr and returns what it had so far.
            unchecked.append(Unchecked(path=path, reason="lizard: nested too deeply"))
            continue
        found += [_finding(path, function) for function in functions if function.cyclomatic_complexity > THRESHOLD]
    return result("lizard", files, found, unchecked)


def _finding(path: str, function: Any) -> Finding:  # noqa: ANN401  lizard has no types
    number = function.cyclomatic_complexity
    return Finding(
        rule=RULE,
        severity="medium" if number > HARD else "low",
        path=path,
        line=function.start_line,
        message=message(f"{function.name} has a cyclomatic complexity of {number} (above {THRESHOLD})"),
    )
