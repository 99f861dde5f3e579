"""A boss that plans, specialists that work in parallel, and what joins their results; runs as a Celery chord."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pydantic import TypeAdapter

from orchestrator.agent import LONGEST_NAME, Agent, agents
from orchestrator.errors import InvalidFlow, UnknownAgent, definition_site
from orchestrator.messages import MAX_STEPS, Member, PlanStep, Terms
from orchestrator.patterns.delegation import (
    MAX_ASSIGNMENTS,
    THOUSAND,
    Join,
    Plan,
    Results,
    answer_type,
    may_plan,
)
from orchestrator.patterns.fits import misfit
from orchestrator.patterns.flow import register
from orchestrator.patterns.specialists import Refused, Specialists, Turns
from orchestrator.state.text import bounded, readable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.patterns.delegation import Assignment, Route, Specialist
    from orchestrator.patterns.flow import Flow
    from orchestrator.patterns.gate import Gate

MAX_WIDTH: Final = 10_000
MAX_ROUNDS: Final = 100
DEFAULT_WIDTH: Final = 100
FINEST: Final = 1_000_000
"""A share is taken for the nearest fraction with at most this denominator: six decimals, or any number of so many."""


class Hierarchy:
    """
    One coordinator and its specialists.

    The boss takes the flow's input and returns a `Plan`, or the answer itself. The assignments are done in parallel,
    each on its specialist's queue. The synthesiser takes the `Results` and returns the answer, or another `Plan`.
    Neither of the two waits for anything.

    Args:
        name: unique in the deployment.
        boss: the agent that plans, or its name.
        workers: agents, flows, names of agents, or Specialists of these.
        synthesize: the agent that puts the results together, or its name.
        join: when it does; unless given, when all are done, and if one fails the run fails.
        width: assignments in flight at a time, so that one big run leaves room for others.
        max_rounds: how often work may be given out.
        router: finds the specialist of an assignment that names neither one nor a capability.

    Raises:
        InvalidFlow: the parts do not fit together; the message names the file.
        UnknownAgent: there is no agent or flow of a name.
    """

    def __init__(
        self,
        name: str,
        *,
        boss: Agent[Any, Any] | str,
        workers: Sequence[Agent[Any, Any] | Flow | Specialist | str],
        synthesize: Agent[Any, Any] | str,
        join: Join | None = None,
        width: int = DEFAULT_WIDTH,
        max_rounds: int = 1,
        router: Route | None = None,
    ) -> None:
        self.name = name
        self.where = definition_site()
        self._boss, self._synthesizer = self._agent("boss", boss), self._agent("synthesize", synthesize)
        self._boss_step, self._join_step = _last_part(self._boss.name), _last_part(self._synthesizer.name)
        self.join, self.width, self.max_rounds = Join() if join is None else join, width, max_rounds
        self._specialists = Specialists(name, self.where, workers, router)
        self._check()
        self.input: TypeAdapter[Any] = self._boss.input
        self.output: TypeAdapter[Any] = TypeAdapter(answer_type(self._synthesizer.output_type))
        register(self)

    def __repr__(self) -> str:
        return f"<hierarchy {self.name}: {self._boss_step} → {', '.join(self.workers)} → {self._join_step}>"

    @property
    def workers(self) -> tuple[str, ...]:
        """The specialists' names."""
        return self._specialists.names

    def plan(self) -> tuple[PlanStep, ...]:
        """Return the two steps that a run starts with; the specialists' come with the boss's plan."""
        boss = _plan_step(self._boss_step, self._boss)
        joins = _plan_step(self._join_step, self._synthesizer)
        return (
            boss.model_copy(update={"delegates": True, "next": self._join_step}),
            joins.model_copy(update={"joins": True}),
        )

    def agent_of(self, step: str) -> Agent[Any, Any]:
        """Return a step's agent."""
        return {self._boss_step: self._boss, self._join_step: self._synthesizer}[step]

    def gate_of(self, step: str) -> Gate | None:  # noqa: ARG002  the protocol's
        """Return None: a hierarchy has no gates of its own; a stage of a pipeline can have one behind it."""
        return None

    def inner(self, name: str) -> Flow | None:
        """Return the flow of a specialist, or None."""
        runs = self._specialists.get(name)
        return None if runs is None or isinstance(runs, Agent) else runs

    def members(
        self, plan: Plan, *, fan: str, start: int, number: int, seed: str = "", max_bytes: float = math.inf
    ) -> list[Member]:
        """
        Compile a plan.

        Args:
            plan: what the boss, or for another round the synthesiser, gave.
            fan: the full name of the step where the members come together.
            start: members of earlier rounds.
            number: the round's.
            seed: the run's id: at whom the turns of those begin who are capable of the same.
            max_bytes: of what an assignment may take.

        Returns:
            A member for each assignment; one that cannot be done has the reason in place of its input.

        Raises:
            ValueError: there are more of them, or of their steps, than there may be.
        """
        if start + len(plan.assignments) > MAX_ASSIGNMENTS:
            msg = f"{start + len(plan.assignments)} assignments; a fan-out has at most {MAX_ASSIGNMENTS}"
            raise ValueError(msg)
        turns = Turns(f"{seed}/{fan}#{start}")
        placed = [self._place(assignment, turns, max_bytes) for assignment in plan.assignments]
        # Before they are made: a thousand stages for each of ten thousand assignments would take minutes.
        steps = sum(self._specialists.size(one.label) for one in placed)
        if steps > MAX_STEPS:
            msg = f"{len(placed)} assignments of {steps} steps in all; a run has at most {MAX_STEPS} steps"
            raise ValueError(msg)
        return [
            _member(one, self._specialists.get(one.label), assignment, fan, at=start + at, number=number)
            for at, (assignment, one) in enumerate(zip(plan.assignments, placed, strict=True), 1)
        ]

    def terms(self, members: Sequence[Member]) -> Terms:
        """Return when these members come together."""
        need = self.join.need
        share = isinstance(need, float)
        weight = sum(member.steps[0].weight for member in members)
        return Terms(
            # In whole thousandths: what is a float here and there is not the same number everywhere.
            need=_part(need, weight) if share else int(need),
            share=share,
            accept=self.join.accept is not None,
            otherwise=self.join.otherwise,
            width=self.width,
            within=self.join.deadline,
        )

    def _place(self, assignment: Assignment, turns: Turns, max_bytes: float) -> _Placed:
        label = bounded(assignment.to or assignment.capability or "unassigned", LONGEST_NAME)
        try:
            label = self._specialists.find(assignment, turns)
            return _Placed(label, self._specialists.encode(label, assignment.input, max_bytes=max_bytes))
        except Refused as refused:
            return _Placed(label, fault=refused.args[0])

    # Definition

    def _invalid(self, why: str) -> InvalidFlow:
        return InvalidFlow(self.name, self.where, why)

    def _agent(self, what: str, given: Agent[Any, Any] | str) -> Agent[Any, Any]:
        found = agents().get(given) if isinstance(given, str) else given
        if found is None and isinstance(given, str):
            raise UnknownAgent(self.name, self.where, given, ", ".join(agents()))
        if not isinstance(found, Agent):
            raise self._invalid(
                f"{what} takes an agent or its name, not {given!r:.80}; put @agent(...) on the function"
            )
        return found

    def _check(self) -> None:
        self._check_join()
        if self._boss_step == self._join_step:
            raise self._invalid(
                f"boss and synthesize are both named {self._boss_step!r} by the last part of their names"
            )
        if not may_plan(self._boss.output_type):
            raise self._invalid(
                f"the boss {self._boss.name!r} must return a Plan, or a Plan or the answer (-> Plan | X)"
            )
        if answer_type(self._synthesizer.output_type) is Plan:
            raise self._invalid(f"{self._synthesizer.name!r} must be able to return an answer, not only a Plan")
        takes = self._synthesizer.input_type
        if not (isinstance(takes, type) and issubclass(takes, Results)):
            raise self._invalid(f"{self._synthesizer.name!r} takes Results[Task, Value]: what came of the assignments")
        self._check_fits(takes)
        self._check_number("width", self.width, MAX_WIDTH)
        self._check_number("max_rounds", self.max_rounds, MAX_ROUNDS)

    def _check_join(self) -> None:
        join: object = self.join
        if isinstance(join, Join):
            return
        if isinstance(join, int | float) and not isinstance(join, bool):
            raise self._invalid(f"join takes a Join: write join=Join(need={join!r}), not join={join!r}")
        raise self._invalid(
            f"join takes a Join, such as Join(need=0.8), not {join!r:.80}; leave it out where all are needed"
        )

    def _check_number(self, what: str, given: object, most: int) -> None:
        if isinstance(given, bool) or not isinstance(given, int) or not 1 <= given <= most:
            raise self._invalid(f"{what} must be 1 to {most}, a whole number, not {given!r:.80}")

    def _check_fits(self, takes: type[Results[Any, Any]]) -> None:
        # Generics of pydantic tell their arguments nowhere else.
        task, value = takes.__pydantic_generic_metadata__["args"] or (Any, Any)
        joins = self._synthesizer.name
        self._check_fit(self._boss.name, self._boss.input_type, joins, task)
        for label, runs in self._specialists:
            if self.join.accept is not None and not isinstance(runs, Agent) and runs.plan()[-1].rules is not None:
                why = "is a blackboard, whose result accept cannot judge; make it a pipeline that ends with an agent"
                raise self._invalid(f"specialist {label!r} {why}")
            self._check_fit(label, answer_type(_gives(runs)), joins, value)
            for other in self._stand_ins(runs) if isinstance(runs, Agent) else ():
                self._check_fit(other.name, answer_type(other.output_type), joins, value)
        for each in (self._boss, self._synthesizer):
            self._stand_ins(each)

    def _stand_ins(self, agent: Agent[Any, Any]) -> list[Agent[Any, Any]]:
        """Return an agent's own fallbacks, which must take what it takes: a queue that nobody serves is waited for."""
        found = [self._agent("fallback", name) for name in agent.fallback_agents]
        for other in found:
            self._check_fit(agent.name, agent.input_type, other.name, other.input_type)
        return found

    def _check_fit(self, giver: str, given: object, taker: str, taken: object) -> None:
        if why := misfit(giver, given, taker, taken):
            raise self._invalid(why)


