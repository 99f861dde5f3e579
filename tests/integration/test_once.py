"""`ctx.once` on real workers: a step that is done again does not do its recorded sub-steps again."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.servers import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.integration.fleet import Deployment, Pool

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("pool", ["prefork", "threads", "asyncio"])
@pytest.mark.parametrize("flow", ["careful", "careful-sync"])
def test_what_a_killed_worker_has_recorded_is_not_done_again(
    make: Callable[..., Deployment], pool: Pool, flow: str
) -> None:
    # given an agent that has charged, recorded it, and goes on to its next sub-step
    deployment = make()
    agent = f"acme.{flow}"
    worker = deployment.start_worker(queues=[agent], pool=pool).wait_until_ready()
    run = deployment.submit(flow)
    deployment.wait_for_note(run, "charged")
    wait_until(lambda: "EffectRecorded" in {event.type for event in run.events()}, 10, "it is recorded")
    # when its worker is killed and another one begins the step again
    worker.kill()
    deployment.start_worker(queues=[agent], pool=pool)
    deployment.say(run)
    # then the charge is the first one's
    first = deployment.notes(run, "charged")
    assert len(first) == 1
    result = run.result(timeout=30)
    assert result.trail == (f"charged-by-{worker_of(first[0])}", "parallel-0", "parallel-1", "parallel-2")
    assert deployment.notes(run, "charged") == first
    # and the log tells each of them once
    counts = Counter(event.data.get("name") for event in run.events() if event.type == "EffectRecorded")
    assert counts == {"charge": 1, "parallel-0": 1, "parallel-1": 1, "parallel-2": 1}
    assert run.state().steps[0].effects == 4


def worker_of(note: str) -> str:
    """Return the process that left a note."""
    return note.partition(" ")[0]
