"""Whether somebody serves the current folder: a development server, or a worker of its embedded server."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from orchestrator.cli import session
from orchestrator.state.data_dir import check_private, open_lock, try_lock

if TYPE_CHECKING:
    from orchestrator.settings import Settings

LOCK: Final = "up.lock"  # in the data folder; held by a development server, whose process id is in it
NO_WORKER: Final = "no worker runs here: start `celeriac up` in another terminal"


def server_of(data_dir: Path) -> str | None:
    """
    Return the process of the development server that uses a folder; None if there is none. Creates nothing.

    Raises:
        EmbeddedServerError: the folder belongs to somebody else or is open to others.
    """
    lock = data_dir / LOCK
    if not data_dir.exists():
        return None
    check_private(data_dir)
    if not lock.exists():
        return None
    descriptor = open_lock(lock)
    try:
        # Shared, so that two who look at once do not take each other for a server.
        return None if try_lock(descriptor, fcntl.LOCK_SH) else lock.read_text() or "unknown"
    finally:
        os.close(descriptor)


def lacks_worker(settings: Settings) -> bool:
    """
    Whether the embedded server is used and nobody works for it.

    Args:
        settings: of this process.

    Raises:
        redis.RedisError: the server does not answer.
    """
    if settings.redis_url is not None or settings.broker_url is not None:
        return False
    if server_of(settings.data_dir.resolve()) is not None:
        return False
    # A worker listens for Celery's remote control as long as it is connected; a ping would have to be waited for.
    with session.redis() as redis:
        return not redis.client_list(_type="pubsub")
