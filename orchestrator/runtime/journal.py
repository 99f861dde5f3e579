"""The results of a step's sub-steps, as its agent records and recalls them."""

from __future__ import annotations

from typing import TYPE_CHECKING, ParamSpec, TypeVar

from orchestrator.runtime.bridge import awaited, host_here

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.state.runs import Begun, RunStore

P = ParamSpec("P")
T = TypeVar("T")


class StepJournal:
    """
    The journal of one execution of a step.

    Args:
        store: of the runs.
        begun: the execution; once its lease is lost nothing is recorded any more.
    """

    def __init__(self, store: RunStore, begun: Begun) -> None:
        self._store, self._begun = store, begun

    def recall(self, name: str) -> bytes | None:
        """Return a recorded result."""
        return self._store.recall(self._begun, name)

    def record(self, name: str, value: bytes) -> bytes:
        """Record a result; what was recorded first stands and is returned."""
        return self._store.record(self._begun, name, value)

    async def call(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Make a blocking call from a coroutine: of an agent on a shared event loop, without holding up the others."""
        host = host_here()
        return function(*args, **kwargs) if host is None else await awaited(host, function, *args, **kwargs)
