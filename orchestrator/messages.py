"""
The models that cross a process boundary: a run's projection, its steps and its events.

The Lua scripts write projection and events together; `state/fold.py` rebuilds the one from the other.
All times are milliseconds of Redis TIME since the epoch.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue

if TYPE_CHECKING:
    from collections.abc import Mapping

RunStatus = Literal["queued", "running", "waiting", "completed", "failed", "cancelled", "undoing"]
StepStatus = Literal["pending", "ready", "running", "delayed", "waiting", "completed", "failed", "cancelled"]
FailureKind = Literal["failed", "poison", "deadline", "undo"]
Priority = Literal["high", "normal", "low"]
Choice = Literal["approve", "reject", "fallback"]
MemberOutcome = Literal["ok", "degraded", "failed", "late"]
Otherwise = Literal["fail", "degrade"]
JoinVerdict = Literal["met", "accepted", "missed", "overdue"]
BoardStatus = Literal["open", "closing", "ended"]
BoardOutcome = Literal["goal", "quiet", "limit", "failed", "closed"]
ConversationStatus = Literal["open", "judging", "ended"]
ConversationOutcome = Literal[
    "consensus", "turns", "deadline", "silence", "verdict", "spent", "quiet", "limit", "failed", "closed"
]
MailKind = Literal[
    "open", "tell", "ask", "reply", "propose", "accept", "reject", "vote", "conclude", "invite", "returned"
]
NoReplyWhy = Literal["deadline", "enough", "declined", "failed", "cycle", "absent", "full", "hops", "volleys", "left"]

TURN: Final = "waits for its turn"
"""How `why` begins of a step that goes on when its turn comes, whatever its timer says."""
MAX_STEPS: Final = 15_000
"""Of a run, with all that its plans add: its scripts go through them in one go, which takes up to half a second."""
MAX_LOCK: Final = 3600.0
"""Seconds for which entries of a board may be locked, or waited for."""
FINISHED: Final = frozenset({"completed", "failed", "cancelled"})
ENDS: Final = frozenset({"RunCompleted", "RunFailed", "RunCancelled"})
CLOSES: Final = ENDS | {"RunUndoing"}
"""Events with which whatever is open of a run is over."""
WITH_ITS_RUN: Final = "its run has ended"
"""Why a blackboard or a conversation is closed that has come to no end of its own."""
CLOSED: Final = {"status": "ended", "outcome": "closed", "why": WITH_ITS_RUN}
"""What is then told of it."""
EVENT_VERSION: Final = 1


def _empty_table_is_a_list(value: object) -> object:
    # Lua has one table type: cjson writes an empty list as {}.
    return () if value == {} else value


class Frozen(BaseModel):
    """Base of the models here: immutable, and strict about what it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Condition = list[Any]
"""A condition on a board as the scripts take it: see patterns/conditions.py."""


class SourceRules(Frozen):
    """
    When a blackboard's source is woken, and what it does then.

    Attributes:
        name: unique on the board.
        watch: patterns of entries; `task` is the opening.
        when: what must hold beside that; None: nothing.
        priority: higher ones are woken first.
        own: whether what it writes itself wakes it.
        steps: of a wake, named from its root: of a single agent the one, without a name.
    """

    name: str
    watch: tuple[str, ...]
    when: Condition | None = None
    priority: int
    own: bool
    steps: tuple[PlanStep, ...]


class BoardRules(Frozen):
    """
    How a blackboard goes on and ends; what is fixed when the run is submitted.

    Attributes:
        sources: in the order in which they are declared.
        goal: what ends it; None: it ends when nothing is left to be looked at.
        asked: entries, or patterns of them, that the goal or a source's condition asks for.
        otherwise: what follows where the goal is not reached, or a source fails for good.
        width: sources at work at a time.
        max_wakes, max_writes, within_ms: limits that end it.
        max_entries, max_bytes, max_total: limits that a write is refused at: of entries, of bytes in one and in all.
        max_steps: that the run may have.
    """

    sources: tuple[SourceRules, ...]
    goal: Condition | None = None
    asked: tuple[str, ...] = ()
    otherwise: Otherwise
    width: int
    max_wakes: int
    max_writes: int
    within_ms: int | None = None
    max_entries: int
    max_bytes: int
    max_total: int
    max_steps: int


