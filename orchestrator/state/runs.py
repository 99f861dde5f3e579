"""The store of runs: everything that reads or changes a run goes through here."""

from __future__ import annotations

import json
import logging
import random
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import groupby
from secrets import token_hex
from typing import TYPE_CHECKING, Final, Literal, cast

from redis.exceptions import NoScriptError, ResponseError

from orchestrator.errors import LeaseLost, WrongState
from orchestrator.messages import RunBudget, StepState
from orchestrator.state import keys
from orchestrator.state.reading import RunReader, milliseconds
from orchestrator.state.text import bounded, shorten

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from redis import Redis
    from redis.client import Pipeline

    from orchestrator.messages import Choice, PlanStep, Priority
    from orchestrator.settings import Settings
    from orchestrator.state.scripts import Held, Renewal

logger = logging.getLogger(__name__)

Spent = tuple[int, float]
"""Tokens and cost."""
Verdict = Literal["complete", "answer", "partial", "revise", "fallback", "wait"]
NOTHING_SPENT: Final[Spent] = (0, 0.0)
LONGEST_REDISPATCH_MS: Final = 300_000
DUE_LIMIT: Final = 500
MAX_EFFECTS: Final = 1000
RENEW_BATCH: Final = 100


@dataclass(frozen=True, kw_only=True)
class Submission:
    """
    What is to be run. `refused` gives the reason where the run is only recorded as failed.

    `value` is the input as JSON; `deadline` and `retention` are seconds, from now and from the end.
    """

    flow: str
    plan: tuple[PlanStep, ...]
    value: bytes
    deadline: float
    retention: float
    key: str | None = None
    priority: Priority = "normal"
    tenant: str = "default"
    tags: Mapping[str, str]
    refused: str = ""
    parent: str | None = None
    parent_step: str | None = None
    budget: RunBudget | None = None


What = Literal["created", "existing", "conflict", "closed", "no parent"]


@dataclass(frozen=True)
class Submitted:
    """
    Which run a submission led to: a new one, the one its key had made before, or one its key belongs to.

    `closed`: none, the run that was to be its parent has ended; `no parent`: there is no such run. `ready`: the steps
    of a new one that are to be published.
    """

    run_id: str
    what: What
    ready: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Begun:
    """
    A step that may execute: its lease is ours until it is lost.

    Attributes:
        value: what it takes, JSON; empty where that cannot be read, and `fault` says why.
        remaining: seconds until it, or its run, must be done.
        useful: seconds in which its output is of use: a member's is not when its fan-out has come together.
    """

    run_id: str
    step: StepState
    fence: str
    value: bytes
    draft: bytes | None
    flow: str
    tenant: str
    tags: dict[str, str]
    priority: Priority
    budgets: tuple[RunBudget, ...]
    remaining: float
    useful: float
    ttl_ms: int
    fault: str = ""

    def effect_field(self, name: str) -> str:
        """Return where the result of a sub-step is kept: for all attempts of the step at this revision."""
        step = self.step
        return f"once:{step.known_as}:{step.revision}{f'+{step.rung}' if step.degraded else ''}:{name}"


@dataclass(frozen=True)
class Refused:
    """Why a delivered step does not execute: gone, closed, done, held, early or moved."""

    why: str


@dataclass(frozen=True)
class Change:
    """
    What a change of a run led to.

    Attributes:
        what: `next`, `finished`, `again`, `waiting`, ...: see the scripts.
        step: which one it is about.
        ready: the steps that are to be published now, each with its agent; not part of what makes two changes equal,
            as the reply to the same call sent again has none.
    """

    what: str
    step: str = ""
    ready: tuple[tuple[str, str], ...] = field(default=(), compare=False)

    @property
    def to_publish(self) -> list[str]:
        """The steps that are to be published, or may have to be: the reply to an earlier such change may be lost."""
        names = [step for step, _ in self.ready]
        return names or ([self.step] if self.what in {"next", "again"} else [])


@dataclass(frozen=True)
class Due:
    """What one shard's caretaker has to look at in each round: (run, step) pairs."""

    lost: list[tuple[str, str | None]]
    overdue: list[tuple[str, str | None]]


def changed(reply: list[bytes]) -> Change:
    """Read the reply of a script that may make steps ready."""
    what, step, *ready = reply
    return Change(what.decode(), step.decode(), ready_steps(ready))


