"""The results of a step's sub-steps, as its agent records and recalls them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar

from orchestrator.client import Client
from orchestrator.errors import LeaseLost, RunNotFound, WrongState
from orchestrator.runtime.bridge import awaited, host_here

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery

    from orchestrator.runtime.process import WorkerProcess
    from orchestrator.state.runs import Begun

P = ParamSpec("P")
T = TypeVar("T")

SOON: Final = 0.001
"""Seconds that a child has of a step whose time is over."""


class StepJournal:
    """
    The journal of one execution of a step.

    Args:
        process: with the store of the runs.
        app: publishes child runs.
        begun: the execution; once its lease is lost nothing is recorded any more.
        until: when the step must be done, in seconds of `time.monotonic()`.
    """

    def __init__(self, process: WorkerProcess, app: Celery, begun: Begun, until: float) -> None:
        self._process, self._app, self._begun, self._until = process, app, begun, until
        self._store = process.store

    def recall(self, name: str) -> bytes | None:
        """Return a recorded result."""
        return self._store.recall(self._begun, name)

    def record(self, name: str, value: bytes) -> bytes:
        """Record a result; what was recorded first stands and is returned."""
        return self._store.record(self._begun, name, value)

    def submit(self, flow: str, value: object, *, key: str, deadline: float | None) -> str:
        """Submit a child run; the same key finds the one that was submitted before."""
        settings, begun = self._process.settings, self._begun
        client = Client(settings, app=self._app, connection=self._store.client)
        if deadline is None and begun.step.until_ms is not None:
            # Without its step nobody waits for it.
            deadline = max(SOON, min(settings.run_deadline, self._until - time.monotonic()))
        try:
            run = client.submit(
                flow,
                value,
                key=key,
                deadline=deadline,
                priority=begun.priority,
                tenant=begun.tenant,
                parent=begun.run_id,
                parent_step=begun.step.name,
            )
        except (RunNotFound, WrongState):
            raise LeaseLost(begun.run_id, begun.step.name) from None
        return run.id

    async def call(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Make a blocking call from a coroutine: of an agent on a shared event loop, without holding up the others."""
        host = host_here()
        return function(*args, **kwargs) if host is None else await awaited(host, function, *args, **kwargs)
