"""
Every Redis key, built here and nowhere else.

All keys of a run, and its shard's indexes, carry the shard's hash tag `{sNN}`: one script can touch all of them, on one
server or on a cluster. The shard is the last two hexadecimal digits of the run id, so an id alone finds its keys, and
changing the number of shards moves no existing run.
"""

from __future__ import annotations

import secrets
import time
from binascii import crc32
from hashlib import sha256
from typing import Final

ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: sorts as its values do
TIME_DIGITS: Final = 10
RANDOM_DIGITS: Final = 12
ID_LENGTH: Final = TIME_DIGITS + RANDOM_DIGITS + 2
STATUSES: Final = ("queued", "running", "waiting", "completed", "failed", "cancelled")

CARETAKER: Final = "{caretaker}:lease"
"""string: which worker is the caretaker; lives as long as its lease."""

UNREADABLE: Final = "{dead}:messages"
"""stream: messages nobody could read, with the reason; capped. Permanent: an operator empties it."""


def _base32(number: int, digits: int) -> str:
    return "".join(ALPHABET[number >> shift & 31] for shift in range(5 * (digits - 1), -1, -5))


def _owned(tenant: str, key: str) -> bytes:
    # With the length in front, no tenant can name a key that is another's.
    return f"{len(tenant)}:{tenant}{key}".encode()


def new_run_id(shards: int, key: str | None = None, tenant: str = "") -> str:
    """
    Make a run id: 10 digits of time (ms), 12 random, 2 of the shard; ids sort by time.

    Args:
        shards: how many there are, 1 to 256.
        key: an idempotency key decides the shard, so that two submissions meet in one hash slot.
        tenant: keys are the tenant's own.
    """
    shard = secrets.randbelow(shards) if key is None else crc32(_owned(tenant, key)) % shards
    now = _base32(time.time_ns() // 1_000_000, TIME_DIGITS)
    return f"{now}{_base32(secrets.randbits(5 * RANDOM_DIGITS), RANDOM_DIGITS)}{shard:02x}"


def is_run_id(text: object) -> bool:
    """Tell whether this is a text of the form of a run id."""
    if not isinstance(text, str):
        return False
    head, shard = text[:-2], text[-2:]
    return len(text) == ID_LENGTH and set(head) <= set(ALPHABET) and set(shard) <= set("0123456789abcdef")


def shard_of(run_id: str) -> str:
    """Return the hash tag of a run's shard, `{s07}`."""
    return f"{{s{run_id[-2:]}}}"


def shards(count: int) -> list[str]:
    """Return the hash tags of all shards."""
    return [f"{{s{number:02x}}}" for number in range(count)]


def run(run_id: str) -> str:
    """hash: the projection. Owner: the run; expires `retention` after its end."""
    return f"{shard_of(run_id)}:run:{run_id}"


def data(run_id: str) -> str:
    """hash: inputs and outputs by name, or the claim checks of large ones. As `run`."""
    return f"{run(run_id)}:data"


def events(run_id: str) -> str:
    """stream: the log. As `run`."""
    return f"{run(run_id)}:events"


def blob(run_id: str, name: str) -> str:
    """string: one large value, compressed. Expires `retention` after the run's deadline at the latest."""
    return f"{run(run_id)}:blob:{name}"


def ready(shard: str) -> str:
    """zset: steps whose message is under way, by dispatch deadline (ms). Permanent; empties itself."""
    return f"{shard}:ready"


def leases(shard: str) -> str:
    """zset: steps in execution, by lease expiry (ms). Permanent; empties itself."""
    return f"{shard}:leases"


def timers(shard: str) -> str:
    """zset: run deadlines (`run`) and gate timeouts (`run/step`), by due time (ms). Permanent; empties itself."""
    return f"{shard}:timers"


def marks(shard: str) -> str:
    """hash: per queue and priority, when the newest step that has begun became ready (ms). Permanent, one per agent."""
    return f"{shard}:marks"


def index(shard: str, status: str) -> str:
    """zset: runs of a status, by submission time; finished ones by expiry (ms). Permanent; the caretaker trims it."""
    return f"{shard}:runs:{status}"


def idempotency(run_id: str, tenant: str, key: str) -> str:
    """string: run id and digest of what was submitted under a key. Expires `retention` after the run's deadline."""
    digest = sha256(_owned(tenant, key)).hexdigest()[:32]
    return f"{shard_of(run_id)}:key:{digest}"


def of_run(run_id: str) -> list[str]:
    """Return the keys that every script on a run takes, in the order that `_run.lua` names them."""
    shard = shard_of(run_id)
    return [
        run(run_id),
        data(run_id),
        events(run_id),
        ready(shard),
        leases(shard),
        timers(shard),
        marks(shard),
        *(index(shard, status) for status in STATUSES),
    ]


def member(run_id: str, step: str) -> str:
    """Name a step in an index."""
    return f"{run_id}/{step}"


def split_member(text: str) -> tuple[str, str | None]:
    """Take an index entry apart: the run, and the step where there is one."""
    run_id, _, step = text.partition("/")
    return run_id, step or None
