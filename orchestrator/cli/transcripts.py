"""`celeriac runs transcript`: a conversation, to be read as a play."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.text import Text

from orchestrator.cli import session
from orchestrator.cli.options import RunId
from orchestrator.cli.output import AsJson, clock_time, console, print_json, print_json_line
from orchestrator.cli.plain import visible
from orchestrator.conversation.transcript import spoken

if TYPE_CHECKING:
    from rich.console import Console

    from orchestrator.conversation.transcript import Line

DIRECTIONS: Final = frozenset({"unanswered", "returned", "returned-to", "joined", "left", "judging", "ended"})
TROUBLES: Final = frozenset({"cycle", "ping-pong"})
COLOURS: Final = ("cyan", "green", "magenta", "blue", "yellow", "bright_cyan", "bright_green", "bright_magenta")


def transcript(
    run_id: RunId,
    *,
    step: Annotated[
        str | None, typer.Option(help="The conversation's step; all of the run's unless given.", show_default=False)
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run has ended.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show who said what in a run's conversation, how it went on, and what was decided."""
    if markdown and as_json:
        msg = "give one of --markdown and --json"
        raise typer.BadParameter(msg)
    run = session.client().get(run_id)
    if as_json and not follow:
        print_json([asdict(line) for line in run.transcript(step)])
        return
    found = run.follow_transcript(step) if follow else run.transcript(step)
    play = _Play(console(), markdown=markdown, as_json=as_json)
    for line in found:
        play.tell(line)
    if not play.told and not as_json:
        typer.echo("nothing was said")


class _Play:
    """Prints a transcript, each member in a colour of its own."""

    def __init__(self, out: Console, *, markdown: bool, as_json: bool) -> None:
        self._out, self._markdown, self._as_json = out, markdown, as_json
        self._colours: dict[str, str] = {}
        self._talk = ""
        self.told = 0

    def tell(self, line: Line) -> None:
        self.told += 1
        if self._as_json:
            print_json_line(asdict(line))
            return
        if line.talk != self._talk:
            self._talk = line.talk
            if line.talk != "talk":
                self._out.print(f"## {visible(line.talk)}" if self._markdown else visible(line.talk), markup=False)
        if self._markdown:
            self._out.print(as_markdown(line), markup=False)
        else:
            self._out.print(self._spoken(line))

    def _spoken(self, line: Line) -> Text:
        done, said = (visible(part) for part in spoken(line))
        number = f"#{line.number}" if line.number is not None else ""
        head = f"{clock_time(line.at_ms)}  {number:<5} "
        if line.kind in DIRECTIONS or line.kind in TROUBLES:
            style = "red" if line.kind in TROUBLES else "italic bright_black"
            return Text.assemble((head, "bright_black"), (f"({done}{': ' if said else ''}{said})", style))
        more = f" ({visible(line.note)})" if line.note else ""
        return Text.assemble(
            (head, "bright_black"), (f"{done}{more}", self._colour(line.who)), f"{': ' if said else ''}{said}"
        )

    def _colour(self, who: str) -> str:
        if not who:
            return "bold"
        return self._colours.setdefault(who, COLOURS[len(self._colours) % len(COLOURS)])


def as_markdown(line: Line) -> str:
    """Return a line as a paragraph of Markdown; what was said is quoted, so that nothing in it is taken for markup."""
    done, said = (visible(part) for part in spoken(line))
    if line.kind in DIRECTIONS or line.kind in TROUBLES:
        return f"*{_escaped(done)}{': ' if said else ''}{_escaped(said)}*\n"
    number = f" (#{line.number})" if line.number is not None else ""
    note = f", {_escaped(visible(line.note))}" if line.note else ""
    quoted = "".join(f"> {_escaped(part)}\n" for part in said.split("\n")) if said else ""
    return f"**{_escaped(done)}**{number}{note}\n\n{quoted}" if quoted else f"**{_escaped(done)}**{number}{note}\n"


MARKUP: Final = frozenset("\\`*_{}[]<>#|")


def _escaped(text: str) -> str:
    return "".join(f"\\{each}" if each in MARKUP else each for each in text)
