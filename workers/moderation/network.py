"""IP addresses in a text, told from version numbers, times and paths of code."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

_V4 = re.compile(r"(?<![\w.-])(?:\d{1,3}\.){3}\d{1,3}(?![\w-]|\.\d)")
_V6 = re.compile(r"(?<![\w:.])(?:[0-9a-f]{0,4}:){2,7}[0-9a-f]{0,4}(?![\w:]|\.\d)", re.IGNORECASE)

_VERSION_BEFORE = re.compile(
    r"(?:\b(?:v|ver|version|release[sd]?|revision|build)\.?|[=<>~!]=|[<>^~])\s?\Z", re.IGNORECASE
)
_VERSION_AFTER = re.compile(r"\s?(?:\(\d{4}-|\(unreleased|released?\b|beta\b|alpha\b|rc\d|-\s?\d{4}-)", re.IGNORECASE)
_ADDRESS_BEFORE = re.compile(
    r"(?:(?<!\[)\b(?:ip|ipv4|host|hostname|server|address|addr|gateway|subnet|router|dns|ping|ssh|from)\b\W{0,3}(?:\w{2,8}\W{1,2})?|://|@)\Z",
    re.IGNORECASE,
)
_ADDRESS_AFTER = re.compile(r":\d{2,5}\b|/\d{1,2}\b")
_LARGEST_VERSION_PART = 32
_LEAST_HEXTETS = 3


def ip_addresses(text: str, _language: str) -> Iterator[tuple[int, int]]:
    """
    Yield the spans of addresses that can belong to somebody: public ones, and private ones of an internal network.

    Four small numbers (2.9.0.1) are taken for a version unless something beside them speaks of an address.
    """
    found = [match.span() for match in _V4.finditer(text) if _is_v4_address(text, match)]
    found += [match.span() for match in _V6.finditer(text) if _is_v6_address(match.group())]
    yield from sorted(found)


def _is_v4_address(text: str, match: re.Match[str]) -> bool:
    if not _belongs_to_somebody(match.group()):
        return False
    before, after = text[max(0, match.start() - 32) : match.start()], text[match.end() : match.end() + 16]
    if _VERSION_BEFORE.search(before) or _VERSION_AFTER.match(after):
        return False
    if max(int(part) for part in match.group().split(".")) >= _LARGEST_VERSION_PART:
        return True
    return bool(_ADDRESS_BEFORE.search(before) or _ADDRESS_AFTER.match(after))


def _is_v6_address(text: str) -> bool:
    # `dead::beef` is an address by the letter, and a name in C++ by the look of it.
    hextets = [part for part in text.split(":") if part]
    looks = len(hextets) >= _LEAST_HEXTETS and any(character.isdigit() for character in text)
    return looks and _belongs_to_somebody(text)


def _belongs_to_somebody(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:  # it only looked like one
        return False
    # 255.255.255.0 and its like are masks, and reserved.
    return not (
        address.is_loopback
        or address.is_unspecified
        or address.is_multicast
        or address.is_link_local
        or address.is_reserved
    )
