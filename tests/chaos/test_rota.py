"""Rotas while workers, their children and the server are killed: each ends valid, and its log folds to its board."""

from __future__ import annotations

import os
import random
import secrets
from typing import TYPE_CHECKING, Final

import pytest

from orchestrator.state.fold_board import fold_board
from tests.chaos.test_monkey import Strike, kill_all_workers, kill_child, kill_server, kill_worker
from tests.integration.checks import wrong_with
from tests.integration.fleet import CHECKOUT, FAST, Supervisor
from tests.servers import wait_until
from workers.rota import rota
from workers.rota.checker import violations
from workers.rota.models import Plan, Request
from workers.rota.reading import INSTANCES, load_instance

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.integration.fleet import Deployment, Pool
    from tests.servers import Kind

QUEUES: Final = [f"rota.{name}" for name in ("fill", "repair", "improve", "audit", "publish")]
FAULTS: Final = (kill_child, kill_worker, kill_server, kill_all_workers)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("kind", "pool", "name", "runs", "faults"),
    [
        pytest.param("valkey", "prefork", "kiosk", 3, 3, id="small", marks=pytest.mark.integration),
        pytest.param("valkey", "prefork", "ward", 3, 10, id="valkey", marks=pytest.mark.chaos),
        pytest.param("redis7", "asyncio", "ward", 3, 10, id="redis7", marks=pytest.mark.chaos),
    ],
)
def test_every_rota_is_valid_whatever_is_killed(
    kind: Kind, pool: Pool, name: str, runs: int, faults: int, make: Callable[..., Deployment], tmp_path: Path
) -> None:
    # given rotas under way, on workers that come back
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
        agents=("workers.rota",),
        path=(CHECKOUT,),
    )
    deployment.client.settings = deployment.settings.model_copy(update={"agents": ("workers.rota",)})
    for worker in [deployment.start_worker(queues=QUEUES, pool=pool, concurrency=2) for _ in range(2)]:
        worker.wait_until_ready()
    instance = load_instance(INSTANCES / f"{name}.yaml")
    with Supervisor(deployment):
        plans = [deployment.client.submit(rota, Request(instance=instance, out=str(tmp_path))) for _ in range(runs)]
        # when one thing after the other is killed, each after something more has happened
        for fault in struck:
            before = sum(len(run.events()) for run in plans)
            more = chance.randrange(5, 20)
            wait_until(
                lambda before=before, more=more: (
                    sum(len(run.events()) for run in plans) >= before + more  # type: ignore[misc]
                    or all(run.status() == "completed" for run in plans)
                ),
                60,
                "they go on",
            )
            strike = Strike(0, fault, chance.uniform(0, 1))
            strike.fault(deployment, chance.choice(deployment.workers), strike)
        # then each ends with a plan that keeps every rule
        for run in plans:
            plan = run.result(timeout=300)
            assert isinstance(plan, Plan)
            assert violations(instance, plan.weeks) == []
            assert (plan.outcome, plan.audit.open) == ("goal", 0)
    problems = [line for run in plans for line in wrong_with(run.state(), run.events())]
    problems += [
        f"{run.id}: the log does not fold to the board"
        for run in plans
        if deployment.client.boards.load(run.id, "planning/board") != fold_board("planning/board", run.events())
    ]
    assert not problems, "\n".join(problems)
