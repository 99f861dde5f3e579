"""What the pools of a development server are doing: queue depths, and what workers say in their heartbeats."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from celery import Celery

INTERVAL: Final = 1.0  # s between two looks
FRESH: Final = 10.0  # s; a worker beats every 2 s

logger = logging.getLogger(__name__)


class Gauges:
    """
    Reads, in a thread, how deep the queues are and how busy the workers; broken connections are made anew.

    Args:
        app: of the workers.
        queues: to measure.
    """

    def __init__(self, app: Celery, queues: list[str]) -> None:
        self._app = app
        self._queues = queues
        self._depths: dict[str, int] = {}
        self._beats: dict[str, tuple[int, int, float]] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gauges", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def stop(self) -> None:
        """Stop reading."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(2 * INTERVAL)

    def depth(self, queue: str) -> int | None:
        """Return how many messages wait; None: not known yet."""
        return self._depths.get(queue)

    def busy(self, worker: str) -> int | None:
        """Return how many tasks a worker (`name` of `name@host`) runs; None: it has not been heard of lately."""
        _, active, at = self._beats.get(worker, (0, 0, 0.0))
        return active if at and time.monotonic() - at < FRESH else None

    def pid(self, worker: str) -> int | None:
        """Return the process that was last heard of under a worker's name."""
        return self._beats[worker][0] if worker in self._beats else None

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._read()
            except Exception as error:  # noqa: BLE001  whatever broker and transport raise, the display goes on
                logger.debug("gauges: %s", error)
                self._depths.clear()
                self._stopping.wait(INTERVAL)

    def _read(self) -> None:
        with self._app.connection_for_read() as events, self._app.connection_for_read() as queues:
            # Workers' events alone: tasks' would be a message for every step of every run.
            receiver = self._app.events.Receiver(events, {"*": self._on_event}, routing_key="worker.#")
            with receiver.consumer_context() as (consuming, _, _):
                measured = 0.0
                while not self._stopping.is_set():
                    if time.monotonic() - measured >= INTERVAL:
                        self._depths = {queue: self._measure(queues, queue) for queue in self._queues}
                        measured = time.monotonic()
                    with contextlib.suppress(TimeoutError):
                        consuming.drain_events(timeout=INTERVAL)

    def _measure(self, connection: Any, queue: str) -> int:  # noqa: ANN401  kombu has no types
        try:
            declared = connection.default_channel.queue_declare(queue=queue, passive=True)
        except connection.channel_errors:
            return 0  # nothing was ever sent there, or all of it was fetched
        return int(declared.message_count)

    def _on_event(self, event: dict[str, Any]) -> None:
        name = str(event.get("hostname", "")).split("@")[0]
        if event.get("type") == "worker-offline":
            self._beats.pop(name, None)
        elif name:
            self._beats[name] = (int(event.get("pid", 0)), int(event.get("active", 0)), time.monotonic())
