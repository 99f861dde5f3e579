"""Dead letters of runs, and where such a run goes on when it is redriven."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.messages import DeadLetter

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from orchestrator.messages import Event, RunState, StepState

TROUBLES = frozenset({"StepDelayed", "StepLost", "StepFellBack", "StepFailed"})


def dead_letter(state: RunState, events: Sequence[Event]) -> DeadLetter:
    """
    Return what is needed to decide about a run that failed for good.

    Args:
        state: of the run; it has a failure.
        events: its log.
    """
    failure = state.failure
    assert failure is not None  # the caller's  # noqa: S101
    failed = state.step(failure.step) if failure.step else None
    # Where no step is to blame, the run's time was over: what those had met that were not done by then.
    troubled = {failure.step} if failure.step else {step.name for step in _own(state) if step.status == "cancelled"}
    errors = [
        f"{event.type}: {event.data.get('why') or event.data.get('reason') or event.data.get('worker')}"
        for event in events
        if event.data.get("step") in troubled and event.type in TROUBLES
    ]
    end = next(event for event in reversed(events) if event.ends_run)
    return DeadLetter(
        run_id=state.id,
        flow=state.flow,
        tenant=state.tenant,
        kind=failure.kind,
        step=failure.step,
        agent=failed.agent if failed else None,
        reason=state.reason or "",
        attempts=failed.begins if failed else 0,
        errors=tuple(errors),
        event_id=end.id,
        at_ms=end.at_ms,
        expires_ms=end.at_ms + (state.dead_ms or state.retention_ms),
        goes_on_at=goes_on_at(state),
        tokens=state.tokens,
        cost=state.cost,
    )


def goes_on_at(state: RunState) -> str | None:
    """Return the step from which a failed run goes on unless another is named: the first not done, or undone since."""
    return next((step.name for step in _own(state) if step.status != "completed" or was_undone(state, step)), None)


def _own(state: RunState) -> Iterator[StepState]:
    """Give the flow's own steps."""
    return (step for step in state.steps if not (step.fan or step.board or step.talk or step.undoes))


def was_undone(state: RunState, step: StepState) -> bool:
    """Tell whether what a step of the flow itself did, or what was done in the fan-out it joins, was undone."""
    if step.delegates and step.next is not None and _planned_on_what_was_undone(state, step.next):
        return True
    return step.undone or (step.joins and any(one.undone for one in _within(state, step.name)))


def _within(state: RunState, join: str) -> Iterator[StepState]:
    """Give the steps of all that work for a step where a fan-out comes together."""
    path, fan = join[: join.rfind("/") + 1], state.fans.get(join)
    if fan is None or fan.task is None:
        return  # what an earlier revision gave out, after which the boss answered itself
    for step in state.steps:
        if step.fan is not None and step.name.startswith(path) and "#" in step.name[len(path) :].partition("/")[0]:
            yield step


def _planned_on_what_was_undone(state: RunState, join: str) -> bool:
    """Tell whether of an earlier round something was undone: the last one was planned on it."""
    fan, within = state.fans.get(join), list(_within(state, join))
    if fan is None:
        return False
    path = len(join[: join.rfind("/") + 1])
    rounds = {_root(step, path): step.round for step in within if step.fan == join and step.member == step.name}
    return any(step.undone and rounds.get(_root(step, path), 0) < fan.round for step in within)


def _root(step: StepState, path: int) -> str:
    return step.name[path:].partition("/")[0]