class PeerRules(Frozen):
    """
    A member of a conversation, and what it does with a message.

    Attributes:
        name: unique in the conversation.
        present: whether it is there from the opening on; `greeted`: whether it is given the task when it joins later.
        returns: whether it is told of messages that could not be delivered.
        votes: what it counts for, in thousandths; 0: nothing.
        joins, leaves: conditions at which it does; None: nothing but an invitation, or its own wish.
        topics: that it listens to.
        steps: of a turn, named from its root: of a single agent the one, without a name.
    """

    name: str
    present: bool = True
    greeted: bool = False
    returns: bool = False
    votes: int = 1000
    joins: Condition | None = None
    leaves: Condition | None = None
    topics: tuple[str, ...] = ()
    steps: tuple[PlanStep, ...]


class ResolveRules(Frozen):
    """
    How a conversation comes to its decision.

    Attributes:
        by: vote: most votes; ranked: instant run-off; confidence: the surest; order: the first member of `order` that
            has a stance; judge: an agent.
        weighted: whether votes count by their members' weight; else each is one.
        need: the share of what was cast that the winner must be above, in thousandths.
        ties: who wins at a draw: the earliest or the latest proposal, the one with the surest supporter, or none.
        order: members, the first one first.
        steps: of the judge, named from their root.
    """

    by: Literal["vote", "ranked", "confidence", "order", "judge"]
    weighted: bool = True
    need: int = 0
    ties: Literal["earliest", "latest", "confidence", "none"] = "earliest"
    order: tuple[str, ...] = ()
    steps: tuple[PlanStep, ...] = ()


class ConversationRules(Frozen):
    """
    How a conversation goes on and ends; what is fixed when the run is submitted.

    Attributes:
        members: in the order in which they are declared.
        opening: those who are given the task first; `task`: its type's name.
        until: what ends it; None: it ends when nobody has anything to do.
        waits: whether it stays open where nobody has anything to do: a silence is among the conditions.
        moves: whether a member joins or leaves by a condition.
        resolve: how it is decided; None: nothing is.
        decides: the types that can be the decision, by their names; empty: all.
        otherwise: what follows where a member fails for good, or no decision is reached.
        max_turns: that end it; `max_mail`: messages that may wait for a member; `max_hops`: messages that may follow
            from one another; `max_volleys`: that two may send each other in turn with nobody between.
        max_steps: that the run may have.
    """

    members: tuple[PeerRules, ...]
    opening: tuple[str, ...]
    task: str = ""
    until: Condition | None = None
    waits: bool = False
    moves: bool = False
    resolve: ResolveRules | None = None
    decides: tuple[str, ...] = ()
    otherwise: Otherwise
    max_turns: int
    max_mail: int
    max_hops: int
    max_volleys: int
    max_steps: int


class Woken(Frozen):
    """
    What a source's wake is told of beside the blackboard's task.

    Attributes:
        source: which one; `number`: how often it was woken; `changed`: what it has to look at.
    """

    source: str
    number: int
    changed: Annotated[tuple[str, ...], BeforeValidator(_empty_table_is_a_list)] = ()


class Letter(Frozen):
    """
    What a turn is about: a message, without its body.

    Attributes:
        id: its number in the conversation; `re`: of the one it answers, or of the proposal it is about.
        sender: a member; empty: nobody; who spoke from outside is `~name`.
        type: the name of its body's model.
        hops: how many messages it follows from, one from the other; `volley`: those of them that only these two sent.
        until_ms: when a reply is of no use any more.
        within, wake: of the task of a conversation that is itself a member of another, or a source: the letter, or what
            else is around it.
    """

    id: int
    kind: MailKind
    sender: str = ""
    to: tuple[str, ...] = ()
    type: str = ""
    re: int | None = None
    hops: int = 0
    volley: int = 0
    until_ms: int | None = None
    within: Letter | None = None
    wake: Woken | None = None


