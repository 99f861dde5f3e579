"""
A seeded monkey: workers, their children, the caretaker and the server are killed while runs are under way.

`make chaos` prints seed and schedule; `CHAOS_SEED=<seed> make chaos` plays the same schedule again, and
`CHAOS_RUNS=<n>` sets how many runs there are.
"""

from __future__ import annotations

import contextlib
import functools
import os
import random
import secrets
import time
from collections import Counter
from collections.abc import Callable  # noqa: TC003  a field of a dataclass
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import psutil
import pytest

from orchestrator.state import keys
from tests.integration.checks import wrong_with, wrong_with_effects
from tests.integration.fleet import FAST, Supervisor
from tests.servers import wait_until

if TYPE_CHECKING:
    from orchestrator import Run
    from tests.integration.fleet import Deployment, Worker

pytestmark = pytest.mark.chaos

CREW: Final = ("crew", "labour labourers labour | labour labourers")
CREWS: Final = ("crews", "crew:labour,labourers;labour labour | labour")
FLOWS: Final = (*[("labours", "x")] * 3, CREW, CREWS, ("relay", "x"), ("essay", "revise 2"))
LABOURS: Final = 5
EFFECTS_A_RUN: Final = 3
"""So many at least, of each of those of the flows above that have any."""
RUNS_A_FAULT: Final = 10
LONGEST_DOWN: Final = 3.0
DONE_WITHIN: Final = 60.0
"""Seconds after the last fault, of which the work itself takes a few; a pause below counts the faults in between."""


@dataclass(frozen=True)
class Strike:
    """A fault, once so many effects have been made; the server stays down for so many seconds."""

    effects: int
    fault: Callable[[Deployment, Worker, Strike], None]
    down: float


def kill_child(deployment: Deployment, worker: Worker, _: Strike) -> None:
    assert worker in deployment.workers
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in worker.children()[:1]:
            child.kill()


def kill_worker(_: Deployment, worker: Worker, __: Strike) -> None:
    worker.kill_parent()


def kill_all_workers(deployment: Deployment, _: Worker, __: Strike) -> None:
    for worker in list(deployment.workers):
        worker.kill_parent()


def kill_caretaker(deployment: Deployment, _: Worker, __: Strike) -> None:
    owner = deployment.redis.get(keys.CARETAKER)
    for worker in list(deployment.workers):
        if isinstance(owner, bytes) and f":{worker.pid}:" in owner.decode():
            worker.kill_parent()


def kill_server(deployment: Deployment, _: Worker, blow: Strike) -> None:
    deployment.kill_server()
    back_at = time.monotonic() + blow.down
    wait_until(lambda: time.monotonic() > back_at, LONGEST_DOWN + 1, "it has been down long enough")
    deployment.restart_server()


FAULTS: Final = (kill_child, kill_child, kill_worker, kill_caretaker, kill_all_workers, kill_server)


def plan(seed: int, runs: int) -> list[Strike]:
    """Return a seed's schedule."""
    chance = random.Random(seed)
    # Fewer than there will be: nobody waits for what never happens.
    effects = EFFECTS_A_RUN * runs * LABOURS // len(FLOWS) * 2 // 3
    thresholds = sorted(chance.randrange(effects) for _ in range(runs // RUNS_A_FAULT))
    return [Strike(after, chance.choice(FAULTS), chance.uniform(0, LONGEST_DOWN)) for after in thresholds]


def pauses(run: Run) -> list[float]:
    """Return the seconds from each begin of a step that was lost to its next begin."""
    begun: dict[object, int] = {}
    found = []
    for event in run.events():
        step = event.data.get("step")
        if event.type == "StepStarted":
            if step in begun:
                found.append((event.at_ms - begun[step]) / 1000)
            begun[step] = event.at_ms
        elif event.type in {"StepCompleted", "StepDelegated", "StepRevised"}:
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
            down = f", down {blow.down:.1f} s" if blow.fault is kill_server else ""
            print(f"  after {blow.effects:4} effects: {blow.fault.__name__}{down}")  # noqa: T201
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
        # when runs are under way and the schedule strikes
        runs = [deployment.submit(*FLOWS[number % len(FLOWS)]) for number in range(count)]
        for blow in schedule:
            wait_until(functools.partial(deployment.has_effects, blow.effects), 120, f"{blow.effects} effects are made")
            blow.fault(deployment, chance.choice(deployment.workers), blow)
        struck = time.monotonic()
        for run in runs:
            run.result(timeout=120)
        done_after = time.monotonic() - struck
    # then every run has ended right
    problems = [line for run in runs for line in wrong_with(run.state(), run.events())]
    problems += wrong_with_effects(
        deployment.ledger, [state for run in runs if (state := run.state()).flow in {"labours", "crew", "crews"}]
    )
    gaps = [gap for run in runs for gap in pauses(run)]
    total = Counter(event.type for run in runs for event in run.events())
    with capsys.disabled():
        print(  # noqa: T201
            f"  {len(runs)} runs in {time.monotonic() - began:.1f} s, {supervisor.restarts} workers restarted, "
            f"{total['StepLost']} steps lost, {total['StepRedispatched']} messages lost, "
            f"{len(gaps)} begun again after at most {max(gaps, default=0):.1f} s, "
            f"all done {done_after:.1f} s after the last fault"
        )
    assert not problems, f"CHAOS_SEED={seed}\n" + "\n".join(problems)
    assert done_after < DONE_WITHIN
