"""What was said so far in a conversation about a question, as its members look at it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from orchestrator import InvalidInput, Said
from workers.research.models import Answer, Assent, Citation, Claim, Doubt, Question

LINES: Final = 1000
MEMBERS: Final = ("proposer", "critic", "fact_checker", "scribe")
JURY: Final = ("critic", "fact_checker")
"""Those who must accept a claim, each."""


@dataclass(frozen=True)
class Ruling:
    """What one member has said about a proposal; `id`: of its message."""

    id: int
    by: str
    accepted: bool
    body: Assent | Doubt | None


@dataclass
class Argument:
    """
    A conversation so far.

    Attributes:
        claims, answers: by the numbers of their proposals.
        rulings: about each of them, in the order in which they were made.
    """

    question: Question
    claims: dict[int, Claim] = field(default_factory=dict)
    answers: dict[int, Answer] = field(default_factory=dict)
    rulings: dict[int, list[Ruling]] = field(default_factory=dict)

    def stood(self) -> dict[int, Claim]:
        """Return the claims that the whole jury has accepted, by number."""
        return {
            number: claim
            for number, claim in self.claims.items()
            if {ruling.by for ruling in self.rulings.get(number, ()) if ruling.accepted} >= set(JURY)
        }

    def sound(self) -> dict[int, Claim]:
        """Return those of them that no doubt about an answer has reached since."""
        fallen = {
            ruling.body.about
            for number in self.answers
            for ruling in self.doubts(number)
            if isinstance(ruling.body, Doubt)
        }
        return {number: claim for number, claim in self.stood().items() if number not in fallen}

    def brought_up(self) -> list[Citation]:
        """Return what doubts about answers would have quoted."""
        bodies = [ruling.body for number in self.answers for ruling in self.doubts(number)]
        return [body.better.evidence for body in bodies if isinstance(body, Doubt) and body.better is not None]

    def doubts(self, number: int) -> list[Ruling]:
        """Return the rejections of a proposal."""
        return [ruling for ruling in self.rulings.get(number, ()) if not ruling.accepted]

    def last_word(self) -> int | None:
        """Return the number of the last ruling about a claim; None while one of the jury has not spoken about each."""
        last = 0
        for number in self.claims:
            rulings = self.rulings.get(number, ())
            if not {ruling.by for ruling in rulings} >= set(JURY):
                return None
            last = max(last, *(ruling.id for ruling in rulings))
        return last


def read(lines: Sequence[Said]) -> Argument:
    """
    Return what a transcript says.

    Raises:
        InvalidInput: its first line is not a question.
    """
    asked = next((line.body for line in lines if isinstance(line.body, Question)), None)
    if asked is None:
        raise InvalidInput("nothing was asked in this conversation: its transcript has no question")
    found = Argument(asked)
    for line in lines:
        if line.kind == "propose" and isinstance(line.body, Claim):
            found.claims[line.id] = line.body
        elif line.kind == "propose" and isinstance(line.body, Answer):
            found.answers[line.id] = line.body
        elif line.kind in {"accept", "reject"} and line.re is not None:
            body = line.body if isinstance(line.body, Doubt) else None
            found.rulings.setdefault(line.re, []).append(Ruling(line.id, line.sender, line.kind == "accept", body))
        elif line.sender in JURY and isinstance(line.body, Assent):
            found.rulings.setdefault(line.body.claim, []).append(Ruling(line.id, line.sender, True, line.body))  # noqa: FBT003  accepted
    return found


def listed(words: Iterable[str]) -> str:
    """Return words in a sentence."""
    return ", ".join(f"“{word}”" for word in words)
