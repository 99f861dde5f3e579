"""The parts of a Celery app that know the asyncio pool; on any other they are Celery's own."""

from __future__ import annotations

from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, cast

from celery import Celery
from celery.backends.redis import RedisBackend

from orchestrator.runtime.batching import BatchingRedis
from orchestrator.runtime.bridge import current, outside_loop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kombu import Producer

    from orchestrator.runtime.bridge import Cooperative


class App(Celery):
    """A Celery app whose async tasks publish without blocking the event loop they share."""

    task_cls = "orchestrator.runtime.tasks:AwaitingTask"

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        backend = "orchestrator.runtime.celery_app:Backend"
        self.loader.override_backends = {"redis": backend, "rediss": backend}

    def producer_or_acquire(self, producer: Producer | None = None) -> AbstractContextManager[Producer]:
        """Lend a producer; what waits for one on an event loop lets the loop go on."""
        running = current()
        lent: AbstractContextManager[Producer] = super().producer_or_acquire(producer)
        return lent if producer is not None or running is None else _in_turn(running, lent)


@contextmanager
def _in_turn(running: Cooperative, lent: AbstractContextManager[Producer]) -> Iterator[Producer]:
    # One greenlet more than there are connections would wait for one on the loop's thread, and with it those that are
    # to give one back.
    with running.host.publishing.held(running), lent as producer:
        yield cast("Producer", _Outside(producer))


class _Outside:
    """A producer that publishes from another thread."""

    def __init__(self, producer: Producer) -> None:
        self._producer = producer

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  all else is the producer's
        return getattr(self._producer, name)

    def publish(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  kombu's signature
        """Publish a message."""
        return outside_loop(self._producer.publish, *args, **kwargs)


class Backend(RedisBackend):
    """Celery's Redis result backend; storing a result, and all its retries, block no event loop."""

    def _get_client(self) -> Callable[..., BatchingRedis]:
        return BatchingRedis

    def store_result(self, *args: object, **kwargs: object) -> object:
        """Store a result."""
        return outside_loop(super().store_result, *args, **kwargs)

    def on_chord_part_return(self, *args: object, **kwargs: object) -> object:
        """Count a member of a chord, and publish the body with the last one."""
        return outside_loop(super().on_chord_part_return, *args, **kwargs)
