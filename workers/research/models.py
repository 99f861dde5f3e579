"""
What the members of the research flow say to each other, and what comes of it.

Paths are relative to the folder asked about, with `/`; where several are, below the name that `labels` gives each.
Lines count from 1.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

MAX_FOLDERS: Final = 8
MAX_QUESTION: Final = 1_000  # characters
MAX_QUOTE: Final = 1_200
MAX_TEXT: Final = 1_200
MAX_WORD: Final = 100
MAX_PATH: Final = 1_000
"""Of a document, as it is cited."""
MAX_NAME: Final = 1_000
"""Of a folder."""
MAX_LINES: Final = 1_000_000_000

Line = Annotated[int, Field(ge=1, le=MAX_LINES)]
Terms = Annotated[tuple[Annotated[str, Field(max_length=MAX_WORD)], ...], Field(max_length=64)]
Why = Literal["quotation", "duplicate", "missing", "narrow", "counter", "contradiction", "judgement"]
"""Why a claim or an answer is rejected; `judgement` is a model's."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class Question(_Frozen):
    """
    What is asked.

    Attributes:
        text: the question.
        folders: absolute paths of folders or files, as the workers see them: they read the documents themselves, and
            all of them must see the same.
        out: absolute path of the folder for the reports, each in a folder with its run's id; None: `research` in the
            data folder. Whoever may submit may thereby read documents and write reports wherever the workers may: give
            them a user of their own.
    """

    text: str = Field(min_length=1, max_length=MAX_QUESTION)
    folders: tuple[Annotated[str, Field(min_length=1, max_length=MAX_NAME)], ...] = Field(
        min_length=1, max_length=MAX_FOLDERS
    )
    out: str | None = Field(default=None, max_length=MAX_NAME)

    @field_validator("text")
    @classmethod
    def _asks(cls, value: str) -> str:
        if not any(one.isalnum() for one in value):
            msg = "is empty: ask something"
            raise ValueError(msg)
        return " ".join(value.split())

    @field_validator("folders", "out")
    @classmethod
    def _absolute(cls, value: tuple[str, ...] | str | None) -> tuple[str, ...] | str | None:
        # A worker's current folder is not the producer's.
        for each in (value,) if isinstance(value, str) else value or ():
            if not Path(each).is_absolute():
                msg = f"must be an absolute path, not {each!r}"
                raise ValueError(msg)
        return value


class Citation(_Frozen):
    """
    A quotation.

    Attributes:
        path: of the document.
        first, last: the lines.
        quote: what stands there: whole lines, or of one long line a part.
    """

    path: str = Field(max_length=MAX_PATH)
    first: Line
    last: Line
    quote: str = Field(max_length=MAX_QUOTE)

    @property
    def place(self) -> str:
        """Where it stands, as `path:line` or `path:line-line`."""
        return f"{self.path}:{self.first}" if self.first == self.last else f"{self.path}:{self.first}-{self.last}"

    def overlaps(self, other: Citation) -> bool:
        """Tell whether the two have lines in common."""
        return self.path == other.path and self.first <= other.last and other.first <= self.last


class Statement(_Frozen):
    """Lines of a document, and what they say of what is asked: their words, or a model's."""

    text: str = Field(max_length=MAX_TEXT)
    evidence: Citation


class Claim(Statement):
    """
    Part of an answer, with its evidence. The proposer proposes it.

    Attributes:
        covers: the question's words that it speaks of.
        instead: the number of the proposal whose place it takes, which was rejected.
    """

    covers: Terms = ()
    instead: int | None = None


class Assent(_Frozen):
    """
    Why a claim is accepted. The critic and the fact-checker tell it to the proposer.

    Attributes:
        claim: the number of the claim's proposal.
    """

    claim: int
    text: str = Field(max_length=MAX_TEXT)


class Doubt(_Frozen):
    """
    Why a claim or an answer is rejected. The critic, the fact-checker and the proposer tell it to whoever proposed it.

    Attributes:
        text: in words.
        lacking: words of the question that it does not speak of.
        better: what should be quoted in its place, or beside it.
        about: of an answer, the proposal of the claim that the doubt is about.
    """

    why: Why
    text: str = Field(max_length=MAX_TEXT)
    lacking: Terms = ()
    better: Statement | None = None
    about: int | None = None


class Check(_Frozen):
    """A question to the fact-checker: whether this stands there, and what stands around it."""

    citation: Citation


class Checked(_Frozen):
    """
    What the fact-checker has found in the file.

    Attributes:
        stands: whether the quotation is there, in these lines.
        found: what is in these lines; empty where there are none.
        before, after: the nearest text in front of it and behind it, up to a blank line; empty where there is none.
        within: the quotation is part of a line, and so are these.
        moved: where the quotation stands, if it is elsewhere in the same document.
    """

    stands: bool
    found: str = Field(max_length=MAX_QUOTE)
    before: str = Field(default="", max_length=MAX_QUOTE)
    after: str = Field(default="", max_length=MAX_QUOTE)
    within: bool = False
    moved: Citation | None = None


class Gap(_Frozen):
    """
    What an answer lacks. The scribe tells it to the proposer.

    Attributes:
        lacking: words of the question that it does not speak of.
        better: what the critic would quote.
    """

    lacking: Terms
    better: Statement | None = None


class Settled(_Frozen):
    """The proposer tells the scribe that every claim was accepted or rejected, and that it has no other."""

    claims: int


class Point(Statement):
    """A claim that stood: `proposal` is its number in the conversation."""

    proposal: int


class Refused(_Frozen):
    """A claim that did not: who rejected it, and why."""

    text: str = Field(max_length=MAX_TEXT)
    place: str = Field(max_length=MAX_PATH + 30)
    by: str
    why: Why
    reason: str = Field(max_length=MAX_TEXT)


class Answer(_Frozen):
    """
    An answer. The scribe proposes it, and the others accept or reject it.

    Attributes:
        text: in it, `[1]` is the first of `points`; empty where none stood.
        points: what it rests on, in the order in which it is cited.
        refused: claims that were rejected; the first ones, shortened.
        lacking: words of the question that nothing was found for.
        written_by: `extract`, or `model:NAME`.
    """

    question: Question
    text: str = Field(max_length=20 * MAX_TEXT)
    points: tuple[Point, ...] = ()
    refused: tuple[Refused, ...] = ()
    lacking: Terms = ()
    written_by: str = "extract"


class Report(_Frozen):
    """
    What a run gives.

    Attributes:
        outcome: how the conversation ended: consensus, quiet, turns, deadline; `why`: in words.
        agreed, dissent, abstained: the members who were for the answer, for something else, for nothing.
        turns, messages: how many there were.
        written: the paths of the files, by format: `markdown`, `json`.
    """

    answer: Answer
    outcome: str
    why: str
    agreed: tuple[str, ...]
    dissent: tuple[str, ...]
    abstained: tuple[str, ...]
    turns: int
    messages: int
    written: dict[str, str]
