"""Limits for the whole fleet: requests and tokens per time, and calls under way at a time."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from orchestrator.errors import InvalidPolicy, LimitReached, definition_site
from orchestrator.resilience.budget import Spend
from orchestrator.resilience.options import check_kind, check_of, is_count, is_number
from orchestrator.state import keys
from orchestrator.state.guards import Guard, Guards, Refused

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis import Redis

SHORTEST: Final = 0.1
LONGEST: Final = 31 * 86400.0


def _check_count(what: str, name: str, count: object) -> None:
    if count is not None and not is_count(count):
        raise InvalidPolicy(what, definition_site(), f"{name} must be a whole number, 1 or more, not {count!r:.40}")


@dataclass(frozen=True, kw_only=True)
class RateLimit:
    """
    At most so many requests, tokens or both in any window of `per` seconds.

    The window slides in 200 steps. Tokens are an estimate when a call begins and what it used when it is done.

    Attributes:
        requests, tokens: None: no limit.
        per: seconds, 0.1 to 31 days.
        of: what the limit is of, such as `openai/gpt-4.1`: all agents that name it, with the same `per`, share what
            is taken. The agent's own name unless given.

    Raises:
        InvalidPolicy: a value does not fit.
    """

    requests: int | None = None
    tokens: int | None = None
    per: float = 60.0
    of: str | None = None

    def __post_init__(self) -> None:
        _check_count("RateLimit", "requests", self.requests)
        _check_count("RateLimit", "tokens", self.tokens)
        if self.requests is None and self.tokens is None:
            raise InvalidPolicy("RateLimit", definition_site(), "give requests, tokens or both")
        if not (is_number(self.per) and SHORTEST <= self.per <= LONGEST):
            raise InvalidPolicy("RateLimit", definition_site(), f"per must be 0.1 s to 31 days, not {self.per!r:.40}")
        check_of("RateLimit", self.of)

    def guard(self, agent: str) -> Guard:
        """Return what the store of guards checks for an agent."""
        name, per_ms = self.of or agent, round(self.per * 1000)
        given = {"requests": self.requests, "tokens": self.tokens}
        limits = {what: limit for what, limit in given.items() if limit is not None}
        return Guard("rate", name, keys.rate(name, per_ms), numbers={"per": per_ms, **limits})


@dataclass(frozen=True, kw_only=True)
class Concurrency:
    """
    At most so many calls under way at a time: in all, of a tenant, or both. A call that waits holds no worker.

    Attributes:
        total, per_tenant: None: no limit.
        of: what the limit is of: all agents that name it share it. The agent's own name unless given.

    Raises:
        InvalidPolicy: a value does not fit.
    """

    total: int | None = None
    per_tenant: int | None = None
    of: str | None = None

    def __post_init__(self) -> None:
        _check_count("Concurrency", "total", self.total)
        _check_count("Concurrency", "per_tenant", self.per_tenant)
        if self.total is None and self.per_tenant is None:
            raise InvalidPolicy("Concurrency", definition_site(), "give total, per_tenant or both")
        check_of("Concurrency", self.of)

    def guard(self, agent: str) -> Guard:
        """Return what the store of guards checks for an agent."""
        name = self.of or agent
        given = {"total": self.total, "per_tenant": self.per_tenant}
        limits = {what: limit for what, limit in given.items() if limit is not None}
        return Guard("concurrency", name, keys.slots(name), numbers=limits)


class RateLimiter:
    """
    A rate limit for calls outside of agents; it has one state with the agents that name it, and in all processes.

    Args:
        client: of Redis, replies as bytes.
        name: unless the policy says what it is of.
        policy: what it lets through.
        clock_ms: for tests.

    Raises:
        InvalidPolicy: the policy is none; the message names the file.
    """

    def __init__(
        self, client: Redis, name: str, policy: RateLimit, *, clock_ms: Callable[[], int] | None = None
    ) -> None:
        check_kind("RateLimiter", "policy", policy, RateLimit)
        check_of("RateLimiter", name)
        self._store = Guards(client, clock_ms=clock_ms)
        self._guards = (policy.guard(name),)
        self._name = self._guards[0].name

    def acquire(self, tokens: int = 0) -> float:
        """
        Take one request and its tokens, if there is room; it does not wait.

        Returns:
            0.0: taken; else nothing was, and these are the seconds after which there may be room.

        Raises:
            LimitReached: there will never be room for so many tokens.
            InvalidPolicy: they are no whole number, 0 or more.
        """
        found = self._store.admit(
            f"calls:{self._name}",
            secrets.token_hex(12),
            self._guards,
            tenant="",
            need=Spend(tokens=tokens),
            hold_ms=0,
            wait=False,
        )
        if not isinstance(found, Refused):
            return 0.0
        if found.retry_ms < 0:
            raise LimitReached(self._name, tokens)
        return found.retry_ms / 1000
