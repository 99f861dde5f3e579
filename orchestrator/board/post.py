"""A blackboard in Redis, as one attempt of a step, or one client, reads and writes it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ParamSpec, TypeVar, cast

from orchestrator.errors import BoardClosed, LeaseLost

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from orchestrator.messages import BoardEntry
    from orchestrator.state.boards import Author, Boards, Locking, Put, Wrote
    from orchestrator.state.locks import LockKeeper
    from orchestrator.state.runs import Change

P = ParamSpec("P")
R = TypeVar("R")


class _Pen:
    """Whose writes come one after the other: a number that is sent again is the last one."""

    def __init__(self, by: Author) -> None:
        self.by, self.number = by, 0


class RedisPost:
    """
    Where a board is kept, for `Board`.

    Args:
        boards: the store.
        keeper: of this process's locks.
        run_id: the run; `step`: the board's; `by`: who writes.
        carry_on: publishes what a write has made ready.
        call: makes a blocking call from a coroutine; None: it may block.
    """

    def __init__(
        self,
        boards: Boards,
        keeper: LockKeeper,
        run_id: str,
        step: str,
        by: Author,
        *,
        carry_on: Callable[[Change], None],
        call: Callable[..., Awaitable[object]] | None = None,
    ) -> None:
        self._boards, self._keeper = boards, keeper
        self._run_id, self._step, self._by = run_id, step, by
        self._carry_on, self._call = carry_on, call
        self._pens, self._made = [_Pen(by)], 1

    @property
    def name(self) -> str:
        """Who writes."""
        return self._by.name

    def over(self, flow: str) -> Exception:
        """Return what tells that nothing can be written any more: the run has ended, or the step is another's."""
        if self._by.step:
            return LeaseLost(self._run_id, self._by.step)
        return BoardClosed(flow, "its run has ended")

    def read(self, names: Sequence[str]) -> dict[str, BoardEntry] | None:
        """Return those of some entries that are there; None: there is no board."""
        return self._boards.read(self._run_id, self._step, names)

    def read_all(self, names: Sequence[str] = ()) -> tuple[dict[str, BoardEntry], int] | None:
        """Return all entries, or those of these names, and the writes so far; None: there is no board."""
        if names:
            return self._boards.look(self._run_id, self._step, names)
        found = self._boards.stands(self._run_id, self._step)
        return None if found is None else (found.entries, found.writes)

    def write(self, puts: Sequence[Put], *, once: str, watched: bool) -> Wrote:
        """Change entries, all or none, and let what this wakes be published."""
        # Coroutines and threads write at the same time, each with a pen of its own. A mutex would be held while a reply
        # is awaited on the event loop, and the next one to ask for it there would stop the loop for ever.
        try:
            pen = self._pens.pop()
        except IndexError:
            self._made += 1
            pen = _Pen(replace(self._by, writer=f"{self._by.writer}/{self._made}"))
        try:
            pen.number += 1
            wrote = self._boards.write(self._run_id, self._step, pen.by, pen.number, puts, once=once, watched=watched)
        finally:
            self._pens.append(pen)
        if wrote.change is not None:
            self._carry_on(wrote.change)
        return wrote

    def lock(self, lock: str, names: Sequence[str], *, ttl: float, wait: float) -> Locking:
        """Lock entries, or wait for them."""
        channel = self._keeper.channel
        return self._boards.lock(self._run_id, self._step, self._by, lock, names, ttl=ttl, wait=wait, channel=channel)

    def unlock(self, lock: str, names: Sequence[str]) -> bool:
        """Give a lock up, or the wait for one."""
        self._keeper.release(lock)
        return self._boards.unlock(self._run_id, self._step, lock, names)

    def keep(self, lock: str, names: Sequence[str], *, ttl: float, on_lost: Callable[[], None]) -> None:
        """Hold a lock from now on, until `unlock`."""

        def renew() -> bool:
            return self._boards.extend(self._run_id, self._step, lock, names, ttl=ttl)

        self._keeper.keep(lock, renew, on_lost, ttl=ttl)

    def listen(self, lock: str, told: Callable[[str], None]) -> None:
        """Call back when a lock is held, with its token, or cannot be."""
        self._keeper.listen(lock, told)

    def ignore(self, lock: str) -> None:
        """Call back no more."""
        self._keeper.ignore(lock)

    async def call(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Make a blocking call from a coroutine."""
        if self._call is None:
            return function(*args, **kwargs)
        return cast("R", await self._call(function, *args, **kwargs))
