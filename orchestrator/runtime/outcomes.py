"""How an execution that did not simply succeed looks to Celery and Flower."""

from __future__ import annotations

from typing import Final

from celery.exceptions import Ignore

DEGRADED: Final = "degraded"
"""How what an execution returns begins, where a fallback gave its output; also a task event of its own."""


class StepOutcome(Ignore):
    """
    An execution that Celery must count neither as success nor as failure.

    `Ignore` keeps a chain from going on and a chord from counting; `event` is the task event that sets the state Flower
    shows, which Celery alone would leave at STARTED.
    """

    event: str

    def __init__(self, reason: str) -> None:
        super().__init__(reason)

    def __str__(self) -> str:
        return str(self.args[0])


class StepSuperseded(StepOutcome):
    """A duplicate, late, misdirected or misshapen delivery: refused, nothing was changed. REJECTED in Flower."""

    event = "task-rejected"


class StepClosed(StepOutcome):
    """The run has ended, by cancel or deadline: nothing starts or is written any more. REVOKED in Flower."""

    event = "task-revoked"


class StepAgain(StepOutcome):
    """The gate sent the stage back, or on to its fallback: another execution follows. RETRY in Flower."""

    event = "task-retried"
