"""What passes between a boss and its specialists: the plan, its assignments, and what came of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from inspect import iscoroutinefunction
from types import UnionType
from typing import Annotated, Any, Final, Generic, TypeVar, Union, cast, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field

from orchestrator.agent import Agent
from orchestrator.errors import InvalidPolicy, definition_site
from orchestrator.messages import MemberOutcome, Otherwise

TaskT = TypeVar("TaskT")
ValueT = TypeVar("ValueT")

MAX_ASSIGNMENTS: Final = 10_000
"""Of a fan-out, in all its rounds; how many steps that may be is bounded for the whole run."""
THOUSAND: Final = 1000


def _name(to: object) -> object:
    return to.name if isinstance(to, Agent) else to


class Assignment(BaseModel):
    """
    Work for one specialist.

    Attributes:
        to: the specialist's name in the hierarchy, or its agent's or flow's.
        capability: what the specialist must be capable of; those that are take such work in turn. One of the two, or
            the hierarchy's router finds the specialist.
        input: what it takes: a model, or plain data that fits.
        weight: how much it counts where a share of the work is needed; above 0.
        label: what it is about, for people to read.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    to: str | None = None
    capability: str | None = None
    input: Any = None
    weight: Annotated[float, Field(ge=0.001, le=1_000_000.0)] = 1.0
    label: Annotated[str, Field(max_length=200)] = ""

    def __init__(self, **data: Any) -> None:  # noqa: ANN401  pydantic checks them
        super().__init__(**{**data, "to": _name(data.get("to"))})


