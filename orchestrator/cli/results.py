"""What a run has come to, as it is shown."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from orchestrator.cli.plain import visible

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_LINES: Final = 60
"""Of a result on a terminal: what comes before it is still to be seen."""
WIDEST: Final = 1000
"""Characters of such a line."""


def result_lines(result: object, run_id: str, *, whole: bool) -> Iterator[str]:
    """
    Give a result as indented JSON, line by line, without control characters.

    Args:
        result: JSON data.
        run_id: whose it is.
        whole: all of it; else as much as a person reads on a terminal, and how to get the rest.
    """
    # JSON escapes the newlines within texts, so those that are left are its own.
    lines = json.dumps(result, indent=2, ensure_ascii=False).split("\n")
    shown = lines if whole else lines[:MOST_LINES]
    cut = 0
    for line in shown:
        text = visible(line)
        cut += not whole and len(text) > WIDEST
        yield text if whole or len(text) <= WIDEST else f"{text[: WIDEST - 1]}…"
    left = [
        f"{len(lines) - len(shown):,} more lines" if len(shown) < len(lines) else "",
        f"{cut} lines are cut off" if cut > 1 else "a line is cut off" if cut else "",
    ]
    if any(left):
        said = ", and ".join(part for part in left if part)
        yield f"… {said}: celeriac runs show {run_id} --all, or --json for programs"
