"""Agents that are put off: by themselves, by their retry policy, by a limit. CELERIAC_AGENTS loads this too."""

from __future__ import annotations

import time
from typing import Final

from orchestrator import Context, Pipeline, RateLimit, Retry, RetryLater, agent
from tests.integration.acme.documents import Doc
from tests.integration.acme.floor import floor

ATTEMPTS: Final = 4
AGAIN_AFTER: Final = 0.5
REQUESTS: Final = 10
PER: Final = 1.0
QUEUES: Final = ("chaos.later", "chaos.flaky", "chaos.limited")


@agent("chaos.later", deadline=60.0)
async def later(ctx: Context, doc: Doc) -> Doc:
    """Ask to be tried again after half a second, until it is the fourth time."""
    if ctx.attempt < ATTEMPTS:
        raise RetryLater(AGAIN_AFTER)
    return doc


@agent("chaos.flaky", deadline=60.0, retry=Retry(max_attempts=ATTEMPTS, base=0.3, total=60.0, budget=None))
async def flaky(ctx: Context, doc: Doc) -> Doc:
    """Fail until it is the fourth time."""
    if ctx.attempt < ATTEMPTS:
        raise ConnectionError("nobody is there")
    return doc


@agent("chaos.limited", deadline=60.0, rate=RateLimit(requests=REQUESTS, per=PER))
async def limited(doc: Doc) -> Doc:
    """Note when it is called, for all runs in one file."""
    with (floor() / "limited").open("a") as file:
        file.write(f"{time.monotonic()}\n")
    return doc


flows = [Pipeline(one.name, [one]) for one in (later, flaky, limited)]
