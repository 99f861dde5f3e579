"""
A ward's rota by four sources on a blackboard, beside OR-Tools' CP-SAT on the same instance.

`celeriac demo rota` plans the instance that comes along, with a pool for each source. The solver then has it as an
integer programme, once from nothing and once from what the sources have made: its bound is what no rota can be better
than.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from benchmarks.measuring import ROOT
from benchmarks.rota_bound import solve
from workers.rota.checker import audit
from workers.rota.models import Week
from workers.rota.reading import WARD, load_instance

TIMEOUT: Final = 900.0
COMMAND: Final = (sys.executable, "-c", "from orchestrator.cli import main; main()", "demo", "rota", "--json")


def measure(file: Path) -> dict[str, Any]:
    """Plan an instance; returns what the command says of it, and the plan."""
    with tempfile.TemporaryDirectory() as data:
        done = subprocess.run(
            [*COMMAND, "--input", str(file)],
            cwd=ROOT,
            env={**os.environ, "CELERIAC_DATA_DIR": data},
            stdout=subprocess.PIPE,
            timeout=TIMEOUT,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"the rota ended with {done.returncode}: {done.stdout.decode()[-2000:]}")
        said: dict[str, Any] = json.loads(done.stdout)
        plan = json.loads(Path(said["report"]).with_suffix(".json").read_text(encoding="utf-8"))
        return said | {"plan": plan}


def main(*, count: int, rounds: int) -> dict[str, Any]:
    """
    Plan the ward.

    Args:
        count: seconds that the solver may take, each time.
        rounds: rotas; the cheapest counts.

    Returns:
        The figures, for JSON.
    """
    instance = load_instance(WARD)
    best = min((measure(WARD) for _ in range(rounds)), key=lambda one: int(one["plan"]["audit"]["total"]))
    weeks = [Week.model_validate(week) for week in best["plan"]["weeks"]]
    ours = audit(instance, weeks)
    alone, after = solve(instance, seconds=count), solve(instance, seconds=count, hint=weeks)
    return {
        "instance": instance.name,
        "people": len(instance.people),
        "weeks": instance.weeks,
        "outcome": best["plan"]["outcome"],
        "open": ours.open,
        "broken": ours.broken,
        "cost": ours.total,
        "parts": ours.score.model_dump(),
        "wakes": best["plan"]["wakes"],
        "writes": best["plan"]["writes"],
        "seconds": best["seconds"],
        "bound": max(alone.bound, after.bound),
        "solver": [
            {"from": start, "status": each.status, "cost": each.cost, "bound": each.bound, "seconds": each.seconds}
            for start, each in (("nothing", alone), ("our rota", after))
        ],
    }


def show(found: dict[str, Any]) -> None:
    """Print the figures."""
    title = f"{found['instance']}: {found['people']} people, {found['weeks']} weeks; no rota costs less than "
    table = Table(title=f"{title}{found['bound']:,.0f}", title_justify="left")
    for column in ("by", "cost", "of the bound", "seconds", "open", "broken"):
        table.add_column(column, justify="left" if column == "by" else "right")

    def row(by: str, cost: float | None, seconds: float, *more: str) -> None:
        ratio = f"{cost / found['bound']:.2f}" if cost is not None and found["bound"] > 0 else "-"
        table.add_row(by, "-" if cost is None else f"{cost:,.0f}", ratio, f"{seconds:.1f}", *more)

    row("four sources on a board", found["cost"], found["seconds"], str(found["open"]), str(found["broken"]))
    for each in found["solver"]:
        row(f"CP-SAT, from {each['from']}", each["cost"], each["seconds"])
    console = Console()
    console.print(table)
    parts = ", ".join(f"{name} {cost}" for name, cost in found["parts"].items())
    console.print(f"the sources' rota: {found['outcome']}, {found['wakes']} wakes, {found['writes']} writes; {parts}")
