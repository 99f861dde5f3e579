"""Stages in sequence, each with an optional quality gate behind it; runs as a Celery chain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pydantic import TypeAdapter

from orchestrator.agent import Agent, agents
from orchestrator.errors import InvalidFlow, UnknownAgent, definition_site
from orchestrator.messages import PlanStep
from orchestrator.patterns.delegation import Plan, answer_type
from orchestrator.patterns.fits import misfit
from orchestrator.patterns.flow import register

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.patterns.flow import Flow
    from orchestrator.patterns.gate import Gate

MAX_STAGES: Final = 1000


@dataclass(frozen=True)
class Stage:
    """
    A stage of a pipeline: an agent or a flow, with a name and a gate.

    Attributes:
        runs: the agent, its name, or a flow.
        gate: judges the stage's output.
        name: unique in the pipeline; the agent's last part unless given (`moderation.classify` → `classify`).
        undo: the agent, or its name, that undoes the stage when the run fails or is cancelled later: it takes what the
            stage gave.
    """

    runs: Agent[Any, Any] | Flow | str
    gate: Gate | None = None
    name: str | None = None
    undo: Agent[Any, Any] | str | None = None


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
        stages: agents, names of agents, flows, or Stages of these.

    Raises:
        InvalidFlow: the stages do not fit together; the message names the file.
        UnknownAgent: a stage names an agent that is not registered.
    """

    def __init__(self, name: str, stages: Sequence[Agent[Any, Any] | Flow | Stage | str]) -> None:
        self.name = name
        self.where = definition_site()
        if not stages:
            raise self._invalid("a pipeline has at least one stage")
        self._inner: dict[str, Flow] = {}
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
        last = steps[-1].agent
        self.output: TypeAdapter[Any] = (
            TypeAdapter(answer_type(last.output_type)) if steps[-1].plan.joins else last.output
        )
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

    def inner(self, name: str) -> Flow | None:
        """Return the flow that a stage is, or None."""
        return self._inner.get(name)

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
        if not isinstance(runs, Agent) and not hasattr(runs, "plan"):
            raise self._invalid(f"{runs!r} is neither an agent nor a flow; put @agent(...) on the function")
        name = stage.name or (runs.name.rpartition(".")[2] if isinstance(runs, Agent) else runs.name)
        if not name or set("/~#") & set(name):
            raise self._invalid(f"a stage's name has none of / ~ # and is not empty: {name!r}")
        if isinstance(runs, Agent):
            plan = PlanStep(
                name=name,
                agent=runs.name,
                gated=stage.gate is not None,
                undo=self._undo(stage),
                within_ms=None if runs.deadline is None else max(1, round(runs.deadline * 1000)),
            )
            return [_Step(plan, runs, stage.gate)]
        return self._nested(name, stage, runs)

    def _undo(self, stage: Stage) -> str | None:
        if stage.undo is None:
            return None
        undo = self._resolve(stage.undo) if isinstance(stage.undo, str) else stage.undo
        if not isinstance(undo, Agent):
            raise self._invalid(f"undo takes an agent or its name, not {undo!r:.80}")
        return undo.name

    def _nested(self, prefix: str, stage: Stage, inner: Flow) -> list[_Step]:
        self._inner[prefix] = inner
        steps = []
        for step in inner.plan():
            start = step.start and f"{prefix}/{step.start}"
            plan = step.model_copy(update={"name": f"{prefix}/{step.name}", "start": start, "next": None})
            steps.append(_Step(plan, inner.agent_of(step.name), inner.gate_of(step.name)))
        if stage.gate is not None and any(step.plan.rules is not None for step in steps):
            raise self._invalid(
                f"a gate cannot judge blackboard {inner.name!r}, nor send it back; put an agent with the gate behind it"
            )
        if stage.gate is not None:
            last = steps[-1]
            if any(step.plan.delegates and answer_type(step.agent.output_type) is not Plan for step in steps[-2:]):
                raise self._invalid(
                    f"the boss of {inner.name!r} may answer past a gate; put it behind a stage of its own"
                )
            if last.gate is not None:
                raise self._invalid(
                    f"the last stage of {inner.name!r} has a gate already; put the second behind a stage of its own"
                )
            plan = last.plan.model_copy(update={"gated": True, "start": steps[0].plan.name})
            steps[-1] = _Step(plan, last.agent, stage.gate)
        if stage.undo is not None:
            last = steps[-1]
            if last.plan.undo is not None:
                raise self._invalid(f"the last stage of {inner.name!r} has an undo agent already")
            plan = last.plan.model_copy(update={"undo": self._undo(stage)})
            steps[-1] = _Step(plan, last.agent, last.gate)
        return steps

    def _check_fits(self, steps: list[_Step]) -> None:
        """Check that each step, and each fallback in its stead, takes what is given and gives what is taken."""
        at = {step.plan.name: number for number, step in enumerate(steps)}
        for number, step in enumerate(steps):
            after = steps[number + 1] if number + 1 < len(steps) else None
            if step.plan.delegates:
                continue  # a plan is no input of what follows
            if after:
                self._check_fit(step.plan.name, _gives(step.agent), after.plan.name, after.agent.input_type)
            self._check_stand_ins(step, after)
            fallback = step.gate.fallback_agent if step.gate else None
            if fallback is None:
                continue
            start = at[step.plan.start or step.plan.name]
            before = steps[start - 1] if start else None
            given = _gives(before.agent) if before else steps[start].agent.input_type
            self._check_fit(before.plan.name if before else "the input", given, fallback.name, fallback.input_type)
            if after:
                self._check_fit(fallback.name, _gives(fallback), after.plan.name, after.agent.input_type)

    def _check_stand_ins(self, step: _Step, after: _Step | None) -> None:
        """Check that an agent's own fallbacks take what it takes and give what is taken, and that its undo fits."""
        name = step.plan.name
        for other in map(self._resolve, step.agent.fallback_agents):
            self._check_fit(name, step.agent.input_type, other.name, other.input_type)
            if after:
                self._check_fit(other.name, _gives(other), after.plan.name, after.agent.input_type)
        if step.plan.undo is not None:
            undo = self._resolve(step.plan.undo)
            self._check_fit(name, _gives(step.agent), undo.name, undo.input_type)

    def _check_fit(self, giver: str, given: object, taker: str, taken: object) -> None:
        if why := misfit(giver, given, taker, taken):
            raise self._invalid(why)


def _gives(agent: Agent[Any, Any]) -> Any:  # noqa: ANN401  a type
    return answer_type(agent.output_type)
