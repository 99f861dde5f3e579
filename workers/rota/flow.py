"""The flow: a board that four sources work on, and an agent that writes down what they have made."""

from __future__ import annotations

from orchestrator import Blackboard, Condition, Entry, Limits, Pipeline, Source, Stage
from workers.rota.audit import audit
from workers.rota.entries import AUDIT, REQUEST, WEEKS
from workers.rota.fill import fill
from workers.rota.improve import improve
from workers.rota.models import Audit, Effort, Request, Week
from workers.rota.publish import publish
from workers.rota.repair import repair

WITHIN = 600.0  # s, after which the best rota so far is what there is

# An audit of the weeks as they stand.
_audited = Entry(AUDIT).after(WEEKS)
_wrong = (Entry(AUDIT).field("open") > 0) | (Entry(AUDIT).field("broken") > 0)
_valid = _audited & (Entry(AUDIT).field("open") == 0) & (Entry(AUDIT).field("broken") == 0)


def _hope(name: str) -> Condition:
    """Return the condition that a source has tries left, or that the weeks have changed since the last one."""
    return (Entry(name).field("left") > 0) | ~Entry(name).after(WEEKS)


planning = Blackboard(
    "rota.planning",
    task=Request,
    entries={REQUEST: Request, WEEKS: Week, AUDIT: Audit, "repair": Effort, "improve": Effort},
    sources=[
        Source(audit, watch=WEEKS, priority=2),
        Source(fill, watch=("task", AUDIT), when=~Entry(AUDIT) | (Entry(AUDIT).field("open") > 0), priority=1),
        # These two are woken by their own tries, too, as long as there is hope.
        Source(
            repair,
            watch=(AUDIT, "repair"),
            own=True,
            when=_audited & _wrong & _hope("repair"),
        ),
        Source(
            improve,
            watch=(AUDIT, "improve"),
            own=True,
            when=_valid & _hope("improve"),
        ),
    ],
    goal=_valid & Entry("improve").after(WEEKS) & (Entry("improve").field("left") == 0),
    # Where nothing better is found the board is quiet, and the rota says what is open.
    otherwise="degrade",
    limits=Limits(wakes=5000, writes=20_000, time=WITHIN, entry_bytes=512 * 1024),
)
rota = Pipeline("rota", [Stage(planning, name="planning"), publish])
