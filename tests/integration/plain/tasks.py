"""
A user's Celery tasks, which know nothing of Celeriac.

Each is there twice: `plain.sync.NAME` is a function, `plain.async.NAME` a coroutine function that does the same.
"""

from __future__ import annotations

import asyncio
import functools
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

from celery import Task, chain, chord, current_task, group, shared_task, signals, signature
from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded

from .notes import PAUSE, POLL, count, note, told

F = TypeVar("F", bound=Callable[..., Any])


def sync(**options: Any) -> Callable[[F], F]:  # noqa: ANN401  any option of a task
    """Make a function the task `plain.sync.NAME`."""

    def register(function: F) -> F:
        options.setdefault("name", f"plain.sync.{function.__name__}")
        shared_task(ignore_result=options.pop("ignore_result", False), **options)(function)
        return function

    return register


def both(**options: Any) -> Callable[[F], F]:  # noqa: ANN401
    """Make a function the task `plain.sync.NAME`, and the task `plain.async.NAME` that awaits something first."""

    def register(function: F) -> F:
        @functools.wraps(function)
        async def awaiting(*args: object, **kwargs: object) -> object:
            await asyncio.sleep(0)
            return function(*args, **kwargs)

        sync(**options)(function)
        sync(**options, name=f"plain.async.{function.__name__}")(awaiting)
        return function

    return register


def pair(**options: Any) -> Callable[[Callable[..., Any]], Callable[[F], F]]:  # noqa: ANN401
    """Make a function and a coroutine function, each written out, the two tasks of the first one's name."""

    def register_first(function: Callable[..., Any]) -> Callable[[F], F]:
        def register_second(coroutine_function: F) -> F:
            sync(**options)(function)
            sync(**options, name=f"plain.async.{function.__name__}")(coroutine_function)
            return coroutine_function

        return register_second

    return register_first


class Unlucky(Exception):
    """What a task raises."""


# Values


@both()
def add(x: int, y: int) -> int:
    return x + y


@both()
def double(x: int) -> int:
    return 2 * x


@both()
def total(numbers: list[int]) -> int:
    return sum(numbers)


@both()
def collect(values: object) -> object:
    return values


@both(bind=True)
def lineage(self: Task, seen: list[Any]) -> list[Any]:
    """Return what came before, and of this task: id, root, parent."""
    return [*seen, [self.request.id, self.request.root_id, self.request.parent_id]]


@both()
def mark(key: str, what: object = "ran") -> None:
    note(key, what)


@both(ignore_result=True)
def forget(key: str) -> int:
    note(key, "ran")
    return 1


# Failures


@both()
def fail(*_: object) -> None:
    msg = "no luck"
    raise Unlucky(msg, 7)


@both()
def fail_badly(*_: object) -> None:
    msg = "several"
    raise ExceptionGroup(msg, [ValueError(1), Unlucky("x")])


@both()
def leave() -> None:
    sys.exit(3)


@both()
def unserialisable() -> object:
    return object()


@both()
def on_error(request: Any, error: Exception, traceback: object) -> None:  # noqa: ANN401, ARG001  Celery's errback
    note(f"{request.id}.errbacks", f"{type(error).__name__}: {error}")


def _on_error_old(task_id: str) -> None:
    note(f"{task_id}.errbacks", "failed")


async def _on_error_old_async(task_id: str) -> None:
    await asyncio.sleep(0)
    note(f"{task_id}.errbacks", "failed")


sync(name="plain.sync.on_error_old")(_on_error_old)
sync(name="plain.async.on_error_old")(_on_error_old_async)


# Retries, replacements, messages sent back


@both(bind=True)
def retry(self: Task, times: int, countdown: float, **options: Any) -> int:  # noqa: ANN401  of Task.retry
    note(f"{self.request.id}.attempts", self.request.retries)
    if self.request.retries < times:
        raise self.retry(countdown=countdown, **options)
    return int(self.request.retries)


@both(bind=True)
def retry_in_vain(self: Task, *, because: str | None = None) -> None:
    note(f"{self.request.id}.attempts", self.request.retries)
    raise self.retry(exc=Unlucky(because) if because else None, countdown=PAUSE, max_retries=2)


