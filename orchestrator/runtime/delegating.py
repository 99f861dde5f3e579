"""A boss's plan on its way to the specialists, and their results on the way to what puts them together."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from orchestrator.errors import WrongState, text_of
from orchestrator.patterns.flow import flows, locate, planner_of
from orchestrator.patterns.hierarchy import Hierarchy
from orchestrator.runtime.attempt import AttemptFailed, Delegated, Judged
from orchestrator.runtime.boarding import woken

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.patterns.delegation import Plan
    from orchestrator.runtime.attempt import Attempt
    from orchestrator.runtime.process import WorkerProcess
    from orchestrator.state.runs import Begun


def hierarchy_of(flow: str, step: str) -> Hierarchy:
    """
    Return the hierarchy that a boss's or a synthesiser's step belongs to.

    Raises:
        AttemptFailed: this worker does not know it.
    """
    found = planner_of(flow, step)
    if not isinstance(found, Hierarchy):
        why = f"this worker does not know flow {flow!r} with a hierarchy here; add its module to CELERIAC_AGENTS"
        raise AttemptFailed(why, judged=True)
    return found


def delegation(attempt: Attempt, plan: Plan) -> Judged:
    """
    Compile a plan.

    Args:
        attempt: whose output it is.
        plan: the output.

    Raises:
        AttemptFailed: it cannot be followed.
    """
    begun = attempt.begun
    step = begun.step
    if not (step.delegates or step.joins):
        why = f"agent {attempt.agent.name!r} returned a Plan; only a hierarchy's boss and synthesiser give work out"
        raise AttemptFailed(why, final=True)
    fan = step.name if step.joins else step.next or ""
    hierarchy = hierarchy_of(begun.flow, step.name)
    known = attempt.process.fan_outs.load(begun.run_id, fan)
    number = known.round + 1 if known is not None and step.joins else 1
    if number > hierarchy.max_rounds:
        why = f"it gave work out in round {number}, and the hierarchy has max_rounds={hierarchy.max_rounds}"
        raise AttemptFailed(why, final=True)
    try:
        members = hierarchy.members(
            plan,
            fan=fan,
            start=known.total if known else 0,
            number=number,
            seed=begun.run_id,
            max_bytes=attempt.process.settings.max_payload_bytes,
        )
    except ValueError as error:
        raise AttemptFailed(f"its plan has {error}", final=True) from None
    except Exception as error:
        raise AttemptFailed(f"its plan cannot be followed: {text_of(error)}", final=True) from error
    return Judged(_summary(plan), "delegate", delegated=Delegated(fan, members, hierarchy.terms(members)))


def _summary(plan: Plan) -> bytes:
    """Return a plan as it is kept: what the assignments take is kept with their steps."""
    left_out = {"assignments": {"__all__": {"input"}}}
    return plan.model_dump_json(exclude=left_out, exclude_defaults=True).encode()


def gathered(process: WorkerProcess, begun: Begun) -> Begun:
    """
    Return the execution of a step that joins a fan-out with what came of it as its input.

    Raises:
        AttemptFailed: an answer's claim check leads nowhere, or this worker does not know the flow.
    """
    if begun.step.input != f"fan:{begun.step.name}":
        return begun
    fan = process.fan_outs.load(begun.run_id, begun.step.name)
    if fan is None:
        return begun
    last = fan.round >= hierarchy_of(begun.flow, begun.step.name).max_rounds
    try:
        value = process.fan_outs.results(begun.run_id, fan, _task(process, begun), last=last)
    except WrongState as error:
        raise AttemptFailed(text_of(error), final=True) from error
    return replace(begun, value=value)


def _task(process: WorkerProcess, begun: Begun) -> bytes:
    """Return what the boss took: where it was woken by a blackboard, a wake."""
    step = begun.step
    if step.board is None or step.member is None:
        return begun.value
    first = process.fan_outs.first(begun.run_id, step.member)
    if not first.delegates or first.next != step.name:
        return begun.value  # others stand before the boss
    return woken(replace(begun, step=first)).value


def acceptance(attempt: Attempt) -> Callable[[object], bool] | None:
    """
    Return what tells whether an output is one after which no other member of its fan-out is needed.

    None: nobody asks. It raises AttemptFailed where the join's `accept` raises; it is a user's code, which may take its
    time.

    Raises:
        AttemptFailed: this worker does not know the flow.
    """
    begun = attempt.begun
    step = begun.step
    if step.fan is None:
        return None
    if step.next is not None and not (step.delegates and _ends_member(begun.flow, step.next)):
        return None
    if begun.flow not in flows():
        # A worker that has its agents alone does the work of a hierarchy that asks for nothing more.
        fan = attempt.process.fan_outs.load(begun.run_id, step.fan)
        if fan is not None and not fan.accept:
            return None
    accept = hierarchy_of(begun.flow, step.fan).join.accept
    if accept is None:
        return None

    def accepts(output: object) -> bool:
        try:
            return bool(accept(output))
        except Exception as error:
            raise AttemptFailed(f"its join's accept raised {text_of(error)}", judged=True) from error

    return accepts


def _ends_member(flow: str, step: str) -> bool:
    """Tell whether a step within a member is its last: what a boss answers itself is the output of its join."""
    try:
        planned, name = locate(flows()[flow], step)
    except LookupError:
        return False
    return any(planned_step.name == name and planned_step.next is None for planned_step in planned.plan())
