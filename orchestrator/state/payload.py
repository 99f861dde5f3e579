"""Values as they are stored: JSON bytes, and the claim check that stands for a large one."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final, cast

from orchestrator.errors import PayloadTooLarge, WrongState
from orchestrator.state import keys

if TYPE_CHECKING:
    from redis import Redis

# JSON never starts with these bytes, so neither can be mistaken for a value.
CLAIM: Final = b"\x01"
ENDS_WITH: Final = b"\x02"
"""Of an object that a script has made and that ends with a value behind a claim check: that one's name, what closes the
object, and what comes before the value, each a line."""


class Payloads:
    """
    Store and fetch values; those over `claim_bytes` compressed, under a key of their own.

    Args:
        client: Redis, replies as bytes.
        claim_bytes: the largest value kept beside the run's state.
        max_bytes: the largest value at all.
    """

    def __init__(self, client: Redis, *, claim_bytes: int, max_bytes: int) -> None:
        self._client = client
        self._claim_bytes = claim_bytes
        self._max_bytes = max_bytes

    def check(self, what: str, value: bytes) -> None:
        """
        Refuse what is too large.

        Raises:
            PayloadTooLarge: with the size and the limit.
        """
        if len(value) > self._max_bytes:
            raise PayloadTooLarge(what, len(value), self._max_bytes)

    def put(self, run_id: str, name: str, value: bytes, *, ttl_ms: int) -> bytes:
        """
        Return what to store in the run's state: the value, or a claim check for it.

        Args:
            run_id: the run it belongs to.
            name: unique in the run; a stale attempt's value must not replace another's.
            value: JSON.
            ttl_ms: how long a claim-checked value must live.
        """
        if len(value) <= self._claim_bytes:
            return value
        self._client.set(keys.blob(run_id, name), zlib.compress(value), px=ttl_ms)
        return CLAIM + name.encode()

    def get(self, run_id: str, stored: bytes) -> bytes:
        """
        Return the value for what the run's state holds.

        Raises:
            WrongState: the claim-checked value is gone.
        """
        if stored.startswith(ENDS_WITH):
            name, closing, text = stored[1:].split(b"\n", 2)
            return text + self._claimed(run_id, name.decode()) + closing
        return self._claimed(run_id, stored[1:].decode()) if stored.startswith(CLAIM) else stored

    def _claimed(self, run_id: str, name: str) -> bytes:
        compressed = cast("bytes | None", self._client.get(keys.blob(run_id, name)))
        if compressed is None:
            raise WrongState(run_id, f"the value {name!r} has expired or was evicted; Redis must run with noeviction")
        return zlib.decompress(compressed)

    def drop(self, run_id: str, *stored: bytes) -> None:
        """Delete the claim-checked values of an attempt that was not committed."""
        claims = [keys.blob(run_id, one[1:].decode()) for one in stored if one.startswith(CLAIM)]
        if claims:
            self._client.unlink(*claims)
