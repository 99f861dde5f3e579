"""Submit runs, watch them, decide at their gates, fetch their results."""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Mapping
from functools import cached_property, partial
from secrets import token_hex
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast, get_args

from kombu.exceptions import OperationalError
from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError
from redis.exceptions import RedisError

from orchestrator.agent import agents, from_json, load_agents, to_json
from orchestrator.board.handle import Board
from orchestrator.board.post import RedisPost
from orchestrator.broker import producer_app
from orchestrator.conversation.outside import say
from orchestrator.conversation.transcript import lines
from orchestrator.errors import (
    InvalidInput,
    InvalidPolicy,
    KeyConflict,
    RunCancelled,
    RunFailed,
    RunNotFound,
    UnknownFlow,
    WrongState,
)
from orchestrator.messages import Choice, DeadLetter, Priority, RunBudget, RunStatus
from orchestrator.patterns.blackboard import Blackboard
from orchestrator.patterns.canvas import publish_many
from orchestrator.patterns.conversation import Conversation
from orchestrator.patterns.flow import flows, planner_of
from orchestrator.resilience.budget import Budget
from orchestrator.settings import get_settings
from orchestrator.state import keys
from orchestrator.state.boards import Author, Boards
from orchestrator.state.connection import connect
from orchestrator.state.conversations import Conversations
from orchestrator.state.fold_board import boards_of, fold_board
from orchestrator.state.guards import Guards
from orchestrator.state.keys import is_run_id
from orchestrator.state.letters import dead_letter, goes_on_at, was_undone
from orchestrator.state.listing import Lists, UnreadableRun
from orchestrator.state.locks import LockKeeper
from orchestrator.state.runs import RunStore, Submission
from orchestrator.state.text import readable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from celery import Celery
    from pydantic import JsonValue
    from redis import Redis

    from orchestrator.conversation.transcript import Line
    from orchestrator.messages import BoardState, Event, RunState
    from orchestrator.patterns.flow import Flow
    from orchestrator.settings import Settings
    from orchestrator.state.runs import Change, Submitted

logger = logging.getLogger(__name__)

Declared = TypeVar("Declared")

MAX_TAGS: Final = 32
MAX_TEXT: Final = 256
MAX_PROBLEMS: Final = 3
MAX_NAMES: Final = 15
WAIT_SLICE: Final = 5.0
MANY_LOOKS: Final = 50
PAUSE: Final = 0.01
BATCH: Final = 100
UNSET: Final = object()
START_OPTIONS: Final = frozenset({"key", "deadline", "priority", "tenant", "tags", "budget"})
ANY: Final = TypeAdapter[Any](Any)  # what a run returned whose flow is not known here


def describe(error: ValidationError) -> str:
    """Say in one line what does not fit, without the input itself."""
    found = [
        f"{'.'.join(str(part) for part in item['loc']) or 'input'}: {item['msg'].removeprefix('Value error, ')}"
        for item in error.errors(include_url=False, include_input=False, include_context=False)
    ]
    more = f" (and {len(found) - MAX_PROBLEMS} more)" if len(found) > MAX_PROBLEMS else ""
    return " ".join("; ".join(found[:MAX_PROBLEMS]).split()) + more


def check_text(what: str, value: object) -> None:
    """
    Refuse what is no short text; a lone surrogate, which JSON can carry, has no place in UTF-8.

    Raises:
        InvalidInput: with what it must be.
    """
    if not isinstance(value, str) or not 0 < len(value) <= MAX_TEXT or readable(value) != value:
        msg = f"{what} must be a text of 1 to {MAX_TEXT} characters, not {value!a:.80}"
        raise InvalidInput(msg)


def _listed(names: Iterable[str]) -> str:
    """Return names as a text of one line, however many there are."""
    found = list(names)
    more = f" and {len(found) - MAX_NAMES} more" if len(found) > MAX_NAMES else ""
    return ", ".join(found[:MAX_NAMES]) + more


