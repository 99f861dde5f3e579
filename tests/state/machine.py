"""
A Hypothesis state machine over the scripts: whatever arrives, in whatever order, however often.

Hypothesis chooses submissions, deliveries, commits, decisions, lost leases and passing deadlines; after each, the reply
is compared with the reference's, and the run with its log, its indexes and the reference.

The clock of the scripts is Redis TIME, which a test cannot set. Where time must pass, the machine moves what the time
is compared with instead: the score of an index entry, or a run's deadline, goes back to 1970.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, multiple, precondition, rule

from orchestrator.errors import LeaseLost
from orchestrator.messages import PlanStep
from orchestrator.state import keys
from orchestrator.state.runs import Begun, Submission, Submitted
from tests.servers import no_key_left_without_ttl_or_declaration
from tests.state.invariants import look, problems
from tests.state.reference import LIVE, Ask, ReferenceRun

if TYPE_CHECKING:
    from hypothesis.stateful import MultipleResults

    from orchestrator.messages import Choice
    from orchestrator.state.runs import Due, RunStore

LONG_AGO_MS: Final = 1
HOUR_MS: Final = 3_600_000
MAX_RUNS: Final = 2
MAX_STEPS: Final = 5
CLAIM_BYTES: Final = 1024
LIMITS: Final = {"claim_check_bytes": CLAIM_BYTES, "max_attempts": 3, "lease": 3600.0, "dispatch_timeout": 3600.0}
"""For the settings of the machine's store: sizes and counts that are soon reached, times that never are."""
FALLBACK: Final = "fallback"


@st.composite
def plans(draw: st.DrawFn) -> tuple[PlanStep, ...]:
    """Plans of 1 to 5 steps; a gate may send the run back to an earlier one, as those of nested pipelines do."""
    names = [f"step-{number}" for number in range(draw(st.integers(1, MAX_STEPS)))]
    back = [draw(st.none() | st.sampled_from(names[:number])) if number else None for number in range(len(names))]
    following = [*names[1:], None]
    return tuple(
        PlanStep(name=name, agent=f"agent-{name}", next=after, start=start, gated=True)
        for name, after, start in zip(names, following, back, strict=True)
    )


ASKS = st.one_of(
    *[st.just(Ask("complete"))] * 4,  # else runs seldom get to their second step
    st.builds(Ask, st.just("revise"), feedback=st.sampled_from(["shorter", 'übel "quoted"\n'])),
    st.builds(Ask, st.just("fallback"), agent=st.just(FALLBACK)),
    st.builds(Ask, st.just("wait"), default=st.sampled_from(["approve", "reject"]), wait_over=st.booleans()),
    st.builds(
        Ask,
        st.just("wait"),
        agent=st.just(FALLBACK),
        default=st.sampled_from(["approve", "reject", "fallback"]),
        wait_over=st.booleans(),
    ),
)
# Which step a rule is about: 0 to 4 that one, above the one whose turn it is.
PICKS = st.integers(0, 2 * MAX_STEPS)
# What ends a run is seldom done, else none lives long.
SELDOM = st.integers(0, 5).map(lambda number: number == 0)


@dataclass(frozen=True)
class Attempt:
    """An execution that was allowed to start, with what it will hand in, however often it does."""

    begun: Begun
    value: bytes
    ask: Ask

    @property
    def key(self) -> tuple[str, str, str]:
        """Where it belongs, and its fence."""
        return self.begun.run_id, self.begun.step.name, self.begun.fence


