"""SIGKILL at each named point of a step's life: every run completes, steps are committed once, effects made once."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.chaos.points import IN_CARETAKER, IN_CHILD, IN_PARENT, mark
from tests.integration.checks import wrong_with, wrong_with_effects
from tests.integration.fleet import Supervisor

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.integration.fleet import Deployment

pytestmark = pytest.mark.integration

RUNS = 5
TIMEOUT = 45.0
LEADS_TO = {"after-lost": "after-begin:b after-lost:b", "after-redispatch": "after-commit:a after-redispatch:b"}
"""What else has to die for the caretaker to come to its point."""


def die_at(deployment: Deployment, points: list[str], marks: Path, *, runs: int) -> None:
    """Let runs die at points, together, and check that the deaths happened and that nothing else did."""
    submitted = [
        (point, deployment.submit("effects", tags={"crash": LEADS_TO.get(point, f"{point}:b")}))
        for point in points
        for _ in range(runs)
    ]
    with Supervisor(deployment):
        problems = []
        for point, run in submitted:
            assert run.result(timeout=TIMEOUT).trail == ("a", "b", "c")
            if not mark(marks, run.id, point, "b").exists():
                problems.append(f"{run.id} never died at {point}")
            problems += wrong_with(run.state(), run.events())
            committed = Counter(event.data["step"] for event in run.events() if event.type == "StepCompleted")
            if committed != {"a": 1, "b": 1, "c": 1}:
                problems.append(f"{run.id} died at {point} and committed {committed}")
        problems += wrong_with_effects(deployment.ledger, [run.state() for _, run in submitted])
        assert not problems, "\n".join(problems)


@pytest.mark.parametrize("point", IN_CHILD)
def test_a_run_survives_the_death_of_its_child_at(
    point: str, fragile: Callable[..., Deployment], tmp_path: Path
) -> None:
    deployment = fragile()
    deployment.start_worker(concurrency=5).wait_until_ready()
    die_at(deployment, [point], tmp_path, runs=RUNS)


@pytest.mark.parametrize("point", [*IN_PARENT, *IN_CARETAKER])
def test_a_run_survives_the_death_of_its_worker_at(
    point: str, fragile: Callable[..., Deployment], tmp_path: Path
) -> None:
    deployment = fragile()
    for worker in [deployment.start_worker(), deployment.start_worker()]:
        worker.wait_until_ready()
    die_at(deployment, [point], tmp_path, runs=RUNS)


def test_a_run_survives_the_death_of_a_pool_of_threads_at_each_point(
    fragile: Callable[..., Deployment], tmp_path: Path
) -> None:
    deployment = fragile("redis7", own_broker=True)
    for worker in [deployment.start_worker(pool="threads", concurrency=8) for _ in range(2)]:
        worker.wait_until_ready()
    die_at(deployment, [*IN_CHILD, *IN_PARENT], tmp_path, runs=1)
