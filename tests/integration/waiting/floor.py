"""Where agents leave notes for whoever watches them, and wait for a word: files below `$ACME_FLOOR`."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator import Context

POLL = 0.02
MANY_POLL = 0.1
"""For agents that wait by the hundred."""


def floor() -> Path:
    return Path(os.environ["ACME_FLOOR"])


def note(ctx: Context, what: str) -> None:
    """Leave a note: one more line in `<run>.<what>`, with the process that wrote it and when (s)."""
    line = f"{os.getpid()} {time.monotonic():.3f}\n"
    with (floor() / f"{ctx.run_id}.{what}").open("a") as file:
        file.write(line)


def told(ctx: Context, word: str) -> bool:
    """Whether somebody has said the word to this run, or to all."""
    return (floor() / f"{ctx.run_id}.{word}").exists() or (floor() / f"all.{word}").exists()


async def wait_to_be_told(ctx: Context, word: str, *, poll: float = POLL) -> None:
    while not told(ctx, word):  # noqa: ASYNC110  the word comes from another process
        await asyncio.sleep(poll)


class Inside:
    """How many agents of a kind are at work in this process, now and at most."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now: Counter[str] = Counter()
        self.most: Counter[str] = Counter()

    @contextmanager
    def counted(self, kind: str) -> Iterator[None]:
        with self._lock:
            self._now[kind] += 1
            self.most[kind] = max(self.most[kind], self._now[kind])
        try:
            yield
        finally:
            with self._lock:
                self._now[kind] -= 1


inside = Inside()


def on_loop() -> bool:
    """Tell whether who asks holds up an event loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
