"""What the agents take and give."""

from __future__ import annotations

from pydantic import BaseModel


class Doc(BaseModel):
    """
    A text for an agent, often the word it is to wait for, and what it has to say.

    Attributes:
        said: what an agent observed, one line each; `number`: what it counted.
    """

    text: str
    said: tuple[str, ...] = ()
    number: int = 0
