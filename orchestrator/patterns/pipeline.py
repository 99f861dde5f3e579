"""Stages in sequence, each with an optional quality gate behind it; runs as a Celery chain."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from math import inf
from typing import TYPE_CHECKING, Any, Final, Literal, TypeGuard, get_args

from pydantic import AliasChoices, AliasPath, BaseModel, RootModel

from orchestrator.agent import Agent, agents, definition_site
from orchestrator.errors import InvalidFlow, UnknownAgent
from orchestrator.messages import PlanStep
from orchestrator.patterns.flow import register

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydantic import TypeAdapter
    from pydantic.fields import FieldInfo

Action = Literal["pass", "revise", "reject", "fallback", "human"]
OnFail = Literal["revise", "reject", "fallback", "human"]
Then = Literal["pass", "reject", "fallback", "human"]
Default = Literal["approve", "reject", "fallback"]

DAY: Final = 86400.0
MAX_STAGES: Final = 1000


@dataclass(frozen=True)
class Decision:
    """What a gate decides about an output, and why; the reason is kept in the log, so keep it short."""

    action: Action
    reason: str = ""

    @classmethod
    def ok(cls) -> Decision:
        """Let the output pass."""
        return cls("pass")

    @classmethod
    def revise(cls, feedback: str) -> Decision:
        """Run the stage again; it finds the feedback in `ctx.feedback`."""
        return cls("revise", feedback)

    @classmethod
    def reject(cls, reason: str) -> Decision:
        """Fail the run."""
        return cls("reject", reason)

    @classmethod
    def fall_back(cls, reason: str) -> Decision:
        """Give the stage's input to the fallback agent; its output passes, marked degraded."""
        return cls("fallback", reason)

    @classmethod
    def ask(cls, question: str) -> Decision:
        """Wait for a person."""
        return cls("human", question)


# A gate's check sees an agent's output, whose type only the user knows.
Check = Callable[[Any], "bool | Decision"]


@dataclass(frozen=True)
class Gate:
    """
    A quality gate behind a stage.

    Attributes:
        check: given the output, returns a Decision, or True (pass) or False (`on_fail`).
        on_fail: what False means.
        max_revisions: how often the stage may run again; `then`: what a further failure means.
        fallback: the agent, or its name, that takes the stage's input instead.
        timeout: seconds a person has; `default`: what is decided for them then.

    Raises:
        InvalidFlow: a value does not fit; the message names the file.
    """

    check: Check
    on_fail: OnFail = "reject"
    _: KW_ONLY
    max_revisions: int = 2
    then: Then = "reject"
    fallback: Agent[Any, Any] | str | None = None
    timeout: float = DAY
    default: Default = "reject"

    def __post_init__(self) -> None:
        where = definition_site()
        self._one_of(where, "on_fail", self.on_fail, get_args(OnFail))
        self._one_of(where, "then", self.then, get_args(Then))
        self._one_of(where, "default", self.default, get_args(Default))
        if not callable(self.check):
            raise InvalidFlow("Gate", where, "check must be a function of the stage's output")
        if self.max_revisions < 0:
            raise InvalidFlow("Gate", where, f"max_revisions must be 0 or more, not {self.max_revisions}")
        if not 0 < self.timeout < inf:
            raise InvalidFlow("Gate", where, f"timeout must be above 0 s and finite, not {self.timeout}")
        if self.fallback is None and "fallback" in {self.on_fail, self.then, self.default}:
            raise InvalidFlow("Gate", where, "name the agent to fall back to: Gate(..., fallback=agent)")

    @staticmethod
    def _one_of(where: str, name: str, value: str, allowed: tuple[str, ...]) -> None:
        if value not in allowed:
            raise InvalidFlow("Gate", where, f"{name} must be one of {', '.join(allowed)}, not {value!r}")

    @property
    def fallback_agent(self) -> Agent[Any, Any] | None:
        """The agent to fall back to."""
        return agents().get(self.fallback) if isinstance(self.fallback, str) else self.fallback

    def decide(self, output: object, *, revision: int) -> Decision:
        """
        Judge an output.

        Args:
            output: what the stage gave.
            revision: how often the gate has sent the stage back so far.

        Returns:
            What is to be done: never `revise` beyond `max_revisions`, never `fallback` without an agent for it.
        """
        verdict = self.check(output)
        if isinstance(verdict, Decision):
            decision = verdict
        else:
            decision = Decision("pass") if verdict else Decision(self.on_fail, "the gate's check said no")
        if decision.action == "revise" and revision >= self.max_revisions:
            times = "once" if revision == 1 else f"{revision} times"
            decision = Decision(self.then, f"still not accepted after it was revised {times}: {decision.reason}")
        if decision.action == "fallback" and self.fallback is None:
            return Decision("reject", f"{decision.reason} (and the gate names no fallback)")
        return decision


