"""Agents that take more memory than there is, and who ends them: CELERIAC_AGENTS loads this after the user's code."""

from __future__ import annotations

import contextlib
import resource
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import psutil

from orchestrator import Pipeline, agent
from tests.integration.acme.documents import Doc

if TYPE_CHECKING:
    from tests.integration.fleet import Deployment

MIB: Final = 1 << 20
CHUNK: Final = 10 * MIB
CHUNKS: Final = 12
"""How many of them a glutton takes at most: nobody shall suffer from it but itself."""
LIMIT: Final = 60 * MIB
"""What a greedy agent may take on top of what its process has."""
QUEUES: Final = ("chaos.glutton", "chaos.greedy")


@agent("chaos.glutton")
def glutton(doc: Doc) -> Doc:
    """Take memory until somebody ends the process."""
    taken = [b"x" * CHUNK for _ in range(CHUNKS)]
    time.sleep(60)
    return doc.via(str(len(taken)))


@agent("chaos.greedy")
def greedy(doc: Doc) -> Doc:
    """Take memory until the operating system gives no more."""
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (size + LIMIT, before[1]))
    try:
        taken = [b"x" * CHUNK for _ in range(CHUNKS)]
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    return doc.via(str(len(taken)))


eats_memory = Pipeline("eats-memory", [glutton])
wants_memory = Pipeline("wants-memory", [greedy])


class OutOfMemoryKiller:
    """
    Do what the kernel's does, for a limit of its own: end the child that has grown by too much, by SIGKILL.

    Args:
        deployment: whose workers' children it looks at.

    Attributes:
        kills: how often it has.
    """

    def __init__(self, deployment: Deployment) -> None:
        self.kills = 0
        self._workers = deployment.workers
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="oom-killer", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stopped.wait(0.02):
            for worker in list(self._workers):
                with contextlib.suppress(psutil.NoSuchProcess):
                    self._look_at(worker.pid, worker.children())

    def _look_at(self, parent: int, children: list[psutil.Process]) -> None:
        allowed = psutil.Process(parent).memory_info().rss + LIMIT
        for child in children:
            if child.memory_info().rss > allowed:
                child.kill()
                self.kills += 1
