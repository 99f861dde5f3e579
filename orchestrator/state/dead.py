"""Messages nobody could read, set aside with the reason."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

from orchestrator.errors import InvalidInput
from orchestrator.state import keys

if TYPE_CHECKING:
    from kombu import Connection
    from redis import Redis

MAX_KEPT: Final = 10_000
MAX_BODY: Final = 64 * 1024
ID: Final = re.compile(r"[0-9]{1,18}-[0-9]{1,18}")

CUT: Final = "only its first 64 KiB are kept"
NO_MESSAGE: Final = "what is kept is no whole message of Celery's"


def is_message_id(text: str) -> bool:
    """Tell whether a text could be the id of a message that was set aside."""
    return ID.fullmatch(text) is not None


@dataclass(frozen=True)
class Unreadable:
    """
    A message that was set aside.

    Attributes:
        at_ms: when; `queue`: from which; `reason`: why.
        body: what it held, at most 64 KiB.
        hindrance: why it cannot be sent again but only dropped; None: it can.
    """

    id: str
    at_ms: int
    queue: str
    reason: str
    body: str
    hindrance: str | None = None


class DeadLetters:
    """
    The messages that were set aside; the newest 10,000 are kept.

    Args:
        client: replies as bytes.
    """

    def __init__(self, client: Redis) -> None:
        self._client = client

    def add(self, *, queue: str, reason: str, body: bytes) -> None:
        """Set a message aside."""
        self._client.xadd(
            keys.UNREADABLE,
            {"queue": queue, "reason": reason, "body": body[:MAX_BODY]},
            maxlen=MAX_KEPT,
            approximate=True,
        )

    def list(self, limit: int = 100) -> list[Unreadable]:
        """Return the newest messages, newest first."""
        return [_unreadable(*entry) for entry in cast("_Entries", self._client.xrevrange(keys.UNREADABLE, count=limit))]

    def count(self) -> int:
        """Return how many messages are kept."""
        return self._client.xlen(keys.UNREADABLE)

    def get(self, message_id: str) -> Unreadable:
        """
        Return a message.

        Raises:
            InvalidInput: there is none of this id.
        """
        return _unreadable(*self._entry(message_id))

    def drop(self, message_id: str) -> None:
        """
        Give a message up.

        Raises:
            InvalidInput: there is none of this id.
        """
        if not is_message_id(message_id) or not self._client.xdel(keys.UNREADABLE, message_id):
            raise _unknown(message_id)

    def redrive(self, message_id: str, broker: Connection) -> None:
        """
        Put a message back into its queue, behind what is there, as it was.

        Args:
            message_id: of the message.
            broker: where its queue is.

        Raises:
            InvalidInput: there is none of this id, it is not kept whole, or the broker is not Redis.
        """
        entry_id, fields = self._entry(message_id)
        found = _unreadable(entry_id, fields)
        if found.hindrance is not None:
            msg = f"message {message_id}: {found.hindrance}; it can only be dropped"
            raise InvalidInput(msg)
        if broker.transport.driver_type != "redis":
            msg = f"message {message_id}: messages are sent again on a Redis broker alone; publish it anew, and drop it"
            raise InvalidInput(msg)
        channel: Any = broker.default_channel  # kombu has no types
        envelope = json.loads(fields[b"body"])
        key = channel._q_for_pri(found.queue, channel._get_message_priority(envelope, reverse=False))  # noqa: SLF001  kombu's own way into the queue writes the message anew
        # Sent before it is dropped: who dies between the two leaves it in both, and what it asks for is done once.
        with channel.conn_or_acquire() as client:
            client.lpush(key, fields[b"body"])
        self._client.xdel(keys.UNREADABLE, message_id)

    def _entry(self, message_id: str) -> tuple[bytes, dict[bytes, bytes]]:
        if is_message_id(message_id):
            found = cast("_Entries", self._client.xrange(keys.UNREADABLE, min=message_id, max=message_id))
            if found:
                return found[0]
        raise _unknown(message_id)


_Entries = list[tuple[bytes, dict[bytes, bytes]]]


def _unreadable(entry_id: bytes, fields: dict[bytes, bytes]) -> Unreadable:
    return Unreadable(
        id=entry_id.decode(),
        at_ms=int(entry_id.split(b"-")[0]),
        queue=fields[b"queue"].decode(),
        reason=fields[b"reason"].decode(),
        body=fields[b"body"].decode(errors="replace"),
        hindrance=_hindrance(fields[b"body"]),
    )


def _hindrance(body: bytes) -> str | None:
    if len(body) >= MAX_BODY:
        return CUT
    try:
        envelope = json.loads(body)
    except (ValueError, RecursionError):
        return NO_MESSAGE
    # As kombu reads it: without these a worker can only set it aside again.
    whole = isinstance(envelope, dict) and "body" in envelope
    return (
        None
        if whole and all(isinstance(envelope.get(part), dict) for part in ("headers", "properties"))
        else NO_MESSAGE
    )


def _unknown(message_id: str) -> InvalidInput:
    return InvalidInput(f"there is no message {message_id!r}: check the id with `celeriac dead list`")
