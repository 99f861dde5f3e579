"""Failure as the normal case: what a run does when its agents fail, hang, are too many, too dear or not wanted."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING, Any, cast

import pytest

from orchestrator import Budget, RunCancelled, RunFailed
from orchestrator.errors import InvalidInput, WrongState
from orchestrator.state import keys
from tests.integration.checks import check_all
from tests.integration.conftest import FAILED
from tests.integration.fleet import FAST, USER_CODE, Deployment
from tests.servers import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from orchestrator import Run, StepState
    from tests.integration.fleet import Pool

pytestmark = pytest.mark.integration

SOON = 15.0
FLOWS = "tests.integration.trouble.flows"
NAMES = (
    *("bare", "simple", "retried", "hasty", "thrifty", "falls", "remembers", "fixed", "patient", "skips", "narrow"),
    *("paced", "gated", "costly", "frugal", "cheaper", "turn", "idle", "idle-sync", "urgent", "charge", "refund"),
    *("begin", "end", "parent"),
)
QUEUES = ("orchestrator", *(f"trouble.{name}" for name in NAMES))


def start(tmp: Any, pool: Pool) -> Deployment:  # noqa: ANN401  pytest's factory
    made = Deployment(
        "valkey",
        tmp.mktemp(f"trouble-{pool}"),
        settings=FAST | {"tick": 0.05, "cancel_grace": 0.3},
        agents=(FLOWS,),
        path=[USER_CODE.parents[1]],
    )
    made.start_worker(queues=QUEUES, pool=pool, concurrency=4 if pool == "prefork" else 50).wait_until_ready()
    return made


# One pool's tests on one of pytest-xdist's workers, so that there is one deployment of each.
@pytest.fixture(
    scope="module",
    params=[pytest.param(pool, marks=pytest.mark.xdist_group(f"trouble-{pool}")) for pool in ("asyncio", "prefork")],
)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    deployment = start(tmp_path_factory, request.param)
    deployment.client.settings = deployment.settings.model_copy(update={"agents": (FLOWS,)})
    yield deployment
    deployment.close()


@pytest.fixture
def deployment(request: pytest.FixtureRequest, place: Deployment) -> Iterator[Deployment]:
    """A worker on which agents get into trouble; afterwards nothing is left of it."""
    yield place
    (place.floor / "all.go").unlink(missing_ok=True)
    if FAILED in request.node.stash:
        place.redis.flushall()
        place.checked.clear()
        return
    check_all(place)
    # A run has ended before what its last step held is given back.
    wait_until(lambda: place.client.guards.waiting() == [], SOON, "nobody waits any more")
    place.redis.delete(*place.redis.keys("{guards}:breaker*"), "nothing")


def submit(deployment: Deployment, flow: str, *acts: str, **options: Any) -> Run:  # noqa: ANN401  as of Client.submit
    return deployment.client.submit(f"trouble-{flow}", {"acts": list(acts)}, **options)


def only(run: Run) -> StepState:
    step = run.state().step("only")
    assert step is not None
    return step


def kinds(run: Run) -> list[str]:
    return [event.type for event in run.events()]


# Retry


@pytest.mark.parametrize("failure", ["raise", "status 500", "status 429", "status 503", "status 408"])
def test_a_transient_failure_is_tried_again_after_a_delay_that_holds_no_worker(
    deployment: Deployment, failure: str
) -> None:
    # given an agent that fails twice
    run = submit(deployment, "retried", failure, failure)
    # then its third attempt gives the result
    assert run.result(timeout=SOON).attempt == 3
    # and between them the step was a timer, no message in a worker
    delayed = [event for event in run.events() if event.type == "StepDelayed"]
    assert [str(event.data["why"])[:15] for event in delayed] == ["attempt 1 of 4:", "attempt 2 of 4:"]
    for event, started in zip(delayed, [one for one in run.events() if one.type == "StepStarted"][1:], strict=True):
        assert started.at_ms >= cast("int", event.data["due_ms"])


def test_after_the_last_attempt_the_run_fails_and_is_a_dead_letter(deployment: Deployment) -> None:
    run = submit(deployment, "retried", *["raise not today"] * 4)
    with pytest.raises(RunFailed, match=r"not today \(after 4 attempts\)"):
        run.result(timeout=SOON)
    letter = run.dead_letter()
    assert (letter.kind, letter.step, letter.attempts, len(letter.errors)) == ("failed", "only", 4, 4)
    assert run.id in [one.run_id for one in deployment.client.dead_letters()]


def test_an_error_that_cannot_say_what_is_wrong_fails_its_attempt_like_any_other(deployment: Deployment) -> None:
    run = submit(deployment, "patient", "mute", "ok")
    assert run.result(timeout=SOON).attempt == 2
    whys = [str(event.data.get("why")) for event in run.events()]
    assert any("MuteError: it has no text" in why for why in whys)


def test_what_no_other_attempt_would_mend_is_not_tried_again(deployment: Deployment) -> None:
    run = submit(deployment, "retried", "status 400")
    with pytest.raises(RunFailed, match="HTTP 400"):
        run.result(timeout=SOON)
    assert only(run).begins == 1


def test_an_agent_asks_for_a_delay_and_gets_it(deployment: Deployment) -> None:
    # given an agent without a retry policy that asks for half a second
    run = submit(deployment, "bare", "later 0.5")
    assert run.result(timeout=SOON).attempt == 2
    starts = [event.at_ms for event in run.events() if event.type == "StepStarted"]
    assert starts[1] - starts[0] >= 500


def test_retry_after_of_a_server_is_waited_for(deployment: Deployment) -> None:
    run = submit(deployment, "retried", "pause 0.6")
    assert run.result(timeout=SOON).attempt == 2
    starts = [event.at_ms for event in run.events() if event.type == "StepStarted"]
    assert starts[1] - starts[0] >= 600


def test_a_total_time_ends_the_attempts(deployment: Deployment) -> None:
    run = submit(deployment, "hasty", *["raise"] * 50)
    with pytest.raises(RunFailed, match="no time for another"):
        run.result(timeout=SOON)
    assert 1 < only(run).begins < 50


def test_a_retry_budget_spreads_retries_over_time(deployment: Deployment) -> None:
    # given an agent whose fleet may retry twice a second, and what it had saved up is used up
    runs = [submit(deployment, "thrifty", "raise") for _ in range(30)]
    # then all come through
    for run in runs:
        assert run.result(timeout=30).attempt == 2
    # and not all at once
    seconds = [event.at_ms for run in runs for event in run.events() if event.type == "StepStarted"]
    assert max(seconds) - min(seconds) >= 3000


# Timeouts


@pytest.mark.parametrize("flow", ["idle", "idle-sync"])
def test_an_attempt_without_a_sign_of_life_is_given_up(deployment: Deployment, flow: str) -> None:
    if flow == "idle-sync" and deployment.workers[0] is None:
        pytest.skip("no way to interrupt")
    run = submit(deployment, flow, "hang")
    with pytest.raises(RunFailed, match=r"no heartbeat for 0\.4 s"):
        run.result(timeout=SOON)


@pytest.mark.parametrize("flow", ["idle", "idle-sync"])
def test_an_attempt_that_shows_signs_of_life_goes_on(deployment: Deployment, flow: str) -> None:
    run = submit(deployment, flow, "beat")
    deployment.wait_for_note(run, "only")
    time_to_die = time.monotonic() + 1.0
    wait_until(lambda: time.monotonic() > time_to_die, 5, "more than twice its limit has passed")
    deployment.say(run)
    assert run.result(timeout=SOON).attempt == 1


def test_a_step_has_a_deadline_over_all_its_attempts_and_sees_it(deployment: Deployment) -> None:
    run = submit(deployment, "urgent", *["raise"] * 100)
    with pytest.raises(RunFailed, match="time"):
        run.result(timeout=SOON)
    assert 1 < only(run).begins < 20
    assert deployment.notes(run, "has-True")


def test_a_step_that_nobody_takes_in_time_fails_by_its_deadline(deployment: Deployment) -> None:
    # given a step whose worker does not come
    deployment.client.app.control.cancel_consumer("trouble.urgent", reply=True, timeout=5, limit=1)
    run = submit(deployment, "urgent")
    # then its time is over all the same
    with pytest.raises(RunFailed, match="not done in the time it has"):
        run.result(timeout=SOON)
    assert run.dead_letter().kind == "deadline"
    deployment.client.app.control.add_consumer("trouble.urgent", reply=True, timeout=5, limit=1)


# Fallback


def test_a_simpler_agent_takes_over_and_the_result_is_marked(deployment: Deployment) -> None:
    run = submit(deployment, "falls", "raise", "raise")
    assert run.result(timeout=SOON).by == "simple"
    state = run.state()
    assert state.degraded
    step = only(run)
    assert (step.agent, step.instead_of, step.rung) == ("trouble.simple", "trouble.falls", 1)
    assert "after 2 attempts" in (step.reason or "")


def test_a_constant_takes_over(deployment: Deployment) -> None:
    run = submit(deployment, "fixed", "raise no way")
    assert run.result(timeout=SOON).by == "constant"
    assert only(run).reason == "a fixed output: ValueError: no way"


def test_the_last_good_output_takes_over_with_its_age(deployment: Deployment) -> None:
    # given no good output yet
    first = submit(deployment, "remembers", "raise")
    assert first.result(timeout=SOON).by == "constant"
    # when there is one
    assert submit(deployment, "remembers").result(timeout=SOON).by == "remembers"
    wait_until(lambda: deployment.redis.keys("{guards}:good*"), SOON, "it is kept")
    # then it is what the next failure gives
    run = submit(deployment, "remembers", "raise")
    assert run.result(timeout=SOON).by == "remembers"
    assert "the last good output, 0 s old" in (only(run).reason or "")
    deployment.redis.delete(*deployment.redis.keys("{guards}:good*"))


# Breaker


def states(deployment: Deployment) -> list[str]:
    return [breaker.state for breaker in deployment.client.guards.breakers()]


def test_an_open_breaker_lets_steps_wait_and_a_probe_closes_it(deployment: Deployment) -> None:
    # given two failures
    bad = [submit(deployment, "patient", "raise") for _ in range(2)]
    for run in bad:
        deployment.wait_for_note(run, "only")
    wait_until(lambda: states(deployment) == ["open"], SOON, "the breaker is open")
    # when more runs come
    runs = [submit(deployment, "patient") for _ in range(10)]
    # then they wait until the breaker lets a probe through, and none fails
    for run in [*bad, *runs]:
        assert run.result(timeout=SOON).by == "patient"
    assert deployment.client.guards.breakers()[0].state == "closed"
    # and nobody burnt an attempt on it
    assert all(only(run).attempt == 1 for run in runs)


def test_an_open_breaker_lets_steps_fall_back(deployment: Deployment) -> None:
    for _ in range(2):
        submit(deployment, "skips", "raise").result(timeout=SOON)
    run = submit(deployment, "skips")
    assert run.result(timeout=SOON).by == "simple"
    assert "circuit breaker" in (only(run).reason or "")
    assert not deployment.notes(run, "only")  # the agent itself was not called


def test_an_operator_opens_and_closes_a_breaker(deployment: Deployment) -> None:
    deployment.client.guards.force("trouble.skips", "open")
    assert submit(deployment, "skips").result(timeout=SOON).by == "simple"
    deployment.client.guards.force("trouble.skips", "auto")
    deployment.client.guards.force("trouble.skips", "closed")
    assert submit(deployment, "skips").result(timeout=SOON).by == "skips"
    deployment.client.guards.force("trouble.skips", "auto")


# Limits


def test_no_more_attempts_run_at_a_time_than_allowed_and_tenants_are_served_in_turn(deployment: Deployment) -> None:
    # given one tenant with many runs and one with one
    many = [submit(deployment, "narrow", "hang", tenant="many") for _ in range(6)]
    wait_until(lambda: sum(bool(deployment.notes(run, "in")) for run in many) == 1, SOON, "one of them runs")
    few = submit(deployment, "narrow", "hang", tenant="few")
    # then the one is served beside them
    deployment.wait_for_note(few, "in")
    assert sum(bool(deployment.notes(run, "in")) for run in many) == 1
    # when all may go on
    deployment.say()
    for run in [*many, few]:
        run.result(timeout=SOON)
    # then none began before another of its tenant had ended
    spans = sorted(
        (float(deployment.notes(run, "in")[0].split()[1]), float(deployment.notes(run, "out")[0].split()[1]))
        for run in many
    )
    assert all(out <= following + 0.001 for (_, out), (following, _) in itertools.pairwise(spans))


def test_a_rate_is_kept_and_no_worker_waits_for_it(deployment: Deployment) -> None:
    # given 25 runs of an agent that may be asked 10 times a second
    runs = [submit(deployment, "paced") for _ in range(25)]
    for run in runs:
        run.result(timeout=SOON)
    # then no window of a second has more than 10
    starts = sorted(float(deployment.notes(run, "only")[0].split()[1]) for run in runs)
    slack = 0.15  # from being admitted to its first line
    assert all(starts[n + 10] - starts[n] >= 1.0 - slack for n in range(len(starts) - 10))
    assert starts[-1] - starts[0] < 6
    assert all(only(run).attempt == 1 for run in runs)


@pytest.mark.parametrize("flow", ["gated", "retried"])
def test_one_worker_s_retry_after_closes_the_gate_for_all(deployment: Deployment, flow: str) -> None:
    # given an agent with a rate limit, or with no guard at all, that is told to pause
    run = submit(deployment, flow, "pause 1.0")
    deployment.wait_for_note(run, "only")
    wait_until(lambda: only(run).status == "delayed", SOON, "it waits")
    wait_until(lambda: bool(deployment.redis.keys("{guards}:[pr]a*")), SOON, "the gate is closed")
    # when others come
    others = [submit(deployment, flow) for _ in range(5)]
    for other in [run, *others]:
        other.result(timeout=SOON)
    closed = next(event.at_ms for event in run.events() if event.type == "StepDelayed")
    # then none was called in the meantime
    done = [event.at_ms for other in others for event in other.events() if event.type == "StepCompleted"]
    assert min(done) >= closed + 900
    assert all(only(other).attempt == 1 for other in others)


# Budgets


def test_a_run_without_budget_left_takes_a_cheaper_agent(deployment: Deployment) -> None:
    run = submit(deployment, "cheaper", budget=Budget(tokens=50))
    assert run.result(timeout=SOON).by == "frugal" or run.result().attempt == 1
    assert only(run).agent == "trouble.frugal"
    assert "budget" in (only(run).reason or "")


def test_a_run_without_budget_left_ends_with_what_it_has(deployment: Deployment) -> None:
    run = submit(deployment, "partial", budget=Budget(tokens=50, ladder=("cheaper", "partial", "stop")))
    assert run.result(timeout=SOON)["by"] == "frugal"
    state = run.state()
    assert (state.status, state.partial, state.degraded) == ("completed", True, True)


def test_a_run_without_budget_left_stops(deployment: Deployment) -> None:
    run = submit(deployment, "costly", budget=Budget(tokens=50))
    with pytest.raises(RunFailed, match="the budget of run:"):
        run.result(timeout=SOON)


def test_a_tenant_s_budget_holds_over_its_runs_and_the_run_tells_what_it_used(deployment: Deployment) -> None:
    deployment.client.guards.set_budget("tenant:poor", tokens=250)
    # given runs that are expected to use 100 and use 110
    for _ in range(2):
        run = submit(deployment, "costly", "spend 110", tenant="poor")
        run.result(timeout=SOON)
        assert run.state().tokens == 110
    with pytest.raises(RunFailed, match="the budget of tenant:poor"):
        submit(deployment, "costly", "spend 110", tenant="poor").result(timeout=SOON)
    assert submit(deployment, "costly", tenant="rich").result(timeout=SOON).by == "costly"
    deployment.client.guards.drop_budget("tenant:poor")


# Cancel, compensation, children


def test_a_cancelled_agent_has_its_grace_time(deployment: Deployment) -> None:
    run = submit(deployment, "bare", "linger")
    deployment.wait_for_note(run, "only")
    run.cancel()
    deployment.wait_for_note(run, "saw-cancel")


def test_a_cancelled_agent_that_does_not_react_is_interrupted(deployment: Deployment) -> None:
    for flow in ("bare", "idle-sync"):
        run = submit(deployment, flow, "hang" if flow == "bare" else "beat")
        deployment.wait_for_note(run, "only")
        run.cancel()
    # then the worker is free again: `check_all` and the next tests would wait for it else
    assert submit(deployment, "bare").result(timeout=SOON).by == "bare"


@pytest.mark.parametrize(
    ("flow", "acts"), [("bare", ["linger 70"]), ("bare", ["hang 70"]), ("idle-sync", ["beat", "spend"])]
)
@pytest.mark.parametrize("ends", ["cancelled", "failed"])
def test_what_an_attempt_has_used_counts_though_its_run_ended_meanwhile(
    deployment: Deployment, flow: str, acts: list[str], ends: str
) -> None:
    # given an attempt that has used something when its run is cancelled, or its time is over
    run = submit(deployment, flow, *acts, deadline=1.0 if ends == "failed" else 60.0)
    deployment.wait_for_note(run, "only")
    if ends == "cancelled":
        run.cancel()
    # then that counts once it has ended
    wait_until(lambda: run.status() == ends and run.state().tokens == 70, SOON, "it is counted")


def test_a_delayed_and_a_waiting_step_end_with_their_run(deployment: Deployment) -> None:
    later = submit(deployment, "bare", "later 60")
    wait_until(lambda: only(later).status == "delayed", SOON, "it waits for its time")
    first = submit(deployment, "narrow", "hang", tenant="one")
    deployment.wait_for_note(first, "in")
    queued = submit(deployment, "narrow", "hang", tenant="one")
    wait_until(lambda: only(queued).status == "delayed", SOON, "it waits for its turn")
    for run in (later, queued):
        run.cancel()
        assert run.status() == "cancelled"
    deployment.say(first)
    first.result(timeout=SOON)
    assert not deployment.notes(queued, "in")


@pytest.mark.parametrize("acts", [["fail"], ["fail", "refund-once"]])
def test_what_was_done_is_undone_in_reverse_when_the_run_fails(deployment: Deployment, acts: list[str]) -> None:
    run = submit(deployment, "saga", *acts)
    with pytest.raises(RunFailed, match="the end is no good"):
        run.result(timeout=SOON)
    state = run.state()
    assert [step.name for step in state.steps] == ["begin", "book", "pay", "end", "pay~undo", "book~undo"]
    assert [step.undone for step in state.steps[:3]] == [False, True, True]
    undone = [event.data["step"] for event in run.events() if event.type == "StepCompleted"][3:]
    assert undone == ["pay~undo", "book~undo"]
    assert len(deployment.notes(run, "undid-pay")) == (2 if "refund-once" in acts else 1)


def test_what_was_done_is_undone_when_the_run_is_cancelled(deployment: Deployment) -> None:
    run = submit(deployment, "saga", "hang")
    deployment.wait_for_note(run, "hangs")
    run.cancel("no longer wanted")
    with pytest.raises(RunCancelled, match="no longer wanted"):
        run.result(timeout=SOON)
    assert deployment.notes(run, "undid-pay")
    assert deployment.notes(run, "undid-book")


def test_what_cannot_be_undone_is_told_and_everything_else_is_undone(deployment: Deployment) -> None:
    run = submit(deployment, "saga", "fail", "never pay")
    with pytest.raises(RunFailed, match="pay is not undone: StatusError: HTTP 410"):
        run.result(timeout=SOON)
    assert deployment.notes(run, "undid-book")
    assert run.dead_letter().kind == "undo"


@pytest.mark.parametrize("how", ["cancel", "fail"])
def test_children_end_with_their_parent_and_are_submitted_once(deployment: Deployment, how: str) -> None:
    run = submit(deployment, "parent", *(["fail"] if how == "fail" else []))
    path = deployment.floor / f"{run.id}.child"
    wait_until(lambda: path.exists() and path.read_text(), SOON, "the child is submitted")
    one, again = path.read_text().split()
    assert one == again
    child = deployment.client.get(one)
    assert child.state().parent == run.id
    assert child.state().deadline_ms <= run.state().deadline_ms
    if how == "cancel":
        run.cancel()
        assert child.status() == "cancelled"
    with pytest.raises(RunCancelled, match="its parent"):
        child.result(timeout=SOON)
    timers = keys.timers(keys.shard_of(run.id))
    wait_until(lambda: deployment.redis.zscore(timers, f"{run.id}//") is None, SOON, "the caretaker has seen to it")


def test_a_redriven_parent_gets_another_child_for_the_one_that_was_cancelled_with_it(deployment: Deployment) -> None:
    # given a parent that failed, and its child, which was cancelled with it
    run = submit(deployment, "parent", "fail")
    with pytest.raises(RunFailed):
        run.result(timeout=SOON)
    path = deployment.floor / f"{run.id}.child"
    child = deployment.client.get(path.read_text().split()[0])
    with pytest.raises(RunCancelled, match=f"its parent, run {run.id}, has ended"):
        child.result(timeout=SOON)
    # when it is redriven, and all goes well now
    (deployment.floor / f"{run.id}.go").touch()
    run.redrive(by="me")
    run.result(timeout=SOON)
    # then it has one more child, which goes on
    one, again = path.read_text().split()
    assert one == again != child.id
    another = deployment.client.get(one)
    assert another.state().parent == run.id
    (deployment.floor / f"{one}.go").touch()
    another.result(timeout=SOON)


# Dead letters


def test_a_dead_letter_is_sent_again_and_goes_on_where_it_failed(deployment: Deployment) -> None:
    run = submit(deployment, "saga", "fail")
    with pytest.raises(RunFailed):
        run.result(timeout=SOON)
    # when it is sent again, with another input of the step that failed, all that was undone is done again
    with pytest.raises(WrongState, match=r"before 'end', was undone and is done again first: .* --step book"):
        run.redrive("end", by="ada")
    run.redrive("begin", input={"acts": []}, by="ada")
    assert run.result(timeout=SOON).by == "pay"
    assert len(deployment.notes(run, "did-pay")) == 2
    assert deployment.client.get(run.id).state().failure is None


def test_a_dead_letter_is_sent_to_another_agent(deployment: Deployment) -> None:
    run = submit(deployment, "bare", "raise")
    with pytest.raises(RunFailed):
        run.result(timeout=SOON)
    with pytest.raises(InvalidInput, match="there is no agent"):
        run.redrive(agent="trouble.nobody")
    run.redrive(agent="trouble.simple", by="ada")
    assert run.result(timeout=SOON).by == "simple"


def test_a_dead_letter_is_dropped(deployment: Deployment) -> None:
    run = submit(deployment, "bare", "raise")
    with pytest.raises(RunFailed):
        run.result(timeout=SOON)
    run.drop(by="ada")
    assert run.id not in [one.run_id for one in deployment.client.dead_letters()]
    with pytest.raises(WrongState, match="no dead letter"):
        run.drop(by="ada")


def test_the_place_of_a_cancelled_run_whose_worker_died_is_free_within_the_lease(
    make: Callable[..., Deployment],
) -> None:
    # given a step at work that holds its tenant's only place, one that waits for it, and a worker more
    deployment = make(agents=(FLOWS,), path=[USER_CODE.parents[1]])
    deployment.client.settings = deployment.settings.model_copy(update={"agents": (FLOWS,)})
    worker = deployment.start_worker(queues=["trouble.narrow"], pool="asyncio").wait_until_ready()
    first = submit(deployment, "narrow", "hang", tenant="one")
    deployment.wait_for_note(first, "in")
    deployment.start_worker(queues=["trouble.narrow"], pool="asyncio").wait_until_ready()
    second = submit(deployment, "narrow", tenant="one")
    wait_until(lambda: only(second).status == "delayed", SOON, "it waits")

    # when its worker dies and its run is cancelled, so that nobody has lost it
    worker.kill()
    first.cancel()

    # then the other one has its place, long before the time is over that the agent may take
    second.result(timeout=deployment.settings.lease + 5.0)
