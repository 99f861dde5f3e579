"""A boss that plans, specialists that work in parallel, and what joins their results; runs as a Celery chord."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError

from orchestrator.agent import LONGEST_NAME, Agent, agents, to_json
from orchestrator.errors import InvalidFlow, UnknownAgent, definition_site, text_of
from orchestrator.messages import Member, PlanStep, Terms
from orchestrator.patterns.delegation import (
    MAX_ASSIGNMENTS,
    THOUSAND,
    Join,
    Plan,
    Results,
    Specialist,
    answer_type,
    may_plan,
)
from orchestrator.patterns.fits import misfit
from orchestrator.patterns.flow import flows, register
from orchestrator.state.text import bounded, readable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestrator.patterns.delegation import Assignment, Route
    from orchestrator.patterns.flow import Flow
    from orchestrator.patterns.gate import Gate

MAX_WIDTH: Final = 10_000
MAX_ROUNDS: Final = 100
DEFAULT_WIDTH: Final = 100


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
        self.join, self.width, self.max_rounds, self._router = join or Join(), width, max_rounds, router
        self._workers: dict[str, tuple[Agent[Any, Any] | Flow, frozenset[str]]] = {}
        for worker in workers:
            self._add(worker if isinstance(worker, Specialist) else Specialist(worker))
        self._check()
        self._names = {runs.name: label for label, (runs, _) in self._workers.items()}
        self._capable: dict[str, list[str]] = {}
        for label, (_, capabilities) in self._workers.items():
            for capability in capabilities:
                self._capable.setdefault(capability, []).append(label)
        self.input: TypeAdapter[Any] = self._boss.input
        self.output: TypeAdapter[Any] = TypeAdapter(answer_type(self._synthesizer.output_type))
        register(self)

    def __repr__(self) -> str:
        return f"<hierarchy {self.name}: {self._boss_step} → {', '.join(self._workers)} → {self._join_step}>"

    @property
    def workers(self) -> tuple[str, ...]:
        """The specialists' names."""
        return tuple(self._workers)

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
        runs = self._workers.get(name, (None,))[0]
        return None if runs is None or isinstance(runs, Agent) else runs

    def members(self, plan: Plan, *, fan: str, start: int, number: int) -> list[Member]:
        """
        Compile a plan.

        Args:
            plan: what the boss, or for another round the synthesiser, gave.
            fan: the full name of the step where the members come together.
            start: members of earlier rounds.
            number: the round's.

        Returns:
            A member for each assignment; one that cannot be done has the reason in place of its input.

        Raises:
            ValueError: there are more than a run may have.
        """
        if start + len(plan.assignments) > MAX_ASSIGNMENTS:
            msg = f"{start + len(plan.assignments)} assignments; a run has at most {MAX_ASSIGNMENTS}"
            raise ValueError(msg)
        turns: Counter[str] = Counter()
        path = fan[: fan.rfind("/") + 1]
        return [
            self._member(assignment, turns, f"{path}%s#{at}", fan=fan, number=number)
            for at, assignment in enumerate(plan.assignments, start + 1)
        ]

    def terms(self, members: Sequence[Member]) -> Terms:
        """Return when these members come together."""
        need = self.join.need
        share = isinstance(need, float)
        weight = sum(member.steps[0].weight for member in members)
        return Terms(
            # In whole thousandths: what is a float here and there is not the same number everywhere.
            need=math.ceil(need * weight - 1e-6) if share else int(need),
            share=share,
            accept=self.join.accept is not None,
            otherwise=self.join.otherwise,
            width=self.width,
            within=self.join.deadline,
        )

    def _member(self, assignment: Assignment, turns: Counter[str], name: str, *, fan: str, number: int) -> Member:
        label = bounded(assignment.to or assignment.capability or "unassigned", LONGEST_NAME)
        value, fault = b"", ""
        try:
            label = self._route(assignment, turns)
            value = self._encode(label, assignment.input)
        except _Refused as refused:
            fault = refused.args[0]
        runs = self._workers.get(label, (None,))[0]
        root = name % (label if label in self._workers else "unassigned")
        facts: dict[str, object] = {
            "specialist": label,
            "label": readable(assignment.label),
            "weight": max(1, round(assignment.weight * THOUSAND)),
            "round": number,
        }
        if runs is None or isinstance(runs, Agent):
            step = PlanStep(name=root, agent=label) if runs is None else _plan_step(root, runs)
            return Member(
                steps=(step.model_copy(update={"fan": fan, "member": root, **facts}),), value=value, fault=fault
            )
        steps = [_inside(step, root, fan) for step in runs.plan()]
        entry = steps[0].name
        steps = [step.model_copy(update={"member": entry}) for step in steps]
        return Member(steps=(steps[0].model_copy(update=facts), *steps[1:]), value=value, fault=fault)

    def _route(self, assignment: Assignment, turns: Counter[str]) -> str:
        name = assignment.to
        if name is None and assignment.capability is not None:
            capable = self._capable.get(assignment.capability)
            if not capable:
                known = ", ".join(sorted(self._capable)) or "none"
                msg = f"no specialist is capable of {assignment.capability!r} (known capabilities: {known})"
                raise _Refused(msg)
            turns[assignment.capability] += 1
            return capable[(turns[assignment.capability] - 1) % len(capable)]
        if name is None:
            name = self._ask_router(assignment)
        found = name if name in self._workers else self._names.get(name)
        if found is None:
            msg = f"there is no specialist {name!r} (known: {', '.join(self._workers)})"
            raise _Refused(msg)
        return found

    def _ask_router(self, assignment: Assignment) -> str:
        if self._router is None:
            msg = "the assignment names neither a specialist (to=) nor a capability, and the hierarchy has no router"
            raise _Refused(msg)
        try:
            found: object = self._router(assignment, self.workers)
        except Exception as error:
            # A user's code: one assignment that it cannot place is no reason to lose the others.
            msg = f"the router raised {text_of(error)}"
            raise _Refused(msg) from error
        if not isinstance(found, str):
            msg = f"the router must return a specialist's name, not {found!r:.80}"
            raise _Refused(msg)
        return found

    def _encode(self, label: str, given: object) -> bytes:
        kind = self._workers[label][0].input
        try:
            return to_json(kind, kind.validate_python(given))
        except ValidationError as error:
            why = "; ".join(
                f"{'.'.join(map(str, item['loc'])) or 'input'}: {item['msg']}"
                for item in error.errors(include_url=False)[:3]
            )
        except PydanticSerializationError as error:
            why = f"it cannot be written as JSON: {error}"
        msg = f"the input does not fit specialist {label!r}: {why}"
        raise _Refused(msg)

    # Definition

    def _invalid(self, why: str) -> InvalidFlow:
        return InvalidFlow(self.name, self.where, why)

    def _agent(self, what: str, given: Agent[Any, Any] | str) -> Agent[Any, Any]:
        found = agents().get(given) if isinstance(given, str) else given
        if found is None:
            raise UnknownAgent(self.name, self.where, str(given), ", ".join(agents()))
        if not isinstance(found, Agent):
            raise self._invalid(
                f"{what} takes an agent or its name, not {given!r:.80}; put @agent(...) on the function"
            )
        return found

    def _add(self, worker: Specialist) -> None:
        runs = worker.runs
        if isinstance(runs, str):
            known: Mapping[str, Any] = {**flows(), **agents()}
            if runs not in known:
                raise UnknownAgent(self.name, self.where, runs, ", ".join(known))
            runs = known[runs]
        if not isinstance(runs, Agent) and not (hasattr(runs, "plan") and hasattr(runs, "inner")):
            raise self._invalid(f"{runs!r:.80} is neither an agent nor a flow; put @agent(...) on the function")
        label = worker.name or (_last_part(runs.name) if isinstance(runs, Agent) else runs.name)
        if not label or set("/~#%") & set(label):
            raise self._invalid(f"a specialist's name has none of / ~ # % and is not empty: {label!r}")
        if label in self._workers:
            raise self._invalid(f"two specialists are named {label!r}; name one of them: Specialist(..., name=...)")
        self._workers[label] = runs, frozenset(worker.capabilities)

    def _check(self) -> None:
        if not self._workers:
            raise self._invalid("a hierarchy has at least one worker")
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
        if isinstance(self.width, bool) or not 1 <= self.width <= MAX_WIDTH:
            raise self._invalid(f"width must be 1 to {MAX_WIDTH}, not {self.width}")
        if not 1 <= self.max_rounds <= MAX_ROUNDS:
            raise self._invalid(f"max_rounds must be 1 to {MAX_ROUNDS}, not {self.max_rounds}")

    def _check_fits(self, takes: type[Results[Any, Any]]) -> None:
        # Generics of pydantic tell their arguments nowhere else.
        kinds = takes.__pydantic_generic_metadata__["args"]
        if not kinds:
            return
        fits = [(self._boss.name, self._boss.input_type, kinds[0])]
        fits += [(label, answer_type(_gives(runs)), kinds[-1]) for label, (runs, _) in self._workers.items()]
        for giver, given, taken in fits:
            if why := misfit(giver, given, self._synthesizer.name, taken):
                raise self._invalid(why)


class _Refused(Exception):
    """An assignment cannot be done; with the reason."""


def _gives(runs: Agent[Any, Any] | Flow) -> object:
    return runs.output_type if isinstance(runs, Agent) else runs.output._type  # noqa: SLF001  its only name


def _last_part(name: str) -> str:
    return name.rpartition(".")[2]


def _plan_step(name: str, agent: Agent[Any, Any]) -> PlanStep:
    within_ms = None if agent.deadline is None else max(1, round(agent.deadline * THOUSAND))
    return PlanStep(name=name, agent=agent.name, within_ms=within_ms)


def _inside(step: PlanStep, root: str, fan: str) -> PlanStep:
    """Return a step of a specialist's flow, as one of the member that it works for."""
    start, following = step.start and f"{root}/{step.start}", step.next and f"{root}/{step.next}"
    return step.model_copy(update={"name": f"{root}/{step.name}", "start": start, "next": following, "fan": fan})
