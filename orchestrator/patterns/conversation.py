"""Agents that talk to each other directly, with nobody above them."""

from __future__ import annotations

import json
import math
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter

from orchestrator.agent import NAME, Agent, from_json
from orchestrator.board.rules import HighestConfidence
from orchestrator.conversation.ends import DEEPEST, MOST_TURNS, End, depth
from orchestrator.conversation.mail import Dispute, Returned, Ruling, body_of, models_of
from orchestrator.conversation.resolving import RESOLVES, Judge, PriorityOrder, RankedVote, Resolve, Vote
from orchestrator.errors import InvalidFlow, InvalidInput, InvalidPolicy, definition_site
from orchestrator.messages import (
    MAX_STEPS,
    ConversationOutcome,
    ConversationRules,
    Otherwise,
    PeerRules,
    PlanStep,
    ResolveRules,
)
from orchestrator.patterns.fits import misfit
from orchestrator.patterns.flow import found, register
from orchestrator.resilience.options import is_number

if TYPE_CHECKING:
    import builtins

    from orchestrator.patterns.flow import Flow
    from orchestrator.patterns.gate import Gate

Model = TypeVar("Model", bound=BaseModel)
STEP: Final = "talk"
"""The one step of the flow: it is done when the conversation is over."""
JUDGE: Final = "judge"
"""What the judge's steps are called; no member is."""
MAX_MEMBERS: Final = 100
MAX_MAIL: Final = 10_000
MAX_HOPS: Final = 10_000
MAX_WEIGHT: Final = 1000.0


@dataclass(frozen=True, kw_only=True)
class ConversationLimits:
    """
    What a conversation may come to.

    Attributes:
        turns: of all members together; at so many it ends.
        mail: messages that may wait for a member; another one goes back to its sender.
        hops: messages that may follow from one another; what follows from so many goes nowhere.
        volleys: messages that two members may send each other in turn, each in answer to the other's and to nobody
            else; then theirs go nowhere.
    """

    turns: int = 1000
    mail: int = 1000
    hops: int = 500
    volleys: int = 50

    def __post_init__(self) -> None:
        where = definition_site()
        for name, limit in {"turns": MOST_TURNS, "mail": MAX_MAIL, "hops": MAX_HOPS, "volleys": MAX_HOPS}.items():
            given = getattr(self, name)
            if isinstance(given, bool) or not isinstance(given, int) or not 1 <= given <= limit:
                why = f"{name} must be 1 to {limit}, a whole number, not {given!r:.80}"
                raise InvalidPolicy("ConversationLimits", where, why)


@dataclass(frozen=True)
class Peer:
    """
    An agent, or a flow, that takes part in a conversation.

    Attributes:
        runs: the agent, its name, or a flow; it takes `Mail[...]`.
        name: unique in the conversation; the last part of the agent's unless given.
        topics: that it listens to, such as `#claims`.
        weight: what its vote counts; 0: it has none.
        present: whether it is there from the opening on; else it joins by `joins`, or by an invitation.
        joins, leaves: when it does, by itself.
    """

    runs: Agent[Any, Any] | Flow | str
    name: str | None = None
    topics: Sequence[str] = ()
    weight: float = 1.0
    present: bool = True
    joins: End | None = None
    leaves: End | None = None


class Resolution(BaseModel):
    """
    What was decided.

    Attributes:
        message: the number of the proposal, or of the verdict; `by`: whose it is.
        type: the name of its model; `body`: JSON data.
    """

    model_config = ConfigDict(frozen=True)

    message: int
    by: str
    type: str
    body: JsonValue

    def get(self, kind: builtins.type[Model]) -> Model:
        """
        Return it as its model.

        Raises:
            pydantic.ValidationError: it is none of this type.
        """
        return kind.model_validate(self.body)


