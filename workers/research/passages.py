"""Documents cut into passages: what is found, and small enough to be quoted."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

LONGEST: Final = 400  # characters, after which a list or a table goes on in another passage
LONGEST_PROSE: Final = 1_000  # likewise a paragraph, if it can be: a sentence is not cut
MOST_LINES: Final = 16

_FENCE: Final = re.compile(r"\s{0,3}(```+|~~~+)")
_HEADING: Final = re.compile(r"(#{1,6}|={1,6})\s+(\S.*?)\s*[#=]*\s*$")  # Markdown's, AsciiDoc's
_UNDERLINE: Final = re.compile(r"([=\-~^\"'`*+#:.])\1{2,}\s*$")  # reStructuredText's, and Markdown's other one
_ITEM: Final = re.compile(r"\s*(?:[-*+•]|\d{1,3}[.)])\s+\S|\s*\|")
_RULE: Final = re.compile(r"[\s|:=+\-*_.~^#\"'`]*$")


@dataclass(frozen=True)
class Passage:
    """
    Some lines of a document, whole.

    Attributes:
        heading: what stands above them, the nearest last.
        code: whether they are an example, and no prose.
    """

    path: str
    first: int
    last: int
    heading: str
    text: str
    code: bool = False


def passages(path: str, lines: Sequence[str]) -> Iterator[Passage]:
    """Cut a document at its blank lines, long paragraphs at their items and rows."""
    cutter = _Cutter(path)
    # Of an installed package: fields for programs, and behind the first blank line what people read.
    start = next((number for number, line in enumerate(lines, start=1) if not line), 0) if _has_fields(path) else 0
    for number, line in enumerate(lines[start:], start=start + 1):
        yield from cutter.take(number, line)
    yield from cutter.end()


def _has_fields(path: str) -> bool:
    return path.rpartition("/")[2] == "METADATA"


class _Cutter:
    """A document on its way to be cut, line by line."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._above: list[tuple[int, str]] = []  # headings: level and text
        self._block: list[tuple[int, str]] = []  # numbers and lines
        self._fence = ""
        self._code = False
        self._lead: Passage | None = None  # one that leads to what follows: `it may be one of:`
        self._marks: list[str] = []  # underlines in the order in which they were met first: a heading's level

    def take(self, number: int, line: str) -> Iterator[Passage]:
        """Look at the next line."""
        fence = _FENCE.match(line)
        if self._fence:
            self._block.append((number, line))
            if fence and fence[1].startswith(self._fence):
                yield from self._close()
                self._fence, self._code = "", False
        elif fence:
            yield from self._close()
            self._fence, self._code = fence[1], True
            self._block.append((number, line))
        elif heading := _HEADING.match(line):
            yield from self._close()
            yield from self._under(len(heading[1]), heading[2])
        elif self._underlines(line):
            if line[0] not in self._marks:
                self._marks.append(line[0])
            text = self._block.pop()[1].strip()
            yield from self._under(self._marks.index(line[0]) + 1, text)
        elif line.strip():
            self._block.append((number, line))
        else:
            yield from self._close()

    def end(self) -> Iterator[Passage]:
        """There are no more lines."""
        yield from self._close()
        yield from self._alone()

    def _underlines(self, line: str) -> bool:
        if len(self._block) != 1 or not _UNDERLINE.match(line):
            return False
        text = self._block[0][1].strip()
        return 0 < len(text) <= len(line.rstrip()) and not _ITEM.match(text)

    def _under(self, level: int, text: str) -> Iterator[Passage]:
        yield from self._alone()
        self._above = [*(one for one in self._above if one[0] < level), (level, text)]

    def _alone(self) -> Iterator[Passage]:
        if self._lead is not None:
            yield self._lead
            self._lead = None

    def _close(self) -> Iterator[Passage]:
        for passage in self._cut():
            yield from self._led(passage)
        self._block.clear()

    def _led(self, passage: Passage) -> Iterator[Passage]:
        """Join a passage with the one that leads to it."""
        lead = self._lead
        if lead is not None and len(lead.text) + len(passage.text) <= LONGEST and lead.last + 2 >= passage.first:
            self._lead = None
            between = "\n" * (passage.first - lead.last)
            passage = replace(passage, first=lead.first, text=f"{lead.text}{between}{passage.text}")
        yield from self._alone()
        if passage.text.rstrip().endswith(":"):
            self._lead = passage
        else:
            yield passage

    def _cut(self) -> Iterator[Passage]:
        part: list[tuple[int, str]] = []
        size = 0
        for number, line in self._block:
            item = _ITEM.match(line)
            full = size + len(line) > LONGEST_PROSE or len(part) >= MOST_LINES
            if part and (full or (item and (size > LONGEST / 2 or size + len(line) > LONGEST))):
                yield from self._passage(part)
                part, size = [], 0
            part.append((number, line))
            size += len(line)
        yield from self._passage(part)

    def _passage(self, part: Sequence[tuple[int, str]]) -> Iterator[Passage]:
        while part and _RULE.match(part[0][1]):
            part = part[1:]
        while part and _RULE.match(part[-1][1]):
            part = part[:-1]
        if part:
            heading = " > ".join(text for _, text in self._above)
            text = "\n".join(line for _, line in part)
            yield Passage(self._path, part[0][0], part[-1][0], heading, text, self._code)
