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

if TYPE_CHECKING:
    from orchestrator.settings import Settings

APP: Final = "orchestrator.app"
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
        concurrency: steps a pool runs at a time; `numbers`: of single agents.
        flower_port: None for no Flower.
        grace: seconds that running steps have when it ends.
        modules: that define the agents, where the settings name others.
    """

    concurrency: int
    numbers: Mapping[str, int] = field(default_factory=dict)
    flower_port: int | None
    grace: float = 30.0
    modules: tuple[str, ...] = ()


def specs(settings: Settings, options: Options) -> list[Spec]:
    """Return the children: a pool for each agent, one for the queue `orchestrator`, Flower."""
    pools = {name: options.numbers.get(name, options.concurrency) for name in agents()}
    found = [_pool(settings, name, number) for name, number in {**pools, START_QUEUE: 1}.items()]
    if options.flower_port is not None:
        found.append(_flower(settings, options.flower_port))
    return found


def _celery(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "celery", "-A", APP, *arguments)


def _pool(settings: Settings, queue: str, number: int) -> Spec:
    return Spec(
        name=queue,
        command=_celery("worker", *worker_arguments(settings.pool, [queue], name=queue, concurrency=number)),
        signals=(signal.SIGTERM, signal.SIGQUIT, signal.SIGKILL),
    )


def worker_arguments(pool: str, queues: Sequence[str], *, name: str, concurrency: int) -> list[str]:
    """Return the arguments of `celery worker` for a pool."""
    return [
        f"--queues={','.join(queues)}",
        f"--hostname={name}@%h",
        f"--concurrency={concurrency}",
        f"--pool={pool}",
        "--loglevel=INFO",
        "--without-gossip",
        "--without-mingle",
    ]


def _flower(settings: Settings, port: int) -> Spec:
    config = [f"--conf={FLOWER_CONFIG}"] if FLOWER_CONFIG.exists() else FLOWER_OPTIONS
    where = [f"--address={settings.flower_host}", f"--port={port}"]
    return Spec(name=FLOWER, command=_celery("flower", *config, *where), stage=1)


def environment(data_dir: Path, modules: Sequence[str]) -> dict[str, str]:
    """Return the children's environment: ours, and where the data are whatever a child's current folder is."""
    named = {"CELERIAC_AGENTS": ",".join(modules)} if modules else {}
    return {**os.environ, **named, "CELERIAC_DATA_DIR": str(data_dir), "PYTHONUNBUFFERED": "1"}
