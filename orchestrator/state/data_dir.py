"""The data folder of a development server: who may use it, its lock files, where the socket is."""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.errors import EmbeddedServerError

if TYPE_CHECKING:
    from orchestrator.settings import Settings

MAX_SOCKET_PATH = 100  # bytes; sun_path holds 108 on Linux and 104 on macOS, with the final zero


def prepare_data_dir(settings: Settings) -> Path:
    """
    Return the absolute data folder, created with mode 0700 if it is missing.

    Raises:
        EmbeddedServerError: it cannot be created, belongs to somebody else, or is open to others.
    """
    data_dir = settings.data_dir.resolve()
    make_private(data_dir)
    return data_dir


def make_private(folder: Path) -> None:
    """Create a folder that only this user can enter, or check that it is one; raises EmbeddedServerError."""
    try:
        folder.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        pass
    except OSError as error:
        msg = f"cannot create {folder}: {error.strerror}; make its parent writable, or set CELERIAC_DATA_DIR"
        raise EmbeddedServerError(msg) from error
    check_private(folder)


def check_private(folder: Path) -> None:
    """Refuse a folder in which others could put a socket or read the data; raises EmbeddedServerError."""
    info = folder.stat()
    if not stat.S_ISDIR(info.st_mode):
        msg = f"{folder} is not a folder; move it away, or set CELERIAC_DATA_DIR"
        raise EmbeddedServerError(msg)
    if info.st_uid != os.geteuid():
        msg = (
            f"{folder} belongs to user {info.st_uid}, this is user {os.geteuid()}; "
            f"run `sudo chown -R {os.geteuid()} {folder}`, or set CELERIAC_DATA_DIR"
        )
        raise EmbeddedServerError(msg)
    if mode := stat.S_IMODE(info.st_mode) & 0o077:
        msg = f"{folder} is open to other users (mode {0o700 | mode:04o}); run `chmod 700 {folder}`"
        raise EmbeddedServerError(msg)
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        msg = f"{folder} is not writable; run `chmod 700 {folder}`"
        raise EmbeddedServerError(msg)


def socket_path(data_dir: Path) -> Path:
    """Return where the server of this folder listens: in it, or in a temporary one if its path is long."""
    path = data_dir / "valkey.sock"
    if path.is_symlink():
        # Made by the command that started the server, whose temporary folder may not be ours.
        return path.readlink()
    if len(os.fsencode(path)) <= MAX_SOCKET_PATH:
        return path
    name = hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"celeriac-{os.geteuid()}" / f"{name}.sock"


def open_lock(path: Path) -> int:
    """Return a descriptor of the lock file, created if missing; no child program inherits it."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def try_lock(descriptor: int, kind: int) -> bool:
    """Take the lock (`fcntl.LOCK_EX`, `LOCK_SH`) if it is free; tell whether it was."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
