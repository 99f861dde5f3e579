"""How far many runs of one flow are, stage by stage."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from orchestrator.messages import RunState

if TYPE_CHECKING:
    from rich.console import Console

    from orchestrator.client import Client

LOOK: Final = 0.7  # s between two looks at the runs
LINE: Final = 2.0  # s between two lines on a pipe


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
        before = self.progress()
        self.states |= {state.id: state for state in self.client.store.load_many(open_ids)}
        self._looked = time.monotonic()
        if self.progress() != before:
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


class Bars:
    """A bar for each stage, for a terminal."""

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

    def update(self) -> None:
        """Show how far the runs are."""
        for stage, (done, failed) in self._batch.progress().items():
            self.progress.update(self._tasks[stage], completed=done, failed=f"{failed} failed" if failed else "")


class Lines:
    """A line every two seconds, for a pipe."""

    def __init__(self, batch: Batch, out: Console) -> None:
        self._batch = batch
        self._out = out
        self._began = self._told = time.monotonic()
        self._last: Mapping[str, tuple[int, int]] = {}

    def update(self) -> None:
        """Print how far the runs are, if it is time and there is something new."""
        now, done = time.monotonic(), self._batch.progress()
        over = self._batch.settled and done != self._last
        if (now - self._told < LINE or done == self._last) and not over:
            return
        self._told, self._last = now, done
        total = len(self._batch.ids)
        stages = "  ".join(
            f"{stage} {number}/{total}" + (f" ({failed} failed)" if failed else "")
            for stage, (number, failed) in done.items()
        )
        self._out.print(f"{now - self._began:5.1f} s  {stages}", markup=False)
