"""
The Lua scripts, one file each, and one typed function for each.

`_run.lua` is put in front of every script on a run, `_guards.lua` of every one on guards: they name the keys and hold
what the scripts share. Behind the one come other files, or less where that is enough: every function of a script is
made anew at each call.
"""

from __future__ import annotations

import contextlib
import functools
import re
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, Protocol, cast

from redis.exceptions import NoScriptError

from orchestrator.state import keys

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redis import Redis
    from redis.client import Pipeline

IN_FRONT: Final = re.compile(r"^KEYS\[.*\] +as in (_\w+\.lua)$", re.MULTILINE)
EVERYTHING: Final = ("_steps.lua", "_board.lua", "_talk.lua")
"""What a change of one step may mean for the others."""
OF_RUNS: Final = ("_base.lua", "_step.lua", *EVERYTHING)
BEHIND: Final = {
    **dict.fromkeys(("record", "postpone", "wake", "spend"), ("_base.lua", "_step.lua")),
    **dict.fromkeys(("redispatch", "begin"), ("_base.lua", "_step.lua", "_lane.lua")),
    **dict.fromkeys(("board_lock", "board_unlock"), ("_base.lua", "_locks.lua")),
    "board_write": ("_base.lua", "_step.lua", "_locks.lua", "_write.lua"),
    "board_put": ("_base.lua", "_locks.lua", "_write.lua"),
}
"""What comes behind the front file of scripts on runs that need less than the others."""
OF_GUARDS: Final = ("_taking.lua", "_giving.lua", "_queueing.lua")
BEHIND_GUARDS: Final = {"admit": ("_taking.lua",), "settle": ("_giving.lua",), "keep": ()}
"""The same of scripts on guards."""
LATER: Final = frozenset({"begin", "board_write", "wake", "admit", "settle"})
"""Of these, scripts that may need the rest all the same: it is a function, called where they do."""
GIVEN: Final = (
    *("matches", "holds", "source_state", "mark_dirty", "take_changes", "wake_sources"),
    *("reach_goal", "end_board", "talks"),
)
OF_GUARDS_GIVEN: Final = (
    *("release", "undo", "queue_at", "enqueue", "dequeue", "drop"),
    *("reap", "grant_freed"),
)
"""What that function gives, by name: of runs, and of guards."""

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


class _Kind(NamedTuple):
    """How a script is put together: what is there for its kind, what of it comes behind, and what the rest gives."""

    everything: tuple[str, ...]
    behind: tuple[str, ...]
    given: tuple[str, ...]


@functools.cache
def source(name: str) -> str:
    """Return a script's text, with what is put in front of it: the file that its header takes its keys from."""
    text, front = _text(f"{name}.lua"), IN_FRONT.search(_text(f"{name}.lua"))
    if front is None:
        return text
    if front[1] == "_guards.lua":
        kind = _Kind(OF_GUARDS, BEHIND_GUARDS.get(name, OF_GUARDS), OF_GUARDS_GIVEN)
    else:
        kind = _Kind(EVERYTHING, BEHIND.get(name, OF_RUNS), GIVEN)
    parts = "".join(map(_text, (front[1], *kind.behind)))
    if name in LATER:
        later = "".join(_text(part) for part in kind.everything if part not in kind.behind)
        parts += LIBRARY.format(later=later, given=", ".join(f"{each} = {each}" for each in kind.given))
    return parts + text


LIBRARY: Final = """
local made
local function library()
if made then return made end
{later}
made = {{{given}}}
return made
end
"""


@functools.cache
def _text(name: str) -> str:
    return (files(__package__) / name).read_text()


