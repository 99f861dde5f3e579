"""
The Lua scripts, one file each, and one typed function for each.

`_run.lua` is put in front of every script on a run: it names the keys and holds what the scripts share.
"""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING, Literal, Protocol, cast

from orchestrator.state import keys

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redis import Redis
    from redis.client import Pipeline

Reply = list[bytes]
Renewal = Literal["renewed", "stale", "closed"]
Held = tuple[str, str, str]
"""A lease: run, step, fence."""


class _Script(Protocol):
    def __call__(
        self,
        keys: Sequence[str],
        args: Sequence[str | bytes | float],
        client: Redis | Pipeline | None = None,
    ) -> object: ...


def source(name: str) -> str:
    """Return a script's text; where it works on a run, with `_run.lua` in front."""
    folder = files(__package__)
    text = (folder / f"{name}.lua").read_text()
    return (folder / "_run.lua").read_text() + text if "as in _run.lua" in text else text


class Scripts:
    """
    The scripts of one Redis client. Durations are integer milliseconds here; replies are as the headers say.

    redis-py loads a script when the server does not know it, so a restarted server needs no care.
    """

    def __init__(self, client: Redis) -> None:
        def register(name: str) -> _Script:
            return cast("_Script", client.register_script(source(name)))

        self._submit = register("submit")
        self._begin = register("begin")
        self._renew = register("renew")
        self._commit = register("commit")
        self._record = register("record")
        self._fail = register("fail")
        self._decide = register("decide")
        self._cancel = register("cancel")
        self._lost = register("lost")
        self._redispatch = register("redispatch")
        self._due = register("due")
        self._lead = register("lead")

    def submit(  # noqa: PLR0913  one parameter for each key and ARGV
        self,
        run_id: str,
        key: str,
        holder: str,
        *,
        plan: str,
        value: bytes,
        deadline_ms: int,
        retention_ms: int,
        dispatch_ms: int,
        refused: str,
        digest: str,
        pipe: Pipeline | None = None,
    ) -> Reply:
        """Create a run."""
        return cast(
            "Reply",
            self._submit(
                [*keys.of_run(run_id), key, keys.run(holder)],
                [plan, value, deadline_ms, retention_ms, dispatch_ms, refused, digest],
                client=pipe,
            ),
        )

    def begin(self, run_id: str, step: str, *, agent: str, nonce: str, lease_ms: int, worker: str) -> Reply:
        """Take a step's lease."""
        return cast("Reply", self._begin(keys.of_run(run_id), [step, nonce, lease_ms, worker, agent]))

    def renew(self, shard: str, held: Sequence[Held], *, lease_ms: int, pipe: Pipeline) -> None:
        """Queue the renewal of leases of one shard on a pipeline; its reply has a `Renewal` for each, as bytes."""
        runs = [keys.run(run_id) for run_id, _, _ in held]
        self._renew(
            [keys.leases(shard), *runs], [lease_ms, *(part for _, *parts in held for part in parts)], client=pipe
        )

    def record(self, run_id: str, step: str, *, fence: str, name: str, field: str, value: bytes, limit: int) -> Reply:
        """Keep the result of a sub-step."""
        return cast("Reply", self._record(keys.of_run(run_id), [step, fence, name, field, value, limit]))

    def commit(
        self,
        run_id: str,
        step: str,
        *,
        fence: str,
        name: str,
        value: bytes,
        verdict: str,
        details: str,
        dispatch_ms: int,
    ) -> Reply:
        """Record a step's output."""
        args: list[str | bytes | float] = [step, fence, name, value, verdict, details, dispatch_ms]
        return cast("Reply", self._commit(keys.of_run(run_id), args))

    def fail(self, run_id: str, step: str, *, fence: str, reason: str) -> bytes:
        """Fail a step and its run."""
        return cast("bytes", self._fail(keys.of_run(run_id), [step, fence, reason]))

    def decide(self, run_id: str, step: str, *, choice: str, by: str, note: str, dispatch_ms: int) -> Reply:
        """Settle a waiting gate."""
        return cast("Reply", self._decide(keys.of_run(run_id), [step, choice, by, note, dispatch_ms]))

    def cancel(self, run_id: str, *, status: str, reason: str, by: str) -> bytes:
        """End a run from outside."""
        return cast("bytes", self._cancel(keys.of_run(run_id), [status, reason, by]))

    def lost(self, run_id: str, step: str, *, max_attempts: int, dispatch_ms: int) -> bytes:
        """Take a step back whose lease has expired."""
        return cast("bytes", self._lost(keys.of_run(run_id), [step, max_attempts, dispatch_ms]))

    def redispatch(self, run_id: str, step: str, *, empty: str, dispatch_ms: int, longest_ms: int) -> bytes:
        """Decide whether a ready step's message is lost."""
        return cast("bytes", self._redispatch(keys.of_run(run_id), [step, empty, dispatch_ms, longest_ms]))

    def due(self, shard: str, *, limit: int, pipe: Pipeline) -> None:
        """Queue the look for a shard's due entries on a pipeline."""
        indexes = [keys.index(shard, status) for status in ("completed", "failed", "cancelled")]
        self._due([keys.leases(shard), keys.ready(shard), keys.timers(shard), *indexes], [limit], client=pipe)

    def lead(self, owner: str, ttl_ms: int) -> bool:
        """Become, stay or (0) stop being the caretaker."""
        return self._lead([keys.CARETAKER], [owner, ttl_ms]) == 1
