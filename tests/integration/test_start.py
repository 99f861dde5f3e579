"""`orchestrator.start`: runs for producers that know nothing of us but a task's name."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery

from orchestrator import RunFailed
from orchestrator.state import keys
from tests.integration.checks import all_runs
from tests.servers import task_result, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from orchestrator import Run
    from tests.integration.fleet import Deployment

pytestmark = pytest.mark.integration

on_all_pools = pytest.mark.parametrize("deployment", ["valkey-prefork", "valkey-asyncio"], indirect=True)
START = "orchestrator.start"
FITTING = {"flow": "relay", "input": {"text": "hello"}}


@pytest.fixture
def producer(deployment: Deployment) -> Iterator[Celery]:
    """A Celery app of somebody else's."""
    app = Celery(
        "elsewhere",
        broker=deployment.env["CELERIAC_BROKER_URL"],
        backend=deployment.env["CELERIAC_REDIS_URL"],
        set_as_current=False,
    )
    yield app
    app.close()


def start(producer: Celery, *args: object, **kwargs: object) -> str:
    """Send the task, and return its result."""
    sent = producer.send_task(START, args=args, kwargs=kwargs, queue="orchestrator")
    return str(task_result(sent))


@on_all_pools
def test_a_producer_without_our_code_gets_the_runs_id(deployment: Deployment, producer: Celery) -> None:
    run_id = start(producer, **FITTING, tenant="north", tags={"a": "b"}, priority="high", deadline=60)
    assert keys.is_run_id(run_id)
    run = deployment.client.get(run_id)
    assert run.result(timeout=15).tenant == "north"
    state = run.state()
    assert (state.tags, state.priority, state.deadline_ms - state.created_ms) == ({"a": "b"}, "high", 60_000)


def test_flow_and_input_may_be_positional(deployment: Deployment, producer: Celery) -> None:
    run = deployment.client.get(start(producer, "relay", {"text": "hello"}))
    assert run.result(timeout=15).text == "hello"


def test_a_producer_without_our_code_gives_a_run_a_budget(deployment: Deployment, producer: Celery) -> None:
    run = deployment.client.get(start(producer, **FITTING, budget={"tokens": 10, "ladder": ["stop"]}))
    run.result(timeout=15)
    budget = run.state().budget
    assert budget is not None
    assert (budget.tokens, budget.cost, budget.ladder) == (10, None, ("stop",))


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({}, "flow must be the name of a flow, not NoneType"),
    ({"flow": 5}, "flow must be the name of a flow, not int"),
    ({"flow": ["relay"]}, "flow must be the name of a flow, not list"),
    ({"flow": "nothing", "input": {}}, "there is no flow 'nothing'"),
    ({"flow": "relay"}, "the input does not fit flow 'relay'"),
    ({"flow": "relay", "input": "hello"}, "the input does not fit flow 'relay'"),
    ({"flow": "relay", "input": {"text": 5}}, "text: Input should be a valid string"),
    ({"flow": "relay", "input": {}}, "text: Field required"),
    (FITTING | {"colour": "red"}, "unknown arguments: colour"),
    (FITTING | {"deadline": "soon"}, "deadline must be seconds"),
    (FITTING | {"deadline": -1}, "deadline must be seconds"),
    (FITTING | {"deadline": True}, "deadline must be seconds"),
    (FITTING | {"deadline": 1e12}, "deadline must be seconds"),
    (FITTING | {"deadline": float("nan")}, "deadline must be seconds"),
    (FITTING | {"priority": "urgent"}, "priority must be high, normal or low"),
    (FITTING | {"priority": 3}, "priority must be high, normal or low"),
    (FITTING | {"priority": ["high"]}, "priority must be high, normal or low"),
    (FITTING | {"tenant": ""}, "tenant must be a text"),
    (FITTING | {"tenant": 7}, "tenant must be a text"),
    (FITTING | {"key": 7}, "key must be a text"),
    (FITTING | {"key": ""}, "key must be a text"),
    (FITTING | {"tags": ["a"]}, "tags must map names to texts"),
    (FITTING | {"tags": {"a": 1}}, "tag 'a' must be a text"),
    (FITTING | {"tags": {str(number): "x" for number in range(100)}}, "100 tags; a run has at most 32"),
    (FITTING | {"budget": 5}, "budget must be an object with tokens, cost, ladder"),
    (FITTING | {"budget": {"gold": 5}}, "budget must be an object with tokens, cost, ladder"),
    (FITTING | {"budget": {"tokens": -5}}, "budget does not fit: tokens must be 0 or more"),
    (FITTING | {"budget": {"tokens": "many"}}, "budget does not fit"),
    (FITTING | {"budget": {}}, "budget does not fit: give tokens, cost or both"),
    (FITTING | {"flow": "x" * 100_000}, "there is no flow"),
]


