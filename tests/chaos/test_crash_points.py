"""SIGKILL at each named point of a step's life: every run completes, steps are committed once, effects made once."""

from __future__ import annotations

import functools
import signal
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from celery import Celery

from tests.chaos.points import IN_CARETAKER, IN_CHILD, IN_PARENT, mark
from tests.integration.checks import all_runs, wrong_with, wrong_with_effects
from tests.integration.fleet import Supervisor
from tests.servers import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from orchestrator import Run
    from tests.integration.fleet import Deployment

pytestmark = pytest.mark.integration

RUNS = 5
each_point_dies = pytest.mark.parametrize("runs", [2, pytest.param(RUNS, marks=pytest.mark.chaos)])
"""So often, in as many runs at once: a few times every day."""
ROUNDS = 3
TIMEOUT = 45.0
LEADS_TO = {"after-lost": "after-begin:b after-lost:b", "after-redispatch": "after-commit:a after-redispatch:b"}
"""What else has to die for the caretaker to come to its point."""


def die_at(deployment: Deployment, points: list[str], marks: Path, *, runs: int) -> None:
    """Let so many runs die at each point, together, and check that all of them end right."""
    submitted: list[Run] = []
    deaths: Counter[str] = Counter()
    with Supervisor(deployment):
        for _ in range(ROUNDS):
            # A parent that dies takes other runs' processes along, and one of these may thus pass its point alive.
            wanted = [point for point in points for _ in range(runs - deaths[point])]
            batch = [
                (point, deployment.submit("effects", tags={"crash": LEADS_TO.get(point, f"{point}:b")}))
                for point in wanted
            ]
            for point, run in batch:
                assert run.result(timeout=TIMEOUT).trail == ("a", "b", "c")
                deaths[point] += mark(marks, run.id, point, "b").exists()
            submitted += [run for _, run in batch]
        problems = [f"only {deaths[point]} runs died at {point}" for point in points if deaths[point] < runs]
        for run in submitted:
            problems += wrong_with(run.state(), run.events())
            committed = Counter(event.data["step"] for event in run.events() if event.type == "StepCompleted")
            if committed != {"a": 1, "b": 1, "c": 1}:
                problems.append(f"{run.id} committed {committed}")
        problems += wrong_with_effects(deployment.ledger, [run.state() for run in submitted])
        assert not problems, "\n".join(problems)


def is_waiting(run: Run) -> bool:
    return run.status() == "waiting"


@each_point_dies
@pytest.mark.parametrize("point", IN_CHILD)
def test_a_run_survives_the_death_of_its_child_at(
    point: str, runs: int, fragile: Callable[..., Deployment], tmp_path: Path
) -> None:
    deployment = fragile()
    deployment.start_worker(concurrency=5).wait_until_ready()
    die_at(deployment, [point], tmp_path, runs=runs)


@each_point_dies
@pytest.mark.parametrize("point", [*IN_PARENT, *IN_CARETAKER])
def test_a_run_survives_the_death_of_its_worker_at(
    point: str, runs: int, fragile: Callable[..., Deployment], tmp_path: Path
) -> None:
    deployment = fragile()
    for worker in [deployment.start_worker(), deployment.start_worker()]:
        worker.wait_until_ready()
    die_at(deployment, [point], tmp_path, runs=runs)


