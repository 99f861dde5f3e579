"""`celeriac up`: the development server."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Annotated

import typer
from rich.live import Live

from orchestrator.cli import session
from orchestrator.cli.board import Announcer, board
from orchestrator.cli.fleet import Options
from orchestrator.cli.help import examples
from orchestrator.cli.interrupts import Interrupts
from orchestrator.cli.options import SET_CONCURRENCY, Numbers, command_app, parse_numbers
from orchestrator.cli.output import console
from orchestrator.cli.serving import DevelopmentServer

app = command_app()

Port = Annotated[
    int | None,
    typer.Option(
        "--flower-port",
        min=1,
        max=65535,
        metavar="PORT",
        help="Port of Flower.",
        show_default="the setting flower_port",
    ),
]
Concurrency = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Steps each pool runs at a time.",
        show_default=SET_CONCURRENCY,
    ),
]
Grace = Annotated[float, typer.Option(min=0.0, metavar="SECONDS", help="Time that running steps have when it ends.")]


@app.command(
    "up",
    epilog=examples(
        "celeriac up",
        "celeriac up --concurrency 1 --agent moderation.classify=8",
        "CELERIAC_AGENTS=acme.agents celeriac up --no-flower",
        where="The first Ctrl-C drains: running steps finish. A second one hurries. "
        "Each child's output is in .celeriac/logs/.",
    ),
)
def up(
    *,
    concurrency: Concurrency = None,
    agent: Numbers = [],  # noqa: B006  typer copies it
    flower: Annotated[bool, typer.Option("--flower/--no-flower", help="Run Flower.")] = True,
    flower_port: Port = None,
    grace: Grace = 30.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print each change as a line of JSON.")] = False,
) -> None:
    """Run the development server: state, one worker pool per agent, Flower. Ctrl-C drains and stops it."""
    numbers = parse_numbers(agent)
    settings = session.load()
    options = Options(
        concurrency=concurrency,
        numbers=numbers,
        flower_port=(flower_port or settings.flower_port) if flower else None,
        grace=grace,
    )
    announcer = Announcer(console(), as_json=as_json)
    with Interrupts() as interrupts, DevelopmentServer(settings, options, announcer) as server:
        with display(server, announcer) as show:
            server.run(interrupts, show)
        hurried = interrupts.count > 1
    if as_json:
        announcer.tell("ended")
    raise typer.Exit(1 if hurried else 0)


@contextlib.contextmanager
def display(server: DevelopmentServer, announcer: Announcer) -> Iterator[Callable[[], None]]:
    """Show the server while it runs; gives what is to be called at each tick."""
    out = announcer.out
    facts = {"state": server.state_url, "flower": server.flower_url}
    if announcer.as_json:
        announcer.tell("serving", **facts)
        yield lambda: None
    elif out.is_terminal:
        with Live(console=out, get_renderable=lambda: board(server), refresh_per_second=4):
            yield lambda: None
    else:
        out.print(f"serving  state {facts['state']}", markup=False)
        if server.flower_url:
            out.print(f"serving  Flower {server.flower_url}", markup=False)
        yield lines(server, announcer)


def lines(server: DevelopmentServer, announcer: Announcer) -> Callable[[], None]:
    """Return a function that prints a line whenever a child begins to work."""
    working: dict[str, int | None] = {}

    def show() -> None:
        for child in server.supervisor.children:
            name = child.spec.name
            if working.get(name) != child.pid and server.state_of(child) == "running":
                working[name] = child.pid
                announcer.out.print(f"ready    {name}", markup=False)

    return show
