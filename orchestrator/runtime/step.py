"""The life of a step in a worker: begin, run the agent, judge, commit, carry on."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from billiard.common import terminate_handler_fired
from billiard.exceptions import SoftTimeLimitExceeded
from celery.exceptions import WorkerShutdown, WorkerTerminate
from greenlet import GreenletExit
from pydantic import ValidationError
from pydantic_core import PydanticSerializationError

from orchestrator.agent import Context, Flag, from_json, to_json
from orchestrator.client import describe
from orchestrator.errors import AgentFailed, LeaseLost, PayloadTooLarge
from orchestrator.patterns.canvas import publish
from orchestrator.patterns.flow import flows
from orchestrator.patterns.gate import Decision
from orchestrator.runtime.bridge import Killed, outside_loop_for_long, run_coroutine
from orchestrator.runtime.journal import StepJournal
from orchestrator.runtime.outcomes import StepAgain, StepClosed, StepSuperseded
from orchestrator.state.runs import Begun, Committed, Refused, milliseconds, shorten

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from contextlib import AbstractContextManager

    from celery import Task

    from orchestrator.agent import Agent
    from orchestrator.runtime.process import WorkerProcess
    from orchestrator.state.runs import Verdict

logger = logging.getLogger(__name__)

HARD_LIMIT_GRACE = 10.0
"""Seconds after an agent's timeout when what did not react is given up: killed in a prefork child, else left alone."""

REFUSALS = {
    "gone": "there is no such run or step",
    "done": "the step is done already",
    "held": "another execution holds the step's lease",
    "early": "the step is not ready yet",
    "moved": "the step has fallen back to another agent",
    "stale": "another execution has taken the step over",
}


@dataclass(frozen=True)
class Judged:
    """An output with its gate's verdict, as commit.lua takes it; `reject` is the reason to fail instead."""

    value: bytes
    verdict: Verdict = "complete"
    details: dict[str, object] | None = None
    reject: str | None = None


def execute(task: Task, agent: Agent[Any, Any], process: WorkerProcess, run_id: str, step: str) -> str:
    """
    Execute a delivered step.

    Args:
        task: Celery's, with its request.
        agent: whose queue the message came from.
        process: this worker process.
        run_id: the run.
        step: its step.

    Returns:
        A few words for Flower.

    Raises:
        AgentFailed: the step failed, and its run with it.
        StepSuperseded, StepClosed, StepAgain: see there.
        redis.exceptions.RedisError: Redis stayed away. Nothing failed: the step's lease or dispatch deadline passes
            and it is executed again.
    """
    begun = process.store.begin(run_id, step, agent=agent.name, nonce=process.nonce(), worker=process.name)
    if isinstance(begun, Refused):
        raise _refusal(begun.why)
    cause: BaseException | None = None
    try:
        judged = _work(agent, process, begun)
        if judged.reject is None:
            committed = process.store.commit(begun, judged.value, judged.verdict, judged.details)
            return _carry_on(task, process, begun, judged, committed)
        reason = judged.reject
    except LeaseLost:
        raise StepClosed("the run has ended, or the step's lease was lost") from None
    except AgentFailed as failed:
        reason, cause = failed.args[1], failed.__cause__
    except PayloadTooLarge as error:
        reason = str(error)
    reason = shorten(reason)  # it is in the log, in Flower and in Celery's result too
    outcome = process.store.fail(begun, reason)
    if outcome != "failed":
        raise _refusal(outcome)
    # With its cause, so that Flower's traceback leads to the agent's line.
    raise AgentFailed(step, reason) from cause


def _refusal(why: str) -> StepSuperseded | StepClosed:
    return StepClosed("the run has ended") if why == "closed" else StepSuperseded(REFUSALS[why])


