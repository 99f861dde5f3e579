"""
The worker pool for agents that wait: all async tasks of a worker share one event loop.

`CELERY_CUSTOM_WORKER_POOL=orchestrator.runtime.pool:AsyncioPool celery -A orchestrator.app worker -P custom -c 1000`

The worker's main thread takes messages, as in any pool, and counts slots here. An async task runs on the loop's thread:
Celery's tracer in a greenlet (`bridge`), its coroutine as an asyncio task. Everything else runs on threads.
"""

from __future__ import annotations

import gc
import logging
import os
import threading
from collections import deque
from functools import partial
from itertools import count
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from billiard.einfo import ExceptionInfo
from billiard.exceptions import SoftTimeLimitExceeded, WorkerLostError
from celery.concurrency.base import BasePool
from celery.concurrency.prefork import _run_ready_callbacks
from celery.exceptions import ImproperlyConfigured

from orchestrator.agent import agents
from orchestrator.broker import START_QUEUE
from orchestrator.runtime.bridge import Killed, SoftLimit, TaskGreenlet
from orchestrator.runtime.loop import AgentLoop
from orchestrator.runtime.threads import Execution, Threads
from orchestrator.settings import get_settings

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from kombu.asynchronous import Hub
    from kombu.asynchronous.timer import Entry

logger = logging.getLogger(__name__)

KILL_GRACE: Final = 5.0
"""Seconds that a cancelled task has for its `finally` blocks, before its slot is given to another."""

DRAIN_PAUSE: Final = 0.2

SYNC_AHEAD: Final = 4
"""Sync tasks may wait for a thread in their worker, one for so many threads; the others stay in their queues."""

LOOP_THREADS: Final = 32
"""Threads for what async agents give to `asyncio.to_thread`, for gates and for host names, at least."""

YOUNG_OBJECTS: Final = 20_000
"""New objects before Python looks for garbage among them; its 700 took a third of a busy worker's time."""


class Job:
    """
    One task on its way through the pool.

    Everything here is of the worker's main thread, but for what says otherwise.
    """

    def __init__(
        self,
        pool: AsyncioPool,
        call: Callable[[], Any],
        name: str,
        *,
        is_async: bool,
        callback: Callable[[Any], Any],
        error_callback: Callable[[ExceptionInfo], Any],
        accept_callback: Callable[[int, float], Any],
        timeout_callback: Callable[[bool, float], Any],
        soft: float | None,
        hard: float | None,
    ) -> None:
        self.pool, self.call, self.name, self.is_async = pool, call, name, is_async
        self.on_success, self.on_failure = callback, error_callback
        self.on_accepted, self.on_timeout = accept_callback, timeout_callback
        self.soft, self.hard = soft, hard
        self.pid = 0
        self.killed = False
        self._greenlet: TaskGreenlet | None = None
        self._execution: Execution[Callable[[], Any] | None] | None = None
        self._timers: list[asyncio.TimerHandle | Entry] = []

    def is_revoked(self) -> bool:
        """Whether the task was revoked while it waited for a slot; its request is told."""
        request = getattr(self.on_accepted, "__self__", None)
        try:
            return bool(request is not None and request.revoked())
        except Exception:  # telling the result backend, say; another task's message must not suffer for it
            logger.exception("%s was revoked, which could not be reported", self.name)
            return True

    def terminate(self, signum: object = None) -> None:  # noqa: ARG002  Celery's signature; a signal means little here
        """End the task: the agent is cancelled, its `finally` blocks run, and nothing is said of it any more."""
        if not self.killed:
            self.killed = True
            if self.pid:
                self.pool.kill(self)

    # On the loop's thread

    def start_on_loop(self) -> None:
        """Begin an async task."""
        host = self.pool.loop.host
        self._greenlet = runs = TaskGreenlet(host, self._run)
        runs.name = self.name
        if self.soft:
            self._timers.append(host.loop.call_later(self.soft, self._soft_on_loop))
        if self.hard:
            self._timers.append(host.loop.call_later(self.hard, self._hard_on_loop))
        host.turn(runs)

    def _run(self) -> None:
        finished = self._outcome()
        for timer in self._timers:
            timer.cancel()
        self._greenlet = None
        self.pool.post(partial(self.pool.finish, self, finished))

    def _soft_on_loop(self) -> None:
        if self._greenlet is not None and self.soft and not self._greenlet.over:
            self._greenlet.interrupt(SoftLimit(self.soft))
            self.pool.post(partial(self.on_timeout, True, self.soft))  # noqa: FBT003  Celery's signature

    def _hard_on_loop(self) -> None:
        if self._greenlet is not None and not self.killed:
            self.pool.post(self._say_overrun)
            self.pool.post(partial(self.pool.expect_end, self))
            self.kill_on_loop()
            self.killed = True  # what follows the coroutine, a gate say, is not cut off, but keeps no slot either

    def kill_on_loop(self) -> None:
        """Cancel an async task."""
        if self._greenlet is not None and not self._greenlet.over:
            self.killed = True
            self._greenlet.kill()

    # On a thread of its own

    def start_on_thread(self, threads: Threads, hub: Hub) -> None:
        """Begin a sync task."""
        self._execution = Execution(self._outcome, self._done_on_thread)
        if self.soft:
            self._timers.append(hub.call_later(self.soft, self._soft_on_thread))
        if self.hard:
            self._timers.append(hub.call_later(self.hard, self._hard_on_thread))
        threads.run(self._execution)

    def _done_on_thread(self, finished: Callable[[], Any] | None) -> None:
        if finished is None and not self.killed:
            finished = self._lost(SoftTimeLimitExceeded("an interruption hit the task as it ended"))
        self.pool.post(partial(self._finish_thread, finished))

    def _finish_thread(self, finished: Callable[[], Any] | None) -> None:
        for timer in self._timers:
            timer.cancel()
        self.pool.finish(self, finished)

    def _soft_on_thread(self) -> None:
        if self._execution is not None and self.soft and self.pid in self.pool.jobs:
            self._execution.interrupt(SoftTimeLimitExceeded)
            self.on_timeout(True, self.soft)  # noqa: FBT003

    def give_up_thread(self) -> None:
        """Interrupt a sync task; its slot is free at once, its thread when Python can end it."""
        if self._execution is not None:
            self._execution.give_up()
        self._finish_thread(None)

    def _hard_on_thread(self) -> None:
        self._say_overrun()
        self.terminate()

    # On either

    def _say_overrun(self) -> None:
        if self.pid in self.pool.jobs and self.hard:
            self.on_timeout(False, self.hard)  # noqa: FBT003

    def _outcome(self) -> Callable[[], Any] | None:
        try:
            result = self.call()
        except Killed:
            return None
        except BaseException as error:  # noqa: BLE001  what ends a child of prefork: SystemExit, KeyboardInterrupt
            return self._lost(error)
        return partial(self.on_success, result)

    def _lost(self, error: BaseException) -> Callable[[], Any]:
        lost = WorkerLostError(repr(error)).with_traceback(error.__traceback__)
        return partial(self.on_failure, ExceptionInfo((WorkerLostError, lost, error.__traceback__)))


