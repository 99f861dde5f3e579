"""
A Hypothesis state machine over the scripts: whatever arrives, in whatever order, however often.

Hypothesis chooses submissions, deliveries, commits, decisions, failures, lost leases and passing deadlines; after each,
the reply is compared with the reference's, and the run with its log, its indexes and the reference.

The clock of the scripts is Redis TIME, which a test cannot set. Where time must pass, the machine moves what the time
is compared with instead: the score of an index entry, or a deadline, goes back to 1970.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final, cast

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, multiple, precondition, rule

from orchestrator.errors import LeaseLost
from orchestrator.messages import PlanStep, RunBudget
from orchestrator.state import keys
from orchestrator.state.letters import goes_on_at
from orchestrator.state.runs import Begun, Submission, Submitted
from tests.servers import no_key_left_without_ttl_or_declaration
from tests.state.choices import ASKS, HOUR_MS, LATERS, MAX_STEPS, PICKS, SELDOM, TOKENS, Attempt, details, plans
from tests.state.invariants import look, problems
from tests.state.reference import LIVE, Ask, Later, ReferenceRun

if TYPE_CHECKING:
    from hypothesis.stateful import MultipleResults

    from orchestrator.messages import Choice
    from orchestrator.state.runs import Due, RunStore

LONG_AGO_MS: Final = 1
MAX_RUNS: Final = 3
CLAIM_BYTES: Final = 1024
LIMITS: Final = {
    "claim_check_bytes": CLAIM_BYTES,
    "max_attempts": 3,
    "lease": 3600.0,
    "dispatch_timeout": 3600.0,
    "dead_retention": 1200.0,
}
"""For the settings of the machine's store: sizes and counts that are soon reached, times that never are."""
RETENTION: Final = 600.0
SPARE: Final = "spare"
TROUBLES: Final = ("fail", "redrive", "postpone", "degrade", "partial", "overrun", "lose")
LATE_CALLS: Final = ("commit", "renew", "record", "fail", "postpone", "degrade")


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
        self._running: dict[str, Attempt] = {}
        self._handed_in: dict[tuple[str, str, str], Attempt] = {}
        self._redriven: dict[str, int] = {}
        self._values = 0

    # Producers

    @initialize(target=runs, plan=plans(), large=st.booleans())
    def submit_first(self, plan: tuple[PlanStep, ...], *, large: bool) -> str | MultipleResults[str]:
        return self._submit(plan, self._value(large=large), None)

    @precondition(lambda self: len(self._references) < MAX_RUNS)
    @rule(target=runs, plan=plans(), key=st.none() | st.sampled_from(["k1", "k2"]), value=st.sampled_from([b"1", b"2"]))
    def submit(self, plan: tuple[PlanStep, ...], key: str | None, value: bytes) -> str | MultipleResults[str]:
        return self._submit(plan, value, key)

    @precondition(lambda self: len(self._references) < MAX_RUNS)
    @rule(target=runs, plan=plans(), parent=runs, key=st.none() | st.just("c"), value=st.sampled_from([b"1", b"2"]))
    def submit_child(
        self, plan: tuple[PlanStep, ...], parent: str, key: str | None, value: bytes
    ) -> str | MultipleResults[str]:
        """Submit a run from a step of another: of one that goes on, is being undone, or has ended; or find it again."""
        return self._submit(plan, value, f"{parent}:{key}" if key else None, parent)

    @precondition(lambda self: len(self._references) < MAX_RUNS)
    @rule(
        target=runs,
        plan=plans(),
        parent=runs,
        how=st.sampled_from(["cancel", "fail", "fail"]),
        seen=st.booleans(),
        again=st.booleans(),
    )
    def submit_orphan(
        self, plan: tuple[PlanStep, ...], parent: str, how: str, *, seen: bool, again: bool
    ) -> MultipleResults[str]:
        """
        Submit a run from a step of another, which ends before this one begins.

        The caretaker may see it, it may be redriven, and it may submit the same again.
        """
        attempt = self._at_work(parent)
        if attempt is None or not self._references[parent].may_have_children:
            return multiple()
        key = f"{parent}:orphan"
        child = self._submit(plan, b"1", key, parent)
        if not isinstance(child, str):
            return multiple()
        if how == "cancel":
            self.cancel(parent, "enough", even_if_live=True)
        else:
            self._fail(attempt, 0)
        self._submit(plan, b"1", None, parent)
        if seen:
            self.timers_ring(parent)
        if again:
            self.go_on(parent, [Ask("complete")] * MAX_STEPS, large=False)
            self.redrive(parent, None, "", value=None)
        self.deliver(child, 0, "a", Ask("complete"), large=False)
        another = self._submit(plan, b"2", key, parent)
        self.timers_ring(parent)
        return multiple(child, *([another] if isinstance(another, str) else []))

    def _submit(
        self, plan: tuple[PlanStep, ...], value: bytes, key: str | None, parent: str | None = None
    ) -> str | MultipleResults[str]:
        submission = Submission(
            flow="flow",
            plan=plan,
            value=value,
            deadline=3600.0,
            retention=RETENTION,
            key=key,
            tags={"é": '"', "1": ""},
            parent=parent,
            budget=RunBudget(tokens=1000),
        )
        known = self._keyed.get(key or "")
        (submitted,) = self._store.submit([submission])
        if known is not None and not self._references[known[0]].is_void:
            assert submitted == Submitted(known[0], "existing" if known[1] == value else "conflict")
            return multiple()
        above = self._references[parent] if parent else None
        if above and not above.may_have_children:
            assert submitted == Submitted(cast("str", parent), "closed")
            return multiple()
        assert submitted.what == "created"
        run_id = submitted.run_id
        losses = self._store.settings.max_attempts
        self._references[run_id] = ReferenceRun(run_id, plan, value, max_losses=losses, parent=above)
        if key is not None:
            self._keyed[key] = (run_id, value)
        self._check(run_id)
        return run_id

    # Workers

    @rule(target=attempts, run=runs, pick=PICKS, nonce=st.sampled_from("abc"), ask=ASKS, large=st.booleans())
    def deliver(self, run: str, pick: int, nonce: str, ask: Ask, *, large: bool) -> MultipleResults[Attempt]:
        """Deliver a message to whom the step belongs now: first, again, early, late."""
        name = self._pick(run, pick)
        return self._begin(run, name, self._references[run].steps[name].agent, nonce, ask, large=large)

    @rule(target=attempts, run=runs, pick=PICKS, ask=ASKS)
    def deliver_to_another(self, run: str, pick: int, ask: Ask) -> MultipleResults[Attempt]:
        """Deliver a message to an agent that never had the step, or had it before it fell back."""
        name = self._pick(run, pick)
        agent = self._references[run].steps[name].instead_of or "someone-else"
        return self._begin(run, name, agent, "a", ask, large=False)

    @rule(run=runs)
    def deliver_what_is_no_step(self, run: str) -> None:
        refused = self._store.begin(run, "nothing", agent="agent", nonce="a", worker="w")
        assert getattr(refused, "why", None) == "gone"
        self._check(run)

    def _begin(self, run: str, name: str, agent: str, nonce: str, ask: Ask, *, large: bool) -> MultipleResults[Attempt]:
        # Nonces are random; begins of what undoes a step are counted afresh when the run was redriven.
        nonce = f"{nonce}{self._redriven.get(run, '')}"
        reference = self._references[run]
        expected = reference.begin(name, agent, nonce)
        begun = self._store.begin(run, name, agent=agent, nonce=nonce, worker=f"worker-{nonce}")
        self._check(run)
        if not isinstance(begun, Begun):
            assert begun.why == expected
            return multiple()
        step = reference.steps[name]
        assert expected == "execute"
        assert (begun.fence, begun.value, begun.draft) == (step.fence, step.value, step.draft)
        assert (begun.step.feedback, begun.step.revision) == (step.feedback, step.revision)
        assert tuple(budget.run for budget in begun.budgets) == reference.budgets
        known = self._running.get(run)
        if known is None or known.begun.fence != begun.fence or known.begun.step.name != name:
            # Else the reply to the same begin was lost: it is one execution, with one output.
            if step.undoes and ask.verdict not in {"complete", "partial"}:
                ask = Ask("complete")  # what undoes a step has no gate
            self._running[run] = Attempt(begun, self._value(large=large), ask)
        return multiple(self._running[run])

    @rule(target=attempts, run=runs, asks=st.lists(ASKS, min_size=1, max_size=6), large=st.booleans())
    def go_on(self, run: str, asks: list[Ask], *, large: bool) -> MultipleResults[Attempt]:
        """Bring a run on as it should go, several steps at a time, so that all else meets runs of every age."""
        attempts: list[Attempt] = []
        for ask in asks:
            current = self._references[run].current
            if current is None:
                break
            if current.status == "waiting":
                self._decide(run, current.name, "approve")
            elif current.status == "delayed":
                self._wake(run, current.name, turn=True)
            elif current.status == "running":
                self._commit(self._running[run])
            else:
                for attempt in self._begin(run, current.name, current.agent, "w", ask, large=large).values:
                    self._commit(attempt)
                    attempts.append(attempt)
        return multiple(*attempts)

    def _at_work(self, run: str) -> Attempt | None:
        """Bring a run's step to its execution, whatever it waits for, and return that; None where nothing begins."""
        current = self._references[run].current
        if current is not None and current.status == "waiting":
            self._decide(run, current.name, "approve")
            current = self._references[run].current
        if current is not None and current.status == "delayed":
            self._wake(run, current.name, turn=True)
        if current is not None and current.status == "ready":
            self._begin(run, current.name, current.agent, "t", Ask("complete"), large=False)
        return self._running[run] if current is not None and current.status == "running" else None

    @rule(target=attempts, run=runs, how=st.sampled_from(TROUBLES), later=LATERS, before=st.integers(0, 3))
    def get_into_trouble(self, run: str, how: str, later: Later, before: int) -> MultipleResults[Attempt]:
        """Bring a run on, and let its next attempt come to no output."""
        self.go_on(run, [Ask("complete")] * before, large=False)
        attempt = self._at_work(run)
        if attempt is None:
            return multiple()
        name = attempt.begun.step.name
        match how:
            case "fail":
                self._fail(attempt, 1)
                self.cancel(run, "", even_if_live=False)
                if undo := self._at_work(run):
                    self._fail(undo, 1)
            case "redrive":
                self._fail(attempt, 1)
                self.go_on(run, [Ask("complete")] * MAX_STEPS, large=False)
                self.redrive(run, None if later.counts else before, "", value=None)
            case "postpone":
                self.postpone(attempt, later)
                self._wake(run, name, turn=False)
            case "degrade":
                self.degrade(attempt, attempt.begun.step.rung + 1, 1)
            case "partial":
                self.commit_a_part(attempt, even_its_owner=True)
            case "overrun":
                self._let_step_be_late(run)
                self.postpone(attempt, later)
                self.overrun(run, 2 * MAX_STEPS)
            case _:
                self._look_at_a_lease(run, name, expired=True)
                if self._at_work(run) is not None:
                    self._look_at_a_lease(run, name, expired=True)
        return multiple(attempt)

    @rule(attempt=attempts)
    def commit(self, attempt: Attempt) -> None:
        """Hand in an output: in time, after the lease was lost, after the run has ended, again."""
        self._commit(attempt)

    @rule(attempt=consumes(attempts), even_its_owner=SELDOM)
    def commit_a_part(self, attempt: Attempt, *, even_its_owner: bool) -> None:
        """End a run with what it has, twice."""
        run, name, fence = attempt.key
        reference = self._references[run]
        if reference.owns(name, fence) == "yes" and not even_its_owner:
            return
        for _ in range(2):
            self._commit(Attempt(attempt.begun, attempt.value, Ask("partial", reason="no budget is left")))

    def _commit(self, attempt: Attempt) -> None:
        # An execution hands in one output with one verdict, however often.
        attempt = self._handed_in.setdefault(attempt.key, attempt)
        begun, ask = attempt.begun, attempt.ask
        reference = self._references[begun.run_id]
        again = reference.has_committed(begun.step.name, begun.fence)
        if again and reference.lasts_longer and len(attempt.value) > CLAIM_BYTES:
            # What is sent again when a reply was lost is the script alone, not the value behind the claim check.
            return
        expected = reference.commit(begun.step.name, begun.fence, attempt.value, ask)
        committed = self._store.commit(begun, attempt.value, ask.verdict, details(ask), (ask.tokens, 0.0))
        assert committed.what == expected
        self._check(begun.run_id)

    @rule(attempt=attempts, name=st.sampled_from(["charge", "post/é"]), large=st.booleans())
    def record(self, attempt: Attempt, name: str, *, large: bool) -> None:
        """Record a sub-step's result, twice: the first time, by another attempt, too late."""
        begun, (run, step, fence) = attempt.begun, attempt.key
        key = (begun.step.revision, begun.step.degraded, name)
        for value in (self._value(large=large), self._value(large=False)):
            expected = self._references[run].record(step, fence, key, value)
            try:
                assert self._store.record(begun, name, value) == expected
            except LeaseLost:
                assert expected in {"stale", "closed"}
            else:
                assert self._store.recall(begun, name) == expected
            self._check(run)

    @rule(attempt=attempts)
    def renew(self, attempt: Attempt) -> None:
        run, name, fence = attempt.key
        owns = self._references[run].owns(name, fence)
        assert self._store.renew([attempt.key]) == ["renewed" if owns == "yes" else owns]
        self._check(run)

    @rule(attempt=consumes(attempts), even_its_owner=SELDOM, tokens=TOKENS)
    def fail(self, attempt: Attempt, tokens: int, *, even_its_owner: bool) -> None:
        """Report, twice, that the handler failed."""
        run, name, fence = attempt.key
        if not even_its_owner and self._references[run].owns(name, fence) == "yes":
            return
        self._fail(attempt, tokens)

    def _fail(self, attempt: Attempt, tokens: int) -> None:
        run, name, fence = attempt.key
        for _ in range(2):
            expected = self._references[run].fail(name, fence, tokens)
            assert self._store.fail(attempt.begun, "it\nfailed", spent=(tokens, 0.0)).what == expected
            self._check(run)

    @rule(attempt=attempts, later=LATERS)
    def postpone(self, attempt: Attempt, later: Later) -> None:
        """Give a step back: for a retry or because it is not its turn; in time, too late, twice."""
        run, name, fence = attempt.key
        for _ in range(2):
            expected = self._references[run].postpone(name, fence, later)
            postponed = self._store.postpone(
                attempt.begun,
                0.0 if later.due else HOUR_MS / 4000,
                "503",
                counts=later.counts,
                total=1.0 if later.too_late else HOUR_MS / 1000,
                spent=(later.tokens, 0.0),
            )
            assert postponed == expected
            self._check(run)

    @rule(attempt=attempts, rung=st.integers(1, 2), tokens=TOKENS)
    def degrade(self, attempt: Attempt, rung: int, tokens: int) -> None:
        """Let another agent take a step that failed: in time, too late, twice."""
        run, name, fence = attempt.key
        for _ in range(2):
            expected = self._references[run].degrade(name, fence, SPARE, rung, tokens)
            assert self._store.degrade(attempt.begun, SPARE, "503", rung=rung, spent=(tokens, 0.0)).what == expected
            self._check(run)

    # People

    @rule(run=runs, pick=PICKS, choice=st.sampled_from(["approve", "reject", "fallback"]))
    def decide(self, run: str, pick: int, choice: Choice) -> None:
        self._decide(run, self._pick(run, pick), choice)

    @rule(run=runs, even_if_live=SELDOM, reason=st.sampled_from(["", "enough"]))
    def cancel(self, run: str, reason: str, *, even_if_live: bool) -> None:
        reference = self._references[run]
        if reference.may_have_children and not even_if_live:
            return
        expected = reference.cancel()
        assert self._store.cancel(run, reason=reason, by="me").what == expected
        self._check(run)

    @rule(
        run=runs,
        pick=st.none() | PICKS,
        value=st.none() | st.booleans(),
        agent=st.sampled_from(["", "", SPARE]),
    )
    def redrive(self, run: str, pick: int | None, agent: str, *, value: bool | None) -> None:
        """Let a run go on: one that failed or has not; from where it failed, from before or after; as it was or not."""
        reference = self._references[run]
        name = "" if pick is None else self._pick(run, pick)
        given = None if value is None else self._value(large=value)
        where = goes_on_at(self._store.load(run))
        expected = reference.redrive(name, given, agent)
        if not name and expected[0] not in {"not failed", "orphan"}:
            assert where == expected[1]
        change = self._store.redrive(run, step=name, value=given, agent=agent, deadline=3600.0, by="me")
        assert (change.what, change.step) == expected
        if expected[0] == "redriven":
            self._redriven[run] = self._redriven.get(run, 0) + 1
        self._check(run)

    @rule(run=runs)
    def drop(self, run: str) -> None:
        expected = self._references[run].drop()
        assert self._store.drop(run, by="me") == expected
        self._check_dead_letters()
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

    @rule(run=runs, pick=PICKS, turn=st.booleans())
    def wake(self, run: str, pick: int, *, turn: bool) -> None:
        """Look at a step's timer before and after it rings, and at one whose turn it is."""
        self._wake(run, self._pick(run, pick), turn=turn)

    def _wake(self, run: str, name: str, *, turn: bool) -> None:
        expected = self._references[run].wake(name, turn=turn)
        assert self._store.wake([(run, name)], turn=turn) == [expected]
        self._check(run)

    @rule(run=runs)
    def timers_ring(self, run: str) -> None:
        """Do with a run's timers what the caretaker does, in both orders that two of them may meet in."""
        reference = self._references[run]
        found = [step for other, step in self._store.timers([keys.shard_of(run)]) if other == run]
        assert set(found) == reference.due()
        for step in found:
            if step is None:
                self._expire(run)
            elif step == "/":
                self._end_children(run)
            elif step.startswith("/"):
                self._overrun(run, step[1:])
            elif reference.wake(step, turn=False) == "waiting":
                assert self._store.wake([(run, step)]) == ["waiting"]
                self._decide(run, step, None)
            else:
                self._store.wake([(run, step)])
        self._check(run)

    def _end_children(self, run: str) -> None:
        reference = self._references[run]
        children = self._store.children(run)
        assert set(children) == {child.name for child in reference.children}
        for child in children:
            assert self._store.orphan(child, run).what == self._references[child].orphan()
            self._check(child)
        self._store.leave(run)
        reference.ends_children = False

    @rule(run=runs, pick=PICKS)
    def overrun(self, run: str, pick: int) -> None:
        """Look at the time by which a step must be done, twice."""
        name = self._pick(run, pick)
        self._overrun(run, name)
        self._overrun(run, name)

    def _overrun(self, run: str, name: str) -> None:
        expected = self._references[run].overrun(name)
        assert self._store.overrun(run, name).what == expected
        self._check(run)

    @rule(run=runs, pick=PICKS, expired=st.booleans())
    def look_at_a_lease(self, run: str, pick: int, *, expired: bool) -> None:
        self._look_at_a_lease(run, self._pick(run, pick), expired=expired)

    def _look_at_a_lease(self, run: str, name: str, *, expired: bool) -> None:
        leases, entry = keys.leases(keys.shard_of(run)), keys.member(run, name)
        if expired:
            self._store.client.zadd(leases, {entry: LONG_AGO_MS}, xx=True)
        lost = {found for due in self._due(run) for found in due.lost}
        assert ((run, name) in lost) == (expired and self._references[run].steps[name].status == "running")
        expected = self._references[run].lost(name, expired=expired)
        assert self._store.lost(run, name).what == expected
        self._check(run)

    @rule(target=attempts, run=runs, ask=ASKS, late=st.sampled_from(LATE_CALLS))
    def lose_and_begin_again(self, run: str, ask: Ask, late: str) -> MultipleResults[Attempt]:
        """Let an execution outlive its lease, be replaced, and come back: what fences are there for."""
        slow = self._at_work(run)
        if slow is None:
            return multiple()
        current = self._references[run].steps[slow.begun.step.name]
        self._look_at_a_lease(run, current.name, expired=True)
        if current.status == "delayed":
            self._wake(run, current.name, turn=True)
        attempts = self._begin(run, current.name, current.agent, "z", ask, large=False)
        match late:
            case "commit":
                self._commit(slow)
            case "renew":
                self.renew(slow)
            case "record":
                self.record(slow, "charge", large=False)
            case "fail":
                self.fail(slow, 0, even_its_owner=False)
            case "postpone":
                self.postpone(slow, Later(due=True, counts=True))
            case _:
                self.degrade(slow, 1, 0)
        return attempts

    @rule(run=runs, pick=PICKS, overdue=st.booleans(), empty=st.booleans())
    def look_at_a_dispatch(self, run: str, pick: int, *, overdue: bool, empty: bool) -> None:
        name = self._pick(run, pick)
        if overdue:
            entry = {keys.member(run, name): LONG_AGO_MS}
            self._store.client.zadd(keys.ready(keys.shard_of(run)), entry, xx=True)
        (looked,) = self._store.redispatch([(run, name)], queue_is_empty=[empty])
        if not overdue or self._references[run].steps[name].status != "ready":
            assert looked == "closed"
        else:
            # Whether a later step has begun is a matter of milliseconds here.
            assert looked in ({"publish"} if empty else {"publish", "wait"})
        self._check(run)

    @rule(run=runs, of_step=st.booleans(), really=SELDOM)
    def deadline_passes(self, run: str, *, of_step: bool, really: bool) -> None:
        """Move a live run's deadline, or its step's, into the past."""
        reference = self._references[run]
        if really and of_step:
            self._let_step_be_late(run)
        elif really and reference.status in LIVE:
            self._store.client.hset(keys.run(run), "deadline_ms", LONG_AGO_MS)
            self._store.client.zadd(keys.timers(keys.shard_of(run)), {run: LONG_AGO_MS}, xx=True)
            reference.overdue = True
        self._check(run)

    def _let_step_be_late(self, run: str) -> None:
        step = self._references[run].current
        if step is None or not step.within_ms:
            return
        field, timer = f"step:{step.name}", keys.member(run, f"/{step.name}")
        record = json.loads(cast("bytes", self._store.client.hget(keys.run(run), field)))
        self._store.client.hset(keys.run(run), field, json.dumps(record | {"until_ms": LONG_AGO_MS}))
        self._store.client.zadd(keys.timers(keys.shard_of(run)), {timer: LONG_AGO_MS}, xx=True)
        step.late = True

    @rule(run=runs)
    def run_timer_rings(self, run: str) -> None:
        self._expire(run)

    def _expire(self, run: str) -> None:
        expected = self._references[run].expire()
        assert self._store.expire(run).what == expected
        self._check(run)

    # What must hold

    def teardown(self) -> None:
        for run in self._references:
            self._check(run)
        self._check_dead_letters()
        # Parents come before their children, so that all that is to be ended is.
        for run, reference in self._references.items():
            if reference.ends_children:
                self._end_children(run)
        no_key_left_without_ttl_or_declaration(self._store.client)

    def _check(self, run: str) -> None:
        """Compare the run that was touched with its log, its indexes and the reference; teardown looks at all."""
        reference = self._references[run]
        snapshot = look(self._store, run)
        moved = {"": LONG_AGO_MS} if reference.overdue else {}
        moved |= {step.name: LONG_AGO_MS for step in reference.steps.values() if step.late}
        found = problems(snapshot, moved=moved)
        assert not found, "\n".join(found)
        state, values = snapshot.state, snapshot.values
        assert (state.status, state.partial) == (reference.status, reference.partial)
        assert (state.failure.kind if state.failure else None) == reference.kind
        assert values.get(state.output or "") == reference.output
        assert [step.name for step in state.steps] == list(reference.steps)
        for step in state.steps:
            model = reference.steps[step.name]
            assert (step.status, step.agent, step.degraded) == (model.status, model.agent, model.degraded)
            assert (step.attempt, step.begins, step.revision) == (model.attempt, model.begins, model.revision)
            assert (step.feedback, step.fence, step.sent_back) == (model.feedback, model.fence, model.sent_back)
            assert (step.losses, step.rung, step.tokens) == (model.losses, model.rung, model.tokens)
            assert (step.undoes, step.undone, step.instead_of) == (model.undoes, model.undone, model.instead_of)
            assert step.effects == model.effects
            assert values.get(step.input or "") == model.value
            assert values.get(step.draft or "") == model.draft
            assert model.output in (None, values.get(step.output or ""))

    def _check_dead_letters(self) -> None:
        dead = {run for run, reference in self._references.items() if reference.kind}
        assert (set(self._store.dead(2 * MAX_RUNS)), self._store.dead_count()) == (dead, len(dead))

    def _due(self, run: str) -> list[Due]:
        return self._store.due([keys.shard_of(run)])

    def _pick(self, run: str, pick: int) -> str:
        reference = self._references[run]
        if pick >= MAX_STEPS and reference.current is not None:
            return reference.current.name
        names = list(reference.steps)
        return names[pick % len(names)]

    def _value(self, *, large: bool) -> bytes:
        self._values += 1
        return json.dumps([self._values, "x" * CLAIM_BYTES if large else ""]).encode()
