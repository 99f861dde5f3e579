"""
kombu's Redis transport, as a system needs it whose state knows what is left to do.

A message that nobody can read is set aside and is no reason to stop. A step's message is booked as delivered in memory
alone: its run's dispatch deadline and lease bring back what dies with a worker, so the two transactions that kombu
spends on every message would buy a second, slower recovery that only doubles deliveries.
"""

from __future__ import annotations

import logging
from bisect import bisect
from contextlib import contextmanager
from functools import lru_cache
from queue import Empty
from sys import intern
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, cast

import redis
from kombu.transport import redis as kombu_redis
from kombu.transport import virtual
from kombu.utils.json import loads

from orchestrator.agent import is_agent
from orchestrator.broker import FOREIGN, LANE, LANES, REDIS_PRIORITY, STEPS
from orchestrator.runtime.process import current
from orchestrator.runtime.vetting import misshape

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kombu import Message

logger = logging.getLogger(__name__)

POPPED_FIELDS = 2
MORE = 16
"""Messages of steps taken at once from a queue that has a backlog."""
LOOK_AGAIN = 0.05
"""Seconds between two looks at queues of which the worker's pool has enough for now."""
AT_ONCE = 0.002
"""Seconds within which a queue with a backlog answers."""
OF_A_MESSAGE = (KeyError, redis.DataError)
"""What kombu counts among connection and channel errors, though reading or booking one message raises it."""


CLASSES: Final = tuple(sorted(REDIS_PRIORITY.values()))


@lru_cache(maxsize=65_536)
def _list_of(queue: str, number: int) -> str:
    step = number if number in STEPS else STEPS[bisect(STEPS, number) - 1]
    return f"{queue}{Channel.sep}{step}" if step else queue


@lru_cache(maxsize=8192)
def _packed(queue: str, numbers: tuple[int, ...]) -> bytes:
    """Return lists' names as Redis reads them: there are too many to be put into words at each look."""
    return b"".join(map(_bulk, (_list_of(queue, number).encode() for number in numbers)))


def _bulk(text: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(text), text)


IN_TURN: Final = tuple(
    tuple(tuple(number + LANE * ((first + at) % LANES) for at in range(LANES)) for first in range(LANES))
    for number in CLASSES
)
"""By priority, and by the lane that is the first: the numbers of a queue's lists as they are looked at."""


def _place_of(key: str) -> tuple[str, int, int]:
    """Return a list's queue, its priority's place among all, and its lane; a foreign one's is the last place."""
    queue, _, step = key.rpartition(Channel.sep) if Channel.sep in key else (key, "", "0")
    lane, number = divmod(int(step), LANE) if step.isdigit() else (0, 0)
    return queue, bisect(CLASSES, number) - 1, lane


class _Popping(redis.Redis):
    """Remembers the last message popped: kombu has taken it off the queue before it knows whether it can read it."""

    popped: tuple[bytes, bytes] | None = None

    def parse_response(self, connection: Any, command_name: str, **options: Any) -> Any:  # noqa: ANN401  redis-py's signature
        if command_name == "BRPOP":
            self.popped = None  # a reply that cannot be read must not pass for the one before
        response = super().parse_response(connection, command_name, **options)
        if command_name == "BRPOP":
            self.popped = tuple(response) if response and len(response) == POPPED_FIELDS else None
        return response


def _is_step(message: Message) -> bool:
    headers = message.headers
    return isinstance(headers, dict) and is_agent(headers.get("task"))