def _check_submitted(submission: Submission, submitted: Submitted) -> None:
    """Raise what a refused submission is refused with."""
    if submitted.what == "no parent":
        raise RunNotFound(submitted.run_id)
    if submitted.what == "closed":
        raise WrongState(submitted.run_id, "it has ended, or is about to: it can have no more children")
    if submitted.what == "conflict":
        raise KeyConflict(submission.key or "", submitted.run_id)


def _is_for_another(state: RunState, where: str) -> bool:
    """Tell whether an input without a step is for another than the one where the run goes on: for what failed."""
    failed = state.failure.step if state.failure else None
    step = state.step(where)
    return failed != where if failed else step is not None and step.status == "completed"


def _elsewhere(state: RunState, where: str) -> str:
    """Return why an input or an agent without a step is refused."""
    failed = state.failure.step if state.failure else None
    at = f"it failed at step {failed!r} and" if failed else "it"
    step = state.step(where)
    why = "was undone" if step is not None and was_undone(state, step) else "is not done"
    return (
        f"{at} goes on at {where!r}, which {why}: name the step that another input or agent is for, --step {where}; "
        f"without them all from {where!r} on is done again"
    )


def _foreign_budget(given: object) -> Budget:
    """Build a budget from JSON data."""
    if not isinstance(given, Mapping) or not set(given) <= {"tokens", "cost", "ladder"}:
        msg = f"budget must be an object with tokens, cost, ladder or some of them, not {given!r:.80}"
        raise InvalidInput(msg)
    ladder = given.get("ladder")
    try:
        return Budget(**{**given, **({} if ladder is None else {"ladder": tuple(ladder)})})
    except (InvalidPolicy, TypeError) as error:
        why = error.args[2] if isinstance(error, InvalidPolicy) else str(error)
        msg = f"budget does not fit: {why}"
        raise InvalidInput(msg) from None


