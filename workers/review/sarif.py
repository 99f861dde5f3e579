"""
A review as SARIF 2.1.0, which code hosts and editors read: a run for each tool.

Source: OASIS, "Static Analysis Results Interchange Format (SARIF) Version 2.1.0", 2020.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from workers.review.documents import Review, dumped
from workers.review.models import Gap, Issue, Severity

SCHEMA: Final = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
BASE: Final = "SRCROOT"
COVERAGE: Final = "celeriac-review"  # the run that says what was not checked
_IN_A_LINK: Final = re.compile(r"[\\\[\]]")
_LEVELS: Final[dict[Severity, str]] = {"high": "error", "medium": "warning", "low": "note", "info": "note"}
_ABOUT: Final = {
    "bandit": "https://bandit.readthedocs.io/",
    "bc-detect-secrets": "https://github.com/bridgecrewio/detect-secrets",
    "license-expression": "https://github.com/aboutcode-org/license-expression",
    "lizard": "https://github.com/terryyin/lizard",
    "ruff": "https://docs.astral.sh/ruff/",
    "vulture": "https://github.com/jendrikseipp/vulture",
}


def as_sarif(review: Review) -> str:
    """Return the review as a SARIF log."""
    runs = [_run(review, tool, version) for tool, version in review.versions.items()]
    log = {"$schema": SCHEMA, "version": "2.1.0", "runs": [*runs, _coverage(review)]}
    return dumped(log)


def _run(review: Review, tool: str, version: str) -> dict[str, Any]:
    # An issue of several tools stands once, under the one that says most about it.
    issues = [issue for issue in review.issues if issue.sources[0].tool == tool]
    rules = sorted({issue.sources[0].rule for issue in issues})
    return {
        "tool": {
            "driver": {
                "name": tool,
                "version": version,
                **({"informationUri": _ABOUT[tool]} if tool in _ABOUT else {}),
                "rules": [{"id": rule} for rule in rules],
            }
        },
        "originalUriBaseIds": {BASE: {"uri": f"{Path(review.root).as_uri().rstrip('/')}/"}},
        "columnKind": "unicodeCodePoints",
        "results": [_result(issue, rules) for issue in issues],
    }


def _result(issue: Issue, rules: Sequence[str]) -> dict[str, Any]:
    first, *others = issue.sources
    place: dict[str, Any] = {"artifactLocation": {"uri": quote(issue.path), "uriBaseId": BASE}}
    if issue.line:
        place["region"] = {"startLine": issue.line, **({"startColumn": issue.column} if issue.column else {})}
    also = [{"tool": source.tool, "rule": source.rule, "message": source.message} for source in others]
    return {
        "ruleId": first.rule,
        "ruleIndex": rules.index(first.rule),
        "level": _LEVELS[issue.severity],
        "message": {"text": plain(issue.message)},
        "locations": [{"physicalLocation": place}],
        "properties": {"severity": issue.severity, **({"alsoFoundBy": also} if also else {})},
    }


def _coverage(review: Review) -> dict[str, Any]:
    """A run without results: whether everything was checked, and what was not."""
    notices = [{"level": "warning", "message": {"text": plain(_sentence(gap))}} for gap in review.unchecked]
    return {
        "tool": {"driver": {"name": COVERAGE}},
        "invocations": [{"executionSuccessful": not notices, "toolExecutionNotifications": notices}],
        "results": [],
    }


def plain(text: str) -> str:
    """Return a text as a plain text message without placeholders (section 3.11.5) and links (3.11.6)."""
    text = text.replace("{", "{{").replace("}", "}}")
    # Elsewhere brackets stand for themselves, and a backslash before one would be shown.
    return _IN_A_LINK.sub(r"\\\g<0>", text) if "](" in text else text


def _sentence(gap: Gap) -> str:
    files = "1 file" if gap.count == 1 else f"{gap.count:,} files"
    return f"{gap.specialist}: {files} not checked: {gap.reason}"
