"""kombu's Redis transport, for which a message that nobody can read is no reason to stop."""

from __future__ import annotations

import logging
from queue import Empty
from typing import TYPE_CHECKING, Any

import redis
from kombu.transport import redis as kombu_redis

from orchestrator.runtime.process import current

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

POPPED_FIELDS = 2


class _Popping(redis.Redis):
    """Remembers the last message popped: kombu has taken it off the queue before it knows whether it can read it."""

    popped: tuple[bytes, bytes] | None = None

    def parse_response(self, connection: Any, command_name: str, **options: Any) -> Any:  # noqa: ANN401  redis-py's signature
        response = super().parse_response(connection, command_name, **options)  # type: ignore[no-untyped-call]
        if command_name == "BRPOP":
            self.popped = tuple(response) if response and len(response) == POPPED_FIELDS else None
        return response


class Channel(kombu_redis.Channel):
    """
    A channel that survives what it consumes.

    kombu decodes a message, and Celery looks at its shape, inside the event loop: an exception there ends the worker or
    its connection, and the message is gone or comes back for ever. Here it is set aside with its reason.
    """

    def _get_client(self) -> Callable[..., redis.Redis]:
        client: Callable[..., redis.Redis] = super()._get_client()  # type: ignore[no-untyped-call]  # kombu's is untyped
        return _Popping if client is redis.Redis else client

    def _brpop_read(self, **options: object) -> bool:
        try:
            return bool(super()._brpop_read(**options))  # type: ignore[no-untyped-call]  # kombu's is untyped
        except Empty:
            raise
        except (*self.connection_errors, *self.connection.channel_errors):
            raise
        except Exception as error:
            # Anything else was raised by this one message, on its way through kombu and Celery.
            popped: tuple[bytes, bytes] | None = getattr(self.client, "popped", None)
            if popped is None:
                raise
            self._set_aside(popped[0], popped[1], error)
            raise Empty from None

    def _set_aside(self, key: bytes, raw: bytes, error: Exception) -> None:
        queue = key.decode(errors="replace").split(self.sep)[0]
        reason = f"unreadable: {type(error).__name__}: {error}"
        logger.error("a message of queue %s is set aside: %s", queue, reason)
        current().dead.add(queue=queue, reason=reason, body=raw)
        # Where it got as far as being booked as delivered, it must not come back.
        for tag, message in list(self.qos._delivered.items()):  # noqa: SLF001  kombu has no public way to ask
            if getattr(message, "_raw", None) is not None and _same(message, raw):
                self.qos.ack(tag)


def _same(message: object, raw: bytes) -> bool:
    tag = getattr(message, "delivery_tag", None)
    return isinstance(tag, str) and tag.encode() in raw


class Transport(kombu_redis.Transport):
    """The Redis transport with the channel above."""

    Channel = Channel
