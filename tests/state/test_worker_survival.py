"""What handlers, gates, messages and a full server do to the worker they meet, and to other runs: nothing."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from redis.client import Pipeline as RedisPipeline

from orchestrator import AgentFailed, Client, Decision, Gate, Pipeline, RunFailed, Stage, agent
from orchestrator.errors import InvalidGate
from orchestrator.runtime.caretaker import Caretaker
from orchestrator.runtime.consumer import Consumer
from orchestrator.runtime.leases import LeaseKeeper
from orchestrator.runtime.process import WorkerProcess
from orchestrator.state import keys
from orchestrator.state.runs import Begun
from tests.servers import on_valkey, wait_until
from tests.state import flows
from tests.state.flows import Note, counting
from tests.state.invariants import look, problems
from tests.state.test_execution import deliver

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis import Redis

    from orchestrator import Settings
    from orchestrator.client import Run

    Deliver = Callable[[Run, str], Any]

__all__ = ["deliver"]  # a fixture


@agent("state.async")
async def asynchronous(note: Note) -> Note:
    """Do what the text says."""
    if note.text == "exit":
        sys.exit("no configuration")
    if note.text == "cancel":
        raise asyncio.CancelledError
    return note


@agent("state.exits")
def exits(_: Note) -> Note:
    """End the process, as a command-line library does."""
    sys.exit("no configuration")


asyncs = Pipeline("living", [asynchronous])
exiting = Pipeline("exiting", [exits])
simpler = Pipeline(
    "simpler",
    [
        Stage(
            "state.count",
            gate=Gate(lambda _: False, on_fail="revise", max_revisions=1, then="fallback", fallback="state.answer"),
        )
    ],
)


@pytest.fixture(autouse=True)
def _queues(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flows, "QUEUES", (*flows.QUEUES, "state.async", "state.exits"))


@on_valkey
@pytest.mark.parametrize(("flow", "text"), [(asyncs, "exit"), (asyncs, "cancel"), (exiting, "x")])
def test_a_handler_that_raises_no_exception_fails_its_step_and_nothing_else(
    client: Client, deliver: Deliver, flow: Pipeline, text: str
) -> None:
    # given a handler that ends its process, or cancels itself
    run = client.submit(flow, {"text": text})

    # when it is executed
    with pytest.raises(AgentFailed, match=r"SystemExit: no configuration|CancelledError"):
        deliver(run, flow.plan()[0].name)

    # then its run fails with the reason
    with pytest.raises(RunFailed, match=r"SystemExit: no configuration|CancelledError"):
        run.result(timeout=1.0)
    # and the next step on this thread's loop is none the worse
    after = client.submit(asyncs, {"text": "x"})
    deliver(after, "async")
    assert after.status() == "completed"


@on_valkey
def test_a_gate_holds_the_lease_while_it_judges(client: Client, deliver: Deliver, redis_client: Redis) -> None:
    # given a gate that takes so long that the lease has to be renewed
    def judge(_: object) -> bool:
        leases = keys.leases(keys.shard_of(run.id))
        expiry = redis_client.zscore(leases, f"{run.id}/count")
        wait_until(lambda: redis_client.zscore(leases, f"{run.id}/count") != expiry, 10, "the lease is renewed")
        return True

    gated = Pipeline("slow-gate", [Stage("state.count", gate=Gate(judge))])
    run = client.submit(gated, {"text": "x"})

    # when it judges
    deliver(run, "count")

    # then the step is not lost meanwhile
    assert run.status() == "completed"


@on_valkey
def test_a_handler_that_never_ends_loses_its_lease(client: Client) -> None:
    # given a step whose agent reacts to nothing, where no pool can interrupt it
    run = client.submit(counting, {"text": "x"})
    begun = client.store.begin(run.id, "count", agent="state.count", nonce="n", worker="w")
    assert isinstance(begun, Begun)
    keeper = LeaseKeeper(client.store, client.guards, interval=0.01, hold=1.0)
    lost = threading.Event()

    # when it has had its time
    with keeper.held(begun, lambda _: lost.set(), longest=0.05):
        # then its lease is given up, and whoever cares is told
        assert lost.wait(5.0)


@on_valkey
def test_a_fallback_is_not_given_the_first_agents_draft(client: Client, deliver: Deliver) -> None:
    # given a gate that sends back once and then falls back to an agent with another output
    run = client.submit(simpler, {"text": "one two"})

    # when all three have been executed
    for _ in range(3):
        deliver(run, "count")

    # then the fallback has not choked on a draft that is not its own
    assert run.status() == "completed"
    assert problems(look(client.store, run.id)) == []


@pytest.mark.parametrize("more", [{"feedback": [["a"]]}, {"newer": 1}], ids=["misshapen", "of a newer version"])
@on_valkey
def test_a_run_that_cannot_be_read_leaves_the_caretaker_to_the_others(
    settings: Settings, redis_client: Redis, more: dict[str, object]
) -> None:
    # given a run that this version cannot read, and another in the same shard, both overdue, their messages lost
    one_shard = settings.model_copy(update={"shards": 1})
    client = Client(one_shard, connection=redis_client)
    bad, good = client.submit(counting, {"text": "x"}), client.submit(counting, {"text": "x"})
    record = json.loads(redis_client.hget(keys.run(bad.id), "step:count") or b"")
    redis_client.hset(keys.run(bad.id), "step:count", json.dumps(record | more))
    redis_client.delete(*redis_client.keys("state.count*"))
    redis_client.zadd(keys.ready("{s00}"), {f"{bad.id}/count": 1, f"{good.id}/count": 2})

    # when the caretaker sweeps
    Caretaker(client.app, WorkerProcess(one_shard)).sweep()

    # then the good one is published again
    found = good.state().step("count")
    assert found is not None
    assert found.dispatches == 2
    messages = [one for queue in redis_client.keys("state.count*") for one in redis_client.lrange(queue, 0, -1)]
    assert any(good.id.encode() in message for message in messages)
    # and the bad one is not looked at in every sweep
    assert (redis_client.zscore(keys.ready("{s00}"), f"{bad.id}/count") or 0) > 1
    client.app.close()


@on_valkey
def test_runs_are_submitted_when_the_server_forgets_the_scripts_meanwhile(
    client: Client, redis_client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a server that restarts between redis-py's look at its scripts and the pipeline
    load = cast("Callable[[object], None]", RedisPipeline.load_scripts)
    forgotten: list[bool] = []

    def forget(pipeline: object) -> None:
        load(pipeline)
        if not forgotten:
            forgotten.append(bool(redis_client.script_flush()))

    monkeypatch.setattr(RedisPipeline, "load_scripts", forget)

    # when several are submitted, then all are
    assert len({run.id for run in client.submit_many(counting, [{"text": "x"}, {"text": "y"}])}) == 2


@on_valkey
def test_a_full_server_is_waited_for(settings: Settings, redis_client: Redis) -> None:
    # given a server that is full for a while
    client = Client(settings)
    redis_client.config_set("maxmemory", 1)
    again = threading.Timer(0.5, lambda: redis_client.config_set("maxmemory", 0))
    again.start()
    try:
        # when a run is submitted, then it is when there is room
        assert client.submit(counting, {"text": "x"}).status() == "queued"
    finally:
        again.join()
        client.app.close()


def test_a_message_whose_task_is_no_text_is_misshapen() -> None:
    consumer = Consumer.__new__(Consumer)
    consumer.strategies = {}
    message = cast("Any", SimpleNamespace(headers={"task": ["x"], "id": "1"}, payload=[[], {}, None]))

    assert consumer._defect(message) == "its header 'task' is no text"  # noqa: SLF001  what Celery would exit at


@pytest.mark.parametrize(("check", "options"), [(asynchronous, {}), (bool, {"timeout": float(sys.maxsize)})])
def test_a_gate_that_cannot_judge_or_never_ends_is_refused(
    check: Callable[[object], bool], options: dict[str, float]
) -> None:
    with pytest.raises(InvalidGate):
        Gate(check, **cast("dict[str, Any]", options))


def test_a_decision_whose_reason_is_no_text_is_refused() -> None:
    with pytest.raises(TypeError, match="a decision's reason is a text"):
        Decision.revise(cast("str", ["a", "b"]))
