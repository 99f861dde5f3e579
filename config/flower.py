"""
Flower's options: `celery -A orchestrator.app flower --conf=config/flower.py`.

Options on the command line are stronger than this file (`--port=8080`). This file is stronger than `FLOWER_<NAME>` in
the environment, so it leaves authentication out: set `FLOWER_BASIC_AUTH=user:password`.
"""

from __future__ import annotations

from ast import literal_eval
from typing import Protocol

from tornado.options import options

from orchestrator import get_settings


class _Task(Protocol):
    state: str
    kwargs: str | None
    result: str | None
    exception: str | None
    rejected: float | None


def format_task(task: _Task) -> _Task:
    """
    Word a task for the pages: `run=… step=…` as the search takes it, the result without quotes.

    Args:
        task: a copy; Flower's own, and what the search looks at, stay as they are.
    """
    try:
        named = literal_eval(task.kwargs or "")
        task.kwargs = " ".join(f"{name}={value}" for name, value in named.items())
        task.result = str(literal_eval(task.result or ""))
    except (ValueError, SyntaxError, AttributeError):
        # Shortened by Celery, or words already: shown as it came.
        pass
    task.rejected = None  # the page would print it as bare seconds; the same time stands under "Timestamp"
    return task


address = get_settings().flower_host
port = get_settings().flower_port

# What a person needs to read a run. No args, which are always empty, and no exception, which the result shows too.
tasks_columns = "name,state,kwargs,result,received,started,runtime,worker,uuid"

# 6.5 kB each: 130 MB, some 4,000 runs of five steps. The history is a window; the runs themselves are in Redis.
max_tasks = 20_000

# Seconds. A dead worker stays in sight for a while, its successor has another name where hosts come and go.
purge_offline_workers = 600

# Milliseconds. A worker short of CPU answers late, and Flower then says it does not know it.
inspect_timeout = 3000.0

# Without authentication Flower refuses what its buttons ask for, so it does not show them.
read_only = not (options.basic_auth or options.auth)