class PlanStep(Frozen):
    """
    One step of a compiled flow; what is fixed when the run is submitted.

    Attributes:
        name: unique in the run; nested flows prefix theirs (`inner/classify`).
        agent: the agent, its queue and its Celery task.
        next: the step that follows; None for the last.
        start: where a gate sends the run back to: the first step of a nested flow, else the step itself.
        gated: whether the flow declares a gate behind this step.
        undo: the agent that undoes the step, given its output, when the run fails or is cancelled.
        within_ms: the time it has from when it is first ready until it is done.
        delegates: whether it may give work out; `joins`: whether it is where a fan-out's members come together.
        fan: of a step within a fan-out: the step where its members come together.
        member: of such a step, and of a source's: the first step of its member or wake; of a single agent, the step.
        after: of a member's first step: that of the next member.
        specialist, label, weight, round: of a member's first step: whose assignment it is, what it is about, how much
            it counts, in thousandths, and in which round it was given.
        rules: of a blackboard: how it goes on. No agent takes that step: its sources' steps are its work.
        board: of a step of a source: its blackboard's; `source`: of the first one of a wake: which source it is.
        converses: of a conversation: how it goes on. No agent takes that step, either.
        talk: of a step of a member: its conversation's; `peer`: of the first one of a turn: which member it is, and
            `mail`, what it was told.
    """

    name: str
    agent: str
    next: str | None = None
    start: str | None = None
    gated: bool = False
    undo: str | None = None
    within_ms: int | None = None
    delegates: bool = False
    joins: bool = False
    fan: str | None = None
    member: str | None = None
    after: str | None = None
    specialist: str | None = None
    label: str = ""
    weight: int = 1000
    round: int = 0
    rules: BoardRules | None = None
    board: str | None = None
    source: str | None = None
    converses: ConversationRules | None = None
    talk: str | None = None
    peer: str | None = None
    mail: Letter | None = None


@dataclass(frozen=True, kw_only=True)
class Member:
    """
    An assignment as it is stored.

    Attributes:
        steps: of its flow, the first one first; of a single agent the one.
        value: what it takes, JSON.
        fault: why it cannot be done at all; then it has no value and fails at once.
    """

    steps: tuple[PlanStep, ...]
    value: bytes = b""
    fault: str = ""


@dataclass(frozen=True, kw_only=True)
class Terms:
    """
    When a fan-out's members come together.

    Attributes:
        need: what it takes: so many answers, or where `share` is true answers of so much weight (thousandths).
        accept: whether one acceptable answer is what it takes.
        otherwise: what follows where that does not come.
        width: members in flight at a time.
        within: seconds it may take; None: as long as the run.
    """

    need: int
    share: bool
    accept: bool
    otherwise: Otherwise
    width: int
    within: float | None


class Waiting(Frozen):
    """
    What a step waits for a person to decide, until when, and what happens then.

    `accepted`: whether no other member of its fan-out is needed once its output is approved.
    """

    question: str = ""
    until_ms: int
    default: Choice
    fallback: str | None = None
    accepted: bool = False


class Decided(Frozen):
    """What was decided at a gate, by whom and why."""

    choice: Choice
    by: str
    note: str = ""
    at_ms: int


class Doing(Frozen):
    """What a step gave, in one of its revisions: `output` is the value's name."""

    output: str
    revision: int


