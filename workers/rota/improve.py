"""A source: swaps people until nothing is found that would please them more."""

from __future__ import annotations

from orchestrator import Context, Wake, agent
from workers.rota.efforts import try_once
from workers.rota.models import Instance, Note, Request, Week
from workers.rota.search import improve as improved
from workers.rota.search import windows

PATIENCE = 9
"""Tries in vain after which it is content, until something changes."""


@agent("rota.improve", timeout=60.0)
def improve(ctx: Context, wake: Wake[Request]) -> Note:
    """Try once to improve two weeks."""
    return try_once(ctx.board, "improve", wake.task.instance, search, PATIENCE)


def search(instance: Instance, weeks: list[Week], tries: int) -> list[Week]:
    """Return the weeks that cost less after one more try."""
    choices = windows(instance)
    return improved(instance, weeks, choices[tries % len(choices)], seed=tries)
