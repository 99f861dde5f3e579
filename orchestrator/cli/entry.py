"""The command `celeriac`: its subcommands, imported when one is called, and what becomes of their errors."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, MutableMapping, Sequence
from typing import Annotated, Any, Final, NamedTuple, NoReturn, Protocol

import typer
from typer.core import TyperGroup

from orchestrator.cli.failures import explain, wants_traceback
from orchestrator.cli.help import examples

ROOM: Final = "orchestrator.cli"


class Entry(NamedTuple):
    """Where a command is, below this package, and its line in `celeriac --help`."""

    module: str
    line: str


COMMANDS: Final = {
    "up": Entry("up", "Run the development server: state, one worker pool per agent, Flower."),
    "demo": Entry("demo", "Run a reference flow on real input, with live progress and a report."),
    "worker": Entry("worker", "Run a worker for some agents, or for all."),
    "submit": Entry("submit", "Submit runs of a flow."),
    "runs": Entry("runs", "List, show, watch, cancel and decide runs."),
    "agents": Entry("registry.agents_app", "List the agents this installation knows."),
    "flows": Entry("registry.flows_app", "List the flows this installation knows."),
    "dead": Entry("dead", "List, show, redrive and drop what failed for good."),
    "breakers": Entry("breakers", "List, open and close circuit breakers."),
    "budgets": Entry("budgets", "List, set and clear the budgets of tenants."),
    "version": Entry("version", "Print the version."),
}


class _Formatter(Protocol):
    def write_dl(self, rows: Sequence[tuple[str, str]]) -> None: ...

    def section(self, name: str) -> Any: ...  # noqa: ANN401  a context manager of typer's


class _Commands(MutableMapping[str, Any]):
    """The commands by name; one is imported when it is asked for."""

    def __getitem__(self, name: str) -> Any:  # noqa: ANN401  a click command, of typer's own copy of click
        # `celeriac --help` and a mistyped command shall not wait for Celery and Redis to be imported.
        module, _, attribute = COMMANDS[name].module.partition(".")
        app = getattr(importlib.import_module(f"{ROOM}.{module}"), attribute or "app")
        return typer.main.get_command(app)

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)

    def __setitem__(self, name: str, command: object) -> NoReturn:
        raise NotImplementedError

    def __delitem__(self, name: str) -> NoReturn:
        raise NotImplementedError


class LazyGroup(TyperGroup):
    """A group whose commands are the table above."""

    def __init__(self, **attributes: Any) -> None:  # noqa: ANN401  handed through
        super().__init__(**attributes)
        self.commands = _Commands()

    # Typed by what it uses of typer's private formatter.
    def format_commands(self, ctx: typer.Context, formatter: _Formatter) -> None:  # type: ignore[override] # noqa: ARG002
        """Write the table without importing a command."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.line) for name, entry in COMMANDS.items()])


app = typer.Typer(
    name="celeriac",
    cls=LazyGroup,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=examples(
        "celeriac demo",
        "celeriac up",
        "celeriac submit moderation --input document.json --wait",
        "celeriac runs list --status waiting",
        where="Settings are CELERIAC_<NAME> in the environment or config/settings.toml.",
    ),
)


@app.callback()
def _root(
    *,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Run teams of agents on Celery and Redis."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """
    Run a command and exit: 0, or 1 on an error (one line says what to do), 2 on wrong usage, 130 on Ctrl-C.

    Args:
        arguments: without the program's name; those of the process unless given.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    own, extra = _split(given)
    debug = "--debug" in own
    # Accepted anywhere: who sees an error adds it at the end of the line.
    own = (["--debug"] if debug else []) + [argument for argument in own if argument != "--debug"]
    try:
        typer.main.get_command(app).main(args=own, prog_name="celeriac", obj=extra)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if debug or wants_traceback():
            raise
        sys.stderr.write(f"error: {explain(error)}\n")
        sys.exit(1)
    sys.exit(0)


def _split(given: list[str]) -> tuple[list[str], list[str]]:
    """Split what follows `--` off: for `worker` these are Celery's arguments, which typer must not parse."""
    if "--" not in given or "worker" not in given[: given.index("--")]:
        return given, []
    place = given.index("--")
    return given[:place], given[place + 1 :]
