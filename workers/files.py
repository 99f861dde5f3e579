"""Files that are whole or absent, never half written."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, TextIO

# Nobody shall have another file emptied by a link in its place; it is emptied only once it is locked.
FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


def write_atomically(file: Path, text: str) -> None:
    """
    Write a file whole or not at all: a worker killed here leaves the old file or none, never half of one.

    Beside it a hidden file may be left then; the next to write the same file takes it.

    Raises:
        OSError: the folder cannot be made or written to.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    # Beside its target: a rename is atomic within a file system.
    temporary = file.with_name(f".{file.name}.part")
    with _alone(temporary) as stream:
        try:
            stream.truncate(0)
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
            temporary.replace(file)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def _alone(file: Path) -> Iterator[TextIO]:
    """Open a file for one writer at a time, in any process; the kernel lets go of the lock of one that is killed."""
    while True:
        with os.fdopen(os.open(file, FLAGS, 0o666), "w", encoding="utf-8") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            # While this one waited, the one before has made it the target, or has removed it.
            if _is(stream, file):
                yield stream
                return


def _is(stream: TextIO, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(stream.fileno()), file.lstat())
    except FileNotFoundError:
        return False