@dataclass(frozen=True)
class Stage:
    """
    A stage of a pipeline: an agent or a flow, with a name and a gate.

    Attributes:
        runs: the agent, its name, or a pipeline.
        gate: judges the stage's output.
        name: unique in the pipeline; the agent's last part unless given (`moderation.classify` → `classify`).
    """

    runs: Agent[Any, Any] | Pipeline | str
    gate: Gate | None = None
    name: str | None = None


@dataclass(frozen=True)
class _Step:
    plan: PlanStep
    agent: Agent[Any, Any]
    gate: Gate | None


class Pipeline:
    """
    Agents in sequence: the output of each is the input of the next.

    Args:
        name: unique in the deployment.
        stages: agents, names of agents, pipelines, or Stages of these.

    Raises:
        InvalidFlow: the stages do not fit together; the message names the file.
        UnknownAgent: a stage names an agent that is not registered.
    """

    def __init__(self, name: str, stages: Sequence[Agent[Any, Any] | Pipeline | Stage | str]) -> None:
        self.name = name
        self.where = definition_site()
        if not stages:
            raise self._invalid("a pipeline has at least one stage")
        steps: list[_Step] = []
        for stage in stages:
            steps.extend(self._steps(stage if isinstance(stage, Stage) else Stage(stage)))
        if len(steps) > MAX_STAGES:
            raise self._invalid(f"{len(steps)} steps; a pipeline has at most {MAX_STAGES}")
        names = [step.plan.name for step in steps]
        for step in names:
            if names.count(step) > 1:
                raise self._invalid(f"two stages are named {step!r}; name one of them: Stage(..., name=...)")
        self._check_fits(steps)
        following = [*names[1:], None]
        self._plan = tuple(
            step.plan.model_copy(update={"next": after}) for step, after in zip(steps, following, strict=True)
        )
        self._by_name = {step.plan.name: step for step in steps}
        self.input: TypeAdapter[Any] = steps[0].agent.input
        self.output: TypeAdapter[Any] = steps[-1].agent.output
        register(self)

    def __repr__(self) -> str:
        return f"<pipeline {self.name}: {' → '.join(self._by_name)}>"

    def plan(self) -> tuple[PlanStep, ...]:
        """Return the steps, nested ones in place, in order."""
        return self._plan

    def agent_of(self, step: str) -> Agent[Any, Any]:
        """Return a step's agent."""
        return self._by_name[step].agent

    def gate_of(self, step: str) -> Gate | None:
        """Return the gate behind a step, or None."""
        found = self._by_name.get(step)
        return found.gate if found else None

    def _invalid(self, why: str) -> InvalidFlow:
        return InvalidFlow(self.name, self.where, why)

    def _resolve(self, name: str) -> Agent[Any, Any]:
        known = agents()
        if name not in known:
            raise UnknownAgent(self.name, self.where, name, ", ".join(known))
        return known[name]

    def _steps(self, stage: Stage) -> list[_Step]:
        runs = self._resolve(stage.runs) if isinstance(stage.runs, str) else stage.runs
        if stage.gate is not None and isinstance(stage.gate.fallback, str):
            self._resolve(stage.gate.fallback)
        if not isinstance(runs, Agent | Pipeline):
            raise self._invalid(f"{runs!r} is neither an agent nor a flow; put @agent(...) on the function")
        name = stage.name or (runs.name.rpartition(".")[2] if isinstance(runs, Agent) else runs.name)
        if "/" in name or not name:
            raise self._invalid(f"a stage's name has no '/' and is not empty: {name!r}")
        if isinstance(runs, Agent):
            plan = PlanStep(name=name, agent=runs.name, gated=stage.gate is not None)
            return [_Step(plan, runs, stage.gate)]
        return self._nested(name, stage, runs)

    def _nested(self, prefix: str, stage: Stage, inner: Pipeline) -> list[_Step]:
        steps = []
        for step in inner.plan():
            start = step.start and f"{prefix}/{step.start}"
            plan = step.model_copy(update={"name": f"{prefix}/{step.name}", "start": start, "next": None})
            steps.append(_Step(plan, inner.agent_of(step.name), inner.gate_of(step.name)))
        if stage.gate is not None:
            last = steps[-1]
            if last.gate is not None:
                raise self._invalid(
                    f"the last stage of {inner.name!r} has a gate already; put the second behind a stage of its own"
                )
            plan = last.plan.model_copy(update={"gated": True, "start": steps[0].plan.name})
            steps[-1] = _Step(plan, last.agent, stage.gate)
        return steps

    def _check_fits(self, steps: list[_Step]) -> None:
        """Check that each step, and each fallback in its stead, takes what is given and gives what is taken."""
        at = {step.plan.name: number for number, step in enumerate(steps)}
        for number, step in enumerate(steps):
            after = steps[number + 1] if number + 1 < len(steps) else None
            if after:
                self._check_fit(step.plan.name, step.agent.output_type, after.plan.name, after.agent.input_type)
            fallback = step.gate.fallback_agent if step.gate else None
            if fallback is None:
                continue
            start = at[step.plan.start or step.plan.name]
            before = steps[start - 1] if start else None
            given = before.agent.output_type if before else steps[start].agent.input_type
            self._check_fit(before.plan.name if before else "the input", given, fallback.name, fallback.input_type)
            if after:
                self._check_fit(fallback.name, fallback.output_type, after.plan.name, after.agent.input_type)

    def _check_fit(self, giver: str, given: object, taker: str, taken: object) -> None:
        # JSON is what passes between stages, so what counts is the fields, not the class.
        if not (_says_its_fields(given) and _says_its_fields(taken)):
            return
        written = {name: field for name, field in given.model_fields.items() if not field.exclude}
        offered = {field.serialization_alias or name for name, field in written.items()} | set(
            given.model_computed_fields
        )
        wanted = {name: _names(name, field) for name, field in taken.model_fields.items() if field.is_required()}
        missing = [name for name, names in wanted.items() if not names & offered]
        if missing:
            raise self._invalid(
                f"{taker!r} needs {', '.join(missing)}, which {giver!r} does not give "
                f"({given.__name__} → {taken.__name__})"
            )


def _says_its_fields(kind: object) -> TypeGuard[type[BaseModel]]:
    """Tell whether a type's fields are all it reads and writes: no code of its own, nothing beyond them."""
    if not (isinstance(kind, type) and issubclass(kind, BaseModel)) or issubclass(kind, RootModel):
        return False
    own = kind.__pydantic_decorators__
    turned = any(validator.info.mode != "after" for validator in own.model_validators.values())
    return not (turned or own.model_serializers or kind.model_config.get("extra") == "allow")


def _names(name: str, field: FieldInfo) -> set[str]:
    """Return the names under which a field is read."""
    aliases = [field.alias, field.validation_alias]
    flat = [each for alias in aliases for each in (alias.choices if isinstance(alias, AliasChoices) else [alias])]
    first = [each.path[0] if isinstance(each, AliasPath) else each for each in flat]
    return {name, *(each for each in first if isinstance(each, str))}
