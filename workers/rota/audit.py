"""A source: says what is open, what is broken and what it costs."""

from __future__ import annotations

from orchestrator import Context, Wake, WriteConflict, agent
from workers.rota import checker
from workers.rota.entries import AUDIT, weeks_on
from workers.rota.models import Note, Request


@agent("rota.audit", timeout=60.0)
def audit(ctx: Context, wake: Wake[Request]) -> Note:
    """Audit the weeks as they stand together; where one changes meanwhile, the audit is not written."""
    weeks = ctx.board.read("week.*")
    ctx.board.get(AUDIT)
    found = checker.audit(wake.task.instance, weeks_on(weeks))
    try:
        ctx.board.write({AUDIT: found}, unchanged=list(weeks))
    except WriteConflict:
        return Note(text="overtaken")  # by a change, which wakes it again
    return Note(text=f"{found.open} open, {found.broken} broken, costs {found.total}")
