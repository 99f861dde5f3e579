"""The event loop of a worker: on a thread of its own, watched from another."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import weakref
from collections import deque
from contextvars import ContextVar
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from orchestrator.runtime.bridge import Host, _Steps

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator
    from types import FrameType

logger = logging.getLogger(__name__)

TICK: Final = 0.1
"""Seconds between two looks at the loop."""

BLOCKED: Final = 0.25
"""Seconds after which an agent that does not let go of the loop is named in the log."""

QUIET: Final = 10.0
"""Seconds for which the same agent is not named again."""

STOP_GRACE: Final = 5.0
"""Seconds that what is left on the loop has for its `finally` blocks when the worker ends."""

TICKS_KEPT: Final = 600

running_task: ContextVar[str] = ContextVar("celeriac_task")
"""`agent[task id]` of the Celery task that runs; children of its asyncio task inherit it."""


class AgentLoop:
    """An event loop that async agents share."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.loop.set_task_factory(self._new_task)
        self.host = Host(self.loop)
        self._thread = threading.Thread(target=self._run, name="celeriac-loop", daemon=True)
        self._watcher = threading.Thread(target=self._watch, name="celeriac-loop-watch", daemon=True)
        self._stopped = threading.Event()
        self._inbox: deque[Callable[[], None]] = deque()
        self._called = False
        self._ticked = threading.Event()
        self._late: deque[float] = deque(maxlen=TICKS_KEPT)
        self._owners: weakref.WeakKeyDictionary[asyncio.Future[Any], str] = weakref.WeakKeyDictionary()
        self._named: dict[str, float] = {}

    def start(self) -> None:
        """Start it."""
        self._thread.start()
        self._watcher.start()

    def call(self, callback: Callable[[], None]) -> None:
        """Call something on the loop's thread, from any other; in order."""
        self._inbox.append(callback)
        if not self._called:
            self._called = True
            self.loop.call_soon_threadsafe(self._take)

    def _take(self) -> None:
        self._called = False
        while self._inbox:
            self._inbox.popleft()()

    def stop(self) -> None:
        """Cancel what is left, give it a moment to end, and stop."""
        self._stopped.set()
        self._watcher.join()
        if not self._thread.is_alive():
            return
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(STOP_GRACE + 1.0)
        if self._thread.is_alive():
            logger.warning("the event loop does not end: %s", self._running_now()[1])
        self.host.io.shutdown(wait=False, cancel_futures=True)

    def lag(self) -> dict[str, float]:
        """Return how late the loop was lately, in milliseconds: median, 99th percentile, maximum."""
        late = sorted(self._late)
        if not late:
            return {}
        p50, p99 = late[len(late) // 2], late[min(len(late) - 1, len(late) * 99 // 100)]
        return {name: round(value * 1000, 1) for name, value in (("p50", p50), ("p99", p99), ("max", late[-1]))}

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
            left = asyncio.all_tasks(self.loop)
            for task in left:
                task.cancel()
            if left:
                self.loop.run_until_complete(asyncio.wait(left, timeout=STOP_GRACE))
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        finally:
            self.loop.close()

    def _new_task(
        self,
        loop: asyncio.AbstractEventLoop,
        coroutine: Generator[Any, None, Any] | Coroutine[Any, Any, Any],
        **options: Any,  # noqa: ANN401  of asyncio, more with each version of Python
    ) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(coroutine, loop=loop, **options)
        if not isinstance(coroutine, _Steps):
            self._owners[task] = running_task.get("")
        return task

    # Watching

    def _watch(self) -> None:
        while not self._stopped.wait(TICK):
            self._ticked.clear()
            try:
                self.loop.call_soon_threadsafe(self._tick, monotonic())
            except RuntimeError:  # closed
                return
            if self._ticked.wait(BLOCKED / 2):
                continue
            before = self._running_now()
            if self._ticked.wait(BLOCKED / 2):
                continue
            after = self._running_now()
            # The same step of the same task at both times: it and not many small ones kept the loop from turning.
            if before[0] is not None and before[0] == after[0]:
                self._name(after[1])
            while not self._stopped.is_set() and not self._ticked.wait(TICK):
                pass

    def _tick(self, asked: float) -> None:
        self._late.append(monotonic() - asked)
        self._ticked.set()

    def _running_now(self) -> tuple[object, str]:
        """Return what marks the running step, and in words what it is and where."""
        frame = sys._current_frames().get(self._thread.ident or 0)  # noqa: SLF001  the one way to see another thread
        where = _where(frame)
        running, switches = self.host.running, self.host.switches
        if running is not None:
            return (switches, id(running)), f"{getattr(running, 'name', '?')} at {where}"
        task = asyncio.current_task(self.loop)
        if task is None:
            return None, f"a callback at {where}"
        owner = self._owners.get(task) or getattr(task.get_coro(), "__qualname__", "?")
        return (switches, id(task)), f"{owner} at {where}"

    def _name(self, what: str) -> None:
        name = what.partition("[")[0]
        now = monotonic()
        if now - self._named.get(name, -QUIET) < QUIET:
            return
        self._named[name] = now
        logger.warning(
            "the event loop is blocked, for more than %g s now, and all agents of this worker with it, by %s: "
            "await there, move it to asyncio.to_thread, or make the agent a plain def",
            BLOCKED,
            what,
        )


def _where(frame: FrameType | None) -> str:
    return "?" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"
