"""What goes to Redis is awaited in an async agent and called in a sync one: the same steps do for both."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, TypeVar

from orchestrator.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Coroutine

R = TypeVar("R")

PLAIN_FUNCTION: Final = "in a sync agent, once() takes a plain function: no event loop is there for a coroutine"


def in_a_coroutine() -> bool:
    """Tell whether an event loop runs here: what would block is awaited then."""
    # In asyncio's __all__, whatever its name says: the other one tells by an exception, which costs as much as the rest
    # of a small write.
    return asyncio._get_running_loop() is not None  # noqa: SLF001  see above


def at_once(steps: Coroutine[Any, Any, R]) -> R:
    """
    Return what a coroutine gives that waits for nothing.

    Raises:
        InvalidInput: it does.
    """
    try:
        steps.send(None)
    except StopIteration as done:
        made: R = done.value
        return made
    steps.close()
    raise InvalidInput(PLAIN_FUNCTION)