class _Placed(NamedTuple):
    """Whose an assignment is and what that one takes, or why it cannot be done."""

    label: str
    value: bytes = b""
    fault: str = ""


def _member(
    placed: _Placed, runs: Agent[Any, Any] | Flow | None, assignment: Assignment, fan: str, *, at: int, number: int
) -> Member:
    root = f"{fan[: fan.rfind('/') + 1]}{'unassigned' if runs is None else placed.label}#{at}"
    facts: dict[str, object] = {
        "specialist": placed.label,
        "label": readable(assignment.label),
        "weight": max(1, round(assignment.weight * THOUSAND)),
        "round": number,
    }
    if runs is None or isinstance(runs, Agent):
        step = PlanStep(name=root, agent=placed.label) if runs is None else _plan_step(root, runs)
        steps = [step.model_copy(update={"fan": fan, "member": root, **facts})]
    else:
        steps = [_inside(step, root, fan) for step in runs.plan()]
        entry = steps[0].name
        steps = [step.model_copy(update={"member": entry}) for step in steps]
        steps[0] = steps[0].model_copy(update=facts)
    return Member(steps=tuple(steps), value=placed.value, fault=placed.fault)


def _gives(runs: Agent[Any, Any] | Flow) -> object:
    return runs.output_type if isinstance(runs, Agent) else runs.output._type  # noqa: SLF001  its only name


def _part(share: float, weight: int) -> int:
    """Return how much of a weight a share is at least: 0.28 of 100 is 28, and so is what floats make of 1 - 0.72."""
    meant = Fraction(share).limit_denominator(FINEST)
    return min(weight, max(1, math.ceil(meant * weight)))


def _last_part(name: str) -> str:
    return name.rpartition(".")[2]


def _plan_step(name: str, agent: Agent[Any, Any]) -> PlanStep:
    within_ms = None if agent.deadline is None else max(1, round(agent.deadline * THOUSAND))
    return PlanStep(name=name, agent=agent.name, within_ms=within_ms)


def _inside(step: PlanStep, root: str, fan: str) -> PlanStep:
    """Return a step of a specialist's flow, as one of the member that it works for."""
    start, following = step.start and f"{root}/{step.start}", step.next and f"{root}/{step.next}"
    return step.model_copy(update={"name": f"{root}/{step.name}", "start": start, "next": following, "fan": fan})
