"""What happens where two writes to an entry rest on the same version of it."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from orchestrator.errors import InvalidPolicy, definition_site

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Reject:
    """A write that rests on another version than the one that stands there is refused, and told what does."""


@dataclass(frozen=True)
class LastWriter:
    """The last write stands, whatever it rests on."""


@dataclass(frozen=True)
class HighestConfidence:
    """Where two rest on the same version, the one whose writer is surer of it stands; at a draw the earlier one."""


@dataclass(frozen=True)
class Merge:
    """
    Where a write rests on another version than the one that stands there, both are merged.

    Attributes:
        function: takes what stands there and what was to be written, and returns what is to stand there. It is called
            again where that, too, is overtaken: a pure function.
    """

    function: Callable[[Any, Any], Any]

    def __post_init__(self) -> None:
        given: object = self.function
        if not callable(given) or inspect.iscoroutinefunction(given):
            why = f"takes a plain function of two values, not {given!r:.80}"
            raise InvalidPolicy("Merge", definition_site(), why)


@dataclass(frozen=True)
class Arbiter:
    """
    A write that rests on another version than the one that stands there is put to another source, which decides.

    What was to be written becomes a `Proposal` in the list that is the entry `dispute.<name>`. The arbiter is woken by
    that, reads both, and writes what is to stand there together with an empty list.

    Attributes:
        runs: an agent, its name, or a flow, which takes a `Wake` as every source does.
        name: of the source; the last part of the agent's unless given.
    """

    runs: Any
    name: str | None = None


DISPUTE: Final = "dispute."
"""How the entry is called that holds what was proposed for another, before that one's name."""
Rule = Reject | LastWriter | HighestConfidence | Merge | Arbiter
RULES: Final[dict[type, str]] = {
    Reject: "reject",
    LastWriter: "last",
    HighestConfidence: "confidence",
    Merge: "merge",
    Arbiter: "arbiter",
}
