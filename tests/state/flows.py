"""The agents and the flow of these tests; no worker runs them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field, field_validator

from orchestrator import Context, Gate, Pipeline, Stage, agent


class Note(BaseModel):
    """What goes in."""

    text: str
    number: int = 0

    @field_validator("text")
    @classmethod
    def _not_shouted(cls, value: str) -> str:
        if value.isupper():
            msg = "must not be\nshouted"
            raise ValueError(msg)
        return value


class Answer(BaseModel):
    """What comes out."""

    words: int


class Aliased(BaseModel):
    """Known to the world by other names than to the code."""

    text: str = Field(alias="body")
    label: str = Field(default="", validation_alias="tag")


class Loose(BaseModel):
    """Says nothing of what it holds."""

    anything: Any


@agent("state.count")
def count(note: Note) -> Note:
    """Pass on."""
    return note


@agent("state.answer")
def answer(note: Note) -> Answer:
    """Count."""
    return Answer(words=len(note.text.split()))


@agent("state.aliased")
def aliased(value: Aliased) -> Aliased:
    """Pass on."""
    return value


@agent("state.loose")
def loose(value: Loose) -> Loose:
    """Pass on."""
    return value


@agent("state.many")
def many(values: list[int]) -> int:
    """Sum up."""
    return sum(values)


@agent("state.begets", deadline=30.0)
def begets(ctx: Context, note: Note) -> str:
    """Start another run, which has the time that the text says, if it says one."""
    deadline = float(note.text) if note.text else None
    return str(ctx.submit("loosely", {"anything": 1}, deadline=deadline))


begetting = Pipeline("begetting", [begets])
counting = Pipeline("counting", [Stage(count, gate=Gate(lambda _: True, on_fail="human")), answer])
aliasing = Pipeline("aliasing", [aliased])
loosely = Pipeline("loosely", [loose])
summing = Pipeline("summing", [many])
QUEUES = ("state.count", "state.answer", "state.aliased", "state.loose", "state.many", "state.begets")
OF_BOARDS = ("state.sit", "state.watch")
"""Queues of sources, which nobody serves here."""
