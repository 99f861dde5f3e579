"""
Named points in a worker where it dies by SIGKILL, once for each run; CELERIAC_AGENTS loads this after the user's code.

A run asks for its deaths by the tag `crash`: `point:step`, several separated by spaces. A file below `$CRASH_MARKS`
says that a death has happened, so that it happens once. Nothing but this module reads either; `points.py` lists them.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import inspect
import json
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from celery.signals import after_task_publish, before_task_publish, task_received
from kombu.transport import virtual
from kombu.transport.redis import PublishBatch

from orchestrator.agent import agents
from orchestrator.errors import RunNotFound
from orchestrator.runtime.delegating import gathered
from orchestrator.runtime.process import current
from orchestrator.state.conversations import Conversations
from orchestrator.state.fan_outs import FanOuts
from orchestrator.state.runs import RunStore
from tests.chaos.points import MARKS, mark

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from celery.worker.request import Request

    from orchestrator import Context
    from orchestrator.runtime.process import WorkerProcess
    from orchestrator.state.runs import Begun, Change, Submission, Submitted

Method = Any  # a method of RunStore, whatever its signature
Store = RunStore | FanOuts | Conversations


def ends_at(point: str, run_id: str, step: str) -> bool:
    """Tell whether the run asks for a death here and has had none here before; it has one from now on."""
    try:
        asked = current().store.head(run_id).tags.get("crash", "").split()
    except RunNotFound:
        return False
    if f"{point}:{step}" not in asked:
        return False
    try:
        mark(Path(os.environ[MARKS]), run_id, point, step).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def reach(point: str, run_id: str, step: str) -> None:
    """Die here if the run asks for it and has not died here before."""
    if ends_at(point, run_id, step):
        die()


def around(name: str, *, store: type[Store] = RunStore, before: str | None = None, after: str | None = None) -> None:
    """Put points around a method of a store: one that names run and step, or several, or takes what begin gave."""
    method: Method = getattr(store, name)

    @functools.wraps(method)
    def wrapped(self: Store, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  any method's
        of, *more = args
        steps = of if isinstance(of, list) else [(of, more[0])] if isinstance(of, str) else [(of.run_id, of.step.name)]
        if before:
            for run_id, step in steps:
                reach(before, run_id, step)
        given = method(self, *args, **kwargs)
        if after:
            for run_id, step in steps:
                reach(after, run_id, step)
        return given

    patch.object(store, name, wrapped).start()


def joining(end: Method) -> Method:
    """Put a point where the last member of a fan-out has ended, and nothing of what joins it is published."""

    @functools.wraps(end)
    def wrapped(self: RunStore, begun: Begun, *args: Any, **kwargs: Any) -> Change:  # noqa: ANN401  as of commit and fail
        change: Change = end(self, begun, *args, **kwargs)
        for step in change.to_publish:
            reach("after-join", begun.run_id, step)
        return change

    return wrapped


def gathering(gathered: Callable[[WorkerProcess, Begun], Begun]) -> Callable[[WorkerProcess, Begun], Begun]:
    """Put points around the reading of what the members gave."""

    @functools.wraps(gathered)
    def wrapped(process: WorkerProcess, begun: Begun) -> Begun:
        reach("before-gather", begun.run_id, begun.step.name)
        found = gathered(process, begun)
        reach("after-gather", begun.run_id, begun.step.name)
        return found

    return wrapped


def flushing(flush: Callable[[PublishBatch], None]) -> Callable[[PublishBatch], None]:
    """Put a point between the messages that are published together."""

    @functools.wraps(flush)
    def wrapped(self: PublishBatch) -> None:
        commands = self.pipeline.command_stack
        for number, (arguments, _) in enumerate(list(commands)):
            run_id, step = of_a_step(json.loads(arguments[2]))
            if ends_at("mid-publish", run_id, step):
                del commands[number:]
                flush(self)
                die()
        flush(self)

    return wrapped


def of_a_step(message: dict[str, Any]) -> tuple[str, str]:
    """Return the run and the step of a message."""
    _, kwargs, _ = json.loads(base64.b64decode(message["body"]))
    return kwargs["run"], kwargs["step"]


def submitting(submit: Callable[..., list[Submitted]]) -> Callable[..., list[Submitted]]:
    """Put a point where a run is created, and nothing of it is published."""

    @functools.wraps(submit)
    def wrapped(self: RunStore, submissions: Sequence[Submission]) -> list[Submitted]:
        submitted = submit(self, submissions)
        for one in submitted:
            reach("after-submit", one.run_id, "start")
        return submitted

    return wrapped


def after_effect(function: Callable[..., Any]) -> Callable[..., Any]:
    """Put a point at the end of a handler, where its effect is made and its output is not."""

    async def awaiting(ctx: Context, value: object) -> object:
        given = await function(ctx, value)
        reach("in-handler", ctx.run_id, ctx.step)
        return given

    def calling(ctx: Context, value: object) -> object:
        given = function(ctx, value)
        reach("in-handler", ctx.run_id, ctx.step)
        return given

    return awaiting if inspect.iscoroutinefunction(function) else calling


def publishing(point: str) -> Callable[..., None]:
    """Put a point where a step's message is published, whoever does it."""

    def receiver(body: object = None, **_: object) -> None:
        match body:
            case (_, {"run": str(run_id), "step": str(step)}, _):
                reach(point, run_id, step)

    return receiver


def received(request: Request, **_: object) -> None:
    """Die with the message booked as delivered, and not yet with the pool."""
    kwargs = request.kwargs
    if "run" in kwargs:
        reach("received", kwargs["run"], kwargs["step"])


def popping(deliver: Callable[..., None]) -> Callable[..., None]:
    """Die with the message taken off the queue, before anything looks at it."""

    def wrapped(self: virtual.Transport, message: dict[str, Any], queue: str) -> None:
        with contextlib.suppress(ValueError, TypeError, KeyError):  # not a step's message
            reach("popped", *of_a_step(message))
        deliver(self, message, queue)

    return wrapped


around("begin", before="before-begin", after="after-begin")
around("commit", before="before-commit", after="after-commit")
around("speak", store=Conversations, before="before-commit", after="after-commit")
around("fail", before="before-fail", after="after-fail")
around("lost", after="after-lost")
around("redispatch", after="after-redispatch")
around("delegate", store=FanOuts, before="before-delegate", after="after-delegate")
around("_stage", store=FanOuts, after="after-stage")
around("join", store=FanOuts, after="after-overdue")
patch.object(RunStore, "commit", joining(RunStore.commit)).start()
patch.object(RunStore, "fail", joining(RunStore.fail)).start()
patch("orchestrator.runtime.step.gathered", gathering(gathered)).start()
patch.object(PublishBatch, "flush", flushing(PublishBatch.flush)).start()
patch.object(RunStore, "submit", submitting(RunStore.submit)).start()
for name in ("acme.effect", "acme.effect-sync", "acme.boss", "acme.sum"):
    agents()[name].function = after_effect(agents()[name].function)
before_task_publish.connect(publishing("before-publish"), weak=False)
after_task_publish.connect(publishing("after-publish"), weak=False)
task_received.connect(received, weak=False)
patch.object(virtual.Transport, "_deliver", popping(virtual.Transport._deliver)).start()  # noqa: SLF001  kombu has no public point here
