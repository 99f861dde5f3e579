"""What is printed: JSON for programs, tables and colours for terminals, plain lines for pipes."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestrator.cli.plain import plain

COLOURS: Final = {
    "completed": "green",
    "running": "cyan",
    "ready": "blue",
    "queued": "blue",
    "starting": "blue",
    "waiting": "magenta",
    "draining": "magenta",
    "delayed": "magenta",
    "undoing": "yellow",
    "cancelled": "yellow",
    "restarting": "yellow",
    "failed": "red",
    "closed": "green",
    "half-open": "yellow",
    "open": "red",
    "unreadable": "red",
    "pending": "bright_black",
    "stopped": "bright_black",
}
MINUTE: Final = 60
HOUR: Final = 3600
DAY: Final = 86400

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def console(*, stderr: bool = False) -> Console:
    """Return a console for the stream as it is now (a test or a pipe may have replaced it)."""
    return Console(stderr=stderr, highlight=False, soft_wrap=True)


def print_json(document: object) -> None:
    """Print one JSON document to stdout."""
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False, default=str) + "\n")
    sys.stdout.flush()


def print_json_line(document: object) -> None:
    """Print a JSON document as one line, at once."""
    sys.stdout.write(json.dumps(document, ensure_ascii=False, default=str) + "\n")
    sys.stdout.flush()


def coloured(status: str) -> Text:
    """Return a status in its colour."""
    return Text(status, style=COLOURS.get(status, ""))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str | Text]]) -> None:
    """Print a table: folded to the window on a terminal, aligned and never cut on a pipe; a row is one line there."""
    out = console()
    if out.is_terminal:
        table = Table(*columns, box=None, pad_edge=False, header_style="bold")
        for row in rows:
            # As Text: a plain str would be read as markup, and an agent may write square brackets.
            table.add_row(*(_cell(cell) for cell in row))
        out.print(table, soft_wrap=False)
        return
    texts = [list(columns), *([_cell(cell).plain for cell in row] for row in rows)]
    widths = [max(len(row[place]) for row in texts) for place in range(len(columns))]
    for row in texts:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        sys.stdout.write("  ".join(cells).rstrip() + "\n")


def _cell(cell: str | Text) -> Text:
    return Text(plain(cell.plain), style=cell.style) if isinstance(cell, Text) else Text(plain(cell))


def clock_time(at_ms: int) -> str:
    """Return a time of today as 14:03:59, another day's with its date; local time."""
    then, now = time.localtime(at_ms / 1000), time.localtime()
    today = (then.tm_year, then.tm_yday) == (now.tm_year, now.tm_yday)
    return time.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M:%S", then)


def duration(seconds: float) -> str:
    """Return a duration that fits a column: 0.12 s, 14.2 s, 3 min, 5 h, 2 d."""
    if seconds < MINUTE:
        return f"{max(0.0, seconds):.2f} s" if seconds < 1 else f"{seconds:.1f} s"
    if seconds < HOUR:
        return f"{seconds / MINUTE:.0f} min"
    return f"{seconds / HOUR:.0f} h" if seconds < 2 * DAY else f"{seconds / DAY:.0f} d"
