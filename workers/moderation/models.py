"""
What travels between the stages of the moderation flow, one model a stage.

Each model carries what the later stages need and no more: the text is dropped once it is summarised.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

Action = Literal["allow", "label", "review", "block"]
Format = Literal["text", "markdown", "rst", "html"]

UNDETERMINED = "und"  # the language code for "cannot tell", BCP 47
NO_CATEGORY = "none"  # the category of a document the policy says nothing about
MAX_TEXT = 2_000_000  # characters a producer may hand in; what moderation reads of them is `ingest.MAX_READ`

Confidence = Annotated[float, Field(ge=0.0, le=1.0)]
Reasons = Annotated[tuple[str, ...], Field(max_length=5)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class _Described(_Frozen):
    id: str = Field(min_length=1, max_length=200)
    title: str = Field(default="", max_length=500)
    source: str = Field(default="", max_length=2000)
    out: str | None = None


class Document(_Described):
    """
    What a producer hands in.

    Attributes:
        id: the producer's name for it; names the published file.
        text: as it was written, in `format`.
        source: where it came from, for a person: a path, an address, a package.
        language: ISO 639 code when the producer knows it; detected otherwise.
        out: absolute path of the folder that receives the published record; None writes no file. Whoever may
            submit may thereby write JSON files wherever the worker may: give that worker a user of its own.
    """

    text: str = Field(max_length=MAX_TEXT)
    format: Format = "text"
    language: str | None = Field(default=None, max_length=20)

    @field_validator("out")
    @classmethod
    def _absolute(cls, value: str | None) -> str | None:
        # A worker's current folder is not the producer's.
        if value is not None and not Path(value).is_absolute():
            msg = f"must be an absolute path, not {value!r}"
            raise ValueError(msg)
        return value


class Ingested(_Described):
    """
    Plain, normalised text.

    Attributes:
        language: ISO 639 code, or `und`.
        characters: length of what was handed in.
        truncated: whether the text is only the beginning of it.
    """

    text: str
    language: str
    characters: int
    truncated: bool = False


class Redacted(Ingested):
    """Text and title with personal data replaced by placeholders; `redactions` counts them by kind."""

    redactions: dict[str, int] = {}


class Verdict(_Frozen):
    """
    What a document is, and what follows.

    Attributes:
        category: id of a policy category, or `none`.
        action: the category's action; `allow` for `none`.
        confidence: 0 to 1. The rules' is a fixed function of the distance to their threshold and a model's is
            what it says of itself; neither is a calibrated probability.
        reasons: short evidence, most important first.
        decided_by: `rules` or `model:NAME`.
        degraded: the rules stood in for somebody who did not answer.
    """

    category: str
    action: Action
    confidence: Confidence
    reasons: Reasons = ()
    decided_by: str
    degraded: bool = False


class Classified(Redacted):
    """A redacted document and the verdict on it."""

    verdict: Verdict


class Summarised(_Described):
    """
    The verdict and a summary; the text ends here.

    Attributes:
        summary: empty when the verdict blocks the document.
        summarised_by: `extract`, `model:NAME`, or empty.
    """

    language: str
    characters: int
    truncated: bool
    redactions: dict[str, int]
    verdict: Verdict
    summary: str = ""
    summarised_by: str = ""


class Published(_Frozen):
    """
    The final record.

    Attributes:
        action: what became of it: a document held for review that a person let pass is labelled.
        file: where the record was written, or None.
    """

    id: str
    title: str
    source: str
    language: str
    characters: int
    truncated: bool
    action: Action
    category: str
    confidence: Confidence
    reasons: Reasons
    decided_by: str
    degraded: bool
    summary: str
    summarised_by: str
    redactions: dict[str, int]
    file: str | None = None
