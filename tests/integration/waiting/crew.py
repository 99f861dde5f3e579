"""For the tests alone, no worker imports it: workers with the asyncio pool that run these agents."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, cast

import pytest

from orchestrator.agent import load_agents
from tests.integration.fleet import Worker
from tests.servers import wait_until

from .flows import QUEUES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orchestrator import Run
    from tests.integration.fleet import Deployment

MODULES = ("waiting.flows",)


def start(
    deployment: Deployment, concurrency: int, *arguments: str, queues: Iterable[str] = QUEUES, autoscaled: bool = False
) -> Worker:
    """Start a worker, with more arguments than `Deployment.start_worker` knows, and wait until it consumes."""
    load_agents(("tests.integration.waiting.flows",))  # a producer knows the flows it submits
    number = len(deployment.workers)
    size = () if autoscaled else ("-c", str(concurrency))
    worker = Worker(
        ["-Q", ",".join(queues), "-P", "custom", *size, "-n", f"w{number}@%h", *arguments],
        deployment.env,
        deployment.folder,
        deployment.folder / f"worker-{number}.log",
        deployment.program,
    )
    deployment.workers.append(worker)
    return worker.wait_until_ready()


def destination(number: int) -> list[str]:
    return [f"w{number}@{socket.gethostname()}"]


def stats(deployment: Deployment, number: int = 0) -> dict[str, Any]:
    """Return what `celery inspect stats` says of a worker."""
    asked = deployment.client.app.control.inspect(destination=destination(number), timeout=3.0, limit=1)
    for _ in range(5):
        # A broadcast is lost on a worker that says it is ready and has not subscribed yet.
        replies = cast("dict[str, dict[str, Any]] | None", asked.stats())
        if replies:
            return next(iter(replies.values()))
    pytest.fail("the worker does not answer")


def running(deployment: Deployment, number: int = 0) -> dict[str, int]:
    """Return how many agents a worker has in flight, by kind."""
    pool = stats(deployment, number)["pool"]
    return {"async": pool["async-in-flight"], "sync": pool["sync-in-flight"]}


def wait_until_running(deployment: Deployment, count: int, kind: str = "async", *, timeout: float = 20.0) -> None:
    wait_until(lambda: running(deployment)[kind] == count, timeout, f"{count} {kind} agents are in flight")


def begun(deployment: Deployment, runs: Iterable[Run]) -> list[Run]:
    """Return the runs whose agent has noted that it started."""
    return [run for run in runs if deployment.notes(run, "started")]
