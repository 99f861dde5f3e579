"""
Blocking code on an event loop's thread, without blocking the loop.

Celery's tracer, the result backend and the stores are written to block. Here they run in a greenlet: where one would
block it hands its thread to the loop and is resumed when what it waits for is there, as SQLAlchemy bridges its
blocking core to asyncio drivers. Outside such a greenlet everything below simply blocks.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import logging
import threading
from collections import deque
from collections.abc import Coroutine
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

from billiard.exceptions import SoftTimeLimitExceeded
from celery._state import _task_stack
from greenlet import getcurrent, greenlet

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from concurrent.futures import Executor

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

SLICE: Final = 0.005
"""Seconds that blocking code may use of one turn of the loop, before everything else that is ready has its turn."""

IO_THREADS: Final = 8
"""Threads for calls that only know how to block: publishing a message, storing a result."""

MOST_CALLS: Final = 500
"""Calls to Redis under way at a time, above which nothing more has its turn: what thousands of steps that end at once
would ask for need not all be in memory before the first reply."""

_DONE: Final = object()

_hosts: WeakKeyDictionary[asyncio.AbstractEventLoop, Host] = WeakKeyDictionary()


class Host:
    """
    What greenlets of one event loop share: the loop, their turns, and threads for what can only block.

    Args:
        loop: runs on the thread that calls `turn` and `wait`; its default executor takes calls that may be long.
        io: takes calls that block for a moment, `IO_THREADS` at a time.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, io: Executor) -> None:
        _hosts[loop] = self
        self.loop = loop
        self.io = io
        self.publishing = Slots(loop, IO_THREADS)
        self.batchers: dict[int, Any] = {}  # of `batching`, by the id of their client
        self.running: TaskGreenlet | None = None
        self.switches = 0
        self._ready: deque[TaskGreenlet] = deque()
        self._scheduled = False
        self._calls = 0

    def turn(self, ready: TaskGreenlet) -> None:
        """Run a greenlet when its turn comes, in the order of their asking."""
        self._ready.append(ready)
        self._go_on()

    def asked(self) -> None:
        """Count a call to Redis that is under way."""
        self._calls += 1

    def answered(self, number: int) -> None:
        """Count the replies to so many."""
        self._calls -= number
        self._go_on()

    def _go_on(self) -> None:
        if self._ready and not self._scheduled and self._calls < MOST_CALLS:
            self._scheduled = True
            self.loop.call_soon(self._run)

    def _run(self) -> None:
        self._scheduled = False
        until = monotonic() + SLICE
        ready = self._ready
        while ready and self._calls < MOST_CALLS:
            self.switches += 1
            self.running = ready.popleft()
            try:
                self.running.switch()
            except Exception:
                # Of one task; the turns of all others must go on.
                logger.exception("%s ended with an error of its own", self.running.name)
            if monotonic() > until:
                break
        self.running = None
        self._go_on()


class Slots:
    """A semaphore that greenlets wait for cooperatively; of the loop's thread alone."""

    def __init__(self, loop: asyncio.AbstractEventLoop, number: int) -> None:
        self._loop = loop
        self._free = number
        self._waiting: deque[asyncio.Future[None]] = deque()

    @contextmanager
    def held(self, by: Cooperative) -> Iterator[None]:
        """Hold a slot, in the order of asking."""
        if self._free:
            self._free -= 1
            granted = None
        else:
            granted = self._loop.create_future()
            self._waiting.append(granted)
        try:
            if granted is not None:
                by.wait(granted)
            yield
        finally:
            if self._waiting:
                self._waiting.popleft().set_result(None)
            else:
                self._free += 1


class Cooperative(greenlet):
    """A greenlet that can wait for a future while its thread does other things."""

    def __init__(self, host: Host, run: Callable[[], object], context: contextvars.Context) -> None:
        super().__init__(run)
        self.host, self.context = host, context
        self.gr_context = context
        self._outside: greenlet = getcurrent()
        self.producers: dict[int, Any] = {}  # lent to this greenlet, by the id of their app

    def wait(self, future: asyncio.Future[T]) -> T:
        """Return a future's result, or raise its exception; called inside this greenlet."""
        raise NotImplementedError


class SoftLimit(SoftTimeLimitExceeded, asyncio.CancelledError):
    """
    A soft time limit as async code meets it.

    A task group, or whatever else waits for children, cancels them on a cancellation alone.
    """


# In results and logs it is Celery's own.
SoftLimit.__name__ = SoftLimit.__qualname__ = SoftTimeLimitExceeded.__name__
SoftLimit.__module__ = SoftTimeLimitExceeded.__module__


