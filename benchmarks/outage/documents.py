"""What the agents take and give."""

from __future__ import annotations

from pydantic import BaseModel


class Question(BaseModel):
    """What is asked."""

    text: str


class Answer(BaseModel):
    """What the service said; `calls`: how often this execution asked."""

    text: str
    said: str
    calls: int = 1
