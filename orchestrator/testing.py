"""Fakes for the tests of agents: no Redis, no broker."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from orchestrator.agent import Context
from orchestrator.board.handle import Board
from orchestrator.conversation.handle import MemoryTalk, Outbox, Talk, written
from orchestrator.messages import BoardEntry
from orchestrator.resilience.options import is_number
from orchestrator.state.boards import Locking, Refusal, Wrote

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from orchestrator.patterns.blackboard import Blackboard
    from orchestrator.patterns.conversation import Conversation
    from orchestrator.state.boards import Put, Why

P = ParamSpec("P")
R = TypeVar("R")

FAKE_RUN_ID = "0" * 24
Told = tuple[str, object] | tuple[str, str, object]


def fake_context(
    *,
    step: str = "step",
    attempt: int = 1,
    revision: int = 0,
    feedback: tuple[str, ...] = (),
    draft: object | None = None,
    tenant: str = "default",
    tags: Mapping[str, str] | None = None,
    board: Board | None = None,
    talk: FakeTalk | None = None,
) -> Context:
    """
    Return a context as a worker would make it, for a call such as `await classify(fake_context(), ticket)`.

    That of a blackboard's source has a board, that of a conversation's member a talk: `fake_board`, `fake_talk`.
    """
    return Context(
        run_id=FAKE_RUN_ID,
        flow="test",
        step=step,
        attempt=attempt,
        revision=revision,
        feedback=feedback,
        draft=draft,
        tenant=tenant,
        tags=tags or {},
        _board=board,
        _talk=talk,
    )


def fake_board(flow: Blackboard, entries: Mapping[str, object] | None = None, *, author: str = "test") -> Board:
    """
    Return a board that lives as long as its test: nobody is woken by it, and every lock is free.

    Args:
        flow: the blackboard, with the types of its entries and their rules.
        entries: what stands there, by name.
        author: who writes.

    Raises:
        InvalidInput: an entry does not fit.
    """
    post = _MemoryPost(author)
    for name, value in (entries or {}).items():
        written = json.loads(flow.written(name, value))
        post.entries[name] = BoardEntry(value=written, version=1, seq=0, author=author, at_ms=0)
    return Board(flow, post)


@dataclass(frozen=True)
class FakeSaid:
    """Something that a member has said: see the methods of its context."""

    kind: str
    to: tuple[str, ...]
    body: Any
    re: int | None = None
    proposals: tuple[int, ...] = ()
    confidence: float | None = None


class FakeTalk(Talk):
    """
    A conversation for one call of a member.

    Attributes:
        said: what it has said in the call, in order, the questions among it.
    """

    @property
    def said(self) -> list[FakeSaid]:
        """What was said."""
        return list(self._said)

    def __init__(self, flow: Conversation, member: str, replies: Mapping[str, object], lines: Sequence[Told]) -> None:
        self._said: list[FakeSaid] = []
        kept = [(number, *_line(each)) for number, each in enumerate(lines, 1)]
        super().__init__(flow, MemoryTalk(replies, kept, flow.decides), member, Outbox(), asked=range(1, 1000))

    def say(self, kind: str, to: Sequence[str] = (), body: object = None, **more: Any) -> None:  # noqa: ANN401  as of Talk
        """Note what is said."""
        super().say(kind, to, body, **more)
        about = {name: more[name] for name in ("re", "confidence") if more.get(name) is not None}
        self._said.append(FakeSaid(kind, tuple(to), body, proposals=tuple(more.get("proposals") or ()), **about))


def _line(given: Told) -> tuple[dict[str, Any], bytes | None]:
    kind, sender, what = given if len(given) == 3 else ("tell" if given[0] else "open", *given)  # noqa: PLR2004  with a kind
    facts: dict[str, Any] = {"k": kind, "f": sender, "t": [], "a": 0}
    if isinstance(what, int):
        return facts | {"r": what}, None
    return facts | {"y": type(what).__name__}, written(what)


def fake_talk(
    flow: Conversation,
    *,
    member: str,
    said: Sequence[Told] = (),
    replies: Mapping[str, object] | None = None,
) -> FakeTalk:
    """
    Return a conversation that lives as long as its test: nobody is told anything.

    Args:
        flow: the conversation, with its members and what they can be told.
        member: who speaks.
        said: the transcript so far, by lines: who, and what, a model; the first one is the task, of nobody, `""`. Where
            it is not just told, the kind comes before: `("propose", "cook", Menu(...))`, `("accept", "host", 2)`.
        replies: what others reply when they are asked, by their names: a model, or the reason for which there is none,
            as of `NoReply.why`. To every question they reply the same.
    """
    return FakeTalk(flow, member, replies or {}, said)


class _MemoryPost:
    """A board in memory: what the scripts do with entries, and nothing of what they do beside."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.entries: dict[str, BoardEntry] = {}
        self._writes, self._once = 0, set[str]()

    def read(self, names: Sequence[str]) -> dict[str, BoardEntry]:
        return {name: self.entries[name] for name in names if name in self.entries}

    def read_all(self, names: Sequence[str] = ()) -> tuple[dict[str, BoardEntry], int]:
        return self.read(names or list(self.entries)), self._writes

    def write(self, puts: Sequence[Put], *, once: str, watched: bool) -> Wrote:  # noqa: ARG002  the protocol's
        if once in self._once:
            return Wrote(what="known", seq=self._writes)
        refusals = {
            put.name: Refusal(why, self.entries.get(put.name))
            for put in puts
            if (why := self._refused(put)) is not None
        }
        if refusals:
            return Wrote(what="refused", refusals=refusals)
        self._writes += 1
        self._once |= {once} - {""}
        for put in puts:
            if put.how != "check":
                self.entries[put.name] = self._written(put)
        return Wrote(what="written", seq=self._writes)

    def _refused(self, put: Put) -> Why | None:
        before = self.entries.get(put.name)
        if put.version is not None and put.version != (before.version if before else 0):
            if put.how != "set" or put.rule not in {"last", "confidence"}:
                return "conflict"
            if put.rule == "confidence" and (put.confidence or 0) <= ((before and before.confidence) or 0):
                return "weaker"
        if put.how == "append" and before is not None:
            return None if isinstance(before.value, list) else "kind"
        if put.how == "add":
            return None if _adds_up(before.value if before else 0, json.loads(put.value)) else "kind"
        return None

    def _written(self, put: Put) -> BoardEntry:
        before, value = self.entries.get(put.name), json.loads(put.value)
        stands: Any = before.value if before else None
        if put.how == "append":
            value = [*(stands or ()), value]
        elif put.how == "add":
            value += stands or 0
        version = before.version + 1 if before else 1
        return BoardEntry(
            value=value,
            version=version,
            seq=self._writes,
            author=self.name,
            at_ms=0,
            confidence=put.confidence,
        )

    def lock(self, lock: str, names: Sequence[str], *, ttl: float, wait: float) -> Locking:  # noqa: ARG002  the protocol's
        return Locking("locked", f"1-{lock}", ttl)

    def unlock(self, lock: str, names: Sequence[str]) -> bool:  # noqa: ARG002  likewise
        return True

    def keep(self, lock: str, names: Sequence[str], *, ttl: float, on_lost: Callable[[], None]) -> None:
        """Nobody takes it away."""

    def listen(self, lock: str, told: Callable[[str], None]) -> None:
        """It is held at once."""

    def ignore(self, lock: str) -> None:
        """Nobody calls back."""

    def over(self, flow: str) -> Exception:
        return RuntimeError(f"board {flow} is never over")

    async def call(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        return function(*args, **kwargs)


def _adds_up(one: object, other: object) -> bool:
    """Tell whether the sum of two values is one that a script is exact about."""
    if not is_number(one) or not is_number(other):
        return False
    whole = isinstance(one, int) and isinstance(other, int)
    return is_number(one + other) and (not whole or max(map(abs, (one, other, one + other))) < 2**53)
