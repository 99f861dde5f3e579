"""What must hold of a run after every change, whoever made it: one sentence for each thing that does not."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from orchestrator.messages import Event, PlanStep, RunState
from orchestrator.state import keys
from orchestrator.state.fold import fold
from orchestrator.state.payload import CLAIM

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from orchestrator.state.runs import RunStore

ENDINGS = {"completed": "RunCompleted", "failed": "RunFailed", "cancelled": "RunCancelled"}
BROUGHT_ON_BY = {"ready": "ready", "running": "leases", "waiting": "timers", "delayed": "timers"}
"""The index that brings a step on when nobody touches it, by the step's status."""
AFTER_THE_END = ("DeadLetterDropped", "StepLate", "StepSpent")
"""What may still happen to a run that has ended; of the latter it is a member that nobody waits for any more."""
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


LOOK: Final = """
local found = {redis.call('HGETALL', KEYS[1]), redis.call('HGETALL', KEYS[2]), redis.call('XRANGE', KEYS[3], '-', '+')}
for place = 5, 7 do found[#found + 1] = redis.call('ZRANGE', KEYS[place], 0, -1, 'WITHSCORES') end
for place = 8, #KEYS do found[#found + 1] = redis.call('ZSCORE', KEYS[place], ARGV[1]) end
for place = 1, 4 do found[#found + 1] = redis.call('PTTL', KEYS[place]) end
local claims, data = {}, found[2]
for place = 1, #data, 2 do
    local name = string.match(data[place + 1], ARGV[2])
    if name then
        local key = ARGV[3] .. name
        claims[#claims + 1] = {data[place], key, redis.call('PTTL', key), redis.call('GET', key)}
    end
end
found[#found + 1] = claims
found[#found + 1] = redis.call('TIME')
return found
"""
"""All of it in one round trip: the state machines look after every call that they make."""


def look(store: RunStore, run_id: str) -> Snapshot:
    """Read all there is of a run."""
    shard = keys.shard_of(run_id)
    own = (keys.run(run_id), keys.data(run_id), keys.events(run_id), keys.children(run_id))
    indexes = (keys.ready(shard), keys.leases(shard), keys.timers(shard))
    listed = [keys.index(shard, status) for status in keys.STATUSES]
    given = (run_id, f"^{CLAIM.decode()}(.*)$", keys.blob(run_id, ""))
    touched = (*own, *indexes, *listed, keys.dead(shard))
    found: Any = store.client.eval(LOOK, len(touched), *touched, *given)  # replies of many kinds
    run, data, entries, *replies = found
    *replies, claims, (seconds, microseconds) = replies
    entered, scores, ttls = replies[: len(INDEXES)], replies[len(INDEXES) : -len(own)], replies[-len(own) :]
    *scores, dead_ms = scores
    stored: dict[bytes, bytes | None] = dict(_pairs(data))
    stored |= {name: zlib.decompress(value) if value else None for name, _, _, value in claims}
    return Snapshot(
        state=RunState.from_hash(run_id, _decoded(run)),
        events=tuple(Event.from_stream(entry_id.decode(), _decoded(fields)) for entry_id, fields in entries),
        values={name.decode(): value for name, value in stored.items()},
        indexes={
            name: {entry.decode(): float(score) for entry, score in _pairs(found) if _is_of(entry, run_id)}
            for name, found in zip(INDEXES, entered, strict=True)
        },
        listed=tuple(status for status, score in zip(keys.STATUSES, scores, strict=True) if score is not None),
        dead_ms=None if dead_ms is None else float(dead_ms),
        ttls=dict(zip(own, ttls, strict=True)) | {key.decode(): ttl for _, key, ttl, _ in claims},
        now_ms=int(seconds) * 1000 + int(microseconds) // 1000,
    )


def _pairs(flat: Sequence[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Give what Lua returns of a hash, or of a sorted set with its scores, two by two."""
    return zip(flat[::2], flat[1::2], strict=True)


def _is_of(entry: bytes, run_id: str) -> bool:
    return entry.decode().split("/")[0] == run_id


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


def _decoded(fields: Sequence[bytes]) -> dict[str, str]:
    return {name.decode(): text.decode() for name, text in _pairs(fields)}


def _log_problems(snapshot: Snapshot) -> Iterator[str]:
    state, events = snapshot.state, snapshot.events
    if not events or events[0].type != "RunSubmitted":
        yield "the log does not begin with RunSubmitted"
        return
    for before, after in pairwise(events):
        if _order(before) >= _order(after):
            yield f"event {after.id} does not come after {before.id}"
    for before, after in pairwise(event for event in events if event.type not in AFTER_THE_END):
        if before.ends_run and after.type != "RunRedriven":
            yield "events follow the run's end"
    last = next(event.type for event in reversed(events) if event.type not in AFTER_THE_END)
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
