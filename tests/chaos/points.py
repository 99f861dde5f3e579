"""
The points where a worker may die, and the file that tells that it did.

child    before-begin, after-begin, in-handler (its effect made), before-commit, after-commit (what follows not yet
         published), before-publish and after-publish (of the step named); after-submit:start (the run is created,
         nothing published)
parent   popped (taken off the queue, booked nowhere), received (not yet handed to the pool),
         after-lost and after-redispatch (the caretaker has made the step ready, nothing is published)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

IN_CHILD: Final = (
    "before-begin",
    "after-begin",
    "in-handler",
    "before-commit",
    "after-commit",
    "before-publish",
    "after-publish",
)
IN_PARENT: Final = ("popped", "received")
IN_CARETAKER: Final = ("after-lost", "after-redispatch")

MARKS: Final = "CRASH_MARKS"


def mark(folder: Path, run_id: str, point: str, step: str) -> Path:
    """Return the file that says this death has happened."""
    return folder / f"{run_id}.{point}.{step}"
