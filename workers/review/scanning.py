"""
Read Python files with bandit, in this process or in one of its own: `python scanning.py ROOT PATH…`.

It imports nothing of this package, so that it runs wherever the tool does. On stdout, in JSON, a `Scanned`.
"""

from __future__ import annotations

import importlib
import json
import logging
import sys
from collections.abc import Sequence
from typing import TypedDict


class Issue(TypedDict):
    """What bandit found. `offset`: its own, of the node, which begins in the line `first`; below 0: it is not known."""

    rule: str
    severity: str
    path: str
    line: int
    first: int
    offset: int
    text: str


class Scanned(TypedDict):
    """What bandit found, and the files that it could not read, or not all of, with its reasons."""

    issues: list[Issue]
    skipped: list[tuple[str, str]]


class TestEndedError(Exception):
    """A test of bandit's ended with an error."""


def scan(root: str, paths: Sequence[str]) -> Scanned:
    """Read files; one at a time in a process: the tests of bandit's plugins share state."""
    manager_module, config = (
        importlib.import_module("bandit.core.manager"),
        importlib.import_module("bandit.core.config"),
    )
    # Each manager holds its own state.
    manager = manager_module.BanditManager(config.BanditConfig(), "file", quiet=True)
    log = logging.getLogger("bandit.core.tester")
    start = f"{root}/"
    log.addFilter(_no_test_fails)
    try:
        manager.discover_files([start + path for path in paths])
        manager.run_tests()
    finally:
        log.removeFilter(_no_test_fails)
    issues = [
        Issue(
            rule=issue.test_id,
            severity=issue.severity,
            path=issue.fname.removeprefix(start),
            line=issue.lineno,
            first=issue.linerange[0] if issue.linerange else issue.lineno,
            offset=issue.col_offset,
            text=issue.text,
        )
        for issue in manager.get_issue_list()
    ]
    # `os.path.join(".", name)` leaves an absolute name as it is.
    return Scanned(issues=issues, skipped=[(name.removeprefix(start), why) for name, why in manager.get_skipped()])


def _no_test_fails(record: logging.LogRecord) -> bool:
    """
    Let bandit pass over a file with one of whose nodes a test of its own fails: it would go on as if it had been done.

    Raises:
        TestEndedError: the message tells of that; bandit takes it for an error of the file's.
    """
    if str(record.msg).startswith("Bandit internal error"):
        raise TestEndedError
    return True


if __name__ == "__main__":
    json.dump(scan(sys.argv[1], sys.argv[2:]), sys.stdout)