def _work(agent: Agent[Any, Any], process: WorkerProcess, begun: Begun) -> Judged:
    """Run the handler on the step's input under its lease, and its gate on the output."""
    step = begun.step
    try:
        value = from_json(agent.input, begun.value)
        draft = from_json(agent.output, begun.draft) if begun.draft else None
    except ValidationError as error:
        raise AgentFailed(step.name, f"the input does not fit agent {agent.name!r}: {describe(error)}") from None
    cancelled = Flag()
    context = Context(
        run_id=begun.run_id,
        flow=begun.flow,
        step=step.name,
        attempt=step.attempt,
        revision=step.revision,
        degraded=step.degraded,
        feedback=step.feedback,
        draft=draft,
        tenant=begun.tenant,
        tags=begun.tags,
        deadline=time.monotonic() + begun.remaining,
        _cancelled=cancelled,
        _journal=StepJournal(process.store, begun),
    )
    call = (
        functools.partial(agent.function, context, value)
        if agent.takes_context
        else functools.partial(agent.function, value)
    )
    timeout = min(agent.timeout, begun.remaining)
    try:
        if agent.is_async:
            given = _run_async(call, process, begun, cancelled, timeout)
        else:
            with process.leases.held(begun, cancelled.set, longest=timeout + HARD_LIMIT_GRACE):
                given = call()
    except LeaseLost:
        raise
    except (TimeoutError, SoftTimeLimitExceeded) as error:
        logger.exception("run %s step %s: timed out", begun.run_id, step.name)
        limit = f"timed out after {agent.timeout:g} s" if timeout == agent.timeout else "the run's deadline passed"
        own = str(error) and not isinstance(error, SoftTimeLimitExceeded)  # a TimeoutError the handler raised itself
        raise AgentFailed(step.name, f"{type(error).__name__}: {error}" if own else limit) from error
    except (WorkerShutdown, WorkerTerminate, Killed, GreenletExit):
        raise
    except BaseException as error:
        if isinstance(error, SystemExit) and terminate_handler_fired():
            raise  # not the handler's: this child has been told to end
        # Whatever a handler raises fails its step, with the reason; retry and fallback will be decided here.
        # `sys.exit` in a library, or the cancellation of a task of its own, is no reason to end a worker's process.
        logger.exception("run %s step %s: agent %s raised", begun.run_id, step.name, agent.name)
        raise AgentFailed(step.name, f"{type(error).__name__}: {error}") from error
    try:
        output = agent.output.validate_python(given)
        written = to_json(agent.output, output)
    except PydanticSerializationError as error:
        raise AgentFailed(step.name, f"agent {agent.name!r} returned what cannot be written as JSON: {error}") from None
    except ValidationError as error:
        raise AgentFailed(
            step.name, f"agent {agent.name!r} returned what it does not declare: {describe(error)}"
        ) from None
    keep = process.leases.held(begun, cancelled.set, longest=agent.timeout + HARD_LIMIT_GRACE)
    return _judge(begun, output, written, keep)


def _judge(begun: Begun, output: object, value: bytes, keep: AbstractContextManager[None]) -> Judged:
    """Ask the step's gate, which may take its time: `keep` the lease. A fallback's output passes, the last resort."""
    step = begun.step
    if not step.gated or step.degraded:
        return Judged(value)
    flow = flows().get(begun.flow)
    gate = flow.gate_of(step.name) if flow else None
    if gate is None:
        raise AgentFailed(
            step.name,
            f"this worker does not know flow {begun.flow!r} with a gate here; add its module to CELERIAC_AGENTS",
        )
    try:
        with keep:
            decision = outside_loop_for_long(gate.decide, output, sent_back=step.sent_back)
    except Exception as error:
        logger.exception("run %s step %s: the gate raised", begun.run_id, step.name)
        raise AgentFailed(step.name, f"its gate raised {type(error).__name__}: {error}") from error
    fallback = gate.fallback_agent
    match decision:
        case Decision("pass"):
            return Judged(value)
        case Decision("revise", feedback):
            return Judged(value, "revise", {"feedback": feedback})
        case Decision("fallback", reason) if fallback is not None:
            return Judged(value, "fallback", {"agent": fallback.name, "reason": reason})
        case Decision("human", question):
            details = {"question": question, "timeout_ms": milliseconds(gate.timeout), "default": gate.default}
            return Judged(value, "wait", details | ({"fallback": fallback.name} if fallback else {}))
        case _:
            return Judged(value, reject=f"rejected by its gate: {decision.reason}")


def _carry_on(task: Task, process: WorkerProcess, begun: Begun, judged: Judged, committed: Committed) -> str:
    """
    Let what the commit made ready follow.

    Celery carries the chain on where its next link is the step that is ready. Otherwise (the chain's window is used
    up, the message came alone from the caretaker, the gate turned the run) the canvas is compiled anew.
    """
    if committed.what in {"stale", "closed"}:
        raise _refusal(committed.what)
    chain = task.request.chain
    if committed.what == "next" and chain and chain[-1]["kwargs"].get("step") == committed.step:
        return f"completed → {committed.step}"
    task.request.chain = None
    if committed.what in {"next", "again"}:
        publish(task.app, process.store.load(begun.run_id))
    if committed.what == "again":
        details = judged.details or {}
        fallback = details.get("agent")
        why = shorten(str(details.get("reason" if fallback else "feedback", "")))
        raise StepAgain(f"falls back to {fallback}: {why}" if fallback else f"{committed.step} runs again: {why}")
    return {"waiting": "waiting for a person", "finished": "completed, the run is done"}.get(
        committed.what, f"completed → {committed.step}"
    )


def _run_async(
    call: Callable[[], Coroutine[Any, Any, object]],
    process: WorkerProcess,
    begun: Begun,
    cancelled: Flag,
    timeout: float,
) -> object:
    """Run a coroutine under its lease; a lost one cancels it, so that its `finally` blocks run at once."""

    async def under_lease() -> tuple[object, BaseException | None]:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()

        def lost() -> None:
            cancelled.set()
            if task is not None:
                loop.call_soon_threadsafe(task.cancel)

        with process.leases.held(begun, lost, longest=timeout + HARD_LIMIT_GRACE):
            try:
                async with asyncio.timeout(timeout):
                    return await call(), None
            except asyncio.CancelledError:
                if cancelled.is_set():
                    raise LeaseLost(begun.run_id, begun.step.name) from None
                raise
            except (SystemExit, KeyboardInterrupt) as error:
                return None, error  # raised in an asyncio task these would end the loop, under all others

    given, left_by = run_coroutine(under_lease())
    if left_by is not None:
        raise left_by
    return given
