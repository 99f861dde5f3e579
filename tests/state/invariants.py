"""What must hold of a run after every change, whoever made it: one sentence for each thing that does not."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from orchestrator.errors import WrongState
from orchestrator.messages import Event, PlanStep, RunState
from orchestrator.state import keys
from orchestrator.state.fold import fold
from orchestrator.state.payload import CLAIM

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from orchestrator.state.runs import RunStore

ENDINGS = {"completed": "RunCompleted", "failed": "RunFailed", "cancelled": "RunCancelled"}
BROUGHT_ON_BY = {"ready": "ready", "running": "leases", "waiting": "timers", "delayed": "timers"}
"""The index that brings a step on when nobody touches it, by the step's status."""
INDEXES = ("ready", "leases", "timers")
SLACK_MS = 300_000
"""A run's keys are looked at within this time of its end."""
A_MOMENT_MS = 20_000
"""What lies between the calls that make a value, and the run that it belongs to."""


@dataclass(frozen=True)
class Snapshot:
    """
    All that Redis holds of a run, read at once.

    Attributes:
        values: what its steps took and gave, by name; None where a claim check leads nowhere.
        indexes: its entries in `ready`, `leases` and `timers` of its shard, with their scores (ms).
        listed: the statuses it is listed under; `dead_ms`: until when it is a dead letter.
        ttls: of its keys, in milliseconds; -1 for none, -2 where there is no such key.
        now_ms: the server's time.
    """

    state: RunState
    events: tuple[Event, ...]
    values: dict[str, bytes | None]
    indexes: dict[str, dict[str, float]]
    listed: tuple[str, ...]
    dead_ms: float | None
    ttls: dict[str, int]
    now_ms: int


def look(store: RunStore, run_id: str) -> Snapshot:
    """Read all there is of a run."""
    shard = keys.shard_of(run_id)
    own = (keys.run(run_id), keys.data(run_id), keys.events(run_id), keys.children(run_id))
    pipe = store.client.pipeline(transaction=True)
    pipe.hgetall(own[0])
    pipe.hgetall(own[1])
    pipe.xrange(own[2])
    for index in (keys.ready(shard), keys.leases(shard), keys.timers(shard)):
        pipe.zrange(index, 0, -1, withscores=True)
    for status in keys.STATUSES:
        pipe.zscore(keys.index(shard, status), run_id)
    pipe.zscore(keys.dead(shard), run_id)
    for key in own:
        pipe.pttl(key)
    pipe.time()
    replies: list[Any] = pipe.execute()  # of many kinds
    seconds, microseconds = replies.pop()
    run, data, entries = replies[:3]
    *listed, dead_ms = replies[6 : -len(own)]
    claims = [keys.blob(run_id, value[1:].decode()) for value in data.values() if value.startswith(CLAIM)]
    ttls = dict(zip(own, replies[-len(own) :], strict=True)) | {key: store.client.pttl(key) for key in claims}
    return Snapshot(
        state=RunState.from_hash(run_id, _decoded(run)),
        events=tuple(Event.from_stream(entry_id.decode(), _decoded(fields)) for entry_id, fields in entries),
        values={name.decode(): _value(store, run_id, stored) for name, stored in data.items()},
        indexes={
            name: {entry.decode(): score for entry, score in found if entry.decode().split("/")[0] == run_id}
            for name, found in zip(INDEXES, replies[3:6], strict=True)
        },
        listed=tuple(status for status, score in zip(keys.STATUSES, listed, strict=True) if score is not None),
        dead_ms=dead_ms,
        ttls={key: int(ttl) for key, ttl in ttls.items()},
        now_ms=seconds * 1000 + microseconds // 1000,
    )


def problems(snapshot: Snapshot, *, moved: Mapping[str, int] | None = None) -> list[str]:
    """
    Compare a run's projection, its log and its index entries.

    Args:
        snapshot: of the run.
        moved: what a test has moved behind the log's back, and to where (ms): by a step's name the time by which it
            must be done, by a fan-out's, with two slashes in front, the time it has, by "" the run's deadline.

    Returns:
        A sentence for each thing that does not hold; empty where all is well.
    """
    found = [*_log_problems(snapshot), *_fold_problems(snapshot, moved or {})]
    if snapshot.listed != (snapshot.state.status,):
        listed = ", ".join(snapshot.listed) or "nothing"
        found.append(f"the run is {snapshot.state.status} and is listed as {listed}")
    found += _finished_problems(snapshot) if snapshot.state.finished else _unfinished_problems(snapshot)
    return [*found, *_dead_problems(snapshot), *_timer_problems(snapshot), *_value_problems(snapshot)]


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
    for before, after in pairwise(event for event in events if event.type != "DeadLetterDropped"):
        if before.ends_run and after.type != "RunRedriven":
            yield "events follow the run's end"
    last = next(event.type for event in reversed(events) if event.type != "DeadLetterDropped")
    if state.finished and last != ENDINGS[state.status]:
        yield f"the run is {state.status} and its log ends with {last}"
    yield from _doubled(events)