class AsyncioPool(BasePool):
    """
    Celery's worker pool for async tasks, with threads for sync ones.

    The worker's concurrency is the number of tasks in flight at once, of both kinds; at most the setting `sync_threads`
    of them are sync ones.
    """

    signal_safe = False
    body_can_be_buffer = True

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self._sync_limit = get_settings().sync_threads
        self.loop = AgentLoop(max(LOOP_THREADS, self._sync_limit))
        self.jobs: dict[int, Job] = {}
        self._threads = Threads()
        self._sync_jobs = 0
        self._sync_queues = {START_QUEUE, *(name for name, agent in agents().items() if not agent.is_async)}
        self._waiting: tuple[deque[Job], deque[Job]] = (deque(), deque())  # sync and async
        self._pids = count(1)
        self._hub: Hub | None = None  # until Celery's loop runs; no message comes before
        self._outbox: deque[Callable[[], Any]] = deque()
        self._posted = threading.Event()
        self._starting = False

    # Celery's side

    def on_start(self) -> None:
        """Start the loop."""
        if self.options.get("threads", True):
            msg = "the asyncio pool needs a broker whose transport has an event loop: Redis or RabbitMQ"
            raise ImproperlyConfigured(msg)
        with self.app.connection_for_read() as connection:
            # A worker takes no more messages than it has slots: what would wait here for minutes, another can begin.
            self.app.conf.worker_disable_prefetch = connection.transport.driver_type == "redis"
        # What thousands of steps in flight hold on to, every collection of Python's 700 new objects would look through.
        gc.set_threshold(YOUNG_OBJECTS, *gc.get_threshold()[1:])
        self.loop.start()

    def register_with_event_loop(self, loop: Hub) -> None:
        """Take Celery's hub, which calls back into the main thread."""
        self._hub = loop
        # What its last turn has not called before it raised is forgotten, this one among it.
        self._posted.set()
        loop.call_soon(self.deliver)

    def on_apply(
        self,
        target: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        callback: Callable[..., Any],
        error_callback: Callable[..., Any],
        accept_callback: Callable[..., Any],
        timeout_callback: Callable[..., Any],
        soft_timeout: float | None = None,
        timeout: float | None = None,
        **_: object,
    ) -> Job:
        """Run a task as soon as there is a slot."""
        name, task_id = args[0], args[1]
        task = self.app.tasks.get(name)
        job = Job(
            self,
            partial(target, *args, **kwargs),
            f"{name}[{task_id}]",
            is_async=getattr(task, "is_async", False),
            callback=callback,
            error_callback=error_callback,
            accept_callback=accept_callback,
            timeout_callback=timeout_callback,
            soft=soft_timeout or self.options.get("soft_timeout"),
            hard=timeout or self.options.get("timeout"),
        )
        self._waiting[job.is_async].append(job)
        self._start_next()
        return job

    def grow(self, n: int = 1) -> None:
        """Have more slots."""
        if n < 0:
            msg = f"cannot grow by {n}: use pool_shrink for fewer slots"
            raise ValueError(msg)
        self.limit += n
        self._start_next()

    def shrink(self, n: int = 1) -> None:
        """Have fewer slots; what runs goes on to its end."""
        if n < 0:
            msg = f"cannot shrink by {n}: use pool_grow for more slots"
            raise ValueError(msg)
        if n >= self.limit:
            msg = f"cannot shrink by {n}: the pool has {self.limit} slots, and at least one stays"
            raise ValueError(msg)
        self.limit -= n

    def terminate_job(self, pid: int, signal: object = None) -> None:
        """End a task that was revoked."""
        job = self.jobs.get(pid)
        if job is not None:
            job.terminate(signal)

    def flush(self) -> None:
        """Forget what waits for a slot: its messages are another worker's, or come again."""
        for waiting in self._waiting:
            waiting.clear()

    def on_stop(self) -> None:
        """Wait for what runs."""
        self.flush()
        self._drain(None)
        self._close()

    def on_terminate(self) -> None:
        """End what runs."""
        self.flush()
        for job in list(self.jobs.values()):
            job.terminate()
        self._drain(KILL_GRACE + 1.0)
        self._close()

    def _get_info(self) -> dict[str, Any]:
        info: dict[str, Any] = super()._get_info()
        return info | {
            "processes": [os.getpid()],
            "async-in-flight": len(self.jobs) - self._sync_jobs,
            "sync-in-flight": self._sync_jobs,
            "waiting-for-a-slot": sum(len(waiting) for waiting in self._waiting),
            "threads": len(self._threads),
            "max-sync-in-flight": self._sync_limit,
            **{f"loop-lag-{name}-ms": late for name, late in self.loop.lag().items()},
        }

    # Slots, on the main thread

    def wants(self, queue: str) -> bool:
        """Tell whether a message of this queue could be begun soon: a sync agent needs a thread besides a slot."""
        return queue not in self._sync_queues or len(self._waiting[0]) <= self._sync_limit // SYNC_AHEAD

    def _start_next(self) -> None:
        if self._starting:
            return  # a request that is told of its end may hand the next one in
        self._starting = True
        try:
            sync, asynchronous = self._waiting
            while asynchronous and len(self.jobs) < self.limit:
                self._start(asynchronous.popleft())
            while sync and len(self.jobs) < self.limit and self._sync_jobs < self._sync_limit:
                self._start(sync.popleft())
        finally:
            self._starting = False

    def _start(self, job: Job) -> None:
        if job.is_revoked() or self._hub is None:
            return
        job.pid = next(self._pids)
        self.jobs[job.pid] = job
        try:
            job.on_accepted(job.pid, monotonic())
        except Exception:  # as of a child of prefork: what cannot be reported is run all the same
            logger.exception("%s: its start could not be reported", job.name)
        if job.is_async:
            self.loop.call(job.start_on_loop)
            if job.killed:
                self.kill(job)
        elif job.killed:
            self._sync_jobs += 1
            self.finish(job, None)
        else:
            self._sync_jobs += 1
            job.start_on_thread(self._threads, self._hub)

    def kill(self, job: Job) -> None:
        """End a task."""
        if job.is_async:
            self.loop.call(job.kill_on_loop)
            self.expect_end(job)
        else:
            job.give_up_thread()

    def expect_end(self, job: Job) -> None:
        """Give a cancelled task its time to end, and then its slot to another. It may hold the loop: count it here."""
        if self._hub is not None:
            self._hub.call_later(KILL_GRACE, self._give_up, job)

    def _give_up(self, job: Job) -> None:
        if job.pid in self.jobs:
            logger.error("%s does not end though it was cancelled; its slot goes to another", job.name)
            self.finish(job, None)

    def finish(self, job: Job, finished: Callable[[], Any] | None) -> None:
        """Give a task's slot to the next, and tell its request how it ended."""
        if self.jobs.pop(job.pid, None) is None:
            return
        if not job.is_async:
            self._sync_jobs -= 1
        try:
            if finished is not None and not job.killed:
                finished()
        finally:
            self._start_next()

    # From other threads to the main thread

    def post(self, callback: Callable[[], Any]) -> None:
        """Call something on the main thread, from any other; in order."""
        self._outbox.append(callback)
        self._notify()

    def _notify(self) -> None:
        if not self._posted.is_set():
            self._posted.set()
            if self._hub is not None:
                self._hub.call_soon(self.deliver)

    def deliver(self) -> None:
        """Call what other threads have posted."""
        self._posted.clear()
        while self._outbox:
            callback = self._outbox.popleft()
            try:
                callback()
            except Exception:
                logger.exception("a task's outcome could not be handled")

    def _drain(self, timeout: float | None) -> None:
        until = None if timeout is None else monotonic() + timeout
        while self.jobs and (until is None or monotonic() < until):
            self._posted.wait(DRAIN_PAUSE)
            self.deliver()
            if self._hub is not None:
                # As prefork does: heartbeats go on, and late acks are not kept until the last task has ended.
                self._hub.fire_timers()
                _run_ready_callbacks(self._hub)
        self.deliver()

    def _close(self) -> None:
        self.loop.stop()
        self._threads.stop()
        self.deliver()
