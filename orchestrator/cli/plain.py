"""Text of others, made harmless for a terminal: an agent's question must not move the cursor or fake a line."""

from __future__ import annotations

import unicodedata
from typing import Final

HIDDEN: Final = frozenset({"Cc", "Cf", "Cs"})  # control, format (bidirectional marks) and lone surrogates
MARK: Final = "·"


def visible(text: str) -> str:
    """Return a text with a mark in place of each character that is not to be seen."""
    if text.isprintable():
        return text
    return "".join(MARK if unicodedata.category(character) in HIDDEN else character for character in text)


def plain(text: str) -> str:
    """Return a text as one line without control characters."""
    return visible(" ".join(text.split()))
