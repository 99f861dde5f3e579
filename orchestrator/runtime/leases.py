"""What the steps of a process hold, their leases and places, renewed together until each is done or lost."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from redis.exceptions import RedisError

from orchestrator.state.runs import NOTHING_SPENT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from orchestrator.state.guards import Guards, Hold
    from orchestrator.state.runs import Begun, RunStore, Spent
    from orchestrator.state.scripts import Held

logger = logging.getLogger(__name__)


@dataclass
class Keeping:
    """
    A lease that is kept until it is lost or a time has passed, in seconds of `time.monotonic()`.

    `spent` gives what its attempt has used so far.
    """

    on_lost: Callable[[str], None]
    until: float
    spent: Callable[[], Spent]


class LeaseKeeper:
    """
    Renew every lease in flight, all in one round trip, and in another all that calls hold of their guards.

    Args:
        store: of the runs.
        guards: of the agents.
        interval: seconds between renewals; a third of the lease, so that two may fail.
        hold: seconds that what a call holds is kept after a renewal.
    """

    _thread_name: Final = "celeriac-leases"

    def __init__(self, store: RunStore, guards: Guards, *, interval: float, hold: float) -> None:
        self._store, self._guards = store, guards
        self._interval, self._hold_ms = interval, round(hold * 1000)
        self._held: dict[Held, Keeping] = {}
        self._holds: dict[Hold, float] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    @contextmanager
    def held(
        self,
        begun: Begun,
        on_lost: Callable[[str], None],
        *,
        longest: float,
        spent: Callable[[], Spent] = lambda: NOTHING_SPENT,
    ) -> Iterator[Keeping]:
        """
        Keep a step's lease while the block runs.

        Args:
            begun: the attempt.
            on_lost: called at most once, on the keeper's thread, with `closed` when the run has ended, and with another
                word when the step is another's.
            longest: seconds after which the lease is given up: what no pool can interrupt must not hold its step for
                ever.
            spent: gives what the attempt has used so far, which counts should this process die.
        """
        lease = (begun.run_id, begun.step.name, begun.fence)
        with self._lock:
            self._held[lease] = keeping = Keeping(on_lost, time.monotonic() + longest, spent)
            self._run()
        try:
            yield keeping
        finally:
            with self._lock:
                self._held.pop(lease, None)

    def keep(self, hold: Hold, *, longest: float) -> None:
        """
        Keep what a call holds of its guards until `release`, whatever becomes of its step meanwhile: it is at work.

        Args:
            longest: seconds after which it is given up.
        """
        with self._lock:
            self._holds[hold] = time.monotonic() + longest
            self._run()

    def release(self, hold: Hold) -> None:
        """Keep it no longer."""
        with self._lock:
            self._holds.pop(hold, None)

    def renew(self) -> None:
        """Renew once, and tell the holders of leases that are lost."""
        now = time.monotonic()
        self._renew_leases(now)
        with self._lock:
            self._holds = {hold: until for hold, until in self._holds.items() if until >= now}
            holds = list(self._holds)
        if holds:
            self._guards.keep(holds, hold_ms=self._hold_ms)

    def _renew_leases(self, now: float) -> None:
        with self._lock:
            overdue = {lease for lease, keeping in self._held.items() if keeping.until < now}
            kept = {lease: keeping for lease, keeping in self._held.items() if lease not in overdue}
        for lease in overdue:
            self._lose(lease, "its agent does not end")
        if not kept:
            return
        renewals = self._store.renew(list(kept), [keeping.spent() for keeping in kept.values()])
        for lease, renewal in zip(kept, renewals, strict=True):
            if renewal != "renewed":
                self._lose(lease, renewal)

    def _lose(self, lease: Held, why: str) -> None:
        with self._lock:
            keeping = self._held.pop(lease, None)
        if keeping is not None:
            logger.warning("run %s step %s: lease lost (%s)", lease[0], lease[1], why)
            keeping.on_lost(why)

    def _run(self) -> None:
        if self._thread is None:
            thread = threading.Thread(target=self._renew_for_ever, name=self._thread_name, daemon=True)
            thread.start()
            self._thread = thread

    def _renew_for_ever(self) -> None:
        pause = threading.Event()
        while not pause.wait(self._interval):
            try:
                self.renew()
            except RedisError as error:
                # The lease may run out meanwhile; then the fence keeps this attempt from committing.
                logger.warning("leases not renewed: %s", error)
            except Exception:
                # Without this thread every step of the process would lose its lease.
                logger.exception("leases not renewed; trying again in %g s", self._interval)