class Run:
    """
    One run, by its id; nothing is read before a method is called.

    Attributes:
        id: sorts by time.
    """

    def __init__(self, client: Client, run_id: str) -> None:
        self.id = run_id
        self._client = client

    @property
    def _store(self) -> RunStore:
        # Whatever is asked of a run, a text that is no id is refused before it becomes part of a key.
        if not keys.is_run_id(self.id):
            raise RunNotFound(self.id)
        return self._client.store

    def __repr__(self) -> str:
        return f"<run {self.id}>"

    def state(self) -> RunState:
        """
        Return the run's projection.

        Raises:
            RunNotFound: there is no such run, or its retention has passed.
            RunUnreadable: another version wrote it, or it is broken.
        """
        return self._store.load(self.id)

    def status(self) -> RunStatus:
        """Return the run's status, also of one that cannot be read otherwise."""
        return self._store.status(self.id)

    def events(self) -> list[Event]:
        """Return the run's log, oldest first."""
        found = self._store.events(self.id)
        if not found:
            raise RunNotFound(self.id)
        return found

    def watch(self, timeout: float | None = None) -> Iterator[Event]:
        """
        Give the run's events from its first, as they happen, until it ends.

        Raises:
            RunNotFound: there is no such run.
            TimeoutError: `timeout` seconds have passed and the run has not ended.
        """
        if not self._store.exists(self.id):
            raise RunNotFound(self.id)
        last = "-"
        for wait in self._slices(timeout):
            found = self._store.follow(self.id, last, wait)
            if not found and not self._store.exists(self.id):
                raise RunNotFound(self.id)
            for event in found:
                last = event.id
                yield event
            # A failed run may have been sent on its way again since.
            if any(event.ends_run for event in found) and self._store.head(self.id).finished:
                return

    def _slices(self, timeout: float | None) -> Iterator[float]:
        """Give the seconds to wait, slice by slice."""
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            wait = WAIT_SLICE if until is None else min(WAIT_SLICE, until - time.monotonic())
            if wait <= 0:
                msg = f"run {self.id} has not ended after {timeout:g} s; it goes on: watch it again"
                raise TimeoutError(msg)
            yield wait

    def result(self, timeout: float | None = None) -> Any:  # noqa: ANN401  the flow's output type
        """
        Wait for the run's end and return its output, as the flow's output type where the flow is known here.

        `state().degraded` tells whether a fallback gave some of it. Where `state().partial` is true the run ended with
        what it had, because its budget was used up: JSON data, what the last finished step gave.

        Args:
            timeout: seconds; None waits until the run's deadline at the latest.

        Raises:
            RunFailed: with the reason.
            RunCancelled: with the reason.
            RunNotFound: there is no such run.
            TimeoutError: it has not ended in time; it goes on.
        """
        state = self._store.head(self.id)
        last, looks, waits = "-", 0, self._slices(timeout)
        while not state.finished:
            seen, (last, ended) = last, self._store.wait_for_end(self.id, last, next(waits))
            if ended or seen == last:
                state = self._store.head(self.id)
            elif (looks := looks + 1) > MANY_LOOKS:
                # A fan-out's thousands of events need not be looked at one by one.
                time.sleep(PAUSE)
        if state.status == "failed":
            raise RunFailed(self.id, state.reason or "")
        if state.status == "cancelled":
            raise RunCancelled(self.id, state.reason or "")
        value = self._store.value(self.id, state.output or "")
        if value is None:
            raise RunNotFound(self.id)
        load_agents(self._client.settings.agents)
        # What an earlier step gave is of another type than the flow's.
        flow = None if state.partial else flows().get(state.flow)
        return from_json(flow.output if flow else ANY, value)

    def value(self, name: str) -> Any:  # noqa: ANN401  any JSON
        """Return a stored value as plain JSON data: `input`, or what a step's `input`, `output` or `draft` names."""
        found = self._store.value(self.id, name)
        return None if found is None else json.loads(found)

    def board(self, step: str | None = None, *, by: str = "client") -> Board:
        """
        Return a blackboard of the run, to be read and written from outside; what is written wakes sources, too.

        Args:
            step: its step; unless given, that of the run's only one.
            by: who writes.

        Raises:
            RunNotFound: there is no such run.
            UnknownFlow: the flow, which has the entries' types, is not known here.
            InvalidInput: the run has no such board, or several.
        """
        check_text("by, who writes,", by)
        state = self.state()
        named = [each.name for each in state.steps if each.rules is not None]
        name, found = self._one_of("blackboard", named, step, partial(self._client.blackboard, state.flow))
        author = Author(name=by, writer=f"{by} {token_hex(8)}")
        carry_on = partial(self._client.carry_on, self.id)
        return Board(
            found, RedisPost(self._client.boards, self._client.locks, self.id, name, author, carry_on=carry_on)
        )

    def _one_of(
        self, what: str, named: list[str], step: str | None, find: Callable[[str], Declared | None]
    ) -> tuple[str, Declared]:
        """Return the step that is meant of those of a kind, and how it is declared; InvalidInput: there is none."""
        if step is None and len(named) != 1:
            msg = f"run {self.id} has {f'{what}s {_listed(named)}: name one' if named else f'no {what}'}"
            raise InvalidInput(msg)
        name = step or named[0]
        found = find(name) if name in named else None
        if found is None:
            msg = f"run {self.id} has no {what} {name!r}; it has: {_listed(named) or 'none'}"
            raise InvalidInput(msg)
        return name, found

    def board_at(self, step: str | None = None, *, event: int | None = None) -> BoardState:
        """
        Return what stands on a blackboard of the run, now or after one of its events.

        Args:
            step: its step; unless given, that of the run's first one.
            event: the number of an event in the log, 1 for the first; the last unless given.

        Raises:
            RunNotFound: there is no such run.
            InvalidInput: there is no such event, or no such board was open by then.
        """
        events = self.events()
        named = boards_of(events)
        if event is not None and not 1 <= event <= len(events):
            msg = f"run {self.id} has events 1 to {len(events)}, not {event}"
            raise InvalidInput(msg)
        name = step or next(iter(named), "")
        found = fold_board(name, events if event is None else events[:event])
        if found is None:
            when = "" if event is None else f" by event {event}"
            msg = (
                f"run {self.id}: no blackboard {name!r} was open{when}" if name else f"run {self.id} has no blackboard"
            )
            raise InvalidInput(msg)
        return found

    def transcript(self, step: str | None = None) -> list[Line]:
        """
        Return who said what in the run's conversations.

        Args:
            step: a conversation's; unless given, all of the run's.

        Raises:
            RunNotFound: there is no such run.
        """
        return list(lines(self.events(), self._values, step))

    def follow_transcript(self, step: str | None = None, timeout: float | None = None) -> Iterator[Line]:
        """Give the transcript from its beginning, as it comes, until the run ends; errors as of `watch`."""
        return lines(self.watch(timeout), self._values, step)

    def _values(self, names: list[str]) -> dict[str, JsonValue]:
        return {name: self.value(name) for name in names}

    def say(self, to: str | Sequence[str], body: object, *, by: str, step: str | None = None) -> int:
        """
        Tell members of the run's conversation something, from outside.

        Args:
            to: a member, several, `"#topic"`, or `"*"`.
            body: a model, as the members take them.
            by: who says it.
            step: the conversation's; unless given, that of the run's only one.

        Returns:
            The message's number.

        Raises:
            RunNotFound: there is no such run.
            UnknownFlow: the flow, which has the members' types, is not known here.
            InvalidInput: the run has no such conversation, or several; or a member cannot be told this.
            ConversationClosed: it is not open yet, or has ended.
        """
        check_text("by, who says it,", by)
        state = self.state()
        named = [each.name for each in state.steps if each.converses is not None]
        name, found = self._one_of("conversation", named, step, partial(self._client.conversation, state.flow))
        number, change = say(found, self._client.conversations, self.id, name, to, body, by=by)
        self._client.carry_on(self.id, change)
        return number

    def descendants(self, limit: int = 10_000) -> list[RunState]:
        """Return the runs that this one's steps have submitted, and those that theirs have, at most `limit`."""
        return self._store.descendants(self.id, limit)

    def cancel(self, reason: str = "", *, by: str = "") -> None:
        """
        Cancel the run and its children: queued, delayed and waiting steps end at once, and none begins any more.

        A running step sees it within a third of its lease, and is interrupted after the setting `cancel_grace`. What
        was done and can be undone is undone; until then the run's status is `undoing`.

        Raises:
            RunNotFound: there is no such run.
            WrongState: it has ended.
        """
        change = self._store.cancel(self.id, reason=reason, by=by)
        outcome = change.what
        if outcome == "gone":
            raise RunNotFound(self.id)
        if outcome == "closed":
            status = self.status()
            raise WrongState(
                self.id, "it is being undone" if status == "undoing" else f"it has ended already: {status}"
            )
        self._client.carry_on(self.id, change)
        for child in self._store.children(self.id):
            # At once; should this process die here, a worker's caretaker does it.
            with contextlib.suppress(WrongState, RunNotFound):
                self._client.get(child).cancel(f"its parent, run {self.id}, was cancelled", by=by)

    def approve(self, step: str | None = None, *, by: str, note: str = "") -> None:
        """
        Let the output of a step that waits at its gate pass.

        Args:
            step: which one; None: the one that waits.
            by: who decides.
            note: why.

        Raises:
            RunNotFound: there is no such run.
            WrongState: no step waits, or not this one.
        """
        self._decide("approve", step, by, note)

    def reject(self, step: str | None = None, *, by: str, note: str = "") -> None:
        """Fail the run at the step that waits at its gate; arguments and errors as of `approve`."""
        self._decide("reject", step, by, note)

    def redrive(
        self,
        step: str | None = None,
        *,
        input: object = UNSET,  # noqa: A002  the word of the domain
        agent: str | None = None,
        deadline: float | None = None,
        by: str = "",
    ) -> None:
        """
        Let a failed run go on: what is done stays done, and the rest runs again.

        Args:
            step: from which on; unless given, the first that is not done, or was undone.
            input: another input for that step, JSON data; unless given, the one it had.
            agent: who is to take the step in place of its own. Where the run goes on at another step than it failed at,
                neither of the two goes without `step`.
            deadline: seconds the run may take from now; the setting `run_deadline` unless given.
            by: who asks.

        Raises:
            RunNotFound: there is no such run.
            WrongState: it has not failed, there is no such step, the step has no input, or one before it was undone.
            InvalidInput: the agent is not known, or the input does not fit it.
        """
        state = self.state()
        found = step or goes_on_at(state) or ""
        seconds = self._client.check_deadline(deadline)
        changed = input is not UNSET or agent is not None
        if changed and found and not step and state.status == "failed" and _is_for_another(state, found):
            raise WrongState(self.id, _elsewhere(state, found))
        value = self._redriven_input(state, found, input, agent)
        change = self._store.redrive(self.id, step=step or "", value=value, agent=agent or "", deadline=seconds, by=by)
        what, where = change.what, change.step
        if what == "gone":
            raise RunNotFound(self.id)
        if what != "redriven":
            why = {
                "not failed": f"it has not failed, it is {state.status}",
                "no step": f"it has no step {where!r}",
                "orphan": f"it is a child of run {where}, which has ended: redrive that one",
                "elsewhere": _elsewhere(state, where),
                "undone": f"what was done at step {where!r}, before {step!r}, was undone and is done again first: "
                f"redrive it without a step, or with --step {where}",
                "member": f"step {step!r} belongs to a fan-out, whose assignments that failed run again with {where!r}",
                "no input": f"step {where!r} has no input: what comes before it is not done; start there or give one",
            }[what]
            raise WrongState(self.id, why)
        self._client.carry_on(self.id, change)

    def _redriven_input(self, state: RunState, step: str, given: object, agent: str | None) -> bytes | None:
        load_agents(self._client.settings.agents)
        known, planned = agents(), state.step(step)
        if agent is not None and planned is not None and (planned.rules or planned.converses):
            msg = f"no agent takes step {step!r}: it is a {'blackboard' if planned.rules else 'conversation'}"
            raise InvalidInput(msg)
        if agent is not None and agent not in known:
            msg = f"there is no agent {agent!r} (known: {_listed(known) or 'none'})"
            raise InvalidInput(msg)
        if given is UNSET:
            return None
        name = agent or ((planned.instead_of or planned.agent) if planned else "")
        # What no agent takes is planned by the name of its flow.
        taker = known.get(name) or flows().get(name)
        kind = ANY if taker is None else taker.input
        try:
            return to_json(kind, kind.validate_python(given))
        except ValidationError as error:
            msg = f"the input does not fit step {step!r}: {describe(error)}"
        except PydanticSerializationError as error:
            msg = f"the input cannot be written as JSON: {error}"
        raise InvalidInput(msg)

    def drop(self, *, by: str = "") -> None:
        """
        Give a dead letter up: it is not listed any more, and the run expires like any other.

        Raises:
            RunNotFound: there is no such run.
            WrongState: it is no dead letter.
        """
        # Nothing else of it is read: one that no version at hand can read can be given up all the same.
        status = self.status()
        if self._store.drop(self.id, by=by) == "closed":
            raise WrongState(self.id, f"it is no dead letter, it is {status}")

    def dead_letter(self) -> DeadLetter:
        """
        Return what is needed to decide about a run that failed for good.

        Raises:
            RunNotFound: there is no such run.
            WrongState: it is no dead letter.
        """
        state = self.state()
        if state.failure is None:
            raise WrongState(self.id, f"it is no dead letter, it is {state.status}")
        return dead_letter(state, self.events())

    def _decide(self, choice: Choice, step: str | None, by: str, note: str) -> None:
        check_text("by, who decides,", by)
        if note:
            check_text("note", note)
        state = self.state()
        waiting = [candidate.name for candidate in state.steps if candidate.status == "waiting"]
        if step is None and len(waiting) > 1:
            raise WrongState(self.id, f"steps {_listed(waiting)} wait for a decision; name one of them")
        name = next(iter(waiting), None) if step is None else step
        if name not in waiting:
            what = "no step waits for a decision" if step is None else f"step {step!r} does not wait for a decision"
            raise WrongState(self.id, f"{what}; the run is {state.status}")
        committed = self._store.decide(self.id, name, choice, by=by, note=note)
        if committed.what in {"closed", "not waiting"}:
            raise WrongState(self.id, "somebody else, or the timeout, has just decided")
        self._client.carry_on(self.id, committed)


