"""
Conditions on what stands on a blackboard: when a source is woken, when the goal is reached.

They are data, not code: the script that writes an entry decides by them, in the same moment, who is woken and whether
the board has reached its goal. What takes code to find out, a source finds out and writes down as an entry.
"""

from __future__ import annotations

import json
import math
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, cast

from orchestrator.errors import InvalidPolicy, definition_site

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ENTRY: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,199}")
PATTERN: Final = re.compile(r"[A-Za-z0-9_*][A-Za-z0-9_.:*-]{0,199}")
TASK: Final = "task"
"""What stands for the opening of a board where a source says what it watches; no entry has this name."""
DEEPEST: Final = 20
Scalar = str | int | float | bool | None


class Condition:
    """
    A condition; `&`, `|` and `~` make others of them.

    Made by `Entry` and `Count`.
    """

    def __init__(self, parts: list[Any]) -> None:
        self._parts = parts

    def __and__(self, other: Condition) -> Condition:
        return Condition(["all", *self._several("all", other)])

    def __or__(self, other: Condition) -> Condition:
        return Condition(["any", *self._several("any", other)])

    def __invert__(self) -> Condition:
        return Condition(["not", self._parts])

    def __bool__(self) -> bool:
        msg = "a condition is decided on the board: combine them with &, | and ~, in brackets, not with and, or, not"
        raise TypeError(msg)

    def __repr__(self) -> str:
        return f"<condition {said(self._parts)}>"

    def _several(self, kind: str, other: object) -> Iterator[list[Any]]:
        if not isinstance(other, Condition):
            msg = f"a condition is combined with another one, not with {other!r:.80}: put comparisons into brackets"
            raise TypeError(msg)
        for parts in (self.as_rule(), other.as_rule()):
            yield from parts[1:] if parts[0] == kind else [parts]

    def as_rule(self) -> list[Any]:
        """Return it as the scripts take it."""
        return self._parts

    def names(self) -> tuple[str, ...]:
        """Return the entries, or patterns of entries, that it asks for."""
        return tuple(dict.fromkeys(_names(self._parts)))


class _Compared:
    """What can be compared with a plain value."""

    def _is(self, op: str, value: object) -> Condition:
        raise NotImplementedError

    def __eq__(self, value: object) -> Condition:  # type: ignore[override] # the point of it
        return self._is("==", value)

    def __ne__(self, value: object) -> Condition:  # type: ignore[override] # likewise
        return self._is("!=", value)

    def __lt__(self, value: object) -> Condition:
        return self._is("<", value)

    def __le__(self, value: object) -> Condition:
        return self._is("<=", value)

    def __gt__(self, value: object) -> Condition:
        return self._is(">", value)

    def __ge__(self, value: object) -> Condition:
        return self._is(">=", value)

    __hash__ = None  # type: ignore[assignment] # equality is a condition here


class Field(_Compared):
    """
    What an entry holds, to be compared with a plain value.

    Where the entry, or the field, is not there, no comparison holds. A value of another type is unequal, and
    neither more nor less.
    """

    def __init__(self, entry: str, path: str = "") -> None:
        self._entry, self._path = entry, path

    def _is(self, op: str, value: object) -> Condition:
        return Condition(["field", self._entry, self._path, op, _plain(value, op)])


class Entry(Condition):
    """
    An entry of a blackboard; as a condition: that it is there.

    Args:
        name: the entry's.
    """

    def __init__(self, name: str) -> None:
        if not is_entry(name):
            raise _invalid("Entry", f"an entry's name {NAMED}, not {name!r:.80}")
        self.name = name
        super().__init__(["has", name])

    @property
    def value(self) -> Field:
        """What it holds, where that is a text, a number or a truth."""
        return Field(self.name)

    def field(self, *path: str) -> Field:
        """
        Return one of its fields, as its JSON has them.

        Args:
            path: the field's name; of one within another, the names from the outermost on.
        """
        for part in path:
            given: object = part
            if not isinstance(given, str) or not given or "/" in given:
                raise _invalid("Entry.field", f"a field's name is a text without a slash, not {part!r:.80}")
        if not path:
            raise _invalid("Entry.field", "name the field; what a plain entry holds is its `value`")
        return Field(self.name, "/".join(path))

    def after(self, other: str) -> Condition:
        """
        Return the condition that it was written later than others were last changed.

        Args:
            other: an entry, which need not be there, or a pattern of entries.
        """
        return Condition(["after", self.name, pattern_of("Entry.after", other)])


