"""What stands between a step and its agent: breakers, limits and budgets, asked before and settled after."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any, Final, Self

from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from orchestrator.errors import InvalidPolicy, RetryLater, text_of
from orchestrator.messages import TURN
from orchestrator.resilience.budget import LADDER
from orchestrator.resilience.fallback import Cached
from orchestrator.resilience.retry import is_transient, retry_after, status_of
from orchestrator.runtime.attempt import AttemptFailed, Judged
from orchestrator.runtime.failing import fail, fall_back
from orchestrator.runtime.foresight import expected
from orchestrator.runtime.outcomes import StepAgain
from orchestrator.runtime.waking import wake
from orchestrator.state import keys
from orchestrator.state.guards import Refused
from orchestrator.state.runs import is_given

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from orchestrator.agent import Agent
    from orchestrator.runtime.attempt import Attempt
    from orchestrator.runtime.foresight import Foresight
    from orchestrator.runtime.process import WorkerProcess
    from orchestrator.state.guards import Admitted, Guard, Need, Outcome, Settlement

logger = logging.getLogger(__name__)

BACKSTOP: Final = 600.0
"""Seconds after which a step whose turn was never called asks again: for what neither log nor guards can know."""
PARTS: Final = 3
"""An attempt's handler, its gate, and what it gives out to others each have its timeout."""
HOLD_GRACE: Final = 10.0
"""Seconds beyond each of them, after which what it holds is kept no longer."""
TOO_MANY: Final = 429

REASONS: Final = {
    "breaker": "the circuit breaker {name!r} is open",
    "rate": "the rate limit {name!r} is reached",
    "concurrency": "the limit of attempts at a time {name!r} is reached",
    "gate": "{name!r} has asked for a pause",
    "turn": "others come first at {name!r}",
    "budget": "the budget of {name} has too little left",
}


