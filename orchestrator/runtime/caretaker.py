"""The caretaker: brings back what was lost, in every worker, one at a time."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from typing import TYPE_CHECKING, Final

from celery import bootsteps
from kombu.exceptions import OperationalError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from orchestrator.agent import agents
from orchestrator.broker import message_priority
from orchestrator.patterns.canvas import publish
from orchestrator.runtime.process import current
from orchestrator.runtime.transport import Channel
from orchestrator.runtime.waking import publish_steps, wake
from orchestrator.state import keys

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from celery import Celery
    from celery.worker import WorkController

    from orchestrator.runtime.process import WorkerProcess
    from orchestrator.state.runs import Change, Due

logger = logging.getLogger(__name__)

LEASE_SWEEPS: Final = 2.5
"""The role's lease in sweeps: one renewal may be late; a dead holder is replaced after at most this many."""


class Caretaker:
    """
    Look after the runs of all shards: expired leases, overdue dispatches, due timers, and whose turn it is at a limit.

    Args:
        app: publishes what is left of a run.
        process: with the stores, and the settings' `sweep` and `tick`, in seconds.
    """

    def __init__(self, app: Celery, process: WorkerProcess) -> None:
        self._app = app
        self._process = process
        self._store, self._settings = process.store, process.settings
        self._shards = keys.shards(process.settings.shards)
        self._owner = f"{process.name}:{secrets.token_hex(4)}"
        self._leads = False
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
            self._thread.join(timeout=self._settings.sweep + 1.0)

    def sweep(self) -> bool:
        """Do one round, if the role is ours. Returns whether it is."""
        self._leads = self._store.lead(self._owner, self._settings.sweep * LEASE_SWEEPS)
        if not self._leads:
            return False
        for due in self._store.due(self._shards):
            self._look_after(due)
        return True

    def tick(self) -> bool:
        """
        See to what is due now, if the role was ours at the last round: two at once do no harm.

        Returns:
            Whether steps wait for their turn: the next look should come soon, or a limit is not used up.
        """
        if not self._leads:
            return False
        self._ring(self._store.timers(self._shards))
        waiting = self._process.guards.waiting()
        for agent, priority in waiting:
            wake(self._app, self._process, agent, self._process.guards.grant(agent, priority))
        return bool(waiting)

    def _loop(self) -> None:
        # A round only when its time has come, a look at the timers in between.
        due = time.monotonic() + self._settings.sweep
        tick = pause = min(self._settings.tick, self._settings.sweep)
        while not self._stopped.wait(pause):
            pause = tick
            try:
                if time.monotonic() >= due:
                    due = time.monotonic() + self._settings.sweep
                    self.sweep()
                if self.tick():
                    pause = tick / 4
            except (RedisError, OperationalError) as error:
                logger.warning("caretaker: %s; trying again in %g s", error, pause)
            except Exception:
                # A caretaker that ends would leave every run without one.
                logger.exception("caretaker: a sweep failed; trying again in %g s", pause)
        try:
            self._store.lead(self._owner, 0)
        except RedisError:
            logger.debug("caretaker: the role expires by itself")

    def _look_after(self, due: Due) -> None:
        self._each(due.lost, self._lost)
        self._redispatch([(run_id, step) for run_id, step in due.overdue if step])

    def _ring(self, timers: Sequence[tuple[str, str | None]]) -> None:
        steps = [(run_id, step) for run_id, step in timers if step is not None and not step.startswith("/")]
        outcomes = self._store.wake(steps)
        ready = [entry for entry, what in zip(steps, outcomes, strict=True) if what == "ready"]
        publish_steps(self._app, self._process, ready)
        waiting = [entry for entry, what in zip(steps, outcomes, strict=True) if what == "waiting"]
        self._each(waiting, self._decide)
        self._each((entry for entry in timers if entry not in set(steps)), self._deadline)

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
        if not step:
            return
        agent, fence = self._store.holder_of(run_id, step)
        change = self._store.lost(run_id, step)
        if change.what == "held":
            return  # renewed since: what it holds is its own
        self._release(agent, keys.member(run_id, step), fence)
        if change.what in {"ready", "undoing"}:
            logger.warning("run %s step %s: its worker is gone; publishing it again", run_id, step)
        elif change.what in {"delayed", "failed"}:
            logger.warning("run %s step %s: its worker is gone, not for the first time; %s", run_id, step, change.what)
        self._carry_on(run_id, change)

    def _release(self, name: str, member: str, fence: str) -> None:
        """Give back what a lost attempt took from its guards: the next one takes its own, and counts for itself."""
        agent = agents().get(name)
        if agent is None or agent.is_guarded:
            wake(self._app, self._process, name, self._process.guards.forget(name, member, fence=fence))

    def _decide(self, run_id: str, step: str | None) -> None:
        self._carry_on(
            run_id, self._store.decide(run_id, step or "", None, by="timeout", note="nobody decided in time")
        )

    def _deadline(self, run_id: str, step: str | None) -> None:
        if step == "/":
            self._end_children(run_id)
            return
        if step is not None and step.startswith("//"):
            change = self._process.fan_outs.join(run_id, step[2:])
        else:
            change = self._store.expire(run_id) if step is None else self._store.overrun(run_id, step[1:])
        if change.what in {"cancelled", "failed", "undoing"}:
            logger.warning("run %s: %s", run_id, "its deadline has passed" if step is None else f"{step[1:]} is late")
        self._carry_on(run_id, change)

    def _end_children(self, run_id: str) -> None:
        # A second time, as another member may have ended while its timer was there: it adds none.
        for _ in range(2):
            for child in self._store.children(run_id):
                self._carry_on(child, self._store.orphan(child, run_id))
            self._store.leave(run_id)

    def _redispatch(self, steps: Sequence[tuple[str, str]]) -> None:
        url = self._app.conf.broker_url
        lanes = [
            (agent, message_priority(url, priority, tenant)) if agent else None
            for agent, priority, tenant in self._store.queues_of(steps)
        ]
        empty = {lane: lane is not None and self._is_empty(*lane) for lane in set(lanes)}
        outcomes = self._store.redispatch(steps, queue_is_empty=[empty[lane] for lane in lanes])
        lost = [step for step, what in zip(steps, outcomes, strict=True) if what == "publish"]
        for run_id, step in lost:
            logger.warning("run %s step %s: nobody has begun it; publishing it again", run_id, step)
        publish_steps(self._app, self._process, lost)

    def _is_empty(self, queue: str, priority: int) -> bool:
        with self._app.connection_or_acquire() as connection:
            channel = connection.default_channel
            if isinstance(channel, Channel):
                # What waits for others' turns says nothing about a message whose own lane is empty.
                return channel.length(queue, priority) == 0
            try:
                return bool(channel.queue_declare(queue=queue, passive=True).message_count == 0)
            except connection.channel_errors:  # no such queue: nothing was ever put into it, or all was taken
                return True

    def _carry_on(self, run_id: str, change: Change) -> None:
        if change.to_publish:
            self._publish(run_id, change.to_publish)

    def _publish(self, run_id: str, steps: Sequence[str]) -> None:
        left = self._store.left(run_id, steps)
        if left is not None:
            publish(self._app, left)


class CaretakerStep(bootsteps.StartStopStep):
    """Starts the caretaker with the worker, once its pool has forked, and stops it with it."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, worker: WorkController, **_: object) -> None:
        super().__init__(worker)
        self._caretaker: Caretaker | None = None

    def start(self, worker: WorkController) -> None:
        """Start the role."""
        process = current()
        self._caretaker = Caretaker(worker.app, process)
        self._caretaker.start()

    def stop(self, worker: WorkController) -> None:  # noqa: ARG002  Celery's signature
        """Stop the role."""
        if self._caretaker is not None:
            self._caretaker.stop()
            self._caretaker = None
