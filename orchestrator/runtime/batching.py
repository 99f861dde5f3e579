"""The state's Redis client of a worker: a thread keeps its connection, and an event loop's calls go out together."""

from __future__ import annotations

import os
import sys
import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

import hiredis
import redis
from greenlet import getcurrent
from redis.client import Pipeline
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from orchestrator.runtime.bridge import current, outside_loop

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from greenlet import greenlet

    from orchestrator.runtime.bridge import Host

AGAIN: Final = (redis.exceptions.OutOfMemoryError, redis.exceptions.BusyLoadingError)
"""Replies that a client tries again with backoff, and a pipeline takes for an answer."""
AWAY: Final = (RedisConnectionError, RedisTimeoutError, *AGAIN)

SCRIPT: Final = "EVALSHA"
"""What nearly all commands are; no options and no callbacks of redis-py's are about it."""

Call = tuple[tuple[Any, ...], dict[str, Any], "asyncio.Future[Any]"]


class BatchingRedis(redis.Redis):
    """
    A Redis client that blocks nobody else: a cooperative greenlet waits for its reply while the loop goes on.

    What one turn of the loop asks for is sent together, and what is asked for while that is under way is sent next:
    the busier the loop, the fewer round trips for a call. Anywhere else a thread keeps a connection of the pool's until
    it ends: to take one out, look at it and put it back costs as much as the call. What fails on it is tried again by
    redis-py's client, as by its policy.
    """

    def __init__(self, *args: Any, **options: Any) -> None:  # noqa: ANN401  redis-py's
        super().__init__(*args, **options)
        self._kept = _Kept()
        self._alongside: WeakKeyDictionary[greenlet, list[Along]] = WeakKeyDictionary()

    def execute_command(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401  redis-py's
        """Execute a command and return its reply."""
        alongside = self._alongside.pop(getcurrent(), ()) if self._alongside else ()
        running = current()
        if running is None:
            return self._call(args, options, alongside)
        batchers = running.host.batchers
        batcher = batchers.get(id(self)) or batchers.setdefault(id(self), _Batcher(self, running.host))
        future = batcher.call(args, options)
        for along in alongside:
            along.future = batcher.call(along.command, {})
        try:
            return running.wait(future)
        except AGAIN:
            return outside_loop(super().execute_command, *args, **options)

    def along(self, *command: Any) -> Along:  # noqa: ANN401  as of execute_command
        """
        Let a command go out after the next one of this thread or greenlet, in one round trip with it.

        It is sent once. Who gets no reply does not know whether it was executed.
        """
        along = Along(self, command)
        self._alongside.setdefault(getcurrent(), []).append(along)
        return along

    def withdraw(self, along: Along) -> None:
        """Do not send it any more."""
        alongside = self._alongside.get(getcurrent(), [])
        if along in alongside:
            alongside.remove(along)

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Pipeline:  # noqa: FBT001, FBT002  redis-py's
        """Return a pipeline; the thread of the loop does not wait for it either."""
        return _Pipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)

    def _call(self, args: tuple[Any, ...], options: dict[str, Any], alongside: Sequence[Along]) -> Any:  # noqa: ANN401
        kept = self._kept
        # Whoever comes in between, a signal's handler say, takes another: a reply is read by who has asked for it.
        lent, kept.lent = kept.lent, None
        if lent is None or lent.connection.pid != os.getpid():
            lent = _Lent(self.connection_pool)
        try:
            if not alongside:
                return lent.call(self, args, options)
            calls = [(args, options), *((along.command, dict[str, Any]()) for along in alongside)]
            reply, *others = lent.call_all(self, calls)
            for along, other in zip(alongside, others, strict=True):
                along.reply = other
        except AWAY as error:
            if not lent.tries_again(error):
                raise
            return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
        finally:
            kept.lent = lent
        if isinstance(reply, BaseException):
            raise reply
        return reply


class Along:
    """A call that goes out with another."""

    def __init__(self, client: BatchingRedis, command: tuple[Any, ...]) -> None:
        self.command = command
        self.reply: Any = None
        self.future: asyncio.Future[Any] | None = None
        self._client = client

    def end(self) -> Any:  # noqa: ANN401  redis-py's
        """Return its reply; None: there is none, and from now on it is not sent any more."""
        self._client.withdraw(self)
        if self.future is not None and self.future.done() and self.future.exception() is None:
            return self.future.result()
        return None if isinstance(self.reply, BaseException) else self.reply


class _Kept(threading.local):
    """What this thread keeps of a client's pool."""

    lent: _Lent | None = None


class _Lent:
    """A connection that is out of its pool for as long as this lives; no reply is ever left in it."""

    def __init__(self, pool: redis.ConnectionPool) -> None:
        self.connection: Any = pool.get_connection()
        self._pool = pool

    def __del__(self) -> None:
        if hasattr(self, "_pool") and not sys.is_finalizing():
            self._pool.release(self.connection)

    def call(self, client: BatchingRedis, args: tuple[Any, ...], options: dict[str, Any]) -> Any:  # noqa: ANN401
        """Return the reply to a command."""
        connection = self.connection
        try:
            if args[0] != SCRIPT:
                connection.send_command(*args)
                return client.parse_response(connection, args[0], **options)  # type: ignore[no-untyped-call]
            connection.send_packed_command((_packed(connection, args),))
            return connection.read_response()
        except redis.exceptions.ResponseError:
            raise
        except BaseException:
            connection.disconnect()
            raise

    def call_all(self, client: BatchingRedis, calls: list[tuple[tuple[Any, ...], dict[str, Any]]]) -> list[Any]:
        """Return the replies to commands that are sent together; errors too."""
        connection = self.connection
        replies = []
        try:
            connection.send_packed_command((b"".join(_packed(connection, args) for args, _ in calls),))
            for args, options in calls:
                try:
                    replies.append(
                        connection.read_response()
                        if args[0] == SCRIPT
                        else client.parse_response(connection, args[0], **options)  # type: ignore[no-untyped-call]
                    )
                except redis.exceptions.ResponseError as error:
                    replies.append(error)
        except BaseException:
            connection.disconnect()
            raise
        return replies

    def tries_again(self, error: Exception) -> bool:
        """Tell whether what failed here is to be tried on another connection."""
        # One that was closed while nobody used it says nothing about the server.
        return isinstance(error, RedisConnectionError) or self.connection.retry.get_retries() != 0


def _packed(connection: Any, args: tuple[Any, ...]) -> bytes:  # noqa: ANN401  redis-py's
    """Return a command as it is sent. Of a script's, redis-py would look at each argument again, for one it has not."""
    if args[0] != SCRIPT:
        parts: list[bytes] = connection.pack_command(*args)
        return b"".join(parts)
    try:
        packed: bytes = hiredis.pack_command(args)
    except TypeError as error:
        raise redis.DataError(str(error)) from None
    return packed


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
        self._lent: _Lent | None = None
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
            replies = self._send_at_once(calls)
            try:
                self._loop.call_soon_threadsafe(self._deliver, calls, replies)
            except RuntimeError:  # the loop is closed: the worker has ended
                return

    def _send_at_once(self, calls: list[Call]) -> list[Any]:
        try:
            if self._lent is None:
                self._lent = _Lent(self._client.connection_pool)
            return self._lent.call_all(self._client, [(args, options) for args, options, _ in calls])
        except RedisTimeoutError as error:
            if self._lent is not None and not self._lent.tries_again(error):
                return [error] * len(calls)
        except Exception:  # noqa: BLE001, S110  what is wrong shows when it is tried again
            pass
        return self._send(calls)

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
