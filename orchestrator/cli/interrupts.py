"""Ctrl-C and SIGTERM, counted: the first asks to drain, the next to hurry."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Final, Self

CAUGHT: Final = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """
    While entered, SIGINT and SIGTERM only count.

    Attributes:
        count: how many have come.
    """

    def __init__(self) -> None:
        self.count = 0
        self._wake = threading.Event()
        self._before: list[tuple[signal.Signals, object]] = []

    def wait(self, seconds: float) -> None:
        """Sleep; an interrupt ends it early."""
        self._wake.wait(seconds)
        self._wake.clear()

    def __enter__(self) -> Self:
        self._before = [(caught, signal.signal(caught, self._on)) for caught in CAUGHT]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for caught, handler in self._before:
            signal.signal(caught, handler)  # type: ignore[arg-type]  # what signal.signal itself returned

    def _on(self, _number: int, _frame: FrameType | None) -> None:
        self.count += 1
        self._wake.set()
