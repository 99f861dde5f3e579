"""One flow for each agent, named after it."""

from __future__ import annotations

from typing import Final

from orchestrator import Pipeline

from .agents import (
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
QUEUES: Final = tuple(one.name for one in AGENTS)

flows = [Pipeline(one.name.removeprefix("waiting."), [one]) for one in AGENTS]
