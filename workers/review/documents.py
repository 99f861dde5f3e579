"""A review as Markdown for people and JSON for programs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Final

from workers.review.models import SEVERITIES, Gap, Issue, Report
from workers.visible import code, escape

SHOWN: Final = 300  # issues in the Markdown file; the others have all
NAMED: Final = 10  # files of a gap
VERSION: Final = 1  # of the JSON file
_NOT_ASCII: Final = re.compile(r"[^\n -~]")


class Review(Report):
    """
    All there is to write down.

    Attributes:
        issues: all of them, the worst first.
        versions: of the tools that have answered.
    """

    versions: dict[str, str]


def as_json(review: Review) -> str:
    """Return everything, for programs."""
    document = {"version": VERSION, **review.model_dump(mode="json", exclude={"written", "total"})}
    return dumped(document)


def dumped(document: object) -> str:
    """
    Return JSON that can be looked at.

    Values stay as they are: what is not to be seen, as in a file's name, is escaped as JSON does it.
    """
    text = json.dumps(document, indent=2, ensure_ascii=False)
    return _NOT_ASCII.sub(lambda one: one[0] if one[0].isprintable() else _escaped(one[0]), text) + "\n"


def _escaped(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))


def as_markdown(review: Review) -> str:
    """Return what a person reads first: counts, what was not checked, the worst issues."""
    return "\n".join([*_head(review), *_gaps(review.unchecked), *_issues(review)]) + "\n"


def _head(review: Review) -> Iterator[str]:
    yield f"# Review of {code(review.root)}"
    yield ""
    yield (
        f"{_count(review.files, 'file')}, {_count(len(review.issues), 'issue')}. "
        f"{_count(review.duplicates, 'finding')} of more than one tool merged; "
        f"{_count(review.assignments, 'assignment')} in all."
    )
    yield ""
    yield "| Severity | Issues |"
    yield "|---|---:|"
    for severity, number in review.severities.items():
        yield f"| {severity} | {number:,} |"
    yield ""
    yield "| Tool | Version | Findings |"
    yield "|---|---|---:|"
    for tool, number in review.tools.items():
        yield f"| {tool} | {escape(review.versions[tool])} | {number:,} |"
    yield ""


def _gaps(gaps: tuple[Gap, ...]) -> Iterator[str]:
    yield "## Not checked"
    yield ""
    if not gaps:
        yield "Every file was checked by each specialist that reads its language."
    for gap in gaps:
        named = ", ".join(code(path) for path in gap.paths[:NAMED])
        rest = gap.count - len(gap.paths[:NAMED])
        files = f": {named}" + (f" and {rest:,} more" if rest > 0 else "") if named else ""
        yield f"- **{gap.specialist}**, {_count(gap.count, 'file')}, {escape(gap.reason)}{files}"
    yield ""


def _issues(review: Review) -> Iterator[str]:
    shown = review.issues[:SHOWN]
    for severity in SEVERITIES:
        of_it = [issue for issue in shown if issue.severity == severity]
        if of_it:
            yield f"## {severity.capitalize()}"
            yield ""
            yield "| Place | Issue | Found by |"
            yield "|---|---|---|"
            yield from map(_row, of_it)
            yield ""
    if rest := len(review.issues) - len(shown):
        yield f"{_count(rest, 'more issue')} in report.json and report.sarif."


def _row(issue: Issue) -> str:
    place = f"{issue.path}:{issue.line}" if issue.line else issue.path
    found_by = ", ".join(dict.fromkeys(f"{source.tool} {source.rule}" for source in issue.sources))
    return f"| {code(place)} | {escape(issue.message)} | {escape(found_by)} |"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
