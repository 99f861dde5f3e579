"""One try of a source that may try again: what `repair` and `improve` have in common."""

from __future__ import annotations

from collections.abc import Callable

from orchestrator import Board, WriteConflict
from workers.rota.entries import WEEKS, name_of, weeks_on
from workers.rota.models import Effort, Instance, Note, Week

Search = Callable[[Instance, list[Week], int], list[Week] | None]


def try_once(board: Board, name: str, instance: Instance, search: Search, patience: int) -> Note:
    """
    Try once to change weeks for the better, and write down that it was tried.

    The weeks, and how many tries are left, are one write: it is refused as a whole where anybody else has changed one
    of these weeks. That change is audited, and the audit wakes the source again.

    Args:
        name: of the entry with its effort; its own write there wakes the source for the next try.
        search: given the weeks and the number of tries so far, returns those that are better; None: nothing to do.
        patience: tries in vain, one after the other, after which it gives up.
    """
    found = board.read(WEEKS, name)
    known: Effort = found[name].value if name in found else Effort()
    versions = {entry: item.version for entry, item in found.items() if entry != name}
    changed = search(instance, weeks_on(found), known.tries)
    if changed is None:
        return Note(text="nothing to do")
    weeks = {name_of(week.number): week for week in changed}
    # Anybody's change is a reason to try afresh.
    left = patience if weeks or known.of != versions else known.left
    effort = Effort(
        tries=known.tries + 1,
        left=left if weeks else left - 1,
        of={entry: version + (entry in weeks) for entry, version in versions.items()},
    )
    try:
        board.write({**weeks, name: effort})
    except WriteConflict:
        return Note(text="overtaken")
    return Note(text=f"changed {', '.join(weeks)}" if weeks else f"found nothing; {effort.left} tries left")
