"""A member in its conversation: what it is told when it has its turn, and what it is given to speak with."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from orchestrator.conversation.handle import Talk
from orchestrator.patterns.conversation import Conversation, mail_of
from orchestrator.patterns.flow import planner_of
from orchestrator.runtime.attempt import AttemptFailed
from orchestrator.runtime.boarding import wake_of
from orchestrator.state.conversations import is_a_judges

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence

    from orchestrator.conversation.handle import Outbox
    from orchestrator.messages import Letter, PeerState
    from orchestrator.runtime.process import WorkerProcess
    from orchestrator.state.conversations import Line
    from orchestrator.state.runs import Begun


def conversation_of(flow: str, step: str) -> Conversation:
    """
    Return the conversation that its step belongs to.

    Raises:
        AttemptFailed: this worker does not know it.
    """
    found = planner_of(flow, step)
    if not isinstance(found, Conversation):
        why = f"this worker does not know flow {flow!r} with a conversation here; add its module to CELERIAC_AGENTS"
        raise AttemptFailed(why, judged=True)
    return found


def told(begun: Begun) -> Begun:
    """Return the execution of a turn's first step with what it takes: the message around its body."""
    letter = begun.step.mail
    return begun if letter is None or begun.fault else replace(begun, value=_enclosed(letter, begun.value))


def _enclosed(letter: Letter, body: bytes) -> bytes:
    if letter.within is not None:
        body = _enclosed(letter.within, body)
    if letter.wake is not None:
        body = wake_of(letter.wake, body)
    facts: dict[str, object] = {
        "type": letter.type,
        "kind": letter.kind,
        "id": letter.id,
        "sender": letter.sender,
        "to": letter.to,
        "re": letter.re,
        "hops": letter.hops,
    }
    return mail_of(facts, body)


def talk_for(
    process: WorkerProcess, begun: Begun, outbox: Outbox, call: Callable[..., Coroutine[Any, Any, Any]]
) -> Talk | None:
    """
    Return the conversation that a step may speak in; None: it is no member's.

    Raises:
        AttemptFailed: this worker does not know the flow.
    """
    step = begun.step
    if step.talk is None or is_a_judges(step):
        return None
    flow = conversation_of(begun.flow, step.talk)
    member = _root(step.talk, step.name).rpartition("#")[0]
    post = RedisTalk(process, begun, step.talk, call)
    return Talk(flow, post, member, outbox, said=step.said, asked=step.asked, mute=step.gated or step.delegates)


def model_name(output: object) -> str:
    """Return the name of the model that a reply is."""
    return type(output).__name__ if isinstance(output, BaseModel) else ""


def _root(talk: str, step: str) -> str:
    path = talk.rpartition("/")[0]
    inside = step[len(path) + 1 :] if path else step
    return inside.partition("/")[0]


class RedisTalk:
    """
    A conversation in Redis, as one attempt reads it.

    Args:
        process: with the store.
        begun: the attempt.
        talk: the conversation's step.
        call: makes a blocking call from a coroutine.
    """

    def __init__(
        self, process: WorkerProcess, begun: Begun, talk: str, call: Callable[..., Coroutine[Any, Any, Any]]
    ) -> None:
        self._store, self._run_id, self._talk, self.call = process.conversations, begun.run_id, talk, call

    def answers(self, ask: int) -> Mapping[str, Mapping[str, Any]]:
        """Return what came of a question."""
        return self._store.answers(self._run_id, self._talk, ask)

    def transcript(self, last: int) -> Sequence[Line]:
        """Return the last messages."""
        return self._store.transcript(self._run_id, self._talk, last)

    def peers(self) -> tuple[Mapping[str, PeerState], Sequence[Line]]:
        """Return the members, and the proposals."""
        return self._store.peers(self._run_id, self._talk)
