"""
Flower's options: `celery -A orchestrator.app flower --conf=config/flower.py`.

Options on the command line are stronger than this file (`--port=8080`). This file is stronger than `FLOWER_<NAME>` in
the environment, so it leaves authentication out: set `FLOWER_BASIC_AUTH=user:password`.
"""

from __future__ import annotations

import re
from ast import literal_eval
from typing import Final, Protocol

from tornado.options import options

from orchestrator import get_settings

ERROR: Final = re.compile(r"AgentFailed(\(.*\))", re.DOTALL)


class _Task(Protocol):
    name: str | None
    kwargs: str | None
    result: str | None
    exception: str | None
    traceback: str | None
    retries: int | None
    rejected: float | None
    clock: int | None
    root: object
    parent: object


def _literal(text: str | None) -> object:
    """Return the value Celery wrote as text; what is no literal (words, something shortened) as it came."""
    try:
        return literal_eval(text or "")
    except (ValueError, SyntaxError):
        return text


def format_task(task: _Task) -> _Task:
    """
    Word a task for the pages, so that a row reads `moderation/classify  run=…  ValueError: …`.

    Args:
        task: a copy; Flower's own, and what the search looks at, stay as they are.
    """
    named = _literal(task.kwargs)
    if isinstance(named, dict):
        # The name ends in the step. `run=…` is what the search takes behind `kwargs:`.
        in_name = {"step"} if str(task.name).endswith(f"/{named.get('step')}") else set()
        task.kwargs = " ".join(f"{name}={value}" for name, value in named.items() if name not in in_name)
    error = ERROR.fullmatch(task.result or "")
    result = _literal(error.group(1) if error else task.result)
    task.result = str(result[-1] if error and isinstance(result, tuple) else "" if result is None else result)
    # The task's page leaves out what is None. The result says what the exception does; `Root id` and `Parent id` are
    # links, `Root` and `Parent` the same without; Flower prints `rejected` as bare seconds, beside `Timestamp`.
    task.exception = task.rejected = task.clock = task.root = task.parent = None
    task.retries = task.retries or None
    task.traceback = task.traceback or None
    return task


address = get_settings().flower_host
port = get_settings().flower_port

# What a person needs to read a run fits 1,400 pixels; the uuid links to the task's page. args are always empty.
tasks_columns = "name,uuid,state,kwargs,result,received,runtime,worker"

# 6.5 kB each: 130 MB, some 4,000 runs of five steps. The history is a window; the runs themselves are in Redis.
max_tasks = 20_000

# Seconds. A dead worker stays in sight for a while; where hosts come and go its successor has another name.
purge_offline_workers = 600

# Milliseconds. A worker short of CPU answers late, and Flower then says it does not know it.
inspect_timeout = 3000.0

# Without authentication Flower refuses what its buttons ask for, so it does not show them.
read_only = not (options.basic_auth or options.auth)
