"""A conversation, rebuilt from its run's events alone: as it is, or as it was at any of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from orchestrator.messages import CLOSES, WITH_ITS_RUN, ConversationState, PeerState

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from orchestrator.messages import Event


def conversations_of(events: Iterable[Event]) -> list[str]:
    """Return the steps of the conversations that a log tells of, in the order in which they were opened."""
    return list(dict.fromkeys(str(event.data["talk"]) for event in events if event.type == "ConversationOpened"))


def fold_conversation(step: str, events: Iterable[Event]) -> ConversationState | None:
    """
    Rebuild a conversation.

    Args:
        step: its step.
        events: the run's, from the first one on, oldest first. A prefix gives the conversation at that time.

    Returns:
        The conversation; None: it was not open yet.
    """
    talk: _Talk | None = None
    rules: dict[str, Any] = {}
    for event in events:
        rules = _rules(step, event) or rules
        if event.type == "ConversationOpened" and event.data["talk"] == step:
            talk = _Talk(talk, rules, cast("list[str]", event.data["present"] or ()))
        elif talk is not None and event.type in CLOSES:
            talk.closes()
        elif talk is not None:
            talk.take(step, event)
    return talk.state(step) if talk else None


def _rules(talk: str, event: Event) -> dict[str, Any]:
    """Return a conversation's rules where an event tells of them: it is submitted, or given out, with them."""
    plans: Sequence[Any] = ()
    if event.type == "RunSubmitted":
        plans = cast("list[Any]", event.data.get("steps") or ())
    elif event.type in {"MembersAdded", "SourceWoken", "TurnStarted", "JudgeCalled"}:
        steps = cast("dict[str, Any]", event.data["steps"])
        plans = [{**each, "name": name} for name, each in steps.items()]
    found: list[dict[str, Any]] = [
        each["converses"] for each in plans if each["name"] == talk and each.get("converses")
    ]
    return found[0] if found else {}


@dataclass
class _Peer:
    """A member while it is being built."""

    present: bool
    turns: int = 0
    turn: str | None = None
    ask: int | None = None
    waits: list[str] = field(default_factory=list)
    mail: list[int] = field(default_factory=list)
    stance: list[int] = field(default_factory=list)
    confidence: float | None = None
    leaving: bool = False


