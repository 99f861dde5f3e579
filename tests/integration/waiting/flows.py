"""One flow for each agent, named after it."""

from __future__ import annotations

from typing import Final

from orchestrator import Hierarchy, Join, Pipeline

from .agents import (
    blocker,
    boss,
    busy,
    child_raiser,
    children,
    contexts,
    contexts_sync,
    forgetter,
    group_raiser,
    hog,
    hold,
    hold_sync,
    late,
    late_sync,
    many,
    parent,
    plain,
    quick,
    quick_sync,
    raiser,
    stubborn,
    threaded,
    ticker,
    together,
    whole,
)
from .floor import on_loop

AGENTS: Final = (
    blocker,
    busy,
    child_raiser,
    children,
    contexts,
    contexts_sync,
    forgetter,
    group_raiser,
    hog,
    hold,
    hold_sync,
    late,
    late_sync,
    many,
    parent,
    plain,
    quick,
    quick_sync,
    raiser,
    stubborn,
    threaded,
    ticker,
    together,
)
QUEUES: Final = (*(one.name for one in AGENTS), boss.name, whole.name)

flows = [Pipeline(one.name.removeprefix("waiting."), [one]) for one in AGENTS]
routed = Hierarchy(
    "routed",
    boss=boss,
    workers=[quick, blocker],
    synthesize=whole,
    join=Join(accept=lambda _: not on_loop()),
    router=lambda *_: "nobody" if on_loop() else "quick",
)