class Count(_Compared):
    """
    How many entries there are of a pattern, to be compared with a number.

    Args:
        pattern: in which `*` stands for any characters.
    """

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern_of("Count", pattern)

    def _is(self, op: str, value: object) -> Condition:
        if isinstance(value, bool) or not isinstance(value, int):
            raise _invalid("Count", f"entries are counted: compare with a whole number, not with {value!r:.80}")
        return Condition(["count", self._pattern, op, value])


def is_entry(name: object) -> bool:
    """Tell whether an entry may have this name."""
    return isinstance(name, str) and ENTRY.fullmatch(name) is not None and name != TASK


NAMED: Final = "has 1 to 200 letters, digits and _ . : -, begins with none of . : - and is not 'task'"


def _invalid(what: str, why: str) -> InvalidPolicy:
    return InvalidPolicy(what, definition_site(), why)


def pattern_of(what: str, pattern: object) -> str:
    """
    Return a pattern of entries' names.

    Raises:
        InvalidPolicy: it is none.
    """
    if not isinstance(pattern, str) or not PATTERN.fullmatch(pattern):
        raise _invalid(what, f"a pattern is an entry's name in which * stands for any characters, not {pattern!r:.80}")
    return pattern


@lru_cache(maxsize=4096)
def matches(pattern: str, name: str) -> bool:
    """Tell whether a name is one of a pattern."""
    first, *more = pattern.split("*")
    if not more:
        return name == first
    *middle, last = more
    if len(name) < len(first) + len(last) or not name.startswith(first) or not name.endswith(last):
        return False
    # Each part as early as it comes: a regular expression tries again for each star.
    at, end = len(first), len(name) - len(last)
    for part in middle:
        found = name.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True


def depth(parts: Iterable[Any]) -> int:
    """Return how deep conditions are within one another."""
    return 1 + max((depth(part) for part in parts if isinstance(part, list)), default=0)


def _plain(value: object, op: str) -> Scalar:
    if isinstance(value, float) and not math.isfinite(value):
        raise _invalid("Entry", f"an entry holds no {value}: JSON has no such number")
    if op in {"==", "!="}:
        fits = value is None or isinstance(value, str | int | float)
    else:
        fits = isinstance(value, str | int | float) and not isinstance(value, bool)
    if not fits:
        raise _invalid("Entry", f"what an entry holds is compared by {op} with a text or number, not {value!r:.80}")
    return cast("Scalar", value)


def _names(parts: list[Any]) -> Iterator[str]:
    kind = parts[0]
    if kind in {"all", "any", "not"}:
        for part in parts[1:]:
            yield from _names(part)
    elif kind == "after":
        yield from parts[1:3]
    else:
        yield parts[1]


def said(parts: list[Any]) -> str:  # noqa: PLR0911  one for each kind
    """Return a condition in words."""
    match parts:
        case ["all" | "any" as kind, *more]:
            return f"({(' & ' if kind == 'all' else ' | ').join(said(part) for part in more)})"
        case ["not", part]:
            return f"~{said(part)}"
        case ["has", name]:
            return str(name)
        case ["after", name, other]:
            return f"{name} after {other}"
        case ["count", pattern, op, value]:
            return f"count({pattern}) {op} {value}"
        case [_, name, path, op, value]:
            return f"{name}{'.' + path.replace('/', '.') if path else ''} {op} {json.dumps(value)}"
        case _:
            return repr(parts)