class Plan(BaseModel):
    """
    What a boss returns to have work done by others: `Plan([Assignment(...), ...])`.

    With no assignment the synthesiser follows at once.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    assignments: tuple[Assignment, ...] = ()

    def __init__(self, assignments: Sequence[Assignment | Mapping[str, Any]] = (), **data: Any) -> None:  # noqa: ANN401
        super().__init__(assignments=assignments, **data)


class Outcome(BaseModel, Generic[ValueT]):
    """
    What came of an assignment.

    Attributes:
        worker: the specialist's name; `step`: of the run, where its attempts are told.
        status: `ok`; `degraded`: a fallback gave the value; `failed`: with the reason; `late`: it was not done when the
            others were enough, or their time was over.
        value: what it gave; None where it is failed or late.
        accepted: whether it is the answer that the join's `accept` took.
        label, weight, round: as assigned.
    """

    model_config = ConfigDict(frozen=True)

    worker: str
    step: str = ""
    status: MemberOutcome
    value: ValueT | None = None
    accepted: bool = False
    reason: str = ""
    label: str = ""
    weight: float = 1.0
    round: int = 1


class Results(BaseModel, Generic[TaskT, ValueT]):
    """
    What a synthesiser takes: the task, and what came of every assignment, in the order of the plan.

    Attributes:
        task: what the boss took.
        outcomes: of all rounds.
        round: how often work was given out; `last`: whether it cannot be given out once more.
    """

    model_config = ConfigDict(frozen=True)

    task: TaskT
    outcomes: tuple[Outcome[ValueT], ...] = ()
    round: int = 1
    last: bool = True

    @property
    def values(self) -> tuple[ValueT, ...]:
        """What was given, by those that gave something."""
        return tuple(cast("ValueT", one.value) for one in self.outcomes if one.status in {"ok", "degraded"})

    @property
    def accepted(self) -> ValueT | None:
        """
        The answer that the join's `accept` took: the last round's, where several took one; None where none did.

        `values` has those too that were given before it and would not do.
        """
        return next((one.value for one in reversed(self.outcomes) if one.accepted), None)

    @property
    def missing(self) -> tuple[Outcome[ValueT], ...]:
        """What failed or came too late."""
        return tuple(one for one in self.outcomes if one.status in {"failed", "late"})


@dataclass(frozen=True, kw_only=True)
class Join:
    """
    When the results of a fan-out are put together.

    Attributes:
        need: how much must be done well: a share of the assignments by weight (a float, at most 1), or a number of them
            (an int). As soon as it is, what still runs is cancelled.
        accept: given an answer, tells whether it will do: the first that does is enough, and `need` is not asked.
        deadline: seconds from the plan on.
        otherwise: what follows where what is needed cannot come any more, or not in time. `fail`: the run fails, at
            once. `degrade`: when all have ended, or the time is over, the synthesiser takes what there is.

    Raises:
        InvalidPolicy: a value does not fit; the message names the file.
    """

    need: float = 1.0
    accept: Callable[[Any], bool] | None = None  # an answer's type only the user knows
    deadline: float | None = None
    otherwise: Otherwise = "fail"

    def __post_init__(self) -> None:
        given: object = self.need
        if isinstance(given, bool) or not isinstance(given, int | float):
            raise self._invalid(f"need is a share (0.8) or a number (3), not {self.need!r:.80}")
        if isinstance(given, float) and not 0 < given <= 1:
            raise self._invalid(
                f"need, a share, must be above 0.0 and at most 1.0, not {self.need}; a number is an int"
            )
        if isinstance(given, int) and not 0 < given <= MAX_ASSIGNMENTS:
            raise self._invalid(f"need, a number, must be 1 to {MAX_ASSIGNMENTS}, not {self.need}; a share is a float")
        if self.accept is not None and not is_plain(self.accept):
            # A coroutine that nobody awaits is true: whatever comes first would be accepted.
            raise self._invalid(f"accept must be a plain `def` of an answer, not {self.accept!r:.80}")
        seconds: object = self.deadline
        if seconds is not None and (isinstance(seconds, bool) or not isinstance(seconds, int | float)):
            raise self._invalid(f"deadline is a number of seconds (60.0), not {seconds!r:.80}")
        if self.deadline is not None and not 0 < self.deadline <= 366 * 86400:
            raise self._invalid(f"deadline must be above 0 s and at most a year, not {self.deadline}")
        if self.otherwise not in get_args(Otherwise):
            raise self._invalid(f"otherwise must be fail or degrade, not {self.otherwise!r}")

    @staticmethod
    def _invalid(why: str) -> InvalidPolicy:
        return InvalidPolicy("Join", definition_site(), why)


@dataclass(frozen=True)
class Specialist:
    """
    Who does a hierarchy's work: an agent or a flow, with a name and what it is capable of.

    Attributes:
        runs: the agent, the flow, or the name of either.
        name: unique in the hierarchy; the last part of the agent's name unless given (`review.ruff` → `ruff`).
        capabilities: tags that an assignment can ask for.
    """

    runs: Any  # an agent or a flow: the hierarchy looks at it
    name: str | None = None
    _: KW_ONLY
    capabilities: frozenset[str] | set[str] | Sequence[str] = frozenset()


def is_plain(function: object) -> bool:
    """Tell whether a call gives an answer: an `async def` gives what has to be awaited, an agent may be one."""
    if not callable(function) or isinstance(function, Agent):
        return False
    calls = (function, getattr(function, "__call__", None))  # noqa: B004  of an object, whether that is an `async def`
    return not any(map(iscoroutinefunction, calls))


def answer_type(gives: object) -> Any:  # noqa: ANN401  a type
    """Return what an agent gives where it gives no plan: of `Plan | Report`, Report; of Plan alone, Plan."""
    if get_origin(gives) not in {Union, UnionType}:
        return gives
    others = [kind for kind in get_args(gives) if not _is_plan(kind)]
    return Union[tuple(others)] if others else gives  # noqa: UP007  their number is not known


def may_plan(gives: object) -> bool:
    """Tell whether an agent may give a plan."""
    return _is_plan(gives) or (get_origin(gives) in {Union, UnionType} and any(map(_is_plan, get_args(gives))))


def output_of(agent: Agent[Any, Any], given: object) -> Any:  # noqa: ANN401  the agent's output type
    """
    Return what an agent gave as its output type.

    What has `assignments` is meant as a plan, where the agent may give one and no answer of its has such a field. Left
    to the union, a plan with a slip in it would be an answer whose fields all have defaults, and nothing would be done.

    Raises:
        ValidationError: it does not fit. A validator of the user's may raise anything else.
    """
    kinds = get_args(agent.output_type) if get_origin(agent.output_type) in {Union, UnionType} else ()
    plans = [kind for kind in kinds if _is_plan(kind)]
    unclear = any(_has_assignments(kind) for kind in kinds if not _is_plan(kind))
    if plans and not unclear and isinstance(given, Mapping) and "assignments" in given:
        return plans[0].model_validate(given)
    return agent.output.validate_python(given)


def _has_assignments(kind: object) -> bool:
    fields = ("model_fields", "__dataclass_fields__", "__annotations__")
    return any("assignments" in getattr(kind, of, {}) for of in fields)


def _is_plan(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, Plan)


Route = Callable[[Assignment, tuple[str, ...]], str]
"""Given an assignment that names neither a specialist nor a capability, and their names: whose it is."""
