"""A blackboard in an agent's hands: what it reads there, writes there and locks."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar, cast

from orchestrator.board.conditions import matches, pattern_of
from orchestrator.board.either import at_once, in_a_coroutine
from orchestrator.board.rules import DISPUTE, RULES, Arbiter, LastWriter, Merge
from orchestrator.errors import BoardClosed, BoardFull, InvalidInput, LockLost, LockTimeout, WriteConflict
from orchestrator.messages import MAX_LOCK, BoardEntry
from orchestrator.resilience.options import is_number
from orchestrator.state.boards import Locking, Put

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from pydantic import JsonValue

    from orchestrator.board.rules import Rule
    from orchestrator.state.boards import How, Refusal, Wrote

T = TypeVar("T")

DEFAULT_TTL: Final = 10.0
DEFAULT_WAIT: Final = 30.0
BEFORE_LOCKING: Final = 12
"""Times that a change is overtaken before it locks the entry: from then on its turn comes."""
PAUSE: Final = 0.001
"""Seconds, doubled each time, of which a part is waited where the entry is locked: most locks are short."""
MOST_AT_ONCE: Final = 100


@dataclass(frozen=True)
class Item(Generic[T]):
    """
    An entry as it was read.

    Attributes:
        value: as the blackboard's type of it.
        version: 1 for the first, one more with each write.
        author: the source, or who wrote it; `step`: in which step; `at_ms`: when.
        confidence: the writer's, where it was given.
    """

    name: str
    value: T
    version: int
    author: str
    step: str | None
    at_ms: int
    confidence: float | None = None


class Snapshot(Mapping[str, Item[Any]]):
    """
    Entries as they stood together at one moment, by name.

    Attributes:
        writes: how many there had been.
    """

    def __init__(self, items: Mapping[str, Item[Any]], writes: int) -> None:
        self._items, self.writes = dict(items), writes

    def __getitem__(self, name: str) -> Item[Any]:
        return self._items[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def value(self, name: str, default: Any = None) -> Any:  # noqa: ANN401  the entry's type
        """Return what an entry holds, or the default."""
        found = self._items.get(name)
        return default if found is None else found.value


class Kinds(Protocol):
    """A blackboard as it is declared: its entries' types and rules."""

    name: str

    def check(self, entry: str, value: object) -> Any:  # noqa: ANN401  the entry's type
        """Return a value as the type of its entry; InvalidInput where it does not fit or there is no such entry."""

    def load(self, entry: str, stored: JsonValue) -> Any:  # noqa: ANN401  likewise
        """Return what is stored of an entry as its type."""

    def dump(self, entry: str, value: object) -> bytes:
        """Return a value of an entry's type as JSON."""

    def written(self, entry: str, value: object) -> bytes:
        """Return a value as JSON of the type of its entry; errors as of `check`."""

    def type_of(self, entry: str) -> object:
        """Tell what an entry holds; InvalidInput where there is no such entry."""

    def rule_of(self, entry: str) -> Rule:
        """Return what happens where two writes rest on the same version of an entry."""

    def is_watched(self, entry: str) -> bool:
        """Tell whether a source watches an entry, or a condition asks for it."""


