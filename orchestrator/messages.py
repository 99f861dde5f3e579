"""
The models that cross a process boundary: a run's projection, its steps and its events.

The Lua scripts write projection and events together; `state/fold.py` rebuilds the one from the other.
All times are milliseconds of Redis TIME since the epoch.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, JsonValue

if TYPE_CHECKING:
    from collections.abc import Mapping

RunStatus = Literal["queued", "running", "waiting", "completed", "failed", "cancelled"]
StepStatus = Literal["pending", "ready", "running", "waiting", "completed", "failed", "cancelled"]
Priority = Literal["high", "normal", "low"]
Choice = Literal["approve", "reject", "fallback"]

FINISHED: Final = frozenset({"completed", "failed", "cancelled"})
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
    """

    name: str
    agent: str
    next: str | None = None
    start: str | None = None
    gated: bool = False


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
    fence: str | None = None
    worker: str | None = None
    ready_ms: int | None = None
    started_ms: int | None = None
    ended_ms: int | None = None
    reason: str | None = None
    feedback: Annotated[tuple[str, ...], BeforeValidator(_empty_table_is_a_list)] = ()
    degraded: bool = False
    instead_of: str | None = None
    waiting: Waiting | None = None
    decision: Decided | None = None


class RunState(Frozen):
    """A run's projection. `steps` are in the flow's order."""

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
    ended_ms: int | None = None
    reason: str | None = None
    output: str | None = None
    steps: tuple[StepState, ...] = ()

    @property
    def finished(self) -> bool:
        """Whether the run has ended, one way or another."""
        return self.status in FINISHED

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
        plain = {key: value for key, value in fields.items() if not key.startswith("step:")}
        order = json.loads(plain.pop("order"))
        tags = json.loads(plain.pop("tags"))
        steps = [json.loads(fields[f"step:{name}"]) | {"name": name} for name in order or ()]
        return cls.model_validate({"id": run_id, **plain, "tags": tags, "steps": steps})


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
        return self.type in {"RunCompleted", "RunFailed", "RunCancelled"}
