"""What a process holds and waits for of locks on blackboards: renewed in time, and told when it is their turn."""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

from redis.exceptions import RedisError

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis import Redis

logger = logging.getLogger(__name__)

LOOK: Final = 0.1
"""Seconds after which the thread sees what is new to be held."""
PAUSE: Final = 0.5
LINGERS: Final = 5.0
"""Seconds after which it ends where it has nothing to do."""


@dataclass
class _Held:
    """A lock that is renewed at a third of its time; `until`: when it is lost where that fails."""

    renew: Callable[[], bool]
    on_lost: Callable[[], None]
    ttl: float
    due: float
    until: float


class LockKeeper:
    """
    One thread and one connection for all locks of a process; neither is there before it is needed.

    Args:
        connect: gives a client of its own: what is subscribed to blocks a connection.
    """

    def __init__(self, connect: Callable[[], Redis]) -> None:
        self._connect = connect
        self.channel = f"celeriac:locks:{secrets.token_hex(8)}"
        self._told: dict[str, Callable[[str], None]] = {}
        self._held: dict[str, _Held] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._idle_since = 0.0

    def listen(self, lock: str, told: Callable[[str], None]) -> None:
        """
        Call back, from another thread, when a lock that is waited for is held: with its token; or to ask: with none.

        What was published before the connection was there, or while it was lost, nobody has heard: as soon as it is
        there all are called who wait.
        """
        with self._lock:
            self._told[lock] = told
            self._run()

    def ignore(self, lock: str) -> None:
        """Call back no more."""
        with self._lock:
            self._told.pop(lock, None)

    def keep(self, lock: str, renew: Callable[[], bool], on_lost: Callable[[], None], *, ttl: float) -> None:
        """
        Renew a lock until `release`.

        Args:
            lock: its id.
            renew: does it, and tells whether the lock was held until now.
            on_lost: called once, where it was not, or nothing could be done about it in its time.
            ttl: seconds for which it is held.
        """
        now = time.monotonic()
        with self._lock:
            self._held[lock] = _Held(renew, on_lost, ttl, now + ttl / 3, now + ttl)
            self._run()

    def release(self, lock: str) -> None:
        """Renew it no more."""
        with self._lock:
            self._held.pop(lock, None)

    def _run(self) -> None:
        self._idle_since = time.monotonic()
        if self._thread is None or not self._thread.is_alive():  # as in the child of a fork
            self._thread = threading.Thread(target=self._loop, name="celeriac-locks", daemon=True)
            self._thread.start()

    def _loop(self) -> None:
        pubsub: Any = None
        while not self._is_over():
            try:
                if pubsub is None:
                    pubsub = self._connect().pubsub()  # type: ignore[no-untyped-call]  # redis-py's
                    pubsub.subscribe(self.channel)
                message = pubsub.get_message(timeout=self._pause())
                if message is not None:
                    self._heard(message)
            except RedisError as error:
                # Who waits asks again in time; what is held is renewed below, as soon as it can be.
                logger.warning("locks: %s; trying again in %g s", error, PAUSE)
                time.sleep(PAUSE)
            except Exception:
                logger.exception("locks: trying again in %g s", PAUSE)
                time.sleep(PAUSE)
            self._renew()
        if pubsub is not None:
            with contextlib.suppress(RedisError):
                pubsub.close()

    def _is_over(self) -> bool:
        """Tell whether nothing was held or waited for since a while: then the thread ends, and its connection."""
        with self._lock:
            now = time.monotonic()
            if self._told or self._held:
                self._idle_since = now
            if now - self._idle_since < LINGERS:
                return False
            self._thread = None
            return True

    def _pause(self) -> float:
        with self._lock:
            soonest = min((held.due for held in self._held.values()), default=time.monotonic() + LOOK)
        return max(0.001, min(LOOK, soonest - time.monotonic()))

    def _heard(self, message: dict[str, object]) -> None:
        token = ""
        if message["type"] == "subscribe":
            with self._lock:
                waiting = list(self._told.values())
        elif message["type"] == "message":
            lock, _, token = cast("bytes", message["data"]).decode().partition(" ")
            with self._lock:
                waiting = [self._told[lock]] if lock in self._told else []
        else:
            return
        for told in waiting:
            told(token)

    def _renew(self) -> None:
        now = time.monotonic()
        with self._lock:
            due = {lock: held for lock, held in self._held.items() if held.due <= now}
        for lock, held in due.items():
            try:
                kept = held.renew()
            except RedisError as error:
                logger.warning("lock not renewed: %s", error)
                kept = time.monotonic() < held.until
                held.due = time.monotonic() + min(PAUSE, held.ttl / 3)
            else:
                held.due, held.until = now + held.ttl / 3, now + held.ttl
            with self._lock:
                lost = not kept and self._held.pop(lock, None) is not None
            if lost:  # and not given up meanwhile
                held.on_lost()