class Post(Protocol):
    """Where a board is kept, and who writes to it: a step's, a client's, or a test's."""

    def read(self, names: Sequence[str]) -> dict[str, BoardEntry] | None:
        """Return those of some entries that are there; None: there is no board."""

    def read_all(self, names: Sequence[str] = ()) -> tuple[dict[str, BoardEntry], int] | None:
        """Return all entries, or those of these names, and the writes so far; None: there is no board."""

    def write(self, puts: Sequence[Put], *, once: str, watched: bool) -> Wrote:
        """Change entries, all or none, and let what this wakes be published; `watched`: whether it may wake any."""

    def lock(self, lock: str, names: Sequence[str], *, ttl: float, wait: float) -> Locking:
        """Lock entries, or wait for them."""

    def unlock(self, lock: str, names: Sequence[str]) -> bool:
        """Give a lock up, or the wait for one."""

    def keep(self, lock: str, names: Sequence[str], *, ttl: float, on_lost: Callable[[], None]) -> None:
        """Hold a lock from now on, until `unlock`, where somebody does that; `on_lost` when it is lost."""

    def listen(self, lock: str, told: Callable[[str], None]) -> None:
        """Call back when a lock is held, with its token, or cannot be."""

    def ignore(self, lock: str) -> None:
        """Call back no more."""

    async def call(self, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:  # noqa: ANN401  a function's
        """Make a blocking call from a coroutine."""

    @property
    def name(self) -> str:
        """Who writes."""

    def over(self, flow: str) -> Exception:
        """Return what tells that nothing can be written any more: the run has ended, or the step is another's."""


class Board:
    """
    A blackboard in the hands of one agent, `ctx.board`, or of a client, `Run.board()`.

    Methods that go to Redis are awaited in an async agent, and called in a sync one. A write rests on what this handle
    has read of its entry last, or on nothing: then the entry must be new. Where that has been overtaken, the entry's
    conflict rule decides.

    Args:
        flow: the blackboard, which knows the types of its entries.
        post: where it is kept.
    """

    def __init__(self, flow: Kinds, post: Post) -> None:
        self._flow, self._post = flow, post
        self._seen: dict[str, int] = {}
        self._tokens: dict[str, str] = {}
        self._lost: set[str] = set()
        """Tokens of locks: one that is told late must not count for the next lock of the same entry."""

    def __repr__(self) -> str:
        return f"<board of {self._flow.name}>"

    # Reading

    def get(self, name: str) -> Any:  # noqa: ANN401  an Item, None, or an awaitable of it
        """
        Read an entry: an `Item`, or None where there is none. One round trip.

        Raises:
            InvalidInput: the blackboard has no such entry.
            BoardClosed: it is not open yet.
        """
        return self._do(self._get(name))

    def read(self, *patterns: str) -> Any:  # noqa: ANN401  a Snapshot, or an awaitable of it
        """
        Read all entries of some patterns as they stand together: a `Snapshot`. One round trip.

        Args:
            patterns: names, or patterns in which `*` stands for any characters; all entries unless given.

        Raises:
            InvalidInput: a pattern is none.
            BoardClosed: the board is not open yet.
        """
        return self._do(self._read(patterns))

    # Writing

    def write(
        self,
        values: Mapping[str, object],
        *,
        confidence: float | None = None,
        unchanged: Sequence[str] = (),
        once: str = "",
    ) -> Any:  # noqa: ANN401  a number, or an awaitable of it
        """
        Write entries, all or none, in one round trip.

        Args:
            values: by name, of the entries' types.
            confidence: 0 to 1; how sure the writer is.
            unchanged: names of others that this rests on: they must stand as this handle has read them.
            once: a name: what was written under it in this wake is not written again by another attempt.

        Returns:
            The number of the board's writes with this one. Where it writes one entry, with an arbiter, and rests on
            an older version, it is a proposal that was written.

        Raises:
            InvalidInput: a value does not fit, or there is no such entry; nothing was written.
            WriteConflict: an entry has changed since it was read, is locked, or is held with more confidence; with what
                stands there. Nothing was written.
            BoardFull: it would be more than the board's limits allow; nothing was written.
            BoardClosed: the board has ended.
            LockLost: a lock that this handle held on one of them is lost.
            LeaseLost: the run has ended or the step is another execution's.
        """
        return self._do(self._write(values, confidence, unchanged, once))

    def append(self, name: str, value: object, *, once: str = "") -> Any:  # noqa: ANN401  likewise
        """
        Add a value at the end of an entry that is a list; a new one begins with it. Never in conflict; one round trip.

        Args, returns and errors as of `write`; an attempt that is lost is followed by another, which appends again
        unless `once` is given.
        """
        return self._do(self._change(name, "append", value, once))

    def add(self, name: str, amount: float = 1, *, once: str = "") -> Any:  # noqa: ANN401  likewise
        """
        Add to an entry that is a number; a new one begins with it. Never in conflict; one round trip.

        As of `append`. A sum that would not be exact, of whole numbers from 2^53 on, or not finite, is refused.
        """
        return self._do(self._change(name, "add", amount, once))

    def merge(self, name: str, fields: Mapping[str, object], *, once: str = "") -> Any:  # noqa: ANN401  the new value, or an awaitable of it
        """
        Set some fields of an entry that is an object, whatever others do to the rest; a new one begins with these.

        Args:
            name: the entry.
            fields: as its JSON has them.
            once: as of `write`.

        Returns and errors as of `edit`.
        """

        def merged(value: object) -> object:
            before = {} if value is None else json.loads(self._flow.dump(name, value))
            if not isinstance(before, dict):
                msg = f"entry {name!r} is no object: it cannot be merged with fields"
                raise InvalidInput(msg)
            return {**before, **fields}

        return self._do(self._edit(name, merged, once))

    def edit(self, name: str, change: Callable[[Any], object], *, once: str = "") -> Any:  # noqa: ANN401  likewise
        """
        Change an entry by a pure function, which is called again where another write came in between.

        Overtaken again and again it locks the entry, so that its turn comes.

        Args:
            name: the entry.
            change: takes what stands there, or None, and returns what is to stand there.
            once: as of `write`.

        Returns:
            What stands there now.

        Raises:
            LockTimeout: others hold the entry for too long.
            As `write` otherwise.
        """
        return self._do(self._edit(name, change, once))

    def lock(self, *names: str, ttl: float = DEFAULT_TTL, wait: float = DEFAULT_WAIT) -> Lock:
        """
        Lock entries, all or none: `async with` in an async agent, `with` in a sync one.

        Nobody else can write to them until it is given up, which the end of the block does, the end of the step, or the
        time to live of a process that has stopped. Those who wait get it in the order in which they came.

        Args:
            names: the entries; they need not be there yet.
            ttl: seconds; in an agent it is renewed while the block runs.
            wait: seconds to wait for it.

        Raises:
            InvalidInput: there is no such entry, or none is named.
            LockTimeout: it was not free in time (on entering).
            BoardClosed, LeaseLost: as of `write` (on entering).
        """
        for name in names:
            self._flow.type_of(name)
        if not names or len(set(names)) < len(names) or len(names) > MOST_AT_ONCE:
            msg = f"lock takes 1 to {MOST_AT_ONCE} different entries, not {names!r:.200}"
            raise InvalidInput(msg)
        for what, given, least in (("ttl", ttl, 0.05), ("wait", wait, 0.0)):
            if not (is_number(given) and least <= given <= MAX_LOCK):
                msg = f"{what} must be seconds, {least:g} to {MAX_LOCK:g}, not {given!r:.80}"
                raise InvalidInput(msg)
        return Lock(self, names, ttl=ttl, wait=wait)

    # How

    def _do(self, steps: Any) -> Any:  # noqa: ANN401  a coroutine of anything
        return steps if in_a_coroutine() else at_once(steps)

    async def _get(self, name: str) -> Item[Any] | None:
        self._flow.type_of(name)
        found = await self._post.call(self._post.read, (name,))
        if found is None:
            raise BoardClosed(self._flow.name, "it is not open yet")
        if name not in found:
            self._seen.pop(name, None)
            return None
        return self._item(name, found[name])

    async def _read(self, patterns: Sequence[str]) -> Snapshot:
        for pattern in patterns:
            pattern_of("read", pattern)
        named = 0 < len(patterns) <= MOST_AT_ONCE and not any("*" in pattern for pattern in patterns)
        found = await self._post.call(self._post.read_all, patterns if named else ())
        if found is None:
            raise BoardClosed(self._flow.name, "it is not open yet")
        entries, writes = found
        items = {
            name: self._item(name, entry)
            for name, entry in sorted(entries.items())
            if not patterns or any(matches(pattern, name) for pattern in patterns)
        }
        return Snapshot(items, writes)

    def _item(self, name: str, entry: BoardEntry) -> Item[Any]:
        self._seen[name] = entry.version
        value = self._flow.load(name, entry.value)
        return Item(name, value, entry.version, entry.author, entry.step, entry.at_ms, entry.confidence)

    async def _write(
        self, values: Mapping[str, object], confidence: float | None, unchanged: Sequence[str], once: str
    ) -> int:
        given: object = values
        if not isinstance(given, Mapping) or not 0 < len(given) <= MOST_AT_ONCE:
            msg = f"write takes 1 to {MOST_AT_ONCE} values by the names of entries, such as {{'plan': plan}}"
            raise InvalidInput(msg)
        if confidence is not None and not (is_number(confidence) and 0 <= confidence <= 1):
            msg = f"confidence is 0 to 1, not {confidence!r:.80}"
            raise InvalidInput(msg)
        _check_once(once)
        checked = {name: self._flow.check(name, value) for name, value in values.items()}
        rests_on = [name for name in unchanged if name not in checked]
        for name in rests_on:
            self._flow.type_of(name)
        while True:
            puts = [self._put(name, value, confidence) for name, value in checked.items()]
            puts += [self._put_check(name) for name in rests_on]
            watched = any(map(self._flow.is_watched, checked))
            wrote = await self._post.call(self._post.write, puts, once=once, watched=watched)
            refusals = wrote.refusals or {}
            if self._goes_to_arbiter(puts, refusals):
                return await self._propose(puts[0].name, checked[puts[0].name], confidence, once)
            if wrote.what != "refused" or not self._merge(checked, refusals):
                return self._settled(wrote, checked)

    async def _send(self, put: Put, once: str) -> Wrote:
        watched = self._flow.is_watched(put.name)
        return await self._post.call(self._post.write, [put], once=once, watched=watched)

    def _put(self, name: str, value: object, confidence: float | None) -> Put:
        rule = self._flow.rule_of(name)
        version = None if isinstance(rule, LastWriter) else self._seen.get(name, 0)
        return Put(
            name=name,
            how="set",
            value=self._flow.dump(name, value),
            version=version,
            confidence=confidence,
            token=self._token(name),
            rule=RULES[type(rule)],
        )

    def _put_check(self, name: str) -> Put:
        return Put(name=name, how="check", version=self._seen.get(name, 0), token=self._token(name))

    def _token(self, name: str) -> str:
        token = self._tokens.get(name, "")
        if token in self._lost:
            raise LockLost(name)
        return token

    def _merge(self, values: dict[str, object], refusals: Mapping[str, Refusal]) -> bool:
        """Merge what was overtaken with what stands there, where all of it can be; else False."""
        for name, refusal in refusals.items():
            if refusal.why != "conflict" or name not in values or not isinstance(self._flow.rule_of(name), Merge):
                return False
        for name, refusal in refusals.items():
            rule = cast("Merge", self._flow.rule_of(name))
            if refusal.entry is None:
                self._seen.pop(name, None)
                continue
            there = self._item(name, refusal.entry)
            values[name] = self._flow.check(name, rule.function(there.value, values[name]))
        return True

    def _goes_to_arbiter(self, puts: Sequence[Put], refusals: Mapping[str, Refusal]) -> bool:
        (name, refusal), *more = refusals.items() or [("", None)]
        alone = refusal is not None and refusal.why == "conflict" and not more and len(puts) == 1
        return alone and isinstance(self._flow.rule_of(name), Arbiter)

    async def _propose(self, name: str, value: object, confidence: float | None, once: str) -> int:
        proposal = {
            "value": json.loads(self._flow.dump(name, value)),
            "author": self._post.name,
            "confidence": confidence,
        }
        return await self._change(f"{DISPUTE}{name}", "append", proposal, once)

    def _settled(self, wrote: Wrote, values: Mapping[str, object] | None = None) -> int:
        if wrote.what in {"written", "known"}:
            for name in values or ():
                if wrote.what == "written":
                    self._seen[name] = self._seen.get(name, 0) + 1
                else:
                    self._seen.pop(name, None)
            return wrote.seq
        if wrote.what == "refused":
            refusals = wrote.refusals or {}
            lost = [name for name, refusal in refusals.items() if refusal.why == "lost"]
            if lost:
                raise LockLost(lost[0])
            why: dict[str, str] = {name: refusal.why for name, refusal in refusals.items()}
            there = {name: self._current(name, refusal) for name, refusal in refusals.items()}
            raise WriteConflict.of(self._flow.name, why, there)
        if wrote.what == "full":
            raise BoardFull(self._flow.name, wrote.why)
        raise _ended(self._flow.name, self._post, wrote.what, wrote.why)

    def _current(self, name: str, refusal: Refusal) -> Any:  # noqa: ANN401  an Item or None
        # What stands there is told, and not taken for read: to write over it is another decision.
        entry = refusal.entry
        if entry is None:
            return None
        value = self._flow.load(name, entry.value)
        return Item(name, value, entry.version, entry.author, entry.step, entry.at_ms, entry.confidence)

    async def _change(self, name: str, how: How, value: object, once: str) -> int:
        _check_once(once)
        if how == "add" and not is_number(value):
            msg = f"add takes a number, not {value!r:.80}"
            raise InvalidInput(msg)
        written = self._flow.written(name, [value] if how == "append" else value)
        if how == "append":
            if written[:1] != b"[":
                msg = f"entry {name!r} is no list: nothing can be appended to it"
                raise InvalidInput(msg)
            written = written[1:-1]
        seq = self._settled(await self._send(Put(name, how, written, token=self._token(name)), once))
        self._seen.pop(name, None)
        return seq

    async def _edit(self, name: str, change: Callable[[Any], object], once: str) -> object:
        _check_once(once)
        overtaken, held = 0, None
        item = await self._get(name)
        try:
            while True:
                value = self._flow.check(name, change(None if item is None else item.value))
                version = 0 if item is None else item.version
                put = Put(
                    name=name, how="set", value=self._flow.dump(name, value), version=version, token=self._token(name),
                    # Whatever the rule, an edit is of what stands there.
                    rule="reject",
                )  # fmt: skip
                wrote = await self._send(put, once)
                refusal = (wrote.refusals or {}).get(name)
                if wrote.what == "known":  # by an attempt before, or sent again: others may have written since
                    item = await self._get(name)
                    return value if item is None else item.value
                if refusal is None or refusal.why not in {"conflict", "locked"}:
                    self._settled(wrote)
                    self._seen[name] = version + 1
                    return value
                overtaken += 1
                if overtaken > BEFORE_LOCKING and held is None and name not in self._tokens:
                    held = Lock(self, (name,), ttl=DEFAULT_TTL, wait=DEFAULT_WAIT)
                    await held.take()
                    item = await self._get(name)
                elif refusal.why == "locked":
                    pause = PAUSE * 2 ** min(overtaken, 6)
                    await _Bell().wait(pause * random.random())  # noqa: S311  of a pause
                    item = await self._get(name)
                else:
                    item = None if refusal.entry is None else self._item(name, refusal.entry)
        finally:
            if held is not None:
                await held.give_up()


class Lock:
    """Entries of a board that nobody else can write to; made by `Board.lock`."""

    def __init__(self, board: Board, names: Sequence[str], *, ttl: float, wait: float) -> None:
        self._board, self._names, self._ttl, self._wait = board, names, ttl, wait
        self._post = board._post  # noqa: SLF001  its other half
        self._id = ""

    async def __aenter__(self) -> Board:
        await self.take()
        return self._board

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.give_up()

    def __enter__(self) -> Board:
        if in_a_coroutine():
            msg = "in an async agent a lock is taken by `async with`"
            raise InvalidInput(msg)
        at_once(self.take())
        return self._board

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        at_once(self.give_up())

    @property
    def token(self) -> str:
        """The fencing token, while it is held: a number that grows, and a nonce."""
        return self._board._tokens.get(self._names[0], "")  # noqa: SLF001  its other half

    async def take(self) -> None:
        """Wait for it."""
        held = [name for name in self._names if name in self._board._tokens]  # noqa: SLF001  likewise
        if held:
            msg = f"this handle has locked {', '.join(held)} already"
            raise InvalidInput(msg)
        self._id = secrets.token_hex(8)
        until = time.monotonic() + self._wait
        bell = _Bell()
        self._post.listen(self._id, bell.ring)
        try:
            while True:
                # Who is not in the queue any more does not wait for all of it once more.
                wait = max(0.0, until - time.monotonic())
                found = await self._post.call(self._post.lock, self._id, self._names, ttl=self._ttl, wait=wait)
                if found.what != "waiting":
                    break
                # Where nothing is heard it asks again when the one that holds it must have given it up.
                token = await bell.wait(max(0.001, min(found.left, until - time.monotonic())))
                if token:
                    found = Locking("locked", token, self._ttl)
                    break
        except BaseException:
            await self._post.call(self._post.unlock, self._id, self._names)
            raise
        finally:
            self._post.ignore(self._id)
        if found.what == "locked":
            for name in self._names:
                self._board._tokens[name] = found.token  # noqa: SLF001  likewise
            lost = partial(self._board._lost.add, found.token)  # noqa: SLF001  likewise
            self._post.keep(self._id, self._names, ttl=self._ttl, on_lost=lost)
            return
        flow = self._board._flow.name  # noqa: SLF001  likewise
        if found.what in {"busy", "crowded"}:
            raise LockTimeout(flow, ", ".join(self._names), self._wait)
        raise _ended(flow, self._post, found.what, found.token)

    async def give_up(self) -> None:
        """Let the next one have it."""
        for name in self._names:
            self._board._lost.discard(self._board._tokens.pop(name, ""))  # noqa: SLF001  likewise
        await self._post.call(self._post.unlock, self._id, self._names)


class _Bell:
    """Rung from any thread; waited for by a coroutine, or by a plain function through `at_once`."""

    def __init__(self) -> None:
        self._rung = threading.Event()
        self._loop = asyncio.get_running_loop() if in_a_coroutine() else None
        self._event = asyncio.Event() if self._loop else None
        self._token = ""

    def ring(self, token: str) -> None:
        self._token = token
        self._rung.set()
        if self._loop is not None and self._event is not None:
            self._loop.call_soon_threadsafe(self._event.set)

    async def wait(self, seconds: float) -> str:
        """Return the token that came with the ring; empty: none came, or there was none."""
        if self._event is None:
            self._rung.wait(seconds)
        else:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._event.wait(), seconds)
            self._event.clear()
        self._rung.clear()
        return self._token


def _check_once(once: object) -> None:
    if not isinstance(once, str) or len(once) > 100 or not once.isprintable():  # noqa: PLR2004  as ctx.once
        msg = f"once is a name of at most 100 printable characters, not {once!r:.120}"
        raise InvalidInput(msg)


def _ended(flow: str, post: Post, what: str, why: str) -> Exception:
    if what == "ended":
        return BoardClosed(flow, f"it has ended: {why}")
    if what == "gone":
        return BoardClosed(flow, "it is not open yet")
    return post.over(flow)