@both(bind=True, autoretry_for=(Unlucky,), retry_kwargs={"max_retries": 2, "countdown": PAUSE})
def retry_by_itself(self: Task, times: int) -> int:
    note(f"{self.request.id}.attempts", self.request.retries)
    if self.request.retries < times:
        msg = "again"
        raise Unlucky(msg)
    return int(self.request.retries)


@both(bind=True)
def replace(self: Task, how: str, kind: str, number: int = 1) -> None:
    def task(name: str, *args: object) -> Any:  # noqa: ANN401  a signature
        return self.app.signature(f"plain.{kind}.{name}", args)

    header = [task("add", number, 1), task("add", number, 2)]
    raise self.replace(
        {
            "task": lambda: task("add", number, 1),
            "chain": lambda: chain(task("add", number, 1), task("double")),
            "group": lambda: group(header),
            "chord": lambda: chord(header, task("total")),
            "replace": lambda: task("replace", "chain", kind, number),
        }[how]()
    )


@both(bind=True, acks_late=True)
def send_back_once(self: Task) -> str:
    key = f"{self.request.id}.attempts"
    note(key, self.request.delivery_info.get("redelivered"))
    if count(key) == 1:
        msg = "not here"
        raise Reject(msg, requeue=True)
    return "done"


@both(bind=True, acks_late=True)
def refuse(self: Task) -> None:
    note(f"{self.request.id}.attempts", "ran")
    msg = "never"
    raise Reject(msg, requeue=False)


@both(bind=True)
def ignore(self: Task) -> None:
    note(f"{self.request.id}.attempts", "ran")
    raise Ignore


# Tasks that take their time


def _hold(self: Task) -> str:
    key = self.request.id
    note(f"{key}.started", self.request.retries)
    try:
        while not told(key):
            time.sleep(POLL)
    finally:
        note(f"{key}.finally", self.request.id)
    return str(self.request.id)


async def _hold_async(self: Task) -> str:
    key = self.request.id
    note(f"{key}.started", self.request.retries)
    try:
        while not told(key):  # noqa: ASYNC110  the word comes from another process
            await asyncio.sleep(POLL)
    finally:
        await asyncio.sleep(0)
        note(f"{key}.finally", self.request.id)
    return str(self.request.id)


def _hold_softly(self: Task) -> str:
    try:
        return _hold(self)
    except SoftTimeLimitExceeded:
        return "caught"


async def _hold_softly_async(self: Task) -> str:
    try:
        return await _hold_async(self)
    except SoftTimeLimitExceeded:
        await asyncio.sleep(0)
        return "caught"


for _name, _options in {"hold": {}, "hold_late": {"acks_late": True}, "hold_tracked": {"track_started": True}}.items():
    sync(name=f"plain.sync.{_name}", bind=True, **_options)(_hold)
    sync(name=f"plain.async.{_name}", bind=True, **_options)(_hold_async)
sync(name="plain.sync.hold_softly", bind=True)(_hold_softly)
sync(name="plain.async.hold_softly", bind=True)(_hold_softly_async)


def _progress(self: Task) -> str:
    self.update_state(state="PROGRESS", meta={"done": 1, "of": 2})
    return _hold(self)


async def _progress_async(self: Task) -> str:
    await asyncio.sleep(0)
    self.update_state(state="PROGRESS", meta={"done": 1, "of": 2})
    return await _hold_async(self)


sync(name="plain.sync.progress", bind=True)(_progress)
sync(name="plain.async.progress", bind=True)(_progress_async)


# What a task knows of itself


def _who(self: Task) -> dict[str, Any]:
    return {
        "task": current_task.name,
        "current": current_task.request.id,
        **{
            name: getattr(self.request, name)
            for name in (
                "id",
                "root_id",
                "parent_id",
                "retries",
                "is_eager",
                "called_directly",
                "delivery_info",
                "hostname",
                "correlation_id",
                "timelimit",
                "args",
                "kwargs",
            )
        },
    }


def _who_am_i(self: Task, *_: object, **__: object) -> list[dict[str, Any]]:
    before = _who(self)
    time.sleep(POLL)
    return [before, _who(self)]


async def _who_am_i_async(self: Task, *_: object, **__: object) -> list[dict[str, Any]]:
    before = _who(self)
    await asyncio.sleep(POLL)
    return [before, _who(self)]


sync(name="plain.sync.who_am_i", bind=True)(_who_am_i)
sync(name="plain.async.who_am_i", bind=True)(_who_am_i_async)


