"""What stands in for an agent's output when the agent cannot give one: the rungs of its fallback ladder."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from orchestrator.errors import InvalidPolicy, definition_site

LONGEST: Final = 366 * 86400.0
"""Seconds; as long as a run may take."""

FIXED: Final = "a fixed output"
LAST_GOOD: Final = "the last good output"
"""How the reason of a step begins whose output no agent gave."""

ANY_INPUT: Final = "any"
"""In the place of a digest: of whichever input the output was given for."""


@dataclass(frozen=True)
class Cached:
    """
    The last good output of the agent.

    Attributes:
        max_age: seconds; an older one is passed over.
        same_input: whether it must have been given for the same input; if not, the newest one for any input counts.

    Raises:
        InvalidPolicy: a value does not fit; the message names the file.
    """

    max_age: float = 3600.0
    same_input: bool = True

    def __post_init__(self) -> None:
        age: object = self.max_age
        if not (isinstance(age, int | float) and not isinstance(age, bool) and 0 < age <= LONGEST):
            why = f"max_age must be above 0 s and at most a year, not {age!r:.40}"
            raise InvalidPolicy("Cached", definition_site(), why)
        same: object = self.same_input
        if not isinstance(same, bool):
            raise InvalidPolicy("Cached", definition_site(), f"same_input must be True or False, not {same!r:.40}")

    def digest(self, value: bytes) -> str:
        """Return the name under which the output for an input, as it is stored, is kept and found."""
        return sha256(value).hexdigest()[:32] if self.same_input else ANY_INPUT


@dataclass(frozen=True)
class Constant:
    """
    A fixed output.

    Attributes:
        value: as the agent would return it; it is checked against the agent's output type when that registers.
    """

    value: object


Rung = str | Cached | Constant
"""One step of a fallback ladder: another agent by its name, the last good output, or a fixed one."""
