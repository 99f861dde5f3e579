"""The life of a step in a worker: begin, be admitted, run the agent, judge, commit, carry on."""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
import time
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from billiard.common import terminate_handler_fired
from billiard.exceptions import SoftTimeLimitExceeded
from celery.exceptions import WorkerShutdown, WorkerTerminate
from greenlet import GreenletExit
from kombu.exceptions import OperationalError
from pydantic import ValidationError
from redis.exceptions import RedisError

from orchestrator.agent import Context, Flag, from_json, to_json
from orchestrator.client import describe
from orchestrator.errors import AgentFailed, LeaseLost, PayloadTooLarge, RetryLater, TooManySteps, text_of
from orchestrator.patterns.delegation import Plan, output_of
from orchestrator.patterns.flow import flows, locate
from orchestrator.patterns.gate import Decision
from orchestrator.resilience.idle import IdleTimeout, IdleWatch, watched
from orchestrator.runtime.attempt import Attempt, AttemptFailed, Judged, refusal
from orchestrator.runtime.boarding import board_for, woken
from orchestrator.runtime.bridge import Killed, outside_loop_for_long, run_coroutine
from orchestrator.runtime.conversing import model_name, talk_for, told
from orchestrator.runtime.delegating import acceptance, delegation, gathered
from orchestrator.runtime.failing import follow
from orchestrator.runtime.foresight import Foresight
from orchestrator.runtime.guarding import Guarding, ask_for_pause
from orchestrator.runtime.interruption import Interruptible
from orchestrator.runtime.journal import StepJournal
from orchestrator.runtime.outcomes import StepClosed, StepOutcome
from orchestrator.state.reading import milliseconds
from orchestrator.state.runs import Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from contextlib import AbstractContextManager

    from celery import Task

    from orchestrator.agent import Agent
    from orchestrator.patterns.gate import Gate
    from orchestrator.runtime.leases import Keeping
    from orchestrator.runtime.process import WorkerProcess

logger = logging.getLogger(__name__)

HARD_LIMIT_GRACE = 10.0
"""Seconds after an agent's timeout when what did not react is given up: killed in a prefork child, else left alone."""


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
    task.request.joins = False
    nonce = process.nonce()
    paused = ask_for_pause(process, agent)
    with Foresight(task, process, agent, run_id, step, nonce) as foresight:
        begun = process.store.begin(run_id, step, agent=agent.name, nonce=nonce, worker=process.name)
        if isinstance(begun, Refused):
            raise refusal(begun.why)
        until = time.monotonic() + begun.remaining
        attempt = Attempt(task=task, agent=agent, process=process, begun=woken(told(begun)), until=until)
        return _execute(attempt, paused, foresight)


def _execute(attempt: Attempt, paused: Callable[[], float], foresight: Foresight) -> str:
    agent, process, begun = attempt.agent, attempt.process, attempt.begun
    try:
        if begun.step.joins:
            # What thousands have given takes its time.
            with _kept(attempt):
                attempt, value = outside_loop_for_long(_gathered_input, attempt)
        else:
            value = _input(attempt)
        guarding = Guarding(attempt, value, paused=paused(), foresight=foresight)
        held_back = guarding.admit()
        if held_back is not None:
            return held_back
        if agent.retry is not None and begun.step.attempt == 1:
            process.count(agent.name)  # not where it waits for its turn, however often it comes
        with guarding:
            return _run(attempt, value, guarding)
    except LeaseLost:
        raise StepClosed("the run has ended, or the step's lease was lost") from None
    except (PayloadTooLarge, TooManySteps) as error:
        return follow(attempt, AttemptFailed(str(error), final=True))
    except AttemptFailed as failed:
        return follow(attempt, failed)
    except (AgentFailed, StepOutcome, RedisError, OperationalError, SoftTimeLimitExceeded):
        raise
    except Exception as error:
        # A step that cannot be executed here would be begun again until its attempts are used up, and say nothing.
        logger.exception("run %s step %s: cannot be executed", begun.run_id, begun.step.name)
        unknown = AttemptFailed(f"it cannot be executed: {text_of(error)}", final=True)
        unknown.__cause__ = error
        return follow(attempt, unknown)


def _kept(attempt: Attempt) -> AbstractContextManager[Keeping]:
    """Keep the lease while something else than the handler takes its time; what it loses, its commit finds out."""
    longest = attempt.agent.timeout + HARD_LIMIT_GRACE
    return attempt.process.leases.held(attempt.begun, lambda _: None, longest=longest, spent=lambda: attempt.spent)


def _gathered_input(attempt: Attempt) -> tuple[Attempt, Any]:
    attempt = replace(attempt, begun=gathered(attempt.process, attempt.begun))
    return attempt, _input(attempt)


