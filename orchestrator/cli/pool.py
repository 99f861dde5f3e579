"""
Celery's worker as a program of its own: `python -m orchestrator.cli.pool worker OPTION...`.

It is `celery -A orchestrator.app worker OPTION...` without Celery's other commands. They bring Flower, a shell and a
REPL along, which take a third of the CPU with which a worker starts, and 12 of its 77 MB; and a development server
starts a worker for each agent.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from celery import maybe_patch_concurrency

if TYPE_CHECKING:
    from collections.abc import Sequence


def run(arguments: Sequence[str]) -> None:
    """Be a worker with these options of `celery worker`; exits when it has ended."""
    # Imported here: gevent and eventlet must have had their way before.
    from celery.bin.base import CLIContext  # noqa: PLC0415
    from celery.bin.worker import worker  # noqa: PLC0415

    from orchestrator.app import app  # noqa: PLC0415

    context = CLIContext(app=app, no_color=False, workdir=None)  # as without Celery's own options
    worker.main([*arguments], prog_name="celery worker", obj=context, auto_envvar_prefix="CELERY_WORKER")


if __name__ == "__main__":
    maybe_patch_concurrency()
    run(sys.argv[2:])  # behind the word by which modules and titles of processes know a worker
