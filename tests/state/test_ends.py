"""How runs end and go on again: late timers, what is undone, redriven, dropped, and the children of what has ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from orchestrator.messages import PlanStep
from orchestrator.state import keys
from orchestrator.state.runs import Begun, Change, RunStore, Submission
from tests.servers import no_key_left_without_ttl_or_declaration, on_valkey
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


@pytest.fixture
def store(redis_client: Redis, settings: Settings) -> Iterator[RunStore]:
    """A store whose claim checks begin early; what it leaves behind is looked at."""
    store = RunStore(redis_client, settings.model_copy(update={"claim_check_bytes": 100, "max_attempts": 2}))
    yield store
    no_key_left_without_ttl_or_declaration(redis_client)


def submit(store: RunStore, plan: tuple[PlanStep, ...] = PLAN, parent: str | None = None) -> str:
    value = b'"%s"' % (b"x" * 200)
    submission = Submission(flow="f", plan=plan, value=value, deadline=60.0, retention=60.0, tags={}, parent=parent)
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


@pytest.mark.parametrize(
    ("step", "value", "outcome"),
    [
        ("nothing", None, ("no step", "nothing")),
        ("book~undo", None, ("no step", "book~undo")),
        ("ship", None, ("no input", "ship")),
        ("pay", None, ("no input", "pay")),
        ("pay", b"1", ("redriven", "pay")),
        ("ship", b"1", ("redriven", "ship")),
        ("", None, ("redriven", "book")),
    ],
)
def test_a_run_whose_steps_were_undone_is_redriven_from_there_or_with_an_input(
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
    assert store.cancel(child, reason="", by="parent").what == "undoing"
    # when what undoes it is delivered
    work(store, child, "book~undo")
    # then it is undone
    assert store.load(child).status == "cancelled"
    assert store.load(child).steps[0].undone
    store.cancel(parent, reason="", by="parent")
    for run in (grandparent, parent, child):
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
