"""A source: takes away what breaks rules, and moves people until nothing is open."""

from __future__ import annotations

from orchestrator import Context, Wake, agent
from workers.rota import checker
from workers.rota.efforts import try_once
from workers.rota.models import Instance, Note, Request, Week
from workers.rota.search import repair as repaired
from workers.rota.search import windows

PATIENCE = 24
"""Tries in vain after which it gives up, until something changes."""


@agent("rota.repair", timeout=60.0)
def repair(ctx: Context, wake: Wake[Request]) -> Note:
    """Try once to repair some weeks where something is open or broken."""
    return try_once(ctx.board, "repair", wake.task.instance, search, PATIENCE)


def search(instance: Instance, weeks: list[Week], tries: int) -> list[Week] | None:
    """Return the weeks that are better after one more try; None: there is nothing to repair."""
    found = checker.audit(instance, weeks)
    if not (found.open or found.broken):
        return None
    wrong = {each.week for each in found.violations}
    # What is wrong in one week may come from another: by turns, look at two weeks, or at all.
    choices = [each for each in windows(instance) if wrong.intersection(each)]
    choices.append(tuple(range(1, instance.weeks + 1)))
    return repaired(instance, weeks, choices[tries % len(choices)], seed=tries)
