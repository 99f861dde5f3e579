"""What every pattern is to the rest: a named flow that plans steps; and the register of flows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from orchestrator.agent import NAME, Agent, agents
from orchestrator.errors import DuplicateName, InvalidFlow, UnknownAgent

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydantic import TypeAdapter

    from orchestrator.messages import PlanStep
    from orchestrator.patterns.gate import Gate


class Flow(Protocol):
    """
    A way for agents to work together.

    Attributes:
        name: unique in the deployment; `where`: `file:line` of its definition.
        input, output: adapters of what the flow takes and gives.
    """

    name: str
    where: str
    input: TypeAdapter[Any]
    output: TypeAdapter[Any]

    def plan(self) -> tuple[PlanStep, ...]:
        """Return the steps a run starts with, in order."""

    def agent_of(self, step: str) -> Agent[Any, Any]:
        """Return the agent that a step names."""

    def gate_of(self, step: str) -> Gate | None:
        """Return the gate behind a step, or None."""

    def inner(self, name: str) -> Flow | None:
        """Return the flow that a stage or a specialist is, or None."""


def locate(flow: Flow, step: str) -> tuple[Flow, str]:
    """
    Return the flow that plans a step, and the step's name there: a fan-out's members are planned as they come.

    Raises:
        LookupError: the flow has no such step.
    """
    parts = step.split("/")
    for number, part in enumerate(parts[:-1]):
        if "#" in part:
            found = within(flow, [*parts[:number], part.partition("#")[0]])
            return locate(found, "/".join(parts[number + 1 :]))
    return flow, step


def within(flow: Flow, names: Iterable[str]) -> Flow:
    """
    Return the flow that one stage or specialist after the other leads to.

    Raises:
        LookupError: one of them is no flow.
    """
    for name in names:
        found = flow.inner(name)
        if found is None:
            msg = f"flow {flow.name!r} has no flow {name!r} in it"
            raise LookupError(msg)
        flow = found
    return flow


_flows: dict[str, Flow] = {}


def register(flow: Flow) -> None:
    """
    Make a flow known by its name.

    Raises:
        InvalidFlow: the name does not fit.
        DuplicateName: another flow has the name; the message names both files.
    """
    name: object = flow.name
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise InvalidFlow(
            flow.name, flow.where, "a name is lower-case letters, digits, '.', '_' and '-', and starts with a letter"
        )
    known = _flows.get(flow.name)
    if known is not None and known.where != flow.where:
        raise DuplicateName("flow", flow.name, known.where, flow.where)
    _flows[flow.name] = flow


def flows() -> dict[str, Flow]:
    """Return the registered flows by name."""
    return dict(sorted(_flows.items()))


def found(runs: Agent[Any, Any] | Flow | str, name: str, where: str) -> Agent[Any, Any] | Flow:
    """
    Return what a source or a member runs, whose fallbacks there are.

    Args:
        runs: an agent, a flow, or the name of either.
        name: of the flow that it is part of; `where` that is declared.

    Raises:
        InvalidFlow: it is neither.
        UnknownAgent: there is none of this name, or none of a fallback's.
    """
    known: dict[str, Agent[Any, Any] | Flow] = {**flows(), **agents()}
    one = known.get(runs) if isinstance(runs, str) else runs
    if one is None and isinstance(runs, str):
        raise UnknownAgent(name, where, runs, ", ".join(agents()))
    if one is None or not (isinstance(one, Agent) or hasattr(one, "plan")):
        raise InvalidFlow(name, where, f"{runs!r:.80} is neither an agent nor a flow; put @agent(...) on the function")
    for other in one.fallback_agents if isinstance(one, Agent) else ():
        if other not in agents():
            raise UnknownAgent(name, where, other, ", ".join(agents()))
    return one


def planner_of(name: str, step: str) -> Flow | None:
    """Return the flow that plans a step of a flow: itself, or one nested in it. None: this process does not know it."""
    try:
        planned, inside = locate(_flows[name], step)
        return within(planned, inside.split("/")[:-1])
    except LookupError:
        return None
