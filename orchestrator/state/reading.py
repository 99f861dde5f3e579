"""What there is to be read of runs."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Final, cast

from pydantic import ValidationError
from redis.exceptions import NoScriptError

from orchestrator.errors import RunNotFound, RunUnreadable, text_of
from orchestrator.messages import ENDS, Event, RunState
from orchestrator.state import keys
from orchestrator.state.payload import Payloads
from orchestrator.state.scripts import Scripts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from redis import Redis

    from orchestrator.messages import Priority, RunStatus
    from orchestrator.settings import Settings

logger = logging.getLogger(__name__)

IN_A_ROW: Final = 10
"""Steps that are published together: every link of a chain carries the rest of it."""


def projection(run_id: str, fields: Mapping[bytes, bytes]) -> RunState:
    """
    Build a run's projection from its hash, or from a part of it whose `order` names the steps that are there.

    Raises:
        RunUnreadable: it is another version's, or broken.
    """
    try:
        return RunState.from_hash(run_id, {name.decode(): value.decode() for name, value in fields.items()})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where, more = ".".join(str(part) for part in first["loc"]), error.error_count() - 1
        raise RunUnreadable(run_id, f"{where}: {first['msg']}" + (f" (and {more} more)" if more else "")) from None
    except (LookupError, TypeError, ValueError) as error:
        raise RunUnreadable(run_id, text_of(error)) from None


def milliseconds(seconds: float) -> int:
    """Convert a duration for Redis; at least 1."""
    return max(1, round(seconds * 1000))


class RunReader:
    """
    Runs in Redis, to be read.

    Args:
        client: replies as bytes.
        settings: shards and limits.
    """

    def __init__(self, client: Redis, settings: Settings) -> None:
        self.client = client
        self.settings = settings
        self.payloads = Payloads(client, claim_bytes=settings.claim_check_bytes, max_bytes=settings.max_payload_bytes)
        self.scripts = Scripts(client)

    def load(self, run_id: str) -> RunState:
        """
        Return a run's projection.

        Raises:
            RunNotFound: there is none.
            RunUnreadable: it is another version's, or broken.
        """
        found = self.load_many([run_id])
        if not found:
            raise RunNotFound(run_id)
        return found[0]

    def head(self, run_id: str) -> RunState:
        """
        Return a run's projection without its steps and fan-outs, of which there may be thousands.

        Raises:
            RunNotFound: there is none.
        """
        names = [name for name in RunState.model_fields if name not in {"id", "steps", "fans"}]
        found = cast("list[bytes | None]", self.client.hmget(keys.run(run_id), names))
        fields = {name.encode(): value for name, value in zip(names, found, strict=True) if value is not None}
        if not fields:
            raise RunNotFound(run_id)
        return projection(run_id, {**fields, b"order": b"[]"})

    def status(self, run_id: str) -> RunStatus:
        """
        Return a run's status, whatever else it holds.

        Raises:
            RunNotFound: there is none.
        """
        found = cast("bytes | None", self.client.hget(keys.run(run_id), "status"))
        if found is None:
            raise RunNotFound(run_id)
        return cast("RunStatus", found.decode())

    def load_many(self, run_ids: Sequence[str]) -> list[RunState]:
        """
        Return the projections of those runs that exist, in the order asked for.

        Raises:
            RunUnreadable: one is another version's, or broken.
        """
        return [projection(run_id, fields) for run_id, fields in self._hashes(run_ids)]

    def _hashes(self, run_ids: Sequence[str]) -> Iterator[tuple[str, dict[bytes, bytes]]]:
        """Give what is stored of those runs that exist, in one round trip."""
        pipe = self.client.pipeline(transaction=False)
        for run_id in run_ids:
            pipe.hgetall(keys.run(run_id))
        found = cast("list[dict[bytes, bytes]]", pipe.execute())
        return ((run_id, fields) for run_id, fields in zip(run_ids, found, strict=True) if fields)

    def newest(self, statuses: Sequence[RunStatus], limit: int) -> list[str]:
        """Return the ids of the newest runs of these statuses over all shards, newest first."""
        pipe = self.client.pipeline(transaction=False)
        for shard in keys.shards(self.settings.shards):
            for status in statuses:
                pipe.zrange(keys.index(shard, status), 0, limit - 1, desc=True)
        found = cast("list[list[bytes]]", pipe.execute())
        return sorted((entry.decode() for entries in found for entry in entries), reverse=True)[:limit]

    def value(self, run_id: str, name: str) -> bytes | None:
        """Return a stored value by its name: `input`, or a step's `output`. None: there is none."""
        stored = cast("bytes | None", self.client.hget(keys.data(run_id), name))
        return None if stored is None else self.payloads.get(run_id, stored)

    def events(self, run_id: str, after: str = "-") -> list[Event]:
        """Return a run's events, oldest first; those after an event id, if one is given."""
        start = after if after == "-" else f"({after}"
        return _events(cast("_Entries", self.client.xrange(keys.events(run_id), min=start)))

    def follow(self, run_id: str, after: str, timeout: float) -> list[Event]:
        """Return the events after an id, waiting up to `timeout` seconds for the first."""
        found = cast(
            "list[tuple[bytes, _Entries]]",
            self.client.xread({keys.events(run_id): "0-0" if after == "-" else after}, block=milliseconds(timeout)),
        )
        return [event for _, entries in found or () for event in _events(entries)]

    def wait_for_end(self, run_id: str, after: str, timeout: float) -> tuple[str, bool]:
        """Return the id of the last event after an id, and whether one of them ends the run; waits for the first."""
        found = cast(
            "list[tuple[bytes, _Entries]]",
            self.client.xread({keys.events(run_id): "0-0" if after == "-" else after}, block=milliseconds(timeout)),
        )
        entries = [entry for _, entries in found or () for entry in entries]
        ended = any(fields[b"type"].decode() in ENDS for _, fields in entries)
        return (entries[-1][0].decode() if entries else after), ended

    def beside(self, key: str, run_id: str, step: str) -> tuple[dict[str, bytes], bool]:
        """Return a hash that a step keeps beside its run, and whether the step is over, as they stood together."""
        pipe = self.client.pipeline(transaction=True)
        pipe.hgetall(key)
        pipe.hget(keys.run(run_id), f"step:{step}")
        found, record = cast("tuple[dict[bytes, bytes], bytes | None]", pipe.execute())
        fields = {name.decode(): value for name, value in found.items()}
        return fields, record is not None and json.loads(record)["status"] != "running"

    def exists(self, run_id: str) -> bool:
        """Tell whether there is such a run."""
        return bool(self.client.exists(keys.run(run_id)))

    def left(self, run_id: str, steps: Sequence[str] = ()) -> RunState | None:
        """
        Return as much of a run as is needed to publish what is left of it, in one round trip.

        None: there is no such run, or this version cannot read it, which is logged.

        Args:
            run_id: the run.
            steps: those that are ready; every one that is unless given.
        """
        return self.left_many([(run_id, steps)])[0]

    def left_many(self, asked: Sequence[tuple[str, Sequence[str]]]) -> list[RunState | None]:
        """Return for each run, and its steps that are ready, what `left` does, in one round trip."""

        def ask() -> list[list[bytes]]:
            pipe = self.client.pipeline(transaction=False)
            for run_id, steps in asked:
                self.scripts.left(run_id, steps, most=IN_A_ROW, pipe=pipe)
            return cast("list[list[bytes]]", pipe.execute())

        try:
            replies = ask()
        except NoScriptError:
            # A server that restarted under a pipeline knows no script when redis-py sends the pipeline again.
            replies = ask()
        return [_left(run_id, reply) for (run_id, _), reply in zip(asked, replies, strict=True)]

    def dead(self, limit: int) -> list[str]:
        """Return the ids of the newest dead letters over all shards, newest first."""
        pipe = self.client.pipeline(transaction=False)
        for shard in keys.shards(self.settings.shards):
            pipe.zrange(keys.dead(shard), 0, limit - 1, desc=True, withscores=True)
        found = cast("list[list[tuple[bytes, float]]]", pipe.execute())
        newest = sorted(((score, entry.decode()) for entries in found for entry, score in entries), reverse=True)
        return [run_id for _, run_id in newest[:limit]]

    def dead_count(self) -> int:
        """Return how many dead letters there are."""
        pipe = self.client.pipeline(transaction=False)
        for shard in keys.shards(self.settings.shards):
            pipe.zcard(keys.dead(shard))
        return sum(cast("list[int]", pipe.execute()))

    def children(self, run_id: str) -> list[str]:
        """Return the runs that a run's steps have submitted."""
        return [entry.decode() for entry in cast("set[bytes]", self.client.smembers(keys.children(run_id)))]

    def descendants(self, run_id: str, limit: int) -> list[RunState]:
        """
        Return a run's children, and theirs, at most `limit`: each before its own.

        One that cannot be read is left out, and logged.
        """
        found: list[RunState] = []
        above = [run_id]
        while above and len(found) < limit:
            pipe = self.client.pipeline(transaction=False)
            for parent in above:
                pipe.smembers(keys.children(parent))
            replies = cast("list[set[bytes]]", pipe.execute())
            below = sorted(entry.decode() for entries in replies for entry in entries)[: limit - len(found)]
            for child, fields in self._hashes(below):
                try:
                    found.append(projection(child, fields))
                except RunUnreadable as error:
                    logger.error("%s", error)  # noqa: TRY400  no traceback: it says all
            above = below
        return found

    def queues_of(self, steps: Sequence[tuple[str, str]]) -> list[tuple[str, Priority, str]]:
        """
        Return where steps are queued, in one round trip, whatever else their records hold.

        Args:
            steps: (run, step) pairs.

        Returns:
            For each the agent that it is up to now, its run's priority and tenant; empty where there is no such step.
        """
        pipe = self.client.pipeline(transaction=False)
        for run_id, step in steps:
            pipe.hmget(keys.run(run_id), f"step:{step}", "priority", "tenant")
        found = cast("list[list[bytes | None]]", pipe.execute())
        return [
            (
                str(json.loads(record)["agent"]) if record else "",
                cast("Priority", (priority or b"").decode()),
                (tenant or b"").decode(),
            )
            for record, priority, tenant in found
        ]

    def holder_of(self, run_id: str, step: str) -> tuple[str, str]:
        """Return the agent a step is up to now, and the fence of its last attempt; empty where there is none."""
        record = cast("bytes | None", self.client.hget(keys.run(run_id), f"step:{step}"))
        facts = json.loads(record) if record else {}
        return str(facts.get("agent", "")), str(facts.get("fence") or "")


