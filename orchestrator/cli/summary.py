"""What many runs came to: outcomes, throughput, durations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.messages import RunState


@dataclass(frozen=True, kw_only=True)
class Summary:
    """
    What a batch of runs came to.

    Attributes:
        outcomes: number of runs by status.
        seconds: from the first step's start to the last run's end.
        per_second: runs that ended in that time.
        p50, p95: seconds a run took from submit to end, waiting in queues included.
    """

    outcomes: dict[str, int]
    seconds: float
    per_second: float
    p50: float
    p95: float


def summarise(states: Sequence[RunState]) -> Summary:
    """Return what these runs came to; those that have not ended count among the outcomes alone."""
    ended = [state for state in states if state.ended_ms is not None]
    starts = [step.started_ms for state in states for step in state.steps if step.started_ms is not None]
    seconds = 0.0
    if ended and starts:
        seconds = max(0.0, (max(state.ended_ms or 0 for state in ended) - min(starts)) / 1000)
    took = sorted(((state.ended_ms or 0) - state.created_ms) / 1000 for state in ended)
    return Summary(
        outcomes=dict(sorted(Counter(state.status for state in states).items())),
        seconds=seconds,
        per_second=len(ended) / seconds if seconds else 0.0,
        p50=percentile(took, 0.50),
        p95=percentile(took, 0.95),
    )


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the value that `share` of the ordered values do not exceed (nearest rank); 0 if there is none."""
    if not ordered:
        return 0.0
    rank = -int(-share * len(ordered) // 1)  # rounded up
    return ordered[max(rank, 1) - 1]
