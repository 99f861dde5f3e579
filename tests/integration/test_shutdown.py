"""A worker that is asked to stop finishes what it runs, and gives back what it has taken and not begun."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.integration.fleet import FAST
from tests.servers import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.integration.fleet import Deployment, Pool
    from tests.servers import Kind

pytestmark = pytest.mark.integration

QUEUES = ["acme.first", "acme.second", "acme.third", "acme.hold-sync"]


@pytest.mark.parametrize(
    ("kind", "pool"),
    [("valkey", "prefork"), ("redis7", "asyncio")],
    ids=["valkey-prefork", "redis7-asyncio"],
)
def test_a_warm_shutdown_loses_no_message_and_costs_no_attempt(
    make: Callable[..., Deployment], kind: Kind, pool: Pool
) -> None:
    # given a worker that runs one step, has taken the next message, and leaves more in the queue; on a busy machine a
    # message may wait for a while before it is begun, which is no loss
    deployment = make(kind, settings=FAST | {"dispatch_timeout": 10.0})
    worker = deployment.start_worker(queues=QUEUES, pool=pool, concurrency=1).wait_until_ready()
    runs = [deployment.submit("held-sync") for _ in range(5)]
    wait_until(
        lambda: any(deployment.notes(run, "started") for run in runs) and "Warm" not in worker.text(),
        15,
        "a step is in execution",
    )
    # when it is asked to stop, and the step is done
    worker.process.terminate()
    wait_until(lambda: "Warm shutdown" in worker.text(), 15, "the worker stops")
    deployment.say()
    wait_until(lambda: not worker.running, 15, "the worker has stopped")
    # then nothing is booked as delivered any more, and the steps that are ready have their message
    assert not deployment.broker.exists("unacked")
    assert deployment.waiting_messages() == len(runs)
    # and another worker does the rest, without a second attempt or a second message
    deployment.start_worker(queues=QUEUES, pool=pool, concurrency=1).wait_until_ready()
    for run in runs:
        run.result(timeout=30)
        counts = Counter(event.type for event in run.events())
        assert counts["StepStarted"] == counts["StepCompleted"] == 4
        assert not counts["StepRedispatched"]
