"""Celery's task events, as Flower gets them."""

from __future__ import annotations

import ast
import threading
from typing import TYPE_CHECKING, Any, Self

from tests.servers import wait_until

if TYPE_CHECKING:
    from celery import Celery
    from celery.events.receiver import EventReceiver

    from orchestrator import Run

TaskEvent = dict[str, Any]  # its fields depend on its type
LISTEN_TIMEOUT = 15.0
SLICE = 0.1
ENDS = {"task-succeeded", "task-failed", "task-rejected", "task-retried", "task-revoked"}


class Listener:
    """
    Collects events on a thread while its block runs.

    Attributes:
        events: so far, in the order of arrival.
    """

    def __init__(self, app: Celery) -> None:
        self.events: list[TaskEvent] = []
        self._app = app
        self._receiver: EventReceiver | None = None
        self._thread = threading.Thread(target=self._listen, name="listener", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        # A worker's heartbeat tells that events arrive: what is published before the subscription is lost.
        wait_until(lambda: self.events, LISTEN_TIMEOUT, "an event arrives")
        return self

    def __exit__(self, *_: object) -> None:
        if self._receiver is not None:
            self._receiver.should_stop = True
        self._thread.join()

    def _listen(self) -> None:
        with self._app.connection_for_read() as connection:
            self._receiver = self._app.events.Receiver(connection, handlers={"*": self.events.append})
            for _ in self._receiver.consume(limit=None, safety_interval=SLICE, wakeup=True):
                pass

    def of(self, uuid: str) -> list[TaskEvent]:
        """Return a message's events."""
        return [event for event in self.events if event.get("uuid") == uuid]

    def types(self, uuid: str) -> list[str]:
        """Return the types of a message's events."""
        return [event["type"] for event in self.of(uuid)]

    def end_of(self, uuid: str) -> str:
        """Wait until a message has ended; return the type of the event that it ended with."""
        wait_until(lambda: ENDS & set(self.types(uuid)), LISTEN_TIMEOUT, f"message {uuid} has ended")
        return next(kind for kind in self.types(uuid) if kind in ENDS)

    def messages(self, run: Run) -> list[TaskEvent]:
        """Return the received-events of a run's messages, in their order."""
        return [
            event
            for event in self.events
            if event["type"] == "task-received" and ast.literal_eval(event["kwargs"])["run"] == run.id
        ]
