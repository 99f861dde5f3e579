"""Behind the board: the rota as a page, as a table and as data."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Final

from orchestrator import BoardResult, Context, InvalidInput, agent, get_settings
from workers.files import write_atomically
from workers.rota import checker
from workers.rota.entries import REQUEST, name_of
from workers.rota.models import Plan, Request, Week
from workers.rota.page import as_html
from workers.rota.sheet import as_csv


def as_json(plan: Plan) -> str:
    """Return the plan for programs."""
    return json.dumps(plan.model_dump(mode="json", exclude={"files"}), indent=2, ensure_ascii=False) + "\n"


_FORMATS: Final[dict[str, Callable[[Plan], str]]] = {"html": as_html, "csv": as_csv, "json": as_json}


@agent("rota.publish", timeout=60.0)
def publish(ctx: Context, result: BoardResult) -> Plan:
    """
    Write down what the sources have made, with an audit of its own.

    Raises:
        InvalidInput: there is nothing on the board.
        OSError: the folder cannot be written to.
    """
    request = result.get(REQUEST, Request)
    if request is None:
        raise InvalidInput(f"nothing was planned: {result.why}; look at the run's sources")
    instance = request.instance
    numbers = range(1, instance.weeks + 1)
    weeks = tuple(week for number in numbers if (week := result.get(name_of(number), Week)) is not None)
    # In a folder of the run's own: files of two runs shall not mix.
    out = Path(request.out or get_settings().data_dir.resolve() / "rota") / ctx.run_id
    plan = Plan(
        instance=instance,
        weeks=weeks,
        audit=checker.audit(instance, weeks),
        outcome=result.outcome,
        why=result.why,
        writes=result.writes,
        wakes=result.wakes,
        files={form: str(out / f"rota.{form}") for form in _FORMATS},
    )
    for form, render in _FORMATS.items():
        write_atomically(Path(plan.files[form]), render(plan))
    return plan
