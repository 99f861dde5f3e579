"""The idle timeout: an attempt that shows no sign of life for too long is given up."""

from __future__ import annotations

import asyncio
import math
import time
from typing import TYPE_CHECKING, Final, TypeVar

from orchestrator.errors import InvalidPolicy, definition_site

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")

LATE: Final = 0.1
"""Seconds behind its time from which a loop counts as blocked: what runs in it could not beat."""


class IdleTimeout(TimeoutError):
    """Nobody beat for too long. `IdleTimeout(limit)`, in seconds."""

    def __init__(self, limit: float) -> None:
        super().__init__(limit)

    def __str__(self) -> str:
        return f"no heartbeat for {self.args[0]:g} s"


class IdleWatch:
    """
    Knows when an attempt last showed a sign of life.

    Args:
        limit: seconds without one.
        clock: seconds that never go back.

    Raises:
        InvalidPolicy: the limit does not fit; the message names the file.
    """

    __slots__ = ("_clock", "_last", "limit")

    def __init__(self, limit: float, clock: Callable[[], float] = time.monotonic) -> None:
        given: object = limit
        if not (isinstance(given, int | float) and not isinstance(given, bool) and 0 < given < math.inf):
            why = f"idle must be above 0 s and finite, not {given!r:.40}"
            raise InvalidPolicy("IdleWatch", definition_site(), why)
        self.limit = limit
        self._clock = clock
        self._last = clock()

    def beat(self) -> None:
        """Show a sign of life; from any thread."""
        self._last = self._clock()

    def idle_for(self) -> float:
        """Return the seconds since the last sign of life."""
        return max(0.0, self._clock() - self._last)

    def remaining(self) -> float:
        """Return the seconds until the limit; never below 0."""
        return max(0.0, self.limit - self.idle_for())


class _Timer:
    """Cancels a task when its watch has run out; armed for the time that is left, and again where there were beats."""

    def __init__(self, watch: IdleWatch, task: asyncio.Task[object]) -> None:
        self.expired = False
        self._watch = watch
        self._task = task
        self._loop = asyncio.get_running_loop()
        self._spared = False
        self._handle = self._armed(watch.remaining())

    def stop(self) -> None:
        self._handle.cancel()

    def _armed(self, seconds: float) -> asyncio.TimerHandle:
        return self._loop.call_later(seconds, self._look)

    def _look(self) -> None:
        left = self._watch.remaining()
        if left > 0:
            self._spared = False
            self._handle = self._armed(left)
            return
        late = self._loop.time() - self._handle.when()
        if late > LATE and not self._spared:
            # Another coroutine has blocked the loop, and this one could not beat: once, it gets the time it was denied.
            self._spared = True
            self._handle = self._armed(min(late, self._watch.limit))
            return
        self.expired = True
        self._task.cancel()


async def watched(coroutine: Coroutine[object, object, T], watch: IdleWatch) -> T:
    """
    Run a coroutine, and give it up when nobody has beaten for the watch's limit; its start counts as a beat.

    It is cancelled, so that its `finally` blocks run. A cancellation from elsewhere, what it raises and what it returns
    pass through.

    Raises:
        IdleTimeout: in the place of the cancellation.
    """
    task = asyncio.current_task()
    if task is None:
        coroutine.close()
        msg = "watched() is awaited in an asyncio task"
        raise RuntimeError(msg)
    cancelling = task.cancelling()
    watch.beat()
    timer = _Timer(watch, task)
    try:
        return await coroutine
    except asyncio.CancelledError as error:
        # As in asyncio.timeout: where another cancellation came as well, it goes on.
        if timer.expired and task.cancelling() - 1 <= cancelling:
            raise IdleTimeout(watch.limit) from error
        raise
    finally:
        timer.stop()
        if timer.expired:
            task.uncancel()
