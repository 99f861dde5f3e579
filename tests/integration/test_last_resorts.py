"""What takes the place of an output, in each case that the documentation tells of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from orchestrator import Budget, RunFailed
from orchestrator.errors import InvalidInput, WrongState
from orchestrator.state import keys
from tests.integration.checks import check_all
from tests.integration.conftest import FAILED
from tests.integration.fleet import FAST, USER_CODE, Deployment
from tests.integration.resorts.flows import LARGE
from tests.servers import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator import Run, StepState

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("last_resorts")]

SOON = 15.0
MODULE = "tests.integration.resorts.flows"
AGENTS = (
    *("also-fails", "fails", "helpless", "anything", "picky", "waits", "waits-alone", "falls", "falls-alone"),
    *("counts", "names", "numbers", "calls", "too-late", "looks", "writes", "hears", "speaks", "concludes"),
    *("gives-up", "gives-up-alone", "cheap", "dear", "too-large", "alone", "does", "undoes", "ends", "parent"),
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    made = Deployment(
        "valkey",
        tmp_path_factory.mktemp("resorts"),
        settings=FAST | {"tick": 0.05, "max_payload_bytes": LARGE - 1000, "claim_check_bytes": 1024},
        agents=(MODULE,),
        path=[USER_CODE.parents[1]],
    )
    made.client.settings = made.settings.model_copy(update={"agents": (MODULE,)})
    made.start_worker(queues=[f"resorts.{name}" for name in AGENTS], pool="asyncio", concurrency=20).wait_until_ready()
    yield made
    made.close()


@pytest.fixture
def deployment(request: pytest.FixtureRequest, place: Deployment) -> Iterator[Deployment]:
    """A worker for the agents; afterwards nothing is left of what they did, and no breaker is open."""
    yield place
    if FAILED in request.node.stash:
        place.redis.flushall()
        place.checked.clear()
        return
    for breaker in place.client.guards.breakers():
        place.client.guards.force(breaker.name, "auto")
    check_all(place)
    place.redis.delete(*place.redis.keys("{guards}:[bg]*"), "nothing")


def submit(deployment: Deployment, flow: str, text: str = "x", **options: Any) -> Run:  # noqa: ANN401  as of Client.submit
    return deployment.client.submit(f"resorts-{flow}", {"text": text}, **options)


def step(run: Run, name: str = "only") -> StepState:
    found = run.state().step(name)
    assert found is not None
    return found


# Fallbacks


def test_where_a_fallback_fails_too_the_next_one_is_taken(deployment: Deployment) -> None:
    run = submit(deployment, "fails", "no")
    assert run.result(timeout=SOON).by == "constant"
    assert [event.type for event in run.events()].count("StepFellBack") == 1
    assert run.state().degraded


def test_where_no_fallback_is_left_the_run_fails(deployment: Deployment) -> None:
    with pytest.raises(RunFailed, match="ValueError: no"):
        submit(deployment, "helpless", "no").result(timeout=SOON)


@pytest.mark.parametrize(
    ("flow", "text", "why"),
    [
        ("odd", "odd", "the input does not fit"),
        ("picky", "large", "bytes"),
    ],
)
def test_what_no_other_attempt_would_mend_falls_back_at_once(
    deployment: Deployment, flow: str, text: str, why: str
) -> None:
    run = submit(deployment, flow, text)
    assert run.result(timeout=SOON).by == "constant"
    assert step(run).begins == 1
    assert why in (step(run).reason or "")


def test_a_step_whose_time_is_over_takes_a_value_that_is_there_and_no_agent(deployment: Deployment) -> None:
    run = submit(deployment, "too-late")
    assert run.result(timeout=SOON).by == "constant"
    assert step(run).begins == 1
    assert "the time the step or its run has is over" in (step(run).reason or "")


def test_a_step_whose_time_is_over_before_it_runs_fails(deployment: Deployment) -> None:
    # given an agent whose breaker lets its steps wait
    deployment.client.guards.force("resorts.too-late", "open")
    run = submit(deployment, "too-late")
    # then no worker has it that could take a rung
    with pytest.raises(RunFailed, match="not done in the time it has"):
        run.result(timeout=SOON)


def test_what_its_gate_rejects_fails_the_run_whatever_its_agent_falls_back_to(deployment: Deployment) -> None:
    run = submit(deployment, "rejected", "x")
    with pytest.raises(RunFailed, match="rejected by its gate"):
        run.result(timeout=SOON)
    assert not step(run).degraded


def test_a_redrive_after_a_gates_fallback_is_for_the_stage_and_not_for_the_fallback(deployment: Deployment) -> None:
    # given a stage within a stage, whose gate gave what the first one took to a fallback, which failed
    run, last = submit(deployment, "outer-names", "odd"), "resorts-inner-names/last"
    with pytest.raises(RunFailed, match="ValueError: odd"):
        run.result(timeout=SOON)
    assert step(run, last).instead_of == "resorts.names"

    # when it is redriven as it was, then the stage takes what it took, and the same follows
    run.redrive()
    with pytest.raises(RunFailed, match="ValueError: odd"):
        run.result(timeout=SOON)

    # when it is given another input, then that is one that the stage takes
    with pytest.raises(InvalidInput, match="does not fit"):
        run.redrive(input={"text": "even"})
    run.redrive(input={"number": 4})
    assert run.result(timeout=SOON).by == "names 4"


def test_fallbacks_of_an_agent_take_what_it_took_after_that_of_its_gate_has_failed(deployment: Deployment) -> None:
    run = submit(deployment, "outer-calls", "odd")
    assert run.result(timeout=SOON).by == "numbers 3"


def test_a_gates_fallback_within_a_source_or_a_member_takes_the_wake_or_the_mail(deployment: Deployment) -> None:
    assert submit(deployment, "board", "odd").result(timeout=SOON).entries["found"] == {"by": "odd"}
    assert submit(deployment, "talk", "odd").result(timeout=SOON).decision.body == {"by": "odd"}


# Breakers


@pytest.mark.parametrize("agent", ["waits", "waits-alone"])
def test_a_step_waits_for_a_breaker_that_lets_it_wait(deployment: Deployment, agent: str) -> None:
    # given an open breaker
    deployment.client.guards.force(f"resorts.{agent}", "open")
    run = submit(deployment, agent)
    wait_until(lambda: step(run).status == "delayed", SOON, "it waits")
    assert "circuit breaker" in (step(run).why or "")
    # when it lets calls through again
    deployment.client.guards.force(f"resorts.{agent}", "auto")
    # then the step goes on, as the agent's own
    assert run.result(timeout=SOON).by == agent


def test_a_step_falls_back_where_a_breaker_does_not_let_it_wait(deployment: Deployment) -> None:
    deployment.client.guards.force("resorts.falls", "open")
    assert submit(deployment, "falls").result(timeout=SOON).by == "constant"


@pytest.mark.parametrize("agent", ["falls-alone", "gives-up", "gives-up-alone"])
def test_a_step_fails_where_a_breaker_lets_it_neither_wait_nor_fall_back(deployment: Deployment, agent: str) -> None:
    deployment.client.guards.force(f"resorts.{agent}", "open")
    with pytest.raises(RunFailed, match="the circuit breaker"):
        submit(deployment, agent).result(timeout=SOON)


def test_a_step_that_needs_more_than_a_limit_lets_through_at_all_falls_back(deployment: Deployment) -> None:
    run = submit(deployment, "too-large")
    assert run.result(timeout=SOON).by == "constant"
    assert "it needs more than 'resorts.too-large' lets through at all: 500 tokens" in (step(run).reason or "")


# Budgets


@pytest.mark.parametrize(
    ("budget", "by"),
    [
        (Budget(tokens=100), "dear"),
        (Budget(tokens=60), "cheap"),
        # the cheaper one lacks the budget too: what is left of the ladder
        (Budget(tokens=40), "constant"),
        (Budget(tokens=60, ladder=("cached", "cheaper")), "constant"),
    ],
)
def test_a_budget_s_ladder_is_climbed_down(deployment: Deployment, budget: Budget, by: str) -> None:
    assert submit(deployment, "dear", by, budget=budget).result(timeout=SOON).by == by


def test_the_last_good_output_is_taken_where_the_budget_is_used_up(deployment: Deployment) -> None:
    # given an output of an agent, and nothing of an earlier one
    assert submit(deployment, "dear").result(timeout=SOON).by == "dear"
    wait_until(lambda: bool(deployment.redis.keys("{guards}:good:*")), SOON, "it is kept")
    # when there is no budget for the same input
    run = submit(deployment, "dear", budget=Budget(tokens=10, ladder=("cached",)))
    # then it is that output
    assert run.result(timeout=SOON).by == "dear"
    assert "the last good output" in (step(run).reason or "")


@pytest.mark.parametrize("ladder", [("stop",), ("cheaper", "cached"), ("partial", "stop")])
def test_where_no_rung_is_left_a_run_without_budget_fails(deployment: Deployment, ladder: Any) -> None:  # noqa: ANN401
    with pytest.raises(RunFailed, match="the budget of run:"):
        submit(deployment, "alone", budget=Budget(tokens=10, ladder=ladder)).result(timeout=SOON)


def test_a_run_without_budget_for_its_gates_fallback_ends_with_what_the_step_before_gave(
    deployment: Deployment,
) -> None:
    run = submit(deployment, "outer-part", "odd", budget=Budget(tokens=10))
    assert run.result(timeout=SOON) == {"number": 3}


def test_a_tenant_without_budget_left_takes_the_whole_ladder(deployment: Deployment) -> None:
    deployment.client.guards.set_budget("tenant:poor", tokens=60)
    assert submit(deployment, "dear", tenant="poor").result(timeout=SOON).by == "cheap"
    deployment.client.guards.drop_budget("tenant:poor")


def test_a_child_draws_on_the_budget_of_its_parent(deployment: Deployment) -> None:
    # given a run whose child needs more than the run has
    run = submit(deployment, "parent", budget=Budget(tokens=60))
    child = deployment.client.get(run.result(timeout=SOON).text)
    # then the child takes the cheaper agent
    assert child.result(timeout=SOON).by == "cheap"
    assert [budget.run for budget in child.state().budgets] == [run.id]


# Undo


def test_nothing_is_undone_where_a_run_ends_with_a_part(deployment: Deployment) -> None:
    run = submit(deployment, "undone", budget=Budget(tokens=10))
    assert run.result(timeout=SOON) == {"text": "x"}
    assert [one.undone for one in run.state().steps] == [False, False]


def test_a_run_past_its_deadline_undoes_what_it_did(deployment: Deployment) -> None:
    run = submit(deployment, "undone", "late", deadline=1.0)
    with pytest.raises(RunFailed, match="deadline"):
        run.result(timeout=SOON)
    assert step(run, "book").undone


def test_a_stage_that_its_gate_rejected_is_not_undone(deployment: Deployment) -> None:
    run = submit(deployment, "half", "no")
    with pytest.raises(RunFailed, match="rejected by its gate"):
        run.result(timeout=SOON)
    assert [one.name for one in run.state().steps] == ["does", "book"]


def test_a_run_that_is_being_undone_goes_on_with_it(deployment: Deployment) -> None:
    # given a run whose undoing takes its time
    run = submit(deployment, "undone", "slowly")
    wait_until(lambda: run.status() == "undoing", SOON, "it is being undone")
    # when somebody cancels it
    with pytest.raises(WrongState, match="it is being undone"):
        run.cancel()
    # then it ends as it was going to
    deployment.say(run, "undo")
    with pytest.raises(RunFailed, match="slowly"):
        run.result(timeout=SOON)
    assert step(run, "book").undone


def test_what_is_not_undone_in_its_time_is_told(deployment: Deployment) -> None:
    # given a run whose undoing takes its time, when that is over
    run = submit(deployment, "undone", "slowly")
    wait_until(lambda: step_is_running(run, "book~undo"), SOON, "it is being undone")
    day = run.state().deadline_ms - (step(run, "book~undo").first_ms or 0)
    assert 86_300_000 < day <= 86_400_000
    end_the_day(deployment, run)
    # then the run has failed, and says so
    with pytest.raises(RunFailed, match="not everything is undone in time"):
        run.result(timeout=SOON)
    assert run.dead_letter().kind == "undo"
    deployment.checked.add(run.id)  # its log does not tell of the time that was taken from it


def step_is_running(run: Run, name: str) -> bool:
    found = run.state().step(name)
    return found is not None and found.status == "running"


def end_the_day(deployment: Deployment, run: Run) -> None:
    """Let the time for undoing be over."""
    past = run.state().created_ms
    deployment.redis.hset(keys.run(run.id), "deadline_ms", past)
    deployment.redis.zadd(keys.timers(keys.shard_of(run.id)), {run.id: past})
