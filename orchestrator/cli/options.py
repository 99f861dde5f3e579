"""What several commands share: how they are made, and options they take."""

from __future__ import annotations

import getpass
import math
import os
from collections.abc import Sequence
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from orchestrator.errors import InvalidInput

NO_AGENT: Final = "there is no agent to run; name the modules that define them in CELERIAC_AGENTS"

SET_CONCURRENCY: Final = "the setting concurrency, or 100 in the asyncio pool, else 2"
SET_POOL: Final = "the setting pool: asyncio for async agents, else prefork"

# Redis counts in 64 bits and Lua in 53: sums of these, in millionths for money, are exact in both.
MAX_TOKENS: Final = 10**12
MAX_COST: Final = 10.0**9

RunId = Annotated[str, typer.Argument(metavar="RUN", help="The run's id.", show_default=False)]
Tag = Annotated[
    list[str],
    typer.Option(metavar="NAME=TEXT", help="A free tag; may be given several times.", show_default=False),
]
Verbose = Annotated[
    bool, typer.Option("--verbose", help="A line for every event, also of each assignment of a large fan-out.")
]
Numbers = Annotated[
    list[str],
    typer.Option("--agent", metavar="NAME=N", help="N for this agent alone; may be given several times."),
]


def login_name() -> str:
    """Return who types this; the user's number in a container that has no name for it."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"


class _Group(TyperGroup):
    """A group; without a command, and before options that are none of its own, it takes its default."""

    default = ""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401  of typer's own copy of click
        first = args[0] if args else "-"
        if self.default and first.startswith("-") and first not in ctx.help_option_names:
            args = [self.default, *args]
        parsed: list[str] = super().parse_args(ctx, args)
        return parsed


def command_app(*, group: bool = False, default: str = "") -> typer.Typer:
    """
    Return an empty app for a command, or for a group of them, in the style of all.

    Args:
        group: whether it is a group.
        default: the command of the group that is meant where none is given; else that shows the help.
    """
    return typer.Typer(
        cls=type("_Group", (_Group,), {"default": default}),
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        no_args_is_help=group,
    )


def parse_tags(given: Sequence[str]) -> dict[str, str]:
    """
    Return tags by name.

    Raises:
        typer.BadParameter: one is not NAME=TEXT.
    """
    tags = {}
    for item in given:
        name, equals, text = item.partition("=")
        if not equals or not name:
            msg = f"{item!r} is not NAME=TEXT, as in --tag batch=monday"
            raise typer.BadParameter(msg)
        tags[name] = text
    return tags


def parse_numbers(given: Sequence[str]) -> dict[str, int]:
    """
    Return numbers by agent.

    Raises:
        typer.BadParameter: one is not NAME=N with N above 0.
    """
    numbers = {}
    for item in given:
        name, _, text = item.partition("=")
        if not name or not text.isdecimal() or int(text) < 1:
            msg = f"{item!r} is not NAME=N, as in --agent moderation.classify=4"
            raise typer.BadParameter(msg)
        numbers[name] = int(text)
    return numbers


def check_number(option: str, value: float | None) -> None:
    """
    Refuse NaN, which passes the range of an option with some versions of typer.

    Raises:
        typer.BadParameter: it is NaN.
    """
    if value is not None and math.isnan(value):
        msg = "nan is no amount"
        raise typer.BadParameter(msg, param_hint=option)


def check_agents(names: Sequence[str], known: Sequence[str]) -> None:
    """
    Refuse agents that nobody registered.

    Raises:
        InvalidInput: with the names that are known.
    """
    for name in names:
        if name not in known:
            msg = (
                f"there is no agent {name!r} (known: {', '.join(known) or 'none'}); correct the name, "
                "or name the module that defines it in CELERIAC_AGENTS"
            )
            raise InvalidInput(msg)
