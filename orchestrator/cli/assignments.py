"""Which assignments made a fan-out fail."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.cli.steps import whereabouts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.messages import FanOut, RunState, StepState


@dataclass(frozen=True)
class FailedAssignment:
    """
    An assignment that failed, or was not done in time.

    Attributes:
        name: of the step where it failed; `agent`: whose it is.
        attempts: begins of that step.
    """

    name: str
    agent: str
    label: str
    reason: str
    attempts: int


def missed(state: RunState, join: str | None) -> FanOut | None:
    """Return the fan-out that a step joins, where the step failed because of its assignments; else None."""
    step = state.step(join) if join is not None else None
    fan = state.fans.get(step.name) if step is not None and step.status == "failed" else None
    failed = fan is not None and fan.otherwise == "fail" and fan.verdict in {"missed", "overdue"}
    return fan if failed else None


def failed_assignments(state: RunState, join: str) -> list[FailedAssignment]:
    """Return what failed of a fan-out's last round; of a team that failed, what failed within it."""
    members: dict[str, list[StepState]] = {}
    firsts: dict[str, list[StepState]] = {}
    for step in state.steps:
        if step.fan is not None and step.member is not None:
            members.setdefault(step.member, []).append(step)
            if step.member == step.name:
                firsts.setdefault(step.fan, []).append(step)
    steps = {step.name: step for step in state.steps}

    def of(name: str) -> Iterator[FailedAssignment]:
        fan = state.fans[name]
        for first in firsts.get(name, ()):
            if first.round != fan.round:
                continue
            late = first.outcome is None and fan.verdict == "overdue"
            if first.outcome != "failed" and not late:
                continue
            at = whereabouts(members[first.name])
            within = state.fans.get(at.name)
            if within is not None and within.verdict in {"missed", "overdue"} and steps[at.name].status == "failed":
                below = list(of(at.name))
                if below:
                    yield from below
                    continue
            reason = first.fault or at.reason or ("not done in time" if late else "")
            yield FailedAssignment(at.name, at.agent, first.label, reason, at.begins)

    return list(of(join))
