"""Conversations in Redis as tests of the state hold them: made of plain rules, spoken in without workers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from orchestrator.messages import (
    MAX_STEPS,
    ConversationRules,
    ConversationState,
    PeerRules,
    PlanStep,
    ResolveRules,
    RunState,
)
from orchestrator.state.conversations import Conversations
from orchestrator.state.fold import fold
from orchestrator.state.fold_conversation import fold_conversation
from orchestrator.state.runs import Begun, RunStore, Submission
from tests.servers import wait_until

if TYPE_CHECKING:
    from orchestrator.conversation.ends import End
    from orchestrator.messages import Event
    from orchestrator.state.runs import Change

TALK = "talk"
TASK = b'{"task":1}'
Said = tuple[dict[str, object], bytes]


def peer(name: str, *, joins: End | None = None, leaves: End | None = None, **more: Any) -> PeerRules:  # noqa: ANN401
    """Return a member that is one agent of its own name, and can be told everything."""
    rules: dict[str, Any] = {"greeted": True, "returns": True, "steps": (PlanStep(name="", agent=name),), **more}
    if joins is not None:
        rules["joins"] = joins.as_rule()
    if leaves is not None:
        rules["leaves"] = leaves.as_rule()
    return PeerRules(name=name, **rules)


def rules(*members: PeerRules | str, until: End | None = None, **more: Any) -> ConversationRules:  # noqa: ANN401
    """Return a conversation's rules; the first member opens it."""
    peers = [peer(each) if isinstance(each, str) else each for each in members]
    limits = {"max_turns": 100, "max_mail": 10, "max_hops": 50, "max_volleys": 20, "max_steps": MAX_STEPS}
    return ConversationRules(
        members=tuple(peers),
        until=None if until is None else until.as_rule(),
        waits=until is not None and any(leaf[0] == "silence" for leaf in until.leaves()),
        moves=any(each.joins or each.leaves for each in peers),
        **{"opening": (peers[0].name,), "task": "Task", "otherwise": "fail", **limits, **more},
    )


def step_of(of: ConversationRules, name: str = TALK, **more: Any) -> PlanStep:  # noqa: ANN401
    """Return the step of a conversation."""
    return PlanStep(name=name, agent="dinner", converses=of, **more)


def submit(store: RunStore, *plan: PlanStep | ConversationRules, value: bytes = TASK, **more: Any) -> str:  # noqa: ANN401
    """Submit a run of these steps, one after the other; rules are those of a conversation."""
    steps = [step_of(each) if isinstance(each, ConversationRules) else each for each in plan]
    linked = [
        one.model_copy(update={"next": after.name if after else one.next})
        for one, after in zip(steps, [*steps[1:], None], strict=True)
    ]
    given: dict[str, Any] = {"deadline": 60.0, "retention": 60.0, **more}
    return store.submit([Submission(flow="dinner", plan=tuple(linked), value=value, tags={}, **given)])[0].run_id


def begin(store: RunStore, run: str, name: str, *, nonce: str = "n") -> Begun:
    """Begin a step that is ready."""
    step = store.load(run).step(name)
    assert step is not None, [each.name for each in store.load(run).steps]
    begun = store.begin(run, name, agent=step.agent, nonce=nonce, worker="w")
    assert isinstance(begun, Begun), (name, begun)
    return begun


def ready(store: RunStore, run: str) -> list[str]:
    """Return the steps that are ready."""
    return [step.name for step in store.load(run).steps if step.status == "ready"]


# What can be said


def _said(kind: str, to: str | list[str] | None, body: bytes, **more: object) -> Said:
    names = [to] if isinstance(to, str) else to or []
    facts: dict[str, object] = {"kind": kind, "to": names, **more}
    return ({"type": "Word", **facts} if body else facts), body


def tell(to: str | list[str], body: bytes = b'{"w":1}', **more: object) -> Said:
    """Tell."""
    return _said("tell", to, body, **more)


def ask(to: str | list[str], body: bytes = b'{"q":1}', *, within: float = 60.0, **more: object) -> Said:
    """Ask."""
    return _said("ask", to, body, within_ms=max(1, round(within * 1000)), **more)


def propose(to: str | list[str] | None = None, body: bytes = b'{"p":1}', **more: object) -> Said:
    """Propose."""
    return _said("propose", to, body, **more)


