"""Specialist: bandit, which knows calls and settings that open a hole."""

from __future__ import annotations

import threading
from typing import Final

from orchestrator import agent
from workers.review.models import Files, Finding, Findings, Severity, Unchecked
from workers.review.tooling import load, message, result

# The tests of bandit's plugins share state: two scans at once end some files with an error.
_lock: Final = threading.Lock()
_SEVERITIES: Final[dict[str, Severity]] = {"HIGH": "high", "MEDIUM": "medium", "LOW": "low"}


@agent("review.bandit", timeout=120.0, deadline=300.0)
def bandit(files: Files) -> Findings:
    """
    Look for security problems in Python files.

    Raises:
        ToolMissing: bandit is not installed here.
    """
    # In this process: each manager holds its own state, and to start bandit takes as long as reading twenty files.
    manager_module, config = load("bandit.core.manager", "bandit"), load("bandit.core.config", "bandit")
    manager = manager_module.BanditManager(config.BanditConfig(), "file", quiet=True)
    root = f"{files.root}/"
    with _lock:
        manager.discover_files([root + path for path in files.paths])
        manager.run_tests()
    found = [
        Finding(
            rule=issue.test_id,
            severity=_SEVERITIES.get(issue.severity, "info"),
            path=_relative(issue.fname, root),
            line=issue.lineno,
            column=max(issue.col_offset, -1) + 1,  # counted from 0; -1 where it is not known
            message=message(issue.text),
        )
        for issue in manager.get_issue_list()
    ]
    unchecked = [
        Unchecked(path=_relative(name, root), reason=message(reason)) for name, reason in manager.get_skipped()
    ]
    return result("bandit", files, found, unchecked)


def _relative(name: str, root: str) -> str:
    # `os.path.join(".", name)` leaves an absolute name as it is.
    return name.removeprefix(root)
