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
from functools import lru_cache
from hashlib import sha256
from typing import Final

ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: sorts as its values do
TIME_DIGITS: Final = 10
RANDOM_DIGITS: Final = 12
ID_LENGTH: Final = TIME_DIGITS + RANDOM_DIGITS + 2
STATUSES: Final = ("queued", "running", "waiting", "completed", "failed", "cancelled", "undoing")

CARETAKER: Final = "{caretaker}:lease"
"""string: which worker is the caretaker; lives as long as its lease."""

UNREADABLE: Final = "{dead}:messages"
"""stream: messages nobody could read, with the reason; capped. Permanent: an operator empties it."""


def _base32(number: int, digits: int) -> str:
    return "".join(ALPHABET[number >> shift & 31] for shift in range(5 * (digits - 1), -1, -5))


def _owned(tenant: str, key: str) -> bytes:
    # With the length in front, no tenant can name a key that is another's.
    return f"{len(tenant)}:{tenant}{key}".encode()


def new_run_id(shards: int, key: str | None = None, tenant: str = "", parent: str | None = None) -> str:
    """
    Make a run id: 10 digits of time (ms), 12 random, 2 of the shard; ids sort by time.

    Args:
        shards: how many there are, 1 to 256.
        key: an idempotency key decides the shard, so that two submissions meet in one hash slot.
        tenant: keys are the tenant's own.
        parent: a child's shard is its parent's, so that one script can look at both.
    """
    shard = secrets.randbelow(shards) if key is None else crc32(_owned(tenant, key)) % shards
    now = _base32(time.time_ns() // 1_000_000, TIME_DIGITS)
    place = f"{shard:02x}" if parent is None else parent[-2:]
    return f"{now}{_base32(secrets.randbits(5 * RANDOM_DIGITS), RANDOM_DIGITS)}{place}"


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


def children(run_id: str) -> str:
    """set: the runs that a run's steps have submitted. As `run`."""
    return f"{run(run_id)}:children"


def board(run_id: str, step: str) -> str:
    """hash: a blackboard by its step: its entries, who has locked them, who waits for what. As `run`."""
    return f"{run(run_id)}:board:{step}"


def talk(run_id: str, step: str) -> str:
    """hash: a conversation by its step: its members and their mailboxes, what was said, who waits. As `run`."""
    return f"{run(run_id)}:talk:{step}"


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
    """
    zset: what is due when (ms). Permanent; empties itself.

    A run's deadline (`run`), a step's delay or gate (`run/step`), the time by which a step must be done (`run//step`),
    children to be ended (`run//`).
    """
    return f"{shard}:timers"


def marks(shard: str) -> str:
    """hash: per queue and priority, when the newest step that has begun became ready (ms). Permanent, one per agent."""
    return f"{shard}:marks"


def index(shard: str, status: str) -> str:
    """zset: runs of a status, by submission time; finished ones by expiry (ms). Permanent; the caretaker trims it."""
    return f"{shard}:runs:{status}"


def dead(shard: str) -> str:
    """zset: failed runs that are dead letters, by expiry (ms). Permanent; the caretaker trims it."""
    return f"{shard}:dead"


def idempotency(run_id: str, tenant: str, key: str) -> str:
    """string: run id and digest of what was submitted under a key. Expires `retention` after the run's deadline."""
    digest = sha256(_owned(tenant, key)).hexdigest()[:32]
    return f"{shard_of(run_id)}:key:{digest}"


def retry_budget(agent: str) -> str:
    """hash: what is left of an agent's retry budget. Expires an hour after the last retry it has given out."""
    return f"{{guards}}:retries:{agent}"


@lru_cache(maxsize=4096)
def of_run(run_id: str) -> tuple[str, ...]:
    """Return the keys that every script on a run takes, in the order that `_run.lua` names them."""
    shard = shard_of(run_id)
    return (
        run(run_id),
        data(run_id),
        events(run_id),
        ready(shard),
        leases(shard),
        timers(shard),
        marks(shard),
        *(index(shard, status) for status in STATUSES),
        dead(shard),
        children(run_id),
    )


@lru_cache(maxsize=1024)
def of_board(run_id: str, step: str) -> tuple[str, str, str]:
    """Return the keys that a script takes which changes a blackboard alone, in the order that `_few.lua` names them."""
    return run(run_id), events(run_id), board(run_id, step)


def member(run_id: str, step: str) -> str:
    """Name a step in an index."""
    return f"{run_id}/{step}"


def split_member(text: str) -> tuple[str, str | None]:
    """Take an index entry apart: the run, and the step where there is one."""
    run_id, _, step = text.partition("/")
    return run_id, step or None


# Guards: one hash slot for all of them, so that one script takes all that a call needs, or nothing.

GUARDS: Final = "{guards}"

GUARD_MEMBERS: Final = f"{GUARDS}:members"
"""hash: what each waiting or running call asked for and holds. Permanent; empties itself."""

GUARD_HOLDS: Final = f"{GUARDS}:holds"
"""zset: the calls that hold something, by when it is taken back from them (ms). Permanent; empties itself."""

GUARD_WAITING: Final = f"{GUARDS}:waiting"
"""set: agents with calls that wait for their turn. Permanent; empties itself."""

GUARD_BREAKERS: Final = f"{GUARDS}:breakers"
"""hash: the breakers' keys by name. Permanent; a name whose breaker has expired leaves when the list is read."""

GUARD_BUDGETS: Final = f"{GUARDS}:budgets"
"""set: names of budgets that do not expire. Permanent; an operator's."""


def guard_queue(agent: str) -> str:
    """zset: an agent's calls that wait, in the order of their turns. Permanent; empties itself."""
    return f"{GUARDS}:queue:{agent}"


def guard_turns(agent: str) -> str:
    """hash: where each tenant stands in an agent's queue. Permanent; goes with the queue."""
    return f"{GUARDS}:turns:{agent}"


def breaker(name: str) -> str:
    """hash: a breaker. Expires a day after its last call and longest wait; forced by an operator it is permanent."""
    return f"{GUARDS}:breaker:{name}"


def rate(name: str, per_ms: int) -> str:
    """hash: what was taken of a rate, by slice of time. Expires when nothing of it counts any more."""
    return f"{GUARDS}:rate:{per_ms}:{name}"


def slots(name: str) -> str:
    """hash: calls under way, in all and by tenant. Permanent; empties itself."""
    return f"{GUARDS}:slots:{name}"


def budget(name: str) -> str:
    """hash: what may be and was spent. A run's expires as it was told; a tenant's is permanent, an operator's."""
    return f"{GUARDS}:budget:{name}"


def pause(agent: str) -> str:
    """string: a service of an agent without rate limit and breaker has asked for a pause. Expires with the pause."""
    return f"{GUARDS}:pause:{agent}"


def good(agent: str, digest: str) -> str:
    """string: an agent's last good output, for an input or any. Expires as it was told."""
    return f"{GUARDS}:good:{agent}:{digest}"
