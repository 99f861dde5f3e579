"""A flow for each agent in trouble, and some with compensation."""

from __future__ import annotations

from orchestrator import Blackboard, Count, Hierarchy, Pipeline, Source, Stage

from . import agents as a

ALONE = (
    *(a.bare, a.retried, a.hasty, a.thrifty, a.falls, a.remembers, a.fixed, a.patient, a.skips, a.narrow, a.paced),
    *(a.gated, a.costly, a.cheaper, a.idle, a.idle_sync, a.urgent, a.parent),
)

for one in ALONE:
    Pipeline(one.name.replace(".", "-"), [Stage(one, name="only")])

saga = Pipeline(
    "trouble-saga",
    [
        a.begin,
        Stage(a.charge, name="book", undo=a.refund),
        Stage(a.charge, name="pay", undo="trouble.refund"),
        a.end,
    ],
)
board = Blackboard(
    "trouble-board",
    task=a.Order,
    entries={"found": a.Done},
    sources=[Source(a.look, watch="task")],
    goal=Count("found") > 0,
)
team = Hierarchy("trouble-team", boss=a.split, workers=[a.bare], synthesize=a.join)
partial = Pipeline("trouble-partial", [Stage(a.frugal, name="first"), Stage(a.turn, name="second")])
