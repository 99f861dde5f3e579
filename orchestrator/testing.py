"""Fakes for the tests of agents: no Redis, no broker."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.agent import Context

if TYPE_CHECKING:
    from collections.abc import Mapping

FAKE_RUN_ID = "0" * 24


def fake_context(
    *,
    step: str = "step",
    attempt: int = 1,
    revision: int = 0,
    feedback: tuple[str, ...] = (),
    draft: object | None = None,
    tenant: str = "default",
    tags: Mapping[str, str] | None = None,
) -> Context:
    """Return a context as a worker would make it, for a call such as `await classify(fake_context(), ticket)`."""
    return Context(
        run_id=FAKE_RUN_ID,
        flow="test",
        step=step,
        attempt=attempt,
        revision=revision,
        feedback=feedback,
        draft=draft,
        tenant=tenant,
        tags=tags or {},
    )
