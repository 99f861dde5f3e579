"""The state's Redis client of a worker: from the event loop, many calls go in one round trip."""

from __future__ import annotations

import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final

import redis
from redis.client import Pipeline

from orchestrator.runtime.bridge import current, outside_loop

if TYPE_CHECKING:
    import asyncio

    from orchestrator.runtime.bridge import Host

AGAIN: Final = (redis.exceptions.OutOfMemoryError, redis.exceptions.BusyLoadingError)
"""Replies that a client tries again with backoff, and a pipeline takes for an answer."""

Call = tuple[tuple[Any, ...], dict[str, Any], "asyncio.Future[Any]"]


class BatchingRedis(redis.Redis):
    """
    A Redis client that blocks nobody else: a cooperative greenlet waits for its reply while the loop goes on.

    What one turn of the loop asks for is sent together, and what is asked for while that is under way is sent next:
    the busier the loop, the fewer round trips for a call. Anywhere else it is redis-py's client unchanged.
    """

    def execute_command(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401  redis-py's
        """Execute a command and return its reply."""
        running = current()
        if running is None:
            return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
        batchers = running.host.batchers
        batcher = batchers.get(id(self)) or batchers.setdefault(id(self), _Batcher(self, running.host))
        try:
            return running.wait(batcher.call(args, options))
        except AGAIN:
            return outside_loop(super().execute_command, *args, **options)

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Pipeline:  # noqa: FBT001, FBT002  redis-py's
        """Return a pipeline; the thread of the loop does not wait for it either."""
        return _Pipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)


class _Pipeline(Pipeline):
    def execute(self, raise_on_error: bool = True) -> list[Any]:  # noqa: FBT001, FBT002  redis-py's signature
        found: list[Any] = outside_loop(super().execute, raise_on_error)
        return found


class _Batcher:
    """Gathers the calls of one loop, and sends them from a thread of its own; one batch is under way at a time."""

    def __init__(self, client: BatchingRedis, host: Host) -> None:
        self._client = client  # kept alive: its id names this batcher
        self._host, self._loop = host, host.loop
        self._gathered: list[Call] = []
        self._busy = False
        self._batches: SimpleQueue[list[Call]] = SimpleQueue()
        threading.Thread(target=self._send_for_ever, name="celeriac-redis", daemon=True).start()

    def call(self, args: tuple[Any, ...], options: dict[str, Any]) -> asyncio.Future[Any]:
        """Ask for a reply; on the loop's thread."""
        future = self._loop.create_future()
        self._host.asked()
        if not self._gathered and not self._busy:
            self._loop.call_soon(self._hand_over)
        self._gathered.append((args, options, future))
        return future

    def _hand_over(self) -> None:
        gathered, self._gathered = self._gathered, []
        self._busy = bool(gathered)
        if gathered:
            self._batches.put(gathered)

    def _send_for_ever(self) -> None:
        while True:
            calls = self._batches.get()
            replies = self._send(calls)
            try:
                self._loop.call_soon_threadsafe(self._deliver, calls, replies)
            except RuntimeError:  # the loop is closed: the worker has ended
                return

    def _send(self, calls: list[Call]) -> list[Any]:
        client = self._client
        try:
            pipeline = Pipeline(client.connection_pool, client.response_callbacks, transaction=False, shard_hint=None)
            for args, options, _ in calls:
                pipeline.execute_command(*args, **options)  # type: ignore[no-untyped-call]
            return pipeline.execute(raise_on_error=False)
        except Exception as error:  # noqa: BLE001  each of the callers is told
            away = isinstance(error, redis.RedisError) and not isinstance(error, redis.DataError)
            if len(calls) == 1 or away:
                return [error] * len(calls)
            # One of them cannot be written, a name with a lone surrogate, say; the others must not fail with it.
            return [reply for call in calls for reply in self._send([call])]

    def _deliver(self, calls: list[Call], replies: list[Any]) -> None:
        self._host.answered(len(calls))
        self._hand_over()  # what was asked for meanwhile
        for (_, _, future), reply in zip(calls, replies, strict=True):
            if future.done():
                continue
            if isinstance(reply, BaseException):
                future.set_exception(reply)
            else:
                future.set_result(reply)