class ConversationResult(BaseModel):
    """
    What a conversation gives.

    Attributes:
        outcome: how it ended: consensus, verdict, turns, deadline, silence, spent; quiet: nobody had anything to do;
            limit: of its turns. `why`: in words.
        decision: what was decided, or None; `how`: by what; `note`: what its judge said; `tie`: whether the rule for
            ties decided.
        votes: by the number of each proposal that anybody was for.
        dissent: those who were for another proposal; `abstained`: those who were for none.
        messages, turns: how many there were.
        fault: where it is degraded as somebody has failed for good: the first such step, and why.
        task: what it was about, JSON data: the flow's input; of one that is itself a member, or a source, the message,
            or the blackboard's task, without what is around it.
    """

    model_config = ConfigDict(frozen=True)

    outcome: ConversationOutcome
    why: str = ""
    decision: Resolution | None = None
    how: str = ""
    note: str = ""
    tie: bool = False
    votes: dict[str, float] = Field(default_factory=dict)
    dissent: tuple[str, ...] = ()
    abstained: tuple[str, ...] = ()
    messages: int = 0
    turns: int = 0
    fault: str = ""
    task: JsonValue = None


class Conversation:
    """
    Members that send each other messages: no coordinator.

    Its input is the task, which those who open it are told. Each message is handled in a turn of its own, a step on the
    member's queue; each member has one turn at a time, in the order of its mail. It gives a `ConversationResult`.

    Args:
        name: unique in the deployment.
        task: the model of the flow's input.
        members: agents, flows, names of agents, or Peers of these.
        opening: who is told the task first: a member's name, or several; unless given, the first member.
        until: what ends it; unless given, and whatever else does, it ends when nobody has anything to do.
        resolve: how it comes to a decision from what was proposed; unless given, a consensus or a verdict is one.
        decides: the models that can be the decision, themselves and not what is derived from them; unless given,
            whatever is proposed or concluded. What else is proposed can be rejected; nobody can be for it.
        otherwise: what follows where a member fails for good, or where `resolve` leads to no decision: `fail`, or
            `degrade`: it goes on, and what it gives is marked as degraded. One at a question is told to who asked.
        limits: what it may come to.

    Raises:
        InvalidFlow: the parts do not fit together; the message names the file.
        UnknownAgent: there is no agent of a name.
    """

    def __init__(
        self,
        name: str,
        *,
        task: type[BaseModel],
        members: Sequence[Agent[Any, Any] | Flow | Peer | str],
        opening: str | Sequence[str] | None = None,
        until: End | None = None,
        resolve: Resolve | None = None,
        decides: Sequence[type[BaseModel]] | None = None,
        otherwise: Otherwise = "fail",
        limits: ConversationLimits | None = None,
    ) -> None:
        self.name = name
        self.where = definition_site()
        self.limits = ConversationLimits() if limits is None else limits
        self._check(task, members)
        self.input: TypeAdapter[Any] = TypeAdapter(task)
        self.output: TypeAdapter[Any] = TypeAdapter(ConversationResult)
        self._inner: dict[str, Flow] = {}
        self._bodies: dict[str, object] = {}
        self._outputs: dict[str, TypeAdapter[Any]] = {}
        self._kinds: dict[str, type[BaseModel]] = {}
        peers = [each if isinstance(each, Peer) else Peer(each) for each in members]
        rules = [self._peer(each, task) for each in peers]
        self._names = tuple(each.name for each in rules)
        for each in rules:
            if self._names.count(each.name) > 1:
                raise self._invalid(f"two members are named {each.name!r}; name one of them: Peer(..., name=...)")
        self._topics = {
            topic: tuple(each.name for each in rules if topic in each.topics) for rule in rules for topic in rule.topics
        }
        self._opening = self._openers(opening, task, rules)
        ends = [
            end for end in (until, *(part for each in peers for part in (each.joins, each.leaves))) if end is not None
        ]
        for end in ends:
            self._end(end)
        self._judges = frozenset(leaf[1] for leaf in ([] if until is None else until.leaves()) if leaf[0] == "verdict")
        if otherwise not in ("fail", "degrade"):
            raise self._invalid(f"otherwise is 'fail' or 'degrade', not {otherwise!r:.80}")
        resolves = None if resolve is None else self._resolve(resolve)
        self._decides = () if decides is None else self._decided(decides, resolves)
        self._rules = ConversationRules(
            members=tuple(rules),
            opening=self._opening,
            task=task.__name__,
            until=None if until is None else until.as_rule(),
            waits=any(leaf[0] == "silence" for leaf in ([] if until is None else until.leaves())),
            moves=any(each.joins is not None or each.leaves is not None for each in rules),
            resolve=resolves,
            decides=self._decides,
            otherwise=otherwise,
            max_turns=self.limits.turns,
            max_mail=self.limits.mail,
            max_hops=self.limits.hops,
            max_volleys=self.limits.volleys,
            max_steps=MAX_STEPS,
        )

        def conversation(task: object) -> object:  # noqa: ARG001  it has the types that a flow around it asks for
            raise InvalidInput(f"conversation {name!r} is led by its members: submit it")

        conversation.__annotations__ = {"task": task, "return": ConversationResult}
        register(self)
        # What a flow around it asks for its types; nobody serves its queue, as nothing is ever put there.
        self._stands_for: Agent[Any, Any] = Agent(name, conversation)

    def __repr__(self) -> str:
        return f"<conversation {self.name}: {', '.join(self._names)}>"

    @property
    def rules(self) -> ConversationRules:
        """How it goes on and ends, as the state keeps it."""
        return self._rules

    # Of a flow

    def plan(self) -> tuple[PlanStep, ...]:
        """Return the conversation's own step; its members' come with their turns."""
        return (PlanStep(name=STEP, agent=self.name, converses=self._rules),)

    def agent_of(self, step: str) -> Agent[Any, Any]:  # noqa: ARG002  the protocol's
        """Return what has the types of the conversation; it cannot be called."""
        return self._stands_for

    def gate_of(self, step: str) -> Gate | None:  # noqa: ARG002  the protocol's
        """Return None: a conversation has no gates; a flow that is a member may have its own."""
        return None

    def inner(self, name: str) -> Flow | None:
        """Return the flow that a member is, or None."""
        return self._inner.get(name)

    # Who can be told what

    def names(self) -> Sequence[str]:
        """Return the members' names."""
        return self._names

    def listeners(self, topic: str) -> Sequence[str]:
        """
        Return who listens to a topic.

        Raises:
            InvalidInput: there is no such topic.
        """
        found = self._topics.get(topic)
        if found is None:
            msg = f"conversation {self.name!r} has no topic {topic!r}; topics: {', '.join(self._topics) or 'none'}"
            raise InvalidInput(msg)
        return found

    def takes(self, member: str, kind: type[BaseModel]) -> bool:
        """Tell whether a member can be told this."""
        body = self._bodies[member]
        return body in {Any, BaseModel} or any(issubclass(kind, each) for each in models_of(body))

    def taken_by(self, member: str) -> object:
        """Return the type of what a member can be told: a model, or a choice of some."""
        return self._bodies[member]

    def takes_said(self, member: str) -> str:
        """Tell what a member can be told, in words."""
        return ", ".join(each.__name__ for each in models_of(self._bodies[member])) or "anything"

    def concludes(self, member: str) -> bool:
        """Tell whether a member's verdict ends the conversation."""
        return member in self._judges

    def decides(self, kind: str) -> bool:
        """Tell whether a model, by its name, can be the decision."""
        return not self._decides or kind in self._decides

    def decides_said(self) -> str:
        """Tell what can be the decision, in words."""
        return " or ".join(self._decides) or "anything"

    def load(self, kind: str, stored: bytes) -> object:
        """Return a body as its model, where that is known by this name and still fits; else as JSON data."""
        known = self._kinds.get(kind)
        data = json.loads(stored)
        if known is None:
            return data
        try:
            return known.model_validate(data)
        except ValueError:  # said by another version of the flow
            return data

    def load_reply(self, member: str, kind: str, stored: bytes) -> object:
        """
        Return what a member replied.

        Raises:
            InvalidInput: it does not fit: another version of the flow has said it.
        """
        try:
            known = self._kinds.get(kind)
            return from_json(self._outputs[member], stored) if known is None else known.model_validate_json(stored)
        except ValueError as error:
            msg = f"what {member!r} replied does not fit its type, which may be another version's: {error}"
            raise InvalidInput(msg) from None

    # Definition

    def _invalid(self, why: str) -> InvalidFlow:
        return InvalidFlow(self.name, self.where, why)

    def _check(self, task: object, members: object) -> None:
        if not (isinstance(task, type) and issubclass(task, BaseModel)):
            raise self._invalid(f"task takes the pydantic model of what it is about, not {task!r:.80}")
        if not isinstance(members, Sequence) or isinstance(members, str) or not members:
            raise self._invalid("members takes a list of agents, flows or Peers of these, at least one")
        if len(members) > MAX_MEMBERS:
            raise self._invalid(f"{len(members)} members; a conversation has at most {MAX_MEMBERS}")
        if not isinstance(self.limits, ConversationLimits):
            raise self._invalid(f"limits takes ConversationLimits(...), not {self.limits!r:.80}")

    def _peer(self, peer: Peer, task: type[BaseModel]) -> PeerRules:
        runs = found(peer.runs, self.name, self.where)
        name = peer.name or (runs.name.rpartition(".")[2] if isinstance(runs, Agent) else runs.name)
        named: object = name
        if not isinstance(named, str) or not NAME.fullmatch(named) or named == JUDGE:
            raise self._invalid(
                f"a member's name is lower-case letters, digits and _ . -, and not {JUDGE!r}, not {named!r:.80}; "
                "give it another: Peer(..., name=...)"
            )
        takes = runs.input_type if isinstance(runs, Agent) else runs.agent_of(runs.plan()[0].name).input_type
        body = body_of(takes)
        if body is None or (body is not Any and not models_of(body)):
            raise self._invalid(
                f"member {name!r} takes {getattr(takes, '__name__', takes)!s:.80}; a member takes Mail[...] of what "
                "it can be told, such as Mail[Question | Doubt]"
            )
        output = runs.output_type if isinstance(runs, Agent) else None
        self._replies(name, output)
        self._bodies[name], self._outputs[name] = body, runs.output
        for kind in (*models_of(body), *models_of(output), task):
            self._known(kind)
        return PeerRules(
            name=name,
            present=self._flag(name, "present", peer.present),
            greeted=self.takes(name, task),
            returns=body is not Any and Returned in models_of(body),
            votes=self._votes(name, peer.weight),
            joins=None if peer.joins is None else self._condition(name, "joins", peer.joins).as_rule(),
            leaves=None if peer.leaves is None else self._condition(name, "leaves", peer.leaves).as_rule(),
            topics=self._topics_of(name, peer.topics),
            steps=self._steps(name, runs),
        )

    def _replies(self, name: str, output: object) -> None:
        parts = get_args(output) if get_origin(output) in {Union, types.UnionType} else (output,)
        if output is None:
            return  # a flow's is its last step's
        if not all(part in {None, type(None), Any} or models_of(part) for part in parts):
            raise self._invalid(
                f"member {name!r} returns {output!s:.80}: a reply is a pydantic model, and no reply is None"
            )

    def _flag(self, name: str, what: str, given: object) -> bool:
        if not isinstance(given, bool):
            raise self._invalid(f"member {name!r}: {what} is True or False, not {given!r:.80}")
        return given

    def _votes(self, name: str, weight: object) -> int:
        if not (is_number(weight) and 0 <= weight <= MAX_WEIGHT):
            raise self._invalid(f"member {name!r}: weight must be 0 to {MAX_WEIGHT:g}, not {weight!r:.80}")
        return round(weight * 1000)

    def _condition(self, name: str, what: str, given: object) -> End:
        if not isinstance(given, End):
            raise self._invalid(f"member {name!r}: {what} takes a condition, such as MaxTurns(10), not {given!r:.80}")
        return given

    def _topics_of(self, name: str, topics: Sequence[str]) -> tuple[str, ...]:
        given = (topics,) if isinstance(topics, str) else tuple(topics)
        for topic in given:
            named: object = topic
            if not isinstance(named, str) or named[:1] != "#" or not NAME.fullmatch(named[1:]):
                raise self._invalid(f"member {name!r}: a topic is called like '#claims', not {topic!r:.80}")
        return given

    def _openers(self, opening: object, task: type[BaseModel], rules: Sequence[PeerRules]) -> tuple[str, ...]:
        given = (rules[0].name,) if opening is None else (opening,) if isinstance(opening, str) else opening
        if not isinstance(given, Sequence) or not given:
            raise self._invalid(
                f"opening takes the name of who is told the task first, or several, not {opening!r:.80}"
            )
        known = {each.name: each for each in rules}
        for name in given:
            if name not in known:
                raise self._invalid(f"opening names {name!r}, which is no member; members: {', '.join(known)}")
            if not known[name].present:
                raise self._invalid(f"opening names {name!r}, which is not there at the beginning")
            if not known[name].greeted:
                why = misfit("task", task, name, self._bodies[name]) or f"it takes {self.takes_said(name)}"
                raise self._invalid(f"opening names {name!r}, which cannot be told {task.__name__}: {why}")
        return tuple(dict.fromkeys(given))

    def _end(self, end: object) -> None:
        if not isinstance(end, End):
            raise self._invalid(f"until takes what ends it, such as MaxTurns(12) | Deadline(60.0), not {end!r:.80}")
        if depth(end.as_rule()) > DEEPEST:
            raise self._invalid(f"conditions are at most {DEEPEST} deep within one another")
        for leaf in end.leaves():
            if leaf[0] == "verdict" and leaf[1] not in self._names:
                raise self._invalid(f"Concluded({leaf[1]!r}) names no member; members: {', '.join(self._names)}")

    def _resolve(self, resolve: object) -> ResolveRules:
        if not isinstance(resolve, RESOLVES):
            known = "Vote(), RankedVote(), HighestConfidence(), PriorityOrder([...]), Judge(...)"
            raise self._invalid(f"resolve is one of {known}, not {resolve!r:.80}")
        if isinstance(resolve, Vote):
            need = math.ceil(resolve.need * 1000)
            return ResolveRules(by="vote", weighted=bool(resolve.weighted), need=need, ties=resolve.ties)
        if isinstance(resolve, RankedVote):
            return ResolveRules(by="ranked", weighted=bool(resolve.weighted), ties=resolve.ties)
        if isinstance(resolve, HighestConfidence):
            return ResolveRules(by="confidence")
        if isinstance(resolve, PriorityOrder):
            for name in resolve.members:
                if name not in self._names:
                    raise self._invalid(
                        f"PriorityOrder names {name!r}, which is no member; members: {', '.join(self._names)}"
                    )
            return ResolveRules(by="order", order=tuple(resolve.members))
        return ResolveRules(by="judge", steps=self._judge(resolve))

    def _decided(self, decides: object, resolve: ResolveRules | None) -> tuple[str, ...]:
        kinds = [*decides] if isinstance(decides, Sequence) else []
        if not kinds or not all(isinstance(kind, type) and issubclass(kind, BaseModel) for kind in kinds):
            raise self._invalid(
                f"decides takes the models that can be the decision, such as [Answer], not {decides!r:.80}"
            )
        # What somebody alone decides need not be told to anybody: a verdict, or what a judge, or the surest, chooses.
        heard = not self._judges and (resolve is None or resolve.by in {"vote", "ranked"})
        for kind in kinds:
            if heard and not any(self.takes(name, kind) for name in self._names):
                told = ", ".join(f"{name} {self.takes_said(name)}" for name in self._names)
                why = f"decides names {kind.__name__}, which no member can be told: nobody could be for it"
                raise self._invalid(f"{why}. Told are {told}")
            self._known(kind)
        return tuple(dict.fromkeys(kind.__name__ for kind in kinds))

    def _known(self, kind: type[BaseModel]) -> None:
        if self._kinds.setdefault(kind.__name__, kind) is not kind:
            raise self._invalid(f"two models are called {kind.__name__!r}: what is said is told apart by their names")

    def _judge(self, judge: Judge) -> tuple[PlanStep, ...]:
        runs = found(judge.runs, self.name, self.where)
        takes = runs.input_type if isinstance(runs, Agent) else runs.agent_of(runs.plan()[0].name).input_type
        gives = runs.output_type if isinstance(runs, Agent) else runs.agent_of(runs.plan()[-1].name).output_type
        if takes is not Dispute or gives is not Ruling:
            raise self._invalid(f"a judge takes a Dispute and gives a Ruling; {runs.name!r} does not")
        return self._steps(JUDGE, runs)

    def _steps(self, name: str, runs: Agent[Any, Any] | Flow) -> tuple[PlanStep, ...]:
        if isinstance(runs, Agent):
            within_ms = None if runs.deadline is None else max(1, math.ceil(runs.deadline * 1000))
            return (PlanStep(name="", agent=runs.name, within_ms=within_ms),)
        self._inner[name] = runs
        steps = runs.plan()
        if any(step.undo for step in steps):
            raise self._invalid(f"member {name!r} has steps with undo: what was said is not undone")
        return steps


def mail_of(facts: Mapping[str, object], body: bytes) -> bytes:
    """Return a message as a member takes it, JSON; its type before its body, which is read by it."""
    return json.dumps(dict(facts))[:-1].encode() + b',"body":' + body + b"}"
