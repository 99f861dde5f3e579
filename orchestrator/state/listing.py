"""
What lists tell of runs: their own fields and the steps of their flows.

Of fan-outs, whose members may be thousands in each run, only what their joins have counted is read.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

from orchestrator.errors import RunNotFound, RunUnreadable
from orchestrator.messages import Event, RunState
from orchestrator.state import keys
from orchestrator.state.letters import dead_letter
from orchestrator.state.reading import projection

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from orchestrator.messages import DeadLetter, RunStatus
    from orchestrator.state.reading import RunReader

AT_ONCE: Final = 100
"""Runs that are read in one round trip."""
SEARCHED: Final = 20
"""Runs that are looked at for each that is asked for, where there are other wishes than the status."""
LOG_SLICE: Final = 8
"""Events that are read first, from a log's end; then four times as many. Those that tell of members are large."""
OWN: Final = (*(name for name in RunState.model_fields if name not in {"id", "steps", "fans"}), "order", "orders")
"""A run's own fields; what fan-outs have added to its order are lists of their own."""


@dataclass(frozen=True, kw_only=True)
class UnreadableRun:
    """
    A run that another version wrote, or that is broken.

    Attributes:
        flow, tenant, status: as they are stored.
        created_ms: when it was submitted; `at_ms`: when it ended, or else was submitted.
        reason: why it cannot be read.
    """

    id: str
    flow: str
    tenant: str
    status: str
    created_ms: int
    at_ms: int
    reason: str


