"""
Every exception we raise.

OrchestratorError
├── InvalidSettings          a setting does not fit
├── DefinitionError          agents or flows are declared wrongly (raised at import)
│   ├── DuplicateName        a name is registered twice
│   ├── InvalidAgent         a handler cannot be an agent
│   ├── InvalidFlow          a flow cannot be built
│   ├── InvalidGate          a gate's options do not fit
│   ├── InvalidPolicy        a retry, a breaker, a limit or another policy does not fit
│   ├── UnknownAgent         a flow names an agent nobody registered
│   └── AgentsNotFound       a module named in the settings cannot be imported
├── InvalidInput             what was handed in is refused before anything is enqueued
│   ├── UnknownFlow
│   ├── PayloadTooLarge
│   ├── TooManySteps         a plan gives a run more steps than one may have
│   └── KeyConflict          the idempotency key was used with another input
├── StateError
│   ├── LeaseLost            the step is another execution's, or its run has ended
│   ├── RunNotFound
│   ├── RunUnreadable        the run is another version's, or broken
│   ├── BoardError           a blackboard does not take what was to be done
│   │   ├── WriteConflict    what stands there is not what the write rests on; with what does
│   │   ├── BoardFull        it would be more than its limits allow
│   │   ├── BoardClosed      the board is not open yet, or has ended
│   │   ├── LockTimeout      an entry was not free in time
│   │   └── LockLost         a lock is held no more
│   ├── NoReply              a member of a conversation did not reply
│   ├── ConversationClosed   the conversation is not open yet, or has ended
│   └── WrongState           the run is not in a state that allows the call
├── RunFailed                the run ended without a result
├── RunCancelled
├── AgentFailed              a step's handler raised, or its gate rejected its output
├── RetryLater               an agent asks to be tried again, later
├── CircuitOpen              a breaker lets no call through now
├── LimitReached             a call needs more than its rate limit ever lets through
└── EmbeddedServerError      the embedded server cannot be used

`args` are the constructor's arguments, so that a JSON or pickle round trip rebuilds the error.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

PACKAGE: Final = __name__.split(".", maxsplit=1)[0]


def definition_site() -> str:
    """Return `file:line` of the nearest caller outside this package: where a user wrote the definition."""
    frame = sys._getframe(1)  # noqa: SLF001  the one way to name a user's line; inspect.stack() reads every file
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".")[0] == PACKAGE:
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def text_of(error: object) -> str:
    """Return an error as a line of text, whatever its own code does when it is asked for one."""
    kind = type(error).__name__
    try:
        text = str(error)
    except Exception:  # noqa: BLE001  a user's class; that it cannot speak is no reason to lose its step
        text = "it has no text: its __str__ raises"
    return f"{kind}: {text}" if text else kind


class OrchestratorError(Exception):
    """Base of every error of ours; `str()` is one line that says what to do next."""


class InvalidSettings(OrchestratorError):
    """A setting does not fit. `InvalidSettings(message)`."""

    def __str__(self) -> str:
        return f"invalid settings: {self.args[0]}"


class DefinitionError(OrchestratorError):
    """An agent or a flow is declared wrongly; raised while the module is imported."""


class DuplicateName(DefinitionError):
    """Two agents, or two flows, share a name. `DuplicateName(kind, name, first, second)`."""

    def __init__(self, kind: str, name: str, first: str, second: str) -> None:
        super().__init__(kind, name, first, second)

    def __str__(self) -> str:
        kind, name, first, second = self.args
        return f"{kind} {name!r} is registered twice: in {first} and in {second}; rename one"


class InvalidAgent(DefinitionError):
    """A function cannot be an agent. `InvalidAgent(name, where, why)`."""

    def __init__(self, name: str, where: str, why: str) -> None:
        super().__init__(name, where, why)

    def __str__(self) -> str:
        return f"agent {self.args[0]!r} ({self.args[1]}): {self.args[2]}"


class InvalidFlow(DefinitionError):
    """A flow cannot be built. `InvalidFlow(name, where, why)`."""

    def __init__(self, name: str, where: str, why: str) -> None:
        super().__init__(name, where, why)

    def __str__(self) -> str:
        return f"flow {self.args[0]!r} ({self.args[1]}): {self.args[2]}"


class InvalidGate(DefinitionError):
    """A gate's options do not fit. `InvalidGate(where, why)`."""

    def __init__(self, where: str, why: str) -> None:
        super().__init__(where, why)

    def __str__(self) -> str:
        return f"a gate ({self.args[0]}): {self.args[1]}"


