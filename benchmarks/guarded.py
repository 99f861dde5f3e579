"""What is measured: one agent that does nothing, bare and behind guards that let everything through."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from benchmarks.flows import Document
from orchestrator import Breaker, Concurrency, Context, Pipeline, RateLimit, Stage, agent

if TYPE_CHECKING:
    from orchestrator import Agent

STEPS: Final = 5
PLENTY: Final = 1_000_000
EXPECTED: Final = 100
USED: Final = 90
"""Tokens; fewer than expected, so that the difference is given back, as it is with real calls."""

BREAKER: Final = Breaker()
RATE: Final = RateLimit(requests=PLENTY, tokens=EXPECTED * PLENTY, per=60.0)
CONCURRENCY: Final = Concurrency(total=PLENTY, per_tenant=PLENTY)

POLICIES: Final[dict[str, dict[str, Any]]] = {
    "bare": {},
    "breaker": {"breaker": BREAKER},
    "rate": {"rate": RATE, "estimate": EXPECTED},
    "concurrency": {"concurrency": CONCURRENCY},
    "all": {"breaker": BREAKER, "rate": RATE, "concurrency": CONCURRENCY, "estimate": EXPECTED},
}
"""By the name of the agent, `bench.NAME`, and of its flow, `bench-NAME`."""


def _make(name: str, policies: dict[str, Any]) -> Agent[Any, Any]:
    @agent(f"bench.{name}", **policies)
    async def count(ctx: Context, document: Document) -> Document:
        ctx.spend(tokens=USED)
        return document.model_copy(update={"seen": document.seen + 1})

    return count


FLOWS: Final = {
    name: Pipeline(f"bench-{name}", [Stage(one, name=f"step-{number}") for number in range(STEPS)])
    for name, policies in POLICIES.items()
    for one in [_make(name, policies)]
}
