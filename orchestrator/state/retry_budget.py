"""The retry budget: how many retries an agent's first attempts have earned, in the whole fleet."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

from orchestrator.state import keys
from orchestrator.state.scripts import source

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis import Redis


class RetryBudget:
    """
    Keeps an outage from being multiplied: a balance for each agent, from which every retry is taken.

    First attempts and time put in, retries take out. Within any time, an agent's retries are at most what had been
    saved up (ten seconds of `floor` and 100 times `ratio`), `ratio` for each first attempt, and `floor` a second. Those
    above that are not refused: they are spread over the time to come.

    Args:
        client: replies as bytes.
        clock_ms: in the place of the server's clock, for tests.
    """

    def __init__(self, client: Redis, clock_ms: Callable[[], int] | None = None) -> None:
        self._withdraw = client.register_script(source("retry_budget"))
        self._clock_ms = clock_ms

    def withdraw(
        self, agent: str, *, first_attempts: int, ratio: float, floor: float, longest: float = math.inf
    ) -> float:
        """
        Take a retry out of the budget; one round trip.

        Args:
            agent: its name.
            first_attempts: that this process has begun of the agent since its last call.
            ratio: retries that each of them earns.
            floor: retries a second that are allowed whatever happens; above 0.
            longest: seconds the caller would wait; a longer wait is told and nothing is taken.

        Returns:
            Seconds until the retry may be made, 0 for now. It is reserved then, and need not be asked for again.
        """
        longest_ms = math.floor(longest * 1000) if math.isfinite(longest) else -1
        now_ms = "" if self._clock_ms is None else self._clock_ms()
        wait_ms = self._withdraw([keys.retry_budget(agent)], [first_attempts, ratio, floor, longest_ms, now_ms])
        return cast("int", wait_ms) / 1000