class InvalidPolicy(DefinitionError):
    """A policy's options do not fit. `InvalidPolicy(what, where, why)`."""

    def __init__(self, what: str, where: str, why: str) -> None:
        super().__init__(what, where, why)

    def __str__(self) -> str:
        return f"{self.args[0]} ({self.args[1]}): {self.args[2]}"


class UnknownAgent(DefinitionError):
    """A flow names an agent nobody registered. `UnknownAgent(flow, where, agent, known)`."""

    def __init__(self, flow: str, where: str, agent: str, known: str) -> None:
        super().__init__(flow, where, agent, known)

    def __str__(self) -> str:
        flow, where, agent, known = self.args
        return (
            f"flow {flow!r} ({where}): there is no agent {agent!r}; "
            f"import the module that defines it first (known: {known or 'none'})"
        )


class AgentsNotFound(DefinitionError):
    """A module named in the setting `agents` cannot be imported. `AgentsNotFound(module, why)`."""

    def __init__(self, module: str, why: str) -> None:
        super().__init__(module, why)

    def __str__(self) -> str:
        return (
            f"cannot import {self.args[0]!r}, named in CELERIAC_AGENTS or the setting `agents`: {self.args[1]}; "
            "mend that, or correct the name; the module must be installed or below the current folder"
        )


class InvalidInput(OrchestratorError):
    """What was handed in does not fit and was refused before anything was enqueued. `InvalidInput(message)`."""

    def __str__(self) -> str:
        return str(self.args[0])


class UnknownFlow(InvalidInput):
    """No flow has this name. `UnknownFlow(flow, known)`."""

    def __init__(self, flow: str, known: str) -> None:
        super().__init__(flow, known)

    def __str__(self) -> str:
        flow, known = self.args
        return (
            f"there is no flow {flow!r} (known: {known or 'none'}); name the module that defines it in CELERIAC_AGENTS"
        )


class PayloadTooLarge(InvalidInput):
    """A value exceeds the configured maximum. `PayloadTooLarge(what, size, limit)`, both in bytes."""

    def __init__(self, what: str, size: int, limit: int) -> None:
        super().__init__(what, size, limit)

    def __str__(self) -> str:
        what, size, limit = self.args
        return (
            f"{what} is {size:,} bytes, the limit is {limit:,}; "
            "pass a reference to the data, or raise CELERIAC_MAX_PAYLOAD_BYTES"
        )


class TooManySteps(InvalidInput):
    """A plan gives a run more steps than one may have. `TooManySteps(has, more, most)`."""

    def __init__(self, has: int, more: int, most: int) -> None:
        super().__init__(has, more, most)

    def __str__(self) -> str:
        has, more, most = self.args
        return (
            f"the plan has {more:,} steps, the run has {has:,} already, and a run has at most {most:,}; "
            "give out less at a time, or submit runs of their own"
        )


class KeyConflict(InvalidInput):
    """The idempotency key belongs to a run with another flow or input. `KeyConflict(key, run_id)`."""

    def __init__(self, key: str, run_id: str) -> None:
        super().__init__(key, run_id)

    def __str__(self) -> str:
        return (
            f"key {self.args[0]!r} was used by run {self.args[1]} with another flow or input; "
            "use a new key for new work"
        )


class StateError(OrchestratorError):
    """The stored state does not allow what was asked."""


class RunNotFound(StateError):
    """No run has this id. `RunNotFound(run_id)`."""

    def __str__(self) -> str:
        return (
            f"there is no run {self.args[0]!r}: check the id with `celeriac runs list`; "
            "a finished run is kept for its retention time only"
        )


