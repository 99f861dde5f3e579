"""A source: gives open slots to whom they cost least, a week at a time."""

from __future__ import annotations

from orchestrator import Context, Wake, WriteConflict, agent
from workers.rota.entries import REQUEST, name_of, weeks_on
from workers.rota.models import Note, Request
from workers.rota.search import fill as filled


@agent("rota.fill", timeout=60.0)
def fill(ctx: Context, wake: Wake[Request]) -> Note:
    """Fill what is open, week after week, on top of whatever the others have written by then."""
    instance = wake.task.instance
    changed = []
    for number in range(1, instance.weeks + 1):
        board = ctx.board.read("week.*", REQUEST)
        week = filled(instance, weeks_on(board), number)
        name = name_of(number)
        known = board.get(name)
        if known is not None and known.value == week:
            continue
        puts = {name: week} if REQUEST in board else {REQUEST: wake.task, name: week}
        try:
            ctx.board.write(puts)
        except WriteConflict:
            continue  # what somebody else has made of it is audited, and comes back as far as it is open
        changed.append(str(number))
    return Note(text=f"filled week {', '.join(changed)}" if changed else "nobody can be given what is open")
