"""Blackboards while workers, their children and the server are killed: each reaches its goal, its log folds to it."""

from __future__ import annotations

import functools
import os
import random
import secrets
from typing import TYPE_CHECKING, Final

import pytest

from orchestrator.state.fold_board import fold_board
from tests.chaos.test_monkey import Strike, kill_all_workers, kill_child, kill_server, kill_worker
from tests.integration.checks import wrong_with
from tests.integration.fleet import FAST, USER_CODE, Supervisor
from tests.servers import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from orchestrator import Run
    from tests.integration.fleet import Deployment
    from tests.servers import Kind

MODULE: Final = "tests.integration.boards.flows"
QUEUES: Final = [f"boards.{name}" for name in ("fill", "audit", "improve", "report")]
FAULTS: Final = (kill_child, kill_worker, kill_server, kill_all_workers)
WEEKS: Final = 5


def go_on(runs: Sequence[Run], events: int) -> bool:
    """Tell whether so much has happened in each of some runs."""
    return all(len(run.events()) > events for run in runs)


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("kind", "runs", "faults"),
    [
        pytest.param("valkey", 8, 3, id="small", marks=pytest.mark.integration),
        pytest.param("valkey", 60, 12, id="valkey", marks=pytest.mark.chaos),
        pytest.param("redis7", 60, 12, id="redis7", marks=pytest.mark.chaos),
    ],
)
def test_every_board_reaches_its_goal_whatever_is_killed(
    kind: Kind, runs: int, faults: int, make: Callable[..., Deployment]
) -> None:
    # given boards under way, on workers that come back
    seed = int(os.environ.get("CHAOS_SEED") or secrets.randbelow(1_000_000))
    print(f"CHAOS_SEED={seed}")  # noqa: T201  what to type to see it again
    chance = random.Random(seed)
    # Each at least once, where there are as many; in the small one a worker and the server.
    struck = [kill_server, kill_worker, kill_child, kill_all_workers][:faults]
    struck += chance.choices(FAULTS, k=faults - len(struck))
    chance.shuffle(struck)
    deployment = make(
        kind,
        settings=FAST | {"max_attempts": 50},
        config={"appendonly": "yes", "appendfsync": "everysec"},
        agents=(MODULE,),
        path=[USER_CODE.parents[1]],
    )
    deployment.client.settings = deployment.settings.model_copy(update={"agents": (MODULE,)})
    for worker in [deployment.start_worker(queues=QUEUES, concurrency=3) for _ in range(2)]:
        worker.wait_until_ready()
    with Supervisor(deployment):
        boards = [deployment.client.submit("planning", {"weeks": WEEKS}) for _ in range(runs)]
        # when one thing after the other is killed, each after more of them have begun to be written
        for number, fault in enumerate(struck):
            begun = boards[: 1 + number * runs // faults]
            wait_until(functools.partial(go_on, begun, 5 + chance.randrange(9)), 60, "they go on")
            strike = Strike(0, fault, chance.uniform(0, 1))
            strike.fault(deployment, chance.choice(deployment.workers), strike)
        # then each has come to its goal
        for run in boards:
            assert run.result(timeout=120).text == f"goal: 0 open of {WEEKS}"
    problems = [line for run in boards for line in wrong_with(run.state(), run.events())]
    problems += [
        f"{run.id}: the log does not fold to the board"
        for run in boards
        if deployment.client.boards.load(run.id, "weeks/board") != fold_board("weeks/board", run.events())
    ]
    assert not problems, "\n".join(problems)
