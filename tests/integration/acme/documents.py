"""What acme's agents take and give."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel


class Doc(BaseModel):
    """A text and the steps it went through."""

    text: str
    trail: tuple[str, ...] = ()

    def via(self, step: str) -> Doc:
        return Doc(text=self.text, trail=(*self.trail, step))


class Report(BaseModel):
    """What a relay ends with."""

    text: str
    steps: int
    tenant: str
    tags: dict[str, str]


class Exact(BaseModel):
    """A document that must say `exact`."""

    text: Literal["exact"]
    trail: tuple[str, ...] = ()


class Draft(BaseModel):
    """
    A draft and what its writer was told.

    Attributes:
        text: what the gate is to say: see `flows.judge`.
        version: the revision that wrote it.
        feedback: as the writer saw it; `previous`: the version it was given as its draft, -1 without one.
        by: who wrote it.
    """

    text: str
    version: int
    feedback: tuple[str, ...] = ()
    previous: int = -1
    by: str = "writer"
    trail: tuple[str, ...] = ()
