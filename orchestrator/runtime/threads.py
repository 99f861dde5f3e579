"""Threads beside the event loop: for sync tasks, which can be interrupted and given up, and for blocking calls."""

from __future__ import annotations

import contextvars
import ctypes
import logging
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

from orchestrator.runtime.bridge import Killed, as_this_task

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")


class Execution(Generic[T]):
    """
    One call on a thread; afterwards its result goes to `done`, None where an interruption took its place.

    Python can raise an exception in another thread, at its next bytecode: a handler in a loop of short sleeps ends at
    once, one within a long call of C only when that call returns. What does not end is given up: its thread takes no
    further call and ends with it.
    """

    def __init__(self, call: Callable[[], T], done: Callable[[T | None], None]) -> None:
        self.given_up = False
        self._call, self._done = call, done
        self._result: T | None = None
        self._lock = threading.Lock()
        self._thread: int | None = None

    def run(self) -> None:
        """Make the call, on the thread this is called on, with context variables of its own."""
        try:
            with self._lock:
                self._thread = threading.get_ident()
            self._result = contextvars.Context().run(self._call)
        except (Killed, Exception):  # of an interruption that came between two lines of ours
            logger.debug("interrupted at its end", exc_info=True)
        finally:
            with self._lock:
                raise_in(threading.get_ident(), None)  # what arrived too late must not hit the next call
                self._thread = None

    def report(self) -> None:
        """Hand over the result."""
        self._done(self._result)

    def interrupt(self, kind: type[BaseException]) -> None:
        """Raise an exception in the call, if it still runs."""
        with self._lock:
            if self._thread is not None:
                raise_in(self._thread, kind)

    def give_up(self) -> None:
        """End the call where Python can, and let its thread go."""
        self.given_up = True
        self.interrupt(Killed)


def raise_in(thread: int, kind: type[BaseException] | None) -> None:
    """Raise an exception in a thread at its next bytecode; None: take back one that was not raised yet."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(kind) if kind else None)


class Threads:
    """Threads that are made as they are needed and then kept."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[Execution[Any] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._idle = 0
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def run(self, execution: Execution[Any]) -> None:
        """Run a call on a thread, at once: how many there are at a time is the caller's to bound."""
        with self._lock:
            if self._idle:
                self._idle -= 1
            else:
                self._count += 1
                threading.Thread(target=self._work, name=f"celeriac-sync-{self._count}", daemon=True).start()
        self._calls.put(execution)

    def stop(self) -> None:
        """Let idle threads end; one that works ends with its call."""
        for _ in range(self._count):
            self._calls.put(None)

    def _work(self) -> None:
        while (execution := self._calls.get()) is not None:
            try:
                execution.run()
            except BaseException:
                logger.debug("interrupted after its end", exc_info=True)
            with self._lock:
                ends = execution.given_up  # read once: a thread that has been counted as idle must stay
                if ends:
                    self._count -= 1
                else:
                    self._idle += 1
            execution.report()
            if ends:
                return


class DaemonExecutor(ThreadPoolExecutor):
    """An executor whose threads do not keep the process: Python waits at its end for those of the standard one."""

    def __init__(self, most: int, name: str) -> None:
        super().__init__(most)
        self._most, self._name, self._started = most, name, 0
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = SimpleQueue()
        self._free = threading.Semaphore(0)

    def submit(self, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Make a call on a thread, as part of the Celery task that runs here."""
        future: Future[T] = Future()
        self._calls.put((future, partial(as_this_task(call), *args, **kwargs)))
        if not self._free.acquire(blocking=False) and self._started < self._most:
            self._started += 1
            threading.Thread(target=self._work, name=f"{self._name}-{self._started}", daemon=True).start()
        return future

    def _work(self) -> None:
        while True:
            future, call = self._calls.get()
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(call())
                except BaseException as error:  # noqa: BLE001  whoever waits for the future is told
                    future.set_exception(error)
            del future, call
            self._free.release()
