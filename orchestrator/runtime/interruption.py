"""Ends a sync handler from another thread, where Python can: its run was cancelled, or it shows no sign of life."""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING, Self

from billiard.exceptions import SoftTimeLimitExceeded

from orchestrator.runtime.threads import raise_in

if TYPE_CHECKING:
    from types import TracebackType

SOFT_HANDLER = "soft_timeout_sighandler"


class Interruptible:
    """
    A block that other threads can interrupt: `SoftTimeLimitExceeded` is raised in it, once.

    In the main thread of a prefork child by the signal that its soft time limits use, which a sleep or a read answers
    too; anywhere else at the next bytecode.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: int | None = None
        self._by_signal = False

    def __enter__(self) -> Self:
        self._by_signal = (
            threading.current_thread() is threading.main_thread()
            and getattr(signal.getsignal(signal.SIGUSR1), "__name__", "") == SOFT_HANDLER
        )
        with self._lock:
            self._thread = threading.get_ident()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._lock:
            if not self._by_signal and self._thread is None:
                raise_in(threading.get_ident(), None)  # what came too late must not hit what follows
            self._thread = None

    def interrupt(self) -> None:
        """Interrupt the block, unless it has ended or was interrupted before."""
        with self._lock:
            if self._thread is None:
                return
            if self._by_signal:
                os.kill(os.getpid(), signal.SIGUSR1)
            else:
                raise_in(self._thread, SoftTimeLimitExceeded)
            self._thread = None
