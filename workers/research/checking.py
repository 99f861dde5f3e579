"""Whether a quotation stands where it is said to stand: the file is read, and no index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from workers.research.folder import find, read_lines
from workers.research.models import MAX_QUOTE, Checked, Citation, Statement

AROUND: Final = 6
"""Lines in front of a quotation and behind it that are told, at most."""
TELLING: Final = 20
"""Characters from which on a part of a line is the same one wherever it stands."""


def check(folders: Sequence[str], citation: Citation) -> Checked:
    """
    Look at the lines of a document that are cited.

    Args:
        folders: those that are asked about.
        citation: what is said to stand there.
    """
    file = find(folders, citation.path)
    lines = None if file is None else read_lines(file)
    if lines is None:
        return Checked(stands=False, found="")
    quoted, there = citation.quote.split("\n"), lines[citation.first - 1 : citation.last]
    found = _told(there)
    if len(there) == len(quoted) == 1 and citation.quote.strip() and citation.quote != there[0]:
        before, part, after = there[0].partition(citation.quote)
        if part:
            return Checked(
                stands=True, found=part, before=before[-MAX_QUOTE:], after=after[: MAX_QUOTE // 2], within=True
            )
    if citation.last - citation.first + 1 == len(quoted) and there == quoted:
        above = _block(lines[max(0, citation.first - 1 - AROUND) : citation.first - 1][::-1])[::-1]
        below = _block(lines[citation.last : citation.last + AROUND])
        return Checked(stands=True, found=found, before=_told(above), after=_told(below))
    return Checked(stands=False, found=found, moved=_elsewhere(lines, citation, quoted))


def moved(claim: Statement, checked: Checked) -> Statement | None:
    """Return a claim with its quotation where it stands, if it is elsewhere in the document."""
    return None if checked.moved is None else Statement(text=claim.text, evidence=checked.moved)


def _elsewhere(lines: Sequence[str], citation: Citation, quoted: Sequence[str]) -> Citation | None:
    """Return where the same lines stand now, the nearest place."""
    if not any(line.strip() for line in quoted):
        return None
    starts = [at for at in range(len(lines) - len(quoted) + 1) if list(lines[at : at + len(quoted)]) == list(quoted)]
    if not starts and len(quoted) == 1 and len(quoted[0]) >= TELLING:
        starts = [at for at, line in enumerate(lines) if quoted[0] in line]
    if not starts:
        return None
    nearest = min(starts, key=lambda at: abs(at + 1 - citation.first))
    return citation.model_copy(update={"first": nearest + 1, "last": nearest + len(quoted)})


def _block(lines: Sequence[str]) -> list[str]:
    """Return the lines up to the first blank one."""
    found: list[str] = []
    for line in lines:
        if not line.strip():
            break
        found.append(line)
    return found


def _told(lines: Sequence[str]) -> str:
    return "\n".join(lines)[:MAX_QUOTE]