def _order(event: Event) -> tuple[int, ...]:
    return tuple(int(part) for part in event.id.split("-"))


def _doubled(events: tuple[Event, ...]) -> Iterator[str]:
    """Give the steps that were committed twice in one revision."""
    plan: dict[str, PlanStep] = {}
    done: set[str] = set()
    for event in events:
        step = str(event.data.get("step"))
        if event.type in {"RunSubmitted", "MembersAdded"}:
            plan |= {one.name: one for one in _planned(event.data.get("steps"))}
        elif event.type == "StepDelegated" and step != event.data["fan"]:
            done.add(step)
        elif event.type == "StepCompleted":
            if step in done:
                yield f"step {step} is committed twice in one revision"
            done.add(step)
        elif event.type == "StepRevised" and step in plan:
            again = plan[step].start or step
            while again != step:
                done.discard(again)
                again = plan[again].next or step
            done.discard(step)
        elif event.type == "RunRedriven":
            reset = event.data["reset"]
            done = {name for name in done & set(plan) if name not in (reset if isinstance(reset, list) else ())}


def _planned(steps: object) -> Iterator[PlanStep]:
    """Give what is planned of a run's steps, or of members."""
    if isinstance(steps, list):
        yield from map(PlanStep.model_validate, steps)
    elif isinstance(steps, dict):
        for name, facts in steps.items():
            known = {field: fact for field, fact in facts.items() if field in PlanStep.model_fields}
            yield PlanStep.model_validate({**known, "name": name})


def _fold_problems(snapshot: Snapshot, moved: Mapping[str, int]) -> Iterator[str]:
    if not snapshot.events:
        return
    stored, folded = snapshot.state, _moved(fold(snapshot.state.id, snapshot.events), moved)
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


def _moved(state: RunState, moved: Mapping[str, int]) -> RunState:
    steps = tuple(step.model_copy(update={"until_ms": moved.get(step.name, step.until_ms)}) for step in state.steps)
    fans = {
        name: fan.model_copy(update={"until_ms": moved.get(f"//{name}", fan.until_ms)})
        for name, fan in state.fans.items()
    }
    return state.model_copy(update={"steps": steps, "fans": fans, "deadline_ms": moved.get("", state.deadline_ms)})


def _finished_problems(snapshot: Snapshot) -> Iterator[str]:
    state = snapshot.state
    for name, entries in snapshot.indexes.items():
        for entry in entries:
            if entry != keys.member(state.id, "/"):
                yield f"the run has ended and {entry} is in {name}"
    for step in state.steps:
        if step.status in {"pending", *BROUGHT_ON_BY}:
            yield f"the run has ended and step {step.name} is {step.status}"
    kept = state.dead_ms if state.failure else state.retention_ms
    for key, ttl in snapshot.ttls.items():
        if ttl == -1:
            yield f"the run has ended and {key} has no TTL"
        elif ttl >= 0 and ":blob:" not in key and not kept - SLACK_MS < ttl <= kept:
            yield f"the run is kept for {kept} ms and {key} for {ttl} ms"


def _unfinished_problems(snapshot: Snapshot) -> Iterator[str]:
    state, indexes = snapshot.state, snapshot.indexes
    if indexes["timers"].get(state.id) != state.deadline_ms:
        yield "no timer holds the run's deadline"
    live = [step for step in state.steps if step.status in BROUGHT_ON_BY]
    spine = [step for step in live if step.fan is None]
    undecided = [name for name, fan in state.fans.items() if fan.size and not fan.verdict]
    top = [name for name in undecided if (step := state.step(name)) is not None and step.fan is None]
    if len(spine) + len(top) != 1 and not (state.status == "undoing" and len(spine) == 1):
        yield f"not one step is ready, running, delayed or waiting but {len(spine)}, and fan-outs are open: {top}"
    if not live:
        yield "no step is ready, running, delayed or waiting"
    if any(bool(step.undoes) != (state.status == "undoing") for step in live):
        yield f"the run is {state.status} and works at {live[0].name}"
    yield from _fan_out_problems(snapshot, top if state.status != "undoing" else [])
    if (state.ending is not None) != (state.status == "undoing"):
        yield f"the run is {state.status} and its end is to be {state.ending}"
    for key, ttl in snapshot.ttls.items():
        if ":blob:" in key:
            if ttl == -1:
                yield f"{key} has no TTL"
        elif ttl != -1 and not (ttl == -2 and key == keys.children(state.id)):
            yield f"the run has not ended and {key} expires or is gone"
    yield from _waiting_problems(snapshot)