def test_what_a_gate_decided_survives_the_death_of_who_would_publish_it(
    fragile: Callable[..., Deployment], tmp_path: Path
) -> None:
    # given stages that their gate sends back, gives to the fallback, and puts before a person
    deployment = fragile()
    deployment.start_worker(concurrency=4).wait_until_ready()
    deaths = {"crash": "after-commit:writer"}
    revised = [deployment.submit("essay", "revise 1", tags=deaths) for _ in range(RUNS)]
    degraded = [deployment.submit("essay-fallback", "fallback", tags=deaths) for _ in range(RUNS)]
    asked = [deployment.submit("essay", "ask", tags=deaths) for _ in range(RUNS)]
    # when the child dies right after the verdict is written
    for run in asked:
        wait_until(functools.partial(is_waiting, run), TIMEOUT, "it waits for a person")
        run.approve(by="ann")
    # then each goes the way of its verdict, once
    for run in revised:
        assert run.result(timeout=TIMEOUT).version == 1
    for run in degraded:
        assert run.result(timeout=TIMEOUT).by == "rules"
    for run in asked:
        assert run.result(timeout=TIMEOUT).by == "writer"
    for run in (*revised, *degraded, *asked):
        assert mark(tmp_path, run.id, "after-commit", "writer").exists()
        assert wrong_with(run.state(), run.events()) == []


def test_a_start_survives_the_death_of_its_child(fragile: Callable[..., Deployment], tmp_path: Path) -> None:
    # given starts by a producer that knows nothing of us
    deployment = fragile()
    deployment.start_worker(concurrency=5).wait_until_ready()
    asked = {"flow": "relay", "input": {"text": "x"}, "tags": {"crash": "after-submit:start"}}
    with Celery("elsewhere", broker=deployment.server.url, set_as_current=False) as app:
        for _ in range(RUNS):
            app.send_task("orchestrator.start", kwargs=asked, queue="orchestrator")
    # when each child dies with the run created and nothing published
    wait_until(lambda: len(list(tmp_path.glob("*.after-submit.start"))) == RUNS, TIMEOUT, "all have died")
    # then there is one run each, and it completes
    runs = all_runs(deployment)
    assert len(runs) == RUNS
    for run in runs:
        assert run.result(timeout=TIMEOUT).steps == 3
    wait_until(lambda: not deployment.waiting_messages(), TIMEOUT, "the starts that came back are taken")
    assert len(all_runs(deployment)) == RUNS


PRODUCE = """
import os, signal, sys
from unittest.mock import patch
from orchestrator import Client
from orchestrator.state.runs import RunStore
point, submit, publish = sys.argv[1], RunStore.submit, Client._publish
def die(at):
    if at == point:
        os.kill(os.getpid(), signal.SIGKILL)
def submitting(*args):
    die("before-submit")
    submitted = submit(*args)
    die("after-submit")
    return submitted
def publishing(*args):
    publish(*args)
    die("after-publish")
patch.object(RunStore, "submit", submitting).start()
patch.object(Client, "_publish", publishing).start()
Client().submit("relay", {"text": "x"}, key="ticket-1")
"""


@pytest.mark.parametrize("point", ["before-submit", "after-submit", "after-publish"])
def test_a_producer_that_dies_leaves_no_run_or_one_that_finishes(make: Callable[..., Deployment], point: str) -> None:
    # given a producer that is killed in submit
    deployment = make()
    command = [sys.executable, "-c", PRODUCE, point]
    done = subprocess.run(command, env=deployment.env, cwd=deployment.folder, check=False, timeout=30)  # noqa: S603  our own
    assert done.returncode == -signal.SIGKILL
    left = all_runs(deployment)
    assert len(left) == (0 if point == "before-submit" else 1)
    # when it comes back and submits again
    run = deployment.submit("relay", key="ticket-1")
    deployment.start_worker()
    # then there is one run, and it completes
    assert run.result(timeout=TIMEOUT).steps == 3
    assert [found.id for found in all_runs(deployment)] == [run.id]
    assert not left or left[0].id == run.id
    assert wrong_with(run.state(), run.events()) == []


def test_a_run_survives_the_death_of_a_pool_of_threads_at_each_point(
    fragile: Callable[..., Deployment], tmp_path: Path
) -> None:
    deployment = fragile("redis7", own_broker=True)
    for worker in [deployment.start_worker(pool="threads", concurrency=8) for _ in range(2)]:
        worker.wait_until_ready()
    die_at(deployment, [*IN_CHILD, *IN_PARENT], tmp_path, runs=1)
