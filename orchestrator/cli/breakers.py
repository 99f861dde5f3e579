"""`celeriac breakers`: the circuit breakers of the fleet; an operator's hand on them."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Final

import typer

from orchestrator.cli import session
from orchestrator.cli.help import examples
from orchestrator.cli.options import command_app
from orchestrator.cli.output import AsJson, coloured, duration, print_json, print_table
from orchestrator.cli.plain import plain
from orchestrator.client import check_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.state.guards import BreakerState, Forced

app = command_app(group=True, default="list")

MOST: Final = 10  # other breakers that a warning names
NONE: Final = "none: nothing that has a breaker was called lately"

Name = Annotated[
    str, typer.Argument(metavar="NAME", help="The breaker: an agent, or what its `of` names.", show_default=False)
]


@app.callback(
    epilog=examples(
        "celeriac breakers list",
        "celeriac breakers open openai/gpt-4.1",
        "celeriac breakers auto openai/gpt-4.1",
        where="Without a command it lists them.",
    ),
)
def _group() -> None:
    """List, open and close circuit breakers."""


@app.command("list", epilog=examples("celeriac breakers list", "celeriac breakers list --json"))
def list_breakers(*, as_json: AsJson = False) -> None:
    """List the breakers, with the calls and failures that count now."""
    found = session.client().guards.breakers()
    if as_json:
        print_json([asdict(breaker) for breaker in found])
    elif found:
        print_table(
            ["BREAKER", "STATE", "FOR", "CALLS", "FAILURES", "PROBES", ""],
            [
                [
                    breaker.name,
                    coloured(breaker.state),
                    duration(breaker.since),
                    str(breaker.calls),
                    str(breaker.failures),
                    str(breaker.probes),
                    remark(breaker),
                ]
                for breaker in found
            ],
        )
    else:
        typer.echo(NONE)


@app.command(
    "open",
    epilog=examples("celeriac breakers open openai/gpt-4.1", "celeriac breakers open quotes.fetch --json"),
)
def open_breaker(name: Name, *, as_json: AsJson = False) -> None:
    """Open a breaker: no call goes through until `close` or `auto`."""
    _force(name, "open", as_json=as_json)


@app.command(
    "close",
    epilog=examples("celeriac breakers close openai/gpt-4.1", "celeriac breakers close quotes.fetch --json"),
)
def close_breaker(name: Name, *, as_json: AsJson = False) -> None:
    """Close a breaker: every call goes through, whatever fails, until `open` or `auto`."""
    _force(name, "closed", as_json=as_json)


@app.command(
    "auto",
    epilog=examples("celeriac breakers auto openai/gpt-4.1", "celeriac breakers auto quotes.fetch --json"),
)
def leave_breaker(name: Name, *, as_json: AsJson = False) -> None:
    """
    Leave a breaker to itself again: one that was open lets a probe through.

    Done twice, one that nothing was ever called through is listed no more.
    """
    _force(name, "auto", as_json=as_json)


def remark(breaker: BreakerState) -> str:
    """Return what is worth knowing of a breaker beside its numbers."""
    if breaker.forced:
        return f"by hand, until `celeriac breakers auto {breaker.name}`"
    if breaker.retry_in:
        return f"lets a call through in {duration(breaker.retry_in)}"
    return ""


def _force(name: str, state: Forced, *, as_json: bool) -> None:
    check_text("a breaker's name", name)
    guards = session.client().guards
    known = guards.force(name, state)
    listed = {breaker.name: breaker for breaker in guards.breakers()}
    found = listed.get(name)
    if not known:
        # Not refused: an outage may be known before the first call of a new fleet.
        typer.echo(plain(_doubt(name, sorted(set(listed) - {name}), listed=found is not None)), err=True)
    if as_json:
        print_json(None if found is None else {**asdict(found), "known": known})
    elif found is not None:
        typer.echo(plain("; ".join(part for part in (f"{name} is {found.state}", remark(found)) if part)))
    else:
        said = "is listed no more: nothing was called through it" if known else "is not known"
        typer.echo(plain(f"{name} {said}"))


def _doubt(name: str, others: Sequence[str], *, listed: bool) -> str:
    """Return a warning about a breaker that nothing was called through."""
    more = f" and {len(others) - MOST} more" if len(others) > MOST else ""
    there = f" (known: {', '.join(others[:MOST])}{more})" if others else ""
    undo = f" If not: `celeriac breakers auto {name}`, and once more to have it listed no more" if listed else ""
    return f"warning: nothing was called through a breaker {name!r} yet{there}; is the name right?{undo}"
