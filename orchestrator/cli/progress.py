"""How far many runs of one flow are: by stage, by what specialists were given, by how often sources were woken."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from orchestrator.messages import RunState

if TYPE_CHECKING:
    from rich.console import Console

    from orchestrator.client import Client

LOOK: Final = 0.7  # s between two looks at the runs
LINE: Final = 2.0  # s between two lines on a pipe


_WAKES: Final = {"completed": "ok", "failed": "failed", "cancelled": "late"}


class Batch:
    """
    Runs that were submitted together, as they were when last looked at.

    Args:
        client: to look with.
        ids: of the runs.
        stages: names of the flow's steps, in order.
    """

    def __init__(self, client: Client, ids: Sequence[str], stages: Sequence[str]) -> None:
        self.ids = list(ids)
        self.stages = list(stages)
        self.states: dict[str, RunState] = {}
        self.moved = time.monotonic()  # when something was last seen to have happened
        self.client = client
        self._looked = 0.0

    def look(self) -> None:
        """Read the runs that have not ended, unless they were read just now."""
        if time.monotonic() - self._looked < LOOK:
            return
        open_ids = [run_id for run_id in self.ids if run_id not in self.states or not self.states[run_id].finished]
        before = self.progress(), self.members()
        self.states |= {state.id: state for state in self.client.store.load_many(open_ids)}
        self._looked = time.monotonic()
        if (self.progress(), self.members()) != before:
            self.moved = self._looked

    @property
    def settled(self) -> bool:
        """Whether every run has ended or waits for a person."""
        return len(self.states) == len(self.ids) and all(
            state.finished or state.status == "waiting" for state in self.states.values()
        )

    def progress(self) -> dict[str, tuple[int, int]]:
        """Return, for each stage, how many runs have completed it, and how many ended in it without a result."""
        return progress_by_stage(list(self.states.values()), self.stages)

    def members(self) -> dict[str, tuple[int, int, int]]:
        """Return, for each specialist or source, what it has done, what failed, and how often it was asked."""
        return progress_by_specialist(list(self.states.values()))

    def outcomes(self) -> Counter[str]:
        """Return how many runs are in each status."""
        return Counter(state.status for state in self.states.values())


def progress_by_stage(states: Sequence[RunState], stages: Sequence[str]) -> dict[str, tuple[int, int]]:
    """
    Return how far runs are.

    Args:
        states: the runs.
        stages: names of their flow's steps.

    Returns:
        By stage, how many runs have completed it, and how many failed or were cancelled in it.
    """
    done, failed = dict.fromkeys(stages, 0), dict.fromkeys(stages, 0)
    for state in states:
        completed = {step.name for step in state.steps if step.status == "completed" or state.status == "completed"}
        for stage in completed & done.keys():
            done[stage] += 1
        left = [step.name for step in state.steps if step.name in done and step.name not in completed]
        if state.finished and left:
            failed[left[0]] += 1
    return {stage: (done[stage], failed[stage]) for stage in stages}


def progress_by_specialist(states: Sequence[RunState]) -> dict[str, tuple[int, int, int]]:
    """
    Return, by specialist, how many of its assignments are done, how many failed or came late, and all of them.

    So for the sources of blackboards, by their wakes, and for members of conversations, by their turns.
    """
    ended: dict[str, Counter[str]] = {}
    for state in states:
        for step in state.steps:
            if step.specialist is not None:
                ended.setdefault(step.specialist, Counter())[step.outcome or "open"] += 1
            elif who := step.source or step.peer:
                ended.setdefault(who, Counter())[_WAKES.get(step.status, "open")] += 1
    return {
        name: (counts["ok"] + counts["degraded"], counts["failed"] + counts["late"], counts.total())
        for name, counts in sorted(ended.items())
    }


class Bars:
    """A bar for each stage, specialist and source, for a terminal."""

    def __init__(self, batch: Batch, out: Console) -> None:
        self._batch = batch
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[failed]}", style="red"),
            TimeElapsedColumn(),
            console=out,
        )
        self._tasks: dict[str, TaskID] = {
            stage: self.progress.add_task(stage, total=len(batch.ids), failed="") for stage in batch.stages
        }
        self._given: dict[str, TaskID] = {}  # specialists, once they have something to do

    def update(self) -> None:
        """Show how far the runs are."""
        for stage, (done, failed) in self._batch.progress().items():
            self.progress.update(self._tasks[stage], completed=done, failed=_failures(failed))
        for name, (done, failed, total) in self._batch.members().items():
            if name not in self._given:
                self._given[name] = self.progress.add_task(f"  {name}", failed="")
            self.progress.update(self._given[name], total=total, completed=done, failed=_failures(failed))


class Lines:
    """A line every two seconds, for a pipe."""

    def __init__(self, batch: Batch, out: Console) -> None:
        self._batch = batch
        self._out = out
        self._began = self._told = time.monotonic()
        self._last = ""

    def update(self) -> None:
        """Print how far the runs are, if it is time and there is something new."""
        now, said = time.monotonic(), self._say()
        over = self._batch.settled and said != self._last
        if (now - self._told < LINE or said == self._last) and not over:
            return
        self._told, self._last = now, said
        self._out.print(f"{now - self._began:5.1f} s  {said}", markup=False)

    def _say(self) -> str:
        runs = len(self._batch.ids)
        stages = [(name, done, failed, runs) for name, (done, failed) in self._batch.progress().items()]
        given = [(name, *counts) for name, counts in self._batch.members().items()]
        return "  ".join(
            f"{name} {done}/{total}" + (f" ({_failures(failed)})" if failed else "")
            for name, done, failed, total in [*stages, *given]
        )


def _failures(number: int) -> str:
    return f"{number} failed" if number else ""
