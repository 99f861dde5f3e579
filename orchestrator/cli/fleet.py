"""The children of a development server: their commands and their environment."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from orchestrator.agent import agents
from orchestrator.broker import START_QUEUE
from orchestrator.cli.supervisor import Spec
from orchestrator.settings import Pool

if TYPE_CHECKING:
    from orchestrator.settings import Settings

APP: Final = "orchestrator.app"
WORKER: Final = "orchestrator.cli.pool"
CUSTOM_POOL: Final = {"CELERY_CUSTOM_WORKER_POOL": "orchestrator.runtime.pool:AsyncioPool"}
ASYNCIO_CONCURRENCY: Final = 100  # steps that wait cost next to nothing
CONCURRENCY: Final = 2
FLOWER: Final = "flower"
FLOWER_CONFIG: Final = Path("config/flower.py")
FLOWER_OPTIONS: Final = (  # where that file is not there
    "--max_tasks=10000",
    "--purge_offline_workers=60",
    "--tasks_columns=name,uuid,state,kwargs,result,received,runtime,worker",
    "--read_only",
)


@dataclass(frozen=True, kw_only=True)
class Options:
    """
    How to run it.

    Attributes:
        concurrency: steps a pool runs at a time, where the settings are not to say; `numbers`: of single agents.
        flower_port: None for no Flower.
        grace: seconds that running steps have when it ends.
        modules: that define the agents, where the settings name others.
    """

    concurrency: int | None = None
    numbers: Mapping[str, int] = field(default_factory=dict)
    flower_port: int | None
    grace: float = 30.0
    modules: tuple[str, ...] = ()


def specs(settings: Settings, options: Options) -> list[Spec]:
    """Return the children: a pool for each agent, one for the queue `orchestrator`, Flower."""
    pools = {name: options.numbers.get(name) or options.concurrency for name in agents()}
    found = [_pool(settings, name, number) for name, number in {**pools, START_QUEUE: 1}.items()]
    if options.flower_port is not None:
        found.append(_flower(settings, options.flower_port))
    return found


def _pool(settings: Settings, queue: str, number: int | None) -> Spec:
    pool, concurrency = choose(settings, [queue], None, number)
    arguments = worker_arguments(pool, [queue], name=queue, concurrency=concurrency)
    return Spec(
        name=queue,
        command=(sys.executable, "-m", WORKER, "worker", *arguments),
        signals=(signal.SIGTERM, signal.SIGQUIT, signal.SIGKILL),
    )


def choose(settings: Settings, queues: Sequence[str], pool: Pool | None, concurrency: int | None) -> tuple[Pool, int]:
    """Return pool and concurrency for a worker of these queues: as asked for, as set, or as fits its agents."""
    chosen = pool or settings.pool
    if chosen == "auto":
        known = agents()
        chosen = "asyncio" if any(queue in known and known[queue].is_async for queue in queues) else "prefork"
    fitting = ASYNCIO_CONCURRENCY if chosen == "asyncio" else CONCURRENCY
    return chosen, concurrency or settings.concurrency or fitting


def worker_arguments(pool: Pool, queues: Sequence[str], *, name: str, concurrency: int) -> list[str]:
    """Return the arguments of `celery worker` for a pool; "asyncio" needs CUSTOM_POOL in the environment."""
    return [
        f"--queues={','.join(queues)}",
        f"--hostname={name}@%h",
        f"--concurrency={concurrency}",
        f"--pool={'custom' if pool == 'asyncio' else pool}",
        "--loglevel=INFO",
        "--without-gossip",
        "--without-mingle",
    ]


def _flower(settings: Settings, port: int) -> Spec:
    config = [f"--conf={FLOWER_CONFIG}"] if FLOWER_CONFIG.exists() else FLOWER_OPTIONS
    where = [f"--address={settings.flower_host}", f"--port={port}"]
    command = (sys.executable, "-m", "celery", "-A", APP, "flower", *config, *where)
    return Spec(name=FLOWER, command=command, stage=1)


def environment(data_dir: Path, modules: Sequence[str]) -> dict[str, str]:
    """Return the children's environment: ours, and where the data are whatever a child's current folder is."""
    named = {"CELERIAC_AGENTS": ",".join(modules)} if modules else {}
    return {**os.environ, **CUSTOM_POOL, **named, "CELERIAC_DATA_DIR": str(data_dir), "PYTHONUNBUFFERED": "1"}
