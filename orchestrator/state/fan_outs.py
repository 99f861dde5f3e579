"""The store of fan-outs: work that a step gives to others, and what comes of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, cast

from redis.exceptions import NoScriptError

from orchestrator.errors import TooManySteps
from orchestrator.messages import MAX_STEPS, FanOut, StepState
from orchestrator.state import keys
from orchestrator.state.reading import milliseconds
from orchestrator.state.runs import NOTHING_SPENT, Change, changed
from orchestrator.state.text import shorten

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from redis import Redis

    from orchestrator.messages import Member, Terms
    from orchestrator.state.runs import Begun, RunStore, Spent

CHUNK: Final = 200
"""Members in one event, and in one call that stores what they take or reads what they gave."""


class FanOuts:
    """
    Fan-outs in Redis.

    Args:
        store: of the runs they belong to.
    """

    def __init__(self, store: RunStore) -> None:
        self._store, self._scripts = store, store.scripts
        self._client: Redis = store.client
        self._dispatch_ms = milliseconds(store.settings.dispatch_timeout)

    def load(self, run_id: str, name: str) -> FanOut | None:
        """Return a fan-out by the step where its members come together; None: no work was given out yet."""
        found = cast("bytes | None", self._client.hget(keys.run(run_id), f"fan:{name}"))
        return None if found is None else FanOut.model_validate_json(found)

    def delegate(
        self,
        begun: Begun,
        fan: str,
        members: Sequence[Member],
        terms: Terms,
        value: bytes,
        spent: Spent = NOTHING_SPENT,
    ) -> Change:
        """
        Commit a step whose output is work for others. What they take is stored before, in slices.

        Args:
            begun: the attempt.
            fan: the step where they come together: the next one, or for another round the step itself.
            members: in the order in which they begin.
            terms: when they come together.
            value: the output, JSON.
            spent: what the attempt has used.

        Returns:
            delegated; stale or closed: nothing was committed.

        Raises:
            PayloadTooLarge: the output, or what a member takes, is over the maximum.
            TooManySteps: with them the run would have more than it may have.
        """
        run_id, step = begun.run_id, begun.step
        self._store.payloads.check(f"the output of {step.name!r}", value)
        for member in members:
            self._store.payloads.check(f"the input of {member.steps[0].name!r}", member.value)
        values = {
            _taken(member): self._store.payloads.put(
                run_id, f"{_taken(member)}-{begun.fence}", member.value, ttl_ms=begun.ttl_ms
            )
            for member in members
            if not member.fault
        }
        if not self._stage(begun, values):
            members = ()  # the step is not ours: the script says why, or that the same call was made before
        name = f"{step.name}@{step.begins}"
        stored = self._store.payloads.put(run_id, f"{name}-{begun.fence}", value, ttl_ms=begun.ttl_ms)
        records = [text for number, member in enumerate(members) for text in _records(number, members, member)]
        reply = self._scripts.delegate(
            run_id,
            step.name,
            fence=begun.fence,
            name=name,
            value=stored,
            fan=fan,
            facts=json.dumps(_facts(members, terms)),
            dispatch_ms=self._dispatch_ms,
            tokens=spent[0],
            cost=spent[1],
            chunk=CHUNK,
            most=MAX_STEPS,
            members=records,
        )
        change = changed(reply)
        if change.what in {"stale", "closed", "crowded"}:
            self._store.payloads.drop(run_id, stored, *values.values())
        if change.what == "crowded":
            raise TooManySteps(int(change.step), len(records) // 2, MAX_STEPS)
        return change

    def _stage(self, begun: Begun, values: Mapping[str, bytes]) -> bool:
        """Store what members take, by name; False: the step is not ours any more."""
        listed = [part for pair in values.items() for part in pair]

        def send() -> list[int]:
            pipe = self._client.pipeline(transaction=False)
            for start in range(0, len(listed), 2 * CHUNK):
                part = listed[start : start + 2 * CHUNK]
                self._scripts.stage(begun.run_id, begun.step.name, fence=begun.fence, values=part, pipe=pipe)
            return cast("list[int]", pipe.execute())

        try:
            return all(send()) if values else True
        except NoScriptError:
            # A server that restarted under a pipeline knows no script when redis-py sends the pipeline again.
            return all(send())

    def gather(self, run_id: str, fan: FanOut) -> Iterator[tuple[StepState, bytes | None]]:
        """
        Give all members in the order in which they were given out: their first steps, and what they gave.

        Raises:
            WrongState: an answer's claim check leads nowhere.
        """
        following = fan.first or ""
        while following:
            reply = self._scripts.gather(run_id, first=following, limit=CHUNK)
            following = reply[0].decode()
            for name, record, answer in zip(reply[1::3], reply[2::3], reply[3::3], strict=True):
                step = StepState.model_validate({**json.loads(record), "name": name.decode()})
                yield step, self._store.payloads.get(run_id, answer) if answer else None

    def results(self, run_id: str, fan: FanOut, task: bytes, *, last: bool) -> bytes:
        """
        Return what the step that joins a fan-out takes, JSON.

        Args:
            task: what the boss took.
            last: whether no other round may follow.

        Raises:
            WrongState: an answer's claim check leads nowhere.
        """
        outcomes = b",".join(_outcome(step, answer) for step, answer in self.gather(run_id, fan))
        facts = json.dumps({"round": fan.round, "last": last})[1:-1].encode()
        return b'{"task":' + task + b"," + facts + b',"outcomes":[' + outcomes + b"]}"

    def first(self, run_id: str, step: str) -> StepState:
        """Return one step: the first of a member, or of what a blackboard's source does."""
        _, name, record, *_ = self._scripts.gather(run_id, first=step, limit=1)
        return StepState.model_validate({**json.loads(record), "name": name.decode()})

    def join(self, run_id: str, name: str) -> Change:
        """Let members come together as they are, where their time is over. Returns `joined`, `early` or `closed`."""
        return changed(self._scripts.join(run_id, name, dispatch_ms=self._dispatch_ms))


