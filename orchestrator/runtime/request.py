"""What the worker's parent process reports of a step's execution."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery.worker.request import Request

from orchestrator.runtime.outcomes import StepOutcome

if TYPE_CHECKING:
    from billiard.einfo import ExceptionInfo


class StepRequest(Request):
    """Celery's request, which also tells Flower how an ignored execution ended."""

    def on_failure(self, exc_info: ExceptionInfo, send_failed_event: bool = True, return_ok: bool = False) -> object:  # noqa: FBT001, FBT002  Celery's signature
        """Report an execution that did not return."""
        # billiard wraps what comes from a child, and leaves alone what comes from a thread.
        outcome = getattr(exc_info.exception, "exc", exc_info.exception)
        if isinstance(outcome, StepOutcome):
            self.send_event(outcome.event, **_facts(outcome))
        return super().on_failure(exc_info, send_failed_event=send_failed_event, return_ok=return_ok)


def _facts(outcome: StepOutcome) -> dict[str, object]:
    if outcome.event == "task-revoked":
        return {"terminated": False, "signum": None, "expired": False, "exception": str(outcome)}
    return {"exception": str(outcome), "traceback": ""}
