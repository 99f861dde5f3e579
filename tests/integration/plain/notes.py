"""Where the tasks leave notes for whoever watches them, and wait for a word: files below `$PLAIN_NOTES`."""

from __future__ import annotations

import os
from pathlib import Path

POLL = 0.01
PAUSE = 0.2  # between two attempts: Celery sends the next before it books the state RETRY of the last


def note(key: str, what: object) -> None:
    """Leave a note: one more line of a file."""
    with (Path(os.environ["PLAIN_NOTES"]) / key).open("a") as file:
        file.write(f"{what}\n")


def count(key: str) -> int:
    """Return how many notes there are."""
    path = Path(os.environ["PLAIN_NOTES"]) / key
    return len(path.read_text().splitlines()) if path.exists() else 0


def told(key: str) -> bool:
    """Whether somebody has said go."""
    return (Path(os.environ["PLAIN_NOTES"]) / f"{key}.go").exists()
