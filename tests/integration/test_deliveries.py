"""Messages that come twice, too early, too late or never: the state decides, the message only triggers."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.integration.fleet import FAST, QUEUES
from tests.integration.listening import Listener
from tests.servers import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator import Run
    from tests.integration.fleet import Deployment, Pool

pytestmark = pytest.mark.integration

everywhere = pytest.mark.parametrize(
    "deployment", ["valkey-prefork", "redis7-prefork", "valkey-asyncio"], indirect=True
)
PARKED = "acme.parked"


def deliver(deployment: Deployment, run: Run, step: str, *, agent: str) -> str:
    """Publish a message for a step, as one more delivery of it would come; return its id."""
    sent = deployment.client.app.send_task(
        agent, kwargs={"run": run.id, "step": step}, queue=agent, root_id=run.id, shadow=f"{run.state().flow}/{step}"
    )
    return str(sent.id)


def counts(run: Run) -> Counter[str]:
    return Counter(event.type for event in run.events())


@pytest.mark.parametrize("kind", ["valkey", "redis7"])
def test_a_message_delivered_three_times_is_executed_once(make: Callable[..., Deployment], kind: str) -> None:
    # given runs whose messages are in the queue three times each
    deployment = make(kind)
    runs = [deployment.submit("only-parked") for _ in range(10)]
    name = deployment.queue_key(PARKED)
    for raw in deployment.messages(PARKED):
        deployment.broker.rpush(name, raw)
        deployment.broker.lpush(name, raw)
    assert len(deployment.messages(PARKED)) == 30
    # when several processes take them
    deployment.start_worker(queues=[PARKED], concurrency=3)
    # then each step began and was committed once
    for run in runs:
        run.result(timeout=20)
    wait_until(lambda: not deployment.messages(PARKED), 15, "all are taken")
    for run in runs:
        assert counts(run) == {"RunSubmitted": 1, "StepStarted": 1, "StepCompleted": 1, "RunCompleted": 1}


@everywhere
def test_a_duplicate_of_a_running_step_changes_nothing(deployment: Deployment) -> None:
    run = deployment.submit("held")
    deployment.wait_for_note(run, "started")
    with Listener(deployment.client.app) as listener:
        sent = [deliver(deployment, run, "hold", agent="acme.hold") for _ in range(3)]
        assert [listener.end_of(message) for message in sent] == ["task-rejected"] * 3
        deployment.say(run)
        run.result(timeout=15)
    assert len(deployment.notes(run, "started")) == 1
    assert counts(run)["StepStarted"] == counts(run)["StepCompleted"] == 4


def test_a_later_steps_message_before_its_time_changes_nothing(make: Callable[..., Deployment]) -> None:
    # given the second and third step's messages ahead of the first one's worker
    deployment = make()
    run = deployment.submit("relay")
    deliver(deployment, run, "second", agent="acme.second")
    deliver(deployment, run, "third", agent="acme.third")
    deployment.start_worker(queues=["acme.second", "acme.third"]).wait_until_ready()
    wait_until(lambda: not deployment.waiting_messages() - 1, 15, "only the first one's message is left")
    assert counts(run) == {"RunSubmitted": 1}
    # when the first one's worker comes
    deployment.start_worker(queues=["acme.first"])
    # then all goes its way
    run.result(timeout=20)
    assert [event.data["step"] for event in run.events() if event.type == "StepStarted"] == ["first", "second", "third"]


@everywhere
def test_messages_after_the_runs_end_change_nothing(deployment: Deployment) -> None:
    run = deployment.submit("relay")
    run.result(timeout=15)
    before = run.events()
    with Listener(deployment.client.app) as listener:
        sent = [deliver(deployment, run, step, agent=f"acme.{step}") for step in ("first", "second", "third")]
        assert {listener.end_of(message) for message in sent} <= {"task-rejected", "task-revoked"}
    assert run.events() == before


def test_a_message_for_another_agents_step_changes_nothing(deployment: Deployment) -> None:
    run = deployment.submit("held")
    deployment.wait_for_note(run, "started")
    with Listener(deployment.client.app) as listener:
        message = deliver(deployment, run, "after", agent="acme.first")
        assert listener.end_of(message) == "task-rejected"
    deployment.say(run)
    assert run.result(timeout=15).steps == 4
    assert counts(run)["StepStarted"] == 4


def test_a_lost_message_is_published_again(make: Callable[..., Deployment]) -> None:
    # given a message that was popped by somebody who died
    deployment = make()
    run = deployment.submit("only-parked")
    assert deployment.broker.brpop(deployment.queue_key(PARKED), timeout=5)
    # when a worker looks after the runs
    deployment.start_worker(queues=[PARKED])
    # then it publishes the step again
    run.result(timeout=20)
    assert counts(run)["StepRedispatched"] == 1
    assert counts(run)["StepStarted"] == 1


def test_a_run_whose_producer_died_before_it_published_goes_on(make: Callable[..., Deployment]) -> None:
    # given a run that was created and never enqueued
    deployment = make()
    run = deployment.submit("only-parked", key="ticket-1")
    deployment.broker.delete(deployment.queue_key(PARKED))
    # when the producer comes back and submits again, with the same key
    again = deployment.submit("only-parked", key="ticket-1")
    assert again.id == run.id
    # then there is one run, and it completes
    deployment.start_worker(queues=[PARKED])
    run.result(timeout=20)
    assert counts(run)["StepStarted"] == 1


def test_a_backlog_is_not_a_loss(make: Callable[..., Deployment]) -> None:
    # given 200 runs for one slow process: four seconds of work, eight times the dispatch timeout
    deployment = make()
    deployment.start_worker(queues=["acme.slow"], concurrency=1).wait_until_ready()
    runs = deployment.client.submit_many("crawl", [{"text": str(number)} for number in range(200)])
    # when it has worked through them
    for run in runs:
        run.result(timeout=60)
    # then nothing was published twice that waited in the queue, and the last waited for much longer than the timeout.
    # The last one alone may be: taken by the worker and not begun, it leaves an empty queue, as a lost message does.
    assert sum(counts(run)["StepRedispatched"] for run in runs[:-1]) == 0
    assert counts(runs[-1])["StepRedispatched"] <= 1
    assert all(counts(run)["StepCompleted"] == 1 for run in runs)
    last = runs[-1].state().steps[0]
    assert last.started_ms is not None
    assert last.ready_ms is not None
    assert (last.started_ms - last.ready_ms) / 1000 > 4 * FAST["dispatch_timeout"]


def test_all_runs_finish_though_the_broker_lost_everything(make: Callable[..., Deployment]) -> None:
    # given a broker of its own, runs in the queue, in execution and about to publish
    deployment = make(own_broker=True)
    deployment.start_worker().wait_until_ready()
    held = [deployment.submit("held") for _ in range(2)]
    for run in held:
        deployment.wait_for_note(run, "started")
    others = deployment.client.submit_many("relay", [{"text": str(number)} for number in range(20)])
    # when the broker's database is emptied under them
    deployment.broker.flushdb()
    deployment.say()
    # then all finish
    for run in [*held, *others]:
        run.result(timeout=40)
    assert sum(counts(run)["StepRedispatched"] for run in [*held, *others]) >= 1


def test_priorities_are_heeded(make: Callable[..., Deployment]) -> None:
    # given runs in the queue before any worker, the urgent ones last
    deployment = make()
    low, normal, high = (
        deployment.client.submit_many("crawl", [{"text": "x"}] * 5, priority=priority)
        for priority in ("low", "normal", "high")
    )
    # when one process works through them
    deployment.start_worker(queues=["acme.slow"], concurrency=1)
    for run in (*low, *normal, *high):
        run.result(timeout=30)
    # then the urgent ones were begun first
    begun = sorted((*low, *normal, *high), key=lambda run: run.state().steps[0].started_ms or 0)
    assert [run.state().priority for run in begun] == ["high"] * 5 + ["normal"] * 5 + ["low"] * 5


# Fan-outs


def test_a_chords_body_that_comes_too_early_or_too_late_changes_nothing(make: Callable[..., Deployment]) -> None:
    deployment = make()
    deployment.start_worker(pool="asyncio").wait_until_ready()
    with Listener(deployment.client.app) as listener:

        def refused(agent: str, step: str) -> bool:
            sent = [deliver(deployment, run, step, agent=agent) for _ in range(3)]
            return [listener.end_of(message) for message in sent] == ["task-rejected"] * 3

        # given a member at work, then the body comes too early
        run = deployment.submit("crew", "effect hold | effect parked")
        deployment.wait_for_note(run, "started")
        assert refused("acme.sum", "sum")
        assert refused("acme.effect", "effect#1")
        # given the next round's at work, then it comes too late for the first, and too early for the second
        deployment.say(run)
        wait_until(lambda: deployment.messages(PARKED), 15, "the next round was given out")
        assert refused("acme.sum", "sum")
        assert refused("acme.hold", "hold#2")
        assert refused("acme.boss", "boss")
        # given the end, then it comes too late
        deployment.start_worker(queues=[PARKED])
        assert run.result(timeout=15).trail == ("effect#1 ok", "hold#2 ok", "effect#3 ok", "parked#4 ok")
        assert refused("acme.sum", "sum")
    # and each round was joined once
    assert counts(run)["FanOutJoined"] == 2
    assert counts(run)["StepStarted"] == 7


def test_a_chords_body_that_comes_several_times_or_never_is_executed_once(make: Callable[..., Deployment]) -> None:
    # given joined fan-outs whose bodies wait in the queue
    deployment = make()
    deployment.start_worker(queues=[queue for queue in QUEUES if queue != "acme.sum"]).wait_until_ready()
    runs = [deployment.submit("crew", "effect effect effect-sync") for _ in range(10)]
    wait_until(lambda: len(set(deployment.messages("acme.sum"))) >= 10, 30, "all are joined")
    bodies = deployment.messages("acme.sum")
    # when half of them are lost, and the others are there three times
    name = deployment.queue_key("acme.sum")
    deployment.broker.delete(name)
    deployment.broker.rpush(name, *bodies[:5] * 3)
    deployment.start_worker(queues=["acme.sum"], concurrency=3)
    # then each is executed once
    for run in runs:
        assert len(run.result(timeout=20).trail) == 3
        assert counts(run)["FanOutJoined"] == 1
        assert counts(run)["StepStarted"] == 5


@pytest.mark.parametrize("pool", ["prefork", "asyncio"])
def test_where_nothing_is_lost_no_message_of_a_fan_out_is_published_again(
    make: Callable[..., Deployment], pool: Pool
) -> None:
    # given a caretaker that would bring a missing message back too late
    deployment = make(settings=FAST | {"lease": 30.0, "dispatch_timeout": 60.0})
    deployment.start_worker(pool=pool, concurrency=4).wait_until_ready()
    # when members end well, fail, end a fan-out within another, and make room for the next
    runs = [
        deployment.submit(*asked)
        for asked in (
            ("crew", "effect effects effect | effect effects"),
            ("tolerant-crew", "effect effect raiser"),
            ("tolerant-crew", "raiser"),
            ("crews", "crew:effect,raiser effect effect raiser effect"),
            ("crews", "crew:effect;effect tolerant-crew:effect,raiser effect | crew:raiser"),
        )
    ]
    # then all of them are done in the meantime
    for run in runs:
        run.result(timeout=45)
        assert counts(run)["StepRedispatched"] == 0