def _left(run_id: str, reply: list[bytes]) -> RunState | None:
    if not reply:
        return None
    status, flow, priority, tenant, budgets, *records = reply
    steps = [
        {**json.loads(record), "name": name.decode()} for name, record in zip(records[::2], records[1::2], strict=True)
    ]
    told = {"status": status, "flow": flow, "priority": priority, "tenant": tenant}
    state = {"id": run_id, **{name: value.decode() for name, value in told.items()}, "steps": steps}
    state["budgets"] = json.loads(budgets or b"[]")
    untold = {"tags": {}, "created_ms": 0, "deadline_ms": 0, "retention_ms": 0}
    try:
        return RunState.model_validate({**state, **untold})
    except ValidationError as error:
        # A newer version's, while workers are replaced one by one: it must not hold up the runs beside it.
        logger.error("run %s: cannot be read, and not be published: %s", run_id, error)  # noqa: TRY400
        return None


_Entries = list[tuple[bytes, dict[bytes, bytes]]]


def _events(entries: _Entries) -> list[Event]:
    return list(_decoded(entries))


def _decoded(entries: _Entries) -> Iterator[Event]:
    for entry_id, fields in entries:
        yield Event.from_stream(entry_id.decode(), {key.decode(): text.decode() for key, text in fields.items()})
