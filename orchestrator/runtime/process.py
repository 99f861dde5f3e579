"""What a worker process needs once: its Redis client, its stores, its leases. Made anew after a fork."""

from __future__ import annotations

import os
import secrets
import socket
from collections import Counter
from itertools import count
from typing import TYPE_CHECKING

from orchestrator.runtime.batching import BatchingRedis
from orchestrator.runtime.leases import LeaseKeeper
from orchestrator.settings import get_settings
from orchestrator.state.boards import Boards
from orchestrator.state.connection import connect
from orchestrator.state.conversations import Conversations
from orchestrator.state.dead import DeadLetters
from orchestrator.state.fan_outs import FanOuts
from orchestrator.state.guards import Guards
from orchestrator.state.locks import LockKeeper
from orchestrator.state.retry_budget import RetryBudget
from orchestrator.state.runs import RunStore

if TYPE_CHECKING:
    from orchestrator.settings import Settings


class WorkerProcess:
    """
    The stores and the lease keeper of one process.

    Attributes:
        name: `host:pid`, for people to read.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.name = f"{socket.gethostname()}:{os.getpid()}"
        client = connect(settings, BatchingRedis)
        self.store = RunStore(client, settings)
        self.fan_outs = FanOuts(self.store)
        self.boards = Boards(self.store)
        self.conversations = Conversations(self.store)
        self.locks = LockKeeper(lambda: connect(settings))
        self.dead = DeadLetters(client)
        self.guards = Guards(client)
        self.retries = RetryBudget(client)
        self._first_attempts: Counter[str] = Counter()
        self._token, self._begins = secrets.token_hex(8), count(1)
        self.leases = LeaseKeeper(self.store, self.guards, interval=settings.lease / 3, hold=settings.lease)

    def nonce(self) -> str:
        """Return a text that no other execution has, of this process or any other."""
        return f"{self._token}.{next(self._begins)}"

    def count(self, agent: str) -> None:
        """Count a first attempt of an agent that has a retry budget."""
        self._first_attempts[agent] += 1

    def first_attempts(self, agent: str) -> int:
        """Return how many there were since this was last asked: they add to the budget when it is next needed."""
        return self._first_attempts.pop(agent, 0)


_processes: dict[int, WorkerProcess] = {}


def current() -> WorkerProcess:
    """Return this process's own; a prefork child must not share its parent's sockets and threads."""
    pid = os.getpid()
    found = _processes.get(pid)
    if found is None:
        _processes.clear()
        found = _processes[pid] = WorkerProcess(get_settings())
    return found