class Scripts:
    """
    The scripts of one Redis client. Durations are integer milliseconds here; replies are as the headers say.

    A script that the server does not know is sent whole, so a restarted server needs no care.
    """

    def __init__(self, client: Redis) -> None:
        def register(name: str) -> _Script:
            text = source(name)
            script = client.register_script(text)

            def call(
                keys: Sequence[str], args: Sequence[str | bytes | float], client: Redis | Pipeline | None = None
            ) -> object:
                if client is not None:
                    return script(keys, args, client)
                # As redis-py does it, which looks up at each call what is known here.
                with contextlib.suppress(NoScriptError):
                    return own.execute_command("EVALSHA", script.sha, len(keys), *keys, *args)
                # The server takes it as known from now on. To load it first would be a second call, and a server that
                # restarts between the two knows it no more.
                return own.execute_command("EVAL", text, len(keys), *keys, *args)

            return call

        own: Any = client
        self._submit = register("submit")
        self._begin = register("begin")
        self._renew = register("renew")
        self._commit = register("commit")
        self._record = register("record")
        self._fail = register("fail")
        self._spend = register("spend")
        self._decide = register("decide")
        self._cancel = register("cancel")
        self._postpone = register("postpone")
        self._degrade = register("degrade")
        self._wake = register("wake")
        self._stage = register("stage")
        self._delegate = register("delegate")
        self._join = register("join")
        self._gather = register("gather")
        self._left = register("left")
        self._redrive = register("redrive")
        self._drop = register("drop")
        self._lost = register("lost")
        self._redispatch = register("redispatch")
        self._due = register("due")
        self._timers = register("timers")
        self._lead = register("lead")
        self._board_write = register("board_write")
        self._board_put = register("board_put")
        self._board_lock = register("board_lock")
        self._board_unlock = register("board_unlock")
        self._speak = register("speak")
        self._talk_say = register("talk_say")

    def submit(  # noqa: PLR0913  one parameter for each key and ARGV
        self,
        run_id: str,
        key: str,
        holder: str,
        parent: str,
        *,
        plan: str,
        value: bytes,
        deadline_ms: int,
        retention_ms: int,
        dispatch_ms: int,
        refused: str,
        digest: str,
        dead_ms: int,
        pipe: Pipeline | None = None,
    ) -> Reply:
        """Create a run."""
        return cast(
            "Reply",
            self._submit(
                [*keys.of_run(run_id), key, keys.run(holder), keys.run(parent), keys.children(parent)],
                [plan, value, deadline_ms, retention_ms, dispatch_ms, refused, digest, dead_ms],
                client=pipe,
            ),
        )

    def begin(
        self, run_id: str, step: str, *, agent: str, nonce: str, lease_ms: int, worker: str, dispatch_ms: int
    ) -> Reply:
        """Take a step's lease."""
        return cast("Reply", self._begin(keys.of_run(run_id), [step, nonce, lease_ms, worker, agent, dispatch_ms]))

    def renew(
        self, shard: str, held: Sequence[Held], spent: Sequence[tuple[int, float]], *, lease_ms: int, pipe: Pipeline
    ) -> None:
        """Queue the renewal of leases of one shard on a pipeline; its reply has a `Renewal` for each, as bytes."""
        runs = [keys.run(run_id) for run_id, _, _ in held]
        args: list[str | bytes | float] = [lease_ms]
        for (_, step, fence), used in zip(held, spent, strict=True):
            args += (step, fence, *used)
        self._renew([keys.leases(shard), *runs], args, client=pipe)

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
        tokens: int,
        cost: float,
    ) -> Reply:
        """Record a step's output."""
        args: list[str | bytes | float] = [step, fence, name, value, verdict, details, dispatch_ms, tokens, cost]
        return cast("Reply", self._commit(keys.of_run(run_id), args))

    def fail(
        self, run_id: str, step: str, *, fence: str, reason: str, kind: str, dispatch_ms: int, tokens: int, cost: float
    ) -> Reply:
        """Fail a step and its run."""
        args: list[str | bytes | float] = [step, fence, reason, kind, dispatch_ms, tokens, cost]
        return cast("Reply", self._fail(keys.of_run(run_id), args))

    def spend(self, run_id: str, step: str, *, fence: str, tokens: int, cost: float) -> bytes:
        """Count what an attempt has used whose step was closed meanwhile."""
        return cast("bytes", self._spend(keys.of_run(run_id), [step, fence, tokens, cost]))

    def postpone(
        self,
        run_id: str,
        step: str,
        *,
        fence: str,
        delay_ms: int,
        why: str,
        counts: bool,
        total_ms: int,
        tokens: int,
        cost: float,
    ) -> bytes:
        """Give a step back that is to run again later."""
        args: list[str | bytes | float] = [step, fence, delay_ms, why, int(counts), total_ms, tokens, cost]
        return cast("bytes", self._postpone(keys.of_run(run_id), args))

    def degrade(
        self,
        run_id: str,
        step: str,
        *,
        fence: str,
        agent: str,
        reason: str,
        rung: int,
        dispatch_ms: int,
        tokens: int,
        cost: float,
    ) -> Reply:
        """Give a step that failed to another agent."""
        args: list[str | bytes | float] = [step, fence, agent, reason, rung, dispatch_ms, tokens, cost]
        return cast("Reply", self._degrade(keys.of_run(run_id), args))

    def wake(self, run_id: str, step: str, *, turn: bool, dispatch_ms: int, pipe: Pipeline) -> None:
        """Queue on a pipeline that a delayed step becomes ready."""
        self._wake(keys.of_run(run_id), [step, int(turn), dispatch_ms], client=pipe)

    def stage(self, run_id: str, step: str, *, fence: str, values: Sequence[str | bytes], pipe: Pipeline) -> None:
        """Queue on a pipeline that values are stored which a fan-out's members are to take; 1 where they were."""
        self._stage([keys.run(run_id), keys.data(run_id)], [step, fence, *values], client=pipe)

    def delegate(  # noqa: PLR0913  one parameter for each key and ARGV
        self,
        run_id: str,
        step: str,
        *,
        fence: str,
        name: str,
        value: bytes,
        fan: str,
        facts: str,
        dispatch_ms: int,
        tokens: int,
        cost: float,
        chunk: int,
        most: int,
        members: Sequence[str],
    ) -> Reply:
        """Commit a step whose output is work for others."""
        args: list[str | bytes | float] = [step, fence, name, value, fan, facts, dispatch_ms, tokens, cost, chunk]
        args.append(most)
        return cast("Reply", self._delegate(keys.of_run(run_id), [*args, *members]))

    def join(self, run_id: str, fan: str, *, dispatch_ms: int) -> Reply:
        """Let a fan-out's members come together, where its time is over."""
        return cast("Reply", self._join(keys.of_run(run_id), [fan, dispatch_ms]))

    def gather(self, run_id: str, *, first: str, limit: int) -> Reply:
        """Read what members of a fan-out have come to."""
        return cast("Reply", self._gather([keys.run(run_id), keys.data(run_id)], [first, limit]))

    def left(self, run_id: str, steps: Sequence[str], *, most: int, pipe: Pipeline) -> None:
        """Queue on a pipeline the reading of what is left of a run to be published."""
        self._left([keys.run(run_id)], [most, *steps], client=pipe)

    def redrive(
        self,
        run_id: str,
        step: str,
        *,
        name: str,
        value: bytes,
        agent: str,
        deadline_ms: int,
        by: str,
        dispatch_ms: int,
    ) -> Reply:
        """Let a failed run go on."""
        args: list[str | bytes | float] = [step, name, value, agent, deadline_ms, by, dispatch_ms]
        return cast("Reply", self._redrive(keys.of_run(run_id), args))

    def drop(self, run_id: str, *, by: str) -> bytes:
        """Give a dead letter up."""
        return cast("bytes", self._drop(keys.of_run(run_id), [by]))

    def decide(self, run_id: str, step: str, *, choice: str, by: str, note: str, dispatch_ms: int) -> Reply:
        """Settle a waiting gate."""
        return cast("Reply", self._decide(keys.of_run(run_id), [step, choice, by, note, dispatch_ms]))

    def cancel(self, run_id: str, *, status: str, reason: str, by: str, dispatch_ms: int) -> Reply:
        """End a run from outside."""
        return cast("Reply", self._cancel(keys.of_run(run_id), [status, reason, by, dispatch_ms]))

    def lost(
        self,
        run_id: str,
        step: str,
        *,
        max_attempts: int,
        dispatch_ms: int,
        pause_ms: int,
        jitter: float,
        lease_ms: int,
    ) -> Reply:
        """Take a step back whose lease has expired."""
        args: list[str | bytes | float] = [step, max_attempts, dispatch_ms, pause_ms, jitter, lease_ms]
        return cast("Reply", self._lost(keys.of_run(run_id), args))

    def redispatch(
        self, run_id: str, step: str, *, empty: bool, dispatch_ms: int, longest_ms: int, pipe: Pipeline
    ) -> None:
        """Queue on a pipeline the decision whether a ready step's message is lost."""
        self._redispatch(keys.of_run(run_id), [step, int(empty), dispatch_ms, longest_ms], client=pipe)

    def due(self, shard: str, *, limit: int, pipe: Pipeline) -> None:
        """Queue the look for a shard's due entries on a pipeline."""
        indexes = [keys.index(shard, status) for status in ("completed", "failed", "cancelled")]
        found = [keys.leases(shard), keys.ready(shard), *indexes, keys.dead(shard)]
        self._due(found, [limit], client=pipe)

    def timers(self, shard: str, *, limit: int, pipe: Pipeline) -> None:
        """Queue the look for a shard's due timers on a pipeline."""
        self._timers([keys.timers(shard)], [limit], client=pipe)

    def lead(self, owner: str, ttl_ms: int) -> bool:
        """Become, stay or (0) stop being the caretaker."""
        return self._lead([keys.CARETAKER], [owner, ttl_ms]) == 1

    def board_write(self, run_id: str, board: str, args: Sequence[str | bytes | float]) -> Reply:
        """Change entries of a blackboard, and wake whom this concerns."""
        return cast("Reply", self._board_write([*keys.of_run(run_id), keys.board(run_id, board)], args))

    def board_put(self, run_id: str, board: str, args: Sequence[str | bytes | float]) -> Reply:
        """Change entries of a blackboard that concern nobody."""
        return cast("Reply", self._board_put(keys.of_board(run_id, board), args))

    def board_lock(
        self,
        run_id: str,
        board: str,
        *,
        step: str,
        fence: str,
        lock: str,
        channel: str,
        ttl_ms: int,
        wait_ms: int,
        most: int,
        entries: Sequence[str],
    ) -> list[bytes | int]:
        """Lock entries of a blackboard, or wait for them."""
        args: list[str | bytes | float] = [step, fence, lock, channel, ttl_ms, wait_ms, most, *entries]
        return cast("list[bytes | int]", self._board_lock([*keys.of_run(run_id), keys.board(run_id, board)], args))

    def board_unlock(
        self, run_id: str, board: str, *, lock: str, ttl_ms: int, entries: Sequence[str], pipe: Pipeline | None = None
    ) -> bool:
        """Give up a lock of a blackboard's entries, or hold it longer."""
        return (
            self._board_unlock([*keys.of_run(run_id), keys.board(run_id, board)], [lock, ttl_ms, *entries], client=pipe)
            == 1
        )

    def speak(  # noqa: PLR0913  one parameter for each key and ARGV
        self,
        run_id: str,
        step: str,
        *,
        fence: str,
        name: str,
        value: bytes,
        verdict: str,
        reason: str,
        dispatch_ms: int,
        tokens: int,
        cost: float,
        says: str,
        said: Sequence[str | bytes],
    ) -> Reply:
        """Commit a step of a conversation's member."""
        args: list[str | bytes | float] = [step, fence, name, value, verdict, reason, dispatch_ms, tokens, cost, says]
        return cast("Reply", self._speak(keys.of_run(run_id), [*args, *said]))

    def talk_say(
        self, run_id: str, talk: str, *, by: str, said: str, body: bytes, dispatch_ms: int, nonce: str
    ) -> Reply:
        """Say something in a conversation, from outside."""
        return cast("Reply", self._talk_say(keys.of_run(run_id), [talk, by, said, body, dispatch_ms, nonce]))
