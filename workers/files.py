"""Files that are whole or absent, never half written."""

from __future__ import annotations

import os
import threading
from pathlib import Path


def write_atomically(file: Path, text: str) -> None:
    """
    Write a file whole or not at all: a worker killed here leaves the old file or none, never half of one.

    Raises:
        OSError: the folder cannot be made or written to.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    # Hidden, beside its target (a rename is atomic within a file system) and different for every writer.
    temporary = file.with_name(f".{file.name}.{os.getpid()}-{threading.get_ident()}")
    try:
        with temporary.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
