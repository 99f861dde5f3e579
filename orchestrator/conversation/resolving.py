"""How a conversation comes to its decision, once it is over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from orchestrator.board.rules import HighestConfidence
from orchestrator.errors import InvalidPolicy, definition_site
from orchestrator.resilience.options import is_number

Ties = Literal["earliest", "latest", "confidence", "none"]
TIES: Final = ("earliest", "latest", "confidence", "none")


def _check_ties(name: str, ties: object) -> None:
    if ties not in TIES:
        raise InvalidPolicy(name, definition_site(), f"ties is one of {', '.join(TIES)}, not {ties!r:.80}")


@dataclass(frozen=True, kw_only=True)
class Vote:
    """
    The proposal that most members are for.

    Attributes:
        weighted: whether each counts by its weight; else each is one vote.
        need: the share of the votes cast that it must be above; 0.5: more than half of them.
        ties: who wins where several have as many: the earliest or the latest of them, the one with the surest
            supporter, or none.
    """

    weighted: bool = True
    need: float = 0.0
    ties: Ties = "earliest"

    def __post_init__(self) -> None:
        _check_ties("Vote", self.ties)
        if not (is_number(self.need) and 0 <= self.need < 1):
            why = f"need is a share of the votes, 0 or above and below 1, not {self.need!r:.80}"
            raise InvalidPolicy("Vote", definition_site(), why)


@dataclass(frozen=True, kw_only=True)
class RankedVote:
    """
    Instant run-off over the members' lists.

    Whoever has the fewest first places is struck, until one has more than half.

    Attributes:
        weighted, ties: as of `Vote`; of those with the fewest, the one that would lose by the rule for ties is struck.

    Source: W. R. Ware's application of Hare's method to one winner, 1871.
    """

    weighted: bool = True
    ties: Ties = "earliest"

    def __post_init__(self) -> None:
        _check_ties("RankedVote", self.ties)


@dataclass(frozen=True)
class PriorityOrder:
    """
    The proposal of the first of these members that is for one.

    Attributes:
        members: names, the one that counts most first.
    """

    members: Sequence[str]

    def __post_init__(self) -> None:
        given: object = self.members
        fits = isinstance(given, Sequence) and not isinstance(given, str) and given
        if not fits or not all(isinstance(name, str) for name in self.members):
            why = f"takes names of members, the one that counts most first, not {given!r:.80}"
            raise InvalidPolicy("PriorityOrder", definition_site(), why)


@dataclass(frozen=True)
class Judge:
    """
    An agent, or a flow, decides: it takes a `Dispute` and gives a `Ruling`.

    Attributes:
        runs: the agent, its name, or the flow.
    """

    runs: Any


Resolve = Vote | RankedVote | PriorityOrder | Judge | HighestConfidence
RESOLVES: Final = (Vote, RankedVote, PriorityOrder, Judge, HighestConfidence)
