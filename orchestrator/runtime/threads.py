"""Threads for sync tasks beside the event loop, whose tasks can be interrupted and given up."""

from __future__ import annotations

import ctypes
import logging
import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from orchestrator.runtime.bridge import Killed

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

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
        self._lock = threading.Lock()
        self._thread: int | None = None

    def run(self) -> None:
        """Make the call, on the thread this is called on."""
        result: T | None = None
        try:
            with self._lock:
                self._thread = threading.get_ident()
            result = self._call()
        except (Killed, Exception):  # of an interruption that came between two lines of ours
            logger.debug("interrupted at its end", exc_info=True)
        finally:
            with self._lock:
                _raise_in(threading.get_ident(), None)  # what arrived too late must not hit the next call
                self._thread = None
        self._done(result)

    def interrupt(self, kind: type[BaseException]) -> None:
        """Raise an exception in the call, if it still runs."""
        with self._lock:
            if self._thread is not None:
                _raise_in(self._thread, kind)

    def give_up(self) -> None:
        """End the call where Python can, and let its thread go."""
        self.given_up = True
        self.interrupt(Killed)


def _raise_in(thread: int, kind: type[BaseException] | None) -> None:
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
            execution.run()
            with self._lock:
                if execution.given_up:
                    self._count -= 1
                    return
                self._idle += 1
