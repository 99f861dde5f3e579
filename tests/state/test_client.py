"""Looking at runs, ending them and deciding at their gates, on a real server without workers."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

import pytest
from redis.exceptions import OutOfMemoryError

from orchestrator import InvalidInput, RunCancelled, RunFailed, RunNotFound
from orchestrator.errors import WrongState
from orchestrator.messages import PlanStep
from orchestrator.state import keys
from orchestrator.state.runs import Begun, Change, Due, RunStore, Submission
from tests.servers import on_valkey
from tests.state.flows import Answer, counting, loosely
from tests.state.invariants import look, problems

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis import Redis

    from orchestrator import Client, StepState
    from orchestrator.client import Run
    from orchestrator.state.runs import Verdict

NOTE = {"text": "one two three"}
DAY_MS = 86_400_000
UNKNOWN = ("0" * 24, "", "x", "0" * 23, "0" * 25, "0" * 22 + "zz", "U" * 24, "../../etc/passwd", "{s00}", "\ud800")


def begin(client: Client, run: Run, step: str) -> Begun:
    begun = client.store.begin(run.id, step, agent=f"state.{step}", nonce="n", worker="host:1")
    assert isinstance(begun, Begun)
    return begun


def wait_at_gate(client: Client, *, timeout_ms: int = DAY_MS) -> Run:
    """Return a run whose first step waits for a person."""
    run = client.submit(counting, NOTE)
    details = {"question": "fine?", "timeout_ms": timeout_ms, "default": "approve"}
    client.store.commit(begin(client, run, "count"), b'{"text": "one"}', "wait", details)
    return run


def complete(client: Client) -> Run:
    run = client.submit(counting, NOTE)
    client.store.commit(begin(client, run, "count"), b'{"text": "one"}')
    client.store.commit(begin(client, run, "answer"), b'{"words": 1}')
    return run


def fail(client: Client) -> Run:
    run = client.submit(counting, NOTE)
    client.store.fail(begin(client, run, "count"), "ValueError: no")
    return run


def messages(redis: Redis, queue: str) -> int:
    return sum(redis.llen(name) for name in (queue, f"{queue}\x06\x163", f"{queue}\x06\x166"))


# Results


def test_the_result_of_a_completed_run_is_the_flows_output(client: Client) -> None:
    assert complete(client).result() == Answer(words=1)


def test_the_result_of_a_failed_run_is_an_error_with_the_reason(client: Client) -> None:
    run = fail(client)

    with pytest.raises(RunFailed) as failed:
        run.result()
    assert failed.value.args == (run.id, "count: ValueError: no")


def test_the_result_of_a_cancelled_run_is_an_error_with_the_reason(client: Client) -> None:
    run = client.submit(counting, NOTE)
    run.cancel("not needed", by="me")

    with pytest.raises(RunCancelled) as cancelled:
        run.result()
    assert cancelled.value.args == (run.id, "not needed")


def test_a_result_that_does_not_come_in_time_is_a_timeout_and_the_run_goes_on(client: Client) -> None:
    run = client.submit(counting, NOTE)

    with pytest.raises(TimeoutError, match=r"has not ended after 0\.05 s; it goes on"):
        run.result(timeout=0.05)
    assert run.status() == "queued"


# Watching


def test_a_watched_run_gives_its_events_from_the_first_to_the_one_that_ends_it(client: Client) -> None:
    # given a finished run, when it is watched, then all events come, and then no more
    assert [(event.type, event.data.get("step")) for event in complete(client).watch(timeout=5.0)] == [
        ("RunSubmitted", None),
        ("StepStarted", "count"),
        ("StepCompleted", "count"),
        ("StepStarted", "answer"),
        ("StepCompleted", "answer"),
        ("RunCompleted", None),
    ]


def test_a_watched_run_gives_an_event_when_it_happens(client: Client) -> None:
    # given a run that is being watched
    run = client.submit(counting, NOTE)
    watched = run.watch(timeout=5.0)
    assert next(watched).type == "RunSubmitted"

    # when it ends
    run.cancel()

    # then the watch does too
    assert [event.type for event in watched] == ["RunCancelled"]


def test_events_are_the_log_in_order(client: Client) -> None:
    events = complete(client).events()

    assert [event.id for event in events] == sorted(event.id for event in events)
    assert {event.version for event in events} == {1}


# Unknown runs


@on_valkey
@pytest.mark.parametrize("run_id", UNKNOWN)
@pytest.mark.parametrize(
    "call",
    [
        lambda run: run.state(),
        lambda run: run.status(),
        lambda run: run.events(),
        lambda run: run.result(timeout=0.05),
        lambda run: run.cancel(),
        lambda run: run.approve(by="me"),
        lambda run: run.reject(by="me"),
        lambda run: next(run.watch(timeout=0.2)),
    ],
)
def test_an_id_of_no_run_is_an_error_that_says_so(client: Client, run_id: str, call: Callable[[Run], object]) -> None:
    with pytest.raises(RunNotFound) as unknown:
        call(client.get(run_id))
    assert unknown.value.args == (run_id,)


# Cancelling


@pytest.mark.parametrize("state", [lambda client: client.submit(counting, NOTE), wait_at_gate])
def test_a_run_that_is_cancelled_ends_at_once_with_who_and_why(client: Client, state: Callable[[Client], Run]) -> None:
    # given a run that is queued, or waits at a gate
    run = state(client)

    # when it is cancelled
    run.cancel("not\nneeded", by="me")

    # then it and its steps have ended
    found = run.state()
    assert (found.status, found.reason) == ("cancelled", "not needed")
    assert {step.status for step in found.steps} == {"cancelled"}
    assert run.events()[-1].data == {"reason": "not needed", "by": "me"}
    assert problems(look(client.store, run.id)) == []


def test_a_step_of_a_cancelled_run_can_neither_renew_nor_commit(client: Client) -> None:
    # given a step in execution
    run = client.submit(counting, NOTE)
    begun = begin(client, run, "count")

    # when its run is cancelled
    run.cancel()

    # then its lease is gone, and what it gives is discarded
    store: RunStore = client.store
    assert store.renew([(run.id, "count", begun.fence)]) == ["closed"]
    assert store.commit(begun, b"1") == Change("closed")
    assert store.fail(begun, "too late").what == "closed"
    assert problems(look(store, run.id)) == []


@pytest.mark.parametrize("ended", [complete, fail])
def test_a_run_that_has_ended_cannot_be_cancelled(client: Client, ended: Callable[[Client], Run]) -> None:
    run = ended(client)
    status = run.status()

    with pytest.raises(WrongState, match=f"it has ended already: {status}"):
        run.cancel()
    assert run.status() == status


# Deciding


def test_an_approved_step_is_completed_and_the_next_one_enqueued(client: Client, redis_client: Redis) -> None:
    # given a run that waits
    run = wait_at_gate(client)
    assert run.status() == "waiting"
    waiting = run.state().steps[0].waiting
    assert waiting is not None
    assert (waiting.question, waiting.default) == ("fine?", "approve")
    assert messages(redis_client, "state.answer") == 0

    # when it is approved
    run.approve(by="ann", note="looks\ngood")

    # then it goes on, and says who let it
    first, second = run.state().steps
    assert first.decision is not None
    assert (first.decision.choice, first.decision.by, first.decision.note) == ("approve", "ann", "looks good")
    assert (run.status(), first.status, first.waiting, second.status) == ("running", "completed", None, "ready")
    assert messages(redis_client, "state.answer") == 1
    assert problems(look(client.store, run.id)) == []


def test_a_rejected_step_fails_its_run_with_who_and_why(client: Client, redis_client: Redis) -> None:
    run = wait_at_gate(client)

    run.reject("count", by="ann", note="wrong tone")

    state = run.state()
    assert (state.status, state.reason) == ("failed", "count: rejected by ann: wrong tone")
    assert [step.status for step in state.steps] == ["failed", "cancelled"]
    assert messages(redis_client, "state.answer") == 0
    assert problems(look(client.store, run.id)) == []


@pytest.mark.parametrize("state", [lambda client: client.submit(counting, NOTE), complete, fail])
@pytest.mark.parametrize("decide", ["approve", "reject"])
def test_where_no_step_waits_there_is_nothing_to_decide(
    client: Client, state: Callable[[Client], Run], decide: str
) -> None:
    run = state(client)
    before = run.state()

    with pytest.raises(WrongState, match=f"no step waits for a decision; the run is {before.status}"):
        getattr(run, decide)(by="ann")
    assert run.state() == before


@pytest.mark.parametrize("step", ["answer", "nothing", "count/", ""])
def test_a_decision_about_a_step_that_does_not_wait_changes_nothing(client: Client, step: str) -> None:
    run = wait_at_gate(client)

    with pytest.raises(WrongState, match="does not wait for a decision"):
        run.approve(step, by="ann")
    assert run.status() == "waiting"


def test_two_people_decide_once(client: Client) -> None:
    # given a run that waits, and a second person who saw it wait
    run = wait_at_gate(client)
    run.approve(by="ann")

    # when she decides too
    with pytest.raises(WrongState):
        run.reject(by="bob")

    # then the first decision stands
    decision = run.state().steps[0].decision
    assert decision is not None
    assert (decision.by, decision.choice) == ("ann", "approve")


def test_the_timer_of_a_gate_decides_by_its_default_when_it_is_due_and_not_before(client: Client) -> None:
    # given a run that has a day to wait, and one whose time has come
    early, due = wait_at_gate(client), wait_at_gate(client, timeout_ms=0)

    # when the caretaker looks at both
    decided = [client.store.decide(run.id, "count", None, by="timeout", note="nobody") for run in (early, due)]

    # then one goes on
    assert decided == [Change("early"), Change("next", "answer")]
    assert [run.status() for run in (early, due)] == ["waiting", "running"]


@pytest.mark.parametrize("by", ["", None, 7, "x" * 257])
def test_a_decision_needs_somebody_who_decides(client: Client, by: Any) -> None:  # noqa: ANN401  what should not be there
    run = wait_at_gate(client)

    with pytest.raises(InvalidInput, match="by"):
        run.approve(by=by)
    assert run.status() == "waiting"


# Lists


def test_runs_are_listed_newest_first_and_no_more_than_asked_for(client: Client) -> None:
    runs = [client.submit(counting, NOTE).id for _ in range(12)]

    assert [state.id for state in client.list_runs()] == sorted(runs, reverse=True)
    assert [state.id for state in client.list_runs(limit=5)] == sorted(runs, reverse=True)[:5]
    assert client.list_runs(limit=0) == []


def test_the_newest_runs_of_a_status_are_listed_in_whatever_order_they_came_to_it(client: Client) -> None:
    # given runs of one shard, begun in the reverse order of their submission
    runs = [run for run in (client.submit(counting, NOTE) for _ in range(20)) if run.id.endswith("00")][:3]
    for run in reversed(runs):
        begin(client, run, "count")

    # when the newest one is asked for, then it is the one submitted last
    assert [state.id for state in client.list_runs(status="running", limit=1)] == [runs[-1].id]


def test_runs_are_listed_by_status_flow_tenant_and_tag(client: Client) -> None:
    # given runs that differ in everything
    done, failed, gated = complete(client), fail(client), wait_at_gate(client)
    other = client.submit(loosely, {"anything": 1}, tenant="acme", tags={"batch": "7", "x": "y"})

    def listed(**wishes: Any) -> set[str]:  # noqa: ANN401  keywords of list_runs
        return {state.id for state in client.list_runs(**wishes)}

    # when they are asked for, then those are given that fit
    assert listed() == {done.id, failed.id, gated.id, other.id}
    assert listed(status="completed") == {done.id}
    assert listed(status="failed") == {failed.id}
    assert listed(status="waiting") == {gated.id}
    assert listed(status="queued") == {other.id}
    assert listed(status="running") == set()
    assert listed(flow="loosely") == {other.id}
    assert listed(flow="counting") == {done.id, failed.id, gated.id}
    assert listed(tenant="acme") == {other.id}
    assert listed(tag=("batch", "7")) == {other.id}
    assert listed(tag=("batch", "8")) == set()
    assert listed(flow="counting", status="waiting", tenant="default") == {gated.id}
    assert listed(flow="loosely", tenant="default") == set()


def test_a_run_whose_retention_has_passed_leaves_the_lists(client: Client, redis_client: Redis) -> None:
    # given a finished run
    run = complete(client)
    assert len(client.store.newest(["completed"], 1000)) == 1

    # when its keys have expired and the caretaker looks
    redis_client.delete(keys.run(run.id), keys.data(run.id), keys.events(run.id))
    redis_client.zadd(keys.index(keys.shard_of(run.id), "completed"), {run.id: 1})
    client.store.due([keys.shard_of(run.id)])

    # then it is listed no more
    assert client.list_runs() == []
    assert len(client.store.newest(["completed"], 1000)) == 0
    with pytest.raises(RunNotFound):
        run.state()


# Losses


def test_entries_of_a_run_that_is_gone_leave_the_indexes_when_the_caretaker_looks(
    client: Client, redis_client: Redis
) -> None:
    # given due entries in every index, and no run that they could belong to
    store, run_id = client.store, keys.new_run_id(client.settings.shards)
    shard, step = keys.shard_of(run_id), keys.member(run_id, "count")
    redis_client.zadd(keys.leases(shard), {step: 1})
    redis_client.zadd(keys.ready(shard), {step: 1})
    redis_client.zadd(keys.timers(shard), {step: 1, f"{run_id}//count": 2, f"{run_id}//": 3, run_id: 4})
    assert store.timers([shard]) == [(run_id, "count"), (run_id, "/count"), (run_id, "/"), (run_id, None)]

    # when the caretaker looks after them
    assert store.lost(run_id, "count").what == "closed"
    assert store.redispatch([(run_id, "count")], queue_is_empty=[True]) == ["closed"]
    assert store.wake([(run_id, "count")]) == ["closed"]
    assert store.decide(run_id, "count", None, by="timeout") == Change("closed")
    assert store.overrun(run_id, "count").what == "closed"
    assert store.children(run_id) == []
    store.leave(run_id)
    assert store.expire(run_id).what == "gone"

    # then nothing is due any more
    assert store.due([shard]) == [Due([], [])]
    assert store.timers([shard]) == []
    assert not redis_client.exists(keys.run(run_id))


def test_a_step_that_fell_back_is_its_own_agents_again_when_the_run_is_sent_back_past_it(client: Client) -> None:
    # given a step behind whose flow there is a gate, and which fell back to an agent that takes the flow's input
    plan = (
        PlanStep(name="draft", agent="a", next="review"),
        PlanStep(name="review", agent="b", next="publish", start="draft", gated=True),
        PlanStep(name="publish", agent="c", start="draft", gated=True),
    )
    submission = Submission(flow="flow", plan=plan, value=b"1", deadline=60.0, retention=60.0, tags={})
    store = client.store
    run_id = store.submit([submission])[0].run_id

    def work(step: str, agent: str, verdict: Verdict = "complete", /, **details: object) -> Begun:
        begun = store.begin(run_id, step, agent=agent, nonce="n", worker="w")
        assert isinstance(begun, Begun)
        store.commit(begun, f'"{step} by {agent}"'.encode(), verdict, details)
        return begun

    work("draft", "a")
    work("review", "b", "fallback", agent="simple", reason="unsure")
    assert work("review", "simple").value == b"1"

    # when a gate further on sends the run back to where all began
    work("publish", "c", "revise", feedback="shorter")
    work("draft", "a")

    # then the step is its first agent's, whose input is what now comes before it
    assert work("review", "b").value == b'"draft by a"'
    step = store.load(run_id).step("review")
    assert step is not None
    assert (step.agent, step.degraded, step.reason) == ("b", False, None)


def test_what_an_outer_gate_sends_back_starts_afresh_at_the_gates_within(client: Client) -> None:
    # given a gate within a flow behind which there is another gate
    plan = (
        PlanStep(name="draft", agent="a", next="review", gated=True),
        PlanStep(name="review", agent="b", start="draft", gated=True),
    )
    submission = Submission(flow="flow", plan=plan, value=b"1", deadline=60.0, retention=60.0, tags={})
    store = client.store
    run_id = store.submit([submission])[0].run_id

    def work(step: str, agent: str, verdict: Verdict = "complete", /, **details: object) -> StepState:
        begun = store.begin(run_id, step, agent=agent, nonce="n", worker="w")
        assert isinstance(begun, Begun)
        store.commit(begun, b"1", verdict, details)
        return begun.step

    # when the inner one has sent its stage back twice, and then the outer one all of it
    work("draft", "a", "revise", feedback="once")
    work("draft", "a", "revise", feedback="twice")
    assert work("draft", "a").sent_back == 2
    work("review", "b", "revise", feedback="all of it")

    # then the inner gate has sent back nothing of what comes now, and the outer one has once
    step = work("draft", "a")
    assert (step.sent_back, step.revision) == (0, 3)
    assert work("review", "b").sent_back == 1


def test_a_commit_sent_again_because_its_reply_was_lost_keeps_what_it_recorded(client: Client) -> None:
    # given outputs behind claim checks, each with another verdict
    large = b'{"text": "' + b"x" * client.settings.claim_check_bytes + b'"}'
    verdicts: dict[str, dict[str, object]] = {
        "wait": {"question": "?", "timeout_ms": DAY_MS, "default": "reject"},
        "revise": {"feedback": "shorter"},
        "fallback": {"agent": "other", "reason": "why"},
        "complete": {},
    }
    for verdict, details in verdicts.items():
        run = client.submit(counting, NOTE)
        begun = begin(client, run, "count")

        # when one is committed, and the same once more
        replies = [client.store.commit(begun, large, cast("Any", verdict), details) for _ in range(2)]

        # then the second hears what the first did, and nothing is lost
        assert replies[0] == replies[1]
        assert problems(look(client.store, run.id)) == []


def test_a_commit_sent_again_after_another_attempt_has_begun_keeps_the_draft(client: Client) -> None:
    # given a draft behind a claim check that its gate has sent back, and the attempt that revises it
    large = b'{"text": "' + b"x" * client.settings.claim_check_bytes + b'"}'
    run = client.submit(counting, NOTE)
    begun = begin(client, run, "count")
    client.store.commit(begun, large, "revise", {"feedback": "shorter"})
    revising = begin(client, run, "count")
    assert revising.draft == large

    # when the first attempt's commit arrives once more
    client.store.commit(begun, large, "revise", {"feedback": "shorter"})

    # then the draft can still be read
    assert client.store.value(run.id, revising.step.draft or "") == large


def test_a_late_output_of_a_lost_attempt_is_refused_and_leaves_nothing(client: Client, redis_client: Redis) -> None:
    # given a step whose lease was lost, and which another worker has begun
    run = client.submit(counting, NOTE)
    lost = begin(client, run, "count")
    redis_client.zadd(keys.leases(keys.shard_of(run.id)), {keys.member(run.id, "count"): 1})
    assert client.store.lost(run.id, "count").what == "ready"
    begin(client, run, "count")

    # when the first one commits a large output after all
    large = b'"' + b"x" * client.settings.claim_check_bytes + b'"'
    committed = client.store.commit(lost, large)

    # then it is refused, and its copy is gone
    assert committed == Change("stale")
    assert not list(redis_client.scan_iter("*:blob:*"))
    assert problems(look(client.store, run.id)) == []


@pytest.mark.parametrize("reason", ["a" * 5000, "no\nsuch\tfile", "no file '\udcff'"])
def test_a_reason_is_one_short_line_whatever_was_raised(client: Client, reason: str) -> None:
    run = client.submit(counting, NOTE)

    outcome = client.store.fail(begin(client, run, "count"), reason)

    found = run.state().reason or ""
    assert (outcome.what, len(found.splitlines())) == ("failed", 1)
    assert len(found) < 600


@pytest.mark.parametrize("feedback", ["x" * 100_000, "'\udcff'"])
def test_what_a_gate_says_is_bounded_and_never_in_the_way_of_the_commit(client: Client, feedback: str) -> None:
    # given gates that say too much, or what UTF-8 cannot hold
    verdicts: dict[str, dict[str, object]] = {
        "wait": {"question": feedback, "timeout_ms": DAY_MS, "default": "reject"},
        "revise": {"feedback": feedback},
        "fallback": {"agent": "other", "reason": feedback},
    }
    for verdict, details in verdicts.items():
        run = client.submit(counting, NOTE)

        # when their verdict is committed
        client.store.commit(begin(client, run, "count"), b"1", cast("Any", verdict), details)

        # then it is recorded, at a length that every reader of the run can bear
        assert max(len(str(event.data)) for event in run.events()) < 20_000
        assert problems(look(client.store, run.id)) == []


def test_a_full_server_changes_a_run_wholly_or_not_at_all(client: Client, redis_client: Redis) -> None:
    # given runs in every state, and a server without memory to give
    begun = begin(client, running := client.submit(counting, NOTE), "count")
    other = begin(client, failing := client.submit(counting, NOTE), "count")
    lost = client.submit(counting, NOTE)
    begin(client, lost, "count")
    redis_client.zadd(keys.leases(keys.shard_of(lost.id)), {keys.member(lost.id, "count"): 1})
    gated, queued = wait_at_gate(client), client.submit(counting, NOTE)
    store = client.store
    for change in (
        lambda: store.begin(queued.id, "count", agent="state.count", nonce="n", worker="w"),
        lambda: store.commit(begun, b"1"),
        lambda: store.fail(other, "no"),
        lambda: store.lost(lost.id, "count"),
        lambda: store.decide(gated.id, "count", "approve", by="me"),
        lambda: store.redispatch([(queued.id, "count")], queue_is_empty=[True]),
        lambda: store.cancel(queued.id, reason="", by="me"),
    ):
        # when something is to change, then it does, or the server's error is the caller's
        redis_client.config_set("maxmemory", 1)
        with suppress(OutOfMemoryError):
            change()
        redis_client.config_set("maxmemory", 0)
        # and every run is whole
        for run in (running, failing, lost, gated, queued):
            assert problems(look(store, run.id)) == []
