"""What a call uses, and how much may be used: by a run with its children, or by a tenant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

from orchestrator.errors import InvalidPolicy, definition_site
from orchestrator.resilience.options import is_count, is_number
from orchestrator.state.guards import MICRO, MOST, Guard, Need

__all__ = ["Budget", "Guard", "LadderRung", "Spend"]

LadderRung = Literal["cheaper", "cached", "partial", "stop"]
LADDER: Final[tuple[LadderRung, ...]] = get_args(LadderRung)


def _check(what: str, tokens: object, cost: object) -> None:
    for name, amount in (("tokens", tokens), ("cost", cost)):
        if not (is_number(amount) and amount >= 0):
            kind = "" if is_number(amount) or isinstance(amount, float) else ", an int or a float"
            why = f"{name} must be 0 or more and finite{kind}, not {amount!r:.40}"
            raise InvalidPolicy(what, definition_site(), why)
        most = MOST if name == "tokens" else MOST // MICRO
        if amount > most:
            raise InvalidPolicy(what, definition_site(), f"{name} must be at most {most:,}")
    if not is_count(tokens, 0):
        raise InvalidPolicy(what, definition_site(), f"tokens must be a whole number, not {tokens!r:.40}")


@dataclass(frozen=True, kw_only=True)
class Spend(Need):
    """
    What an attempt uses: tokens, and money in the unit you choose, to the millionth.

    Raises:
        InvalidPolicy: an amount is no number, below 0, above what Redis can add up (10**15 tokens, a cost of 10**9), or
            no whole number of tokens.
    """

    def __post_init__(self) -> None:
        _check("Spend", self.tokens, self.cost)

    def __add__(self, other: Need) -> Spend:
        return Spend(tokens=self.tokens + other.tokens, cost=self.cost + other.cost)

    def __bool__(self) -> bool:
        return bool(self.tokens or self.cost)


@dataclass(frozen=True, kw_only=True)
class Budget:
    """
    What a run, its children included, may use; and what it does, in this order, when that is used up.

    Attributes:
        tokens, cost: the limits; None: none.
        ladder: `cheaper`: the step's fallback agent; `cached`: its last good output; `partial`: the run ends with what
            it has; `stop`: it fails. A rung that is not there, or has not enough left either, is passed over.

    Raises:
        InvalidPolicy: without a limit, with an amount below 0, or with another rung.
    """

    tokens: int | None = None
    cost: float | None = None
    ladder: tuple[LadderRung, ...] = LADDER

    def __post_init__(self) -> None:
        _check("Budget", 0 if self.tokens is None else self.tokens, 0 if self.cost is None else self.cost)
        if self.tokens is None and self.cost is None:
            raise InvalidPolicy("Budget", definition_site(), "give tokens, cost or both")
        ladder: object = self.ladder
        if not isinstance(ladder, tuple | list):
            raise InvalidPolicy("Budget", definition_site(), f"ladder takes a tuple of rungs, not {ladder!r:.40}")
        strange = [rung for rung in self.ladder if rung not in LADDER]
        if strange or len(set(self.ladder)) < len(self.ladder):
            raise InvalidPolicy(
                "Budget", definition_site(), f"ladder takes each of {', '.join(LADDER)} once, not {self.ladder}"
            )
