"""Values as a Lua script of Redis reads them; tests/state/test_guards_alone.py has a server unpack them."""

from __future__ import annotations

import pytest

from orchestrator.state.packing import Packable, pack


@pytest.mark.parametrize(
    ("value", "packed"),
    [
        (None, b"\xc0"),
        (False, b"\xc2"),
        (True, b"\xc3"),
        (0, b"\x00"),
        (127, b"\x7f"),
        (128, b"\xd3\x00\x00\x00\x00\x00\x00\x00\x80"),
        (-1, b"\xd3\xff\xff\xff\xff\xff\xff\xff\xff"),
        (0.5, b"\xcb\x3f\xe0\x00\x00\x00\x00\x00\x00"),
        ("", b"\xa0"),
        ("a" * 31, b"\xbf" + b"a" * 31),
        ("a" * 32, b"\xdb\x00\x00\x00\x20" + b"a" * 32),
        ("\N{GREEK SMALL LETTER ALPHA}", b"\xa2\xce\xb1"),
    ],
)
def test_a_value_is_written_as_messagepack_has_it(value: Packable, packed: bytes) -> None:
    assert pack([value]) == packed


def test_values_come_one_after_another() -> None:
    assert pack(["a", 1, None]) == b"\xa1a\x01\xc0"


def test_an_int_that_is_too_large_is_refused() -> None:
    with pytest.raises(OverflowError):
        pack([2**63])
