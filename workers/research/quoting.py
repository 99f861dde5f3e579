"""What of a passage is quoted, and what it says in words."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from workers.research.index import Hit, Index
from workers.research.models import MAX_QUOTE, MAX_TEXT, Citation, Statement
from workers.research.passages import Passage

LONG: Final = 240  # characters: a statement that is shorter takes the next sentence in where that speaks of more
MOST_LINES: Final = 8
LONG_LINE: Final = 400  # characters, of which a part is quoted, not the whole line

_ITEM: Final = re.compile(r"\s*(?:[-*+•]|\d{1,3}[.)])\s+")
_END: Final = re.compile(r"[.!?][\"'\u201d\u2019)`*_]*\s+(?=[\"'\u201c\u2018(`*_\[]*[A-Z0-9])")
_LINK: Final = re.compile(r"!?\[([^\]\n]*)\]\([^)\s]*(?:\s+\"[^\"\n]*\")?\)")
_EMPHASIS: Final = re.compile(r"(?<![\w*])(\*\*|__|\*)(?=\S)(.+?)(?<=\S)\1(?![\w*])", re.DOTALL)
_MARKS: Final = re.compile(r"^\s*(?:[-*+•]|\d{1,3}[.)]|>|#{1,6})\s+")
_RULE: Final = re.compile(r"[\s|:=+\-]*$")


@dataclass(frozen=True)
class _Unit:
    """
    A sentence, an item, a row of a table or a line of code.

    Attributes:
        first, last: its lines within the passage, counted from 0.
        text: as it is read; `raw`: as it stands there.
    """

    first: int
    last: int
    text: str
    raw: str


def statement(index: Index, hit: Hit, weights: Mapping[str, float], cited: Sequence[Citation] = ()) -> Statement | None:
    """
    Return the part of a passage that speaks most of what is asked; None where all of it was cited.

    Args:
        index: knows which words are in a text.
        hit: the passage, and the words asked for that are in it.
        weights: how telling each word is.
        cited: lines that are passed over.
    """
    units = list(_units(hit.passage.text))
    taken = [any(cite(hit.passage, unit.first, unit.last).overlaps(one) for one in cited) for unit in units]
    if all(taken):
        return None
    asked = sorted(weights)
    covers = [index.covers(unit.text, asked) for unit in units]

    def worth(words: frozenset[str]) -> float:
        return round(sum(weights[word] for word in words), 6)

    free = [place for place in range(len(units)) if not taken[place]]
    # Of two that speak of as much, the first: what follows rests on it.
    first = last = max(free, key=lambda place: (worth(covers[place]), -place))
    said = covers[first]
    while True:
        more = [
            (worth(covers[place] - said), place)
            for place in (first - 1, last + 1)
            if place in free and _fits(units[min(first, place) : max(last, place) + 1])
        ]
        gain, place = max(more, default=(0.0, 0))
        if gain <= 0:
            break
        first, last, said = min(first, place), max(last, place), said | covers[place]
    chosen = units[first : last + 1]
    text = " ".join(unit.text for unit in chosen)
    evidence = cite(hit.passage, chosen[0].first, chosen[-1].last)
    if evidence.first == evidence.last and len(hit.passage.text.split("\n")[chosen[0].first]) > LONG_LINE:
        # A document whose paragraphs are a line each: the whole of it would say everything and nothing.
        raw = "".join(unit.raw for unit in chosen).strip()
        evidence = evidence.model_copy(update={"quote": raw[:MAX_QUOTE]})
    return Statement(text=text[:MAX_TEXT], evidence=evidence)


def _fits(units: Sequence[_Unit]) -> bool:
    """Tell whether some sentences are few enough to be one statement."""
    return len(" ".join(unit.text for unit in units)) <= LONG and units[-1].last - units[0].first < MOST_LINES


def cite(passage: Passage, first: int, last: int) -> Citation:
    """Return some lines of a passage, counted from 0, as a quotation; as many of them as may be quoted."""
    lines = passage.text.split("\n")[first : last + 1]
    while len(lines) > 1 and len("\n".join(lines)) > MAX_QUOTE:
        lines.pop()
    start = passage.first + first
    return Citation(path=passage.path, first=start, last=start + len(lines) - 1, quote="\n".join(lines)[:MAX_QUOTE])


def sentences(text: str) -> list[str]:
    """Return the sentences, items and rows of some lines, without their marks."""
    return [unit.text for unit in _units(text)]


def plain(text: str) -> str:
    """Return what a person reads of Markdown: without links, marks and lines' ends."""
    if text.lstrip().startswith("|"):
        cells = [cell.strip() for cell in text.replace(r"\|", "\0").strip().strip("|").split("|")]
        text = " — ".join(cell for cell in cells if cell).replace("\0", "|")
    text = _EMPHASIS.sub(r"\2", _LINK.sub(r"\1", _MARKS.sub("", text)))
    return " ".join(text.split())


def _units(text: str) -> Iterator[_Unit]:
    """Yield what a text is made of, at least one."""
    lines = text.split("\n")
    found = list(_parts(lines))
    yield from found or [_Unit(0, len(lines) - 1, " ".join(text.split()), text)]


def _parts(lines: Sequence[str]) -> Iterator[_Unit]:
    place = 0
    while place < len(lines):
        line = lines[place]
        if not line.strip():
            place += 1
            continue
        end = place + 1
        if line.lstrip().startswith(("```", "~~~")):
            while end < len(lines) and not lines[end].lstrip().startswith(("```", "~~~")):
                end += 1
            # Each line of code says something of its own.
            for number in range(place + 1, end):
                if lines[number].strip():
                    yield _Unit(number, number, " ".join(lines[number].split()), lines[number])
            place = end + 1
            continue
        if line.lstrip().startswith("|"):
            # What its columns are called, above the rule, says nothing by itself.
            if not _RULE.match(line) and not (end < len(lines) and _is_rule(lines[end])):
                yield _Unit(place, place, plain(line), line)
            place = end
            continue
        while end < len(lines) and lines[end].strip() and not _ITEM.match(lines[end]) and lines[end].lstrip()[0] != "|":
            end += 1
        yield from _in_sentences(lines, place, end)
        place = end


def _is_rule(line: str) -> bool:
    return "-" in line and bool(_RULE.match(line))


def _in_sentences(lines: Sequence[str], first: int, end: int) -> Iterator[_Unit]:
    text = "\n".join(lines[first:end])
    start = 0
    for stop in [*(match.end() for match in _END.finditer(text)), len(text)]:
        part = text[start:stop]
        if part.strip():
            begins = first + text.count("\n", 0, start + len(part) - len(part.lstrip()))
            ends = first + text.count("\n", 0, start + len(part.rstrip()))
            yield _Unit(begins, ends, plain(part), part)
        start = stop