class StepState(PlanStep):
    """
    A step's projection.

    Attributes:
        input: the name of the value it takes; `output`: of the one it gave; `draft`: of the one its gate sent back.
        took: the name of the value that it took itself, while a gate's fallback takes another one in its place.
        attempt: begins in this revision; `begins`: begins in all; `revision`: times a gate sent it back.
        sent_back: times its own gate did, since an outer one last did.
        instead_of: the agent it fell back from, while it does.
        dispatches: messages published for this attempt; `fence`: the token of the attempt that may commit.
        effects: sub-steps whose results are recorded, in all revisions.
        losses: attempts whose worker was lost, since the step was first ready; `strikes`: two for each, one for the
            second and where its lease had been renewed, as it may have been a bystander.
        due_ms: until when a delayed step waits, and `why`.
        first_ms: when it was first ready; `until_ms`: when it must be done.
        rung: how many of its agent's fallbacks have been used up.
        tokens, cost: used by all its attempts, as the agent says.
        undoes: the step that this one undoes; `undone`: whether this one has been undone.
        earlier: what it had done when a later gate sent it back, as far as that is to be undone and is not.
        outcome: of a member's first step: how the member ended, with `answer`, the name of the value it gave, and
            `fault`, why it gave none or a lesser one; `accepted`: whether the join's `accept` took it.
        changed: of the first step of a source's wake: what it has to look at.
        asked: questions that it has asked in this revision, by the messages' numbers; `asking`: the one it waits for.
        said: what it had said when it last asked; `says`: the model of what it gave.
    """

    status: StepStatus = "pending"
    input: str | None = None
    took: str | None = None
    output: str | None = None
    draft: str | None = None
    attempt: int = 0
    begins: int = 0
    revision: int = 0
    sent_back: int = 0
    dispatches: int = 0
    effects: int = 0
    losses: int = 0
    strikes: int = 0
    rung: int = 0
    tokens: int = 0
    cost: float = 0.0
    fence: str | None = None
    worker: str | None = None
    ready_ms: int | None = None
    started_ms: int | None = None
    ended_ms: int | None = None
    first_ms: int | None = None
    until_ms: int | None = None
    due_ms: int | None = None
    why: str | None = None
    reason: str | None = None
    feedback: Annotated[tuple[str, ...], BeforeValidator(_empty_table_is_a_list)] = ()
    degraded: bool = False
    instead_of: str | None = None
    undoes: str | None = None
    undone: bool = False
    earlier: tuple[Doing, ...] = ()
    outcome: MemberOutcome | None = None
    answer: str | None = None
    fault: str | None = None
    accepted: bool = False
    changed: Annotated[tuple[str, ...], BeforeValidator(_empty_table_is_a_list)] = ()
    asked: Annotated[tuple[int, ...], BeforeValidator(_empty_table_is_a_list)] = ()
    asking: int | None = None
    said: int = 0
    says: str | None = None
    waiting: Waiting | None = None
    decision: Decided | None = None

    @property
    def known_as(self) -> str:
        """The name that services outside know it by: the same for all that undo the same step, by their revisions."""
        return f"{self.undoes}~undo" if self.undoes else self.name


class FanOut(Frozen):
    """
    A fan-out's projection: what its join has counted so far.

    Attributes:
        round: how often work was given out; `total`: members in all rounds.
        size, weight: members of this round, and what they weigh together, in thousandths.
        need: what it takes: so many answers, or where `share` is true answers of so much weight.
        accept: whether the first acceptable answer is enough, and nothing else.
        otherwise: what follows where that cannot come any more.
        width: members in flight at a time; `opened`: those of this round that were ever ready; `ended`: done or failed.
        good, good_weight: members that gave an answer; `failed`, `bad_weight`: those that did not.
        first, tail: the first and the last member of all rounds; `head`: the next that is to be opened.
        task: the name of the value that the boss took.
        within_ms, until_ms: the time that this round has.
        verdict: how it was decided, once it is; `why`: in words; `fault`: the first member that failed, and why.
        degraded: whether in any round a member failed, or what it takes did not come.
    """

    total: int = 0
    round: int = 0
    size: int = 0
    weight: int = 0
    need: int = 0
    share: bool = True
    accept: bool = False
    otherwise: Otherwise = "fail"
    width: int = 1
    opened: int = 0
    ended: int = 0
    good: int = 0
    good_weight: int = 0
    failed: int = 0
    bad_weight: int = 0
    first: str | None = None
    tail: str | None = None
    head: str | None = None
    task: str | None = None
    within_ms: int | None = None
    until_ms: int | None = None
    verdict: JoinVerdict | None = None
    why: str | None = None
    fault: str | None = None
    degraded: bool = False


