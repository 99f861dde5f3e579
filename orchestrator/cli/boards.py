"""`celeriac runs board`: what stands on a blackboard, now or after any event, and what changed between two."""

from __future__ import annotations

import difflib
import json
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.text import Text

from orchestrator.cli import session
from orchestrator.cli.options import RunId
from orchestrator.cli.output import AsJson, clock_time, console, print_json, print_table
from orchestrator.cli.plain import plain, visible

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.messages import BoardEntry, BoardState

WIDEST: Final = 100
"""Characters of a value in the table."""
STYLES: Final = {"+": "green", "-": "red", "@": "cyan"}


def board(
    run_id: RunId,
    *,
    step: Annotated[
        str | None, typer.Option(help="The blackboard's step; the run's first one unless given.", show_default=False)
    ] = None,
    at: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="As it was after event N of the log.", show_default=False)
    ] = None,
    since: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="What has changed since event N.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what stands on a run's blackboard, now or after any event of its log."""
    run = session.client().get(run_id)
    found = run.board_at(step, event=at)
    before = None if since is None else run.board_at(found.step, event=since)
    if as_json:
        document = found.model_dump(mode="json")
        print_json(document if before is None else document | {"changes": list(_changes(before, found))})
        return
    console().print(_head(found), markup=False)
    if before is not None:
        _show_changes(before, found)
    elif found.entries:
        print_table(
            ["ENTRY", "VERSION", "BY", "STEP", "AT", "VALUE"],
            [_row(name, entry) for name, entry in sorted(found.entries.items())],
        )
    else:
        typer.echo("nothing stands there")


def _head(found: BoardState) -> Text:
    how = found.status if found.outcome is None else f"{found.outcome}: {found.why}"
    counted = f"{found.writes} writes, {found.wakes} wakes, {len(found.entries)} entries"
    return Text.assemble((plain(found.step), "bold"), f"  {plain(how)}  {counted}")


def _row(name: str, entry: BoardEntry) -> list[str | Text]:
    written = json.dumps(entry.value, ensure_ascii=False)
    shown = written if len(written) <= WIDEST else f"{written[: WIDEST - 1]}…"
    return [name, str(entry.version), entry.author, entry.step or "", clock_time(entry.at_ms), shown]


def _changes(before: BoardState, after: BoardState) -> Iterator[dict[str, Any]]:
    """Give each entry that differs, for programs."""
    for name in sorted({*before.entries, *after.entries}):
        one, other = before.entries.get(name), after.entries.get(name)
        if one != other:
            yield {
                "entry": name,
                "before": None if one is None else one.model_dump(mode="json"),
                "after": None if other is None else other.model_dump(mode="json"),
            }


def _show_changes(before: BoardState, after: BoardState) -> None:
    out, some = console(), False
    for change in _changes(before, after):
        some = True
        old, new = _lines(change["before"]), _lines(change["after"])
        versions = [0 if side is None else side["version"] for side in (change["before"], change["after"])]
        author = (change["after"] or change["before"])["author"]
        head = f"{change['entry']}: version {versions[0]} → {versions[1]}, by {author}"
        out.print(Text(plain(head), style="bold"))
        for line in list(difflib.unified_diff(old, new, lineterm="", n=2))[2:]:
            out.print(Text(visible(line), style=STYLES.get(line[:1], "")))
    if not some:
        typer.echo("nothing has changed")


def _lines(entry: dict[str, Any] | None) -> list[str]:
    return [] if entry is None else json.dumps(entry["value"], indent=2, ensure_ascii=False).split("\n")
