"""Hundreds of agents on one event loop: each waits without the others, sees what is its own, and fails alone."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator import RunCancelled, RunFailed
from tests.integration.checks import check_all
from tests.integration.conftest import FAILED
from tests.integration.fleet import FAST, Deployment
from tests.integration.waiting import crew
from tests.integration.waiting.plain import observations
from tests.servers import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from orchestrator import Run

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("crowd")]

SYNC_THREADS = 4
LONG = 30.0


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    deployment = Deployment(
        "valkey", tmp_path_factory.mktemp("crowd"), settings=FAST | {"sync_threads": SYNC_THREADS}, agents=crew.MODULES
    )
    crew.start(deployment, 400)
    yield deployment
    deployment.close()


@pytest.fixture
def deployment(request: pytest.FixtureRequest, crowd: Deployment) -> Iterator[Deployment]:
    """A worker for 400 agents, which tests share that kill nothing; at the end of each it runs nothing more."""
    yield crowd
    if FAILED in request.node.stash:
        crowd.kill_workers()
        crowd.redis.flushall()
        crowd.checked.clear()
        crew.start(crowd, 400)
        return
    assert crowd.workers[0].running
    check_all(crowd)
    wait_until(lambda: not any(crew.running(crowd).values()), 20, "nothing is in flight any more")


def submit(deployment: Deployment, flow: str, number: int, text: str = "x") -> list[Run]:
    return deployment.client.submit_many(flow, [{"text": text}] * number)


def results(runs: list[Run], timeout: float = LONG) -> list[Any]:
    return [run.result(timeout=timeout) for run in runs]


# In flight together


def test_300_agents_wait_for_each_other_in_one_worker(deployment: Deployment) -> None:
    # given agents of which none goes on before all have begun
    runs = submit(deployment, "together", 300, "everybody 300")
    # then they complete: all were in flight at once
    results(runs)
    # and none was begun twice for it
    assert all(len([event for event in run.events() if event.type == "StepStarted"]) == 1 for run in runs)


def test_with_200_agents_in_flight_a_worker_has_a_few_connections(deployment: Deployment) -> None:
    runs = submit(deployment, "many", 200, "fewconnections")
    crew.wait_until_running(deployment, 200)
    clients = [client["name"] for client in deployment.redis.client_list()]
    deployment.say(word="fewconnections")
    results(runs)
    assert len(clients) < 40, clients


def test_async_agents_go_on_beside_sync_ones_that_hold_every_thread(deployment: Deployment) -> None:
    # given more sync agents than there are threads for them
    held = submit(deployment, "hold-sync", 2 * SYNC_THREADS, "threads")
    wait_until(lambda: len(crew.begun(deployment, held)) == SYNC_THREADS, LONG, "every thread is busy")
    assert crew.running(deployment) == {"async": 0, "sync": SYNC_THREADS}
    # then async ones complete all the same
    results(submit(deployment, "quick", 20))
    # and no more sync ones have begun
    assert len(crew.begun(deployment, held)) == SYNC_THREADS
    # when the threads are free again, then the others follow, as many at a time
    deployment.say(word="threads")
    assert max(result.number for result in results(held)) == SYNC_THREADS


def test_sync_agents_go_on_beside_async_ones_that_wait(deployment: Deployment) -> None:
    held = submit(deployment, "hold", 50, "beside")
    crew.wait_until_running(deployment, 50)
    results(submit(deployment, "quick-sync", 20))
    deployment.say(word="beside")
    results(held)


# What each sees


def test_each_of_200_agents_sees_its_own_context_and_task(deployment: Deployment) -> None:
    runs = submit(deployment, "contexts", 200)
    wrong = [line for result in results(runs, timeout=60) for line in result.said]
    assert wrong == []


def test_sync_agents_that_share_a_thread_share_no_context(deployment: Deployment) -> None:
    runs = submit(deployment, "contexts-sync", 5 * SYNC_THREADS)
    assert [run.result(timeout=LONG).said for run in runs] == [("nobody's", run.id) for run in runs]


def test_an_agents_children_are_part_of_its_celery_task(deployment: Deployment) -> None:
    # as they are where an agent has a process to itself
    for run in submit(deployment, "children", 50):
        assert run.result(timeout=LONG).said == (run.id,) * 4


def test_asyncio_behaves_as_in_any_program(deployment: Deployment) -> None:
    # given what a program of its own observes of timeouts, task groups, cancellation, gathering and contexts
    expected = asyncio.run(observations())
    # then agents observe the same, many at once
    for result in results(submit(deployment, "plain", 50)):
        assert result.said == expected


def test_a_router_and_a_join_are_not_asked_on_the_loop(deployment: Deployment) -> None:
    # given async agents in a hierarchy whose router and whose join are users' code that may take its time
    for run in submit(deployment, "routed", 5):
        # then neither holds up the others
        assert run.result(timeout=LONG).text == "ok"


# Ends that are no results


@pytest.mark.parametrize("flow", ["late", "late-sync"])
def test_an_agent_past_its_timeout_is_interrupted_and_its_finally_runs(deployment: Deployment, flow: str) -> None:
    runs = submit(deployment, flow, 3)
    for run in runs:
        with pytest.raises(RunFailed, match=r"timed out after 0\.3 s"):
            run.result(timeout=LONG)
        assert len(deployment.notes(run, "finally")) == 1
        assert run.state().steps[0].attempt == 1
    # and its slot and thread are another's
    results(submit(deployment, flow.replace("late", "quick"), SYNC_THREADS))


def test_a_cancelled_run_cancels_its_agent_and_no_other(deployment: Deployment) -> None:
    cancelled, other = submit(deployment, "hold", 2, "other")
    wait_until(lambda: len(crew.begun(deployment, [cancelled, other])) == 2, LONG, "both are in flight")
    cancelled.cancel("changed my mind", by="ann")
    deployment.wait_for_note(cancelled, "cancelled")
    deployment.wait_for_note(cancelled, "finally")
    with pytest.raises(RunCancelled):
        cancelled.result(timeout=LONG)
    assert not deployment.notes(other, "finally")
    deployment.say(word="other")
    other.result(timeout=LONG)


@pytest.mark.parametrize(("flow", "notes"), [("hold", ["cancelled", "finally"]), ("hold-sync", [])])
def test_a_task_that_celery_revokes_costs_its_step_an_attempt(
    deployment: Deployment, flow: str, notes: list[str]
) -> None:
    # given a step in execution
    (run,) = submit(deployment, flow, 1, "revoked")
    deployment.wait_for_note(run, "started")
    inspect = deployment.client.app.control.inspect(destination=crew.destination(0), timeout=10.0, limit=1)
    (task_id,) = [task["id"] for tasks in inspect.active().values() for task in tasks if run.id in str(task["kwargs"])]
    # when somebody who knows nothing of runs terminates its task
    deployment.client.app.control.revoke(task_id, terminate=True)
    # then the agent ends at once, its finally blocks too
    for note in notes:
        deployment.wait_for_note(run, note)
    # and the run goes on, with another attempt
    deployment.wait_for_note(run, "started", count=2)
    deployment.say(run, "revoked")
    run.result(timeout=LONG)
    assert run.state().steps[0].attempt == 2


@pytest.mark.parametrize("flow", ["raiser", "child-raiser", "group-raiser"])
@pytest.mark.parametrize(
    "raised", ["SystemExit", "KeyboardInterrupt", "CancelledError", "BaseExceptionGroup", "OwnBaseError"]
)
def test_whatever_an_agent_raises_fails_its_own_run_alone(deployment: Deployment, flow: str, raised: str) -> None:
    # given other agents in flight
    others = submit(deployment, "many", 20, f"{flow}-{raised}")
    crew.wait_until_running(deployment, 20)
    # when agents raise what is no Exception, themselves or in a child
    for run in submit(deployment, flow, 2, raised):
        if (flow, raised) == ("group-raiser", "CancelledError"):
            run.result(timeout=LONG)  # asyncio's groups bear it
            continue
        # then their runs fail with it, at the first attempt
        with pytest.raises(RunFailed, match=f"{raised}|BaseExceptionGroup"):
            run.result(timeout=LONG)
        assert run.state().steps[0].attempt == 1
    # and nothing else does
    deployment.say(word=f"{flow}-{raised}")
    assert {result.number for result in results(others)} == {deployment.workers[0].pid}


@pytest.mark.parametrize("raised", ["SystemExit", "KeyboardInterrupt", "OwnBaseError"])
def test_what_a_forgotten_child_raises_fails_nothing(deployment: Deployment, raised: str) -> None:
    results(submit(deployment, "forgetter", 2, raised))
    results(submit(deployment, "quick", 2))


# Who holds the loop


@pytest.mark.parametrize(("flow", "line"), [("blocker", "time.sleep(0.8)"), ("parent", "time.sleep(0.8)")])
def test_an_agent_that_blocks_the_loop_is_named_with_its_line(deployment: Deployment, flow: str, line: str) -> None:
    worker = deployment.workers[0]
    (run,) = submit(deployment, flow, 1)
    run.result(timeout=LONG)
    wait_until(lambda: f"by waiting.{flow}[" in worker.text(), 10, "the log names the agent")
    (said,) = [text for text in worker.text().splitlines() if f"by waiting.{flow}[" in text]
    file, number = said.partition(" at ")[2].partition(" in ")[0].rsplit(":", 1)
    assert line in Path(file).read_text().splitlines()[int(number) - 1]


def test_an_agent_of_many_small_steps_is_not_named(deployment: Deployment) -> None:
    others = submit(deployment, "many", 300, "small")
    crew.wait_until_running(deployment, 300)
    # when some keep the loop busy, a little at a time
    assert all(result.number > 10 for result in results(submit(deployment, "busy", 3)))
    deployment.say(word="small")
    results(others)
    # then none of them is to blame
    assert "by waiting.busy[" not in deployment.workers[0].text()
    assert "by waiting.many[" not in deployment.workers[0].text()


# Slots: deployments of a test's own


def test_a_worker_takes_no_more_than_it_has_slots_and_slots_can_be_changed(make: Callable[..., Deployment]) -> None:
    # given a worker of three slots, and ten messages
    deployment = make(agents=crew.MODULES)
    crew.start(deployment, 3)
    control = deployment.client.app.control
    queue = "waiting.hold"

    def holds(slots: int, in_flight: int, in_queue: int) -> None:
        wait_until(
            lambda: len(deployment.messages(queue)) == in_queue and crew.running(deployment)["async"] == in_flight,
            LONG,
            f"{in_flight} agents are in flight and {in_queue} messages left to others",
        )
        assert crew.stats(deployment)["pool"]["max-concurrency"] == slots
        assert len(deployment.messages(queue)) == in_queue

    runs = submit(deployment, "hold", 10, "go")
    # then seven messages stay for others
    holds(3, in_flight=3, in_queue=7)
    # when it grows, then it takes as many more
    assert answer(control.pool_grow(2, destination=crew.destination(0), reply=True)) == {"ok": "pool will grow"}
    holds(5, in_flight=5, in_queue=5)
    # when it shrinks, then what runs goes on, and nothing follows until there is room
    assert answer(control.pool_shrink(4, destination=crew.destination(0), reply=True)) == {"ok": "pool will shrink"}
    holds(1, in_flight=5, in_queue=5)
    wait_until(lambda: len(crew.begun(deployment, runs)) == 5, LONG, "five have begun")
    first = crew.begun(deployment, runs)
    for run in first:
        deployment.say(run)
    assert max(result.number for result in results(first)) == 5
    holds(1, in_flight=1, in_queue=4)
    # and the last slot stays
    for command, other in (("pool_grow", "pool_shrink"), ("pool_shrink", "pool_grow")):
        refused = answer(getattr(control, command)(-1, destination=crew.destination(0), reply=True))
        assert f"by -1: use {other}" in refused["error"]
    refused = answer(control.pool_shrink(1, destination=crew.destination(0), reply=True))
    assert "cannot shrink by 1: the pool has 1 slots, and at least one stays" in refused["error"]
    assert answer(control.pool_grow(1, destination=crew.destination(0), reply=True)) == {"ok": "pool will grow"}
    holds(2, in_flight=2, in_queue=3)
    deployment.say()
    results(runs)


def answer(replies: list[dict[str, dict[str, str]]]) -> dict[str, str]:
    """Return what the one worker that was asked says."""
    ((said,),) = [list(reply.values()) for reply in replies]
    return said


def test_sync_agents_that_wait_for_a_thread_leave_slots_to_async_ones(make: Callable[..., Deployment]) -> None:
    # given more sync agents in the queue than the worker has slots, let alone threads
    deployment = make(settings=FAST | {"sync_threads": 2}, agents=crew.MODULES)
    crew.start(deployment, 10)
    held = submit(deployment, "hold-sync", 20, "go")
    wait_until(lambda: len(crew.begun(deployment, held)) == 2, LONG, "both threads are busy")
    # then async ones complete
    results(submit(deployment, "quick", 20))
    assert len(crew.begun(deployment, held)) == 2
    # and what waits for a thread can be begun by another worker
    crew.start(deployment, 10)
    wait_until(lambda: len(crew.begun(deployment, held)) == 4, LONG, "its threads are busy too")
    deployment.say()
    assert max(result.number for result in results(held)) == 2


def test_a_worker_with_autoscale_grows_under_load_and_shrinks_afterwards(make: Callable[..., Deployment]) -> None:
    deployment = make(agents=crew.MODULES, env={"AUTOSCALE_KEEPALIVE": "0.5"})
    crew.start(deployment, 0, "--autoscale=8,1", autoscaled=True)

    def slots() -> int:
        return int(crew.stats(deployment)["pool"]["max-concurrency"])

    assert slots() == 1
    # when there is work for ten, then eight are done at once
    runs = submit(deployment, "hold", 10, "first")
    wait_until(lambda: len(crew.begun(deployment, runs)) == 8, LONG, "eight have begun")
    assert slots() == 8
    assert len(deployment.messages("waiting.hold")) == 2
    deployment.say(word="first")
    assert max(result.number for result in results(runs)) == 8
    # and afterwards there is one slot again
    wait_until(lambda: slots() == 1, LONG, "it has shrunk")
    # when the bounds are changed while it works, then they hold
    runs = submit(deployment, "hold", 20, "second")
    wait_until(lambda: len(crew.begun(deployment, runs)) == 8, LONG, "eight have begun")
    for most, least in ((12, 2), (4, 3)):
        replies = deployment.client.app.control.autoscale(most, least, destination=crew.destination(0), reply=True)
        assert answer(replies) == {"ok": f"autoscale now max={most} min={least}"}
        if most == 12:
            wait_until(lambda: len(crew.begun(deployment, runs)) == 12, LONG, "twelve have begun")
    first = crew.begun(deployment, runs)
    for run in first:
        deployment.say(run, "second")
    results(first)
    wait_until(lambda: len(crew.begun(deployment, runs)) == 16, LONG, "the next have begun")
    assert slots() == 4
    assert len(deployment.messages("waiting.hold")) == 4
    deployment.say(word="second")
    results(runs)
    wait_until(lambda: slots() == 3, LONG, "it has shrunk to the new minimum")


def test_an_agent_that_does_not_let_itself_be_cancelled_loses_its_slot(make: Callable[..., Deployment]) -> None:
    # given a worker of one slot, and an agent that goes on after its timeout
    deployment = make(settings=FAST | {"max_attempts": 1}, agents=crew.MODULES)
    worker = crew.start(deployment, 1)
    (run,) = submit(deployment, "stubborn", 1)
    deployment.wait_for_note(run, "cancelled")
    (other,) = submit(deployment, "quick", 1)
    # then its run fails once its lease is given up
    with pytest.raises(RunFailed, match="stubborn: begun 1 times and never finished"):
        run.result(timeout=LONG)
    # and its slot is another's, though it still goes on
    other.result(timeout=LONG)
    assert "stubborn" in worker.text()
    assert "does not end though it was cancelled" in worker.text()
    # when it ends at last, then nothing comes of it
    before = run.events()
    deployment.say(word="enough")
    results(submit(deployment, "quick", 3))
    assert run.events() == before
