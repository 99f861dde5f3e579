"""
Full-text search in the documents of a folder: SQLite's FTS5, which Python brings along, with its BM25.

Considered as well: bm25s (MIT, kept up; wants numpy, and stems with another package), rank-bm25 (Apache-2.0; last
release 2022, wants numpy), whoosh-reloaded (BSD; last release 2024) and tantivy (MIT, kept up; a binary of 5 MB). FTS5
is in the public domain and in the SQLite of Debian and of the image; it stems words, and needs nothing installed.
"""

from __future__ import annotations

import math
import re
import sqlite3
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from workers.research.errors import NoFullText, NothingToRead
from workers.research.folder import Shelf, read_lines, take_stock
from workers.research.models import MAX_WORD, Citation
from workers.research.passages import Passage, passages

KEPT: Final = 2
"""Indexes that a process holds, of different folders or states of them."""
FRESH: Final = 1.0
"""Seconds for which the files are not looked at again; what has changed meanwhile is for the fact-checker."""
MAX_TERMS: Final = 32
MOST_HITS: Final = 60

# BM25's weights of a hit in the document's name, in the headings above the passage, and in its text.
WEIGHTS: Final = (0.5, 1.0, 1.0)
COVERAGE: Final = 0.5
"""What it counts that a passage speaks of all that is asked, beside how much it speaks of any of it."""
CODE: Final = 0.7
"""What an example counts beside prose: it names things, and seldom says what they are."""

_WORD: Final = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")
_COMMON: Final = frozenset(
    """
    a about after all also am an and any are as at be because been before being between both but by can cannot could
    did do does doing done during each else ever every few for from get gets give gives given had happen happened
    happens has have having he her here his how i if in into is it its itself just keep keeps let lets like made
    make makes many may me might more most much must my no nor not of off on once one only or other our out over own
    per same shall she should so some such take takes than that the their them then there these they this those
    through to too under until up upon us use used uses using very want was way we were what when where which while
    who whom whose why will with within without would you your
    """.split()  # noqa: SIM905  easier to read
)


@dataclass(frozen=True)
class Hit:
    """A passage that was found; `score`: above 0, the best is highest; `covers`: the words asked for that are in it."""

    passage: Passage
    score: float
    covers: frozenset[str]


def terms(question: str) -> list[str]:
    """Return the words of a question that say what it is about; all of them where none does."""
    found = (match[0].casefold() for match in _WORD.finditer(question))
    words = list(dict.fromkeys(word for word in found if len(word) <= MAX_WORD))
    telling = [word for word in words if word not in _COMMON and (len(word) > 1 or word.isdigit())]
    return (telling or words)[:MAX_TERMS]


