"""What must hold of a run after every change, whoever made it: one sentence for each thing that does not."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

from orchestrator.errors import WrongState
from orchestrator.messages import PlanStep
from orchestrator.state import keys
from orchestrator.state.fold import fold

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.messages import Event, RunState
    from orchestrator.state.runs import RunStore

ENDINGS = {"completed": "RunCompleted", "failed": "RunFailed", "cancelled": "RunCancelled"}
BROUGHT_ON_BY = {"ready": "ready", "running": "leases", "waiting": "timers"}
"""The index that brings a step on when nobody touches it, by the step's status."""


@dataclass(frozen=True)
class Indexes:
    """Where a run and its steps are entered: entries with their scores, and the statuses it is listed under."""

    ready: dict[str, float]
    leases: dict[str, float]
    timers: dict[str, float]
    statuses: tuple[str, ...]


def problems(store: RunStore, run_id: str, *, moved_deadline_ms: int | None = None) -> list[str]:
    """
    Compare a run's projection, its log and its index entries.

    Args:
        store: of the runs.
        run_id: the run.
        moved_deadline_ms: where a test has moved the run's deadline behind the log's back, to where.

    Returns:
        A sentence for each thing that does not hold; empty where all is well.
    """
    state, events, indexes = store.load(run_id), store.events(run_id), read_indexes(store, run_id)
    if moved_deadline_ms is not None and events:
        first = events[0]
        events[0] = first.model_copy(update={"data": first.data | {"deadline_ms": moved_deadline_ms}})
    found = [*_log_problems(state, events), *_fold_problems(state, events), *_status_problems(state, indexes)]
    if state.finished:
        found += _finished_problems(store, state, indexes)
    else:
        found += _unfinished_problems(store, state, indexes)
    return [*found, *_value_problems(store, state)]


def read_indexes(store: RunStore, run_id: str) -> Indexes:
    """Read a run's entries in the indexes of its shard."""
    shard = keys.shard_of(run_id)
    pipe = store.client.pipeline(transaction=False)
    for index in (keys.ready(shard), keys.leases(shard), keys.timers(shard)):
        pipe.zrange(index, 0, -1, withscores=True)
    for status in keys.STATUSES:
        pipe.zscore(keys.index(shard, status), run_id)
    entries: list[Any] = pipe.execute()  # of two kinds: lists and scores
    ready, leases, timers = (
        {name.decode(): score for name, score in reply if name.decode().split("/")[0] == run_id}
        for reply in entries[:3]
    )
    entered = tuple(status for status, score in zip(keys.STATUSES, entries[3:], strict=True) if score is not None)
    return Indexes(ready, leases, timers, entered)


def _log_problems(state: RunState, events: list[Event]) -> Iterator[str]:
    if not events or events[0].type != "RunSubmitted":
        yield "the log does not begin with RunSubmitted"
        return
    for before, after in pairwise(events):
        if _order(before) >= _order(after):
            yield f"event {after.id} does not come after {before.id}"
    if any(event.ends_run for event in events[:-1]):
        yield "events follow the run's end"
    if state.finished and events[-1].type != ENDINGS[state.status]:
        yield f"the run is {state.status} and its log ends with {events[-1].type}"
    yield from _doubled(events)


def _order(event: Event) -> tuple[int, ...]:
    return tuple(int(part) for part in event.id.split("-"))


def _doubled(events: list[Event]) -> Iterator[str]:
    """Give the steps that were committed twice in one revision."""
    plan = [PlanStep.model_validate(step) for step in cast("list[object]", events[0].data.get("steps", []))]
    order = [step.name for step in plan]
    starts = {step.name: step.start or step.name for step in plan}
    done: set[str] = set()
    for event in events:
        step = str(event.data.get("step"))
        if event.type == "StepCompleted":
            if step in done:
                yield f"step {step} is committed twice in one revision"
            done.add(step)
        elif event.type == "StepRevised":
            done -= set(order[order.index(starts[step]) : order.index(step) + 1])


def _fold_problems(state: RunState, events: list[Event]) -> Iterator[str]:
    folded = fold(state.id, events).model_dump()
    stored = state.model_dump()
    steps = zip(stored.pop("steps"), folded.pop("steps"), strict=True)
    for where, kept, told in [("run", stored, folded), *((f"step {kept['name']}", kept, told) for kept, told in steps)]:
        for field in kept:
            if kept[field] != told[field]:
                yield f"{where}: {field} is {kept[field]!r} in the projection and {told[field]!r} by its events"


def _status_problems(state: RunState, indexes: Indexes) -> Iterator[str]:
    if indexes.statuses != (state.status,):
        yield f"the run is {state.status} and is listed as {', '.join(indexes.statuses) or 'nothing'}"


def _finished_problems(store: RunStore, state: RunState, indexes: Indexes) -> Iterator[str]:
    for name in BROUGHT_ON_BY.values():
        for entry in getattr(indexes, name):
            yield f"the run has ended and {entry} is in {name}"
    for step in state.steps:
        if step.status in {"pending", *BROUGHT_ON_BY}:
            yield f"the run has ended and step {step.name} is {step.status}"
    for key in store.client.scan_iter(f"{keys.run(state.id)}*"):
        if store.client.pttl(key) < 0:
            yield f"the run has ended and {key.decode()} has no TTL"


def _unfinished_problems(store: RunStore, state: RunState, indexes: Indexes) -> Iterator[str]:
    if indexes.timers.get(state.id) != state.deadline_ms:
        yield "no timer holds the run's deadline"
    live = [step for step in state.steps if step.status in BROUGHT_ON_BY]
    if len(live) != 1:
        yield f"not one step is ready, running or waiting but {len(live)}"
    for step in state.steps:
        entry = keys.member(state.id, step.name)
        entered = {name for name in BROUGHT_ON_BY.values() if entry in getattr(indexes, name)}
        wanted = {BROUGHT_ON_BY[step.status]} if step.status in BROUGHT_ON_BY else set()
        if entered != wanted:
            yield f"step {step.name} is {step.status} and is in {', '.join(sorted(entered)) or 'no index'}"
        if step.waiting and indexes.timers.get(entry) != step.waiting.until_ms:
            yield f"no timer holds the time until which step {step.name} waits"
    for key in (keys.run(state.id), keys.events(state.id), keys.data(state.id)):
        if store.client.pttl(key) != -1:
            yield f"the run has not ended and {key} expires or is gone"


def _value_problems(store: RunStore, state: RunState) -> Iterator[str]:
    needed = {state.output} | {name for step in state.steps for name in (step.input, step.output, step.draft)}
    names = sorted(name for name in needed if name)
    stored = cast("list[bytes | None]", store.client.hmget(keys.data(state.id), names)) if names else []
    for name, value in zip(names, stored, strict=True):
        if value is None:
            yield f"the value {name} is missing"
            continue
        try:
            store.payloads.get(state.id, value)
        except WrongState as error:
            yield f"the value {name} cannot be read: {error.args[1]}"