class RunUnreadable(StateError):
    """The run cannot be read: another version wrote it, or it is broken. `RunUnreadable(run_id, why)`."""

    def __init__(self, run_id: str, why: str) -> None:
        super().__init__(run_id, why)

    def __str__(self) -> str:
        run_id, why = self.args
        return (
            f"run {run_id} cannot be read, as another version wrote it or it is broken: {why}; install the version of "
            f"its workers, or give it up with `celeriac runs cancel {run_id}` or `celeriac dead drop {run_id}`"
        )


class LeaseLost(StateError):
    """A step is another execution's, or its run has ended: nothing more is written. `LeaseLost(run_id, step)`."""

    def __str__(self) -> str:
        return f"step {self.args[1]!r} of run {self.args[0]} is another execution's now, or the run has ended: stop"


class BoardError(StateError):
    """Base of what a blackboard refuses; nothing was written."""


class WriteConflict(BoardError):
    """
    An entry is not as the write rests on. `WriteConflict(board, told)`.

    Attributes:
        why: by entry: conflict: it has changed since it was read; weaker: it is held with no less confidence; locked:
            by another; kind: what stands there cannot be added to.
        current: by entry, what stands there: an `Item`, or None. Neither of the two survives a pickle.
    """

    def __init__(
        self, board: str, told: str, why: Mapping[str, str] | None = None, current: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(board, told)
        self.why, self.current = dict(why or {}), dict(current or {})

    @classmethod
    def of(cls, board: str, why: Mapping[str, str], current: Mapping[str, Any]) -> WriteConflict:
        """Return the error of entries that were refused, with its words."""
        return cls(board, "; ".join(f"{name}: {_REFUSED[reason]}" for name, reason in why.items()), why, current)

    def __str__(self) -> str:
        return f"board {self.args[0]}: {self.args[1]}; read again and decide anew"


_REFUSED: Final = {
    "conflict": "it has changed since it was read",
    "weaker": "it is held with no less confidence",
    "locked": "another has locked it",
    "kind": "what stands there cannot be added to, or not exactly",
}


class BoardFull(BoardError):
    """A write would go over a limit. `BoardFull(board, what)`: `entries`, `bytes` in all, or an entry's name."""

    def __str__(self) -> str:
        board, what = self.args
        told = {
            "entries": "it has as many entries as its limits allow",
            "bytes": "its entries have too many bytes in all",
        }
        why = told.get(what, f"entry {what!r} would have more bytes than its limits allow")
        return f"board {board}: {why}; write less, or declare larger limits"


class BoardClosed(BoardError):
    """The board has ended, or is not open yet. `BoardClosed(board, why)`."""

    def __str__(self) -> str:
        return f"board {self.args[0]}: {self.args[1]}"


class LockTimeout(BoardError):
    """Entries were not free in time. `LockTimeout(board, entries, seconds)`."""

    def __str__(self) -> str:
        board, entries, seconds = self.args
        return f"board {board}: {entries} not free within {seconds:g} s, as others hold or wait for it"


class LockLost(BoardError):
    """A lock is held no more: its time passed before it was renewed. `LockLost(entry)`."""

    def __str__(self) -> str:
        return f"the lock of entry {self.args[0]!r} is lost: nothing was written; read again and decide anew"


class NoReply(StateError):
    """
    A member of a conversation was asked and did not reply.

    Attributes:
        member: who; `why`: deadline: not in time; declined: its handler returned None; failed: its step did; cycle: it
            waits for who asks, through others; absent: it is not there; left: it has left before its turn; full: its
            mailbox is; hops, volleys: a limit of the conversation.
    """

    def __init__(self, member: str, why: str, reason: str = "") -> None:
        super().__init__(member, why, reason)
        self.member, self.why, self.reason = member, why, reason

    def __str__(self) -> str:
        said = {
            "deadline": "did not reply in time",
            "declined": "had no reply",
            "failed": "failed",
            "cycle": "waits, through others, for who asks",
            "absent": "is not in the conversation now",
            "left": "left the conversation before its turn",
            "full": "has a full mailbox",
            "hops": "was not asked: too many messages follow from one another",
            "volleys": "was not asked: these two have only each other to answer for too long",
        }
        more = f": {self.reason}" if self.reason else ""
        told = f"{said.get(self.why, 'did not reply')} ({self.why})"
        return f"member {self.member!r} {told}{more}; catch NoReply where that is no failure"


class ConversationClosed(StateError):
    """A conversation takes no message."""

    def __init__(self, flow: str, why: str) -> None:
        super().__init__(flow, why)

    def __str__(self) -> str:
        return f"conversation {self.args[0]!r} takes no message: {self.args[1]}"


class WrongState(StateError):
    """The run is not in a state that allows the call. `WrongState(run_id, message)`."""

    def __init__(self, run_id: str, message: str) -> None:
        super().__init__(run_id, message)

    def __str__(self) -> str:
        return f"run {self.args[0]}: {self.args[1]}"


class RunFailed(OrchestratorError):
    """The run ended without a result. `RunFailed(run_id, reason)`."""

    def __init__(self, run_id: str, reason: str) -> None:
        super().__init__(run_id, reason)

    def __str__(self) -> str:
        return f"run {self.args[0]} failed: {self.args[1]}; see `celeriac runs events {self.args[0]}`"


class RunCancelled(OrchestratorError):
    """The run was cancelled. `RunCancelled(run_id, reason)`."""

    def __init__(self, run_id: str, reason: str) -> None:
        super().__init__(run_id, reason)

    def __str__(self) -> str:
        return f"run {self.args[0]} was cancelled: {self.args[1] or 'no reason was given'}"


class AgentFailed(OrchestratorError):
    """
    A step failed for good, and its run with it. `AgentFailed(step, reason)`.

    This is what Celery and Flower see: short, and without the payload.
    """

    def __init__(self, step: str, reason: str) -> None:
        super().__init__(step, reason)

    def __str__(self) -> str:
        return f"{self.args[0]}: {self.args[1]}"


LONGEST_DELAY: Final = 366 * 86400.0
"""Seconds; as long as a run may take."""


class RetryLater(OrchestratorError):
    """
    Raised by an agent that wants to be tried again after a delay. `RetryLater(after, reason)`, `after` in seconds.

    It counts as an attempt: of the agent's `retry`, or where it has none, of the setting `max_attempts`.
    """

    def __init__(self, after: float, reason: str = "") -> None:
        given: object = after
        if isinstance(given, bool) or not isinstance(given, int | float) or not 0 <= given <= LONGEST_DELAY:
            msg = f"RetryLater takes seconds from now on, at most a year, not {after!r:.40}"
            raise ValueError(msg)
        said: object = reason
        # Often the error that was caught.
        super().__init__(after, said if isinstance(said, str) else text_of(said))

    def __str__(self) -> str:
        after, reason = self.args
        return f"{reason or 'asked to be tried again'}; again in {after:g} s"


class CircuitOpen(OrchestratorError):
    """A breaker lets no call through now. `CircuitOpen(name, retry_after)`, in seconds."""

    def __init__(self, name: str, retry_after: float) -> None:
        super().__init__(name, retry_after)

    def __str__(self) -> str:
        return f"the circuit breaker {self.args[0]!r} is open; try again in {self.args[1]:g} s"


class LimitReached(OrchestratorError):
    """A call needs more than its rate limit lets through at all. `LimitReached(name, tokens)`."""

    def __init__(self, name: str, tokens: int) -> None:
        super().__init__(name, tokens)

    def __str__(self) -> str:
        return f"the rate limit {self.args[0]!r} never lets {self.args[1]:,} tokens through; ask for fewer or raise it"


class EmbeddedServerError(OrchestratorError):
    """The embedded server cannot be started or used. `EmbeddedServerError(message)`."""

    def __str__(self) -> str:
        return f"embedded server: {self.args[0]}"
