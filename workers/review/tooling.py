"""What the specialists share: importing a tool, and keeping what it found within bounds."""

from __future__ import annotations

import importlib
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from importlib import metadata
from types import ModuleType
from typing import Final

from workers.review.errors import ToolMissing
from workers.review.models import MAX_MESSAGE, Files, Finding, Findings, Unchecked
from workers.visible import one_line

MAX_FINDINGS: Final = 500  # of a tool in a file

# Python 3.11 confuses the depths of syntax trees that several threads make at once, and raises a SystemError.
parsing: Final = threading.Lock()


def load(module: str, package: str) -> ModuleType:
    """
    Import a tool when it is first needed: a worker of one specialist does not pay for the tools of the others.

    Raises:
        ToolMissing: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise ToolMissing(package) from None


def version(package: str) -> str:
    """
    Return the version of an installed package.

    Raises:
        ToolMissing: it is not installed.
    """
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        raise ToolMissing(package) from None


def result(tool: str, files: Files, found: Iterable[Finding], unchecked: Iterable[Unchecked] = ()) -> Findings:
    """
    Return what a specialist found, in order, MAX_FINDINGS a file at most.

    Args:
        tool: the package whose version is told.
        found: in any order.
        unchecked: files that were not checked, by reason.
    """
    kept: list[Finding] = []
    counts: Counter[str] = Counter()
    for finding in sorted(found, key=lambda one: (one.path, one.line, one.column, one.rule, one.message)):
        counts[finding.path] += 1
        if counts[finding.path] <= MAX_FINDINGS:
            kept.append(finding)
    missed = list(unchecked)
    failed = {one.path for one in missed}
    missed += [
        Unchecked(path=path, reason=f"more than {MAX_FINDINGS} findings in the file: the others are left out")
        for path, count in counts.items()
        if count > MAX_FINDINGS
    ]
    return Findings(
        tool=tool,
        version=version(tool),
        checked=tuple(path for path in files.paths if path not in failed),
        findings=tuple(kept),
        unchecked=tuple(missed),
    )


def message(text: str) -> str:
    """Return a tool's message on one line, of bounded length, without characters that are not to be seen."""
    line = one_line(text)
    return line if len(line) <= MAX_MESSAGE else f"{line[: MAX_MESSAGE - 1]}…"


def all_failed(paths: Sequence[str], reason: str) -> list[Unchecked]:
    """Return files as not checked, all for one reason."""
    return [Unchecked(path=path, reason=message(reason)) for path in paths]
