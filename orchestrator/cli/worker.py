"""`celeriac worker`: Celery's worker for some agents."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from orchestrator.agent import agents
from orchestrator.broker import START_QUEUE
from orchestrator.cli import session
from orchestrator.cli.fleet import CUSTOM_POOL, choose, worker_arguments
from orchestrator.cli.help import examples
from orchestrator.cli.options import NO_AGENT, SET_CONCURRENCY, SET_POOL, check_agents, command_app
from orchestrator.cli.output import AsJson, print_json_line
from orchestrator.errors import InvalidSettings
from orchestrator.settings import Pool
from orchestrator.state import embedded

app = command_app()


@app.command(
    "worker",
    epilog=examples(
        "celeriac worker",
        "celeriac worker moderation.classify --concurrency 8",
        "celeriac worker moderation.redact --pool prefork -- --max-tasks-per-child 100",
        where="It is Celery's worker, with the asyncio pool where there is an async agent. "
        "What follows -- is handed to it.",
    ),
)
def worker(
    context: typer.Context,
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[AGENT]...", help="Agents to work for; all of them unless given.", show_default=False),
    ] = None,
    *,
    concurrency: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Steps to run at a time.",
            show_default=SET_CONCURRENCY,
        ),
    ] = None,
    pool: Annotated[
        Pool | None,
        typer.Option(help="The worker pool.", show_default=SET_POOL),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """
    Run a worker in this process, for some agents or for all.

    With --json it first prints what it is as one line; the rest is Celery's log, on stderr.
    """
    settings = session.load()
    if not agents():
        raise InvalidSettings(NO_AGENT)
    known = [*agents(), START_QUEUE]
    wanted = names or known
    check_agents(wanted, known)
    if settings.redis_url is None:
        # Not released here: the server stays until this process ends.
        embedded.ensure(settings, hold=True)
    session.redis().close()
    os.environ.update(CUSTOM_POOL)  # Celery reads it when it is imported for good
    from orchestrator.app import app as celery  # noqa: PLC0415  importing it makes the Celery app of the process

    label = wanted[0] if len(wanted) == 1 else "celeriac"
    name = f"{label}.{os.getpid()}"  # a second worker for the same agents must have another name
    chosen, steps = choose(settings, wanted, pool, concurrency)
    arguments = worker_arguments(chosen, wanted, name=name, concurrency=steps)
    if as_json:
        facts = {"name": name, "pid": os.getpid(), "queues": wanted, "pool": chosen, "concurrency": steps}
        print_json_line(facts)
    celery.worker_main([*(["--quiet"] if as_json else []), "worker", *arguments, *(context.obj or [])])
