"""Celery's consumer, which sets aside what it cannot read, and gathers its task events."""

from __future__ import annotations

import json
import logging
import time
from typing import TYPE_CHECKING, Final

from celery import signals
from celery.exceptions import NotRegistered
from celery.worker.consumer import Consumer as CeleryConsumer

from orchestrator.agent import agents
from orchestrator.broker import START_QUEUE
from orchestrator.runtime.pool import AsyncioPool
from orchestrator.runtime.process import current
from orchestrator.runtime.vetting import defect

if TYPE_CHECKING:
    from collections.abc import Callable

    from kombu import Message


logger = logging.getLogger(__name__)

EVENT_DELAY: Final = 0.1
"""Seconds a task event may wait for others: Celery publishes them at every turn of a busy worker's loop, one blocking
round trip each, which was the larger half of that loop's time."""

EVENTS_GATHERED: Final = 500
"""Task events published together at most; a pool of agents that wait reaches Celery's 24 in a few milliseconds."""


class Consumer(CeleryConsumer):
    """
    The consumer of a worker.

    Celery logs some kinds of message that it cannot read and drops them, and others end its worker; here each is kept,
    with the reason, for `celeriac dead list`.
    """

    _flush_due = 0.0

    def on_ready(self) -> None:
        """Say which queues nobody publishes to: a misspelt -Q would otherwise wait for ever in silence."""
        super().on_ready()
        if self.event_dispatcher:
            self.event_dispatcher.buffer_limit = EVENTS_GATHERED
        if isinstance(self.pool, AsyncioPool):
            self.task_consumer.channel.wants = self.pool.wants
        strange = sorted(set(self.app.amqp.queues.consume_from) - {*agents(), START_QUEUE})
        if strange:
            logger.warning(
                "no agent is called %s: nothing of ours arrives there (agents: %s)",
                ", ".join(strange),
                ", ".join(agents()),
            )

    def on_send_event_buffered(self) -> None:
        """Publish the gathered events a little later; a timer lost with its connection is set again."""
        now = time.monotonic()
        if self.hub and now >= self._flush_due:
            self._flush_due = now + EVENT_DELAY
            self.hub.call_later(EVENT_DELAY, self._flush_events)

    def cancel_active_requests(self) -> None:
        """Cancel what runs; what has ended while the soft shutdown slept is told so first."""
        if isinstance(self.pool, AsyncioPool):
            self.pool.deliver()
        super().cancel_active_requests()

    def shutdown(self) -> None:
        """Publish what is still gathered, then shut down."""
        self._flush_events()
        super().shutdown()

    def create_task_handler(self, *args: object, **kwargs: object) -> Callable[[Message], None]:
        """Return what takes each message; a misshapen one never gets further."""
        handle: Callable[[Message], None] = super().create_task_handler(*args, **kwargs)

        def vet(message: Message) -> None:
            wrong = self._defect(message)
            if wrong is None:
                handle(message)
                return
            self._refuse(message, f"misshapen: {wrong}")

        return vet

    def _defect(self, message: Message) -> str | None:
        headers = message.headers
        if isinstance(headers, dict) and not isinstance(headers.get("task"), str | None):
            return "its header 'task' is no text"
        if not headers or (isinstance(headers, dict) and headers.get("task") not in self.strategies):
            return None  # protocol 1, an unknown task, no task at all: Celery asks below
        try:
            body = message.payload
        except Exception:  # noqa: BLE001  whatever a decoder raises, Celery asks below as well
            return None
        return defect(headers, body)

    # Celery's own four say that the message was discarded, each with a traceback; this one was kept.

    def on_unknown_message(self, body: object, message: Message) -> None:  # noqa: ARG002  Celery's signature
        """Keep a message that is no task at all."""
        self._refuse(message, "not a task message: it names no task")

    def on_unknown_task(self, body: object, message: Message, exc: Exception) -> None:  # noqa: ARG002
        """Keep a message for a task that no module here defines, and tell whoever waits for its result."""
        name = exc.args[0]
        self._refuse(message, f"no agent or task {name!r} here: check CELERIAC_AGENTS of this worker")
        task_id = (message.headers or {}).get("id")
        if isinstance(task_id, str):
            self.app.backend.mark_as_failure(task_id, NotRegistered(name))
            if self.event_dispatcher:
                self.event_dispatcher.send("task-failed", uuid=task_id, exception=f"NotRegistered({name!r})")
        signals.task_unknown.send(sender=self, message=message, exc=exc, name=name, id=task_id)

    def on_invalid_task(self, body: object, message: Message, exc: Exception) -> None:  # noqa: ARG002
        """Keep a message whose arguments or content type Celery refuses."""
        self._refuse(message, f"the body cannot be decoded: {type(exc).__name__}: {exc}", exc)

    def on_decode_error(self, message: Message, exc: Exception) -> None:
        """Keep a message whose body cannot be decoded."""
        self._refuse(message, f"the body cannot be decoded: {exc}", exc)

    def _refuse(self, message: Message, reason: str, exc: Exception | None = None) -> None:
        set_aside(message, reason)
        logger.error("a message is set aside, see `celeriac dead list`: %s", reason)
        message.reject_log_error(logger, self.connection_errors)
        signals.task_rejected.send(sender=self, message=message, exc=exc)


def _body_of(message: Message) -> bytes:
    return message.body if isinstance(message.body, bytes) else str(message.body).encode()


def set_aside(message: Message, reason: str) -> None:
    """Keep a message with the reason why nobody could read it; whole, so that it can be sent again."""
    raw = getattr(message, "_raw", None)
    body = json.dumps(raw).encode() if isinstance(raw, dict) else _body_of(message)
    queue = (message.delivery_info or {}).get("routing_key") or "?"
    current().dead.add(queue=str(queue), reason=reason, body=body)
