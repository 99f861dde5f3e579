"""The store of blackboards: entries that the agents of a run read and write, and the locks on them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, cast

from orchestrator.messages import CLOSED, BoardEntry, BoardState
from orchestrator.state import keys
from orchestrator.state.reading import milliseconds
from orchestrator.state.runs import Change, ready_steps

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from redis import Redis

    from orchestrator.state.runs import RunStore

MAX_WAITERS: Final = 1000
How = Literal["set", "add", "append", "check"]
Why = Literal["conflict", "weaker", "locked", "lost", "kind"]


@dataclass(frozen=True, kw_only=True)
class Author:
    """
    Who writes to a board.

    Attributes:
        name: the source, or whoever it is; `step`, `fence`: the attempt, where it is one.
        writer: whose writes come one after the other; unique.
    """

    name: str
    writer: str
    step: str = ""
    fence: str = ""


class Put(NamedTuple):
    """
    A change of one entry.

    Attributes:
        value: JSON; for `add` a number, for `append` what comes last in the list.
        version: that it must have, 0 where it must not be there; None: any.
        token: of its lock, where it is held.
        rule: its conflict rule, where it is new.
    """

    name: str
    how: How
    value: bytes = b"null"
    version: int | None = None
    confidence: float | None = None
    token: str = ""
    rule: str = "reject"


@dataclass(frozen=True)
class Refusal:
    """Why an entry was not changed, and how it stands; None: it is not there."""

    why: Why
    entry: BoardEntry | None


class Wrote(NamedTuple):
    """
    What a write has come to.

    Attributes:
        what: written; known: so before; refused; full: over a limit; ended: the board has; gone: there is none yet;
            stale: the step is another's; closed: the run has ended, or goes on without the step.
        seq: of the write; `change`: what is to be published, where there is something; `refusals`: by entry;
            `why`: which limit, or which end.
    """

    what: str
    seq: int = 0
    change: Change | None = None
    refusals: Mapping[str, Refusal] | None = None
    why: str = ""


@dataclass(frozen=True)
class Locking:
    """
    What asking for a lock has come to.

    Attributes:
        what: locked, waiting, busy, crowded, ended, gone, stale or closed: see board_lock.lua.
        token: where it is locked, or how the board has ended; `left`: seconds for which it is held, or in which to ask
            again.
    """

    what: str
    token: str = ""
    left: float = 0.0


class Boards:
    """
    Blackboards in Redis.

    Args:
        store: of the runs they belong to.
    """

    def __init__(self, store: RunStore) -> None:
        self._store, self._scripts = store, store.scripts
        self._client: Redis = store.client
        self._dispatch_ms = milliseconds(store.settings.dispatch_timeout)

    def load(self, run_id: str, step: str) -> BoardState | None:
        """Return a board as it stands, in one consistent look; None: it has not been opened."""
        fields, over = self._store.beside(keys.board(run_id, step), run_id, step)
        found = _board(step, fields)
        if found is None or found.status == "ended" or not over:
            return found
        # No script goes through the boards of a run that ends, of which there may be many.
        return found.model_copy(update=CLOSED)

    def stands(self, run_id: str, step: str) -> BoardState | None:
        """Return the same for those who work on it: one whose run has ended may still seem to be open."""
        found = cast("dict[bytes, bytes]", self._client.hgetall(keys.board(run_id, step)))
        return _board(step, {name.decode(): value for name, value in found.items()})

    def read(self, run_id: str, step: str, names: Sequence[str]) -> dict[str, BoardEntry] | None:
        """Return those of some entries that are there, as they stood together; None: there is no such board yet."""
        found = self.look(run_id, step, names)
        return None if found is None else found[0]

    def look(self, run_id: str, step: str, names: Sequence[str]) -> tuple[dict[str, BoardEntry], int] | None:
        """Return the same, and how many writes there had been."""
        fields = ["#sums", *(f"{kind}:{name}" for name in names for kind in "mv")]
        sums, *found = cast("list[bytes | None]", self._client.hmget(keys.board(run_id, step), fields))
        if sums is None:
            return None
        entries = {
            name: _entry(meta, value)
            for name, meta, value in zip(names, found[::2], found[1::2], strict=True)
            if meta is not None and value is not None
        }
        return entries, int(sums.split()[0])

    def write(
        self,
        run_id: str,
        step: str,
        by: Author,
        number: int,
        puts: Sequence[Put],
        *,
        once: str = "",
        watched: bool = True,
    ) -> Wrote:
        """
        Change entries, all or none, in one round trip; two where one of them is new and nobody was said to watch it.

        Args:
            run_id: the run.
            step: the board's.
            by: who.
            number: of this author's write: sent again by the same, it is not made twice.
            puts: the changes, of different entries.
            once: a name under which the same source does not write twice in a wake.
            watched: whether a source may watch one of them, or the goal ask for it.
        """
        args: list[str | bytes | float] = [step, by.step, by.fence, by.name, by.writer, number, once, self._dispatch_ms]
        for put in puts:
            version = "" if put.version is None else put.version
            confidence = "" if put.confidence is None else put.confidence
            args += put.name, put.how, version, confidence, put.token, put.rule, put.value
        script = self._scripts.board_write if watched else self._scripts.board_put
        what, *more = script(run_id, step, args)
        if what == b"more":
            what, *more = self._scripts.board_write(run_id, step, args)
        said = what.decode()
        if said in {"written", "known"}:
            change = Change("written", ready=ready_steps(more[1:])) if len(more) > 1 else None
            return Wrote(said, int(more[0]), change)
        if said == "refused":
            refusals = {
                name.decode(): Refusal(cast("Why", why.decode()), _entry(meta, value) if meta else None)
                for name, why, meta, value in zip(more[::4], more[1::4], more[2::4], more[3::4], strict=True)
            }
            return Wrote(what=said, refusals=refusals)
        return Wrote(what=said, why=more[0].decode())

    def lock(
        self,
        run_id: str,
        step: str,
        by: Author,
        lock: str,
        names: Sequence[str],
        *,
        ttl: float,
        wait: float,
        channel: str,
    ) -> Locking:
        """
        Lock entries, or wait for them; asked again under the same id, tell what has come of it.

        Args:
            run_id: the run.
            step: the board's.
            by: who.
            lock: the lock's id; unique.
            names: the entries; all or none.
            ttl: seconds for which they are locked.
            wait: seconds for which it is of use to wait.
            channel: on which the id is published when they are locked; empty: none.
        """
        what, *more = self._scripts.board_lock(
            run_id,
            step,
            step=by.step,
            fence=by.fence,
            lock=lock,
            channel=channel,
            ttl_ms=milliseconds(ttl),
            wait_ms=round(wait * 1000),
            most=MAX_WAITERS,
            entries=names,
        )
        said = cast("bytes", what).decode()
        if said == "locked":
            return Locking(said, cast("bytes", more[0]).decode(), int(more[1]) / 1000)
        if said == "waiting":
            return Locking(said, left=int(more[0]) / 1000)
        return Locking(said, cast("bytes", more[0]).decode())

    def unlock(self, run_id: str, step: str, lock: str, names: Sequence[str]) -> bool:
        """Give a lock up, or the wait for one. Returns whether it was held until now."""
        return self._scripts.board_unlock(run_id, step, lock=lock, ttl_ms=0, entries=names)

    def extend(self, run_id: str, step: str, lock: str, names: Sequence[str], *, ttl: float) -> bool:
        """Hold a lock for so many seconds from now. Returns whether it was held until now, and is."""
        return self._scripts.board_unlock(run_id, step, lock=lock, ttl_ms=milliseconds(ttl), entries=names)


def _entry(meta: bytes, value: bytes) -> BoardEntry:
    facts = json.loads(meta)
    return BoardEntry(
        value=json.loads(value),
        version=facts["v"],
        seq=facts["s"],
        author=facts["a"],
        step=facts.get("p"),
        at_ms=facts["t"],
        confidence=facts.get("c"),
    )


def _board(step: str, fields: Mapping[str, bytes]) -> BoardState | None:
    if not fields:
        return None
    ended = fields["#state"] == b"ended"
    return BoardState(
        step=step,
        status=cast("Any", fields["#state"].decode()),
        writes=int(fields["#sums"].split()[0]),
        wakes=int(fields["#wakes"]),
        outcome=cast("Any", fields["#outcome"].decode()) if ended and "#outcome" in fields else None,
        why=fields.get("#why", b"").decode() if ended else "",
        entries={name[2:]: _entry(meta, fields[f"v:{name[2:]}"]) for name, meta in fields.items() if name[:2] == "m:"},
        sources={
            name[2:]: cast("Any", {"wakes": state["n"], "changed": state.get("dirty") or ()})
            for name, text in fields.items()
            if name[:2] == "s:"
            for state in (json.loads(text),)
        },
    )
