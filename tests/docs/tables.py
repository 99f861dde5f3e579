"""The tables of the documentation, for the tests that hold their rows."""

from __future__ import annotations

import re

from tests.docs.pages import ROOT


def table(page: str, heading: str) -> list[list[str]]:
    """
    Return the rows of a table, each a list of cells.

    Args:
        page: of the folder docs.
        heading: of the table's first column.
    """
    lines = (ROOT / "docs" / page).read_text(encoding="utf-8").splitlines()
    first = next((number for number, line in enumerate(lines) if line.startswith(f"| {heading} |")), None)
    assert first is not None, f"docs/{page} has no table that begins with {heading!r}"
    rows = []
    for line in lines[first + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return rows
