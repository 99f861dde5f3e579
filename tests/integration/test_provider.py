"""A provider fails in every way: no run is lost, it is hardly called while down, and at once when up."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import pytest

from benchmarks.outage.agents import AT_ONCE, COOLDOWN, REQUESTS
from benchmarks.outage.service import Service
from benchmarks.outage.trial import DOWN, RETRY_AFTER, RUNS, SLOTS, TICK, go_through, most_calls, recovered_after
from orchestrator.agent import load_agents
from orchestrator.state import keys
from tests.integration.fleet import CHECKOUT, FAST
from tests.servers import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator import Run
    from tests.integration.fleet import Deployment

pytestmark = pytest.mark.integration

AGENTS: Final = "benchmarks.outage.flows"
MARGIN: Final = 1.0
"""Seconds for the message of a step that may go on, on a machine with other work to do."""


@pytest.mark.timeout(180)
def test_500_runs_outlive_a_provider_that_fails_in_every_way(
    make: Callable[..., Deployment], record_property: Callable[[str, object], None]
) -> None:
    load_agents([AGENTS])
    with Service(retry_after=RETRY_AFTER) as ours, Service(retry_after=RETRY_AFTER) as plain:
        # given two fleets with the same work, and two providers with the same faults
        deployment = make(
            settings=FAST | {"tick": TICK, "lease": 3.0},
            agents=(AGENTS,),
            path=(CHECKOUT,),
            env={"PROVIDER_GUARDED": ours.url, "PROVIDER_BARE": plain.url},
        )
        for name in ("guarded", "bare"):
            deployment.start_worker(queues=[f"provider.{name}"], pool="asyncio", concurrency=SLOTS)
        for worker in deployment.workers:
            worker.wait_until_ready()
        # when runs keep coming through all of them
        runs: list[Run] = []

        def submit(share: range) -> None:
            for name in ("guarded", "bare"):
                runs.extend(deployment.client.submit_many(name, [{"text": str(one)} for one in share]))

        up_at = go_through([ours, plain], submit)
        # then all complete, those that asked in vain too
        for run in runs:
            assert run.result(timeout=60).said
        done_after = time.time() - up_at
        guards = (keys.GUARD_HOLDS, keys.GUARD_MEMBERS, keys.GUARD_WAITING)
        wait_until(lambda: not deployment.redis.exists(*guards), 10, "nothing is held and nobody waits")
    # and the provider was hardly called while it was down
    calls = {"limited": ours.calls_during("limited"), "down": ours.calls_during(*DOWN)}
    without = {"limited": plain.calls_during("limited"), "down": plain.calls_during(*DOWN)}
    recovered = recovered_after(ours, up_at)
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
