"""`celeriac dead`: messages that were set aside because nobody could read them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Final

import typer

from orchestrator.cli import session
from orchestrator.cli.help import examples
from orchestrator.cli.options import command_app
from orchestrator.cli.output import AsJson, clock_time, print_json, print_table
from orchestrator.state.dead import DeadLetters

app = command_app(group=True)
EXCERPT: Final = 60  # characters of a body in the table; --json has all that is kept


@app.callback(epilog=examples("celeriac dead list", "celeriac dead list --limit 5 --json"))
def _group() -> None:
    """Look at messages that were set aside because nobody could read them."""


@app.command(
    "list",
    epilog=examples("celeriac dead list", "celeriac dead list --limit 5 --json"),
)
def list_letters(
    *,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the newest first.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List messages nobody could read, with the reason."""
    with session.redis() as redis:
        letters = DeadLetters(redis).list(limit)
    if as_json:
        print_json([asdict(letter) for letter in letters])
    elif letters:
        print_table(
            ["AT", "QUEUE", "REASON", "BODY"],
            [[clock_time(letter.at_ms), letter.queue, letter.reason, _excerpt(letter.body)] for letter in letters],
        )
    else:
        typer.echo("none: every message could be read")


def _excerpt(body: str) -> str:
    shown = "".join(character if character.isprintable() else "·" for character in body[: EXCERPT + 1])
    return f"{shown[:EXCERPT]}…" if len(shown) > EXCERPT else shown
