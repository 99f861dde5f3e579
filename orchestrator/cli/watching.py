"""Follow a run to its end: live on a terminal, lines on a pipe, JSON lines for programs."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

import typer
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from orchestrator.cli.folding import Folding, line
from orchestrator.cli.output import coloured, print_json_line
from orchestrator.cli.plain import plain
from orchestrator.cli.steps import rows
from orchestrator.cli.wording import how_to_decide, how_to_go_on, took

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from orchestrator.client import Run
    from orchestrator.messages import RunState


LOOK = 0.2  # s between two looks at the run


def follow(
    run: Run, out: Console, *, as_json: bool = False, verbose: bool = False, timeout: float | None = None
) -> RunState:
    """
    Show a run's events, the past ones first, until it ends.

    Args:
        run: the run.
        out: where to show it.
        as_json: print every event as a line of JSON to stdout instead.
        verbose: a line for every event, also of members of large fan-outs, and no live view.
        timeout: seconds to wait for the end; None: as long as it takes.

    Returns:
        The run as it ended.

    Raises:
        RunNotFound: there is no such run.
        TimeoutError: it has not ended in time.
    """
    view = View(run.state())  # an unknown run is told at once, not after the first wait
    with telling_how_to_decide(run):
        if as_json:
            for event in run.watch(timeout):
                print_json_line(event.model_dump(mode="json"))
        elif out.is_terminal and not verbose:
            with Live(console=out, get_renderable=view.render, refresh_per_second=4):
                read = 0.0
                for _ in run.watch(timeout):
                    # A fan-out has thousands of steps, and thousands of events in a second.
                    if time.monotonic() - read > LOOK:
                        view.state, read = run.state(), time.monotonic()
                view.state = run.state()
        else:
            folding = Folding()
            for event in run.watch(timeout):
                for text in [line(event)] if verbose else folding.lines(event):
                    out.print(text, markup=False)
    return run.state()


@contextlib.contextmanager
def telling_how_to_decide(run: Run) -> Iterator[None]:
    """Where the time runs out because the run waits for a person, tell on stderr how to decide."""
    try:
        yield
    except TimeoutError as error:
        lines = how_to_go_on(run.state())
        if not lines:
            raise
        for text in lines:
            typer.echo(text, err=True)
        msg = f"{str(error).partition(';')[0]}: it waits for a person; decide as told above"
        raise TimeoutError(msg) from None


class View:
    """A run's stages as a table; durations go on while nothing happens."""

    def __init__(self, state: RunState) -> None:
        self.state = state

    def render(self) -> Group:
        """Return what is to be seen now."""
        state, now_ms = self.state, time.time() * 1000
        title = Text.assemble(
            (state.id, "bold"), f"  {plain(state.flow)}  ", coloured(state.status), f"  {took(state, now_ms)}"
        )
        parts: list[Text | Table] = [title, steps_table(state, now_ms)]
        if state.reason:
            parts.append(Text(plain(state.reason), style="red" if state.status == "failed" else "yellow"))
        if not state.finished:
            parts += [Text(f"decide with: {command}", style="magenta") for command in how_to_decide(state)]
        return Group(*parts)


def steps_table(state: RunState, now_ms: float | None = None) -> Table:
    """Return a run's steps for a terminal."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("STAGE", "AGENT", "STATUS", "ATTEMPT", "TOOK", ""):
        table.add_column(column, justify="right" if column in {"ATTEMPT", "TOOK"} else "left")
    for row in rows(state, now_ms):
        table.add_row(row.name, row.agent, coloured(row.status), row.attempt, row.took, Text(row.remark))
    return table
