"""
The points where a worker may die, and the file that tells that it did.

child    before-begin, after-begin, in-handler (its effect made), before-commit, after-commit (what follows not yet
         published), before-publish and after-publish (of the step named); after-submit:start (the run is created,
         nothing published)
         of what gives work out: before-delegate, after-stage (what its members take is stored, and nothing committed),
         after-delegate (nothing published), mid-publish (before the member named, those before it are published)
         of what fails: before-fail, after-fail
         of a member: after-join (it was the last; named is the step where they come together, not yet published)
         of what joins: before-gather, after-gather
parent   popped (taken off the queue, booked nowhere), received (not yet handed to the pool),
         after-lost, after-redispatch and after-overdue (the caretaker has made the step ready, nothing is published)
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
WHERE_WORK_IS_GIVEN_OUT: Final = ("before-delegate", "after-stage", "after-delegate")
IN_PARENT: Final = ("popped", "received")
IN_CARETAKER: Final = ("after-lost", "after-redispatch")

MARKS: Final = "CRASH_MARKS"


def mark(folder: Path, run_id: str, point: str, step: str) -> Path:
    """Return the file that says this death has happened."""
    return folder / f"{run_id}.{point}.{step.replace('/', '+')}"
