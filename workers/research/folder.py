"""The documents in a folder: what is read, and what is left out."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from workers.research.errors import NothingToRead
from workers.research.models import MAX_PATH

MAX_FILES: Final = 5_000
MAX_BYTES: Final = 1024 * 1024  # of a document
MAX_TOTAL: Final = 32 * 1024 * 1024  # of all: the index is held in memory, some three times as large
MAX_FOLDERS_READ: Final = 50_000
SNIFFED: Final = 8192  # bytes looked at to tell text from data, as git does

SUFFIXES: Final = frozenset(
    {".md", ".markdown", ".mdown", ".mdx", ".rst", ".txt", ".text", ".adoc", ".asciidoc", ".org"}
)
NAMES: Final = (
    *("authors", "changelog", "changes", "contributing", "copying", "copyright", "faq", "history", "install"),
    *("licence", "license", "metadata", "news", "notice", "readme", "todo"),
)
"""What documents without a suffix are called, or begin with."""
LISTS: Final = frozenset({"entry_points.txt", "sources.txt", "top_level.txt", "dependency_links.txt"})
"""Of the packages of Python: names, no text."""
LEFT_OUT: Final = frozenset(
    {"__pycache__", "node_modules", "site-packages", "dist-packages", "venv"}
)  # and what begins with a dot


@dataclass(frozen=True)
class Document:
    """
    A file to be read.

    Attributes:
        path: as it is cited.
        file: where it is.
        size: in bytes; with `changed`, in ns, it tells another state of the file.
    """

    path: str
    file: Path
    size: int
    changed: int


@dataclass(frozen=True)
class Shelf:
    """The documents of some folders, by path."""

    documents: tuple[Document, ...]


def labels(folders: Sequence[str]) -> list[str]:
    """Return what the paths below each folder begin with: nothing where there is one, else names that differ."""
    if len(folders) == 1:
        return [""]
    found: list[str] = []
    for folder in folders:
        name = Path(folder).name or "root"
        number = sum(each == f"{name}/" or each.startswith(f"{name}-") for each in found)
        found.append(f"{name}-{number + 1}/" if number else f"{name}/")
    return found


def take_stock(folders: Sequence[str]) -> Shelf:
    """
    Look at what is in some folders. Links in them are not followed.

    Raises:
        NothingToRead: there is no such path here, or no document in any.
    """
    documents: dict[Path, Document] = {}
    total = 0
    for folder, label in zip(folders, labels(folders), strict=True):
        for name, file in _files(folder):
            document = _look(f"{label}{name}", file)
            if document is None or file in documents:  # a folder may be in another one
                continue
            total += document.size
            if len(documents) == MAX_FILES or total > MAX_TOTAL:
                why = f"more than {MAX_FILES:,} documents, or {MAX_TOTAL:,} bytes of them; ask about a part of it"
                raise NothingToRead(folder, why)
            documents[file] = document
    if not documents:
        why = f"there is no document in it; it takes text named {', '.join(sorted(SUFFIXES))}, README or the like"
        raise NothingToRead(", ".join(folders), why)
    return Shelf(tuple(documents.values()))


def is_document(name: str) -> bool:
    """Tell by a file's name whether it is one to read."""
    small = name.lower()
    if small.startswith(".") or small in LISTS:
        return False
    suffix = Path(small).suffix
    return suffix in SUFFIXES or (small.startswith(NAMES) and (not suffix or suffix[1:].isdigit()))


def find(folders: Sequence[str], path: str) -> Path | None:
    """Return the file that is cited by a path; None where no document of the folders can be."""
    for folder, label in zip(folders, labels(folders), strict=True):
        if not path.startswith(label):
            continue
        name = path.removeprefix(label)
        root = Path(folder).resolve()
        if root.is_file():
            return root if name == root.name else None
        parts = name.split("/")
        if any(part in {"", ".", ".."} or "\0" in part for part in parts):
            continue
        file = root.joinpath(*parts)
        # What was no link when it was found may be one now.
        if is_document(file.name) and file.resolve() == file and _regular(file):
            return file
    return None


def _regular(file: Path) -> bool:
    try:
        return stat.S_ISREG(file.lstat().st_mode)
    except OSError:
        return False


def _files(folder: str) -> Iterator[tuple[str, Path]]:
    """Yield the relative path of each document below a folder, in order, and where it is."""
    path = Path(folder)
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:  # a ValueError for a zero byte in it
        why = getattr(error, "strerror", None) or str(error)
        raise NothingToRead(
            folder, f"{why} where the workers are; check the path, and that all of them see the same files"
        ) from None
    root = path.resolve()
    if not stat.S_ISDIR(mode):
        yield root.name, root
        return
    below, seen = [""], 0
    while below and seen < MAX_FOLDERS_READ:
        inside = below.pop()
        seen += 1
        try:
            with os.scandir(root / inside) as listed:
                entries = sorted(listed, key=lambda entry: entry.name)
        except OSError:
            continue  # one that may not be read is as one that is not there
        folders = []
        for entry in entries:
            name = f"{inside}/{entry.name}" if inside else entry.name
            if entry.is_dir(follow_symlinks=False):
                if not entry.name.startswith(".") and entry.name not in LEFT_OUT:
                    folders.append(name)
            elif is_document(entry.name):
                yield name, root / name
        below.extend(reversed(folders))


def _look(path: str, file: Path) -> Document | None:
    try:
        status = file.lstat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_BYTES:
            return None
        # A name that is not UTF-8, or that long, cannot be cited.
        if len(path.encode()) > MAX_PATH:
            return None
    except (OSError, UnicodeEncodeError):
        return None
    return Document(path, file, status.st_size, status.st_mtime_ns)


def read_lines(file: Path) -> list[str] | None:
    """
    Return the lines of a document; None where it is no text, too large, or gone.

    A line ends where an editor ends it, not at every character that Unicode calls a separator: its number must be one
    that a person finds it by.
    """
    try:
        with os.fdopen(os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES or b"\0" in raw[:SNIFFED]:
            return None
        text = raw.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return None
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return lines[:-1] if lines and not lines[-1] else lines