def _input(attempt: Attempt) -> Any:  # noqa: ANN401  the agent's input type
    agent, begun = attempt.agent, attempt.begun
    if begun.fault:
        # Trying again will not bring it back: the run says why now, not after its last attempt.
        raise AttemptFailed(begun.fault, final=True)
    try:
        return from_json(agent.input, begun.value)
    except Exception as error:  # noqa: BLE001  a validator of the user's may raise anything
        why = f"the input does not fit agent {agent.name!r}: {_misfit(error)}"
        raise AttemptFailed(why, final=True) from None  # the error's own text quotes the input


def _misfit(error: Exception) -> str:
    return describe(error) if isinstance(error, ValidationError) else text_of(error)


def _run(attempt: Attempt, value: object, guarding: Guarding) -> str:
    """Run the handler and its gate; record what came of it, and only then let the guards know."""
    try:
        judged = _work(attempt, value)
        guarding.succeeded(judged)
        with _kept(attempt) if judged.delegated else nullcontext():
            return attempt.commit(judged)
    except LeaseLost:
        attempt.tell_spent()
        raise
    except AttemptFailed as failed:
        guarding.failed(failed)
        attempt.outbox.clear()
        return follow(attempt, failed)


def _work(attempt: Attempt, value: object) -> Judged:
    """Run the handler on the step's input under its lease, and its gate on the output."""
    agent = attempt.agent
    given = _call(attempt, value)
    if attempt.outbox.asking:
        return Judged(b"null", "ask")
    try:
        output = output_of(agent, given)
    except Exception as error:
        raise AttemptFailed(f"agent {agent.name!r} returned what it does not declare: {_misfit(error)}") from error
    if isinstance(output, Plan):
        if attempt.outbox.said:
            raise AttemptFailed("it gives work out and has said something: let it do one of the two", final=True)
        with _kept(attempt):
            return outside_loop_for_long(delegation, attempt, output)
    try:
        written = to_json(agent.output, output)
    except Exception as error:
        why = f"agent {agent.name!r} returned what cannot be written as JSON: {text_of(error)}"
        raise AttemptFailed(why) from error
    judged = _judge(attempt, output, written)
    return judged if attempt.begun.step.talk is None else replace(judged, says=model_name(output))


def _draft(attempt: Attempt) -> object:
    agent, begun = attempt.agent, attempt.begun
    try:
        return from_json(agent.output, begun.draft) if begun.draft else None
    except Exception as error:  # noqa: BLE001  likewise
        why = f"the draft does not fit agent {agent.name!r}: {_misfit(error)}"
        raise AttemptFailed(why, final=True) from None


def _call(attempt: Attempt, value: object) -> object:
    """Call the handler; what it raises becomes a failed attempt with its reason."""
    agent, process, begun = attempt.agent, attempt.process, attempt.begun
    step, cancelled, draft = begun.step, Flag(), _draft(attempt)
    watch = IdleWatch(agent.idle) if agent.idle is not None else None
    journal = StepJournal(process, attempt.task.app, begun, attempt.until)
    context = Context(
        run_id=begun.run_id,
        flow=begun.flow,
        step=step.known_as,
        attempt=step.attempt,
        revision=step.revision,
        degraded=step.degraded,
        feedback=step.feedback,
        draft=draft,
        tenant=begun.tenant,
        tags=begun.tags,
        deadline=attempt.until - (begun.remaining - begun.useful),
        _cancelled=cancelled,
        _journal=journal,
        _account=attempt.account,
        _watch=watch,
        _rung=step.rung,
        _board=board_for(process, attempt.task.app, begun, journal.call),
        _talk=talk_for(process, begun, attempt.outbox, journal.call),
    )
    call = (
        functools.partial(agent.function, context, value)
        if agent.takes_context
        else functools.partial(agent.function, value)
    )
    timeout = min(agent.timeout, begun.remaining)
    try:
        if agent.is_async:
            return _run_async(call, attempt, cancelled, timeout, watch)
        with _sync(attempt, cancelled, timeout, watch):
            return call()
    except LeaseLost:
        raise
    except RetryLater as error:
        raise AttemptFailed(error.args[1] or text_of(error)) from error
    except (TimeoutError, SoftTimeLimitExceeded) as error:
        if isinstance(error, SoftTimeLimitExceeded) and cancelled.is_set():
            raise LeaseLost(begun.run_id, step.name) from None
        raise AttemptFailed(_timed_out(attempt, error, timeout, watch)) from error
    except (WorkerShutdown, WorkerTerminate, Killed, GreenletExit):
        raise
    except BaseException as error:
        if attempt.outbox.asking:
            return None  # it has raised Asked, maybe wrapped into something else, a task group's error
        if isinstance(error, SystemExit) and terminate_handler_fired():
            raise  # not the handler's: this child has been told to end
        # Whatever a handler raises fails its attempt, with the reason.
        # `sys.exit` in a library, or the cancellation of a task of its own, is no reason to end a worker's process.
        logger.exception("run %s step %s: agent %s raised", begun.run_id, step.name, agent.name)
        raise AttemptFailed(text_of(error)) from error