@both(bind=True)
def spawn(self: Task, kind: str) -> list[str]:
    """Send a task from within this one; return both ids."""
    child = self.app.send_task(f"plain.{kind}.lineage", ([],))
    return [self.request.id, child.id]


@both(bind=True)
def wait_for_child(self: Task, kind: str) -> str:
    """Do what Celery forbids."""
    child = self.app.send_task(f"plain.{kind}.add", (1, 2))
    try:
        return str(child.get(timeout=10))
    except RuntimeError as error:
        return str(error)


# Hooks and signals


class Hooked(Task):
    """A base class of the user's own."""

    abstract = True

    def before_start(self, task_id: str, *_: object) -> None:
        note(f"{task_id}.hooks", f"before_start {self.request.id == task_id}")

    def on_success(self, retval: object, task_id: str, *_: object) -> None:
        note(f"{task_id}.hooks", f"on_success {retval} {self.request.id == task_id}")

    def on_failure(self, exc: object, task_id: str, *_: object) -> None:
        note(f"{task_id}.hooks", f"on_failure {exc} {self.request.id == task_id}")

    def on_retry(self, exc: object, task_id: str, *_: object) -> None:
        note(f"{task_id}.hooks", f"on_retry {exc} {self.request.id == task_id}")

    def after_return(self, status: str, retval: object, task_id: str, *_: object) -> None:
        note(f"{task_id}.hooks", f"after_return {status} {retval} {self.request.id == task_id}")


@both(bind=True, base=Hooked)
def hooked(self: Task, *, luck: bool) -> str:
    if not self.request.retries:
        msg = "first"
        raise self.retry(exc=Unlucky(msg), countdown=PAUSE)
    if not luck:
        msg = "out of luck"
        raise Unlucky(msg)
    return "luck"


def _told_by(name: str, task_id: str) -> None:
    note(f"{task_id}.signals", name)


def _received(request: Any, **_: object) -> None:  # noqa: ANN401  Celery's
    _told_by("received", request.id)


def _prerun(task_id: str, **_: object) -> None:
    _told_by(f"prerun {current_task.request.id == task_id}", task_id)


def _postrun(task_id: str, state: str, **_: object) -> None:
    _told_by(f"postrun {state} {current_task.request.id == task_id}", task_id)


def _success(sender: Task, result: object, **_: object) -> None:
    _told_by(f"success {result}", sender.request.id)


def _failure(task_id: str, exception: Exception, **_: object) -> None:
    _told_by(f"failure {type(exception).__name__}", task_id)


def _retried(request: Any, reason: object, **_: object) -> None:  # noqa: ANN401
    _told_by(f"retry {reason}", request.id)


def _revoked(request: Any, terminated: object, expired: object, **_: object) -> None:  # noqa: ANN401
    _told_by(f"revoked {terminated=} {expired=}", request.id)


def _internal(task_id: str, exception: object, **_: object) -> None:
    _told_by(f"internal error {exception}", task_id)


signals.task_received.connect(_received)
signals.task_prerun.connect(_prerun)
signals.task_postrun.connect(_postrun)
signals.task_success.connect(_success)
signals.task_failure.connect(_failure)
signals.task_retry.connect(_retried)
signals.task_revoked.connect(_revoked)
signals.task_internal_error.connect(_internal)


@sync(name="plain.async.fan")
async def fan() -> int:
    """Send canvases within a canvas: Celery acquires a connection to publish by, while it holds one."""
    await asyncio.sleep(POLL)
    add, total = (signature(f"plain.async.{name}") for name in ("add", "total"))
    group(*(chord([add.clone((number, number)) for number in range(2)], total) for _ in range(2))).apply_async()
    return 1


@sync(name="plain.async.publish_for_ever", bind=True)
async def publish_for_ever(self: Task) -> str:
    """Publish until the soft time limit comes, in the midst of it."""
    try:
        while True:
            signature("plain.async.add", (1, 2)).apply_async(ignore_result=True)
    except SoftTimeLimitExceeded:
        return f"caught by {self.name}"


@sync(name="plain.async.hold_children", bind=True)
async def hold_children(self: Task) -> None:
    """Hold two children, which note their end."""

    async def child() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            note(f"{self.request.id}.children", "ended")

    async with asyncio.TaskGroup() as children:
        for _ in range(2):
            children.create_task(child())
