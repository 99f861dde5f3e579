"""
A seeded monkey: workers, their children, the caretaker and the server are killed while runs are under way.

`make chaos` prints seed and schedule; `CHAOS_SEED=<seed> make chaos` plays the same schedule again, `CHAOS_RUNS=<n>` sets
how many runs there are.
"""

from __future__ import annotations

import os
import random
import secrets
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import psutil
import pytest

from orchestrator.state import keys
from tests.integration.checks import wrong_with, wrong_with_effects
from tests.integration.fleet import FAST, Supervisor
from tests.servers import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from orchestrator import Run
    from tests.integration.fleet import Deployment, Worker

pytestmark = pytest.mark.chaos

FAULTS: Final = ("kill child", "kill child", "kill worker", "kill caretaker", "kill all workers", "kill server")
FLOWS: Final = (("effects", "x"), ("effects", "x"), ("effects", "x"), ("relay", "x"), ("essay", "revise 2"))
RUNS_A_FAULT: Final = 10
LONGEST_DOWN: Final = 3.0
RESUME_WITHIN: Final = 15.0


@dataclass(frozen=True)
class Strike:
    """A fault, once so many effects have been made; the server stays down for so many seconds."""

    effects: int
    fault: str
    down: float


def plan(seed: int, runs: int) -> list[Strike]:
    """Return a seed's schedule."""
    chance = random.Random(seed)
    # More effects than these come from the flows: nobody waits for what never happens.
    possible = 3 * runs * 2 // 5
    thresholds = sorted(chance.randrange(possible) for _ in range(runs // RUNS_A_FAULT))
    return [Strike(effects, chance.choice(FAULTS), chance.uniform(0, LONGEST_DOWN)) for effects in thresholds]


def strike(deployment: Deployment, workers: Sequence[Worker], blow: Strike, chance: random.Random) -> None:
    """Carry a fault out."""
    worker = chance.choice(workers)
    match blow.fault:
        case "kill child":
            for child in worker.children()[:1]:
                try:
                    child.kill()
                except psutil.NoSuchProcess:
                    return
        case "kill worker":
            worker.kill_parent()
        case "kill all workers":
            for one in list(workers):
                one.kill_parent()
        case "kill caretaker":
            owner = deployment.redis.get(keys.CARETAKER)
            for one in list(workers):
                if isinstance(owner, bytes) and f":{one.pid}:" in owner.decode():
                    one.kill_parent()
        case "kill server":
            deployment.kill_server()
            back_at = time.monotonic() + blow.down
            wait_until(lambda: time.monotonic() > back_at, LONGEST_DOWN + 1, "it has been down long enough")
            deployment.restart_server()


def pauses(run: Run) -> list[float]:
    """Return the seconds from each loss of a step to its next begin."""
    begun = {}
    found = []
    for event in run.events():
        step = event.data.get("step")
        if event.type == "StepStarted":
            if step in begun:
                found.append((event.at_ms - begun[step]) / 1000)
            begun[step] = event.at_ms
        elif event.type in {"StepCompleted", "StepRevised"}:
            begun.pop(step, None)
    return found


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["valkey", "redis7"])
def test_every_run_ends_right_whatever_the_monkey_kills(
    kind: str, make: Callable[..., Deployment], capsys: pytest.CaptureFixture[str]
) -> None:
    # given a fleet under a supervisor, and a schedule
    seed = int(os.environ.get("CHAOS_SEED") or secrets.randbelow(1_000_000))
    count = int(os.environ.get("CHAOS_RUNS") or 200)
    schedule = plan(seed, count)
    with capsys.disabled():
        print(f"\n{kind}: CHAOS_SEED={seed} CHAOS_RUNS={count}")  # noqa: T201  what to type to see it again
        for blow in schedule:
            print(f"  after {blow.effects:4} effects: {blow.fault} (down {blow.down:.1f} s)")  # noqa: T201
    chance = random.Random(seed)
    deployment = make(
        kind,
        settings=FAST | {"max_attempts": 50},
        config={"appendonly": "yes", "appendfsync": "everysec"},
    )
    for worker in [deployment.start_worker() for _ in range(3)]:
        worker.wait_until_ready()
    began = time.monotonic()
    with Supervisor(deployment) as supervisor:
        # when runs are submitted bit by bit, and the schedule strikes
        waiting = [chance.choice(FLOWS) for _ in range(count)]
        runs: list[Run] = []
        for blow in [*schedule, None]:
            target = len(waiting) if blow is None else min(len(waiting), RUNS_A_FAULT)
            runs += [deployment.submit(flow, text) for flow, text in waiting[:target]]
            del waiting[:target]
            if blow is not None:
                made = sum(3 for run in runs if run.state().flow == "effects")
                wait_until(lambda limit=min(blow.effects, made): deployment.has_effects(limit), 120, "effects are made")  # type: ignore[misc]
                strike(deployment, deployment.workers, blow, chance)
        for run in runs:
            run.result(timeout=120)
    # then every run has ended right
    problems = [line for run in runs for line in wrong_with(run.state(), run.events())]
    problems += wrong_with_effects(
        deployment.ledger, [state for run in runs if (state := run.state()).flow == "effects"]
    )
    gaps = [gap for run in runs for gap in pauses(run)]
    total = Counter(event.type for run in runs for event in run.events())
    with capsys.disabled():
        print(  # noqa: T201
            f"  {len(runs)} runs in {time.monotonic() - began:.1f} s, {supervisor.restarts} workers restarted, "
            f"{total['StepLost']} steps lost, {total['StepRedispatched']} messages lost, "
            f"{len(gaps)} resumed after at most {max(gaps, default=0):.1f} s"
        )
    assert not problems, f"CHAOS_SEED={seed}\n" + "\n".join(problems)
    assert max(gaps, default=0) < RESUME_WITHIN
