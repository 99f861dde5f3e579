"""The outage: what the service does for how long, while runs keep coming."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Final

from benchmarks.outage.agents import AT_ONCE, COOLDOWN, FAILURES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.outage.service import Phase, Service

RUNS: Final = 500
SLOTS: Final = 32
"""Of an asyncio pool."""
TICK: Final = 0.1
RETRY_AFTER: Final = 1
OUTAGE: Final[tuple[tuple[Phase, float], ...]] = (
    ("limited", 1.5),
    ("broken", 2.0),
    ("hanging", 1.5),
    ("dripping", 1.5),
    ("resetting", 2.0),
)
"""What the service does, for how many seconds."""
PHASES: Final[tuple[tuple[Phase, float], ...]] = (("ok", 1.0), *OUTAGE)
DOWN: Final[tuple[Phase, ...]] = tuple(phase for phase, _ in OUTAGE if phase != "limited")
DOWN_FOR: Final = sum(seconds for phase, seconds in OUTAGE if phase in DOWN)


def most_calls() -> dict[str, int]:
    """
    Return how many calls the guards let through at most.

    limited: as many as run at a time, and as many again whenever Retry-After has passed
    down:    those that run at a time and find it down, the failures that open the breaker, a probe per cooldown
    """
    waves = 1 + math.ceil(OUTAGE[0][1] / RETRY_AFTER)
    return {"limited": AT_ONCE * waves, "down": AT_ONCE + FAILURES + math.ceil(DOWN_FOR / COOLDOWN) + 1}


def go_through(services: Sequence[Service], submit: Callable[[range], None], *, runs: int = RUNS) -> float:
    """
    Let services go through all phases at once, and submit an equal share of the runs at the beginning of each.

    Returns:
        When they were up again, in seconds since the epoch.
    """
    for number, (phase, seconds) in enumerate(PHASES):
        over = max(service.turn(phase) for service in services) + seconds
        submit(range(runs * number // len(PHASES), runs * (number + 1) // len(PHASES)))
        time.sleep(max(0.0, over - time.time()))
    return max(service.turn("ok") for service in services)


def recovered_after(service: Service, up_at: float) -> float:
    """
    Return how long a service that was up again was not called with success, in seconds.

    It counts from the end of the last call that had found it down, where that came later.
    """
    found_up_at = min(at for at in service.answered if at > up_at)
    return found_up_at - max([up_at, *(at for at in service.failed if at < found_up_at)])
