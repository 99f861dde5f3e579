"""
A Hypothesis state machine over fan-outs: members that begin, end and are lost in any order, and what joins them.

As machine.py, which covers what runs without fan-outs do; there is why the clock stands still here.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Final, cast

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from orchestrator.errors import LeaseLost
from orchestrator.state import keys
from orchestrator.state.fan_outs import FanOuts
from orchestrator.state.letters import goes_on_at
from orchestrator.state.runs import Begun, Submission
from tests.servers import no_key_left_without_ttl_or_declaration
from tests.state.choices import HOUR_MS, LATERS, SELDOM, TOKENS, details
from tests.state.fan_choices import AGAIN, ASKED, DELEGATES, ROUNDS, Attempt, Work, plans
from tests.state.fan_reference import FAN, FanRun
from tests.state.invariants import look, problems
from tests.state.machine import CLAIM_BYTES, LONG_AGO_MS, RETENTION, SPARE
from tests.state.reference import LIVE, Ask, Later

if TYPE_CHECKING:
    from orchestrator.messages import Choice, PlanStep, RunState
    from orchestrator.state.runs import RunStore
    from tests.state.invariants import Snapshot

MOST_STEPS: Final = 30
ENOUGH_RUNS: Final = 5
PICK: Final = st.integers(0, 30)
BEFORE: Final = st.lists(PICK, max_size=4)
STEPS: Final = st.sampled_from([2, 2, 2, 3, 4, 0])
TROUBLES: Final = ("fail", "fail", "postpone", "degrade", "partial", "overrun", "lose", "poison")
LATE_CALLS: Final = ("hand in", "hand in", "renew", "record", "fail", "postpone", "degrade")


class FanOutRuns(RuleBasedStateMachine):
    """
    The machine. It works at one run at a time; when that is over for good, at the next.

    Args:
        store: of the runs, with LIMITS in its settings; its server is emptied for every example.
    """

    def __init__(self, store: RunStore) -> None:
        super().__init__()
        store.client.flushdb()
        self._store, self._fan_outs = store, FanOuts(store)
        self._references: dict[str, FanRun] = {}
        self._attempts: list[Attempt] = []
        self._running: dict[tuple[str, str, str], Attempt] = {}
        self._redriven = 0
        self._values = 0
        self._run = ""

    @property
    def _reference(self) -> FanRun:
        return self._references[self._run]

    # Producers

    @initialize(plan=plans(), large=st.booleans(), gives=DELEGATES, steps=STEPS)
    def submit_first(self, plan: tuple[PlanStep, ...], gives: Work | None, steps: int, *, large: bool) -> None:
        self._submit(plan, large=large)
        self.go_on([0] * steps, gives, None)

    @precondition(lambda self: len(self._references) < ENOUGH_RUNS and self._is("completed", "cancelled"))
    @rule(plan=plans(), gives=DELEGATES, steps=STEPS)
    def submit(self, plan: tuple[PlanStep, ...], gives: Work | None, steps: int) -> None:
        self._submit(plan, large=False)
        self.go_on([0] * steps, gives, None)

    def _is(self, *statuses: str) -> bool:
        return self._reference.status in statuses

    def _submit(self, plan: tuple[PlanStep, ...], *, large: bool) -> None:
        value = self._value(large=large)
        submission = Submission(flow="f", plan=plan, value=value, deadline=3600.0, retention=RETENTION, tags={})
        self._run = self._store.submit([submission])[0].run_id
        losses = self._store.settings.max_attempts
        self._references[self._run] = FanRun(self._run, plan, value, max_losses=losses)
        self._check()

    # Workers

    @precondition(lambda self: self._is(*LIVE))
    @rule(pick=PICK, ask=ASKED, gives=DELEGATES, more=AGAIN, large=st.booleans(), accepted=st.booleans())
    def work(self, pick: int, ask: Ask, gives: Work | None, more: Work | None, *, large: bool, accepted: bool) -> None:
        """Let one of the steps whose turn it is come to an output."""
        if attempt := self._at_work(pick, ask, gives, more, large=large, accepted=accepted):
            self._hand_in(attempt)

    @precondition(lambda self: self._is(*LIVE))
    @rule(picks=st.lists(PICK, min_size=2, max_size=5), gives=DELEGATES, more=AGAIN)
    def go_on(self, picks: list[int], gives: Work | None, more: Work | None) -> None:
        """Bring a run on as it should go, several steps at a time, so that all else meets runs of every age."""
        for pick in picks:
            self.work(pick, Ask("complete"), gives, more, large=False, accepted=pick % 2 == 1)

    @precondition(lambda self: self._is("running", "waiting"))
    @rule(picks=st.lists(PICK, min_size=2, max_size=7), fails=PICK, gives=DELEGATES, more=AGAIN)
    def work_together(self, picks: list[int], fails: int, gives: Work | None, more: Work | None) -> None:
        """Let all begin whose turn it is, and end in any order: some of them when they are not needed any more."""
        begun = [
            self._at_work(number, Ask("complete"), gives, more, accepted=number % 2 == 1)
            for number in range(len(self._reference.active))
        ]
        attempts = [attempt for attempt in begun if attempt is not None]
        for number, pick in enumerate(picks[: len(attempts)]):
            attempt = attempts.pop(pick % len(attempts))
            if number == fails:
                self._fail(attempt, 0)
            else:
                self._hand_in(attempt)

    @precondition(lambda self: self._is(*LIVE))
    @rule(pick=PICK, ask=ASKED, gives=DELEGATES, more=AGAIN)
    def begin(self, pick: int, ask: Ask, gives: Work | None, more: Work | None) -> None:
        """Let one of the steps whose turn it is begin, and no more yet."""
        self._at_work(pick, ask, gives, more)

    @rule(pick=PICK, nonce=st.sampled_from("abw"), to=st.sampled_from(["its agent", "its first agent", "another"]))
    def deliver(self, pick: int, nonce: str, to: str) -> None:
        """Deliver a message of any step: first, again, early, late, to whom it does not belong."""
        name = self._any(pick)
        step = self._reference.steps[name]
        agent = {"its agent": step.agent, "its first agent": step.instead_of or step.agent}.get(to, "someone-else")
        self._begin(name, agent, nonce, Ask("complete"), None, None)

    def _at_work(
        self,
        pick: int,
        ask: Ask,
        gives: Work | None,
        more: Work | None = None,
        *,
        large: bool = False,
        accepted: bool = False,
    ) -> Attempt | None:
        """Bring one of the steps that something can happen to to its execution; None where it does not begin."""
        if not (active := self._reference.active):
            return None
        name = active[pick % len(active)]
        step = self._reference.steps[name]
        if step.status == "waiting":
            self._decide(name, "approve")
        elif step.status == "delayed":
            self._wake(name, turn=True)
        if step.status == "ready":
            return self._begin(name, step.agent, "w", ask, gives, more, large=large, accepted=accepted)
        return self._running.get((self._run, name, step.fence or "")) if step.status == "running" else None

    def _begin(
        self,
        name: str,
        agent: str,
        nonce: str,
        ask: Ask,
        gives: Work | None,
        more: Work | None,
        *,
        large: bool = False,
        accepted: bool = False,
    ) -> Attempt | None:
        reference = self._reference
        nonce = f"{nonce}{self._redriven}"
        expected = reference.begin(name, agent, nonce)
        begun = self._store.begin(self._run, name, agent=agent, nonce=nonce, worker="w")
        self._check()
        if not isinstance(begun, Begun):
            assert begun.why == expected
            return None
        assert expected == "execute"
        step = reference.steps[name]
        assert (begun.fence, begun.value, begun.draft) == (step.fence, reference.taken(name), step.draft)
        if step.value is FAN:
            fan = self._fan_outs.load(self._run, name)
            assert fan is not None
            told = [(one.name, one.outcome, answer) for one, answer in self._fan_outs.gather(self._run, fan)]
            assert told == reference.gathered(name)
        key = (self._run, name, begun.fence)
        if key not in self._running:
            # Else the reply to the same begin was lost: it is one execution, with one output.
            self._running[key] = self._attempt(begun, ask, gives, more, large=large, accepted=accepted)
            self._attempts.append(self._running[key])
        return self._running[key]

    def _attempt(
        self, begun: Begun, ask: Ask, gives: Work | None, more: Work | None, *, large: bool, accepted: bool
    ) -> Attempt:
        """Settle what an execution will hand in."""
        step, value = begun.step, self._value(large=large)
        own = self._reference.fans.get(step.fan or "")
        accepts = accepted and step.next is None and own is not None and own.terms is not None and own.terms.accept
        if (step.undoes or step.delegates) and ask.verdict not in {"complete", "partial"}:
            ask = Ask("complete")  # neither has a gate
        if step.delegates and ask.verdict == "complete":
            ask = Ask("answer", reason=ask.reason, tokens=ask.tokens)
        fan_name = (step.next or "") if step.delegates else step.name
        fan = self._reference.fans.get(fan_name)
        work = gives if step.delegates else more if step.joins and fan and fan.round < ROUNDS else None
        if work is None or ask.verdict not in {"answer", "complete"}:
            return Attempt(begun, value, ask, accepts)
        most = max(0, MOST_STEPS - len(self._reference.steps)) // 2
        number = fan.round + 1 if fan and step.joins else 1
        members = work.members(fan_name, start=fan.total if fan else 0, number=number, most=most)
        return Attempt(begun, value, ask, accepts, fan_name, tuple(members), work.terms(members))

    def _hand_in(self, attempt: Attempt) -> None:
        run, name, fence = attempt.key
        begun, ask, reference = attempt.begun, attempt.ask, self._references[run]
        step = reference.steps.get(name)
        if step and fence in step.committed and reference.lasts_longer and len(attempt.value) > CLAIM_BYTES:
            # What is sent again when a reply was lost is the script alone, not the value behind the claim check.
            return
        if attempt.terms is not None:
            more = attempt.fan, attempt.members, attempt.terms, attempt.value
            expected = reference.delegate(name, fence, *more, ask.tokens)
            told = self._fan_outs.delegate(begun, *more, (ask.tokens, 0.0))
        else:
            expected = reference.commit(name, fence, attempt.value, ask, accepted=attempt.accepted)
            plain = Ask("complete", reason=ask.reason) if ask.verdict == "answer" else ask
            said = {**details(plain), **({"accepted": True} if attempt.accepted else {})}
            told = self._store.commit(begun, attempt.value, ask.verdict, said, (ask.tokens, 0.0))
        assert told.what == expected
        self._check(run, told.ready)

    @rule(pick=PICK, call=st.sampled_from(LATE_CALLS), later=LATERS, tokens=TOKENS, even_its_owner=SELDOM)
    def call_late(self, pick: int, call: str, later: Later, tokens: int, *, even_its_owner: bool) -> None:
        """Let any execution there ever was come back: twice, after its lease was lost, after the others joined."""
        if not self._attempts:
            return
        attempt = self._attempts[-1 - pick % len(self._attempts)]
        run, name, fence = attempt.key
        owns = self._references[run].owns(name, fence)
        if owns == "yes" and not even_its_owner and call in {"fail", "degrade"}:
            return
        match call:
            case "hand in":
                self._hand_in(attempt)
            case "renew":
                assert self._store.renew([attempt.key]) == ["renewed" if owns == "yes" else owns]
            case "record":
                self._record(attempt)
            case "fail":
                self._fail(attempt, tokens)
            case "postpone":
                self._postpone(attempt, later)
            case _:
                self._degrade(attempt, tokens)
        self._check(run)

    def _record(self, attempt: Attempt) -> None:
        run, name, fence = attempt.key
        step, value = attempt.begun.step, self._value(large=False)
        key = step.revision, step.degraded, f"charge+{step.rung if step.degraded else ''}"
        if name not in self._references[run].steps:
            expected: bytes | str = "closed"
        else:
            expected = self._references[run].record(name, fence, key, value)
        try:
            assert self._store.record(attempt.begun, "charge", value) == expected
        except LeaseLost:
            assert expected in {"stale", "closed"}

    def _fail(self, attempt: Attempt, tokens: int) -> None:
        run, name, fence = attempt.key
        for _ in range(2):
            expected = self._references[run].fail(name, fence, tokens)
            told = self._store.fail(attempt.begun, "it\nfailed", spent=(tokens, 0.0))
            assert told.what == expected
            self._check(run, told.ready)

    def _postpone(self, attempt: Attempt, later: Later) -> None:
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

    def _degrade(self, attempt: Attempt, tokens: int) -> None:
        run, name, fence = attempt.key
        for _ in range(2):
            expected = self._references[run].degrade(name, fence, SPARE, 1, tokens)
            told = self._store.degrade(attempt.begun, SPARE, "503", rung=1, spent=(tokens, 0.0))
            assert told.what == expected
            self._check(run)

    @precondition(lambda self: self._is(*LIVE))
    @rule(before=BEFORE, pick=PICK, how=st.sampled_from(TROUBLES), later=LATERS, gives=DELEGATES)
    def get_into_trouble(self, before: list[int], pick: int, how: str, later: Later, gives: Work | None) -> None:
        """Bring the run on, and let an attempt come to no output."""
        self.go_on(before, gives, None)
        attempt = self._at_work(pick, Ask("complete"), gives)
        if attempt is None:
            return
        run, name, _ = attempt.key
        match how:
            case "fail":
                self._fail(attempt, 1)
            case "postpone":
                self._postpone(attempt, later)
                self._wake(name, turn=False)
            case "degrade":
                self._degrade(attempt, 1)
            case "partial":
                if attempt.begun.step.fan or before:  # it ends the run, where it is no member's
                    self._running[attempt.key] = part = Attempt(
                        attempt.begun, attempt.value, Ask("partial", reason="?"), accepted=False
                    )
                    self._attempts[self._attempts.index(attempt)] = part
                    self._hand_in(part)
                    self._hand_in(part)
            case "overrun":
                self._let_step_be_late(name)
                self._overrun(name)
            case _:
                self._lose(name, expired=True)
                for _ in range(2 if how == "poison" else 0):
                    if self._reference.steps[name].status == "delayed":
                        self._wake(name, turn=True)
                    self._begin(name, self._reference.steps[name].agent, "p", Ask("complete"), gives, None)
                    self._lose(name, expired=True)
        self._check(run)

    # People

    @rule(pick=PICK, choice=st.sampled_from(["approve", "reject", "fallback", None]))
    def decide(self, pick: int, choice: Choice | None) -> None:
        """Settle what waits, or does not."""
        self._decide(self._any(pick), choice)

    def _decide(self, name: str, choice: Choice | None) -> None:
        expected = self._reference.decide(name, choice)
        told = self._store.decide(self._run, name, choice, by="me", note="because")
        if told.what == "decided":
            # As if the reply to the same decision had been lost: it stands, and nothing changes.
            step = self._store.load(self._run).step(name)
            assert step is not None
            assert step.decision is not None
            assert (step.decision.choice, expected in {"not waiting", "closed"}) == (choice, True)
        else:
            assert told.what == expected
        self._check(ready=told.ready)

    @rule(even_if_live=SELDOM)
    def cancel(self, *, even_if_live: bool) -> None:
        if self._reference.may_have_children and not even_if_live:
            return
        expected = self._reference.cancel()
        assert self._store.cancel(self._run, reason="enough", by="me").what == expected
        self._check()

    @precondition(lambda self: self._is("failed") or self._values % 4 == 0)
    @rule(
        pick=st.none() | st.none() | PICK,
        value=st.none() | st.none() | st.booleans(),
        agent=st.sampled_from(["", "", SPARE]),
    )
    def redrive(self, pick: int | None, agent: str, *, value: bool | None) -> None:
        """Let the run go on: from where it failed, from the boss, the join, a member; as it was or not."""
        self._redrive("" if pick is None else self._any(pick), agent, value=value)

    def _redrive(self, name: str, agent: str, *, value: bool | None) -> None:
        given = None if value is None else self._value(large=value)
        where = goes_on_at(self._store.load(self._run))
        expected = self._reference.redrive(name, given, agent)
        if not name and expected[0] != "not failed":
            assert where == expected[1]
        change = self._store.redrive(self._run, step=name, value=given, agent=agent, deadline=3600.0, by="me")
        assert (change.what, change.step) == expected
        self._redriven += expected[0] == "redriven"
        self._check(ready=change.ready)

    @precondition(lambda self: not self._is("completed", "cancelled"))
    @rule(
        before=BEFORE,
        picks=st.lists(PICK, min_size=2, max_size=6),
        gives=DELEGATES,
        more=AGAIN,
        where=st.sampled_from([("", None), ("", None), ("boss", None), ("join", None), ("join", True)]),
        undo=st.booleans(),
    )
    def fail_and_redrive(
        self,
        before: list[int],
        picks: list[int],
        gives: Work | None,
        more: Work | None,
        where: tuple[str, bool | None],
        *,
        undo: bool,
    ) -> None:
        """Let steps fail until the run does, and what was done be undone, or not; then let it go on."""
        self.go_on(before, gives, more)
        for pick in picks:
            if self._is("failed"):
                break
            attempt = self._at_work(pick, Ask("complete"), gives)
            if attempt is not None and undo and attempt.begun.step.undoes:
                self._hand_in(attempt)
            elif attempt is not None:
                self._fail(attempt, 0)
        name, value = where
        wanted = next((each for each in self._reference.spine if name and each.endswith(name)), "")
        self._redrive(wanted, "", value=value)

    @rule()
    def drop(self) -> None:
        """Give the run up."""
        assert self._store.drop(self._run, by="me") == self._reference.drop()
        self._check()

    # The caretaker

    @rule(pick=PICK, turn=st.booleans())
    def wake(self, pick: int, *, turn: bool) -> None:
        self._wake(self._any(pick), turn=turn)

    def _wake(self, name: str, *, turn: bool) -> None:
        expected = self._reference.wake(name, turn=turn)
        assert self._store.wake([(self._run, name)], turn=turn) == [expected]
        self._check()

    @rule(pick=PICK)
    def overrun(self, pick: int) -> None:
        self._overrun(self._any(pick))

    def _overrun(self, name: str) -> None:
        for _ in range(2):
            expected = self._reference.overrun(name)
            told = self._store.overrun(self._run, name)
            assert told.what == expected
            self._check(ready=told.ready)

    @rule(pick=PICK, expired=st.booleans())
    def lose(self, pick: int, *, expired: bool) -> None:
        self._lose(self._any(pick), expired=expired)

    def _lose(self, name: str, *, expired: bool) -> None:
        if expired:
            leases = keys.leases(keys.shard_of(self._run))
            self._store.client.zadd(leases, {keys.member(self._run, name): LONG_AGO_MS}, xx=True)
        expected = self._reference.lost(name, expired=expired)
        told = self._store.lost(self._run, name)
        assert told.what == expected
        self._check(ready=told.ready)

    @rule(pick=PICK, of=st.sampled_from(["step", "fan", "fan", "run"]), really=SELDOM)
    def time_passes(self, pick: int, of: str, *, really: bool) -> None:
        """Move the time that a step, a fan-out or the run has into the past."""
        reference = self._reference
        if of == "step" and reference.active:
            self._let_step_be_late(reference.active[pick % len(reference.active)])
        elif of == "fan" and (fans := reference.open_fans()):
            self._let_fan_be_due(fans[pick % len(fans)].name)
        elif of == "run" and really and reference.status in LIVE:
            self._store.client.hset(keys.run(self._run), "deadline_ms", LONG_AGO_MS)
            self._store.client.zadd(keys.timers(keys.shard_of(self._run)), {self._run: LONG_AGO_MS}, xx=True)
            reference.overdue = True
        self._check()

    def _let_step_be_late(self, name: str) -> None:
        if self._reference.steps[name].within_ms:
            self._move(f"step:{name}", f"/{name}")
            self._reference.steps[name].late = True

    def _let_fan_be_due(self, name: str) -> None:
        fan = self._reference.fans[name]
        if fan.terms is not None and fan.terms.within is not None:
            self._move(f"fan:{name}", f"//{name}")
            fan.due = True

    def _move(self, field: str, timer: str) -> None:
        record = json.loads(cast("bytes", self._store.client.hget(keys.run(self._run), field)))
        self._store.client.hset(keys.run(self._run), field, json.dumps(record | {"until_ms": LONG_AGO_MS}))
        timers = keys.timers(keys.shard_of(self._run))
        self._store.client.zadd(timers, {keys.member(self._run, timer): LONG_AGO_MS}, xx=True)

    @rule(pick=PICK, due=SELDOM)
    def join(self, pick: int, *, due: bool) -> None:
        """Look at the time of a fan-out, twice: in time, when it is over, when it is of no interest any more."""
        if not self._reference.fans:
            return
        names = list(self._reference.fans)
        name = names[pick % len(names)]
        if due and self._reference.fans[name] in self._reference.open_fans():
            self._let_fan_be_due(name)
        for _ in range(2):
            self._join(name)

    @precondition(lambda self: self._is("running", "waiting"))
    @rule(picks=st.lists(PICK, min_size=2, max_size=7), gives=DELEGATES, before=BEFORE, cancel=SELDOM, fails=PICK)
    def join_too_late(
        self, picks: list[int], gives: Work | None, before: list[int], fails: int, *, cancel: bool
    ) -> None:
        """Let a caretaker see that fan-outs' time is over, and come when something else has happened to them."""
        self.go_on(before, gives, None)
        for fan in self._reference.open_fans():
            self._let_fan_be_due(fan.name)
        self.work_together(picks, fails % 4, gives, None)
        if cancel:
            self.cancel(even_if_live=True)
        for name in list(self._reference.fans):
            self._join(name)

    def _join(self, name: str) -> None:
        expected = self._reference.join(name)
        told = self._fan_outs.join(self._run, name)
        assert told.what == expected
        self._check(ready=told.ready)

    @rule()
    def timers_ring(self) -> None:
        """Do with a run's timers what the caretaker does; one may make another's ringing late."""
        reference = self._reference
        found = [step for run, step in self._store.timers([keys.shard_of(self._run)]) if run == self._run]
        assert set(found) == reference.due()
        for step in found:
            if step is None:
                expected = reference.expire()
                assert self._store.expire(self._run).what == expected
            elif step.startswith("//"):
                self._join(step[2:])
            elif step.startswith("/"):
                self._overrun(step[1:])
            elif reference.wake(step, turn=False) == "waiting":
                assert self._store.wake([(self._run, step)]) == ["waiting"]
                self._decide(step, None)
            else:
                self._store.wake([(self._run, step)])
            self._check()

    # What must hold

    def teardown(self) -> None:
        for run in self._references:
            self._check(run)
        no_key_left_without_ttl_or_declaration(self._store.client)

    def _check(self, run: str = "", ready: tuple[tuple[str, str], ...] = ()) -> None:
        """Compare the run with its log, its indexes and the reference."""
        run = run or self._run
        reference = self._references[run]
        snapshot = look(self._store, run)
        moved = {"": LONG_AGO_MS} if reference.overdue else {}
        moved |= {step.name: LONG_AGO_MS for step in reference.steps.values() if step.late}
        moved |= {f"//{fan.name}": LONG_AGO_MS for fan in reference.fans.values() if fan.due}
        found = problems(snapshot, moved=moved)
        assert not found, "\n".join(found)
        state = snapshot.state
        assert (state.status, state.partial) == (reference.status, reference.partial)
        assert (state.failure.kind if state.failure else None) == reference.kind
        assert snapshot.values.get(state.output or "") == reference.output
        assert {name for name, _ in ready} <= {step.name for step in state.steps if step.status == "ready"}
        if state.status == "completed":
            assert not [step.name for step in state.steps if step.status == "pending"]
        self._check_steps(snapshot, reference)
        _check_fans(state, reference)
        _check_joins(snapshot)

    @staticmethod
    def _check_steps(snapshot: Snapshot, reference: FanRun) -> None:
        assert sorted(step.name for step in snapshot.state.steps) == sorted(reference.steps)
        values = snapshot.values
        for step in snapshot.state.steps:
            model = reference.steps[step.name]
            assert (step.name, step.status, step.agent) == (step.name, model.status, model.agent)
            assert (step.name, step.degraded) == (step.name, model.degraded)
            assert (step.attempt, step.begins, step.revision) == (model.attempt, model.begins, model.revision)
            assert (step.feedback, step.fence, step.sent_back) == (model.feedback, model.fence, model.sent_back)
            assert (step.losses, step.rung, step.tokens) == (model.losses, model.rung, model.tokens)
            assert (step.undoes, step.undone, step.instead_of) == (model.undoes, model.undone, model.instead_of)
            assert step.effects == model.effects
            assert step.next == model.next
            assert (step.input == f"fan:{step.name}") == (model.value is FAN)
            assert model.value is FAN or values.get(step.input or "") == model.value
            assert values.get(step.draft or "") == model.draft
            assert model.output in (None, values.get(step.output or ""))

    def _any(self, pick: int) -> str:
        names = list(self._reference.steps)
        active = self._reference.active
        return active[pick % len(active)] if active and pick % 2 else names[pick % len(names)]

    def _value(self, *, large: bool) -> bytes:
        self._values += 1
        return json.dumps([self._values, "x" * CLAIM_BYTES if large else ""]).encode()