def _fan_out_problems(snapshot: Snapshot, undecided: list[str]) -> Iterator[str]:
    """Look at what a live run waits for, and at its own fan-outs that have not come together."""
    state, indexes = snapshot.state, snapshot.indexes
    waits = sum(step.status == "waiting" for step in state.steps)
    if state.waits != waits or (waits > 0) != (state.status == "waiting"):
        yield f"the run is {state.status}, {waits} steps wait for a person, and it says {state.waits}"
    for name in undecided:
        fan = state.fans[name]
        timer = indexes["timers"].get(keys.member(state.id, f"//{name}"))
        if timer != fan.until_ms:
            yield f"fan-out {name} has time until {fan.until_ms}, and its timer says {timer}"
        if fan.opened - fan.ended > fan.width:
            yield f"fan-out {name} has {fan.opened - fan.ended} members in flight, and room for {fan.width}"


def _waiting_problems(snapshot: Snapshot) -> Iterator[str]:
    """Look at what brings the steps of a live run on."""
    state, indexes = snapshot.state, snapshot.indexes
    for step in state.steps:
        entry = keys.member(state.id, step.name)
        entered = {name for name, entries in indexes.items() if entry in entries}
        wanted = {BROUGHT_ON_BY[step.status]} if step.status in BROUGHT_ON_BY else set()
        if entered != wanted:
            yield f"step {step.name} is {step.status} and is in {', '.join(sorted(entered)) or 'no index'}"
        until_ms = step.waiting.until_ms if step.waiting else step.due_ms
        if until_ms is not None and indexes["timers"].get(entry) != until_ms:
            yield f"no timer holds the time until which step {step.name} waits"
        if (until_ms is not None) != (step.status in {"waiting", "delayed"}):
            yield f"step {step.name} is {step.status} and waits until {until_ms}"


def _dead_problems(snapshot: Snapshot) -> Iterator[str]:
    state, dead_ms = snapshot.state, snapshot.dead_ms
    if state.failure is not None and state.status != "failed":
        yield f"the run is {state.status} and has a failure"
    wanted = None if state.failure is None or state.ended_ms is None else state.ended_ms + state.dead_ms
    if dead_ms != wanted:
        yield f"the run is a dead letter until {dead_ms} and should be until {wanted}"


def _timer_problems(snapshot: Snapshot) -> Iterator[str]:
    """Look at the timers of the times by which steps must be done, and of the children's end."""
    state, timers = snapshot.state, snapshot.indexes["timers"]
    for step in state.steps:
        entry = keys.member(state.id, f"/{step.name}")
        wanted = step.until_ms if step.status in BROUGHT_ON_BY else None
        if timers.get(entry) != wanted:
            yield f"step {step.name} is {step.status}, to be done by {wanted}, and its timer says {timers.get(entry)}"
        if step.status in BROUGHT_ON_BY and (step.until_ms is None) != (step.within_ms is None):
            yield f"step {step.name} is {step.status} within {step.within_ms} ms, until {step.until_ms}"
    if keys.member(state.id, "/") in timers and state.status not in {"failed", "cancelled", "undoing"}:
        yield f"the run is {state.status} and its children are to be ended"


def _value_problems(snapshot: Snapshot) -> Iterator[str]:
    state = snapshot.state
    until_ms = (state.ended_ms or state.deadline_ms) + (state.dead_ms if state.failure else state.retention_ms)
    for key, ttl in snapshot.ttls.items():
        if ":blob:" in key and 0 <= ttl < until_ms - snapshot.now_ms - A_MOMENT_MS:
            yield f"{key} expires before its run"
    needed = {state.output} | {name for step in state.steps for name in (step.input, step.output, step.draft)}
    needed |= {one.output for step in state.steps for one in step.earlier}
    needed = {name for name in needed if not (name or "").startswith("fan:")}
    for name in sorted(name for name in needed if name):
        if name not in snapshot.values:
            yield f"the value {name} is missing"
        elif snapshot.values[name] is None:
            yield f"the value {name} cannot be read"
