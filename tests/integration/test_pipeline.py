"""Pipelines on real workers: typed results, the log, what the messages hold."""

from __future__ import annotations

import base64
import json
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from orchestrator import InvalidInput, RunFailed
from orchestrator.state.fold import fold
from tests.integration.acme.documents import Report

if TYPE_CHECKING:
    from tests.integration.fleet import Deployment

pytestmark = pytest.mark.integration

everywhere = pytest.mark.parametrize(
    "deployment", ["valkey-prefork", "valkey-threads", "redis7-prefork", "valkey-asyncio"], indirect=True
)
on_all_pools = pytest.mark.parametrize(
    "deployment", ["valkey-prefork", "valkey-threads", "valkey-asyncio"], indirect=True
)


@everywhere
def test_async_and_sync_agents_hand_a_typed_result_on(deployment: Deployment) -> None:
    run = deployment.submit("relay", "hello", tenant="north", tags={"batch": "7"})
    result = run.result(timeout=15)
    assert result == Report(text="hello", steps=3, tenant="north", tags={"batch": "7"})
    assert isinstance(result, Report)


@everywhere
def test_the_log_tells_the_run_in_order_and_folds_to_the_projection(deployment: Deployment) -> None:
    run = deployment.submit("relay")
    run.result(timeout=15)
    events = run.events()
    assert [(event.type, event.data.get("step")) for event in events] == [
        ("RunSubmitted", None),
        ("StepStarted", "first"),
        ("StepCompleted", "first"),
        ("StepStarted", "second"),
        ("StepCompleted", "second"),
        ("StepStarted", "third"),
        ("StepCompleted", "third"),
        ("RunCompleted", None),
    ]
    assert fold(run.id, events) == run.state()
    assert [step.attempt for step in run.state().steps] == [1, 1, 1]


def test_a_watcher_sees_the_same_events_as_they_happen(deployment: Deployment) -> None:
    run = deployment.submit("held")
    seen = []
    for event in run.watch(timeout=15):
        seen.append(event)
        if event.type == "StepStarted" and event.data["step"] == "hold":
            deployment.say(run)
    assert seen == run.events()


def test_a_message_holds_references_and_no_payload_and_does_not_grow_with_the_data(deployment: Deployment) -> None:
    # given two runs, of a small and of a large document, whose second stage has no worker
    runs = [deployment.submit("to-parked", secret * size) for secret, size in (("tiny-secret", 1), ("big", 50_000))]
    try:
        # when the first stage is done and the message for the second is published
        for run in runs:
            for event in run.watch(timeout=15):
                if event.type == "StepCompleted":
                    break
        found: dict[str, tuple[str, tuple[list[str], dict[str, str]]]] = {}
        while len(found) < len(runs):
            for raw in deployment.messages("acme.parked"):
                body = base64.b64decode(json.loads(raw)["body"]).decode()
                found[json.loads(body)[1]["run"]] = (raw.decode() + body, (json.loads(body)[0], json.loads(body)[1]))
        # then it names run and step, of the same size for both
        for run in runs:
            assert found[run.id][1] == ([], {"run": run.id, "step": "parked"})
            assert "secret" not in found[run.id][0]
        small, large = (len(found[run.id][0]) for run in runs)
        assert abs(small - large) < 64
    finally:
        for run in runs:
            run.cancel()
        for priority in ("", "\x06\x163"):
            deployment.broker.delete(f"acme.parked{priority}")


def test_a_large_document_goes_through_behind_its_claim_check(deployment: Deployment) -> None:
    run = deployment.submit("relay", "y" * 600_000)
    assert run.result(timeout=15).text == "y" * 600_000


@on_all_pools
def test_a_pipeline_of_25_stages_goes_through_three_windows(deployment: Deployment) -> None:
    run = deployment.submit("long")
    assert run.result(timeout=30).trail == tuple(f"s{number:02}" for number in range(25))
    events = Counter(event.type for event in run.events())
    assert events == {"RunSubmitted": 1, "StepStarted": 25, "StepCompleted": 25, "RunCompleted": 1}


@on_all_pools
def test_60_runs_complete_without_an_extra_attempt(deployment: Deployment) -> None:
    runs = deployment.client.submit_many("relay", [{"text": str(number)} for number in range(60)])
    for number, run in enumerate(runs):
        assert run.result(timeout=30).text == str(number)
        assert Counter(event.type for event in run.events()) == {
            "RunSubmitted": 1,
            "StepStarted": 3,
            "StepCompleted": 3,
            "RunCompleted": 1,
        }


@on_all_pools
@pytest.mark.parametrize(
    ("flow", "reason"),
    [
        ("raises", "raiser: ValueError: cannot work on 5 characters"),
        ("lies", "liar: agent 'acme.liar' returned what it does not declare: text: Input should be a valid string"),
        ("misfits", "exact: the input does not fit agent 'acme.exact': text: Input should be 'exact'"),
        ("overruns", "late: timed out after 0.3 s"),
    ],
)
def test_a_failed_step_fails_its_run_with_the_reason(deployment: Deployment, flow: str, reason: str) -> None:
    run = deployment.submit(flow, "12345")
    with pytest.raises(RunFailed) as failed:
        run.result(timeout=15)
    assert reason in str(failed.value)
    state = run.state()
    assert state.reason == reason
    at = next(index for index, step in enumerate(state.steps) if step.status == "failed")
    assert state.steps[at].reason == reason.partition(": ")[2]
    assert {step.status for step in state.steps[:at]} <= {"completed"}
    assert {step.status for step in state.steps[at + 1 :]} <= {"cancelled"}
    if flow == "overruns":
        deployment.wait_for_note(run, "finally")


def test_a_blocking_agent_is_interrupted_at_its_timeout_where_the_pool_can(deployment: Deployment) -> None:
    run = deployment.submit("overruns-sync")
    with pytest.raises(RunFailed, match=r"timed out after 1 s|SoftTimeLimitExceeded"):
        run.result(timeout=15)
    # and the process goes on
    assert deployment.submit("relay").result(timeout=15).steps == 3


def test_what_does_not_fit_is_refused_before_anything_is_enqueued(deployment: Deployment) -> None:
    before = len(deployment.client.list_runs(limit=1000))
    with pytest.raises(InvalidInput, match="text: Input should be a valid string"):
        deployment.client.submit("relay", {"text": 5})
    with pytest.raises(InvalidInput, match="there is no flow 'nothing'"):
        deployment.client.submit("nothing", {"text": "x"})
    assert len(deployment.client.list_runs(limit=1000)) == before


def test_the_same_key_gives_the_same_run(deployment: Deployment) -> None:
    first, second = (deployment.submit("relay", key="ticket-1") for _ in range(2))
    assert first.id == second.id
    first.result(timeout=15)
    assert Counter(event.type for event in first.events())["StepStarted"] == 3
