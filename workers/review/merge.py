"""One issue of what several tools found in one place; and the order in which they are worth a look."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Final

from workers.review.models import SEVERITIES, Finding, Issue, Source

_BY_BANDIT: Final = re.compile(r"S(\d{3})")
# The same matter under each tool's name for it.
_SAME: Final = {
    ("ruff", "F401"): "unused import",
    ("vulture", "unused-import"): "unused import",
    ("ruff", "F841"): "unused variable",
    ("vulture", "unused-variable"): "unused variable",
    ("ruff", "C901"): "complexity",
    ("lizard", "cyclomatic-complexity"): "complexity",
    **dict.fromkeys([("bandit", "B105"), ("bandit", "B106"), ("bandit", "B107")], "secret"),
    **dict.fromkeys([("ruff", "S105"), ("ruff", "S106"), ("ruff", "S107")], "secret"),
}
# Who says most about a matter comes first; ruff, which has a little of everything, last.
_RANK: Final = {"bc-detect-secrets": 0, "bandit": 1, "lizard": 2, "vulture": 3, "license-expression": 4, "ruff": 5}


def matter(tool: str, rule: str) -> str:
    """Return what a rule is about: the same for rules of several tools that find the same."""
    if tool == "bc-detect-secrets":
        return "secret"
    known = _SAME.get((tool, rule))
    if known:
        return known
    # Ruff has numbered the rules that it took from bandit as they are there.
    taken = _BY_BANDIT.fullmatch(rule) if tool == "ruff" else None
    return f"bandit:B{taken[1]}" if taken else f"{tool}:{rule}"


def merge(findings: Iterable[tuple[str, Finding]]) -> list[Issue]:
    """
    Make issues of findings.

    Args:
        findings: with the tool that found each, in any order.

    Returns:
        An issue for each place and matter, the worst first; the same for the same findings in another order.
    """
    places: dict[tuple[str, int, str, int], list[tuple[str, Finding]]] = defaultdict(list)
    seen: Counter[tuple[str, int, str, str, str]] = Counter()
    for tool, finding in sorted(findings, key=lambda one: (one[0], one[1].column, one[1].message)):
        about = matter(tool, finding.rule)
        # A tool that finds something twice in a line means two things: the first of one tool is the first of another.
        number = seen[finding.path, finding.line, about, tool, finding.rule]
        seen[finding.path, finding.line, about, tool, finding.rule] += 1
        places[finding.path, finding.line, about, number].append((tool, finding))
    issues = {place: _issue(found) for place, found in places.items()}
    often = Counter((issue.severity, about) for (_, _, about, _), issue in issues.items())

    def worth(place: tuple[str, int, str, int]) -> tuple[int, int, str, int, int, str, str]:
        """Order by severity; then what is rare, since what is everywhere is a habit; then by place."""
        issue = issues[place]
        first = issue.sources[0]
        severity = SEVERITIES.index(issue.severity)
        return severity, often[issue.severity, place[2]], issue.path, issue.line, issue.column, first.tool, first.rule

    return [issues[place] for place in sorted(places, key=worth)]


def _issue(found: list[tuple[str, Finding]]) -> Issue:
    found = sorted(found, key=lambda one: (_RANK.get(one[0], 9), one[0], one[1].column, one[1].rule, one[1].message))
    first = found[0][1]
    return Issue(
        severity=min((finding.severity for _, finding in found), key=SEVERITIES.index),
        path=first.path,
        line=first.line,
        column=first.column or max(finding.column for _, finding in found),
        message=first.message,
        sources=tuple(
            Source(tool=tool, rule=one.rule, line=one.line, column=one.column, message=one.message)
            for tool, one in found
        ),
    )
