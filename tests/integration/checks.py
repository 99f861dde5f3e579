"""
What must hold after every case, whatever happened in it: the invariants I1 to I5.

I1  each run has ended, a failed one with its reason      I2  each step is committed once
I3  fold(events) is the projection                        I4  no lease, timer, index entry or message is left
I5  an external ledger holds each effect once
"""

from __future__ import annotations

import contextlib
from collections import Counter
from typing import TYPE_CHECKING, Final, cast

import pytest

from orchestrator.errors import RunNotFound
from orchestrator.state.fold import fold
from tests.servers import OF_A_RUN, stray_keys, wait_until
from tests.state.invariants import AFTER_THE_END

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from orchestrator import Event, Run, RunState
    from tests.integration.fleet import Deployment

QUIET_TIMEOUT = 20.0
LATE: Final = 15.0
PARKED: Final = ("acme.parked", "talks.parked")


def wrong_with(state: RunState, events: Sequence[Event]) -> list[str]:
    """Return what breaks I1, I2 or I3 in a run: its projection and its log."""
    found, log = [], events
    if not state.finished:
        found.append(f"I1: {state.id} is stuck: {state.status}")
    if state.status == "failed" and not state.reason:
        found.append(f"I1: {state.id} failed without a reason")
    # A dead letter that was sent again ends again; one that was dropped has ended before, as may have what is late.
    again = max((number for number, event in enumerate(events) if event.type == "RunRedriven"), default=0)
    events = [*events[:again], *(event for event in events[again:] if event.type not in AFTER_THE_END)]
    ends = [event.type for event in events[again:] if event.ends_run]
    if state.finished and len(ends) != 1:
        found.append(f"I2: {state.id} ended {len(ends)} times: {ends}")
    if ends and not events[-1].ends_run:
        found.append(f"I2: {state.id} went on after its end: {events[-1].type}")
    commits = [event for event in events if event.type in {"StepCompleted", "StepDelegated"}]
    completed = Counter(str(event.data["step"]) for event in commits)
    found += _wrong_with_fan_outs(state, events)
    for step in state.steps:
        # A revision of several stages commits the first ones again.
        if completed[step.name] > step.revision + 1:
            found.append(f"I2: {state.id}/{step.name} was committed {completed[step.name]} times")
        # A member of a fan-out or a conversation, and a source of a blackboard, may fail, or be late.
        part = step.fan or step.board or step.talk
        done = completed[step.name] or (part and step.status in {"failed", "cancelled"})
        if state.status == "completed" and not done:
            found.append(f"I2: {state.id}/{step.name} was never committed")
    if fold(state.id, log) != state:
        found.append(f"I3: {state.id}: fold(events) is not the projection")
    return found


def _wrong_with_fan_outs(state: RunState, events: Sequence[Event]) -> Iterator[str]:
    given = Counter(str(event.data["fan"]) for event in events if event.type == "StepDelegated")
    joined = Counter(str(event.data["fan"]) for event in events if event.type == "FanOutJoined")
    again = sum(event.type == "RunRedriven" for event in events)
    for fan in given:
        # Within a member that was late, or a run that has ended before, nothing comes together any more.
        within_another = any(step.name == fan and step.fan for step in state.steps)
        least = 0 if within_another or state.status != "completed" else given[fan]
        if not least <= joined[fan] <= given[fan] + again:
            yield f"I2: {state.id}/{fan} gave work out {given[fan]} times and was joined {joined[fan]} times"
    closed: set[object] = set()
    for event in events:
        if event.type == "RunRedriven":
            closed.clear()  # what was joined before may go on
        elif event.type == "StepDelegated":
            closed.discard(event.data["fan"])
        elif event.type == "FanOutJoined":
            if event.data["fan"] in closed:
                yield f"I2: {state.id}/{event.data['fan']} was joined twice in a row"
            closed.add(event.data["fan"])


def wrong_with_effects(ledger: Path, states: Iterable[RunState]) -> list[str]:
    """
    Return what breaks I5: effects that are missing or there twice.

    Args:
        ledger: a link for each idempotency key; its target says run, step and revision.
        states: of runs whose every step has one effect, each completed.
    """
    effects = Counter(str(path.readlink()) for path in ledger.iterdir())
    wanted = {
        f"{state.id} {step.name} {revision}"
        for state in states
        for step in state.steps
        for revision in range(step.revision + 1)
    }
    return [
        *(f"I5: lost effect: {effect}" for effect in sorted(wanted - set(effects))),
        *(f"I5: unexpected effect: {effect}" for effect in sorted(set(effects) - wanted)),
        *(f"I5: {count} times the effect: {effect}" for effect, count in sorted(effects.items()) if count > 1),
    ]


def all_runs(deployment: Deployment) -> list[Run]:
    """Return every run that there is a key of."""
    found = []
    for key in cast("Iterable[bytes]", deployment.redis.scan_iter(match="*:run:*", count=1000)):
        matched = OF_A_RUN.fullmatch(key.decode())
        if matched and not matched[2]:
            found.append(deployment.client.get(matched["run"]))
    return found


def at_once(run: Run) -> tuple[RunState, list[Event]]:
    """Return a run's projection and its log as they are together: what is late may come between the two looks."""
    state = run.state()
    while True:
        before, events, state = state, run.events(), run.state()
        if before == state:
            return state, events


def check_all(deployment: Deployment) -> None:
    """Fail unless I1 to I4 hold for every run of a deployment that has not been checked before."""
    problems: list[str] = []
    for run in all_runs(deployment):
        if run.id not in deployment.checked:
            deployment.checked.add(run.id)
            try:
                problems += wrong_with(*at_once(run))
            except RunNotFound:
                continue  # its retention has just passed
    assert not problems, "\n".join(problems)

    databases = [deployment.redis, deployment.broker] if deployment.own_broker else [deployment.redis]
    strays: list[str] = []

    def nothing_left() -> bool:
        strays[:] = [stray for one in databases for stray in stray_keys(one, queues=PARKED)]
        return not strays

    if any(worker.running for worker in deployment.workers):
        wait_until(lambda: not deployment.waiting_messages(), QUIET_TIMEOUT, "no message is left")
        # A caretaker that found a dispatch overdue may publish it only now that the step is done.
        with contextlib.suppress(pytest.fail.Exception):
            wait_until(nothing_left, LATE, "nothing else is left")
    else:
        nothing_left()
    assert not strays, "\n".join(strays)
