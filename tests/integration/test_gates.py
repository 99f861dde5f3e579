"""Quality gates between stages, on real workers: what a stage sees, what a person decides, what the log says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from orchestrator import InvalidInput, OrchestratorError, RunFailed
from tests.integration.acme.documents import Draft
from tests.servers import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator import Run
    from tests.integration.fleet import Deployment

pytestmark = pytest.mark.integration

everywhere = pytest.mark.parametrize(
    "deployment", ["valkey-prefork", "redis7-prefork", "valkey-asyncio"], indirect=True
)


def events_of(run: Run, kind: str) -> list[dict[str, object]]:
    return [dict(event.data) for event in run.events() if event.type == kind]


def wait_for_person(run: Run) -> None:
    wait_until(lambda: run.status() == "waiting", 15, f"{run.id} waits for a person")


def test_an_output_that_its_gate_accepts_passes(deployment: Deployment) -> None:
    run = deployment.submit("essay", "ok")
    assert run.result(timeout=15) == Draft(text="ok", version=0, trail=("writer", "editor"))
    assert events_of(run, "StepRevised") == []


@everywhere
def test_a_revised_stage_sees_all_feedback_and_its_own_draft(deployment: Deployment) -> None:
    run = deployment.submit("essay", "revise 2")
    # then the third version passes, and it saw the first two verdicts and the second draft
    assert run.result(timeout=15) == Draft(
        text="revise 2",
        version=2,
        feedback=("not good enough: 0", "not good enough: 1"),
        previous=1,
        trail=("writer", "editor"),
    )
    assert [facts["feedback"] for facts in events_of(run, "StepRevised")] == [
        "not good enough: 0",
        "not good enough: 1",
    ]
    step = run.state().step("writer")
    assert step is not None
    assert (step.revision, step.attempt, step.begins) == (2, 1, 3)


def test_a_stage_is_revised_at_most_so_often_then_rejected(deployment: Deployment) -> None:
    run = deployment.submit("essay", "revise 9")
    with pytest.raises(RunFailed, match="rejected by its gate: still not accepted after it was revised 2 times"):
        run.result(timeout=15)
    assert len(events_of(run, "StepRevised")) == 2
    assert len(events_of(run, "StepStarted")) == 3


@pytest.mark.parametrize(("flow", "by"), [("essay-then-pass", "writer"), ("essay-then-fallback", "rules")])
def test_what_follows_the_last_revision_is_the_gates_to_say(deployment: Deployment, flow: str, by: str) -> None:
    run = deployment.submit(flow, "revise 9")
    assert run.result(timeout=15).by == by
    assert len(events_of(run, "StepRevised")) == 1


def test_after_the_last_revision_a_person_may_be_asked(deployment: Deployment) -> None:
    run = deployment.submit("essay-then-human", "revise 9")
    wait_for_person(run)
    run.approve("writer", by="ann")
    assert run.result(timeout=15).version == 1


def test_a_plain_no_means_what_the_gate_says_it_means(deployment: Deployment) -> None:
    rejected, revised = deployment.submit("essay", "no"), deployment.submit("essay-revise", "no")
    with pytest.raises(RunFailed, match="rejected by its gate: the gate's check said no"):
        rejected.result(timeout=15)
    with pytest.raises(RunFailed, match="still not accepted after it was revised once"):
        revised.result(timeout=15)


@everywhere
def test_a_rejected_output_fails_the_run_with_the_gates_reason(deployment: Deployment) -> None:
    run = deployment.submit("essay", "reject")
    with pytest.raises(RunFailed, match="writer: rejected by its gate: against the policy"):
        run.result(timeout=15)
    assert events_of(run, "StepStarted")[-1]["step"] == "writer"


def test_a_gate_that_raises_fails_the_run_with_the_reason(deployment: Deployment) -> None:
    run = deployment.submit("essay", "raise")
    with pytest.raises(RunFailed, match="writer: its gate raised RuntimeError: the judge is out"):
        run.result(timeout=15)


@everywhere
def test_a_fallback_takes_the_stages_input_and_its_output_is_marked_degraded(deployment: Deployment) -> None:
    run = deployment.submit("essay-fallback", "fallback")
    assert run.result(timeout=15) == Draft(text="fallback", version=0, by="rules", trail=("editor",))
    step = run.state().step("writer")
    assert step is not None
    assert (step.degraded, step.agent, step.reason, step.status) == (True, "acme.rules", "too hard", "completed")
    assert [facts["agent"] for facts in events_of(run, "StepFellBack")] == ["acme.rules"]


def busy(deployment: Deployment) -> bool:
    """Whether a worker says that it has a task at work, or none says anything."""
    active = deployment.client.app.control.inspect(timeout=1.0).active()
    return not active or any(active.values())


@everywhere
def test_nobody_waits_in_a_worker_while_a_person_decides(deployment: Deployment) -> None:
    # given more runs at their gate than the pool has processes
    runs = [deployment.submit("essay", "ask") for _ in range(4)]
    for run in runs:
        wait_for_person(run)
    # then no message of theirs is anywhere, no worker is busy, and other runs go through
    wait_until(lambda: not deployment.waiting_messages(), 15, "no message is left")
    wait_until(lambda: not busy(deployment), 15, "no worker is busy")  # it hears of a task's end after its message's
    assert [run.status() for run in runs] == ["waiting"] * 4
    assert deployment.submit("relay").result(timeout=15).steps == 3
    step = runs[0].state().step("writer")
    assert step is not None
    assert step.waiting is not None
    assert step.waiting.question == "is this right?"
    # and they go on when somebody decides
    for run in runs:
        run.approve(by="ann", note="looks fine")
    for run in runs:
        assert run.result(timeout=15).trail == ("writer", "editor")


def test_an_approval_tells_who_and_why(deployment: Deployment) -> None:
    run = deployment.submit("essay", "ask")
    wait_for_person(run)
    run.approve("writer", by="ann", note="looks fine")
    run.result(timeout=15)
    step = run.state().step("writer")
    assert step is not None
    assert step.decision is not None
    assert (step.decision.choice, step.decision.by, step.decision.note) == ("approve", "ann", "looks fine")
    assert events_of(run, "StepDecided")[0]["decision"] == {"choice": "approve", "by": "ann", "note": "looks fine"}


def test_a_rejection_fails_the_run_with_who_and_why(deployment: Deployment) -> None:
    run = deployment.submit("essay", "ask")
    wait_for_person(run)
    run.reject(by="bob", note="not our tone")
    with pytest.raises(RunFailed, match="writer: rejected by bob: not our tone"):
        run.result(timeout=15)
    assert events_of(run, "StepStarted")[-1]["step"] == "writer"


def test_a_gate_is_decided_once(deployment: Deployment) -> None:
    run = deployment.submit("essay", "ask")
    wait_for_person(run)
    with pytest.raises(InvalidInput, match="who decides"):
        run.approve(by="")
    with pytest.raises(OrchestratorError, match="step 'editor' does not wait"):
        run.approve("editor", by="ann")
    run.approve(by="ann")
    with pytest.raises(OrchestratorError, match="no step waits for a decision"):
        run.reject(by="bob")
    run.result(timeout=15)
    assert len(events_of(run, "StepDecided")) == 1


@everywhere
def test_where_nobody_decides_in_time_the_default_does(deployment: Deployment) -> None:
    approved, rejected, degraded = (
        deployment.submit(f"impatient-{default}", "ask") for default in ("approve", "reject", "fallback")
    )
    assert approved.result(timeout=15).by == "writer"
    assert degraded.result(timeout=15).by == "rules"
    with pytest.raises(RunFailed, match="writer: rejected by timeout: nobody decided in time"):
        rejected.result(timeout=15)
    for run, choice in ((approved, "approve"), (rejected, "reject"), (degraded, "fallback")):
        step = run.state().step("writer")
        assert step is not None
        assert step.decision is not None
        assert (step.decision.choice, step.decision.by) == (choice, "timeout")


@everywhere
def test_a_gate_behind_a_nested_pipeline_sends_all_of_it_back(deployment: Deployment) -> None:
    run = deployment.submit("nested", "revise 1")
    # then both nested stages ran again; the first one was told why
    assert run.result(timeout=15).trail == ("first", "inner/prepare+not good enough: 0", "inner/writer", "editor")
    starts = [facts["step"] for facts in events_of(run, "StepStarted")]
    assert starts == ["first", "inner/prepare", "inner/writer", "inner/prepare", "inner/writer", "editor"]


def test_a_fallback_behind_a_nested_pipeline_takes_the_nested_input(deployment: Deployment) -> None:
    run = deployment.submit("nested", "fallback")
    assert run.result(timeout=15) == Draft(text="fallback", version=0, by="rules", trail=("first", "editor"))


def test_a_gate_outlives_every_worker(make: Callable[..., Deployment]) -> None:
    # given a run at its gate, and then no worker at all
    deployment = make()
    worker = deployment.start_worker().wait_until_ready()
    run = deployment.submit("essay", "ask")
    wait_for_person(run)
    worker.stop()
    # when it is approved meanwhile, and a worker comes later
    run.approve(by="ann")
    deployment.start_worker()
    # then it goes on
    assert run.result(timeout=20).trail == ("writer", "editor")


def test_a_decision_whose_maker_died_before_it_was_published_counts(deployment: Deployment) -> None:
    run = deployment.submit("essay", "ask")
    wait_for_person(run)
    # when the decision is recorded, and nothing is published
    deployment.client.store.decide(run.id, "writer", "approve", by="ann")
    # then the caretaker publishes what follows
    assert run.result(timeout=15).trail == ("writer", "editor")
    assert [facts["step"] for facts in events_of(run, "StepRedispatched")] == ["editor"]
