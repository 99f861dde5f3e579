"""The event loop of a worker: on a thread of its own, watched from another."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from collections import deque
from collections.abc import Coroutine
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from orchestrator.runtime.bridge import IO_THREADS, ChildSteps, Host, of_this_task
from orchestrator.runtime.threads import DaemonExecutor

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
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


class AgentLoop:
    """
    An event loop that async agents share.

    Args:
        threads: for what agents hand to `asyncio.to_thread`, and for gates.
    """

    def __init__(self, threads: int) -> None:
        self.loop = asyncio.new_event_loop()
        self.loop.set_task_factory(_new_task)
        self.loop.set_default_executor(DaemonExecutor(threads, "celeriac-thread"))
        self.host = Host(self.loop, DaemonExecutor(IO_THREADS, "celeriac-io"))
        self._thread = threading.Thread(target=self._run, name="celeriac-loop", daemon=True)
        self._watcher = threading.Thread(target=self._watch, name="celeriac-loop-watch", daemon=True)
        self._stopped = threading.Event()
        self._inbox: deque[Callable[[], None]] = deque()
        self._called = False
        self._ticked = threading.Event()
        self._late: deque[float] = deque(maxlen=TICKS_KEPT)
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
            callback = self._inbox.popleft()
            try:
                callback()
            except Exception:
                logger.exception("a call to the event loop failed")

    def stop(self) -> None:
        """Cancel what is left, give it a moment to end, and stop."""
        if self._stopped.is_set():
            return  # a cold shutdown stops its pool twice
        self._stopped.set()
        self._watcher.join()
        if not self._thread.is_alive():
            return
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(STOP_GRACE + 1.0)
        if self._thread.is_alive():
            logger.warning("the event loop does not end: %s", self._running_now()[1])

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
            self._run_until_stopped()
            left = asyncio.all_tasks(self.loop)
            for task in left:
                task.cancel()
            if left:
                self.loop.run_until_complete(asyncio.wait(left, timeout=STOP_GRACE))
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        finally:
            self.loop.close()

    def _run_until_stopped(self) -> None:
        while True:
            try:
                self.loop.run_forever()
            except BaseException as error:  # noqa: BLE001  the loop must not end under all other agents
                # asyncio gives a SystemExit to whoever awaits the task that raised it, and lets it out of the loop too.
                logger.warning("a task of an agent raised %r; the event loop goes on", error)
            else:
                return

    # Watching

    def _watch(self) -> None:
        looked = monotonic()
        while not self._stopped.wait(TICK):
            self._ticked.clear()
            try:
                # From when this thread meant to wake: what kept it from that keeps agents as well.
                self.loop.call_soon_threadsafe(self._tick, looked + TICK)
            except RuntimeError:  # closed
                return
            if self._ticked.wait(BLOCKED / 2):
                looked = monotonic()
                continue
            before = self._running_now()
            if self._ticked.wait(BLOCKED / 2):
                looked = monotonic()
                continue
            after = self._running_now()
            # The same step of the same task at both times: it and not many small ones kept the loop from turning.
            if before[0] is not None and before[0] == after[0]:
                self._name(after[1])
            while not self._stopped.is_set() and not self._ticked.wait(TICK):
                pass
            looked = monotonic()

    def _tick(self, asked: float) -> None:
        self._late.append(monotonic() - asked)
        self._ticked.set()

    def _running_now(self) -> tuple[object, str]:
        """Return what marks the running step, and in words what it is and where."""
        frame = sys._current_frames().get(self._thread.ident or 0)  # noqa: SLF001  the one way to see another thread
        where = _where(frame)
        running, switches = self.host.running, self.host.switches
        if running is not None:
            return (switches, id(running)), f"{running.name} at {where}"
        task = asyncio.current_task(self.loop)
        if task is None:
            return None, f"a callback at {where}"
        coroutine = task.get_coro()
        name = coroutine.name if isinstance(coroutine, ChildSteps) else getattr(coroutine, "__qualname__", "?")
        return (switches, id(task)), f"{name} at {where}"

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


def _new_task(
    loop: asyncio.AbstractEventLoop,
    coroutine: Generator[Any, None, Any] | Coroutine[Any, Any, Any],
    **options: Any,  # noqa: ANN401  of asyncio, more with each version of Python
) -> asyncio.Task[Any]:
    if isinstance(coroutine, Coroutine):
        coroutine = of_this_task(coroutine)
    return asyncio.Task(coroutine, loop=loop, **options)


def _where(frame: FrameType | None) -> str:
    return "?" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"