class Runs(RuleBasedStateMachine):
    """
    The machine.

    Args:
        store: of the runs, with LIMITS in its settings; its server is emptied for every example.
    """

    runs = Bundle("runs")
    attempts = Bundle("attempts")

    def __init__(self, store: RunStore) -> None:
        super().__init__()
        store.client.flushdb()
        self._store = store
        self._references: dict[str, ReferenceRun] = {}
        self._keyed: dict[str, tuple[str, bytes]] = {}
        self._moved: set[str] = set()
        self._running: dict[str, Attempt] = {}
        self._values = 0

    # Producers

    @initialize(target=runs, plan=plans(), large=st.booleans())
    def submit_first(self, plan: tuple[PlanStep, ...], *, large: bool) -> str | MultipleResults[str]:
        return self._submit(plan, self._value(large=large), None)

    @precondition(lambda self: len(self._references) < MAX_RUNS)
    @rule(target=runs, plan=plans(), key=st.none() | st.sampled_from(["k1", "k2"]), value=st.sampled_from([b"1", b"2"]))
    def submit(self, plan: tuple[PlanStep, ...], key: str | None, value: bytes) -> str | MultipleResults[str]:
        return self._submit(plan, value, key)

    def _submit(self, plan: tuple[PlanStep, ...], value: bytes, key: str | None) -> str | MultipleResults[str]:
        submission = Submission(
            flow="flow", plan=plan, value=value, deadline=3600.0, retention=600.0, key=key, tags={"é": '"', "1": ""}
        )
        known = self._keyed.get(key or "")
        (submitted,) = self._store.submit([submission])
        if known is not None:
            assert submitted == Submitted(known[0], "existing" if known[1] == value else "conflict")
            return multiple()
        assert submitted.what == "created"
        run_id = submitted.run_id
        self._references[run_id] = ReferenceRun(plan, value, max_attempts=self._store.settings.max_attempts)
        if key is not None:
            self._keyed[key] = (run_id, value)
        self._check(run_id)
        return run_id

    # Workers

    @rule(target=attempts, run=runs, pick=PICKS, nonce=st.sampled_from("abc"), ask=ASKS, large=st.booleans())
    def deliver(self, run: str, pick: int, nonce: str, ask: Ask, *, large: bool) -> Attempt | MultipleResults[Attempt]:
        """Deliver a message to whom the step belongs now: first, again, early, late."""
        name = self._pick(run, pick)
        attempt = self._begin(run, name, self._references[run].steps[name].agent, nonce, ask, large=large)
        return multiple(attempt) if attempt else multiple()

    @rule(target=attempts, run=runs, pick=PICKS, ask=ASKS)
    def deliver_to_another(self, run: str, pick: int, ask: Ask) -> MultipleResults[Attempt]:
        """Deliver a message to an agent that never had the step, or had it before it fell back."""
        name = self._pick(run, pick)
        step = self._references[run].steps[name]
        agent = step.plan.agent if step.agent != step.plan.agent else "someone-else"
        attempt = self._begin(run, name, agent, "a", ask, large=False)
        return multiple(attempt) if attempt else multiple()

    @rule(run=runs)
    def deliver_what_is_no_step(self, run: str) -> None:
        refused = self._store.begin(run, "nothing", agent="agent", nonce="a", worker="w")
        assert getattr(refused, "why", None) == "gone"
        self._check(run)

    def _begin(self, run: str, name: str, agent: str, nonce: str, ask: Ask, *, large: bool) -> Attempt | None:
        reference = self._references[run]
        expected = reference.begin(name, agent, nonce)
        begun = self._store.begin(run, name, agent=agent, nonce=nonce, worker=f"worker-{nonce}")
        self._check(run)
        if not isinstance(begun, Begun):
            assert begun.why == expected
            return None
        step = reference.steps[name]
        assert expected == "execute"
        assert (begun.fence, begun.value, begun.draft) == (step.fence, step.value, step.draft)
        assert (begun.step.feedback, begun.step.revision) == (step.feedback, step.revision)
        known = self._running.get(run)
        if known is None or known.begun.fence != begun.fence or known.begun.step.name != name:
            # Else the reply to the same begin was lost: it is one execution, with one output.
            self._running[run] = Attempt(begun, self._value(large=large), ask)
        return self._running[run]

    @rule(target=attempts, run=runs, asks=st.lists(ASKS, min_size=1, max_size=6), large=st.booleans())
    def go_on(self, run: str, asks: list[Ask], *, large: bool) -> MultipleResults[Attempt]:
        """Bring a run on as it should go, several steps at a time, so that all else meets runs of every age."""
        attempts = []
        for ask in asks:
            current = self._references[run].current
            if current is None:
                break
            name = current.plan.name
            if current.status == "waiting":
                self._decide(run, name, "approve")
            elif current.status == "running":
                self._commit(self._running[run])
            elif attempt := self._begin(run, name, current.agent, "w", ask, large=large):
                self._commit(attempt)
                attempts.append(attempt)
        return multiple(*attempts)

    @rule(attempt=attempts)
    def commit(self, attempt: Attempt) -> None:
        """Hand in an output: in time, after the lease was lost, after the run has ended, again."""
        self._commit(attempt)

    def _commit(self, attempt: Attempt) -> None:
        begun, ask = attempt.begun, attempt.ask
        expected = self._references[begun.run_id].commit(begun.step.name, begun.fence, attempt.value, ask)
        committed = self._store.commit(begun, attempt.value, ask.verdict, _details(ask))
        assert committed.what == expected
        self._check(begun.run_id)

    @rule(attempt=attempts, name=st.sampled_from(["charge", "post/é"]), large=st.booleans())
    def record(self, attempt: Attempt, name: str, *, large: bool) -> None:
        """Record a sub-step's result: the first time, by another attempt, twice, too late."""
        begun, value = attempt.begun, self._value(large=large)
        run, step, fence = attempt.key
        key = (begun.step.revision, begun.step.degraded, name)
        expected = self._references[run].record(step, fence, key, value)
        try:
            assert self._store.record(begun, name, value) == expected
        except LeaseLost:
            assert expected in {"stale", "closed"}
        assert self._store.recall(begun, name) == self._references[run].steps[step].recorded.get(key)
        self._check(run)

    @rule(attempt=attempts)
    def renew(self, attempt: Attempt) -> None:
        run, name, fence = attempt.key
        owns = self._references[run].owns(name, fence)
        assert self._store.renew([attempt.key]) == ["renewed" if owns == "yes" else owns]
        self._check(run)

    @rule(attempt=consumes(attempts), even_its_owner=SELDOM)
    def fail(self, attempt: Attempt, *, even_its_owner: bool) -> None:
        """Report, twice, that the handler failed."""
        run, name, fence = attempt.key
        if not even_its_owner and self._references[run].owns(name, fence) == "yes":
            return
        for _ in range(2):
            expected = self._references[run].fail(name, fence)
            assert self._store.fail(attempt.begun, "it\nfailed") == expected
            self._check(run)

    # People

    @rule(run=runs, pick=PICKS, choice=st.sampled_from(["approve", "reject", "fallback"]))
    def decide(self, run: str, pick: int, choice: Choice) -> None:
        self._decide(run, self._pick(run, pick), choice)

    @rule(run=runs, even_if_live=SELDOM)
    def cancel(self, run: str, *, even_if_live: bool) -> None:
        reference = self._references[run]
        if reference.status in LIVE and not even_if_live:
            return
        expected = "cancelled" if reference.status in LIVE else "closed"
        if expected == "cancelled":
            reference.end("cancelled")
        assert self._store.cancel(run, reason="", by="me") == expected
        self._check(run)

    # The caretaker

    @rule(run=runs, pick=PICKS)
    def gate_timer_rings(self, run: str, pick: int) -> None:
        self._decide(run, self._pick(run, pick), None)

    def _decide(self, run: str, name: str, choice: Choice | None) -> None:
        expected = self._references[run].decide(name, choice)
        found = self._store.decide(run, name, choice, by="me", note="because").what
        if found == "decided":
            # As if the reply to the same decision had been lost: it stands, and nothing changes.
            step = self._store.load(run).step(name)
            assert step is not None
            assert step.decision is not None
            assert (step.decision.choice, expected in {"not waiting", "closed"}) == (choice, True)
        else:
            assert found == expected
        self._check(run)

    @rule(run=runs, pick=PICKS, expired=st.booleans())
    def look_at_a_lease(self, run: str, pick: int, *, expired: bool) -> None:
        name = self._pick(run, pick)
        leases, entry = keys.leases(keys.shard_of(run)), keys.member(run, name)
        if expired:
            self._store.client.zadd(leases, {entry: LONG_AGO_MS}, xx=True)
        lost = {found for due in self._due(run) for found in due.lost}
        assert ((run, name) in lost) == (expired and self._references[run].steps[name].status == "running")
        expected = self._references[run].lost(name, expired=expired)
        assert self._store.lost(run, name) == expected
        self._check(run)

    @rule(target=attempts, run=runs, ask=ASKS, late=st.sampled_from(["commit", "renew", "fail"]))
    def lose_and_begin_again(self, run: str, ask: Ask, late: str) -> MultipleResults[Attempt]:
        """Let an execution outlive its lease, be replaced, and come back: what fences are there for."""
        current = self._references[run].current
        if current is None or current.status != "running":
            return multiple()
        name, slow = current.plan.name, self._running[run]
        self.look_at_a_lease(run, self._references[run].order.index(name), expired=True)
        attempt = self._begin(run, name, current.agent, "z", ask, large=False)
        if late == "fail":
            self.fail(slow, even_its_owner=False)
        else:
            (self._commit if late == "commit" else self.renew)(slow)
        return multiple(attempt) if attempt else multiple()

    @rule(run=runs, pick=PICKS, overdue=st.booleans(), empty=st.booleans())
    def look_at_a_dispatch(self, run: str, pick: int, *, overdue: bool, empty: bool) -> None:
        name = self._pick(run, pick)
        if overdue:
            entry = {keys.member(run, name): LONG_AGO_MS}
            self._store.client.zadd(keys.ready(keys.shard_of(run)), entry, xx=True)
        looked = self._store.redispatch(run, name, queue_is_empty=empty)
        if not overdue or self._references[run].steps[name].status != "ready":
            assert looked == "closed"
        else:
            # Whether a later step has begun is a matter of milliseconds here.
            assert looked in ({"publish"} if empty else {"publish", "wait"})
        self._check(run)

    @rule(run=runs, really=SELDOM)
    def deadline_passes(self, run: str, *, really: bool) -> None:
        """Move a live run's deadline into the past."""
        if really and self._references[run].status in LIVE:
            self._store.client.hset(keys.run(run), "deadline_ms", LONG_AGO_MS)
            self._store.client.zadd(keys.timers(keys.shard_of(run)), {run: LONG_AGO_MS}, xx=True)
            self._references[run].overdue = True
            self._moved.add(run)
        self._check(run)

    @rule(run=runs)
    def run_timer_rings(self, run: str) -> None:
        reference = self._references[run]
        expected = "closed" if reference.status not in LIVE else "cancelled" if reference.overdue else "early"
        if expected == "cancelled":
            reference.end("failed")
        assert self._store.expire(run) == expected
        self._check(run)

    # What must hold

    def teardown(self) -> None:
        for run in self._references:
            self._check(run)
        no_key_left_without_ttl_or_declaration(self._store.client)

    def _check(self, run: str) -> None:
        """Compare the run that was touched with its log, its indexes and the reference; teardown looks at all."""
        snapshot = look(self._store, run)
        found = problems(snapshot, moved_deadline_ms=LONG_AGO_MS if run in self._moved else None)
        assert not found, "\n".join(found)
        reference, state, values = self._references[run], snapshot.state, snapshot.values
        assert state.status == reference.status
        assert values.get(state.output or "") == reference.output
        for step in state.steps:
            model = reference.steps[step.name]
            assert (step.status, step.agent, step.degraded) == (model.status, model.agent, model.degraded)
            assert (step.attempt, step.begins, step.revision) == (model.attempt, model.begins, model.revision)
            assert (step.feedback, step.fence, step.sent_back) == (model.feedback, model.fence, model.sent_back)
            assert step.effects == len(model.recorded)
            assert values.get(step.draft or "") == model.draft
            assert model.output in (None, values.get(step.output or ""))

    def _due(self, run: str) -> list[Due]:
        return self._store.due([keys.shard_of(run)])

    def _pick(self, run: str, pick: int) -> str:
        reference = self._references[run]
        if pick >= MAX_STEPS and reference.current is not None:
            return reference.current.plan.name
        return reference.order[pick % len(reference.order)]

    def _value(self, *, large: bool) -> bytes:
        self._values += 1
        return json.dumps([self._values, "x" * CLAIM_BYTES if large else ""]).encode()


def _details(ask: Ask) -> dict[str, object]:
    match ask.verdict:
        case "complete":
            return {}
        case "revise":
            return {"feedback": ask.feedback}
        case "fallback":
            return {"agent": ask.agent, "reason": "why"}
    fallback = {"fallback": ask.agent} if ask.agent else {}
    return {"question": "?", "timeout_ms": 0 if ask.wait_over else HOUR_MS, "default": ask.default, **fallback}
