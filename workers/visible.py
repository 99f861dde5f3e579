"""Text of others, made harmless to look at: a file's name must not move the cursor or turn around what follows it."""

from __future__ import annotations

import re
from typing import Final

# With what makes an address a link by itself: `https://`, `a@b.c`, `www.`.
_SPECIAL: Final = re.compile(r"([\\`*_\[\]<>|#~&$@]|:(?=//)|(?<=www)\.)", re.IGNORECASE)
_NOT_IN_CODE: Final = str.maketrans({"`": r"\x60", "|": r"\x7c"})  # the end of a span, and of a table's cell


def visible(text: str) -> str:
    """
    Return a text with an escape, as in Python, for each character that is not to be seen.

    These are control and format characters (such as the bidirectional marks), all white space but a space, lone
    surrogates, and what Unicode has not assigned.
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def one_line(text: str) -> str:
    """Return a text on one line, with white space of any kind as a space, and the rest visible."""
    return visible(" ".join(text.split()))


def escape(text: str) -> str:
    """Return text that Markdown shows as it is, on one line: names and messages come from what is reviewed."""
    return _SPECIAL.sub(r"\\\1", one_line(text))


def code(name: str) -> str:
    """Return a name as a span of code, in which nothing is a link or a mark; what would end the span is escaped."""
    return f"`{visible(name).translate(_NOT_IN_CODE)}`"
