"""The caretaker: brings back what was lost, in every worker, one at a time."""

from __future__ import annotations

import logging
import secrets
import threading
from typing import TYPE_CHECKING, Final

from celery import bootsteps
from kombu.exceptions import OperationalError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from orchestrator.patterns.canvas import publish
from orchestrator.runtime.process import current
from orchestrator.state import keys

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from celery import Celery
    from celery.worker import WorkController

    from orchestrator.settings import Settings
    from orchestrator.state.runs import Due, RunStore

logger = logging.getLogger(__name__)

LEASE_SWEEPS: Final = 2.5
"""The role's lease in sweeps: one renewal may be late; a dead holder is replaced after at most this many."""


class Caretaker:
    """
    Look after the runs of all shards: expired leases, overdue dispatches, due timers, runs past their deadline.

    Args:
        app: publishes what is left of a run.
        store: of the runs.
        settings: the sweep, in seconds.
    """

    def __init__(self, app: Celery, store: RunStore, settings: Settings) -> None:
        self._app = app
        self._store = store
        self._sweep = settings.sweep
        self._shards = keys.shards(settings.shards)
        self._owner = f"{current().name}:{secrets.token_hex(4)}"
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the loop on a thread of its own."""
        self._thread = threading.Thread(target=self._loop, name="celeriac-caretaker", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop the loop and hand the role on at once."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(timeout=self._sweep + 1.0)

    def sweep(self) -> bool:
        """Do one round, if the role is ours. Returns whether it is."""
        if not self._store.lead(self._owner, self._sweep * LEASE_SWEEPS):
            return False
        for due in self._store.due(self._shards):
            self._look_after(due)
        return True

    def _loop(self) -> None:
        while not self._stopped.wait(self._sweep):
            try:
                self.sweep()
            except (RedisError, OperationalError) as error:
                logger.warning("caretaker: %s; trying again in %g s", error, self._sweep)
            except Exception:
                # A caretaker that ends would leave every run without one.
                logger.exception("caretaker: a sweep failed; trying again in %g s", self._sweep)
        try:
            self._store.lead(self._owner, 0)
        except RedisError:
            logger.debug("caretaker: the role expires by itself")

    def _look_after(self, due: Due) -> None:
        empty: dict[str, bool] = {}
        self._each(due.lost, self._lost)
        self._each(due.overdue, lambda run_id, step: self._redispatch(run_id, step, empty))
        self._each(due.timers, self._timer)

    @staticmethod
    def _each(entries: Iterable[tuple[str, str | None]], care: Callable[[str, str | None], None]) -> None:
        for run_id, step in entries:
            try:
                care(run_id, step)
            except (RedisConnectionError, RedisTimeoutError, OutOfMemoryError, OperationalError):
                raise  # the next entry would fare no better
            except Exception:
                # One run that cannot be handled must not leave all others without a caretaker.
                logger.exception("caretaker: run %s step %s: cannot be handled", run_id, step)

    def _lost(self, run_id: str, step: str | None) -> None:
        if step and self._store.lost(run_id, step) == "ready":
            logger.warning("run %s step %s: its worker is gone; publishing it again", run_id, step)
            self._publish(run_id)

    def _timer(self, run_id: str, step: str | None) -> None:
        if step is None:
            if self._store.expire(run_id) == "cancelled":
                logger.warning("run %s: its deadline has passed", run_id)
        elif self._store.decide(run_id, step, None, by="timeout", note="nobody decided in time").what in {
            "next",
            "again",
        }:
            self._publish(run_id)

    def _redispatch(self, run_id: str, step: str | None, empty: dict[str, bool]) -> None:
        if not step:
            return
        queue = self._store.agent_of(run_id, step)
        if queue and queue not in empty:
            empty[queue] = self._is_empty(queue)
        # The deadline moves before the run is read as a whole: one that cannot be read is not looked at in every sweep.
        if self._store.redispatch(run_id, step, queue_is_empty=empty.get(queue, False)) == "publish":
            logger.warning("run %s step %s: nobody has begun it; publishing it again", run_id, step)
            self._publish(run_id)

    def _is_empty(self, queue: str) -> bool:
        with self._app.connection_or_acquire() as connection:
            channel = connection.default_channel
            try:
                return bool(channel.queue_declare(queue=queue, passive=True).message_count == 0)
            except connection.channel_errors:  # no such queue: nothing was ever put into it, or all was taken
                return True

    def _publish(self, run_id: str) -> None:
        publish(self._app, self._store.load(run_id))


class CaretakerStep(bootsteps.StartStopStep):
    """Starts the caretaker with the worker, once its pool has forked, and stops it with it."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, worker: WorkController, **_: object) -> None:
        super().__init__(worker)
        self._caretaker: Caretaker | None = None

    def start(self, worker: WorkController) -> None:
        """Start the role."""
        process = current()
        self._caretaker = Caretaker(worker.app, process.store, process.settings)
        self._caretaker.start()

    def stop(self, worker: WorkController) -> None:  # noqa: ARG002  Celery's signature
        """Stop the role."""
        if self._caretaker is not None:
            self._caretaker.stop()
            self._caretaker = None