class Index:
    """
    The passages of some documents, in memory; for several threads.

    Args:
        shelf: the documents.

    Raises:
        NothingToRead: none of them is text.
        NoFullText: the SQLite here cannot do it.
    """

    def __init__(self, shelf: Shelf) -> None:
        self._lock = threading.Lock()
        self._db = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
        self.passages: list[Passage] = []
        # Of the words of the last questions: each is looked up again and again.
        self._places: OrderedDict[str, frozenset[int]] = OrderedDict()
        self._by_path: dict[str, list[Passage]] = {}
        try:
            for name in ("passages", "scratch"):
                self._db.execute(
                    f"CREATE VIRTUAL TABLE {name} USING "
                    "fts5(path, heading, text, tokenize='porter unicode61 remove_diacritics 2')"
                )
        except sqlite3.OperationalError:
            raise NoFullText(sqlite3.sqlite_version) from None
        self._db.execute("BEGIN")
        for document in shelf.documents:
            lines = read_lines(document.file)
            for passage in passages(document.path, lines or ()):
                self.passages.append(passage)
                self._by_path.setdefault(passage.path, []).append(passage)
                self._db.execute(
                    "INSERT INTO passages (rowid, path, heading, text) VALUES (?, ?, ?, ?)",
                    (len(self.passages), passage.path, passage.heading, passage.text),
                )
        self._db.execute("COMMIT")
        if not self.passages:
            raise NothingToRead(
                ", ".join(str(document.file) for document in shelf.documents[:3]), "no text that can be read"
            )

    def search(self, asked: Sequence[str], limit: int = MOST_HITS) -> list[Hit]:
        """
        Return the passages that speak most of some words, the best first.

        Args:
            asked: words, as of `terms`.
            limit: how many at most.
        """
        if not asked:
            return []
        with self._lock:
            rows = self._db.execute(
                "SELECT rowid, -bm25(passages, ?, ?, ?) AS score FROM passages WHERE passages MATCH ? "
                "ORDER BY score DESC, rowid LIMIT ?",
                (*WEIGHTS, " OR ".join(_quoted(word) for word in asked), MOST_HITS * 3),
            ).fetchall()
        if not rows:
            return []
        weights = self.weights(asked)
        best, total = max(score for _, score in rows) or 1.0, sum(weights.values()) or 1.0
        with_words = {word: self._with(word) for word in asked}
        hits = []
        for rowid, score in rows:
            covers = frozenset(word for word in asked if rowid in with_words[word])
            covered = sum(weights[word] for word in covers) / total
            passage = self.passages[rowid - 1]
            worth = (score / best + COVERAGE * covered) * (CODE if passage.code else 1)
            hits.append(Hit(passage, worth, covers))
        hits.sort(key=lambda hit: (-hit.score, hit.passage.path, hit.passage.first))
        return hits[:limit]

    def weights(self, asked: Iterable[str]) -> dict[str, float]:
        """Return how telling each word is: the inverse frequency, as BM25 has it."""
        total = len(self.passages)
        return {
            word: math.log(1 + (total - number + 0.5) / (number + 0.5))
            for word in asked
            for number in (len(self._with(word)),)
        }

    def heading(self, citation: Citation) -> str:
        """Return what stands above a quotation; nothing where it is not in the index."""
        for passage in self._by_path.get(citation.path, ()):
            if passage.first <= citation.first <= passage.last:
                return passage.heading
        return ""

    def covers(self, text: str, asked: Sequence[str]) -> frozenset[str]:
        """Return those of some words that are in a text, by the same stems as in the documents."""
        with self._lock:
            # Rolled back, it leaves nothing behind: an index that is searched for days must not grow.
            self._db.execute("BEGIN")
            try:
                self._db.execute("INSERT INTO scratch (text) VALUES (?)", (text,))
                return frozenset(
                    word
                    for word in asked
                    if self._db.execute("SELECT 1 FROM scratch WHERE scratch MATCH ?", (_quoted(word),)).fetchone()
                )
            finally:
                self._db.execute("ROLLBACK")

    def _with(self, word: str) -> frozenset[int]:
        with self._lock:
            found = self._places.get(word)
            if found is None:
                rows = self._db.execute("SELECT rowid FROM passages WHERE passages MATCH ?", (_quoted(word),))
                found = self._places[word] = frozenset(rowid for (rowid,) in rows)
                while len(self._places) > MAX_TERMS:
                    self._places.popitem(last=False)
            self._places.move_to_end(word)
            return found


def _quoted(word: str) -> str:
    # A string of FTS5: nothing in it is an operator.
    return '"' + word.replace('"', '""') + '"'


_State = tuple[tuple[str, int, int], ...]
_built: OrderedDict[tuple[str, ...], tuple[float, _State, Index]] = OrderedDict()
_building = threading.Lock()


def index_of(folders: Sequence[str]) -> Index:
    """
    Return the index of some folders: built where this process has none of their files as they are now.

    Raises:
        NothingToRead: there is no such folder, or no document in it.
        NoFullText: the SQLite here cannot do it.
    """
    key = tuple(folders)
    with _building:
        known = _built.get(key)
        if known is not None and time.monotonic() - known[0] < FRESH:
            _built.move_to_end(key)
            return known[2]
        shelf = take_stock(folders)
        state: _State = tuple((document.path, document.size, document.changed) for document in shelf.documents)
        found = known[2] if known is not None and known[1] == state else Index(shelf)
        _built[key] = (time.monotonic(), state, found)
        _built.move_to_end(key)
        while len(_built) > KEPT:
            _built.popitem(last=False)
        return found