def ready_steps(reply: Sequence[bytes]) -> tuple[tuple[str, str], ...]:
    """Read the end of such a reply: the steps that are ready, and their agents, by turns."""
    parts = [part.decode() for part in reply]
    return tuple(zip(parts[::2], parts[1::2], strict=True))


def _each_of(steps: Sequence[tuple[str, str]], pipe: Pipeline) -> list[str]:
    """Return what a script has replied for each step: one whose run cannot be handled must not hold up the others."""
    outcomes = []
    for (run_id, step), reply in zip(steps, cast("list[object]", pipe.execute(raise_on_error=False)), strict=True):
        if type(reply) is ResponseError:  # a script's own; the server's are of its subclasses
            logger.error("run %s step %s: cannot be handled: %s", run_id, step, reply)
        elif isinstance(reply, Exception):
            raise reply
        outcomes.append(reply.decode() if isinstance(reply, bytes) else "broken")
    return outcomes


def is_given(name: str) -> bool:
    """Tell whether a value is what somebody gave a run as its input, or its redriven step; no step's output."""
    # Outputs have the number of their attempt behind an @.
    return name == "input" or (name.startswith("input-") and "@" not in name)


def _members(found: Iterable[bytes]) -> list[tuple[str, str | None]]:
    return [keys.split_member(entry.decode()) for entry in found]


