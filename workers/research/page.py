"""A report as Markdown, JSON, and text for the terminal."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from workers.research.argument import listed
from workers.research.models import Report
from workers.visible import code, escape, one_line, visible

if TYPE_CHECKING:
    from rich.console import RenderableType

VERSION: Final = 1  # of the JSON file
NOTHING: Final = "The documents do not answer this."
_TICKS: Final = re.compile(r"`+")
_MARK: Final = re.compile(r"\\\[(\d{1,3})\\\]")


def as_json(report: Report) -> str:
    """Return everything, for programs."""
    document = {"version": VERSION, **report.model_dump(mode="json", exclude={"written"})}
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def as_markdown(report: Report) -> str:
    """Return the answer, what it rests on, what was refuted, and how it was reached."""
    return "\n".join([*_answer(report), *_sources(report), *_refused(report), *_reached(report)]) + "\n"


def _answer(report: Report) -> Iterator[str]:
    answer = report.answer
    yield f"# {escape(answer.question.text)}"
    yield ""
    # The marks of citations are ours, and the only brackets that mean something.
    yield _MARK.sub(r"[\1]", escape(answer.text)) if answer.points else NOTHING
    yield ""
    if answer.lacking:
        yield f"Nothing was found about {escape(listed(answer.lacking))}."
        yield ""


def _sources(report: Report) -> Iterator[str]:
    if not report.answer.points:
        return
    yield "## Sources"
    yield ""
    for number, point in enumerate(report.answer.points, start=1):
        yield f"{number}. {code(point.evidence.place)}"
        yield ""
        fence = "`" * max(3, 1 + max((len(one) for one in _TICKS.findall(point.evidence.quote)), default=0))
        yield f"    {fence}text"
        yield from (f"    {visible(line)}" for line in point.evidence.quote.expandtabs().split("\n"))
        yield f"    {fence}"
        yield ""


def _refused(report: Report) -> Iterator[str]:
    if not report.answer.refused:
        return
    yield "## What did not stand"
    yield ""
    for each in report.answer.refused:
        yield f"- {escape(each.text)} ({code(each.place)}): {each.by}, {each.why}: {escape(each.reason)}"
    yield ""


def _reached(report: Report) -> Iterator[str]:
    yield "## How it was reached"
    yield ""
    yield (
        f"{escape(verdict(report))} {report.messages} messages, {report.turns} turns. "
        f"Written by {escape(report.answer.written_by)}, from {escape(', '.join(report.answer.question.folders))}."
    )


def verdict(report: Report) -> str:
    """Say how the answer was reached, and who dissents."""
    how = "All agree." if report.outcome == "consensus" else f"By vote, at the end: {report.outcome}."
    dissent = f" For another: {', '.join(report.dissent)}." if report.dissent else ""
    abstained = f" For none: {', '.join(report.abstained)}." if report.abstained else ""
    return how + dissent + abstained


def shown(report: Report) -> RenderableType:
    """Return the answer for a terminal."""
    from rich.console import Group  # noqa: PLC0415  a worker shows nothing
    from rich.text import Text  # noqa: PLC0415

    answer = report.answer
    lines = [Text(visible(answer.question.text), style="bold"), Text()]
    lines += [Text(one_line(answer.text) if answer.points else NOTHING), Text()]
    for number, point in enumerate(answer.points, start=1):
        lines.append(Text(f"[{number}] ", style="bold").append(visible(point.evidence.place), style="cyan"))
        lines += [Text(f"    {visible(line)}", style="dim") for line in point.evidence.quote.expandtabs().split("\n")]
    lines.append(Text())
    if answer.lacking:
        lines.append(Text(f"Nothing was found about {visible(listed(answer.lacking))}."))
    if answer.refused:
        lines.append(Text(f"Did not stand: {len(answer.refused)} of the claims; the report says which, and why."))
    return Group(*lines, Text(visible(verdict(report))))
