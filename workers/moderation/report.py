"""The report: one JSON file for programs and one HTML file, complete in itself, for people."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import get_args

from workers.files import write_atomically
from workers.moderation.models import NO_CATEGORY, UNDETERMINED, Action, Published

_TEMPLATE = Path(__file__).with_name("report.html")
_ACTIONS: tuple[Action, ...] = get_args(Action)
_MOST_ROWS = 8  # of a table of totals; what is rarer is summed up


def write_report(records: Sequence[Published], directory: Path) -> Path:
    """
    Write `report.json` and `report.html`.

    Args:
        records: what was published, in any order.
        directory: where the files go; made if it is not there.

    Returns:
        The path of the HTML file. It loads nothing from elsewhere.

    Raises:
        OSError: the folder cannot be written to.
    """
    ordered = sorted(records, key=_attention)
    totals = _totals(ordered)
    data = {"totals": totals, "records": [record.model_dump(mode="json") for record in ordered]}
    write_atomically(directory / "report.json", json.dumps(data, indent=2, ensure_ascii=False) + "\n")
    report = directory / "report.html"
    write_atomically(report, _render(ordered, totals))
    return report


def _attention(record: Published) -> tuple[int, str, str]:
    """Order what a person should see first: blocked before labelled before allowed, then by name."""
    return -_ACTIONS.index(record.action), record.category, record.id.casefold()


def _totals(records: Sequence[Published]) -> dict[str, dict[str, int]]:
    redactions: Counter[str] = Counter()
    for record in records:
        redactions.update(record.redactions)
    return {
        "action": _ordered(Counter(record.action for record in records)),
        "category": _ordered(Counter(record.category for record in records)),
        "redactions": _ordered(redactions),
        "language": _ordered(Counter(record.language for record in records)),
        "decided_by": _ordered(Counter(record.decided_by for record in records)),
    }


def _ordered(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _render(records: Sequence[Published], totals: dict[str, dict[str, int]]) -> str:
    """Fill in the template. Everything that comes from a document passes through `escape`."""
    actions = totals["action"]
    parts = [action for action in _ACTIONS if action in actions]
    redacted = sum(totals["redactions"].values())
    characters = sum(record.characters for record in records)
    names = {
        "action": "Action",
        "category": "Category",
        "redactions": "Removed from texts",
        "language": "Language",
        "decided_by": "Decided by",
    }
    return Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        lead=f"{_count(len(records), 'document')}, {characters:,} characters; "
        f"{_count(redacted, 'personal or secret item')} removed.",
        bar="".join(f'<i class="{action}" style="flex-grow:{actions[action]}"></i>' for action in parts),
        bar_label=escape(", ".join(f"{action} {actions[action]}" for action in parts)),
        totals="".join(_total(title, totals[name]) for name, title in names.items()),
        actions=_options(parts),
        categories=_options(sorted(totals["category"])),
        rows="\n".join(_row(record) for record in records),
        footer="Confidence by rules is the distance to the policy's threshold, by a model what it says of itself; "
        "neither is a probability. Summaries of blocked documents are withheld.",
    )


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _total(title: str, counts: dict[str, int]) -> str:
    shown = dict(list(counts.items())[:_MOST_ROWS])
    if rest := sum(counts.values()) - sum(shown.values()):
        shown["others"] = rest
    lines = "".join(f"<dt>{escape(_spoken(name))}</dt><dd>{number:,}</dd>" for name, number in shown.items())
    return f"<section><h2>{title}</h2><dl>{lines or '<dt>nothing</dt><dd>0</dd>'}</dl></section>"


def _spoken(name: str) -> str:
    return {NO_CATEGORY: "no category", UNDETERMINED: "undetermined"}.get(name, name)


def _options(names: Sequence[str]) -> str:
    return "".join(f'<option value="{escape(name)}">{escape(_spoken(name))}</option>' for name in names)


def _row(record: Published) -> str:
    title, source = escape(record.title or record.id), escape(record.source)
    summary = f'<p class="summary">{escape(record.summary)}</p>' if record.summary else ""
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in record.reasons)
    why = f'<ul class="why">{reasons}</ul>' if reasons else ""
    degraded = '<span class="degraded">rules stood in</span>' if record.degraded else ""
    counts = "".join(f"<span>{number} {escape(kind)}</span>" for kind, number in record.redactions.items())
    return (
        f'<tr data-action="{record.action}" data-category="{escape(record.category)}">'
        f'<td class="document" data-sort="{title}"><div class="title">{title}</div>'
        f'<div class="source">{source}</div>{summary}{why}</td>'
        f'<td data-sort="{_ACTIONS.index(record.action)}">'
        f'<span class="pill {record.action}">{record.action}</span></td>'
        f'<td data-sort="{escape(record.category)}">{escape(_spoken(record.category))}</td>'
        f'<td class="number" data-sort="{record.confidence}">{record.confidence:.2f}'
        f'<div class="source">{escape(record.decided_by)}</div>{degraded}</td>'
        f'<td data-sort="{escape(record.language)}">{escape(_spoken(record.language))}</td>'
        f'<td class="counts" data-sort="{sum(record.redactions.values())}">{counts}</td></tr>'
    )