def _outcome(step: StepState, answer: bytes | None) -> bytes:
    facts: dict[str, Any] = {
        "worker": step.specialist,
        "step": step.name,
        "status": step.outcome or "late",
        "reason": step.fault or "",
        "accepted": step.accepted,
        "label": step.label,
        "weight": step.weight / 1000,
        "round": step.round,
    }
    return json.dumps(facts)[:-1].encode() + b',"value":' + (answer if answer is not None else b"null") + b"}"


def _taken(member: Member) -> str:
    return f"{member.steps[0].name}<"


def _facts(members: Sequence[Member], terms: Terms) -> dict[str, Any]:
    refused = [member for member in members if member.fault]
    facts: dict[str, Any] = {
        "need": terms.need,
        "share": terms.share,
        "accept": terms.accept,
        "otherwise": terms.otherwise,
        "width": terms.width,
        "size": len(members),
        "weight": sum(member.steps[0].weight for member in members),
        "failed": len(refused),
        "bad_weight": sum(member.steps[0].weight for member in refused),
    }
    if terms.within is not None:
        facts["within_ms"] = milliseconds(terms.within)
    if refused:
        facts["fault"] = f"{refused[0].steps[0].name}: {shorten(refused[0].fault)}"
    if members:
        facts |= {"first": members[0].steps[0].name, "last": members[-1].steps[0].name}
    return facts


def _records(number: int, members: Sequence[Member], member: Member) -> Iterator[str]:
    """Give the names and the records of a member's steps, by turns."""
    following = members[number + 1].steps[0].name if number + 1 < len(members) else None
    for step in member.steps:
        record: dict[str, Any] = {"status": "pending", **step.model_dump(exclude_defaults=True)}
        name = str(record.pop("name"))
        if step.member == name:
            if following is not None:
                record["after"] = following
            if member.fault:
                reason = shorten(member.fault)
                record |= {"status": "failed", "reason": reason, "outcome": "failed", "fault": reason}
            else:
                record["input"] = _taken(member)
        elif member.fault:
            record["status"] = "cancelled"
        yield name
        yield json.dumps(record)
