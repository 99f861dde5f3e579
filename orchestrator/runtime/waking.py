"""Lets delayed steps go on: those whose time has come, and those whose turn has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.patterns.canvas import publish_many
from orchestrator.state import keys

if TYPE_CHECKING:
    from collections.abc import Sequence

    from celery import Celery

    from orchestrator.runtime.process import WorkerProcess


def wake(app: Celery, process: WorkerProcess, agent: str, granted: Sequence[str]) -> None:
    """
    Wake the members of an agent's queue whose turn it is, and publish them.

    What does not wait any more gives its place to the next: its run has ended, or the step is another agent's.
    """
    while granted:
        steps = [(run_id, step) for run_id, step in map(keys.split_member, granted) if step]
        outcomes = process.store.wake(steps, turn=True)
        publish_steps(app, process, [one for one, what in zip(steps, outcomes, strict=True) if what == "ready"])
        gone = [
            member for member, what in zip(granted, outcomes, strict=True) if what not in {"ready", "early", "busy"}
        ]
        granted = [following for member in gone for following in process.guards.forget(agent, member)]


def publish_steps(app: Celery, process: WorkerProcess, steps: Sequence[tuple[str, str]]) -> None:
    """Publish steps that are ready, by run and name, with few round trips."""
    if steps:
        left = process.store.left_many([(run_id, [step]) for run_id, step in steps])
        publish_many(app, [state for state in left if state is not None])