def _check_fans(state: RunState, reference: FanRun) -> None:
    assert set(state.fans) == set(reference.fans)
    for name, fan in state.fans.items():
        model = reference.fans[name]
        assert (fan.total, fan.verdict) == (model.total, model.verdict)
        if model.terms is None:
            assert fan.size == 0
            continue
        assert (fan.round, fan.size, fan.width) == (model.round, len(model.current), model.terms.width)
        assert (fan.ended, fan.failed) == (model.ended, model.count("failed"))
        assert (fan.good, fan.good_weight) == (model.count("ok", "degraded"), model.weigh("ok", "degraded"))
        assert (fan.bad_weight, fan.degraded) == (model.weigh("failed"), model.degraded)
        assert fan.opened == sum(member.opened or member.outcome is not None for member in model.current)
        assert model.in_flight <= fan.width


def _check_joins(snapshot: Snapshot) -> None:
    """A fan-out comes together once each time that it is given out or goes on."""
    open_: Counter[str] = Counter()
    for event in snapshot.events:
        name = str(event.data.get("fan"))
        if event.type == "StepDelegated":
            open_[name] = 1
        elif event.type == "RunRedriven" and event.data.get("reopens"):
            open_[str(event.data["step"])] = 1
        elif event.type == "FanOutJoined":
            open_[name] -= 1
            assert open_[name] == 0, f"{name} came together twice"
    if snapshot.state.status == "completed" and not snapshot.state.partial:
        for name, fan in snapshot.state.fans.items():
            step = snapshot.state.step(name)
            assert step is None or step.status == "cancelled" or fan.verdict or not fan.size, (
                f"{name} never came together"
            )
