"""Evidence for a question: statements that speak of it, those that were not cited yet."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from workers.research.index import COVERAGE, Index, index_of, terms
from workers.research.models import MAX_TEXT, Citation, Claim, Doubt, Question, Statement
from workers.research.quoting import plain, sentences, statement

LEAST: Final = 0.4
"""Of the best passage's score, below which another one is not worth a claim."""


LOOKED_AT: Final = 20
"""Passages that are looked at for something that was not cited."""


@dataclass(frozen=True)
class Evidence:
    """
    A statement.

    Attributes:
        covers: the words of the question that it, or what stands above it, speaks of.
        sure: how good it is, up to 1.
    """

    statement: Statement
    covers: tuple[str, ...]
    sure: float


def gather(
    question: Question,
    cited: Sequence[Citation],
    limit: int,
    *,
    about: Collection[str] = (),
    first: Statement | None = None,
) -> list[Evidence]:
    """
    Return the best evidence that was not cited yet.

    Args:
        question: what is asked, and where to look.
        cited: what was cited before.
        limit: how many at most.
        about: words of the question of which one must be spoken of; any unless given.
        first: what is to be among it, whatever its score.
    """
    index, words = index_of(question.folders), terms(question.text)
    hits, weights = index.search(words), index.weights(words)
    found = [] if first is None or _was_cited(first, cited) else [_evidence(index, words, first, 1.0)]
    for hit in hits:
        if len(found) >= limit or hit.score < LEAST * hits[0].score:
            break
        others = [*cited, *(one.statement.evidence for one in found)]
        each = statement(index, hit, weights, others)
        if each is not None and not _was_cited(each, others):
            evidence = _evidence(index, words, each, hit.score / (1 + COVERAGE))
            if not about or set(about) & set(evidence.covers):
                found.append(evidence)
    return found[:limit]


def in_place_of(question: Question, claims: Sequence[Claim], doubt: Doubt) -> Evidence | None:
    """
    Return evidence in the place of a claim that was rejected; None where there is no other.

    Args:
        question: what is asked.
        claims: all that were made.
        doubt: why one of them was rejected.
    """
    if doubt.better is not None and doubt.why in {"quotation", "narrow"}:
        # The same evidence, put right: where it stands now, or with what follows.
        return _evidence(index_of(question.folders), terms(question.text), doubt.better, 1.0)
    first = doubt.better if doubt.why == "counter" else None
    return next(iter(gather(question, [claim.evidence for claim in claims], 1, first=first)), None)


def covered(index: Index, words: Sequence[str], citation: Citation) -> frozenset[str]:
    """Return those of some words that a quotation, the headings above it or the document's name has."""
    return index.covers(f"{citation.path}\n{index.heading(citation)}\n{citation.quote}", words)


def uncited(
    index: Index, words: Sequence[str], cited: Sequence[Citation]
) -> Iterator[tuple[Statement, frozenset[str]]]:
    """Yield what speaks of some words and was not cited, the best first, with the words that it covers."""
    weights = index.weights(words)
    for hit in index.search(words, LOOKED_AT):
        each = statement(index, hit, weights, cited)
        if each is not None and not _was_cited(each, cited):
            yield each, covered(index, words, each.evidence)


def widened(claim: Claim, wider: Citation) -> Statement:
    """Return what was claimed with the sentence that follows it."""
    parts = sentences(wider.quote)
    known = [place for place, part in enumerate(parts) if part in claim.text]
    following = parts[known[-1] + 1 : known[-1] + 2] if known else parts
    return Statement(text=" ".join([claim.text, *following])[:MAX_TEXT], evidence=wider)


def _was_cited(each: Statement, cited: Sequence[Citation]) -> bool:
    evidence = each.evidence
    return any(evidence.overlaps(one) or plain(evidence.quote) == plain(one.quote) for one in cited)


def _evidence(index: Index, words: Sequence[str], each: Statement, sure: float) -> Evidence:
    covers = covered(index, words, each.evidence)
    return Evidence(each, tuple(word for word in words if word in covers), round(min(1.0, max(0.0, sure)), 3))
