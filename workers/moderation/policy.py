"""The policy: which categories there are, what counts as evidence for them and what follows."""

from __future__ import annotations

import re
import tomllib
import unicodedata
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from workers.moderation.errors import InvalidPolicy
from workers.moderation.models import NO_CATEGORY, Action

SHIPPED = Path(__file__).with_name("policy.toml")

Weight = Annotated[float, Field(gt=0.0)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Category(_Part):
    """
    One thing to look for.

    Attributes:
        score: the weight of evidence that reaches the category.
        terms: words or phrases; `patterns`: regular expressions; `redactions`: kinds of placeholder; each with
            the weight it adds, once.
    """

    id: str = Field(pattern=r"^[a-z][a-z0-9-]*$")
    description: str = Field(min_length=1)
    action: Literal["label", "review", "block"]
    score: Weight = 1.0
    terms: dict[str, Weight] = {}
    patterns: dict[str, Weight] = {}
    redactions: dict[str, Weight] = {}

    @field_validator("patterns")
    @classmethod
    def _compile(cls, patterns: dict[str, float]) -> dict[str, float]:
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                msg = f"{pattern!r} is not a regular expression: {error}"
                raise ValueError(msg) from None
        return patterns

    @cached_property
    def _searches(self) -> tuple[tuple[str, re.Pattern[str], float], ...]:
        # The literal is looked for first, which is some twenty times faster than a pattern that is not there.
        terms = [
            (fold(term), re.compile(rf"(?<!\w){re.escape(fold(term))}(?!\w)"), weight)
            for term, weight in self.terms.items()
        ]
        patterns = [("", re.compile(pattern, re.IGNORECASE), weight) for pattern, weight in self.patterns.items()]
        return (*terms, *patterns)

    def evidence(self, folded: str, redactions: dict[str, int]) -> dict[str, float]:
        """
        Collect what speaks for the category.

        Args:
            folded: the text as `fold` gives it.
            redactions: placeholders in it, counted by kind.

        Returns:
            What was found, as it stands in the text, to its weight; heaviest first.
        """
        found: dict[str, float] = {}
        for literal, search, weight in self._searches:
            if literal in folded and (match := search.search(folded)):
                found[match.group()[:80]] = weight
        for kind, weight in self.redactions.items():
            if count := redactions.get(kind):
                found[f"[{kind}] {count} times" if count > 1 else f"[{kind}]"] = weight
        return dict(sorted(found.items(), key=lambda item: -item[1]))


class Sure(_Part):
    """The confidence from which a verdict needs no person, by its action."""

    allow: float = Field(ge=0.0, le=1.0)
    label: float = Field(ge=0.0, le=1.0)
    block: float = Field(ge=0.0, le=1.0)


class Policy(_Part):
    """The categories, most of what moderation is about; see `policy.toml` for what each part means."""

    name: str
    languages: frozenset[str]
    unanswered: Literal["allow", "label", "block"]
    sure: Sure
    category: tuple[Category, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _ids_are_unique(self) -> Policy:
        ids = [category.id for category in self.category]
        if twice := sorted({one for one in ids if ids.count(one) > 1}):
            msg = f"category {twice[0]!r} is there twice"
            raise ValueError(msg)
        if NO_CATEGORY in ids:
            msg = f"the id {NO_CATEGORY!r} means that no category was reached; choose another"
            raise ValueError(msg)
        return self

    def action_of(self, category: str) -> Action:
        """
        Return what follows from a category; `allow` for none.

        Raises:
            KeyError: the policy has no such category.
        """
        if category == NO_CATEGORY:
            return "allow"
        return {one.id: one.action for one in self.category}[category]

    def is_sure(self, action: Action, confidence: float) -> bool:
        """Whether a verdict needs no person. One to review always does."""
        return action != "review" and confidence >= float(getattr(self.sure, action))


def fold(text: str) -> str:
    """
    Bring text to the form terms are matched in: compatibility-folded, lower case, single spaces.

    Full-width and ornamental letters would otherwise spell a term without matching it.
    """
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def load_policy(path: Path) -> Policy:
    """
    Read a policy.

    Raises:
        InvalidPolicy: the file cannot be read, is not TOML, or does not fit; the message says where.
    """
    try:
        return Policy.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise InvalidPolicy(str(path), f"cannot be read: {error.strerror}") from None
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(str(part) for part in item['loc']) or 'policy'}: {item['msg'].removeprefix('Value error, ')}"
            for item in error.errors()
        )
        raise InvalidPolicy(str(path), wrong) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidPolicy(str(path), f"is not valid TOML: {error}") from None


@cache
def policy() -> Policy:
    """Return the shipped policy, read once."""
    return load_policy(SHIPPED)
