"""What the tests of the research flow share: documents, questions about docs/, what a member has heard."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from orchestrator.conversation.handle import MemoryTalk, written
from orchestrator.testing import FakeTalk
from workers.research.flow import debate
from workers.research.models import Citation, Question

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pydantic import BaseModel

DOCS: Final = Path(__file__).parents[2] / "docs"
QUESTIONS: Final = Path(__file__).with_name("questions.toml")
HALVES: Final = ("tuned", "held")

LEASES: Final = """\
# Leases

A worker takes a lease before it begins. The lease ends after 10 seconds.
But a worker that is alive renews it every three seconds.

| What dies | What follows |
|---|---|
| the worker | another one takes the step up within 15 seconds |
| the broker | messages wait |

See [the other page](harbour.md) about boats.
"""
HARBOUR: Final = """\
The Harbour
===========

Boats enter the harbour at high tide. The harbour master assigns a berth to each boat.

- A berth costs 20 crowns a night.
- Fishing boats pay nothing.
"""


def plant(folder: Path) -> Path:
    """Write two documents into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "leases.md").write_text(LEASES)
    (folder / "harbour.md").write_text(HARBOUR)
    return folder


def citation(folder: Path, path: str, first: int, last: int | None = None) -> Citation:
    """Return what stands in some lines, quoted."""
    end = first if last is None else last
    lines = (folder / path).read_text().split("\n")[first - 1 : end]
    return Citation(path=path, first=first, last=end, quote="\n".join(lines))


def question(folder: Path, text: str = "How much does a berth cost?") -> Question:
    """Return a question to a folder."""
    return Question(text=text, folders=(str(folder),))


@dataclass(frozen=True)
class Line:
    """Something that was said: a line of a transcript."""

    kind: str
    sender: str
    body: BaseModel | None
    re: int | None = None


class Heard(FakeTalk):
    """
    The conversation for one call of a member, after what was said in it.

    Args:
        member: who speaks.
        lines: what was said, the question first; their numbers are 1, 2, and so on.
        replies: as of `fake_talk`.
    """

    def __init__(self, member: str, lines: Sequence[Line], replies: Mapping[str, object] | None = None) -> None:
        super().__init__(debate, member, {}, ())
        kept: list[tuple[int, dict[str, Any], bytes | None]] = []
        for number, line in enumerate(lines, start=1):
            kind = "" if line.body is None else type(line.body).__name__
            facts = {"k": line.kind, "f": line.sender, "t": [], "y": kind, "a": 0, "r": line.re}
            kept.append((number, facts, None if line.body is None else written(line.body)))
        self._post = MemoryTalk(replies or {}, kept)


@dataclass(frozen=True)
class Case:
    """A question about docs/, and the places that answer it: page and line."""

    text: str
    places: tuple[tuple[str, int], ...]


def cases(half: str) -> list[Case]:
    """Return one half of the questions; fails where a page has lost the words that answer one."""
    return [
        Case(each["text"], tuple(_place(place["page"], place["words"]) for place in each["places"]))
        for each in tomllib.loads(QUESTIONS.read_text(encoding="utf-8"))[half]
    ]


def _place(page: str, words: str) -> tuple[str, int]:
    lines = (DOCS / page).read_text(encoding="utf-8").split("\n")
    found = [number for number, line in enumerate(lines, start=1) if words in line]
    assert found, f"docs/{page} has no {words!r} any more: mend {QUESTIONS.name}"
    return page, found[0]
