"""The parts of a Celery app that know the asyncio pool; on any other they are Celery's own."""

from __future__ import annotations

import asyncio
import functools
import inspect
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, cast
from weakref import WeakKeyDictionary

from billiard.exceptions import SoftTimeLimitExceeded
from celery import Celery
from celery._state import _task_stack
from celery.backends.redis import RedisBackend
from celery.canvas import maybe_signature

from orchestrator.agent import is_agent
from orchestrator.runtime.batching import BatchingRedis
from orchestrator.runtime.bridge import current, outside_loop, run_coroutine

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from kombu import Producer

    from orchestrator.runtime.bridge import Cooperative


_called_by_celery: ContextVar[bool] = ContextVar("celeriac_called_by_celery", default=False)
"""Set where Celery calls a task as a function and wants its result: old-style errbacks."""

CALLERS: Final = frozenset({"celery.map", "celery.starmap"})
"""Celery's own tasks that call another one as a function."""


class App(Celery):
    """
    A Celery app whose tasks may be coroutine functions, on any pool.

    On the asyncio pool they share an event loop, and publish without blocking it.
    """

    def __init__(self, *args: object, **kwargs: object) -> None:
        self._runs: WeakKeyDictionary[Callable[..., Any], Callable[..., Any]] = WeakKeyDictionary()
        super().__init__(*args, **kwargs)
        backend = "orchestrator.runtime.celery_app:Backend"
        self.loader.override_backends = {"redis": backend, "rediss": backend}

    def _task_from_fun(
        self,
        fun: Callable[..., Any],
        name: str | None = None,
        base: type | None = None,
        bind: bool = False,  # noqa: FBT001, FBT002  Celery's signature
        **options: Any,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        if not inspect.iscoroutinefunction(fun):
            return super()._task_from_fun(fun, name, base, bind, **options)
        if fun not in self._runs:  # the same again for the same function: Celery warns of another one with its name
            self._runs[fun] = _to_the_end(fun)
        # What Celery reads off the signature is the function's.
        options = {"is_async": True, "__header__": self.type_checker(fun, bound=bind), **options}
        return super()._task_from_fun(self._runs[fun], name, base, bind, **options)

    def producer_or_acquire(self, producer: Producer | None = None) -> AbstractContextManager[Producer]:
        """Lend a producer; what waits for one on an event loop lets the loop go on."""
        running = current()
        if producer is None and running is not None:
            # Celery's canvases acquire within what they have acquired: a second slot could be everybody's last.
            producer = running.producers.get(id(self))
        lent: AbstractContextManager[Producer] = super().producer_or_acquire(producer)
        return lent if producer is not None or running is None else _in_turn(running, id(self), lent)


def _to_the_end(function: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Any]:
    """Return a plain function that runs a coroutine function to its end; called directly it gives the coroutine."""

    @functools.wraps(function)
    def run(*args: object, **kwargs: object) -> object:
        coroutine = function(*args, **kwargs)
        task = _task_stack.top
        if task is None or _in_a_coroutine():
            return coroutine
        called_directly = task.request.called_directly
        if called_directly and not _called_by_celery.get() and not _is_mapped():
            return coroutine
        token = _called_by_celery.set(False)  # what it calls itself is called directly again
        try:
            return run_coroutine(coroutine)
        except SoftTimeLimitExceeded:
            raise
        except asyncio.CancelledError as error:
            msg = "the task was cancelled by its own code"
            raise RuntimeError(msg) from error
        finally:
            _called_by_celery.reset(token)

    return run


def _in_a_coroutine() -> bool:
    try:
        return asyncio.current_task() is not None
    except RuntimeError:
        return False


def _is_mapped() -> bool:
    tasks = _task_stack.stack
    return len(tasks) > 1 and tasks[-2].name in CALLERS


@contextmanager
def _in_turn(running: Cooperative, app: int, lent: AbstractContextManager[Producer]) -> Iterator[Producer]:
    # One greenlet more than there are connections would wait for one on the loop's thread, and with it those that are
    # to give one back.
    with running.host.publishing.held(running), lent as producer:
        outside = running.producers[app] = cast("Producer", _Outside(producer))
        try:
            yield outside
        finally:
            del running.producers[app]


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

    def _call_task_errbacks(self, *args: object, **kwargs: object) -> None:
        token = _called_by_celery.set(True)
        try:
            super()._call_task_errbacks(*args, **kwargs)
        finally:
            _called_by_celery.reset(token)

    def store_result(self, *args: object, **kwargs: object) -> object:
        """Store a result."""
        return outside_loop(super().store_result, *args, **kwargs)

    def on_chord_part_return(self, *args: object, **kwargs: object) -> object:
        """
        Count a member of a chord, and publish the body with the last one.

        Of an agent's chord the run's state counts, in the commit: what it decided is all that is left to do here.
        Celery's own count would be a second one, lost with the results' keys, and never full where some members are
        enough.
        """
        request: Any = args[0]
        if not is_agent(request.task):
            return outside_loop(super().on_chord_part_return, *args, **kwargs)
        if getattr(request, "joins", False):
            maybe_signature(request.chord, app=self.app).apply_async()
        return None