class TaskGreenlet(Cooperative):
    """
    Runs one Celery task: blocking code in turns of the host's, and a coroutine as an asyncio task of its own.

    The coroutine's steps run inside this greenlet too, so that what Celery keeps by greenlet (the current task, its
    request) and the context variables are the same in all of the task's code.

    Attributes:
        interruption: an exception to be raised in the coroutine, in place of its next cancellation.
        killed: the task is over, whatever its code still does: its coroutine is cancelled and nothing follows.
        over: its coroutine has ended; what follows is not interrupted any more.
    """

    name = "?"

    def __init__(self, host: Host, run: Callable[[], None]) -> None:
        super().__init__(host, run, contextvars.Context())
        self.interruption: Exception | None = None
        self.killed = self.over = False
        self._task: asyncio.Task[None] | None = None
        self._stepping = False

    def kill(self) -> None:
        """Cancel the coroutine, or let it never begin. What follows it, such as storing its result, is done."""
        if self.over:
            return
        self.killed = True
        if self._task is not None:
            self._task.cancel()

    def interrupt(self, error: Exception) -> None:
        """Raise an exception where the coroutine awaits."""
        if self.over:
            return
        self.interruption = error
        if self._task is not None:
            self._task.cancel()

    def wait(self, future: asyncio.Future[T]) -> T:
        """Wait, in turn with all others; in the midst of the coroutine, as if it awaited."""
        if not self._stepping:
            future.add_done_callback(self._resume)
            self._outside.switch()
            return future.result()
        # The call is under way and is not given up half-done: a cancellation waits for its end.
        cancelled: BaseException | None = None
        while not future.done():
            cancelled = self._outside.switch(next(asyncio.shield(future).__await__())) or cancelled
        if cancelled is not None:
            raise self._in_place_of(cancelled)
        return future.result()

    def _resume(self, _: object) -> None:
        self.host.turn(self)

    def drive(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """
        Run a coroutine to its end.

        Raises:
            Killed: the task was killed; the coroutine has ended, or was never begun.
        """
        if self.killed:
            coroutine.close()
            raise Killed
        self._task = task = self.host.loop.create_task(_Steps(self, coroutine), context=self.context)
        if self.interruption is not None:
            task.cancel()
        try:
            return self._steps(coroutine)
        finally:
            self._end()

    def _steps(self, coroutine: Coroutine[Any, Any, T]) -> T:
        thrown: BaseException | None = self._outside.switch()
        while True:
            self._stepping = True
            try:
                yielded = coroutine.send(None) if thrown is None else coroutine.throw(self._in_place_of(thrown))
            except StopIteration as stop:
                result: T = stop.value
                return result
            finally:
                self._stepping = False
            thrown = self._outside.switch(yielded)

    def _in_place_of(self, thrown: BaseException) -> BaseException:
        interruption, self.interruption = self.interruption, None
        if interruption is None or self.killed:
            return thrown
        if self._task is not None:
            self._task.uncancel()
        return interruption

    def _end(self) -> None:
        """End the asyncio task; go on in a turn of this greenlet's own."""
        self._task, self.over = None, True
        self.host.turn(self)
        self._outside.switch(_DONE)
        if self.killed:
            raise Killed


class Killed(BaseException):
    """The task is over: its time limit has passed, it was revoked, or the worker is shutting down."""


class _Wrapped(Coroutine[Any, Any, Any]):
    """A coroutine as asyncio sees it, whose steps are made elsewhere; to who looks closer (anyio does), itself."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self.coroutine = coroutine

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  cr_frame, cr_running, __qualname__, ...
        return getattr(self.coroutine, name)

    def send(self, _: object) -> Any:  # noqa: ANN401  whatever the agent awaits
        return self._step(None)

    def throw(self, kind: Any, value: Any = None, traceback: Any = None) -> Any:  # noqa: ANN401, ARG002  the protocol's
        return self._step(kind if isinstance(kind, BaseException) else value or kind())

    def close(self) -> None:
        """Close the coroutine."""
        self.coroutine.close()

    def __await__(self) -> Generator[Any, None, None]:
        raise NotImplementedError

    def _step(self, thrown: BaseException | None) -> Any:  # noqa: ANN401
        raise NotImplementedError


class ChildSteps(_Wrapped):
    """The coroutine of an asyncio task that an agent has made: each step is part of the agent's Celery task too."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], task: Any) -> None:  # noqa: ANN401  Celery's
        super().__init__(coroutine)
        self._task, self._request = task, task.request_stack.top

    @property
    def name(self) -> str:
        """The Celery task's name and id."""
        return f"{self._task.name}[{self._request.id}]" if self._request else str(self._task.name)

    def _step(self, thrown: BaseException | None) -> Any:  # noqa: ANN401
        requests = self._task.request_stack
        _task_stack.push(self._task)
        requests.push(self._request)
        try:
            return self.coroutine.send(None) if thrown is None else self.coroutine.throw(thrown)
        finally:
            requests.pop()
            _task_stack.pop()


class _Steps(_Wrapped):
    """The coroutine of a Celery task; its steps run in the task's greenlet."""

    def __init__(self, runs: TaskGreenlet, coroutine: Coroutine[Any, Any, Any]) -> None:
        super().__init__(coroutine)
        self.greenlet = runs

    def close(self) -> None:
        """Do nothing: a greenlet that is never resumed ends with the loop's thread."""

    def _step(self, thrown: BaseException | None) -> Any:  # noqa: ANN401
        host = self.greenlet.host
        host.switches += 1
        host.running = self.greenlet
        outcome = self.greenlet.switch(thrown)
        host.running = None
        if outcome is _DONE:
            raise StopIteration
        return outcome


class _CallGreenlet(Cooperative):
    """Runs one blocking call for a coroutine that awaits it."""

    def __init__(self, host: Host, run: Callable[[], object]) -> None:
        super().__init__(host, run, contextvars.copy_context())

    def wait(self, future: asyncio.Future[T]) -> T:
        """Hand the future to the coroutine."""
        self._outside.switch(future)
        return future.result()


def current() -> Cooperative | None:
    """Return the greenlet that runs, if it can wait cooperatively."""
    running = getcurrent()
    return running if isinstance(running, Cooperative) else None


def of_this_task(coroutine: Coroutine[Any, Any, T]) -> Coroutine[Any, Any, T]:
    """Return the coroutine of a new asyncio task, made part of the Celery task whose code makes it."""
    task = _task_stack.top
    return coroutine if task is None or isinstance(coroutine, _Wrapped) else ChildSteps(coroutine, task)


def host_here() -> Host | None:
    """Return the host of the event loop that runs in this thread; None where there is none, or it has no other work."""
    try:
        return _hosts.get(asyncio.get_running_loop())
    except RuntimeError:
        return None


def run_coroutine(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end: on the event loop whose greenlet this is, or on a loop of this thread's own."""
    running = getcurrent()
    if isinstance(running, TaskGreenlet):
        return running.drive(coroutine)
    runner: asyncio.Runner | None = getattr(_threads, "runner", None)
    if runner is None:
        runner = _threads.runner = asyncio.Runner()
    try:
        return runner.run(coroutine, context=contextvars.copy_context())
    finally:
        if inspect.iscoroutine(coroutine) and inspect.getcoroutinestate(coroutine) != inspect.CORO_CLOSED:
            # Cut off by a signal (a soft time limit of prefork), it must not go on within the next task: it is
            # cancelled, and its `finally` blocks run.
            _threads.runner = None
            runner.close()


_threads = threading.local()


def outside_loop(call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """
    Make a call that blocks for a moment.

    In a cooperative greenlet another thread makes it, as the same Celery task and with the same context variables.
    """
    running = current()
    if running is None:
        return call(*args, **kwargs)
    return _elsewhere(running, running.host.io, call, *args, **kwargs)


def outside_loop_for_long(call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Make a call to a user's code, likewise, but on the loop's default threads: it may take its time."""
    running = current()
    if running is None:
        return call(*args, **kwargs)
    return _elsewhere(running, None, call, *args, **kwargs)


def _elsewhere(
    running: Cooperative, threads: Executor | None, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
) -> T:
    context = contextvars.copy_context()
    bound = functools.partial(context.run, call, *args, **kwargs)
    return running.wait(running.host.loop.run_in_executor(threads, bound))


def as_this_task(call: Callable[P, T]) -> Callable[P, T]:
    """Return a call that is part of the Celery task that runs here, on whatever thread it is made."""
    task = _task_stack.top
    if task is None:
        return call
    requests, request = task.request_stack, task.request_stack.top

    def called(*args: P.args, **kwargs: P.kwargs) -> T:
        _task_stack.push(task)
        requests.push(request)
        try:
            return call(*args, **kwargs)
        finally:
            requests.pop()
            _task_stack.pop()

    return called


async def awaited(host: Host, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Make a call that blocks from a coroutine on the host's loop."""
    result: list[T] = []
    runs = _CallGreenlet(host, lambda: result.append(call(*args, **kwargs)))
    cancelled: asyncio.CancelledError | None = None
    waited = runs.switch()
    while not runs.dead:
        try:
            await asyncio.wait([waited])
        except asyncio.CancelledError as error:  # the call is not given up half-done either
            cancelled = error
        if waited.done():
            waited = runs.switch()
    if cancelled is not None:
        raise cancelled
    return result[0]