def _timed_out(attempt: Attempt, error: BaseException, timeout: float, watch: IdleWatch | None) -> str:
    agent, begun = attempt.agent, attempt.begun
    logger.warning("run %s step %s: timed out", begun.run_id, begun.step.name, exc_info=error)
    if isinstance(error, IdleTimeout):
        return str(error)
    if isinstance(error, SoftTimeLimitExceeded):
        if watch is not None and watch.remaining() <= 0:
            return str(IdleTimeout(watch.limit))
    elif error.args:  # a TimeoutError the handler raised itself
        return text_of(error)
    if timeout == agent.timeout:
        return f"timed out after {agent.timeout:g} s"
    return "the run's deadline passed" if begun.step.until_ms is None else "the time the step or its run has is over"


def _judge(attempt: Attempt, output: object, value: bytes) -> Judged:
    """Ask the step's gate, and its fan-out's join. A fallback's output passes the gate: it is the last resort."""
    begun = attempt.begun
    step = begun.step
    accept = acceptance(attempt)
    details: dict[str, object] | None = None
    if accept is not None:
        with _kept(attempt):
            details = {"accepted": True} if outside_loop_for_long(accept, output) else None
    if not step.gated or step.degraded:
        return Judged(value, details=details)
    gate = _gate(begun.flow, step.name)
    if gate is None:
        why = f"this worker does not know flow {begun.flow!r} with a gate here; add its module to CELERIAC_AGENTS"
        raise AttemptFailed(why, judged=True)
    try:
        with _kept(attempt):
            decision = outside_loop_for_long(gate.decide, output, sent_back=step.sent_back)
    except Exception as error:
        logger.exception("run %s step %s: the gate raised", begun.run_id, step.name)
        raise AttemptFailed(f"its gate raised {text_of(error)}", judged=True) from error
    fallback = gate.fallback_agent
    match decision:
        case Decision("pass"):
            return Judged(value, details=details)
        case Decision("revise", feedback):
            return Judged(value, "revise", {"feedback": feedback})
        case Decision("fallback", reason) if fallback is not None:
            return Judged(value, "fallback", {"agent": fallback.name, "reason": reason})
        case Decision("human", question):
            asked = {"question": question, "timeout_ms": milliseconds(gate.timeout), "default": gate.default}
            more = {"fallback": fallback.name} if fallback else {}
            return Judged(value, "wait", {**asked, **more, **(details or {})})
        case _:
            raise AttemptFailed(f"rejected by its gate: {decision.reason}", judged=True)


def _gate(flow: str, step: str) -> Gate | None:
    try:
        planned, name = locate(flows()[flow], step)
    except LookupError:
        return None
    return planned.gate_of(name)


@contextmanager
def _sync(attempt: Attempt, cancelled: Flag, timeout: float, watch: IdleWatch | None) -> Iterator[None]:
    """Keep the lease of a sync handler, and interrupt it where its run has ended or it shows no sign of life."""
    grace = attempt.process.settings.cancel_grace
    over = threading.Event()
    block = Interruptible()

    def lost(why: str) -> None:
        cancelled.set()
        threading.Timer(grace if why == "closed" else 0.0, block.interrupt).start()

    def look(keeping: Keeping, watch: IdleWatch) -> None:
        while not over.wait(watch.remaining()):
            if watch.remaining() <= 0:
                block.interrupt()
                # What cannot be interrupted must not keep its lease.
                keeping.until = min(keeping.until, time.monotonic() + HARD_LIMIT_GRACE)
                return

    try:
        longest, spent = timeout + HARD_LIMIT_GRACE, lambda: attempt.spent
        with attempt.process.leases.held(attempt.begun, lost, longest=longest, spent=spent) as keeping, block:
            if watch is not None:
                watch.beat()
                threading.Thread(target=look, args=(keeping, watch), name="celeriac-idle", daemon=True).start()
            yield
    finally:
        over.set()


def _run_async(
    call: Callable[[], Coroutine[Any, Any, object]],
    attempt: Attempt,
    cancelled: Flag,
    timeout: float,
    watch: IdleWatch | None,
) -> object:
    """
    Run a coroutine under its lease.

    A lost one cancels it at once, so that its `finally` blocks run; one whose run was cancelled has a grace time.
    """
    process, begun = attempt.process, attempt.begun
    grace = process.settings.cancel_grace

    async def under_lease() -> tuple[object, BaseException | None]:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()

        def lost(why: str) -> None:
            cancelled.set()
            if task is not None:
                delay = grace if why == "closed" else 0.0
                loop.call_soon_threadsafe(lambda: loop.call_later(delay, task.cancel))

        with process.leases.held(begun, lost, longest=timeout + HARD_LIMIT_GRACE, spent=lambda: attempt.spent):
            try:
                async with asyncio.timeout(timeout):
                    return await (call() if watch is None else watched(call(), watch)), None
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
