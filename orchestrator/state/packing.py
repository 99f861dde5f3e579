"""Values one after another as Redis's cmsgpack reads them; a Lua script has them at a sixth of what JSON costs it."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

Packable = str | int | float | None

SMALL: Final = 127
"""The largest int that is written in one byte."""
SHORT: Final = 31
"""Bytes of the longest text whose length is written in one."""


def pack(values: Iterable[Packable]) -> bytes:
    """
    Return values as MessagePack has them, without an array around them.

    Raises:
        OverflowError: an int has more than 64 bits.
    """
    return b"".join(map(_packed, values))


def _packed(value: Packable) -> bytes:
    if value is None:
        return b"\xc0"
    if isinstance(value, bool):
        return b"\xc3" if value else b"\xc2"
    if isinstance(value, int):
        return bytes((value,)) if 0 <= value <= SMALL else b"\xd3" + value.to_bytes(8, signed=True)
    if isinstance(value, float):
        return struct.pack(">Bd", 0xCB, value)
    text = value.encode()
    return (bytes((0xA0 | len(text),)) if len(text) <= SHORT else struct.pack(">BI", 0xDB, len(text))) + text
