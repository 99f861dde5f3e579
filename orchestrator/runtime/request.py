"""What the worker's parent process reports of an execution: to Flower, and to whoever else listens to task events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from celery.utils.saferepr import saferepr
from celery.worker.request import Request

from orchestrator.runtime.outcomes import DEGRADED, StepOutcome

if TYPE_CHECKING:
    from billiard.einfo import ExceptionInfo

WRAPPER: Final = "ExceptionWithTraceback()"


class StepRequest(Request):
    """Celery's request, which also tells Flower how an ignored execution ended, and every reason in words."""

    def on_failure(self, exc_info: ExceptionInfo, send_failed_event: bool = True, return_ok: bool = False) -> object:  # noqa: FBT001, FBT002  Celery's signature
        """Report an execution that did not return."""
        # billiard wraps what comes from a child, and leaves alone what comes from a thread.
        outcome = getattr(exc_info.exception, "exc", exc_info.exception)
        if isinstance(outcome, StepOutcome):
            self.send_event(outcome.event, **_facts(outcome))
        return super().on_failure(exc_info, send_failed_event=send_failed_event, return_ok=return_ok)

    def send_event(self, kind: str, **fields: object) -> None:
        """
        Send a task event.

        Where one carries an exception it goes into `result` too, the column that Flower shows and searches. An output
        that a fallback gave is announced by an event of its own before, which Flower's metrics count.
        """
        # From a prefork child it comes as its repr.
        if kind == "task-succeeded" and str(fields.get("result")).lstrip("'").startswith(DEGRADED):
            super().send_event("task-degraded", result=fields["result"])
        if fields.get("exception") == WRAPPER:
            # Of a lost or timed out child billiard gives only its wrapper; the traceback ends in the exception itself.
            lines = [line for line in str(fields.get("traceback")).splitlines() if line.strip('" ')]
            fields["exception"] = lines[-1].rpartition("exceptions.")[2] if lines else WRAPPER
        if "exception" in fields:
            fields.setdefault("result", fields["exception"])
        super().send_event(kind, **fields)


def _facts(outcome: StepOutcome) -> dict[str, object]:
    if outcome.event == "task-revoked":
        return {"terminated": False, "signum": None, "expired": False, "exception": str(outcome)}
    if outcome.event == "task-rejected":
        # Celery ranks REJECTED before STARTED, as it never rejects what has begun: without the field Flower would show
        # STARTED for ever.
        return {"state": "REJECTED", "exception": str(outcome)}
    return {"exception": str(outcome), "traceback": ""}


class StartRequest(StepRequest):
    """A request to start a run, shown without its input, of which the message's own repr holds the beginning."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        given = self._kwargs if isinstance(self._kwargs, dict) else {}
        flow = given.get("flow", next(iter(self._args or ()), None))
        shown = {"flow": flow, "key": given.get("key")}
        self._argsrepr = "()"
        self._kwargsrepr = saferepr({name: value for name, value in shown.items() if value is not None}, maxlen=256)
