"""The circuit breaker: do not call what has just failed, until a few probes say that it works again."""

from __future__ import annotations

import secrets
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, ParamSpec, TypeVar, get_args

from orchestrator.errors import CircuitOpen, InvalidPolicy, definition_site
from orchestrator.resilience.options import check_kind, check_of, check_seconds, is_count, is_number
from orchestrator.state import keys
from orchestrator.state.guards import Guard, Guards, Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from redis import Redis

    from orchestrator.state.guards import Outcome

P = ParamSpec("P")
R = TypeVar("R")

WhenOpen = Literal["auto", "wait", "fallback", "fail"]
LONGEST: Final = 86400.0
KNOWN_MS: Final = 86_400_000


@dataclass(frozen=True, kw_only=True)
class Breaker:
    """
    Closed, calls go through. Open, none does. Half-open, a few do as probes, which close it or open it again.

    Attributes:
        failures: so many in the window open it.
        rate: the share of failures, above 0 and up to 1, that opens it once `minimum` calls are in the window;
            where it is given, `failures` does not count.
        minimum: of calls, for `rate`.
        window: seconds that count, in 10 buckets: up to a tenth less of the past is looked at.
        cooldown: seconds that it is open before the first probe.
        slow: seconds; a success that took longer counts as a failure.
        probes: calls at a time when half-open, in the whole fleet.
        closes: successful probes that close it.
        of: what it is of, such as `openai/gpt-4.1`: all agents that name it share it. The agent's own name unless
            given.
        when_open: what a step does: `wait` for its turn, `fallback`, `fail`; `auto`: fall back where the agent has
            a fallback, else wait.

    Raises:
        InvalidPolicy: a value does not fit.
    """

    failures: int = 5
    rate: float | None = None
    minimum: int = 10
    window: float = 60.0
    cooldown: float = 30.0
    slow: float | None = None
    probes: int = 1
    closes: int = 1
    of: str | None = None
    when_open: WhenOpen = "auto"

    def __post_init__(self) -> None:
        for name in ("failures", "minimum", "probes", "closes"):
            count = getattr(self, name)
            if not is_count(count):
                raise self._invalid(f"{name} must be a whole number, 1 or more, not {count!r:.40}")
        for name, least in (("window", 0.1), ("cooldown", 0.01)):
            seconds = getattr(self, name)
            if not (is_number(seconds) and least <= seconds <= LONGEST):
                raise self._invalid(f"{name} must be {least} s to a day, not {seconds!r:.40}")
        if self.rate is not None and not (is_number(self.rate) and 0 < self.rate <= 1):
            raise self._invalid(f"rate must be above 0 and at most 1, not {self.rate!r:.40}")
        if self.slow is not None:
            check_seconds("Breaker", "slow", self.slow)
        if self.when_open not in get_args(WhenOpen):
            raise self._invalid(f"when_open must be one of {', '.join(get_args(WhenOpen))}, not {self.when_open!r:.40}")
        check_of("Breaker", self.of)

    def guard(self, agent: str, *, fallback: bool = False) -> Guard:
        """
        Return what the store of guards checks for an agent.

        Args:
            fallback: whether the agent has one, for `auto`.
        """
        name = self.of or agent
        numbers: dict[str, float] = {
            "window": round(self.window * 1000),
            "cooldown": round(self.cooldown * 1000),
            "probes": self.probes,
            "closes": self.closes,
        }
        if self.rate is None:
            numbers["failures"] = self.failures
        else:
            numbers |= {"rate": self.rate, "minimum": self.minimum}
        if self.slow is not None:
            numbers["slow"] = round(self.slow * 1000)
        waits = self.when_open == "wait" or (self.when_open == "auto" and not fallback)
        return Guard("breaker", name, keys.breaker(name), waits=waits, numbers=numbers)

    def _invalid(self, why: str) -> InvalidPolicy:
        return InvalidPolicy("Breaker", definition_site(), why)


class CircuitBreaker:
    """
    A breaker for calls outside of agents; it has one state with the agents that name it, and in all processes.

    Args:
        client: of Redis, replies as bytes.
        name: unless the policy says what it is of.
        policy: when it opens and closes.
        hold: seconds after which a probe that did not come back is given up. Any other call counts when it ends, up to
            a day later.
        clock_ms: for tests.

    Raises:
        InvalidPolicy: an option does not fit; the message names the file.
    """

    def __init__(
        self,
        client: Redis,
        name: str,
        policy: Breaker,
        *,
        hold: float = 60.0,
        clock_ms: Callable[[], int] | None = None,
    ) -> None:
        check_kind("CircuitBreaker", "policy", policy, Breaker)
        check_of("CircuitBreaker", name)
        check_seconds("CircuitBreaker", "hold", hold)
        self._store = Guards(client, clock_ms=clock_ms)
        self._guards = (policy.guard(name),)
        self._name = self._guards[0].name
        self._hold_ms = round(hold * 1000)

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """
        Let the block through, and count how it went: an `Exception` is a failure, other endings say nothing.

        Raises:
            CircuitOpen: the block was not entered.
        """
        caller, member = f"calls:{self._name}", secrets.token_hex(12)
        found = self._store.admit(
            caller,
            member,
            self._guards,
            tenant="",
            priority="normal",
            hold_ms=self._hold_ms,
            known_ms=KNOWN_MS,
            wait=False,
        )
        if isinstance(found, Refused):
            raise CircuitOpen(self._name, found.retry_ms / 1000)
        outcome: Outcome = "neutral"
        started = time.monotonic()
        try:
            yield
            outcome = "ok"
        except Exception:
            outcome = "failed"
            raise
        finally:
            took_ms = round((time.monotonic() - started) * 1000)
            self._store.settle(caller, member, self._guards, outcome=outcome, took_ms=took_ms)

    def call(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """
        Call a function through the breaker.

        Raises:
            CircuitOpen: it was not called.
        """
        with self.attempt():
            return function(*args, **kwargs)
