"""
When a conversation ends; when a member joins or leaves it.

They are data, not code: the script that records what was said decides by them, in the same moment, whether it is over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from orchestrator.errors import InvalidPolicy, definition_site
from orchestrator.resilience.options import is_number

if TYPE_CHECKING:
    from collections.abc import Iterator

LONGEST: Final = 366 * 86400.0
MOST_TURNS: Final = 10_000
DEEPEST: Final = 20


class End:
    """What may hold of a conversation; `&` and `|` make others of them."""

    def __init__(self, parts: list[Any]) -> None:
        self._parts = parts

    def __and__(self, other: End) -> End:
        return End(["all", *self._several("all", other)])

    def __or__(self, other: End) -> End:
        return End(["any", *self._several("any", other)])

    def __bool__(self) -> bool:
        msg = "whether it holds is decided in the conversation: combine them with & and |, not with and, or"
        raise TypeError(msg)

    def __repr__(self) -> str:
        return f"<until {_said(self._parts)}>"

    def _several(self, kind: str, other: object) -> Iterator[list[Any]]:
        if not isinstance(other, End):
            msg = f"what ends a conversation is combined with another such, not with {other!r:.80}"
            raise TypeError(msg)
        for parts in (self.as_rule(), other.as_rule()):
            yield from parts[1:] if parts[0] == kind else [parts]

    def as_rule(self) -> list[Any]:
        """Return it as the scripts take it."""
        return self._parts

    def leaves(self) -> list[list[Any]]:
        """Return what it is made of."""
        return list(_leaves(self._parts))


def _leaves(parts: list[Any]) -> Iterator[list[Any]]:
    if parts[0] in {"all", "any"}:
        for part in parts[1:]:
            yield from _leaves(part)
    else:
        yield parts


def depth(parts: list[Any]) -> int:
    """Return how deep conditions are within one another."""
    return 1 + max((depth(part) for part in parts[1:] if isinstance(part, list)), default=0)


def _said(parts: list[Any]) -> str:
    if parts[0] in {"all", "any"}:
        return f"({(' & ' if parts[0] == 'all' else ' | ').join(_said(part) for part in parts[1:])})"
    return f"{parts[0]}({', '.join(str(part) for part in parts[1:])})"


class Consensus(End):
    """
    One proposal is the first choice of so large a share of the members present, by their weight.

    Args:
        share: above 0, at most 1.
    """

    def __init__(self, share: float) -> None:
        if not (is_number(share) and 0 < share <= 1):
            why = f"takes the share of the votes that it needs, above 0 and at most 1, not {share!r:.80}"
            raise InvalidPolicy("Consensus", definition_site(), why)
        super().__init__(["consensus", share * 1000])


class MaxTurns(End):
    """
    So many turns were had: messages handled, by all members together.

    Args:
        turns: 1 to 10,000.
    """

    def __init__(self, turns: int) -> None:
        given: object = turns
        if isinstance(given, bool) or not isinstance(given, int) or not 1 <= given <= MOST_TURNS:
            why = f"takes a whole number of turns, 1 to {MOST_TURNS}, not {turns!r:.80}"
            raise InvalidPolicy("MaxTurns", definition_site(), why)
        super().__init__(["turns", turns])


class Deadline(End):
    """
    So much time has passed since the opening.

    Args:
        seconds: above 0, at most a year.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(["deadline", _milliseconds("Deadline", seconds)])


class Silence(End):
    """
    Nothing was said for so long, whoever is at work.

    With it the conversation stays open when nobody has anything to do, until the time has passed: somebody outside may
    speak. Without it that is its end. Where it takes more than the silence, `Silence(10.0) & MaxTurns(5)`, and that has
    not come, it ends as quiet then.

    Args:
        seconds: above 0, at most a year.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(["silence", _milliseconds("Silence", seconds)])


class Concluded(End):
    """
    A member has given its verdict, by `ctx.conclude`.

    Args:
        member: its name.
    """

    def __init__(self, member: str) -> None:
        given: object = member
        if not isinstance(given, str) or not given:
            raise InvalidPolicy("Concluded", definition_site(), f"takes a member's name, not {member!r:.80}")
        super().__init__(["verdict", member])


class Spent(End):
    """
    The members' turns have used so much, as they tell by `ctx.spend`, and what specialists and sources in them have.

    It is found out when a turn, a step of one or an assignment within one is done.

    Args:
        tokens, cost: at least one of them, above 0.
    """

    def __init__(self, *, tokens: int | None = None, cost: float | None = None) -> None:
        for name, given in (("tokens", tokens), ("cost", cost)):
            if given is not None and not (is_number(given) and given > 0):
                raise InvalidPolicy("Spent", definition_site(), f"{name} must be above 0, not {given!r:.80}")
        if tokens is None and cost is None:
            raise InvalidPolicy("Spent", definition_site(), "takes tokens or cost, such as Spent(tokens=50_000)")
        super().__init__(["spent", tokens, cost])


def _milliseconds(name: str, seconds: object) -> int:
    if not (is_number(seconds) and 0 < seconds <= LONGEST):
        why = f"takes seconds, above 0 and at most a year, not {seconds!r:.80}"
        raise InvalidPolicy(name, definition_site(), why)
    return max(1, round(seconds * 1000))
