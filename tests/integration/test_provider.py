"""A provider fails in every way: no run is lost, it is hardly called while down, and at once when up."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Final

import pytest

from orchestrator.agent import load_agents
from orchestrator.state import keys
from tests.integration.fleet import FAST
from tests.integration.provider.agents import AT_ONCE, COOLDOWN, FAILURES, REQUESTS
from tests.integration.provider.service import Phase, Service
from tests.servers import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.integration.fleet import Deployment

pytestmark = pytest.mark.integration

RUNS: Final = 500
SLOTS: Final = 32
TICK: Final = 0.1
RETRY_AFTER: Final = 1
OUTAGE: Final[tuple[tuple[Phase, float], ...]] = (
    ("limited", 1.5),
    ("broken", 2.0),
    ("hanging", 1.5),
    ("dripping", 1.5),
    ("resetting", 2.0),
)
"""What the provider does, for how many seconds."""
DOWN: Final[tuple[Phase, ...]] = tuple(phase for phase, _ in OUTAGE if phase != "limited")
DOWN_FOR: Final = sum(seconds for phase, seconds in OUTAGE if phase in DOWN)
MARGIN: Final = 1.0
"""Seconds for the message of a step that may go on, on a machine with other work to do."""


def most_calls() -> dict[str, int]:
    """
    Return how many calls the guards let through at most.

    limited: as many as run at a time, and as many again whenever Retry-After has passed
    down:    those that run at a time and find it down, the failures that open the breaker, a probe per cooldown
    """
    waves = 1 + math.ceil(OUTAGE[0][1] / RETRY_AFTER)
    return {"limited": AT_ONCE * waves, "down": AT_ONCE + FAILURES + math.ceil(DOWN_FOR / COOLDOWN) + 1}


def pass_until(moment: float) -> None:
    """Let time pass, to a moment (s since the epoch)."""
    wait_until(lambda: time.time() > moment, moment - time.time() + 10, "the provider has been like this long enough")


@pytest.mark.timeout(180)
def test_500_runs_outlive_a_provider_that_fails_in_every_way(
    make: Callable[..., Deployment], record_property: Callable[[str, object], None]
) -> None:
    load_agents(["tests.integration.provider.flows"])
    with Service(retry_after=RETRY_AFTER) as ours, Service(retry_after=RETRY_AFTER) as plain:
        # given two fleets with the same work, and two providers with the same faults
        deployment = make(
            settings=FAST | {"tick": TICK, "lease": 3.0},
            agents=("provider.flows",),
            env={"PROVIDER_GUARDED": ours.url, "PROVIDER_BARE": plain.url},
        )
        for name in ("guarded", "bare"):
            deployment.start_worker(queues=[f"provider.{name}"], pool="asyncio", concurrency=SLOTS)
        for worker in deployment.workers:
            worker.wait_until_ready()
        # when runs keep coming through all of them
        phases: list[tuple[Phase, float]] = [("ok", 1.0), *OUTAGE]
        runs = []
        for number, (phase, seconds) in enumerate(phases):
            over = max(service.turn(phase) for service in (ours, plain)) + seconds
            share = range(RUNS * number // len(phases), RUNS * (number + 1) // len(phases))
            for name in ("guarded", "bare"):
                runs += deployment.client.submit_many(name, [{"text": str(one)} for one in share])
            pass_until(over)
        up_at = ours.turn("ok")
        plain.turn("ok")
        # then all complete, those that asked in vain too
        for run in runs:
            assert run.result(timeout=60).said
        done_after = time.time() - up_at
        guards = (keys.GUARD_HOLDS, keys.GUARD_MEMBERS, keys.GUARD_WAITING)
        wait_until(lambda: not deployment.redis.exists(*guards), 10, "nothing is held and nobody waits")
    # and the provider was hardly called while it was down
    calls = {"limited": ours.calls_during("limited"), "down": ours.calls_during(*DOWN)}
    without = {"limited": plain.calls_during("limited"), "down": plain.calls_during(*DOWN)}
    found_up_at = min(at for at in ours.answered if at > up_at)
    recovered = found_up_at - max([up_at, *(at for at in ours.failed if at < found_up_at)])
    most = most_calls()
    for what, value in {
        "calls": calls,
        "at most": most,
        "calls without guards": without,
        "recovered after s": recovered,
        "all done after s": done_after,
        "by phase": dict(ours.most),
    }.items():
        record_property(what, value)
        print(f"{what}: {value}")  # noqa: T201  shown with -s, and with a failure
    assert calls["limited"] <= most["limited"]
    assert calls["down"] <= most["down"]
    assert sum(without.values()) > 10 * sum(calls.values())
    # and called again one probe interval after it was up, or after the call that had last found it down
    assert recovered <= COOLDOWN + TICK + MARGIN
    # and the limits held all the time: what runs at a time may have been admitted before the second began
    assert max(ours.most.values()) <= AT_ONCE
    assert ours.most_within(1.0) <= REQUESTS + AT_ONCE
    assert len(ours.answered) == RUNS
