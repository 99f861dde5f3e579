"""What must hold of a run after every change, whoever made it: one sentence for each thing that does not."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from orchestrator.errors import WrongState
from orchestrator.messages import Event, PlanStep, RunState
from orchestrator.state import keys
from orchestrator.state.fold import fold
from orchestrator.state.payload import CLAIM

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.state.runs import RunStore

ENDINGS = {"completed": "RunCompleted", "failed": "RunFailed", "cancelled": "RunCancelled"}
BROUGHT_ON_BY = {"ready": "ready", "running": "leases", "waiting": "timers"}
"""The index that brings a step on when nobody touches it, by the step's status."""


@dataclass(frozen=True)
class Snapshot:
    """
    All that Redis holds of a run, read at once.

    Attributes:
        values: what its steps took and gave, by name; None where a claim check leads nowhere.
        indexes: its entries in `ready`, `leases` and `timers` of its shard, with their scores (ms).
        listed: the statuses it is listed under.
        ttls: of its keys, in milliseconds; -1 for none, -2 where there is no such key.
    """

    state: RunState
    events: tuple[Event, ...]
    values: dict[str, bytes | None]
    indexes: dict[str, dict[str, float]]
    listed: tuple[str, ...]
    ttls: dict[str, int]


def look(store: RunStore, run_id: str) -> Snapshot:
    """Read all there is of a run."""
    shard, own = keys.shard_of(run_id), (keys.run(run_id), keys.data(run_id), keys.events(run_id))
    pipe = store.client.pipeline(transaction=True)
    pipe.hgetall(own[0])
    pipe.hgetall(own[1])
    pipe.xrange(own[2])
    for index in (keys.ready(shard), keys.leases(shard), keys.timers(shard)):
        pipe.zrange(index, 0, -1, withscores=True)
    for status in keys.STATUSES:
        pipe.zscore(keys.index(shard, status), run_id)
    for key in own:
        pipe.pttl(key)
    replies: list[Any] = pipe.execute()  # of many kinds
    run, data, entries = replies[:3]
    claims = [keys.blob(run_id, value[1:].decode()) for value in data.values() if value.startswith(CLAIM)]
    ttls = dict(zip(own, replies[-3:], strict=True)) | {key: store.client.pttl(key) for key in claims}
    return Snapshot(
        state=RunState.from_hash(run_id, _decoded(run)),
        events=tuple(Event.from_stream(entry_id.decode(), _decoded(fields)) for entry_id, fields in entries),
        values={name.decode(): _value(store, run_id, stored) for name, stored in data.items()},
        indexes={
            name: {entry.decode(): score for entry, score in found if entry.decode().split("/")[0] == run_id}
            for name, found in zip(BROUGHT_ON_BY.values(), replies[3:6], strict=True)
        },
        listed=tuple(status for status, score in zip(keys.STATUSES, replies[6:-3], strict=True) if score is not None),
        ttls={key: int(ttl) for key, ttl in ttls.items()},
    )


def problems(snapshot: Snapshot, *, moved_deadline_ms: int | None = None) -> list[str]:
    """
    Compare a run's projection, its log and its index entries.

    Args:
        snapshot: of the run.
        moved_deadline_ms: where a test has moved the run's deadline behind the log's back, to where.

    Returns:
        A sentence for each thing that does not hold; empty where all is well.
    """
    if moved_deadline_ms is not None:
        first, *others = snapshot.events
        moved = first.model_copy(update={"data": first.data | {"deadline_ms": moved_deadline_ms}})
        snapshot = replace(snapshot, events=(moved, *others))
    found = [*_log_problems(snapshot), *_fold_problems(snapshot)]
    if snapshot.listed != (snapshot.state.status,):
        listed = ", ".join(snapshot.listed) or "nothing"
        found.append(f"the run is {snapshot.state.status} and is listed as {listed}")
    found += _finished_problems(snapshot) if snapshot.state.finished else _unfinished_problems(snapshot)
    return [*found, *_value_problems(snapshot)]


def _decoded(fields: dict[bytes, bytes]) -> dict[str, str]:
    return {name.decode(): text.decode() for name, text in fields.items()}


def _value(store: RunStore, run_id: str, stored: bytes) -> bytes | None:
    try:
        return store.payloads.get(run_id, stored)
    except WrongState:
        return None


def _log_problems(snapshot: Snapshot) -> Iterator[str]:
    state, events = snapshot.state, snapshot.events
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


def _doubled(events: tuple[Event, ...]) -> Iterator[str]:
    """Give the steps that were committed twice in one revision."""
    planned = events[0].data.get("steps", [])
    plan = [PlanStep.model_validate(step) for step in planned] if isinstance(planned, list) else []
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


def _fold_problems(snapshot: Snapshot) -> Iterator[str]:
    if not snapshot.events:
        return
    stored, folded = snapshot.state, fold(snapshot.state.id, snapshot.events)
    if stored == folded:
        return
    for where, kept, told in [
        ("run", stored, folded),
        *((f"step {step.name}", step, folded.step(step.name)) for step in stored.steps),
    ]:
        for field in type(kept).model_fields:
            here, there = getattr(kept, field), getattr(told, field, None)
            if field != "steps" and here != there:
                yield f"{where}: {field} is {here!r} in the projection and {there!r} by its events"


def _finished_problems(snapshot: Snapshot) -> Iterator[str]:
    for name, entries in snapshot.indexes.items():
        for entry in entries:
            yield f"the run has ended and {entry} is in {name}"
    for step in snapshot.state.steps:
        if step.status in {"pending", *BROUGHT_ON_BY}:
            yield f"the run has ended and step {step.name} is {step.status}"
    for key, ttl in snapshot.ttls.items():
        if ttl == -1:
            yield f"the run has ended and {key} has no TTL"


def _unfinished_problems(snapshot: Snapshot) -> Iterator[str]:
    state, indexes = snapshot.state, snapshot.indexes
    if indexes["timers"].get(state.id) != state.deadline_ms:
        yield "no timer holds the run's deadline"
    live = [step for step in state.steps if step.status in BROUGHT_ON_BY]
    if len(live) != 1:
        yield f"not one step is ready, running or waiting but {len(live)}"
    for step in state.steps:
        entry = keys.member(state.id, step.name)
        entered = {name for name, entries in indexes.items() if entry in entries}
        wanted = {BROUGHT_ON_BY[step.status]} if step.status in BROUGHT_ON_BY else set()
        if entered != wanted:
            yield f"step {step.name} is {step.status} and is in {', '.join(sorted(entered)) or 'no index'}"
        if step.waiting and indexes["timers"].get(entry) != step.waiting.until_ms:
            yield f"no timer holds the time until which step {step.name} waits"
    for key, ttl in snapshot.ttls.items():
        if ":blob:" in key:
            if ttl == -1:
                yield f"{key} has no TTL"
        elif ttl != -1:
            yield f"the run has not ended and {key} expires or is gone"


def _value_problems(snapshot: Snapshot) -> Iterator[str]:
    state = snapshot.state
    needed = {state.output} | {name for step in state.steps for name in (step.input, step.output, step.draft)}
    for name in sorted(name for name in needed if name):
        if name not in snapshot.values:
            yield f"the value {name} is missing"
        elif snapshot.values[name] is None:
            yield f"the value {name} cannot be read"