class BoardEntry(Frozen):
    """
    An entry of a blackboard as it stands.

    Attributes:
        value: JSON data.
        version: 1 for the first, one more with each write; `seq`: the board's write that it was last changed by.
        author: the source, or who; `step`: the step; `at_ms`: when.
        confidence: of who wrote it, 0 to 1, where it was given.
    """

    value: JsonValue
    version: int
    seq: int
    author: str
    step: str | None = None
    at_ms: int
    confidence: float | None = None


class SourceState(Frozen):
    """
    A source's projection.

    Attributes:
        wakes: so far; `changed`: entries that it has not looked at yet.
    """

    wakes: int = 0
    changed: tuple[str, ...] = ()


class BoardState(Frozen):
    """
    A blackboard's projection.

    Attributes:
        status: closing: the goal is reached, by a step that has not ended.
        writes: so far; `wakes`: of all sources.
        outcome, why: how it ended; closed: without an end of its own, with its run or as others went on without it.
    """

    step: str
    status: BoardStatus = "open"
    writes: int = 0
    wakes: int = 0
    outcome: BoardOutcome | None = None
    why: str = ""
    entries: dict[str, BoardEntry] = Field(default_factory=dict)
    sources: dict[str, SourceState] = Field(default_factory=dict)


class PeerState(Frozen):
    """
    A member's projection.

    Attributes:
        present: whether it is there; `turns`: that it has begun.
        turn: the first step of the one it is at, or waits in.
        waits: the members whose replies it waits for; `mail`: messages that wait for it, by their numbers.
        stance: the proposals it is for, the best one first; `confidence`: how sure it is, where it said so.
    """

    present: bool = True
    turns: int = 0
    turn: str | None = None
    waits: tuple[str, ...] = ()
    mail: tuple[int, ...] = ()
    stance: tuple[int, ...] = ()
    confidence: float | None = None


class ConversationState(Frozen):
    """
    A conversation's projection.

    Attributes:
        status: judging: it is over, and its judge is at work.
        messages: so far, replies and those of nobody included; `turns`: that have begun.
        proposals: by the messages' numbers.
        outcome, why: how it ended; closed: as of a blackboard.
    """

    step: str
    status: ConversationStatus = "open"
    messages: int = 0
    turns: int = 0
    proposals: tuple[int, ...] = ()
    outcome: ConversationOutcome | None = None
    why: str = ""
    peers: dict[str, PeerState] = Field(default_factory=dict)


class RunBudget(Frozen):
    """
    What a run, with its children, may use.

    Attributes:
        run: whose it is.
        tokens, cost: None: without limit.
        ladder: what is tried in turn when it is used up.
    """

    run: str = ""
    tokens: int | None = None
    cost: float | None = None
    ladder: Annotated[tuple[str, ...], BeforeValidator(_empty_table_is_a_list)] = ()


class Ending(Frozen):
    """How a run is going to end, once what it did is undone."""

    status: RunStatus
    reason: str | None = None
    kind: FailureKind | None = None
    step: str | None = None
    by: str | None = None


class Failure(Frozen):
    """Why a failed run is a dead letter, and at which step."""

    kind: FailureKind
    step: str | None = None


