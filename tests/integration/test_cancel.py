"""Cancel: whatever a run is doing, nothing of it starts or is written afterwards."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from orchestrator import OrchestratorError, RunCancelled
from tests.servers import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator import Run
    from tests.integration.fleet import Deployment

pytestmark = pytest.mark.integration

on_all_pools = pytest.mark.parametrize(
    "deployment", ["valkey-prefork", "redis7-prefork", "valkey-asyncio"], indirect=True
)


def started(run: Run) -> list[object]:
    return [event.data["step"] for event in run.events() if event.type == "StepStarted"]


def assert_cancelled(run: Run) -> None:
    with pytest.raises(RunCancelled, match="changed my mind"):
        run.result(timeout=15)
    last = run.events()[-1]
    assert (last.type, last.data) == ("RunCancelled", {"reason": "changed my mind", "by": "ann"})
    state = run.state()
    assert {step.status for step in state.steps} <= {"completed", "cancelled"}
    with pytest.raises(OrchestratorError, match="it has ended already: cancelled"):
        run.cancel()


def test_a_queued_run_never_starts(make: Callable[..., Deployment]) -> None:
    # given a run whose queue has no worker
    deployment = make()
    run = deployment.submit("only-parked")
    assert run.status() == "queued"
    # when it is cancelled, and then a worker comes and takes the message
    run.cancel("changed my mind", by="ann")
    deployment.start_worker(queues=["acme.parked"]).wait_until_ready()
    wait_until(lambda: not deployment.messages("acme.parked"), 15, "the message is taken")
    assert deployment.client.submit("only-parked", {"text": "next"}).result(timeout=15).text == "next"
    # then nothing of it started
    assert_cancelled(run)
    assert started(run) == []


@on_all_pools
def test_an_async_handler_is_cancelled_and_its_finally_runs(deployment: Deployment) -> None:
    run = deployment.submit("held")
    deployment.wait_for_note(run, "started")
    run.cancel("changed my mind", by="ann")
    deployment.wait_for_note(run, "cancelled")
    deployment.wait_for_note(run, "finally")
    assert_cancelled(run)
    assert started(run) == ["first", "hold"]


@on_all_pools
def test_a_sync_handler_sees_it_and_what_it_returns_is_discarded(deployment: Deployment) -> None:
    run = deployment.submit("held-sync")
    deployment.wait_for_note(run, "started")
    run.cancel("changed my mind", by="ann")
    deployment.wait_for_note(run, "saw-cancelled")
    assert_cancelled(run)
    # and the pool is free again
    assert deployment.submit("relay").result(timeout=15).steps == 3
    assert started(run) == ["first", "hold-sync"]


def test_a_run_at_its_gate_cannot_be_approved_after_its_cancel(deployment: Deployment) -> None:
    run = deployment.submit("essay", "ask")
    wait_until(lambda: run.status() == "waiting", 15, "it waits for a person")
    run.cancel("changed my mind", by="ann")
    assert_cancelled(run)
    with pytest.raises(OrchestratorError, match="no step waits"):
        run.approve(by="bob")
    assert started(run) == ["writer"]


def test_cancelling_what_does_not_exist_says_so(deployment: Deployment) -> None:
    for run_id in ("0" * 24, "nonsense", ""):
        with pytest.raises(OrchestratorError, match=r"no run|there is no"):
            deployment.client.get(run_id).cancel()
