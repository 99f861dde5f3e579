"""Text of others, made harmless to look at: a file's name must not move the cursor or turn around what follows it."""

from __future__ import annotations


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