class RunState(Frozen):
    """
    A run's projection. `steps` are in the flow's order; those that undo others come last.

    Attributes:
        parent: the run whose step, `parent_step`, submitted this one.
        budget: its own; `budgets`: those it draws on, its own and those of the runs it is a child of.
        partial: whether `output` is only what an earlier step gave, of another type than the flow's.
        ending: what follows when everything is undone; `failure`: what makes it a dead letter.
        waits: steps that wait for a person.
        fans: fan-outs, by the step where their members come together.
    """

    id: str
    flow: str
    status: RunStatus
    tenant: str
    priority: Priority
    tags: dict[str, str]
    key: str | None = None
    created_ms: int
    deadline_ms: int
    retention_ms: int
    dead_ms: int = 0
    parent: str | None = None
    parent_step: str | None = None
    budget: RunBudget | None = None
    budgets: Annotated[tuple[RunBudget, ...], BeforeValidator(_empty_table_is_a_list)] = ()
    partial: bool = False
    ending: Ending | None = None
    failure: Failure | None = None
    ended_ms: int | None = None
    reason: str | None = None
    output: str | None = None
    waits: int = 0
    fans: dict[str, FanOut] = Field(default_factory=dict)
    steps: tuple[StepState, ...] = ()

    @property
    def finished(self) -> bool:
        """Whether the run has ended, one way or another."""
        return self.status in FINISHED

    @property
    def degraded(self) -> bool:
        """Whether a fallback's output is part of the result, or something is missing from it."""
        fans = any(fan.degraded for fan in self.fans.values())
        return self.partial or fans or any(step.degraded for step in self.steps)

    @property
    def tokens(self) -> int:
        """What its steps have used."""
        return sum(step.tokens for step in self.steps)

    @property
    def cost(self) -> float:
        """What its steps have cost."""
        return sum(step.cost for step in self.steps)

    def step(self, name: str) -> StepState | None:
        """Return the step of this name, or None."""
        return next((step for step in self.steps if step.name == name), None)

    @classmethod
    def from_hash(cls, run_id: str, fields: Mapping[str, str]) -> RunState:
        """
        Build the projection from the run's Redis hash.

        Args:
            run_id: the run.
            fields: the whole hash, decoded.
        """
        plain: dict[str, object] = {key: value for key, value in fields.items() if not key.startswith(_OWN_FIELDS)}
        for key in _JSON_FIELDS & plain.keys():
            plain[key] = json.loads(fields[key])
        order = [*cast("list[str]", plain.pop("order"))]
        for number in range(1, int(fields.get("orders", 0)) + 1):
            order += json.loads(fields[f"order:{number}"])
        steps = [json.loads(fields[f"step:{name}"]) | {"name": name} for name in order]
        fans = {key[4:]: json.loads(text) for key, text in fields.items() if key.startswith("fan:")}
        return cls.model_validate({"id": run_id, **plain, "steps": steps, "fans": fans})


_OWN_FIELDS: Final = ("step:", "spent:", "fan:", "order:", "orders", "boards", "talks", "size", "record", "orphan")
_JSON_FIELDS: Final = frozenset({"order", "tags", "budget", "budgets", "ending", "failure"})


class DeadLetter(Frozen):
    """
    A run that failed for good, with what is needed to decide about it.

    Attributes:
        kind: failed, poison (it kept killing its worker), deadline (of the run or the step), undo (not everything is
            undone).
        step, agent: where it failed; None where no step is to blame.
        attempts: begins of that step; `errors`: what they ended with, oldest first.
        event_id: its end in the log.
        at_ms: when; `expires_ms`: until when it is kept.
        goes_on_at: the step where a redrive goes on that names none: another than `step` where what comes before that
            was undone.
        tokens, cost: used by the run; None in a list where it has given out work, of which nothing is read there.
    """

    run_id: str
    flow: str
    tenant: str
    kind: FailureKind
    step: str | None
    agent: str | None
    reason: str
    attempts: int
    errors: tuple[str, ...]
    event_id: str
    at_ms: int
    expires_ms: int
    goes_on_at: str | None
    tokens: int | None
    cost: float | None


class Event(Frozen):
    """
    One entry of a run's log.

    Attributes:
        id: the stream id, `milliseconds-sequence`; sorts by time.
        type: what happened; `version`: of `data`'s shape.
        data: the facts; `step` names the step where there is one.
    """

    id: str
    type: str
    version: int
    at_ms: int
    data: dict[str, JsonValue]

    @classmethod
    def from_stream(cls, entry_id: str, fields: Mapping[str, str]) -> Event:
        """Build an event from its stream entry."""
        return cls(
            id=entry_id,
            type=fields["type"],
            version=int(fields["v"]),
            at_ms=int(fields["at"]),
            data=json.loads(fields["data"]),
        )

    @property
    def ends_run(self) -> bool:
        """Whether nothing follows this event."""
        return self.type in ENDS
