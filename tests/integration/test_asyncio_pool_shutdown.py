"""A worker full of agents in flight that is stopped, killed, or cut off from its server: nothing is lost or doubled."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import Counter
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.integration.fleet import FAST, INTERPRETER
from tests.integration.waiting import crew
from tests.integration.waiting.flows import QUEUES
from tests.servers import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator import Run
    from tests.integration.fleet import Deployment, Worker

pytestmark = pytest.mark.integration

LONG = 30.0


def submit(deployment: Deployment, flow: str, number: int, text: str = "x") -> list[Run]:
    return deployment.client.submit_many(flow, [{"text": text}] * number)


def counts(run: Run) -> Counter[str]:
    return Counter(event.type for event in run.events())


def ended(worker: Worker) -> int:
    """Wait until a worker has ended, and return its exit code; none of its process group is left."""
    wait_until(lambda: not worker.running, LONG, "the worker has ended")
    # It was started as the leader of a session of its own.
    assert [process.pid for process in psutil.process_iter() if _session(process) == worker.pid] == []
    assert worker.process.returncode is not None
    return worker.process.returncode


def _session(process: psutil.Process) -> int:
    try:
        return os.getsid(process.pid)
    except ProcessLookupError:
        return 0


def in_flight(deployment: Deployment, runs: list[Run]) -> None:
    wait_until(lambda: len(crew.begun(deployment, runs)) == len(runs), LONG, "all are in flight")


# Killed


def test_500_agents_of_a_killed_worker_complete_within_20_s(
    make: Callable[..., Deployment], record_property: Callable[[str, object], None]
) -> None:
    # given a worker with 500 agents in flight, with the default settings, and another one
    deployment = make(settings={}, agents=crew.MODULES)
    worker = crew.start(deployment, 600)
    runs = submit(deployment, "many", 500, "go")
    crew.wait_until_running(deployment, 500)
    wait_until(lambda: _statuses(deployment) == {"running": 500}, LONG, "all have begun")
    other = crew.start(deployment, 600)
    # when it is killed by kill -9
    worker.kill()
    killed_at = time.monotonic()
    deployment.say(word="go")
    # then all complete, by the other one
    assert {run.result(timeout=LONG).number for run in runs} == {other.pid}
    took = time.monotonic() - killed_at
    record_property("completed_after_s", took)
    assert took < 20
    assert all(counts(run)["StepCompleted"] == 1 for run in runs)


def _statuses(deployment: Deployment) -> Counter[str]:
    return Counter(summary.status for summary in deployment.client.list_runs(limit=1000))


# The server is away


def test_agents_go_on_while_their_server_is_frozen(make: Callable[..., Deployment]) -> None:
    # given 200 agents in flight, and one that counts how often the loop lets it go on
    deployment = make(settings=FAST | {"lease": 10.0}, agents=crew.MODULES)
    worker = crew.start(deployment, 400)
    runs = submit(deployment, "many", 200, "go")
    (ticking,) = submit(deployment, "ticker", 1)
    deployment.wait_for_note(ticking, "started")
    crew.wait_until_running(deployment, 201)
    # when the server is frozen for 3 s, in which agents end too
    deployment.server.process.suspend()
    deployment.say(word="away")
    frozen_at = time.monotonic()
    wait_until(lambda: time.monotonic() - frozen_at > 1.0, LONG, "a second has passed")
    deployment.say(word="go")
    wait_until(lambda: time.monotonic() - frozen_at > 3.0, LONG, "three seconds have passed")
    deployment.say(word="back")
    deployment.wait_for_note(ticking, "counted")
    deployment.server.process.resume()
    # then it went on all the time
    assert ticking.result(timeout=LONG).number > 20
    # and all complete at their first attempt
    for run in runs:
        run.result(timeout=LONG)
        assert counts(run)["StepStarted"] == 1
    assert worker.running


def test_agents_in_flight_outlive_their_server(make: Callable[..., Deployment]) -> None:
    # given 200 agents in flight, and more to come
    deployment = make(config={"appendonly": "yes", "appendfsync": "always"}, agents=crew.MODULES)
    worker = crew.start(deployment, 200)
    runs = submit(deployment, "many", 250, "go")
    crew.wait_until_running(deployment, 200)
    # when the server dies, agents end meanwhile, and it comes back on its data
    deployment.kill_server()
    deployment.say(word="go")
    wait_until(lambda: "Connection to broker lost" in worker.text(), LONG, "the worker has noticed")
    deployment.restart_server()
    # then all complete, in the same worker
    assert {run.result(timeout=LONG).number for run in runs} == {worker.pid}


# Told to stop


def test_a_warm_shutdown_finishes_what_runs_and_puts_back_the_rest(make: Callable[..., Deployment]) -> None:
    # given agents in flight, async and sync, sync ones that wait for a thread, and more in the queue
    deployment = make(settings=FAST | {"sync_threads": 2}, agents=crew.MODULES)
    worker = crew.start(deployment, 20)
    flying = submit(deployment, "hold", 10, "go")
    held = submit(deployment, "hold-sync", 4, "go")
    in_flight(deployment, flying)
    wait_until(lambda: len(crew.begun(deployment, held)) == 2, LONG, "both threads are busy")
    # when it is told to stop, twice
    worker.process.terminate()
    wait_until(lambda: "Warm shutdown" in worker.text(), LONG, "it has heard")
    worker.process.terminate()
    queued = submit(deployment, "hold", 3, "go")
    # then it ends when the last agent has, with nothing cancelled
    assert worker.running
    deployment.say()
    assert ended(worker) == 0
    begun = crew.begun(deployment, held)
    assert len(begun) == 2
    for run in [*flying, *begun]:
        assert run.status() == "completed"
        assert not deployment.notes(run, "cancelled")
    # and what it has not begun is in the queue again, and nowhere else
    assert {queue for queue in QUEUES if deployment.messages(queue)} == {"waiting.hold", "waiting.hold-sync"}
    assert not deployment.broker.exists("unacked")
    # so that another one does it; nothing cost an attempt
    crew.start(deployment, 20)
    for run in [*flying, *held, *queued]:
        run.result(timeout=LONG)
        assert counts(run)["StepStarted"] == 1


@pytest.mark.parametrize("how", ["QUIT", "TERM, QUIT", "INT, INT"])
def test_a_cold_shutdown_cancels_agents_and_another_worker_does_their_steps(
    make: Callable[..., Deployment], how: str
) -> None:
    # given agents in flight, async and sync
    deployment = make(agents=crew.MODULES)
    worker = crew.start(deployment, 40)
    flying, held = submit(deployment, "hold", 20, "go"), submit(deployment, "hold-sync", 2, "go")
    in_flight(deployment, [*flying, *held])
    # when it is told to stop at once, or is told again while it waits for them
    *first, last = how.split(", ")
    for name in first:
        worker.process.send_signal(signal.Signals[f"SIG{name}"])
        wait_until(lambda: "Warm shutdown" in worker.text() or "Hitting Ctrl+C" in worker.text(), LONG, "it has heard")
        assert worker.running
    worker.process.send_signal(signal.Signals[f"SIG{last}"])
    if first:
        # Celery says what a second signal does before it listens to one: it may have been taken for the first again.
        with contextlib.suppress(pytest.fail.Exception):
            wait_until(lambda: not worker.running, 3.0, "it has heard the second one")
        if worker.running:
            worker.process.send_signal(signal.Signals[f"SIG{last}"])
    # then it ends, and the agents' finally blocks have run
    assert ended(worker) in ({0, 1} if "INT" in how else {0})  # with Celery's other pools too
    for run in flying:
        assert [len(deployment.notes(run, note)) for note in ("cancelled", "finally")] == [1, 1]
        assert run.status() == "running"
    # and another one does the steps
    crew.start(deployment, 40)
    runs = [*flying, *held]
    wait_until(lambda: all(len(deployment.notes(run, "started")) == 2 for run in runs), LONG, "all are begun again")
    deployment.say()
    for run in runs:
        run.result(timeout=LONG)
        assert counts(run)["StepCompleted"] == 1


def test_a_soft_shutdown_lets_short_agents_finish_and_cancels_the_others(make: Callable[..., Deployment]) -> None:
    # given agents that end soon and agents that do not
    deployment = make(
        settings=FAST | {"soft_shutdown": 2.0},
        agents=crew.MODULES,
        env={"REMAP_SIGTERM": "SIGQUIT"},
        program=INTERPRETER,
    )
    worker = crew.start(deployment, 20)
    short, long = submit(deployment, "hold", 5, "soon"), submit(deployment, "hold", 5, "late")
    in_flight(deployment, [*short, *long])
    # when it is told to stop, with some time for what runs
    worker.process.terminate()
    wait_until(lambda: "Initiating Soft Shutdown" in worker.text(), LONG, "it has begun to stop")
    deployment.say(word="soon")
    for run in short:
        deployment.wait_for_note(run, "finally")
    # then the short ones complete, and the others are cancelled
    assert ended(worker) == 0
    for run in short:
        assert run.status() == "completed"
        assert not deployment.notes(run, "cancelled")
    for run in long:
        assert len(deployment.notes(run, "cancelled")) == 1
    # and are done by another worker
    crew.start(deployment, 20)
    deployment.say(word="late")
    for run in [*short, *long]:
        run.result(timeout=LONG)
    assert all(counts(run)["StepStarted"] == 1 for run in short)
    assert all(counts(run)["StepStarted"] == 2 for run in long)


@pytest.mark.parametrize("flow", ["threaded", "hog"])
def test_nothing_that_an_agent_blocks_keeps_a_worker_from_a_cold_shutdown(
    make: Callable[..., Deployment], flow: str
) -> None:
    # given an agent that awaits a thread of five minutes, or blocks the loop for as long
    deployment = make(agents=crew.MODULES)
    worker = crew.start(deployment, 4)
    (run,) = submit(deployment, flow, 1)
    deployment.wait_for_note(run, "started")
    # when the worker is told to stop at once
    worker.process.send_signal(signal.SIGQUIT)
    # then it ends
    assert ended(worker) == 0
    run.cancel()