class Guarding:
    """
    The guards of one attempt; as a context manager, settled at its end.

    Args:
        attempt: the execution.
        value: its input.
        paused: seconds that are left of a pause which a service of the agent has asked for.
        foresight: what the guards were asked along with its begin.

    Raises:
        AttemptFailed: the agent's estimate raised.
    """

    def __init__(
        self, attempt: Attempt, value: object, *, paused: float = 0.0, foresight: Foresight | None = None
    ) -> None:
        self._attempt = attempt
        agent, begun = attempt.agent, attempt.begun
        self._fallback_left = len(attempt.primary.fallback) > begun.step.rung
        self._guards: tuple[Guard, ...] = agent.guards(fallback=self._fallback_left)
        self._expected = self._estimate(value)
        # What was done is undone whatever it costs.
        undoes = begun.step.undoes is not None
        self._budgets = [] if undoes else [f"run:{budget.run}" for budget in begun.budgets]
        if agent.is_guarded and not undoes:
            self._budgets.append(f"tenant:{begun.tenant}")
        self._asked = bool(self._guards or self._budgets)
        self._member = keys.member(begun.run_id, begun.step.name)
        self._hold = (agent.name, self._member, begun.fence)
        self._outcome: Outcome = "neutral"
        self._closed = 0.0
        self._good: tuple[str, bytes, int] | None = None
        self._started = time.monotonic()
        self._settlement: Settlement | None = None
        self._paused = paused
        self._foresight = foresight

    def _estimate(self, value: object) -> Need:
        try:
            return expected(self._attempt.agent, value)
        except Exception as error:
            if isinstance(error, InvalidPolicy):
                # The line that the error names is not the user's: the amount was given back, not written there.
                raise AttemptFailed(f"its estimate does not fit: {error.args[2]}", final=True) from error
            raise AttemptFailed(f"its estimate raised {text_of(error)}", final=True) from error

    def admit(self) -> str | None:
        """
        Ask all guards, in one round trip; in none where they were asked along with the begin.

        Returns:
            None: go on. A few words for Flower: a fallback's value took the output's place.

        Raises:
            StepAgain: the step waits for its turn, or another agent has it.
            AgentFailed: it can never be let through.
        """
        if self._paused > 0:
            reason = REASONS["gate"].format(name=self._attempt.agent.name)
            # With the jitter, or all would come back at once.
            self._wait(reason, self._paused + _jitter(self._attempt))
        if not self._asked:
            return None
        answer = self._foresight.answer(self._attempt.begun, self._guards) if self._foresight else None
        answer = answer or self._ask()
        if not isinstance(answer, Refused):
            self._started = time.monotonic()
            return None
        return self._held_back(answer)

    def _ask(self) -> Admitted | Refused:
        attempt, begun = self._attempt, self._attempt.begun
        guards = attempt.process.guards
        for budget in begun.budgets if self._budgets else ():
            # The run's state is the truth: whoever comes first sets what is in it, and the others change nothing.
            guards.set_budget(f"run:{budget.run}", budget.tokens, budget.cost, ttl_ms=begun.ttl_ms)
        return guards.admit(
            attempt.agent.name,
            self._member,
            self._guards,
            tenant=begun.tenant,
            priority=begun.priority,
            need=self._expected,
            hold_ms=round(attempt.process.settings.lease * 1000),
            wait=True,
            budgets=self._budgets,
            fence=begun.fence,
        )

    def _held_back(self, refused: Refused) -> str | None:
        attempt = self._attempt
        reason = REASONS[refused.kind].format(name=refused.name)
        if refused.queued:
            self._wait(reason, BACKSTOP)
        if refused.kind == "budget":
            return self._without_budget(refused.name, self._lacking(refused.name, reason))
        if refused.kind == "rate":
            reason = f"it needs more than {refused.name!r} lets through at all: {self._expected.tokens} tokens"
            done = fall_back(attempt, reason)
            if done is not None:
                return done
            fail(attempt, reason)
        # A breaker that does not let it wait; a pause or a turn meanwhile is one to wait for.
        fails = any(
            breaker.when_open == "fail" and (breaker.of or attempt.agent.name) == refused.name
            for breaker in attempt.agent.breakers
        )
        if refused.kind in {"breaker", "gate"} and not fails:
            done = fall_back(attempt, reason)
            if done is not None:
                return done
        if refused.kind == "breaker":
            fail(attempt, reason)
        self._wait(reason, max(refused.retry_ms / 1000, attempt.process.settings.tick))
        return None

    def _lacking(self, name: str, reason: str) -> str:
        """Return a reason with what is left of a budget and what is needed: it need not be used up to the last."""
        found, need = self._attempt.process.guards.budget(name), self._expected
        if found is None:
            return reason
        tokens = max(0, (found.tokens or 0) - found.used_tokens)
        cost = max(0.0, (found.cost or 0.0) - found.used_cost)
        told = []
        if found.tokens is not None and need.tokens > tokens:
            told.append(f"{tokens} of {found.tokens} tokens, and it needs {need.tokens}")
        if found.cost is not None and need.cost > cost:
            told.append(f"cost {_money(cost)} of {_money(found.cost)}, and it needs {_money(need.cost)}")
        return f"{reason}: {'; '.join(told)}" if told else reason

    def _without_budget(self, name: str, reason: str) -> str:
        attempt = self._attempt
        ladder = next((budget.ladder for budget in attempt.begun.budgets if f"run:{budget.run}" == name), LADDER)
        for rung in ladder:
            if rung == "cheaper":
                fall_back(attempt, reason, ("agents",))
            elif rung == "cached":
                done = fall_back(attempt, reason, ("values",))
                if done is not None:
                    return done
            elif rung == "partial" and not is_given(attempt.begun.step.took or attempt.begun.step.input or ""):
                own = attempt.own_value
                if own is not None:
                    return attempt.commit(Judged(own, "partial", {"reason": reason}))
        fail(attempt, reason)
        return ""

    def _wait(self, reason: str, delay: float) -> None:
        """
        Give the step back until its turn comes.

        Raises:
            StepAgain: always, unless the attempt may not write any more.
        """
        attempt = self._attempt
        outcome = attempt.process.store.postpone(attempt.begun, delay, f"{TURN}: {reason}", counts=False)
        if outcome != "delayed":
            attempt.refuse(outcome)
        if attempt.process.guards.is_granted(attempt.agent.name, self._member):
            # Its turn came before it was given back: whoever called it found it at work.
            wake(attempt.task.app, attempt.process, attempt.agent.name, [self._member])
        attempt.task.request.chain = None
        raise StepAgain(f"{TURN}: {reason}")

    def succeeded(self, judged: Judged) -> None:
        """
        Note that the agent gave an output; a good one is kept where a fallback may want it.

        The guards are told so in one round trip with what the step does next: that records the output.
        """
        self._outcome = "ok"
        agent = self._attempt.agent
        limit = self._attempt.process.settings.claim_check_bytes
        cached = next((rung for rung in agent.fallback if isinstance(rung, Cached)), None)
        if cached is not None and judged.verdict == "complete" and len(judged.value) <= limit:
            self._good = (cached.digest(self._attempt.begun.value), judged.value, round(cached.max_age * 1000))
        if self._tells:
            self._settlement = self._settle()
            self._settlement.go_along()

    def failed(self, failed: AttemptFailed) -> None:
        """Note why it gave none: only what what it calls is to blame for counts against that."""
        error = failed.__cause__
        if error is None or failed.final or isinstance(error, RetryLater):
            return
        status = status_of(error)
        self._closed = retry_after(error) or 0.0
        if status != TOO_MANY and is_transient(error):
            self._outcome = "failed"

    def __enter__(self) -> Self:
        if self._asked:
            longest = PARTS * (self._attempt.agent.timeout + HOLD_GRACE)
            self._attempt.process.leases.keep(self._hold, longest=longest)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        attempt = self._attempt
        attempt.process.leases.release(self._hold)
        try:
            if self._closed > 0 and _heeds_pauses(attempt.agent):
                attempt.process.guards.pause(attempt.agent.name, round(self._closed * 1000))
            if not self._tells:
                return
            granted = (self._settlement or self._settle()).tell()
            wake(attempt.task.app, attempt.process, attempt.agent.name, granted)
        except (RedisError, OperationalError) as failure:
            # The step itself is recorded; what it holds is taken back when its time is over.
            logger.warning("run %s: guards not settled: %s", attempt.begun.run_id, failure)

    @property
    def _tells(self) -> bool:
        return self._asked or self._good is not None

    def _settle(self) -> Settlement:
        attempt = self._attempt
        used = attempt.account.total
        return attempt.process.guards.settlement(
            attempt.agent.name,
            self._member,
            self._guards,
            outcome=self._outcome,
            took_ms=round((time.monotonic() - self._started) * 1000),
            used=used if used or attempt.agent.estimate is None else None,
            closed_ms=round(self._closed * 1000),
            good=self._good,
            fence=attempt.begun.fence,
        )


def ask_for_pause(process: WorkerProcess, agent: Agent[Any, Any]) -> Callable[[], float]:
    """Ask along with the next call whether the agent is to pause; returns what gives the seconds left."""
    if not _heeds_pauses(agent):
        return float
    pause = process.guards.pause_of(agent.name)
    pause.go_along()
    return pause.left


def _heeds_pauses(agent: Agent[Any, Any]) -> bool:
    """Tell whether a Retry-After that one attempt gets holds the others of its agent, though no guard has a gate."""
    return agent.retry is not None and not (agent.rates or agent.breakers)


def _jitter(attempt: Attempt) -> float:
    retry = attempt.agent.retry
    return 0.0 if retry is None else retry.delay(attempt.begun.step.attempt)


def _money(cost: float) -> str:
    return f"{cost:.6f}".rstrip("0").rstrip(".")
