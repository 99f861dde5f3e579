"""Celery's task events of every outcome: what Flower, and whoever else listens, is told."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

import pytest

from orchestrator import RunFailed
from tests.integration.listening import Listener
from tests.servers import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator import Run
    from tests.integration.fleet import Deployment

pytestmark = pytest.mark.integration

on_all_pools = pytest.mark.parametrize("deployment", ["valkey-prefork", "valkey-asyncio"], indirect=True)
PAYLOAD = "only-for-agents"


def completes(deployment: Deployment) -> Run:
    run = deployment.submit("relay", PAYLOAD)
    run.result(timeout=15)
    return run


def fails(deployment: Deployment) -> Run:
    run = deployment.submit("raises", PAYLOAD)
    with pytest.raises(RunFailed):
        run.result(timeout=15)
    return run


def is_sent_back(deployment: Deployment) -> Run:
    run = deployment.submit("essay", "revise 1")
    run.result(timeout=15)
    return run


def falls_back(deployment: Deployment) -> Run:
    run = deployment.submit("essay-fallback", "fallback")
    run.result(timeout=15)
    return run


def is_cancelled(deployment: Deployment) -> Run:
    run = deployment.submit("held", PAYLOAD)
    deployment.wait_for_note(run, "started")
    run.cancel()
    return run


@on_all_pools
@pytest.mark.parametrize(
    ("happens", "outcomes"),
    [
        (completes, [("first", "task-succeeded"), ("second", "task-succeeded"), ("third", "task-succeeded")]),
        (fails, [("first", "task-succeeded"), ("raiser", "task-failed")]),
        (is_sent_back, [("writer", "task-retried"), ("writer", "task-succeeded"), ("editor", "task-succeeded")]),
        (falls_back, [("writer", "task-retried"), ("writer", "task-succeeded"), ("editor", "task-succeeded")]),
        (is_cancelled, [("first", "task-succeeded"), ("hold", "task-revoked")]),
    ],
)
def test_each_executions_state_is_its_outcome(
    deployment: Deployment, happens: Callable[[Deployment], Run], outcomes: list[tuple[str, str]]
) -> None:
    with Listener(deployment.client.app) as listener:
        run = happens(deployment)
        wait_until(lambda: len(listener.messages(run)) == len(outcomes), 15, "all messages are received")
        messages = listener.messages(run)
        found = [(ast.literal_eval(one["kwargs"])["step"], listener.end_of(one["uuid"])) for one in messages]
    # then every message ended as its execution did
    assert found == outcomes
    for message, (step, kind) in zip(messages, outcomes, strict=True):
        # and its row is named after flow and step, belongs to the run, and holds references alone
        assert message["name"] == f"{run.state().flow}/{step}"
        assert message["args"] == "()" or message["args"] == "[]"
        assert ast.literal_eval(message["kwargs"]) == {"run": run.id, "step": step}
        assert message["root_id"] == run.id
        events = listener.of(message["uuid"])
        assert PAYLOAD not in str(events)
        end = next(event for event in events if event["type"] == kind)
        if kind == "task-failed":
            assert "cannot work on" in end["exception"]
        elif kind == "task-succeeded":
            assert len(end["result"]) < 100
    # and the run's first message has the run's own id
    assert messages[0]["uuid"] == run.id