class RunStore(RunReader):
    """
    Runs in Redis.

    Args:
        client: replies as bytes.
        settings: shards, lease, limits.
    """

    def __init__(self, client: Redis, settings: Settings) -> None:
        super().__init__(client, settings)
        self._dispatch_ms = milliseconds(settings.dispatch_timeout)
        self._lease_ms = milliseconds(settings.lease)

    # Submitting

    def submit(self, submissions: Sequence[Submission]) -> list[Submitted]:
        """
        Create runs, all in one round trip (two where there are keys); each alone is atomic.

        The inputs' sizes were checked before.
        """
        ids = [keys.new_run_id(self.settings.shards, one.key, one.tenant, one.parent) for one in submissions]
        holders = self._holders(ids, submissions)
        sent: list[tuple[str, bytes]] = []
        for run_id, submission in zip(ids, submissions, strict=True):
            kept = max(submission.retention, self.settings.dead_retention)
            ttl_ms = milliseconds(submission.deadline) + milliseconds(kept)
            sent.append((run_id, self.payloads.put(run_id, "input", submission.value, ttl_ms=ttl_ms)))
        try:
            replies = self._send(holders, submissions, sent)
        except NoScriptError:
            # A server that restarted under a pipeline knows no script when redis-py sends the pipeline again.
            replies = self._send(holders, submissions, sent)
        return [self._submitted(*one, reply) for one, reply in zip(sent, replies, strict=True)]

    def _send(
        self, holders: Sequence[str], submissions: Sequence[Submission], sent: Sequence[tuple[str, bytes]]
    ) -> list[list[bytes]]:
        pipe = self.client.pipeline(transaction=False) if len(submissions) > 1 else None
        replies = [
            self._submit(run_id, holder, submission, stored, pipe)
            for (run_id, stored), holder, submission in zip(sent, holders, submissions, strict=True)
        ]
        return replies if pipe is None else cast("list[list[bytes]]", pipe.execute())

    def _holders(self, ids: Sequence[str], submissions: Sequence[Submission]) -> list[str]:
        """Return the runs that the keys belong to now; where there is no key, or nobody has it, the new run."""
        if all(one.key is None for one in submissions):
            return list(ids)
        pipe = self.client.pipeline(transaction=False)
        for run_id, one in zip(ids, submissions, strict=True):
            pipe.get(keys.idempotency(run_id, one.tenant, one.key or ""))
        records = cast("list[bytes | None]", pipe.execute())
        return [record.split()[0].decode() if record else run_id for run_id, record in zip(ids, records, strict=True)]

    def _submitted(self, run_id: str, stored: bytes, reply: list[bytes]) -> Submitted:
        what, found, *ready = (part.decode() for part in reply)
        if found == run_id:
            # Also where the first reply was lost and the call was sent again: who else would know this id? Then what is
            # ready is not told; its dispatch deadline brings it on.
            return Submitted(run_id, "created", tuple(ready[::2]))
        self.payloads.drop(run_id, stored)
        return Submitted(found, cast("What", what))

    def _submit(
        self, run_id: str, holder: str, submission: Submission, stored: bytes, pipe: Pipeline | None
    ) -> list[bytes]:
        facts: dict[str, object] = {
            "flow": submission.flow,
            "tenant": submission.tenant,
            "priority": submission.priority,
            "tags": dict(submission.tags),
        }
        if submission.key is not None:
            facts["key"] = submission.key
        if submission.parent_step is not None:
            facts["parent_step"] = submission.parent_step
        if submission.budget is not None:
            facts["budget"] = submission.budget.model_dump(exclude_none=True)
        if submission.plan:
            facts["steps"] = [step.model_dump(exclude_defaults=True) for step in submission.plan]
        digest = ""
        if submission.key is not None:
            digest = sha256(submission.flow.encode() + b"\0" + submission.value).hexdigest()
        return self.scripts.submit(
            run_id,
            keys.idempotency(run_id, submission.tenant, submission.key or ""),
            holder,
            submission.parent or run_id,
            plan=json.dumps(facts),
            value=stored,
            deadline_ms=milliseconds(submission.deadline),
            retention_ms=milliseconds(submission.retention),
            dispatch_ms=self._dispatch_ms,
            refused=shorten(submission.refused),
            digest=digest,
            dead_ms=milliseconds(self.settings.dead_retention),
            pipe=pipe,
        )

    # The life of a step

    def begin(self, run_id: str, step: str, *, agent: str, nonce: str, worker: str) -> Begun | Refused:
        """
        Take a step's lease, in one round trip (two where its input is behind a claim check).

        Args:
            run_id: the run.
            step: its step.
            agent: who asks; after a fallback the step is another's.
            nonce: random; a repeated call with the same one gets the same answer.
            worker: for people to read.
        """
        reply = self.scripts.begin(
            run_id,
            step,
            agent=agent,
            nonce=nonce,
            lease_ms=self._lease_ms,
            worker=worker,
            dispatch_ms=self._dispatch_ms,
        )
        if reply[0] != b"execute":
            return Refused(reply[0].decode())
        record, value, draft, flow, tenant, tags, deadline_ms, now_ms, keep_ms, priority, budgets, joined_ms = reply[1:]
        state = StepState.model_validate({"name": step, **json.loads(record)})
        run_left_ms = int(deadline_ms) - int(now_ms)
        left_ms = run_left_ms if state.until_ms is None else min(run_left_ms, state.until_ms - int(now_ms))
        given, revised, fault = b"", None, ""
        try:
            given = self.payloads.get(run_id, value)
            revised = self.payloads.get(run_id, draft) if draft else None
        except WrongState as error:
            fault = str(error.args[1])
        return Begun(
            run_id=run_id,
            step=state,
            fence=state.fence or "",
            value=given,
            draft=revised,
            flow=flow.decode(),
            tenant=tenant.decode(),
            tags=json.loads(tags),
            priority=cast("Priority", priority.decode()),
            budgets=tuple(RunBudget.model_validate(one) for one in json.loads(budgets) or ()),
            remaining=left_ms / 1000,
            useful=min(left_ms, float(joined_ms) - int(now_ms)) / 1000 if joined_ms else left_ms / 1000,
            ttl_ms=run_left_ms + int(keep_ms),
            fault=fault,
        )

    def renew(self, leases: Sequence[Held], spent: Sequence[Spent] = ()) -> list[Renewal]:
        """
        Extend leases in one round trip: a script for every RENEW_BATCH of a shard, so that none keeps Redis long.

        Args:
            leases: of attempts under way.
            spent: what each has used so far, which counts should its worker die; nothing unless given.
        """
        used = spent or [NOTHING_SPENT] * len(leases)
        by_shard = sorted(range(len(leases)), key=lambda number: keys.shard_of(leases[number][0]))
        pipe = self.client.pipeline(transaction=False)
        for shard, numbers in groupby(by_shard, key=lambda number: keys.shard_of(leases[number][0])):
            of_shard = list(numbers)
            for start in range(0, len(of_shard), RENEW_BATCH):
                some = of_shard[start : start + RENEW_BATCH]
                held, told = [leases[number] for number in some], [used[number] for number in some]
                self.scripts.renew(shard, held, told, lease_ms=self._lease_ms, pipe=pipe)
        replies = (cast("Renewal", reply.decode()) for replies in pipe.execute() for reply in replies)
        renewed = dict(zip(by_shard, replies, strict=True))
        return [renewed[number] for number in range(len(leases))]

    def commit(
        self,
        begun: Begun,
        value: bytes,
        verdict: Verdict = "complete",
        details: Mapping[str, object] | None = None,
        spent: Spent = NOTHING_SPENT,
    ) -> Change:
        """
        Record a step's output and make ready what follows, in one round trip.

        Args:
            begun: the attempt.
            value: its output, JSON.
            verdict: the gate's.
            details: what the verdict needs: see commit.lua.
            spent: what the attempt has used.

        Returns:
            next, joins, finished, again or waiting; late: recorded, and of no use to its fan-out any more; stale or
            closed: nothing was written.

        Raises:
            PayloadTooLarge: the output is over the maximum.
        """
        self.payloads.check(f"the output of {begun.step.name!r}", value)
        name = f"{begun.step.name}@{begun.step.begins}"
        stored = self.payloads.put(begun.run_id, f"{name}-{begun.fence}", value, ttl_ms=begun.ttl_ms)
        said = {key: bounded(fact) if isinstance(fact, str) else fact for key, fact in (details or {}).items()}
        reply = self.scripts.commit(
            begun.run_id,
            begun.step.name,
            fence=begun.fence,
            name=name,
            value=stored,
            verdict=verdict,
            details=json.dumps(said),
            dispatch_ms=self._dispatch_ms,
            tokens=spent[0],
            cost=spent[1],
        )
        committed = changed(reply)
        if committed.what in {"stale", "closed"}:
            self.payloads.drop(begun.run_id, stored)
        return committed

    def recall(self, begun: Begun, name: str) -> bytes | None:
        """Return the recorded result of a step's sub-step, or None. One round trip, two behind a claim check."""
        stored = cast("bytes | None", self.client.hget(keys.data(begun.run_id), begun.effect_field(name)))
        return None if stored is None else self.payloads.get(begun.run_id, stored)

    def record(self, begun: Begun, name: str, value: bytes) -> bytes:
        """
        Keep the result of a sub-step. What was recorded first stands.

        Returns:
            The recorded result.

        Raises:
            LeaseLost: the step is another's, or the run has ended; nothing was written.
            PayloadTooLarge: the result is over the maximum.
            WrongState: the step has MAX_EFFECTS already.
        """
        self.payloads.check(f"the result of {name!r} in {begun.step.name!r}", value)
        field = begun.effect_field(name)
        stored = self.payloads.put(begun.run_id, f"{field}-{begun.fence}-{token_hex(4)}", value, ttl_ms=begun.ttl_ms)
        what, found = self.scripts.record(
            begun.run_id, begun.step.name, fence=begun.fence, name=name, field=field, value=stored, limit=MAX_EFFECTS
        )
        if what == b"recorded" or found == stored:
            return value
        self.payloads.drop(begun.run_id, stored)
        if what == b"known":
            return self.payloads.get(begun.run_id, found)
        if what == b"full":
            raise WrongState(begun.run_id, f"step {begun.step.name!r} has recorded {MAX_EFFECTS} results, no more fit")
        raise LeaseLost(begun.run_id, begun.step.name)

    def spend(self, begun: Begun, spent: Spent) -> None:
        """Count what an attempt has used whose step was closed meanwhile; once, and for no other attempt."""
        tokens, cost = spent
        self.scripts.spend(begun.run_id, begun.step.name, fence=begun.fence, tokens=tokens, cost=cost)

    def fail(self, begun: Begun, reason: str, *, late: bool = False, spent: Spent = NOTHING_SPENT) -> Change:
        """
        Fail a step, and its run, which becomes a dead letter, or the fan-out's member that it is part of.

        Args:
            begun: the attempt.
            reason: why.
            late: whether its time was over.
            spent: what the attempt has used.

        Returns:
            failed; undoing: the run is undone before; stale or closed: nothing was written.
        """
        return self._fail(begun.run_id, begun.step.name, begun.fence, reason, "deadline" if late else "failed", spent)

    def _fail(self, run_id: str, step: str, fence: str, reason: str, kind: str, spent: Spent) -> Change:
        reply = self.scripts.fail(
            run_id,
            step,
            fence=fence,
            reason=shorten(reason),
            kind=kind,
            dispatch_ms=self._dispatch_ms,
            tokens=spent[0],
            cost=spent[1],
        )
        return changed(reply)

    def postpone(
        self,
        begun: Begun,
        delay: float,
        why: str,
        *,
        counts: bool = True,
        total: float | None = None,
        spent: Spent = NOTHING_SPENT,
    ) -> str:
        """
        Give a step back that is to run again later; a timer brings it, no worker waits.

        Args:
            begun: the attempt.
            delay: seconds.
            why: for people to read.
            counts: whether this was an attempt.
            total: seconds from when the step was first ready, after which it does not begin again.
            spent: what the attempt has used.

        Returns:
            delayed; late: there is no time left for it, nothing was written; stale or closed likewise.
        """
        return self.scripts.postpone(
            begun.run_id,
            begun.step.name,
            fence=begun.fence,
            delay_ms=max(0, round(delay * 1000)),
            why=shorten(why),
            counts=counts,
            total_ms=0 if total is None else milliseconds(total),
            tokens=spent[0],
            cost=spent[1],
        ).decode()

    def degrade(self, begun: Begun, agent: str, reason: str, *, rung: int, spent: Spent = NOTHING_SPENT) -> Change:
        """
        Give a step that failed to another agent.

        Args:
            begun: the attempt.
            agent: who takes it, with the input it had.
            reason: why.
            rung: how many of its agent's fallbacks are used up with this one.
            spent: what the attempt has used.

        Returns:
            again: it is ready; stale or closed: nothing was written.
        """
        reply = self.scripts.degrade(
            begun.run_id,
            begun.step.name,
            fence=begun.fence,
            agent=agent,
            reason=shorten(reason),
            rung=rung,
            dispatch_ms=self._dispatch_ms,
            tokens=spent[0],
            cost=spent[1],
        )
        return changed(reply)

    # From outside

    def decide(self, run_id: str, step: str, choice: Choice | None, *, by: str, note: str = "") -> Change:
        """Settle a waiting gate; without a choice its default, where its time has come."""
        return changed(
            self.scripts.decide(
                run_id, step, choice=choice or "", by=shorten(by), note=shorten(note), dispatch_ms=self._dispatch_ms
            )
        )

    def cancel(self, run_id: str, *, reason: str, by: str) -> Change:
        """Cancel a run. Returns `cancelled`, `undoing`, `closed` (it has ended) or `gone`."""
        return changed(
            self.scripts.cancel(
                run_id, status="cancelled", reason=shorten(reason), by=shorten(by), dispatch_ms=self._dispatch_ms
            )
        )

    def orphan(self, run_id: str, parent: str) -> Change:
        """
        Cancel a child whose parent, or the step that started it, has ended.

        Asked for again by that parent, redriven, it is begun anew.

        Returns:
            cancelled, undoing, gone, or closed: it has ended, or its parent goes on.
        """
        return changed(
            self.scripts.cancel(
                run_id,
                status="orphaned",
                reason=f"its parent, run {parent}, has ended, or goes on without it",
                by="parent",
                dispatch_ms=self._dispatch_ms,
            )
        )

    def redrive(self, run_id: str, *, step: str, value: bytes | None, agent: str, deadline: float, by: str) -> Change:
        """
        Let a failed run go on from a step.

        Args:
            run_id: the run.
            step: which one; empty: the first that is not done, or was undone.
            value: a new input for it, JSON; None: what it had.
            agent: who is to take it; empty: its own.
            deadline: seconds from now.
            by: who asks.

        Returns:
            redriven, not failed, no step, member (it goes with its fan-out), elsewhere (the run does not go on where it
            failed, and what is given is for a step without name), undone (a step before it), no input, orphan or gone;
            and the step.

        Raises:
            PayloadTooLarge: the input is over the maximum.
        """
        name, stored = "", b""
        if value is not None:
            self.payloads.check("the input", value)
            ttl_ms = milliseconds(deadline) + milliseconds(max(self.settings.retention, self.settings.dead_retention))
            name = f"input-{token_hex(4)}"
            stored = self.payloads.put(run_id, name, value, ttl_ms=ttl_ms)
        reply = self.scripts.redrive(
            run_id,
            step,
            name=name,
            value=stored,
            agent=agent,
            deadline_ms=milliseconds(deadline),
            by=shorten(by),
            dispatch_ms=self._dispatch_ms,
        )
        change = changed(reply)
        if change.what != "redriven" and value is not None:
            self.payloads.drop(run_id, stored)
        return change

    def drop(self, run_id: str, *, by: str) -> str:
        """Give a dead letter up. Returns `dropped`, or `closed`: it is none."""
        return self.scripts.drop(run_id, by=shorten(by)).decode()

    # The caretaker's

    def due(self, shards: Sequence[str]) -> list[Due]:
        """Return what is due in each shard beside timers, in one round trip."""
        pipe = self.client.pipeline(transaction=False)
        for shard in shards:
            self.scripts.due(shard, limit=DUE_LIMIT, pipe=pipe)
        return [Due(*(_members(found) for found in reply)) for reply in pipe.execute()]

    def timers(self, shards: Sequence[str]) -> list[tuple[str, str | None]]:
        """
        Return the timers that are due in all shards, in one round trip.

        They are (run, step) pairs: without a step it is the run's deadline; a step with a slash in front must be done
        by now; two slashes, a fan-out's members come together; a slash alone: the run's children are to be ended.
        """
        pipe = self.client.pipeline(transaction=False)
        for shard in shards:
            self.scripts.timers(shard, limit=DUE_LIMIT, pipe=pipe)
        return [entry for reply in pipe.execute() for entry in _members(reply)]

    def wake(self, steps: Sequence[tuple[str, str]], *, turn: bool = False) -> list[str]:
        """
        Make delayed steps ready, in one round trip.

        Args:
            steps: (run, step) pairs.
            turn: whether they may go on before their timers ring.

        Returns:
            For each: ready (publish it), early, waiting (for a decision), busy (ready or running), closed or broken.
        """
        pipe = self.client.pipeline(transaction=False)
        for run_id, step in steps:
            self.scripts.wake(run_id, step, turn=turn, dispatch_ms=self._dispatch_ms, pipe=pipe)
        return _each_of(steps, pipe)

    def overrun(self, run_id: str, step: str) -> Change:
        """Fail a step that is not done in time. Returns `failed`, `undoing`, `early` or `closed`."""
        return self._fail(run_id, step, "", "not done in the time it has", "deadline", NOTHING_SPENT)

    def leave(self, run_id: str) -> None:
        """Note that a run's children have been ended."""
        self.client.zrem(keys.timers(keys.shard_of(run_id)), keys.member(run_id, "/"))

    def lost(self, run_id: str, step: str) -> Change:
        """
        Take back a step whose lease expired.

        Returns:
            ready, delayed, failed, undoing, held or closed.
        """
        reply = self.scripts.lost(
            run_id,
            step,
            max_attempts=self.settings.max_attempts,
            dispatch_ms=self._dispatch_ms,
            # Longer than it takes to renew a lease, so that bystanders that come back sooner are seen to live.
            pause_ms=self._lease_ms,
            jitter=random.random(),  # noqa: S311  of a pause
            lease_ms=self._lease_ms,
        )
        return changed(reply)

    def redispatch(self, steps: Sequence[tuple[str, str]], *, queue_is_empty: Sequence[bool]) -> list[str]:
        """
        Look at ready steps nobody has begun in time, in one round trip.

        Args:
            steps: (run, step) pairs.
            queue_is_empty: for each, whether its lane of its agent's queue holds no message.

        Returns:
            For each: publish, wait (longer; a backlog is no loss), closed or broken.
        """
        pipe = self.client.pipeline(transaction=False)
        for (run_id, step), empty in zip(steps, queue_is_empty, strict=True):
            self.scripts.redispatch(
                run_id, step, empty=empty, dispatch_ms=self._dispatch_ms, longest_ms=LONGEST_REDISPATCH_MS, pipe=pipe
            )
        return _each_of(steps, pipe)

    def expire(self, run_id: str) -> Change:
        """Fail a run whose deadline has passed. Returns `cancelled`, `undoing`, `early`, `closed` or `gone`."""
        reason = "the run's deadline passed before it was done"
        return changed(
            self.scripts.cancel(run_id, status="failed", reason=reason, by="", dispatch_ms=self._dispatch_ms)
        )

    def lead(self, owner: str, ttl: float) -> bool:
        """Become or stay the caretaker for `ttl` seconds; 0 gives the role up. Returns whether we are it."""
        return self.scripts.lead(owner, round(ttl * 1000))
