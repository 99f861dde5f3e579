"""Whatever dies, the runs go on: workers, their children, the caretaker, the server; and what passes its time ends."""

from __future__ import annotations

import functools
import os
import signal
import time
from collections import Counter
from typing import TYPE_CHECKING

import psutil
import pytest

from orchestrator import RunFailed
from orchestrator.state import keys
from tests.integration.checks import wrong_with_effects
from tests.integration.fleet import FAST, Supervisor
from tests.servers import Kind, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator import Run
    from tests.integration.fleet import Deployment, Worker

pytestmark = pytest.mark.integration

RESUME_WITHIN = 15.0
"""Seconds from a death to the step's next start, with the default settings: lease 10, sweep 2, and 3 of grace."""


def starts(run: Run, step: str) -> list[int]:
    """Return when a step was begun, in ms."""
    return [event.at_ms for event in run.events() if event.type == "StepStarted" and event.data["step"] == step]


def counts(run: Run) -> Counter[str]:
    return Counter(event.type for event in run.events())


def resumed_after(run: Run, step: str, killed_at: float) -> float:
    """Wait until a step is begun a second time; return the seconds since its first attempt was killed."""
    wait_until(lambda: len(starts(run, step)) == 2, 2 * RESUME_WITHIN, f"{run.id}/{step} is begun again")
    return starts(run, step)[1] / 1000 - killed_at


def test_with_default_settings_a_killed_step_starts_again_within_15_s(
    make: Callable[..., Deployment], record_property: Callable[[str, object], None]
) -> None:
    # given a step in execution in each of two workers, one of them the caretaker, and one that could take them over
    deployment = make(settings={})
    first = deployment.start_worker(queues=["acme.hold"], concurrency=1).wait_until_ready()
    second = deployment.start_worker(queues=["acme.hold-sync"], concurrency=1)
    third = deployment.start_worker(queues=["acme.first", "acme.second", "acme.third"], concurrency=1)
    for worker in (second, third):
        worker.wait_until_ready()
    with_parent, with_child = deployment.submit("held"), deployment.submit("held-sync")
    for run in (with_parent, with_child):
        deployment.wait_for_note(run, "started")
    deployment.start_worker(queues=["acme.hold", "acme.hold-sync"]).wait_until_ready()
    wait_until(lambda: holder(deployment) == first.pid, 10, "the first one is the caretaker")
    # when one loses its worker and the other one its child, by kill -9
    killed_at = time.time()
    first.kill_parent()
    os.kill(int(deployment.notes(with_child, "started")[0].split()[0]), signal.SIGKILL)
    # then both are begun again in time
    took = [resumed_after(with_parent, "hold", killed_at), resumed_after(with_child, "hold-sync", killed_at)]
    record_property("resumed_after_s", took)
    assert max(took) < RESUME_WITHIN
    # and complete, each step committed once
    deployment.say()
    for run in (with_parent, with_child):
        assert run.result(timeout=15).steps == 4
        assert counts(run) == {
            "RunSubmitted": 1,
            "StepStarted": 5,
            "StepLost": 1,
            "StepCompleted": 4,
            "RunCompleted": 1,
        }


def holder(deployment: Deployment) -> int:
    """Return the process id of the worker that is the caretaker; 0 while nobody is."""
    owner = deployment.redis.get(keys.CARETAKER)
    assert owner is None or isinstance(owner, bytes)
    return int(owner.decode().split(":")[1]) if owner else 0


def test_when_the_caretaker_dies_another_worker_takes_the_role(make: Callable[..., Deployment]) -> None:
    deployment = make()
    workers = {worker.pid: worker for worker in [deployment.start_worker(concurrency=1) for _ in range(2)]}
    for worker in workers.values():
        worker.wait_until_ready()
    wait_until(lambda: holder(deployment), 10, "somebody has the role")
    was = holder(deployment)
    run = deployment.submit("only-parked")
    # when the holder is killed, and a message is lost
    workers[was].kill_parent()
    deployment.broker.delete(deployment.queue_key("acme.parked"))
    # then the other one takes the role and publishes the step again
    wait_until(lambda: holder(deployment) not in {0, was}, 5, "the other one has the role")
    assert holder(deployment) in workers
    deployment.start_worker(queues=["acme.parked"])
    run.result(timeout=20)


def test_a_worker_that_stops_hands_the_role_on_at_once(make: Callable[..., Deployment]) -> None:
    deployment = make(settings=FAST | {"sweep": 5.0})
    worker = deployment.start_worker(concurrency=1).wait_until_ready()
    wait_until(lambda: holder(deployment) == worker.pid, 10, "it has the role")
    worker.stop()
    assert not holder(deployment)


def test_sigterm_lets_a_step_finish_and_costs_no_attempt(make: Callable[..., Deployment]) -> None:
    # given a step in execution, and more in the queue than the pool can take
    deployment = make()
    worker = deployment.start_worker().wait_until_ready()
    runs = [deployment.submit("held") for _ in range(4)]
    wait_until(lambda: sum(len(deployment.notes(run, "started")) for run in runs) == 2, 15, "the pool is busy")
    # when the worker is told to stop, and then another comes
    worker.process.terminate()
    deployment.start_worker().wait_until_ready()
    deployment.say()
    # then all complete at the first attempt
    for run in runs:
        assert run.result(timeout=20).steps == 4
        assert counts(run)["StepStarted"] == 4
        assert counts(run)["StepLost"] == 0
    wait_until(lambda: not worker.running, 15, "it has stopped")


