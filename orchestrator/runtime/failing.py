"""What follows an attempt that gave no output: another attempt, a fallback, or the end of the run."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Literal

from orchestrator.agent import from_json
from orchestrator.errors import AgentFailed, PayloadTooLarge, RetryLater
from orchestrator.patterns.delegation import Plan
from orchestrator.resilience.fallback import FIXED, LAST_GOOD, Cached, Constant
from orchestrator.resilience.retry import retry_after
from orchestrator.runtime.attempt import AttemptFailed, Judged
from orchestrator.runtime.bridge import outside_loop_for_long
from orchestrator.runtime.delegating import acceptance, delegation
from orchestrator.runtime.outcomes import StepAgain
from orchestrator.state.text import shorten

if TYPE_CHECKING:
    from orchestrator.resilience.fallback import Rung
    from orchestrator.runtime.attempt import Attempt

logger = logging.getLogger(__name__)

Which = Literal["agents", "values"]


def follow(attempt: Attempt, failed: AttemptFailed) -> str:
    """
    Decide what follows.

    Returns:
        A few words for Flower, where a fallback's value took the output's place.

    Raises:
        StepAgain: another attempt follows, of this agent or of one that stands in for it.
        AgentFailed: the step failed for good, and its run with it.
        StepClosed, StepSuperseded: the attempt may not write any more.
    """
    reason = failed.reason
    if not failed.final:
        reason = _try_again(attempt, reason, failed.__cause__)
    # An agent that stands in would find the time over, and the rungs behind it be lost.
    which: tuple[Which, ...] = ("values",) if time.monotonic() >= attempt.until else ("agents", "values")
    done = None if failed.judged else fall_back(attempt, reason, which)
    if done is not None:
        return done
    fail(attempt, reason, failed.__cause__)
    return ""


def _try_again(attempt: Attempt, reason: str, error: BaseException | None) -> str:
    """Postpone the step where it is to be tried again; else return the reason, with why it is not."""
    agent, begun, process = attempt.agent, attempt.begun, attempt.process
    retry, number = agent.retry, begun.step.attempt
    asked = error if isinstance(error, RetryLater) else None
    if error is None or (asked is None and (retry is None or not retry.retries(error))):
        return reason
    most = retry.max_attempts if retry is not None else process.settings.max_attempts
    if number >= most:
        return f"{reason} (after {_attempts(number)})" if number > 1 else reason
    delay = retry.delay(number) if retry is not None else 0.0
    server = retry_after(error)
    if asked is not None:
        delay = max(0.0, asked.args[0])
    elif server is not None:
        delay += server  # with the jitter, or all would come back at once
    if retry is not None and retry.budget is not None:
        wait = process.retries.withdraw(
            agent.name,
            first_attempts=process.first_attempts(agent.name),
            ratio=retry.budget,
            floor=retry.floor,
            longest=begun.remaining,
        )
        delay = max(delay, wait)
    total = None if retry is None else retry.total
    outcome = process.store.postpone(
        begun, delay, f"attempt {number} of {most}: {reason}", total=total, spent=attempt.spent
    )
    if outcome == "late":
        return f"{reason} (after {_attempts(number)}, and no time for another)"
    if outcome != "delayed":
        attempt.refuse(outcome)
    attempt.task.request.chain = None
    raise StepAgain(f"again in {delay:.1f} s, attempt {number} of {most}: {reason}")


def _attempts(number: int) -> str:
    return "1 attempt" if number == 1 else f"{number} attempts"


def fall_back(attempt: Attempt, reason: str, which: tuple[Which, ...] = ("agents", "values")) -> str | None:
    """
    Take the next rung of the agent's fallbacks that can be taken.

    Args:
        attempt: that gave no output.
        reason: why.
        which: rungs that may be taken.

    Returns:
        A few words for Flower where a value took the output's place; None: there is no rung left.

    Raises:
        StepAgain: another agent has the step.
    """
    begun, primary = attempt.begun, attempt.primary
    for number, rung in enumerate(primary.fallback[begun.step.rung :], begun.step.rung + 1):
        if isinstance(rung, str):
            if "agents" not in which:
                continue
            change = attempt.process.store.degrade(begun, rung, reason, rung=number, spent=attempt.spent)
            if change.what != "again":
                attempt.refuse(change.what)
            attempt.carry_on(change)
            raise StepAgain(f"falls back to {rung}: {reason}")
        found = _value(attempt, rung) if "values" in which else None
        if found is not None:
            value, what = found
            try:
                return attempt.commit(_stand_in(attempt, value, shorten(f"{what}: {reason}")))
            except (AttemptFailed, PayloadTooLarge) as error:
                why = error.reason if isinstance(error, AttemptFailed) else str(error)
                logger.warning("run %s step %s: %s does not do: %s", begun.run_id, begun.step.name, what, why)
    return None


def _stand_in(attempt: Attempt, value: bytes, reason: str) -> Judged:
    """Return a value that takes an output's place, with what follows from it."""
    step = attempt.begun.step
    accept = acceptance(attempt)
    details: dict[str, object] = {"reason": reason}
    if accept is not None or step.delegates or step.joins:
        output = from_json(attempt.primary.output, value)
        if isinstance(output, Plan):
            return delegation(attempt, output)
        if accept is not None and outside_loop_for_long(accept, output):
            details["accepted"] = True
    return Judged(value, "complete", details)


def _value(attempt: Attempt, rung: Rung) -> tuple[bytes, str] | None:
    if isinstance(rung, Constant):
        return attempt.primary.constant(rung), FIXED
    if isinstance(rung, Cached):
        found = attempt.process.guards.last_good(attempt.primary.name, rung.digest(attempt.own_value or b""))
        if found is not None and found[1] <= rung.max_age:
            return found[0], f"{LAST_GOOD}, {found[1]:.0f} s old"
    return None


def fail(attempt: Attempt, reason: str, cause: BaseException | None = None) -> None:
    """
    End the run.

    Raises:
        AgentFailed: always, unless the attempt may not write any more.
    """
    late = time.monotonic() >= attempt.until
    change = attempt.process.store.fail(attempt.begun, reason, late=late, spent=attempt.spent)
    if change.what not in {"undoing", "failed"}:
        attempt.refuse(change.what)
    attempt.carry_on(change)
    # With its cause, so that Flower's traceback leads to the agent's line.
    raise AgentFailed(attempt.begun.step.name, reason) from cause