def accept(re: int, to: str | None = None, body: bytes = b"", **more: object) -> Said:
    """Accept."""
    return _said("accept", to, body, re=re, **more)


def reject(re: int, to: str | None = None, body: bytes = b"", **more: object) -> Said:
    """Reject."""
    return _said("reject", to, body, re=re, **more)


def vote(*proposals: int, **more: object) -> Said:
    """Vote."""
    return _said("vote", None, b"", proposals=list(proposals), **more)


def conclude(body: bytes = b'{"v":1}', **more: object) -> Said:
    """Conclude."""
    return _said("conclude", None, body, **more)


def invite(name: str, body: bytes = b'{"i":1}') -> Said:
    """Invite."""
    return _said("invite", name, body)


def leave() -> Said:
    """Leave."""
    return _said("leave", None, b"")


class Seen(NamedTuple):
    """A run, a conversation of it and its log."""

    run: RunState
    talk: ConversationState
    events: list[Event]


class Stage:
    """
    A conversation of a run, and the hands of its members.

    Args:
        store: of the run.
        run: which one.
        step: the conversation's.
    """

    def __init__(self, store: RunStore, run: str, step: str = TALK) -> None:
        self.store, self.run, self.step = store, run, step
        self.talks = Conversations(store)
        self._nonces = 0

    def begin(self, step: str) -> Begun:
        """Begin a step that is ready."""
        self._nonces += 1
        return begin(self.store, self.run, step, nonce=f"n{self._nonces}")

    def speak(self, begun: Begun, *said: Said, value: bytes = b"null", says: str = "") -> Change:
        """End a turn that was begun, or where the last thing said is a question let it wait."""
        asks = bool(said) and said[-1][0]["kind"] == "ask"
        return self.talks.speak(begun, value, asks=asks, said=said, says=says)

    def turn(self, step: str, *said: Said, value: bytes = b"null", says: str = "") -> Change:
        """Begin a step, and end it, or let it wait."""
        return self.speak(self.begin(step), *said, value=value, says=says)

    def reply(self, step: str, body: bytes = b'{"r":1}') -> Change:
        """Reply to a question."""
        return self.turn(step, value=body, says="Reply")

    def say(self, to: str | list[str], body: bytes = b'{"o":1}') -> tuple[str, str]:
        """Speak from outside."""
        facts, text = tell(to, body)
        what, more, _ = self.talks.say(self.run, self.step, "ann", facts, text)
        return what, more

    def ring(self, step: str = "") -> str:
        """Let the conversation's timer ring; where a step is named, the one until which it waits."""
        if step:
            return self.store.wake([(self.run, step)])[0]
        reply = self.store.scripts.join(self.run, self.step, dispatch_ms=1000)
        return reply[0].decode()

    def ring_until(self, what: str, step: str = "") -> None:
        """Let it ring until it leads to something."""
        wait_until(lambda: self.ring(step) == what, 10, f"the timer leads to {what}")

    @property
    def ready(self) -> list[str]:
        """The steps that are ready."""
        return ready(self.store, self.run)

    @property
    def events(self) -> list[Event]:
        """The run's log."""
        return list(self.store.events(self.run))

    def told(self, kind: str) -> list[dict[str, Any]]:
        """Return what events of a type say of this conversation."""
        return [dict(e.data) for e in self.events if e.type == kind and e.data.get("talk") in {self.step, None}]

    def now(self) -> ConversationState:
        """The conversation as it is stored, which is what its log folds to; so is the run."""
        return self.seen().talk

    def seen(self) -> Seen:
        """Its run, itself and the log, which is what both fold to."""
        events = self.events
        stored, folded = self.talks.load(self.run, self.step), fold_conversation(self.step, events)
        assert stored is not None
        assert stored == folded
        state: RunState = self.store.load(self.run)
        assert fold(self.run, events) == state
        return Seen(state, stored, events)

    def mail(self, name: str) -> tuple[int, ...]:
        """Return what waits in a mailbox."""
        return self.now().peers[name].mail

    @property
    def result(self) -> dict[str, Any]:
        """What the run has given."""
        state = self.store.load(self.run)
        assert state.status == "completed", (state.status, state.reason)
        found: dict[str, Any] = json.loads(self.store.value(self.run, str(state.output)) or b"null")
        return found


def resolve(by: Any, **more: Any) -> ResolveRules:  # noqa: ANN401
    """Return how it is decided."""
    return ResolveRules(by=by, **more)