class _Talk:
    """A conversation while it is being built."""

    def __init__(self, before: _Talk | None, rules: Mapping[str, Any], present: Sequence[str]) -> None:
        self.status, self.turns = "open", 0
        self.messages: int = before.messages if before else 0
        self.proposals: list[int] = []
        self.outcome: Any = None
        self.why = ""
        self.decides = rules.get("decides") or ()
        names = [each["name"] for each in rules.get("members", ())]
        self.peers = {name: _Peer(present=name in present) for name in names}
        for name, peer in (before.peers if before else {}).items():
            self.peers[name].turns = peer.turns
        self.asks: dict[int, tuple[str, list[str]]] = {}
        self.turn_of: dict[str, str] = {}

    def take(self, step: str, event: Event) -> None:
        data = event.data
        if data.get("talk") == step:
            getattr(self, f"_{event.type}", lambda _: None)(data)
        elif event.type in {"StepCompleted", "StepFailed"}:
            self._ended(str(data["step"]), failed=event.type == "StepFailed")
        elif event.type == "StepReady":
            self._goes_on(str(data["step"]))

    # Each event of the conversation

    def _MessageSent(self, data: dict[str, Any]) -> None:  # noqa: N802  named by its event
        number, kind, sender = data["id"], data["kind"], data["from"]
        self.messages = number
        if kind in {"propose", "accept", "reject", "vote"} and sender in self.peers:
            self._stance(self.peers[sender], kind, data)
        if kind in {"reply", "accept", "reject", "vote", "conclude"} and not data.get("to"):
            return
        if kind == "reply":
            self._answered(data["re"], sender)
            return
        to = list(data.get("to") or ())
        if kind == "ask" and sender in self.peers:
            self.asks[number] = (sender, list(to))
            self.peers[sender].ask, self.peers[sender].waits = number, list(to)
        for name in to:
            if name in self.peers:
                self.peers[name].mail.append(number)

    def _stance(self, peer: _Peer, kind: str, data: dict[str, Any]) -> None:
        if kind == "propose":
            if self.decides and data.get("type") not in self.decides:
                return
            self.proposals.append(data["id"])
            peer.stance = [data["id"]]
        elif kind == "vote":
            named = list(data.get("proposals") or ())
            if not set(named) <= set(self.proposals):
                return
            peer.stance = named
        elif data["re"] not in self.proposals:
            return
        elif kind == "accept":
            peer.stance = [data["re"]]
        else:
            peer.stance = [each for each in peer.stance if each != data["re"]]
        peer.confidence = data.get("confidence") if peer.stance else None

    def _MessageReturned(self, data: dict[str, Any]) -> None:  # noqa: N802  likewise
        if data["why"] == "proposal":  # it went to nobody
            for each in self.peers.values():
                each.mail = [number for number in each.mail if number != data["id"]]
        peer = self.peers.get(data["to"])
        if peer is not None and data["why"] != "failed" and data["id"] in peer.mail:
            peer.mail.remove(data["id"])

    def _AskUnanswered(self, data: dict[str, Any]) -> None:  # noqa: N802  likewise
        self._answered(data["id"], data["peer"])

    def _answered(self, number: int, name: str) -> None:
        sender, left = self.asks.get(number, ("", []))
        if name in left:
            left.remove(name)
        if sender and self.peers[sender].ask == number:
            self.peers[sender].waits = list(left)

    def _TurnStarted(self, data: dict[str, Any]) -> None:  # noqa: N802  likewise
        peer = self.peers[data["peer"]]
        self.turns += 1
        peer.turns, peer.turn = data["number"], data["order"][0]
        peer.mail.remove(data["id"])
        for name in data["order"]:
            self.turn_of[name] = data["peer"]

    def _MemberJoined(self, data: dict[str, Any]) -> None:  # noqa: N802  likewise
        self.peers[data["peer"]].present = True

    def _MemberLeft(self, data: dict[str, Any]) -> None:  # noqa: N802  likewise
        peer = self.peers[data["peer"]]
        peer.present, peer.stance, peer.confidence = False, [], None

    def _JudgeCalled(self, data: dict[str, Any]) -> None:  # noqa: N802, ARG002  likewise
        self.status = "judging"
        self._close()

    def _ConversationEnded(self, data: dict[str, Any]) -> None:  # noqa: N802  likewise
        self.status, self.outcome, self.why = "ended", data["outcome"], data["why"]
        self._close()

    def closes(self) -> None:
        """It is over with its run, if it had not ended before."""
        if self.status != "ended":
            self.status, self.outcome, self.why = "ended", "closed", WITH_ITS_RUN
            self._close()

    def _close(self) -> None:
        for peer in self.peers.values():
            peer.turn, peer.waits, peer.ask = None, [], None

    # Events of its members' steps

    def _ended(self, step: str, *, failed: bool) -> None:
        name = self.turn_of.get(step)
        if name is None or self.peers[name].turn is None:
            return
        if failed or self._last(step):
            peer = self.peers[name]
            peer.turn, peer.waits, peer.ask = None, [], None

    def _last(self, step: str) -> bool:
        names = [name for name, member in self.turn_of.items() if member == self.turn_of[step]]
        return step == names[-1]

    def _goes_on(self, step: str) -> None:
        name = self.turn_of.get(step)
        if name is not None and self.peers[name].ask is not None:
            self.peers[name].ask, self.peers[name].waits = None, []

    def state(self, step: str) -> ConversationState:
        peers = {
            name: PeerState(
                present=peer.present,
                turns=peer.turns,
                turn=peer.turn,
                waits=tuple(peer.waits),
                mail=tuple(peer.mail),
                stance=tuple(peer.stance),
                confidence=peer.confidence,
            )
            for name, peer in self.peers.items()
        }
        return ConversationState(
            step=step,
            status=cast("Any", self.status),
            messages=self.messages,
            turns=self.turns,
            proposals=tuple(self.proposals),
            outcome=self.outcome,
            why=self.why,
            peers=peers,
        )
