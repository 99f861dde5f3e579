"""What every pattern is to the rest: a named flow that plans steps; and the register of flows."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final, Protocol

from orchestrator.agent import NAME
from orchestrator.errors import DuplicateName, InvalidFlow

if TYPE_CHECKING:
    from pydantic import TypeAdapter

    from orchestrator.agent import Agent
    from orchestrator.messages import PlanStep
    from orchestrator.patterns.pipeline import Gate

PACKAGE: Final = __name__.split(".", maxsplit=1)[0]


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


_flows: dict[str, Flow] = {}


def register(flow: Flow) -> None:
    """
    Make a flow known by its name.

    Raises:
        InvalidFlow: the name does not fit.
        DuplicateName: another flow has the name; the message names both files.
    """
    if not NAME.fullmatch(flow.name):
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


def definition_site() -> str:
    """Return `file:line` of the nearest caller outside this package: where a user wrote the definition."""
    frame = sys._getframe(1)  # noqa: SLF001  the one way to name a user's line; inspect.stack() reads every file
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".")[0] == PACKAGE:
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