@pytest.mark.parametrize(
    ("deployment", "kwargs", "reason"),
    # what is refused is told before there is a pool that matters, how it is told once on each
    [*(("valkey-prefork", *row) for row in REFUSED), ("valkey-asyncio", *REFUSED[-1])],
    indirect=["deployment"],
    ids=lambda value: str(value)[:60],
)
def test_what_does_not_fit_is_a_failed_run_with_the_reason(
    deployment: Deployment, producer: Celery, kwargs: dict[str, Any], reason: str
) -> None:
    run = deployment.client.get(start(producer, **kwargs))
    with pytest.raises(RunFailed) as failed:
        run.result(timeout=5)
    assert "refused: " in str(failed.value)
    assert reason in str(failed.value)
    assert [event.type for event in run.events()] == ["RunSubmitted", "RunFailed"]
    assert run.state().steps == ()


def test_a_third_positional_argument_is_refused(deployment: Deployment, producer: Celery) -> None:
    run = deployment.client.get(start(producer, "relay", {"text": "hello"}, "more"))
    assert "refused" in (run.state().reason or "")


def test_a_payload_over_the_maximum_is_a_failed_run_with_size_and_limit(make: Callable[..., Deployment]) -> None:
    deployment = make(settings={"claim_check_bytes": 1024, "max_payload_bytes": 4096, "sweep": 0.2})
    deployment.start_worker(queues=["orchestrator"])
    with Celery("elsewhere", broker=deployment.server.url, backend=deployment.server.url, set_as_current=False) as app:
        run = deployment.client.get(start(app, flow="relay", input={"text": "x" * 5000}))
    assert "the input is 5,022 bytes, the limit is 4,096" in (run.state().reason or "")


def test_a_key_used_with_another_input_is_a_failed_run_that_says_so(deployment: Deployment, producer: Celery) -> None:
    first = deployment.client.get(start(producer, **FITTING, key="start-1"))
    again = start(producer, **FITTING, key="start-1")
    other = deployment.client.get(start(producer, flow="relay", input={"text": "another"}, key="start-1"))
    assert again == first.id
    first.result(timeout=15)
    assert first.id in (other.state().reason or "")
    assert other.status() == "failed"


def test_a_redelivered_start_starts_one_run(make: Callable[..., Deployment]) -> None:
    # given a start that is in the queue three times
    deployment = make()
    with Celery("elsewhere", broker=deployment.server.url, set_as_current=False) as app:
        app.send_task(START, kwargs={"flow": "relay", "input": {"text": "once"}}, queue="orchestrator")
    (raw,) = deployment.messages("orchestrator")
    for number in range(2):
        message = json.loads(raw)
        message["properties"]["delivery_tag"] = f"again-{number}"
        deployment.broker.lpush("orchestrator", json.dumps(message))
    # when workers take all three
    deployment.start_worker(concurrency=3)
    wait_until(lambda: all_runs(deployment), 20, "a run is there")
    wait_until(lambda: not deployment.waiting_messages(), 20, "all are taken")
    # then there is one run
    runs: list[Run] = all_runs(deployment)
    assert len(runs) == 1
    assert runs[0].result(timeout=15).text == "once"


def test_a_worker_that_dies_while_it_starts_a_run_starts_it_once(make: Callable[..., Deployment]) -> None:
    # given a start whose message came back, because the worker that had created the run died before it acknowledged
    deployment = make()
    with Celery("elsewhere", broker=deployment.server.url, set_as_current=False) as app:
        sent = app.send_task(START, kwargs={"flow": "relay", "input": {"text": "once"}}, queue="orchestrator")
    run = deployment.submit("relay", "once", key=f"start:{sent.id}")
    # when another takes it
    deployment.start_worker()
    run.result(timeout=20)
    wait_until(lambda: not deployment.waiting_messages(), 20, "all are taken")
    # then it finds the run
    assert [found.id for found in all_runs(deployment)] == [run.id]