def test_a_run_past_its_deadline_fails_whatever_it_is_doing(deployment: Deployment) -> None:
    # given runs with half a second: one queued where nobody works, one in execution, one at its gate
    queued = deployment.submit("to-parked", deadline=0.5)
    running = deployment.submit("held", deadline=0.5)
    waiting = deployment.submit("essay", "ask", deadline=0.5)
    for run in (queued, running, waiting):
        with pytest.raises(RunFailed, match="the run's deadline passed"):
            run.result(timeout=15)
        assert run.state().reason
    # then the handler in execution was cancelled
    deployment.wait_for_note(running, "finally")
    # and what was enqueued is harmless
    assert starts(queued, "parked") == []
    deployment.broker.delete(deployment.queue_key("acme.parked"))


def test_a_finished_run_leaves_after_its_retention(make: Callable[..., Deployment]) -> None:
    # given runs that completed, failed and were cancelled, with small and with large values
    deployment = make(
        settings=FAST | {"retention": 1.0, "dead_retention": 1.0, "claim_check_bytes": 1024, "run_deadline": 30.0}
    )
    deployment.start_worker().wait_until_ready()
    completed = deployment.client.submit("relay", {"text": "x" * 5000}, key="once")
    failed = deployment.submit("raises")
    cancelled = deployment.submit("held")
    cancelled.cancel()
    completed.result(timeout=15)
    with pytest.raises(RunFailed):
        failed.result(timeout=15)
    indexes = [f"{{s{shard:02x}}}:runs:{status}" for shard in range(2) for status in keys.STATUSES]
    wait_until(lambda: not any(deployment.redis.zcard(index) for index in indexes), 10, "the indexes are trimmed")
    ids = [run.id for run in (completed, failed, cancelled)]
    left = [key.decode() for key in deployment.redis.scan_iter() if any(run in key.decode() for run in ids)]
    # then only what large values left behind is there, and it goes by itself
    assert all((":blob:" in key or ":key:" in key) and 0 < deployment.redis.pttl(key) <= 31_000 for key in left), left
    assert deployment.client.list_runs() == []


@pytest.mark.parametrize("kind", ["valkey", "redis7"])
def test_50_runs_complete_through_a_kill_of_the_server(make: Callable[..., Deployment], kind: Kind) -> None:
    # given a server that keeps its log, and runs under way
    deployment = make(kind, config={"appendonly": "yes", "appendfsync": "everysec"})
    worker = deployment.start_worker(concurrency=2).wait_until_ready()
    runs = deployment.client.submit_many("effects", [{"text": str(number)} for number in range(50)])
    for enough in (30, 80):
        wait_until(functools.partial(deployment.has_effects, enough), 15, f"{enough} effects are made")
        # when it is killed twice, and comes back on its data
        deployment.kill_server()
        deployment.restart_server()
    back_at = time.monotonic()
    # then all complete, and none failed for it
    for run in runs:
        assert run.result(timeout=30).trail == ("a", "b", "c")
    assert time.monotonic() - back_at < 20
    assert worker.running
    assert not wrong_with_effects(deployment.ledger, [run.state() for run in runs])


def test_a_worker_with_steps_in_hand_outlives_its_server(make: Callable[..., Deployment]) -> None:
    # given a pool that is busy, and more steps taken off the queue than it can execute
    deployment = make(config={"appendonly": "yes"})
    worker = deployment.start_worker().wait_until_ready()
    runs = [deployment.submit("held") for _ in range(6)]
    wait_until(lambda: sum(len(deployment.notes(run, "started")) for run in runs) == 2, 15, "the pool is busy")
    # when the server dies, and comes back
    deployment.kill_server()
    wait_until(lambda: "Connection to broker lost" in worker.text(), 10, "the worker has noticed")
    deployment.restart_server()
    deployment.say()
    # then it is the same worker that completes them
    for run in runs:
        assert run.result(timeout=30).steps == 4
    assert worker.running


@pytest.mark.parametrize("victim", ["child", "parent"])
def test_a_step_that_kills_its_worker_is_failed_after_so_many_begins(
    make: Callable[..., Deployment], victim: str
) -> None:
    deployment = make(settings=FAST | {"max_attempts": 3})
    deployment.start_worker().wait_until_ready()
    with Supervisor(deployment):
        run = deployment.submit("poisoned", victim)
        others = deployment.client.submit_many("relay", [{"text": str(number)} for number in range(10)])
        with pytest.raises(RunFailed, match="poison: begun 3 times and never finished"):
            run.result(timeout=40)
        assert len(starts(run, "poison")) == 3
        for other in others:
            other.result(timeout=20)


def frozen(worker: Worker) -> list[psutil.Process]:
    """Stop a worker's processes where they are."""
    processes = [psutil.Process(worker.pid), *worker.children()]
    for process in processes:
        process.suspend()
    return processes


def test_what_a_frozen_worker_commits_after_its_lease_changes_nothing(make: Callable[..., Deployment]) -> None:
    # given a worker frozen in the middle of a step
    deployment = make()
    first = deployment.start_worker(concurrency=1).wait_until_ready()
    run = deployment.submit("held")
    deployment.wait_for_note(run, "started")
    second = deployment.start_worker(concurrency=1).wait_until_ready()
    processes = frozen(first)
    # when another has taken the step over and finished the run
    deployment.wait_for_note(run, "started", count=2)
    deployment.say(run)
    result = run.result(timeout=15)
    before = run.events()
    second.stop()
    # and the first one wakes up and goes on to its end
    for process in processes:
        process.resume()
    deployment.wait_for_note(run, "finally", count=2)
    first.stop()
    # then nothing of it counts
    assert run.events() == before
    assert run.result() == result
    assert counts(run)["StepCompleted"] == 4
