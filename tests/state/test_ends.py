"""How runs end and go on again: late timers, what is undone, redriven, dropped, and the children of what has ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from orchestrator.messages import PlanStep
from orchestrator.state import keys
from orchestrator.state.letters import dead_letter
from orchestrator.state.runs import Begun, Change, RunStore, Submission
from tests.servers import no_key_left_without_ttl_or_declaration, on_valkey, wait_until
from tests.state.invariants import look, problems

if TYPE_CHECKING:
    from collections.abc import Iterator

    from redis import Redis

    from orchestrator import Settings
    from orchestrator.messages import Event

pytestmark = on_valkey

AT_ONCE_MS = 1
PLAN = (
    PlanStep(name="book", agent="a", next="pay", undo="unbook"),
    PlanStep(name="pay", agent="b", next="ship", undo="refund"),
    PlanStep(name="ship", agent="c", within_ms=AT_ONCE_MS),
)
LASTING = tuple(one.model_copy(update={"undo": None, "within_ms": None}) for one in PLAN)
"""Steps that nothing undoes."""


@pytest.fixture
def store(redis_client: Redis, settings: Settings) -> Iterator[RunStore]:
    """A store whose claim checks begin early; what it leaves behind is looked at."""
    store = RunStore(redis_client, settings.model_copy(update={"claim_check_bytes": 100, "max_attempts": 2}))
    yield store
    no_key_left_without_ttl_or_declaration(redis_client)


def submit(
    store: RunStore, plan: tuple[PlanStep, ...] = PLAN, parent: str | None = None, key: str | None = None
) -> str:
    value = b'"%s"' % (b"x" * 200)
    submission = Submission(
        flow="f", plan=plan, value=value, deadline=60.0, retention=60.0, tags={}, parent=parent, key=key
    )
    return store.submit([submission])[0].run_id


def begin(store: RunStore, run: str, name: str) -> Begun:
    step = store.load(run).step(name)
    assert step is not None
    begun = store.begin(run, name, agent=step.agent, nonce="n", worker="w")
    assert isinstance(begun, Begun)
    return begun


def told(change: Change) -> tuple[str, str]:
    return change.what, change.step


def work(store: RunStore, run: str, *names: str) -> None:
    for name in names:
        store.commit(begin(store, run, name), b'"%s"' % name.encode())


def why(store: RunStore, run: str, name: str) -> str:
    return getattr(store.begin(run, name, agent="a", nonce="m", worker="w"), "why", "")


def now_ms(store: RunStore) -> int:
    seconds, micros = store.client.time()
    return seconds * 1000 + micros // 1000


def last(store: RunStore, run: str) -> Event:
    return store.events(run)[-1]


def test_a_step_that_is_late_for_two_caretakers_fails_once_and_what_was_done_is_undone(store: RunStore) -> None:
    # given a run whose last step is not done in time
    run = submit(store)
    work(store, run, "book", "pay")
    store.client.hset(keys.run(run), "step:ship", '{"agent":"c","status":"ready","within_ms":1,"until_ms":1}')

    # when two caretakers have seen its timer
    assert store.overrun(run, "ship").what == "undoing"
    assert store.overrun(run, "ship").what == "closed"

    # then the run is being undone, the last step first
    assert (store.load(run).status, why(store, run, "ship")) == ("undoing", "closed")
    work(store, run, "pay~undo", "book~undo")
    state = store.load(run)
    assert (state.status, state.reason) == ("failed", "ship: not done in the time it has")
    assert state.failure is not None
    assert (state.failure.kind, state.failure.step) == ("deadline", "ship")


def test_a_step_at_work_has_a_moment_to_end_by_itself_when_its_time_is_over(store: RunStore) -> None:
    # given a step at work
    run = submit(store, (PLAN[2].model_copy(update={"within_ms": 300}),))
    begun = begin(store, run, "ship")
    wait_until(lambda: now_ms(store) > (begun.step.until_ms or 0), 5, "its time is over")

    # when the caretaker sees that, then the step can still end with a fixed output
    assert store.overrun(run, "ship").what == "early"
    store.commit(begun, b"1", "complete", {"reason": "a fixed output: late"})
    assert store.load(run).status == "completed"


def test_what_an_attempt_has_used_counts_once_where_its_step_was_closed_and_not_where_it_went_on(
    store: RunStore,
) -> None:
    # given attempts of a run that was cancelled, and of one that goes on
    cancelled, goes_on = submit(store, LASTING), submit(store, LASTING)
    first, other = begin(store, cancelled, "book"), begin(store, goes_on, "book")
    store.cancel(cancelled, reason="", by="")

    # when each tells twice what it has used
    for begun in (first, first, other, other):
        store.spend(begun, (70, 0.5))

    # then
    assert (store.load(cancelled).tokens, store.load(cancelled).cost) == (70, 0.5)
    assert store.load(goes_on).tokens == 0
    assert problems(look(store, cancelled)) == []
    store.cancel(goes_on, reason="", by="")


def test_a_run_that_is_being_undone_cannot_be_cancelled(store: RunStore) -> None:
    run = submit(store)
    work(store, run, "book")
    store.fail(begin(store, run, "pay"), "declined")

    assert store.cancel(run, reason="", by="me").what == "closed"
    assert store.load(run).status == "undoing"


def test_a_step_is_not_given_back_for_longer_than_it_has(store: RunStore) -> None:
    # given a step that must be done within a minute
    run = submit(store, (PlanStep(name="ask", agent="a", within_ms=60_000),))
    begun = begin(store, run, "ask")

    # when it is to be tried again after that, or after its retries' own time, then nothing is written
    assert store.postpone(begun, 61.0, "503") == "late"
    assert store.postpone(begun, 30.0, "503", total=20.0) == "late"
    assert store.load(run).steps[0].status == "running"
    assert store.postpone(begun, 30.0, "503", total=40.0) == "delayed"
    store.cancel(run, reason="", by="")


def test_what_is_not_undone_is_told_and_the_rest_is_undone_all_the_same(store: RunStore) -> None:
    # given a run that was cancelled without a reason
    run = submit(store)
    work(store, run, "book", "pay")
    assert store.cancel(run, reason="", by="me").what == "undoing"

    # when the first step's undoing fails, and the other is done
    assert store.fail(begin(store, run, "pay~undo"), "no such payment").what == "undoing"
    work(store, run, "book~undo")

    # then
    state = store.load(run)
    assert (state.status, state.reason) == ("failed", "pay is not undone: no such payment")
    assert [step.undone for step in state.steps[:2]] == [True, False]
    assert state.failure is not None
    assert (state.failure.kind, state.failure.step) == ("undo", "pay~undo")
    assert problems(look(store, run)) == []


def test_what_is_undone_in_part_is_not_undone_and_its_run_not_completed(store: RunStore) -> None:
    # given a run that is being undone
    run = submit(store)
    work(store, run, "book")
    store.fail(begin(store, run, "pay"), "declined")

    # when its undoing ends with a part, twice because the reply was lost
    begun = begin(store, run, "book~undo")
    for _ in range(2):
        assert store.commit(begun, b"1", "partial", {"reason": "no budget"}).what == "finished"

    # then
    state = store.load(run)
    assert (state.status, state.partial) == ("failed", False)
    assert state.reason == "pay: declined; book is not undone: no budget"
    assert problems(look(store, run)) == []


SENT_BACK = (
    PlanStep(name="book", agent="a", next="check", undo="unbook"),
    PlanStep(name="check", agent="b", gated=True, start="book"),
)
"""Two steps, of which a gate behind the second sends the run back to the first."""


def test_what_was_done_before_a_later_gate_sent_it_back_is_undone(store: RunStore) -> None:
    # given a step that is done, and sent back by the gate behind the next one
    run = submit(store, SENT_BACK)
    store.commit(begin(store, run, "book"), b'"monday"')
    store.commit(begin(store, run, "check"), b"1", "revise", {"feedback": "another date"})
    assert store.load(run).steps[0].status == "ready"

    # when the run is cancelled
    assert store.cancel(run, reason="", by="me").what == "undoing"

    # then it is undone, with what it gave
    undoing = begin(store, run, "book~undo@0")
    assert (undoing.value, undoing.step.undoes) == (b'"monday"', "book")
    store.commit(undoing, b"1")
    state = store.load(run)
    assert (state.status, state.steps[0].undone, state.steps[0].earlier) == ("cancelled", True, ())
    assert problems(look(store, run)) == []


def test_what_was_done_twice_is_undone_twice_the_last_first_each_under_a_key_of_its_own(store: RunStore) -> None:
    # given a step that was done again after a gate had sent it back
    run = submit(store, SENT_BACK)
    store.commit(begin(store, run, "book"), b'"monday"')
    store.commit(begin(store, run, "check"), b"1", "revise", {"feedback": "another date"})
    store.commit(begin(store, run, "book"), b'"tuesday"')
    assert problems(look(store, run)) == []

    # when the run fails
    assert store.fail(begin(store, run, "check"), "no").what == "undoing"

    # then both are undone, and what the undoing of one records is not taken for the other's
    for name, value in (("book~undo", b'"tuesday"'), ("book~undo@0", b'"monday"')):
        undoing = begin(store, run, name)
        assert undoing.value == value
        assert undoing.step.known_as == "book~undo"
        assert store.recall(undoing, "release") is None
        store.record(undoing, "release", value)
        store.commit(undoing, b"1")
    assert store.load(run).status == "failed"
    assert problems(look(store, run)) == []

    # when it is redriven and fails once more, then only what was done since is undone
    redrive(store, run)
    store.commit(begin(store, run, "book"), b'"friday"')
    store.fail(begin(store, run, "check"), "no")
    assert [step.name for step in store.load(run).steps if step.undoes] == ["book~undo"]
    work(store, run, "book~undo")
    assert problems(look(store, run)) == []


def test_what_is_undone_of_a_step_that_was_done_twice_is_not_undone_again_with_the_rest(store: RunStore) -> None:
    # given a run of which the later doing of a step could not be undone, and the earlier one was
    run = submit(store, SENT_BACK)
    store.commit(begin(store, run, "book"), b'"monday"')
    store.commit(begin(store, run, "check"), b"1", "revise", {"feedback": "another date"})
    store.commit(begin(store, run, "book"), b'"tuesday"')
    store.fail(begin(store, run, "check"), "no")
    store.fail(begin(store, run, "book~undo"), "no such booking")
    work(store, run, "book~undo@0")
    state = store.load(run)
    assert (state.reason, state.steps[0].undone) == ("check: no; book is not undone: no such booking", False)

    # when the run goes on from where it failed, and fails again
    redrive(store, run)
    store.fail(begin(store, run, "check"), "no")

    # then what is not undone yet is tried again, and nothing else
    assert [step.name for step in store.load(run).steps if step.undoes] == ["book~undo"]
    work(store, run, "book~undo")
    assert store.load(run).steps[0].undone
    assert problems(look(store, run)) == []


def test_what_is_not_undone_in_its_time_keeps_the_reason_for_which_it_was(store: RunStore) -> None:
    # given a run that is being undone, and whose time for that is over
    run = submit(store)
    work(store, run, "book")
    store.fail(begin(store, run, "pay"), "declined")
    assert store.expire(run).what == "early"
    store.client.hset(keys.run(run), "deadline_ms", 1)

    # when the caretaker looks
    assert store.expire(run).what == "cancelled"

    # then
    state = store.load(run)
    assert (state.status, state.reason) == ("failed", "pay: declined; not everything is undone in time")
    assert last(store, run).data["kind"] == "undo"
    assert [step.status for step in state.steps] == ["completed", "failed", "cancelled", "cancelled"]


def test_large_values_live_as_long_as_what_is_undone_and_redriven(store: RunStore) -> None:
    # given a run with a large input that is being undone
    run = submit(store)
    blob = keys.blob(run, "input")
    work(store, run, "book")
    before_ms = store.client.pttl(blob)
    store.fail(begin(store, run, "pay"), "declined")

    # then its values outlast the day that undoing may take, also where somebody wants to redrive it meanwhile
    assert store.client.pttl(blob) > before_ms + 80_000_000
    assert store.redrive(run, step="", value=None, agent="", deadline=1.0, by="me").what == "not failed"
    assert store.client.pttl(blob) > before_ms + 80_000_000

    # when it is redriven for longer still
    work(store, run, "book~undo")
    assert told(store.redrive(run, step="", value=None, agent="", deadline=10 * 86400.0, by="me")) == (
        "redriven",
        "book",
    )

    # then
    assert store.client.pttl(blob) > 10 * 86_400_000
    assert problems(look(store, run)) == []
    store.cancel(run, reason="", by="")


def test_a_large_value_lives_as_long_as_its_run_however_long_its_steps_name_is(store: RunStore) -> None:
    # given a large output of a stage with a name of more than a thousand bytes, and a run that fails after it
    long = "in einer Größe, die keiner braucht, " * 40
    plan = (PlanStep(name=long, agent="a", next="last"), PlanStep(name="last", agent="b"))
    run = submit(store, plan)
    begun = begin(store, run, long)
    store.commit(begun, b'"%s"' % (b"x" * 200))
    store.fail(begin(store, run, "last"), "cannot")
    # when it is redriven with more time
    change = store.redrive(run, step="", value=None, agent="", deadline=60 * 86_400.0, by="me")
    assert told(change) == ("redriven", "last")
    # then the value lives as long
    blob = keys.blob(run, f"{long}@1-{begun.fence}")
    assert store.client.pttl(blob) > 60 * 86_400_000
    store.cancel(run, reason="", by="me")


def test_what_is_undone_again_after_a_redrive_does_not_take_what_was_recorded_then_for_done(store: RunStore) -> None:
    # given a run whose undoing recorded what it did, and which is redriven
    run = submit(store)
    for recorded in (None, b"2"):
        work(store, run, "book")
        store.fail(begin(store, run, "pay"), "declined")
        undoing = begin(store, run, "book~undo")

        # when what is done anew is undone, then nothing is recorded of it yet
        assert store.recall(undoing, "release") is None
        assert store.record(undoing, "release", recorded or b"1") == (recorded or b"1")
        store.commit(undoing, b"1")
        if recorded is None:
            assert told(store.redrive(run, step="", value=None, agent="", deadline=60.0, by="me")) == (
                "redriven",
                "book",
            )

    assert store.load(run).status == "failed"
    assert problems(look(store, run)) == []


def test_a_redriven_run_keeps_nothing_that_its_later_steps_recorded_with_other_input(store: RunStore) -> None:
    # given a run whose second step recorded what it did, and failed
    run = submit(store, (PlanStep(name="book", agent="a", next="pay"), PlanStep(name="pay", agent="b")))
    work(store, run, "book")
    paying = begin(store, run, "pay")
    store.record(paying, "charge", b"1")
    store.fail(paying, "declined")

    # when it is redriven from where it failed, then what was recorded stands
    assert told(store.redrive(run, step="", value=None, agent="", deadline=60.0, by="me")) == ("redriven", "pay")
    paying = begin(store, run, "pay")
    assert store.recall(paying, "charge") == b"1"
    store.fail(paying, "declined")

    # when it is redriven from before, then it is of another input
    assert told(store.redrive(run, step="book", value=None, agent="", deadline=60.0, by="me")) == ("redriven", "book")
    work(store, run, "book")
    assert store.recall(begin(store, run, "pay"), "charge") is None
    store.cancel(run, reason="", by="")


def test_a_redriven_step_may_be_sent_back_as_often_as_before(store: RunStore) -> None:
    # given a step that its gate has sent back, and that failed then
    run = submit(store, (PlanStep(name="draft", agent="a", gated=True),))
    store.commit(begin(store, run, "draft"), b"1", "revise", {"feedback": "shorter"})
    store.fail(begin(store, run, "draft"), "no")

    # when it is redriven
    store.redrive(run, step="", value=None, agent="", deadline=60.0, by="me")

    # then its gate begins to count anew
    assert begin(store, run, "draft").step.sent_back == 0
    assert problems(look(store, run)) == []
    store.cancel(run, reason="", by="")


GATED = (
    PlanStep(name="in/draft", agent="a", next="in/check"),
    PlanStep(name="in/check", agent="b", gated=True, start="in/draft"),
)
"""A stage that is a flow: its gate is behind the last step, and its fallback takes what the first one took."""


@pytest.mark.parametrize("how", ["gate", "person"])
def test_a_step_that_is_redriven_after_its_gates_fallback_failed_takes_what_it_took_itself(
    store: RunStore, how: str
) -> None:
    # given a stage whose output its gate, or a person, gave to a fallback
    run = submit(store, GATED)
    work(store, run, "in/draft")
    if how == "gate":
        store.commit(begin(store, run, "in/check"), b"1", "fallback", {"agent": "spare", "reason": "not sure"})
    else:
        asks = {"question": "?", "timeout_ms": 60_000, "default": "reject", "fallback": "spare"}
        store.commit(begin(store, run, "in/check"), b"1", "wait", asks)
        store.decide(run, "in/check", "fallback", by="me")
    begun = begin(store, run, "in/check")
    assert (begun.step.agent, begun.value[:3]) == ("spare", b'"xx')
    assert problems(look(store, run)) == []

    # when that fails, and the run is redriven
    store.fail(begun, "no")
    store.redrive(run, step="", value=None, agent="", deadline=60.0, by="me")

    # then
    begun = begin(store, run, "in/check")
    assert (begun.step.agent, begun.step.instead_of, begun.value) == ("b", None, b'"in/draft"')
    assert problems(look(store, run)) == []
    store.cancel(run, reason="", by="")


def test_the_agents_own_fallback_takes_what_the_step_took_after_that_of_its_gate(store: RunStore) -> None:
    # given
    run = submit(store, GATED)
    work(store, run, "in/draft")
    store.commit(begin(store, run, "in/check"), b"1", "fallback", {"agent": "spare", "reason": "not sure"})

    # when
    store.degrade(begin(store, run, "in/check"), "simple", "no", rung=1)

    # then
    begun = begin(store, run, "in/check")
    assert (begun.step.agent, begun.step.instead_of, begun.step.took) == ("simple", "b", None)
    assert begun.value == b'"in/draft"'
    assert problems(look(store, run)) == []
    store.cancel(run, reason="", by="")


@pytest.mark.parametrize(
    ("step", "value", "outcome"),
    [
        ("nothing", None, ("no step", "nothing")),
        ("book~undo", None, ("no step", "book~undo")),
        ("ship", None, ("undone", "book")),
        ("pay", None, ("undone", "book")),
        ("pay", b"1", ("undone", "book")),
        ("ship", b"1", ("undone", "book")),
        ("", b"1", ("elsewhere", "book")),
        ("book", b"1", ("redriven", "book")),
        ("", None, ("redriven", "book")),
    ],
)
def test_a_run_whose_steps_were_undone_is_redriven_from_there_and_an_input_is_for_the_step_it_names(
    store: RunStore, step: str, value: bytes | None, outcome: tuple[str, str]
) -> None:
    # given a run that failed at its second step, the first undone
    run = submit(store)
    work(store, run, "book")
    store.fail(begin(store, run, "pay"), "declined")
    work(store, run, "book~undo")

    # when
    assert told(store.redrive(run, step=step, value=value, agent="", deadline=60.0, by="me")) == outcome

    # then
    assert store.load(run).status == ("running" if outcome[0] == "redriven" else "failed")
    assert problems(look(store, run)) == []
    store.cancel(run, reason="", by="")


@pytest.mark.parametrize("step", ["pay", "ship", ""])
def test_a_step_that_failed_may_be_passed_over_with_an_input_where_nothing_was_undone(
    store: RunStore, step: str
) -> None:
    # given a run that failed at its second step, and has nothing to undo
    run = submit(store, LASTING)
    work(store, run, "book")
    store.fail(begin(store, run, "pay"), "declined")

    # when it goes on with an input: for the step that failed, for the next one, or for no step by name
    name = step or "pay"
    assert told(store.redrive(run, step=step, value=b"1", agent="", deadline=60.0, by="me")) == ("redriven", name)
    assert begin(store, run, name).value == b"1"

    # then, where that was passed over and the next one fails, an input without a step could be for either
    if name == "ship":
        store.fail(begin(store, run, "ship"), "lost")
        for value, agent in ((b"1", ""), (None, "spare")):
            change = store.redrive(run, step="", value=value, agent=agent, deadline=60.0, by="me")
            assert told(change) == ("elsewhere", "pay")
        assert told(store.redrive(run, step="", value=None, agent="", deadline=60.0, by="me")) == ("redriven", "pay")
    store.cancel(run, reason="", by="")


def test_an_input_of_a_run_whose_deadline_passed_is_for_the_step_it_was_at_unless_something_was_undone(
    store: RunStore,
) -> None:
    for plan, outcome in (
        (PLAN, ("elsewhere", "book")),
        (LASTING, ("redriven", "pay")),
    ):
        # given a run whose time was over at its second step: no step is to blame
        run = submit(store, plan)
        work(store, run, "book")
        store.client.hset(keys.run(run), "deadline_ms", 1)
        store.expire(run)
        if outcome[0] == "elsewhere":
            work(store, run, "book~undo")

        # when it is redriven with an input
        assert told(store.redrive(run, step="", value=b"1", agent="", deadline=60.0, by="me")) == outcome
        store.cancel(run, reason="", by="")


def test_children_of_a_run_that_is_redriven_before_the_caretaker_looks_go_on(store: RunStore) -> None:
    # given a run that has failed with a child
    run = submit(store, (PlanStep(name="ask", agent="a"),))
    asking = begin(store, run, "ask")
    child = submit(store, parent=run)
    store.fail(asking, "no")
    assert (run, "/") in store.timers([keys.shard_of(run)])
    assert why(store, child, "book") == "closed"

    # when it is redriven
    store.redrive(run, step="", value=None, agent="", deadline=60.0, by="me")

    # then nobody ends what it has submitted
    assert store.timers([keys.shard_of(run)]) == []
    begin(store, child, "book")
    for one in (child, run):
        store.cancel(one, reason="", by="")
    store.leave(run)


def test_a_child_of_a_run_that_has_ended_or_is_being_undone_is_not_created(store: RunStore) -> None:
    # given a run that is being undone
    run = submit(store)
    work(store, run, "book")
    store.fail(begin(store, run, "pay"), "declined")

    # when a step of it submits another, before and after its end, then there is none
    for name in ("book~undo", ""):
        assert submit(store, parent=run) == run  # whom it was closed by
        assert store.children(run) == []
        if name:
            work(store, run, name)


def test_a_child_of_a_child_begins_no_more_when_the_first_has_ended(store: RunStore) -> None:
    # given three generations
    runs: list[str] = []
    for _ in range(3):
        runs.append(submit(store, parent=runs[-1] if runs else None))

    # when the first is cancelled, then the last begins nothing, though nobody has ended it yet
    store.cancel(runs[0], reason="", by="me")
    assert why(store, runs[2], "book") == "closed"
    assert store.load(runs[2]).status == "queued"
    for parent, child in ((runs[0], runs[1]), (runs[1], runs[2])):
        assert store.children(parent) == [child]
        assert store.cancel(child, reason="", by="parent").what == "cancelled"
        store.leave(parent)


def test_a_dead_letter_of_a_run_whose_time_was_over_tells_what_its_step_had_met(store: RunStore) -> None:
    # given a run whose second step waits to be tried again
    run = submit(store, LASTING)
    work(store, run, "book")
    store.postpone(begin(store, run, "pay"), 30.0, "attempt 1 of 3: the line is down")

    # when its time is over
    store.client.hset(keys.run(run), "deadline_ms", 1)
    store.expire(run)

    # then
    letter = dead_letter(store.load(run), store.events(run))
    assert (letter.step, letter.kind, letter.goes_on_at) == (None, "deadline", "pay")
    assert letter.errors == ("StepDelayed: attempt 1 of 3: the line is down",)


def test_what_has_expired_is_no_dead_letter_though_the_list_names_it(store: RunStore, redis_client: Redis) -> None:
    # given a dead letter that expired since the caretaker last looked
    run = submit(store)
    store.fail(begin(store, run, "book"), "no")
    redis_client.delete(keys.run(run), keys.data(run), keys.events(run))

    # when it is dropped
    assert store.drop(run, by="me") == "closed"

    # then nothing of it is made again
    assert not redis_client.exists(keys.run(run), keys.events(run))
    assert store.dead_count() == 0


def test_a_dead_letter_is_kept_longer_than_other_runs_until_it_is_dropped(store: RunStore) -> None:
    # given a run that has failed
    run = submit(store)
    store.fail(begin(store, run, "book"), "no")
    kept_ms = store.client.pttl(keys.run(run))
    assert kept_ms > 86_400_000
    assert store.dead(10) == [run]

    # when it is dropped, then it goes when others do
    assert (store.drop(run, by="me"), store.drop(run, by="me")) == ("dropped", "closed")
    assert store.client.pttl(keys.run(run)) <= 60_000
    assert (store.dead(10), store.load(run).failure) == ([], None)
    assert problems(look(store, run)) == []


def test_a_timer_that_finds_its_step_decided_and_delayed_leaves_it_its_own(store: RunStore) -> None:
    # given a step whose time to be decided is over, and which a person gives to another agent, who is to try again
    run = submit(store, (PlanStep(name="draft", agent="a", gated=True),))
    details = {"question": "?", "timeout_ms": 0, "default": "reject", "fallback": "b"}
    store.commit(begin(store, run, "draft"), b"1", "wait", details)
    assert store.wake([(run, "draft")]) == ["waiting"]
    assert store.decide(run, "draft", "fallback", by="me").what == "again"
    store.postpone(begin(store, run, "draft"), 0.0, "503")

    # when the caretaker, who saw it wait, comes to decide
    assert store.decide(run, "draft", None, by="timeout").what == "not waiting"

    # then it is brought on all the same
    assert store.timers([keys.shard_of(run)]) == [(run, "draft")]
    assert problems(look(store, run)) == []
    store.cancel(run, reason="", by="")


@pytest.mark.parametrize("ends", ["cancel", "fail"])
def test_what_a_child_did_is_undone_though_its_parent_has_ended(store: RunStore, ends: str) -> None:
    # given a child that has done something, of a child of a run that ends
    plain = (PlanStep(name="book", agent="a"),)
    grandparent = submit(store, plain)
    parent = submit(store, plain, parent=grandparent)
    child = submit(store, parent=parent)
    work(store, child, "book")
    if ends == "cancel":
        store.cancel(grandparent, reason="", by="me")
    else:
        store.fail(begin(store, grandparent, "book"), "no")
    assert store.orphan(parent, grandparent).what == "cancelled"
    assert store.orphan(child, parent).what == "undoing"
    # when what undoes it is delivered
    work(store, child, "book~undo")
    # then it is undone
    assert store.load(child).status == "cancelled"
    assert store.load(child).steps[0].undone
    for run in (grandparent, parent, child):
        store.leave(run)


ASKS = (PlanStep(name="ask", agent="a"),)


def end_children(store: RunStore, *runs: str) -> None:
    """Do what the caretaker does for runs that have ended."""
    for run in runs:
        for child in store.children(run):
            store.orphan(child, run)
        store.leave(run)


def redrive(store: RunStore, run: str) -> None:
    assert store.redrive(run, step="", value=None, agent="", deadline=60.0, by="me").what == "redriven"


def test_a_redriven_run_gets_another_child_for_one_that_was_cancelled_with_it(store: RunStore) -> None:
    # given a run with three children: one is done, one failed by itself, one was cancelled with its parent
    run = submit(store, ASKS)
    asking = begin(store, run, "ask")
    done, failed, cancelled = (submit(store, ASKS, run, f"{run}:ask:0:{key}") for key in "abc")
    work(store, done, "ask")
    store.fail(begin(store, failed, "ask"), "no")
    grandchild = submit(store, ASKS, cancelled, f"{cancelled}:ask:0:d")
    store.fail(asking, "no")
    end_children(store, run, cancelled)
    assert [store.load(each).status for each in (cancelled, grandchild)] == ["cancelled", "cancelled"]
    # and it is not begun anew while its parent has failed
    assert submit(store, ASKS, run, f"{run}:ask:0:c") == cancelled

    # when it is redriven, and submits them again, twice
    redrive(store, run)
    begin(store, run, "ask")
    found = [[submit(store, ASKS, run, f"{run}:ask:0:{key}") for key in "abc"] for _ in range(2)]

    # then what is done is found and not done again, and what was cancelled with it is another run, once
    assert found[0] == found[1]
    assert found[0][:2] == [done, failed]
    another = found[0][2]
    assert (another != cancelled, store.load(another).status) == (True, "queued")
    assert set(store.children(run)) == {done, failed, cancelled, another}
    # and so is what that one submits
    begin(store, another, "ask")
    assert submit(store, ASKS, another, f"{another}:ask:0:d") not in {grandchild, another}

    # when it fails once more, then that is so again
    store.fail(begin(store, run, "ask"), "no")
    end_children(store, run, another)
    redrive(store, run)
    assert submit(store, ASKS, run, f"{run}:ask:0:c") not in {cancelled, another}
    for each in store.children(run):
        assert problems(look(store, each)) == []
    store.cancel(run, reason="", by="me")
    end_children(store, run)


def test_a_child_that_is_still_being_undone_is_begun_anew_and_one_that_could_not_be_is_found(store: RunStore) -> None:
    # given a child that has done something, of a run that has failed
    run = submit(store, ASKS)
    asking = begin(store, run, "ask")
    child = submit(store, PLAN, run, "k")
    work(store, child, "book")
    store.fail(asking, "no")
    assert store.orphan(child, run).what == "undoing"
    store.leave(run)
    redrive(store, run)

    # when it is asked for while it is being undone, then there is another
    another = submit(store, PLAN, run, "k")
    assert another != child
    work(store, child, "book~undo")
    assert store.load(child).status == "cancelled"

    # when of that one something is not undone, then it is a dead letter, for a person to decide about
    work(store, another, "book")
    store.fail(begin(store, run, "ask"), "no")
    store.orphan(another, run)
    store.leave(run)
    store.fail(begin(store, another, "book~undo"), "no such booking")
    redrive(store, run)
    assert submit(store, PLAN, run, "k") == another
    assert store.load(another).failure is not None
    store.cancel(run, reason="", by="me")
    end_children(store, run)


def test_a_run_that_was_cancelled_by_somebody_is_found_again_by_its_parent_and_by_others(store: RunStore) -> None:
    # given a run with a child that a person cancels, and one that is cancelled with it
    run = submit(store, ASKS)
    asking = begin(store, run, "ask")
    child, other = submit(store, ASKS, run, "k"), submit(store, ASKS, run, "l")
    store.cancel(child, reason="not this one", by="me")
    store.fail(asking, "no")
    end_children(store, run)
    redrive(store, run)

    # then the parent finds the one, and another parent neither
    assert submit(store, ASKS, run, "k") == child
    stranger = Submission(
        flow="f", plan=ASKS, value=b"1", deadline=60.0, retention=60.0, tags={}, parent=child, key="l"
    )
    assert store.submit([stranger])[0].what == "conflict"
    assert submit(store, ASKS, run, "l") != other
    store.cancel(run, reason="", by="me")
    end_children(store, run)


def test_children_of_a_run_that_was_redriven_since_the_caretaker_looked_are_not_cancelled(store: RunStore) -> None:
    # given a run that failed, and was redriven after the caretaker had read its timer
    run = submit(store, ASKS)
    asking = begin(store, run, "ask")
    child = submit(store, ASKS, run)
    store.fail(asking, "no")
    redrive(store, run)

    # when the caretaker comes to its child
    assert store.orphan(child, run).what == "closed"

    # then it goes on
    work(store, child, "ask")
    assert store.load(child).status == "completed"
    store.cancel(run, reason="", by="me")
    store.leave(run)


def test_a_child_of_a_run_that_has_ended_is_not_redriven_alone(store: RunStore) -> None:
    # given a child that failed, and whose parent failed since
    plain = (PlanStep(name="book", agent="a"),)
    parent = submit(store, plain)
    child = submit(store, plain, parent=parent)
    store.fail(begin(store, child, "book"), "no")
    store.fail(begin(store, parent, "book"), "no")
    store.leave(parent)
    # then it would never begin
    assert told(store.redrive(child, step="", value=None, agent="", deadline=60.0, by="me")) == ("orphan", parent)
    # when the parent is redriven, then the child may be
    store.redrive(parent, step="", value=None, agent="", deadline=60.0, by="me")
    assert told(store.redrive(child, step="", value=None, agent="", deadline=60.0, by="me")) == ("redriven", "book")
    work(store, child, "book")
    work(store, parent, "book")


def test_an_idempotency_key_lives_as_long_as_a_run_that_is_redriven(store: RunStore, redis_client: Redis) -> None:
    # given a run with a key that failed
    value = b'"x"'
    plan = (PlanStep(name="book", agent="a"),)
    submission = Submission(flow="f", plan=plan, value=value, deadline=60.0, retention=60.0, tags={}, key="k")
    (run,) = (one.run_id for one in store.submit([submission]))
    store.fail(begin(store, run, "book"), "no")
    record = keys.idempotency(run, "default", "k")
    before = redis_client.pttl(record)
    # when it is redriven for longer than that was meant to last
    store.redrive(run, step="", value=None, agent="", deadline=90 * 86400.0, by="me")
    # then the same key still finds it
    assert redis_client.pttl(record) > before + 30 * 86_400_000
    assert store.submit([submission])[0].run_id == run
    work(store, run, "book")