class Client:
    """
    A producer's and a watcher's view of the runs.

    Args:
        settings: of this process unless given.
        app: the Celery app to publish with; a bare one unless given.
        connection: the state's Redis, replies as bytes; connected by the settings unless given.
    """

    def __init__(
        self, settings: Settings | None = None, *, app: Celery | None = None, connection: Redis | None = None
    ) -> None:
        self.settings = settings or get_settings()
        self._app = app
        self.store = RunStore(connection if connection is not None else connect(self.settings), self.settings)

    @property
    def app(self) -> Celery:
        """The Celery app that publishes; built when first needed, so that reading runs needs no broker."""
        if self._app is None:
            self._app = producer_app(self.settings)
        return self._app

    def submit(
        self,
        flow: Flow | str,
        input: object,  # noqa: A002  the word of the domain
        *,
        key: str | None = None,
        deadline: float | None = None,
        priority: Priority = "normal",
        tenant: str = "default",
        tags: Mapping[str, str] | None = None,
        budget: Budget | None = None,
        parent: str | None = None,
        parent_step: str | None = None,
    ) -> Run:
        """
        Create a run and enqueue its first step.

        Args:
            flow: the flow or its name.
            input: the flow's input model, or plain data that fits it.
            key: an idempotency key: the same key and input give the same run.
            deadline: seconds the run may take in all; the setting `run_deadline` unless given.
            priority: `high`, `normal` or `low`.
            tenant: whose run it is.
            tags: free text by name, at most 32.
            budget: tokens and money that the run and its children may use.
            parent: the run it is a child of: it ends with that one, has at most its time, and draws on its budgets.
            parent_step: that one's step that asks: where the parent goes on without the step, this run is cancelled.

        Raises:
            UnknownFlow: no flow has this name.
            InvalidInput: the input or an option does not fit; nothing was enqueued.
            PayloadTooLarge: with the size and the limit.
            KeyConflict: the key was used with another input.
            RunNotFound: there is no such parent; nothing was enqueued.
            WrongState: the parent has ended, or is about to; nothing was enqueued.

        A broker that cannot be reached is no error but a warning in the log: the run is stored, and a worker publishes
        it when the broker is back.
        """
        return self.submit_many(
            flow,
            [input],
            keys=None if key is None else [key],
            deadline=deadline,
            priority=priority,
            tenant=tenant,
            tags=tags,
            budget=budget,
            parent=parent,
            parent_step=parent_step,
        )[0]

    def submit_many(
        self,
        flow: Flow | str,
        inputs: Sequence[object],
        *,
        keys: Sequence[str] | None = None,
        deadline: float | None = None,
        priority: Priority = "normal",
        tenant: str = "default",
        tags: Mapping[str, str] | None = None,
        budget: Budget | None = None,
        parent: str | None = None,
        parent_step: str | None = None,
    ) -> list[Run]:
        """
        Create one run for each input, with few round trips; arguments and errors as of `submit`.

        A KeyConflict ends the call; the runs before it are under way, and the same keys find them again.
        """
        found = self._flow(flow)
        options = self._options(deadline, priority, tenant, tags)
        if parent is not None and not is_run_id(parent):
            raise RunNotFound(parent)
        if budget is not None:
            given = {"tokens": budget.tokens, "cost": budget.cost, "ladder": budget.ladder}
            options["budget"] = RunBudget.model_validate(given)
        if keys is not None and len(keys) != len(inputs):
            msg = f"{len(keys)} keys for {len(inputs)} inputs; give one key for each"
            raise InvalidInput(msg)
        for key in keys or ():
            check_text("key", key)
        submissions = [
            Submission(
                flow=found.name,
                plan=found.plan(),
                value=self._encode(found, value),
                key=keys[number] if keys is not None else None,
                parent=parent,
                parent_step=parent_step,
                **options,
            )
            for number, value in enumerate(inputs)
        ]
        for submission in submissions:
            self.store.payloads.check("the input", submission.value)
        runs = []
        for start in range(0, len(submissions), BATCH):
            batch = submissions[start : start + BATCH]
            submitted = self.store.submit(batch)
            self._publish([(one.run_id, one.ready) for one in submitted if one.what == "created"])
            for submission, one in zip(batch, submitted, strict=True):
                _check_submitted(submission, one)
                runs.append(Run(self, one.run_id))
        return runs

    def start(self, flow: object, input: object, *, message_id: str, **options: object) -> Run:  # noqa: A002
        """
        Do what `submit` does, but record what is refused as a failed run: for producers that see no exception.

        Args:
            flow: the flow's name.
            input: JSON data.
            message_id: of the message that asked; delivered twice, it gives the same run. Serves as the key where
                the options name none.
            options: as of `submit`.

        Returns:
            The run; failed with the reason where anything does not fit.
        """
        options.setdefault("key", f"start:{message_id}")
        try:
            name, value = self._foreign(flow, input, options)
            if "budget" in options:
                options["budget"] = _foreign_budget(options["budget"])
            return self.submit(name, value, **cast("dict[str, Any]", options))
        except InvalidInput as error:
            refused = Submission(
                flow=readable(str(flow))[:MAX_TEXT],
                plan=(),
                value=b"null",
                deadline=self.settings.run_deadline,
                retention=self.settings.retention,
                # Not the producer's own key: what was refused must not stand in the way of what corrects it.
                key=f"refused:{message_id}",
                tags={},
                refused=f"refused: {error}",
            )
            (submitted,) = self.store.submit([refused])
            return Run(self, submitted.run_id)

    @staticmethod
    def _foreign(flow: object, input: object, options: Mapping[str, object]) -> tuple[str, object]:  # noqa: A002
        """Check what another language handed in before Python's own signature does."""
        if not isinstance(flow, str):
            msg = f"flow must be the name of a flow, not {type(flow).__name__}"
            raise InvalidInput(msg)
        unknown = sorted(set(options) - START_OPTIONS)
        if unknown:
            msg = f"unknown arguments: {', '.join(unknown)}; known: {', '.join(sorted(START_OPTIONS))}"
            raise InvalidInput(msg)
        return flow, input

    def get(self, run_id: str) -> Run:
        """Return a run by its id; whether it exists shows when it is used."""
        return Run(self, run_id)

    def list_runs(
        self,
        *,
        status: RunStatus | None = None,
        flow: str | None = None,
        tenant: str | None = None,
        tag: tuple[str, str] | None = None,
        limit: int = 50,
    ) -> list[RunState]:
        """
        Return the newest runs that fit, newest first, at most `limit`.

        Of fan-outs the members are not read, which may be thousands: `steps` are those of the flow itself, and
        `degraded`, `tokens` and `cost` count these alone; `get(run_id).state()` has all. Runs that cannot be read are
        left out: see `celeriac runs list`.
        """
        statuses = [status] if status else list(get_args(RunStatus))
        found = self.lists.runs(statuses, flow=flow, tenant=tenant, tag=tag, limit=limit)
        return [state for state in found if not isinstance(state, UnreadableRun)]

    def carry_on(self, run_id: str, change: Change) -> None:
        """Publish what became ready by a decision, a cancel or a redrive, if anything did."""
        if change.to_publish:
            self._publish([(run_id, change.to_publish)])

    def dead_letters(self, *, limit: int = 100, flow: str | None = None, agent: str | None = None) -> list[DeadLetter]:
        """
        Return the newest runs that failed for good and fit, newest first, at most `limit`.

        Those that cannot be read are left out: see `celeriac dead list`.
        """
        found = self.lists.dead(flow=flow, agent=agent, limit=limit)
        return [letter for letter in found if not isinstance(letter, UnreadableRun)]

    @cached_property
    def lists(self) -> Lists:
        """Lists of runs, with those that cannot be read."""
        return Lists(self.store)

    @cached_property
    def boards(self) -> Boards:
        """The blackboards of the runs."""
        return Boards(self.store)

    @cached_property
    def locks(self) -> LockKeeper:
        """What this process holds of locks on blackboards."""
        return LockKeeper(lambda: connect(self.settings))

    def blackboard(self, flow: str, step: str) -> Blackboard | None:
        """
        Return the blackboard that a step of a flow is; None: it is none.

        Raises:
            UnknownFlow: no flow has this name.
        """
        found = planner_of(self._flow(flow).name, step)
        return found if isinstance(found, Blackboard) else None

    @cached_property
    def conversations(self) -> Conversations:
        """The conversations of the runs."""
        return Conversations(self.store)

    def conversation(self, flow: str, step: str) -> Conversation | None:
        """Return the conversation that a step of a flow is; None: it is none. Errors as of `blackboard`."""
        found = planner_of(self._flow(flow).name, step)
        return found if isinstance(found, Conversation) else None

    @cached_property
    def guards(self) -> Guards:
        """The breakers, limits and budgets of the fleet."""
        return Guards(self.store.client)

    def check_deadline(self, deadline: object) -> float:
        """
        Return a deadline in seconds; the setting `run_deadline` for None.

        Raises:
            InvalidInput: it does not fit.
        """
        seconds = self.settings.run_deadline if deadline is None else deadline
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= 366 * 86400:
            msg = f"deadline must be seconds, above 0 and at most a year, not {deadline!r:.80}"
            raise InvalidInput(msg)
        return float(seconds)

    def _publish(self, ready: Sequence[tuple[str, Sequence[str]]]) -> None:
        # Stored is as good as enqueued: where the producer dies here, or the broker is away, the dispatch deadline of
        # the step that is ready brings the run on. An error would have the caller submit the same work again.
        try:
            publish_many(self.app, [state for state in self.store.left_many(ready) if state is not None])
        except (OperationalError, RedisError) as error:
            why = " ".join(str(error).split())
            logger.warning("stored, but not published yet: %s; a worker does it when the broker is back", why)

    def _flow(self, flow: Flow | str) -> Flow:
        if not isinstance(flow, str):
            return flow
        load_agents(self.settings.agents)
        known = flows()
        if flow not in known:
            raise UnknownFlow(flow, _listed(known))
        return known[flow]

    def _encode(self, flow: Flow, value: object) -> bytes:
        try:
            return to_json(flow.input, flow.input.validate_python(value))
        except ValidationError as error:
            why = describe(error)
        except PydanticSerializationError as error:
            why = f"it cannot be written as JSON: {error}"
        msg = f"the input does not fit flow {flow.name!r}: {why}"
        raise InvalidInput(msg)

    def _options(self, deadline: object, priority: object, tenant: object, tags: object) -> dict[str, Any]:
        if priority not in get_args(Priority):
            msg = f"priority must be high, normal or low, not {priority!r:.80}"
            raise InvalidInput(msg)
        seconds = self.check_deadline(deadline)
        check_text("tenant", tenant)
        if not isinstance(tags, Mapping | None):
            msg = "tags must map names to texts"
            raise InvalidInput(msg)
        named = dict(tags) if tags else {}
        if len(named) > MAX_TAGS:
            msg = f"{len(named)} tags; a run has at most {MAX_TAGS}"
            raise InvalidInput(msg)
        for name, text in named.items():
            check_text("a tag's name", name)
            check_text(f"tag {name!r}", text)
        return {
            "deadline": seconds,
            "retention": self.settings.retention,
            "priority": priority,
            "tenant": tenant,
            "tags": named,
        }
