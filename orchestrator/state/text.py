"""Texts of other people, as the log and its readers can bear them."""

from __future__ import annotations

from typing import Final

MAX_REASON: Final = 500
MAX_TEXT: Final = 8000


def readable(text: str) -> str:
    """Return a text that UTF-8 can carry: an undecodable file name, or JSON's lone surrogate, is none."""
    return text.encode(errors="replace").decode()


def bounded(text: str, limit: int = MAX_TEXT) -> str:
    """Bound what a gate or a handler says; it goes into the log and into every reader of the run."""
    clean = readable(text)
    return clean if len(clean) <= limit else f"{clean[: limit - 1]}…"


def shorten(reason: str) -> str:
    """Bound a reason to one short line: it goes into Flower and onto screens too."""
    return bounded(" ".join(reason.split()), MAX_REASON)
