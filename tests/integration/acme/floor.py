"""Where acme's agents leave notes for whoever watches them, and wait for a word: files below `$ACME_FLOOR`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator import Context

POLL = 0.02


def floor() -> Path:
    return Path(os.environ["ACME_FLOOR"])


def note(ctx: Context, what: str) -> None:
    """Leave a note: one more line in `<run>.<what>`, with the process that wrote it and when (s)."""
    with (floor() / f"{ctx.run_id}.{what.replace('/', '+')}").open("a") as file:
        file.write(f"{os.getpid()} {time.monotonic():.3f}\n")


def told(ctx: Context, what: str = "go") -> bool:
    """Whether somebody has said the word to this run, or to all."""
    return (floor() / f"{ctx.run_id}.{what}").exists() or (floor() / f"all.{what}").exists()


async def wait_to_be_told(ctx: Context, what: str = "go") -> None:
    while not told(ctx, what):  # noqa: ASYNC110  the word comes from another process
        await asyncio.sleep(POLL)


def effect(ctx: Context) -> None:
    """
    Have an effect outside Redis: a service that does the same key's work once, and notes whose work it was.

    A link is made at once or not at all, where a file may be left empty by who dies over it: its name is the key's, its
    target says run, step and revision.
    """
    path = Path(os.environ["ACME_LEDGER"]) / ctx.idempotency_key.replace("/", "+")
    with contextlib.suppress(FileExistsError):  # the service has done this key's work before
        path.symlink_to(f"{ctx.run_id} {ctx.step} {ctx.revision}")
