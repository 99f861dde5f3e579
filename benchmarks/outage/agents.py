"""Two agents that ask the same of the service: one with the guards, one that just tries again."""

from __future__ import annotations

import asyncio
import os
from functools import cache
from typing import Final

import httpx2 as httpx

from orchestrator import Breaker, Concurrency, Context, RateLimit, Retry, agent

from .documents import Answer, Question

AT_ONCE: Final = 8
FAILURES: Final = 5
COOLDOWN: Final = 0.5
REQUESTS: Final = 150
ATTEMPTS: Final = 20
LONGEST_PAUSE: Final = 1
"""Seconds between attempts, at most."""
TIMEOUT: Final = 1.0
"""Seconds for a call."""
IDLE: Final = 0.5
"""Seconds without a byte."""
PAUSE: Final = 0.1
"""Seconds before the agent without guards tries again."""


@cache
def client() -> httpx.AsyncClient:
    """Return this process's client; its agents share an event loop. Who waits how long is not its business."""
    return httpx.AsyncClient(timeout=None, verify=False)


@agent(
    "provider.guarded",
    timeout=TIMEOUT,
    idle=IDLE,
    retry=Retry(max_attempts=ATTEMPTS, base=0.1, cap=LONGEST_PAUSE),
    breaker=Breaker(of="provider", failures=FAILURES, window=10.0, cooldown=COOLDOWN, slow=TIMEOUT),
    rate=RateLimit(of="provider", requests=REQUESTS, per=1.0),
    concurrency=Concurrency(of="provider", total=AT_ONCE),
)
async def guarded(ctx: Context, question: Question) -> Answer:
    """Ask once; the policies do the rest."""
    said = b""
    async with client().stream("GET", os.environ["PROVIDER_GUARDED"]) as response:
        response.raise_for_status()
        async for chunk in response.aiter_bytes():
            ctx.heartbeat()
            said += chunk
    return Answer(text=question.text, said=said.decode())


@agent("provider.bare", timeout=120.0)
async def bare(question: Question) -> Answer:
    """What is often written instead."""
    calls = 0
    while True:
        calls += 1
        try:
            async with asyncio.timeout(TIMEOUT):
                response = await client().get(os.environ["PROVIDER_BARE"])
            response.raise_for_status()
            return Answer(text=question.text, said=response.text, calls=calls)
        except (httpx.HTTPError, TimeoutError):
            await asyncio.sleep(PAUSE)
