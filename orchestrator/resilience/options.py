"""What options of policies must be, whatever was given: a wrong type is named with the line that it stands in."""

from __future__ import annotations

import math
from typing import TypeGuard

from orchestrator.errors import InvalidPolicy, definition_site


def is_number(value: object) -> TypeGuard[int | float]:
    """Tell whether a value is a number that is finite; a bool is none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -math.inf < value < math.inf


def is_count(value: object, least: int = 1) -> TypeGuard[int]:
    """Tell whether a value is a whole number, `least` or more; a bool is none."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def check_of(policy: str, of: object) -> None:
    """
    Check what a policy is of.

    Raises:
        InvalidPolicy: it is no name.
    """
    if of is not None and not (isinstance(of, str) and of):
        why = "of must not be empty" if of == "" else f"of must be a name, not {of!r:.40}"
        raise InvalidPolicy(policy, definition_site(), why)


def check_seconds(policy: str, name: str, seconds: object) -> None:
    """
    Check a duration that has no bound of its own.

    Raises:
        InvalidPolicy: it is no number above 0.
    """
    if not (is_number(seconds) and seconds > 0):
        raise InvalidPolicy(policy, definition_site(), f"{name} must be above 0 s and finite, not {seconds!r:.40}")


def check_kind(where: str, name: str, value: object, kind: type) -> None:
    """
    Check that a policy is one.

    Raises:
        InvalidPolicy: it is something else.
    """
    if not isinstance(value, kind):
        raise InvalidPolicy(where, definition_site(), f"{name} takes {kind.__name__}(...), not {value!r:.80}")
