"""
The models that cross a process boundary: a run's projection, its steps and its events.

The Lua scripts write projection and events together; `state/fold.py` rebuilds the one from the other.
All times are milliseconds of Redis TIME since the epoch.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final, Literal, cast

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

TURN: Final = "waits for its turn"
"""How `why` begins of a step that goes on when its turn comes, whatever its timer says."""
FINISHED: Final = frozenset({"completed", "failed", "cancelled"})
ENDS: Final = frozenset({"RunCompleted", "RunFailed", "RunCancelled"})
EVENT_VERSION: Final = 1


def _empty_table_is_a_list(value: object) -> object:
    # Lua has one table type: cjson writes an empty list as {}.
    return () if value == {} else value


class Frozen(BaseModel):
    """Base of the models here: immutable, and strict about what it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


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
        member: of such a step: the first step of its member; of a member that is one agent, the step itself.
        after: of a member's first step: that of the next member.
        specialist, label, weight, round: of a member's first step: whose assignment it is, what it is about, how much
            it counts, in thousandths, and in which round it was given.
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
    """What a step waits for a person to decide, until when, and what happens then."""

    question: str = ""
    until_ms: int
    default: Choice
    fallback: str | None = None


class Decided(Frozen):
    """What was decided at a gate, by whom and why."""

    choice: Choice
    by: str
    note: str = ""
    at_ms: int


class StepState(PlanStep):
    """
    A step's projection.

    Attributes:
        input: the name of the value it takes; `output`: of the one it gave; `draft`: of the one its gate sent back.
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
        outcome: of a member's first step: how the member ended, with `answer`, the name of the value it gave, or with
            `fault`, why it gave none.
    """

    status: StepStatus = "pending"
    input: str | None = None
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
    outcome: MemberOutcome | None = None
    answer: str | None = None
    fault: str | None = None
    waiting: Waiting | None = None
    decision: Decided | None = None


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
        verdict: how it was decided, once it is; `why`: in words.
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
    degraded: bool = False


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
        parent: the run whose step submitted this one.
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
        order = plain.pop("order")
        steps = [json.loads(fields[f"step:{name}"]) | {"name": name} for name in cast("list[str]", order) or ()]
        fans = {key[4:]: json.loads(text) for key, text in fields.items() if key.startswith("fan:")}
        return cls.model_validate({"id": run_id, **plain, "steps": steps, "fans": fans})


_OWN_FIELDS: Final = ("step:", "fan:", "record")
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
    tokens: int
    cost: float


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
