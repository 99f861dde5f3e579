"""Celery's consumer, which sets aside what it cannot read, and gathers its task events."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from celery.worker.consumer import Consumer as CeleryConsumer

from orchestrator.runtime.process import current

if TYPE_CHECKING:
    from kombu import Message


EVENT_DELAY: Final = 0.1
"""Seconds a task event may wait for others: Celery publishes them at every turn of a busy worker's loop, one blocking
round trip each, which was the larger half of that loop's time."""


class Consumer(CeleryConsumer):
    """
    The consumer of a worker.

    Celery logs these four kinds of message and drops them; here each is kept first, with the reason, for
    `celeriac dead list`.
    """

    _flush_due = 0.0

    def on_send_event_buffered(self) -> None:
        """Publish the gathered events a little later; a timer lost with its connection is set again."""
        now = time.monotonic()
        if self.hub and now >= self._flush_due:
            self._flush_due = now + EVENT_DELAY
            self.hub.call_later(EVENT_DELAY, self._flush_events)

    def shutdown(self) -> None:
        """Publish what is still gathered, then shut down."""
        self._flush_events()
        super().shutdown()

    def on_unknown_message(self, body: object, message: Message) -> None:
        """Keep a message that is no task at all."""
        set_aside(message, "not a task message: it names no task")
        super().on_unknown_message(body, message)

    def on_unknown_task(self, body: object, message: Message, exc: Exception) -> None:
        """Keep a message for a task that no module here defines."""
        set_aside(message, f"no agent or task {exc.args[0]!r} here: check CELERIAC_AGENTS of this worker")
        super().on_unknown_task(body, message, exc)

    def on_invalid_task(self, body: object, message: Message, exc: Exception) -> None:
        """Keep a message whose arguments or content type Celery refuses."""
        set_aside(message, f"{type(exc).__name__}: {exc}")
        super().on_invalid_task(body, message, exc)

    def on_decode_error(self, message: Message, exc: Exception) -> None:
        """Keep a message whose body cannot be decoded."""
        set_aside(message, f"the body cannot be decoded: {exc}")
        super().on_decode_error(message, exc)


def set_aside(message: Message, reason: str) -> None:
    """Keep a message with the reason why nobody could read it."""
    body = message.body if isinstance(message.body, bytes) else str(message.body).encode()
    queue = (message.delivery_info or {}).get("routing_key") or "?"
    current().dead.add(queue=str(queue), reason=reason, body=body)