class QoS(kombu_redis.QoS):
    """What a channel has delivered: steps in memory, everything else in Redis as kombu does it."""

    def __init__(self, channel: Channel, prefetch_count: int = 0) -> None:
        super().__init__(channel, prefetch_count)
        self._steps: dict[str, Message] = {}

    def append(self, message: Message, delivery_tag: str) -> None:
        """Book a delivery."""
        if _is_step(message):
            self._steps[delivery_tag] = message
            virtual.QoS.append(self, message, delivery_tag)
            return
        try:
            super().append(message, delivery_tag)
        except redis.OutOfMemoryError:
            # It is off its queue already, and a full server takes it nowhere: remembered here it is executed at least.
            logger.warning("Redis is full: a message is booked as delivered in memory alone")
            self._steps[delivery_tag] = message
            virtual.QoS.append(self, message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        """Book a delivery out."""
        message = self._steps.pop(delivery_tag, None)
        if message is not None:
            message._raw = None  # type: ignore[attr-defined]  # noqa: SLF001  only put back from here, which is over
            virtual.QoS.ack(self, delivery_tag)
        else:
            super().ack(delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:  # noqa: FBT001, FBT002  kombu's signature
        """Book a delivery out, and put the message back if asked."""
        message = self._steps.pop(delivery_tag, None)
        if message is None:
            super().reject(delivery_tag, requeue=requeue)
            return
        if requeue:
            self._put_back(message)
        virtual.QoS.ack(self, delivery_tag)

    def restore_unacked(self, client: redis.Redis | None = None) -> None:
        """Put everything back that was delivered and not begun: the worker stops, or its connection is gone."""
        steps, self._steps = self._steps, {}
        for tag in steps:
            self._delivered.pop(tag, None)
        try:
            for message in steps.values():
                self._put_back(message)
            super().restore_unacked(client)
        except redis.RedisError as error:
            # Redis is away: a dispatch deadline brings back each step, the visibility timeout everything else.
            logger.warning("deliveries not put back, they come back by themselves: %s", error)
            self._delivered.clear()

    def _put_back(self, message: Message) -> None:
        delivery = message.delivery_info
        with self.channel.conn_or_acquire() as client:
            self.channel._do_restore_message(  # noqa: SLF001  kombu's own way back into the queue
                message._raw,  # type: ignore[attr-defined]  # noqa: SLF001
                delivery["exchange"],
                delivery["routing_key"],
                client,
            )


class Channel(kombu_redis.Channel):
    """
    A channel that survives what it consumes.

    kombu decodes a message, and Celery looks at its shape, inside the event loop: an exception there ends the worker or
    its connection, and the message is gone or comes back for ever. Here it is set aside with its reason.
    """

    QoS = QoS
    wants: Callable[[str], bool] | None = None  # the worker's pool: whether it can use a message of a queue now
    max_priority = STEPS[-1]
    _lent: redis.Redis | None = None

    @contextmanager
    def conn_or_acquire(self, client: redis.Redis | None = None) -> Iterator[redis.Redis]:
        """Lend a client: one for the channel, where kombu makes one for every publish, ack and look."""
        if client is None:
            client = self._lent
            if client is None or client.connection_pool is not self.pool:
                client = self._lent = self._create_client()
        yield client

    def __init__(self, *args: Any, **options: Any) -> None:  # noqa: ANN401  kombu's signature
        self._turns: dict[tuple[str, int], int] = {}  # the lane to be looked at first, by queue and priority
        super().__init__(*args, **options)

    def _connparams(self, asynchronous: bool = False) -> dict[str, object]:  # noqa: FBT001, FBT002  kombu's signature
        # A channel closed after its connection has no address any more; kombu fails on None, which ends the worker.
        if self.connection.client is None:
            msg = "the connection is closed"
            raise redis.ConnectionError(msg)
        found: dict[str, object] = super()._connparams(asynchronous=asynchronous)
        return found

    def _get_client(self) -> Callable[..., redis.Redis]:
        client: Callable[..., redis.Redis] = super()._get_client()
        return _Popping if client is redis.Redis else client

    def _brpop_start(self, timeout: float | None = None) -> None:
        cycle, wants = self._queue_cycle, self.wants
        wanted = cycle.items if wants is None else [queue for queue in cycle.items if wants(queue)]
        if len(wanted) < len(cycle.items):
            # The others are looked at again soon: a wait for these alone must not outlast what the others wait for.
            cycle, timeout = type(cycle)(wanted), LOOK_AGAIN
        queues = cycle.consume(len(self.active_queues))
        if not queues:
            return
        parts = [b"*%d\r\n$5\r\nBRPOP\r\n" % (2 + len(STEPS) * len(queues))]
        for place, orders in enumerate(IN_TURN):
            # By queue: which lane of one is next says nothing about another's.
            parts += [_packed(queue, orders[self._turns.get((queue, place), 0)]) for queue in queues]
        parts += [_packed(queue, (FOREIGN,)) for queue in queues]
        parts.append(_bulk(b"%g" % (self.brpop_timeout if timeout is None else timeout)))
        self._in_poll = self.client.connection
        self._brpop_sent_at = monotonic()  # type: ignore[assignment]  # kombu's is None before the first
        self.client.connection.send_packed_command([b"".join(parts)])

    def _q_for_pri(self, queue: str, pri: int) -> str:
        return _list_of(queue, pri)

    def length(self, queue: str, priority: int) -> int:
        """Return how many messages of a priority, and so of a lane, are in a queue."""
        with self.conn_or_acquire() as client:
            return client.llen(self._q_for_pri(queue, priority))

    def _brpop_read(self, **options: object) -> bool:
        # What waited in the queue answers at once; what has just been published comes when it comes.
        asked: float = self._brpop_sent_at  # type: ignore[assignment]  # always set where there is a reply
        backlog = monotonic() - asked < AT_ONCE
        try:
            found = bool(super()._brpop_read(**options))
        except Empty:
            raise
        except Exception as error:
            popped: tuple[bytes, bytes] | None = getattr(self.client, "popped", None)
            if popped is None or self._is_away(error):
                raise
            self._set_aside(popped[0], popped[1], error)
            raise Empty from None
        popped = getattr(self.client, "popped", None)
        if popped is not None:
            queue, place, lane = _place_of(popped[0].decode(errors="replace"))
            self._turns[queue, place] = (lane + 1) % LANES
            if backlog:
                self._take_more(popped[0])
        return found

    def _take_more(self, key: bytes) -> None:
        """
        Take several steps' messages of a queue in one round trip, where kombu takes one.

        What dies between its being taken and being begun comes back by its dispatch deadline, however many it is.
        """
        queue = key.decode(errors="replace").rsplit(self.sep, 1)[0]
        if not is_agent(queue) or not self._takes(queue):
            return
        with self.conn_or_acquire() as client:
            taken = cast("list[bytes]", client.rpop(key.decode(), MORE) or [])
            for number, raw in enumerate(taken):
                if not self._takes(queue):
                    client.rpush(key.decode(), *reversed(taken[number:]))
                    return
                try:
                    self.connection._deliver(_interned(loads(raw.decode())), queue)  # noqa: SLF001  as kombu's own reader does
                except Exception as error:
                    if self._is_away(error):
                        raise
                    self._set_aside(key, raw, error)

    def _takes(self, queue: str) -> bool:
        return bool(self.qos.can_consume()) and (self.wants is None or self.wants(queue))

    def _is_away(self, error: Exception) -> bool:
        """
        Tell a lost connection from what one message raised on its way through kombu and Celery.

        kombu would take some of that, a KeyError, for a lost connection.
        """
        away = isinstance(error, (*self.connection_errors, *self.connection.channel_errors))
        return away and not isinstance(error, OF_A_MESSAGE)

    def _set_aside(self, key: bytes, raw: bytes, error: Exception) -> None:
        queue = key.decode(errors="replace").split(self.sep)[0]
        wrong = misshape(raw)
        reason = f"unreadable: {type(error).__name__}: {error}" if wrong is None else f"misshapen: {wrong}"
        logger.error("a message of queue %s is set aside: %s", queue, reason)
        current().dead.add(queue=queue, reason=reason, body=raw)
        # Where it got as far as being booked as delivered, it must not come back.
        for tag, message in list(self.qos._delivered.items()):  # noqa: SLF001  kombu has no public way to ask
            if getattr(message, "_raw", None) is not None and _same(message, raw):
                self.qos.ack(tag)


def _interned(message: Any) -> Any:  # noqa: ANN401  whatever a message may be
    """Share the names of headers between messages, of which a worker may hold thousands."""
    headers = message.get("headers") if isinstance(message, dict) else None
    if isinstance(headers, dict):
        message["headers"] = {intern(name): value for name, value in headers.items()}
    return message


def _same(message: object, raw: bytes) -> bool:
    tag = getattr(message, "delivery_tag", None)
    return isinstance(tag, str) and tag.encode() in raw


class Transport(kombu_redis.Transport):
    """The Redis transport with the channel above."""

    Channel = Channel