class Lists:
    """
    Lists of runs and of dead letters.

    Args:
        reader: of the runs.
    """

    def __init__(self, reader: RunReader) -> None:
        self._reader = reader
        self._client = reader.client

    def runs(
        self,
        statuses: Sequence[RunStatus],
        *,
        flow: str | None = None,
        tenant: str | None = None,
        tag: tuple[str, str] | None = None,
        limit: int,
    ) -> list[RunState | UnreadableRun]:
        """
        Return the newest runs that fit, newest first, at most `limit`.

        `steps` are those of the flow itself; `fans` the fan-outs that these join.
        """
        filtered = flow is not None or tenant is not None or tag is not None
        # The indexes know statuses alone; other wishes are filtered here, over a bounded number of runs.
        ids = self._reader.newest(statuses, limit * SEARCHED if filtered else limit)
        found: list[RunState | UnreadableRun] = []
        for start in range(0, len(ids), AT_ONCE):
            some = ids[start : start + AT_ONCE]
            fitting = list(self._fitting(some, flow, tenant, tag)) if filtered else some
            found += (state for state, _ in self._states(fitting[: limit - len(found)]))
            if len(found) >= limit:
                break
        return found

    def dead(
        self, *, flow: str | None = None, agent: str | None = None, limit: int
    ) -> list[DeadLetter | UnreadableRun]:
        """
        Return the newest dead letters that fit, newest first, at most `limit`.

        What an unreadable one failed on is not known: it fits every agent.
        """
        filtered = flow is not None or agent is not None
        ids = self._reader.dead(limit * SEARCHED if filtered else limit)
        found: list[DeadLetter | UnreadableRun] = []
        for start in range(0, len(ids), AT_ONCE):
            some = ids[start : start + AT_ONCE]
            fitting = some if flow is None else list(self._fitting(some, flow, None, None))
            for state, whole in self._states(fitting):
                letter = state if isinstance(state, UnreadableRun) else self._letter(state, whole=whole)
                if letter is None or (agent is not None and getattr(letter, "agent", agent) != agent):
                    continue
                found.append(letter)
                if len(found) == limit:
                    return found
        return found

    def _fitting(
        self, run_ids: Sequence[str], flow: str | None, tenant: str | None, tag: tuple[str, str] | None
    ) -> Iterator[str]:
        pipe = self._client.pipeline(transaction=False)
        for run_id in run_ids:
            pipe.hmget(keys.run(run_id), ["flow", "tenant", "tags"])
        found = cast("list[list[bytes | None]]", pipe.execute())
        for run_id, (its_flow, its_tenant, tags) in zip(run_ids, found, strict=True):
            if (
                (flow is None or its_flow == flow.encode())
                and (tenant is None or its_tenant == tenant.encode())
                and (tag is None or _tags(tags).get(tag[0]) == tag[1])
            ):
                yield run_id

    def _states(self, run_ids: Sequence[str]) -> Iterator[tuple[RunState | UnreadableRun, bool]]:
        """Give those runs that exist, in two round trips, and of each whether it has no other steps than its flow's."""
        pipe = self._client.pipeline(transaction=False)
        for run_id in run_ids:
            pipe.hmget(keys.run(run_id), OWN)
        runs = {
            run_id: {name.encode(): value for name, value in zip(OWN, values, strict=True) if value is not None}
            for run_id, values in zip(run_ids, cast("list[list[bytes | None]]", pipe.execute()), strict=True)
        }
        asked = {run_id: _of_flow(fields) for run_id, fields in runs.items() if fields}
        for run_id, (steps, _) in asked.items():
            pipe.hmget(keys.run(run_id), ["status", *_records(steps)])
        found = cast("list[list[bytes | None]]", pipe.execute())
        for (run_id, (steps, whole)), (_, *values) in zip(asked.items(), found, strict=True):
            fields = runs[run_id]
            fields |= {
                name.encode(): value for name, value in zip(_records(steps), values, strict=True) if value is not None
            }
            if not whole:
                fields |= {b"order": json.dumps(steps).encode(), b"orders": b"0"}
            try:
                yield projection(run_id, fields), whole
            except RunUnreadable as error:
                yield _unreadable(run_id, fields, error), whole

    def _letter(self, state: RunState, *, whole: bool) -> DeadLetter | None:
        """Return a run's dead letter; None: it is none any more."""
        if state.failure is None:
            return None
        order = b"" if whole else cast("bytes | None", self._client.hget(keys.run(state.id), "order")) or b""
        if b"~undo" in order:
            # Where it goes on is decided by what of the members was undone.
            with contextlib.suppress(RunNotFound, RunUnreadable):
                state, whole = self._reader.load(state.id), True
        events = self._end_of_log(state)
        if not any(event.ends_run for event in events):
            return None  # expired meanwhile
        letter = dead_letter(state, events)
        return letter if whole else letter.model_copy(update={"tokens": None, "cost": None})

    def _end_of_log(self, state: RunState) -> list[Event]:
        """Return a run's log from where the step that failed was first begun, or a little before; oldest first."""
        step = state.failure.step if state.failure else None
        failed = state.step(step) if step else None
        begins, told, ended = failed.begins if failed else 0, step is None, False
        events: list[Event] = []
        last, count = "+", LOG_SLICE
        while True:
            entries = cast(
                "list[tuple[bytes, dict[bytes, bytes]]]",
                self._client.xrevrange(keys.events(state.id), max=last, count=count),
            )
            for entry_id, fields in entries:
                last = f"({entry_id.decode()}"
                event = Event.from_stream(
                    entry_id.decode(), {name.decode(): text.decode() for name, text in fields.items()}
                )
                events.append(event)
                ended = ended or event.ends_run
                if step is not None and event.data.get("step") == step:
                    begins -= event.type == "StepStarted"
                    told = told or event.type == "StepFailed"
            if len(entries) < count or (ended and told and begins <= 0):
                return events[::-1]
            count *= 4


def _of_flow(fields: Mapping[bytes, bytes]) -> tuple[list[str], bool]:
    """Return the steps of the flow itself, and whether there are no others; none where the order is broken."""
    try:
        names = json.loads(fields.get(b"order", b""))
        own = [name for name in names if "#" not in name]
    except (TypeError, ValueError):
        return [], True
    return own, len(own) == len(names) and b"orders" not in fields


def _records(steps: Sequence[str]) -> list[str]:
    return [f"{kind}:{name}" for name in steps for kind in ("step", "fan")]


def _tags(text: bytes | None) -> dict[str, str]:
    with contextlib.suppress(ValueError):
        found = json.loads(text or b"")
        if isinstance(found, dict):
            return found
    return {}


def _unreadable(run_id: str, fields: Mapping[bytes, bytes], error: RunUnreadable) -> UnreadableRun:
    def text(name: str) -> str:
        return fields.get(name.encode(), b"").decode(errors="replace")

    def at(name: str) -> int:
        return int(text(name)) if text(name).isdecimal() else 0

    return UnreadableRun(
        id=run_id,
        flow=text("flow"),
        tenant=text("tenant"),
        status=text("status"),
        created_ms=at("created_ms"),
        at_ms=at("ended_ms") or at("created_ms"),
        reason=str(error.args[1]),
    )
