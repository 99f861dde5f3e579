"""Messages nobody could read, set aside with the reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

from orchestrator.state import keys

if TYPE_CHECKING:
    from redis import Redis

MAX_KEPT: Final = 10_000
MAX_BODY: Final = 64 * 1024


@dataclass(frozen=True)
class Unreadable:
    """A message that was set aside: when (ms), from which queue, why, and what it held (at most 64 KiB)."""

    id: str
    at_ms: int
    queue: str
    reason: str
    body: str


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
        found = self._client.xrevrange(keys.UNREADABLE, count=limit)
        return [
            Unreadable(
                id=entry_id.decode(),
                at_ms=int(entry_id.split(b"-")[0]),
                queue=fields[b"queue"].decode(),
                reason=fields[b"reason"].decode(),
                body=fields[b"body"].decode(errors="replace"),
            )
            for entry_id, fields in cast("list[tuple[bytes, dict[bytes, bytes]]]", found)
        ]

    def count(self) -> int:
        """Return how many messages are kept."""
        return self._client.xlen(keys.UNREADABLE)
