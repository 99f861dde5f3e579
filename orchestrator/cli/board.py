"""What a development server shows: a live table on a terminal, lines on a pipe, JSON lines for programs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from orchestrator.cli.output import coloured, print_json_line
from orchestrator.cli.plain import visible

if TYPE_CHECKING:
    from rich.console import Console

    from orchestrator.cli.serving import DevelopmentServer
    from orchestrator.cli.supervisor import Change

STYLES = {"died": "red", "killed": "red", "draining": "magenta", "started": "", "stopped": "bright_black"}


class Announcer:
    """Tells each change of a child, above the live table if there is one."""

    def __init__(self, out: Console, *, as_json: bool = False) -> None:
        self.out = out
        self.as_json = as_json

    def __call__(self, change: Change) -> None:
        """Tell a change."""
        if self.as_json:
            self.tell(change.what, name=change.name, detail=change.detail, lines=list(change.lines))
            return
        what = Text(change.what.ljust(9), style=STYLES.get(change.what, ""))
        self.out.print(
            Text(time.strftime("%H:%M:%S  ")), what, Text(visible(f"{change.name}  {change.detail}")), sep=""
        )
        for line in change.lines:
            self.out.print(Text(visible(f"            | {line}"), style="bright_black"))

    def tell(self, what: str, **facts: object) -> None:
        """Print an event as a line of JSON."""
        print_json_line({"at_ms": int(time.time() * 1000), "event": what, **facts})


def board(server: DevelopmentServer) -> Group:
    """Return the children as a table for a terminal."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("POOL", "PID", "STATE", "RESTARTS", "QUEUED", "BUSY"):
        table.add_column(column, justify="left" if column in {"POOL", "STATE"} else "right")
    gauges = server.gauges
    for child in server.supervisor.children:
        name = child.spec.name
        depth = gauges.depth(name) if gauges else None
        busy = gauges.busy(name) if gauges else None
        table.add_row(
            name,
            str(child.pid or ""),
            coloured(server.state_of(child)),
            str(child.restarts or ""),
            "" if depth is None else str(depth),
            "" if busy is None else str(busy),
        )
    return Group(table, Text(_footer(server), style="bold"))


def _footer(server: DevelopmentServer) -> str:
    if server.supervisor.finished:
        return "stopped"
    waiting = server.supervisor.waiting_for
    if waiting:
        names = ", ".join(child.spec.name for child in waiting)
        return f"waiting for {names} to finish; Ctrl-C again to hurry"
    flower = f"   Flower {server.flower_url}" if server.flower_url else ""
    return f"state {server.state_url}{flower}   Ctrl-C drains and stops"
