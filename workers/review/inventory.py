"""What is in a folder: files with their language and size, and what is left out."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from workers.review.errors import NothingToReview
from workers.review.models import Request, Unchecked

MAX_FILES: Final = 20_000
MAX_BYTES: Final = 1024 * 1024  # of a file; what is larger was generated
SNIFFED: Final = 8192  # bytes looked at to tell text from data, as git does

TEXT: Final = "text"  # what no specialist for a language reads
PYTHON: Final = "python"
STUB: Final = "python-stub"
# Those whose complexity lizard measures, by the suffixes that it knows.
MEASURED: Final = {
    ".py": PYTHON,
    **dict.fromkeys((".c", ".h"), "c"),
    **dict.fromkeys((".cc", ".cpp", ".cxx", ".hh", ".hpp"), "cpp"),
    **dict.fromkeys((".js", ".cjs", ".mjs"), "javascript"),
    **dict.fromkeys((".jsx", ".tsx"), "jsx"),
    **dict.fromkeys((".kt", ".kts"), "kotlin"),
    **dict.fromkeys((".pl", ".pm"), "perl"),
    ".cs": "csharp",
    ".erl": "erlang",
    ".f90": "fortran",
    ".go": "go",
    ".java": "java",
    ".lua": "lua",
    ".php": "php",
    ".rb": "ruby",
    ".rs": "rust",
    ".scala": "scala",
    ".sol": "solidity",
    ".swift": "swift",
    ".ts": "typescript",
    ".vue": "vue",
    ".zig": "zig",
}
LANGUAGES: Final = {**MEASURED, ".pyi": STUB}

DERIVED: Final = "__pycache__"  # beside every package, and no loss
LEFT_OUT: Final = frozenset(
    {
        *(".git", ".hg", ".svn", ".bzr"),
        *(".tox", ".nox", ".venv", "venv", ".eggs", "node_modules", "site-packages", "__pypackages__"),
        *(".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis", ".ipynb_checkpoints", ".celeriac"),
    }
)


@dataclass(frozen=True)
class Entry:
    """A file to review: its relative path, language and size in bytes."""

    path: str
    language: str
    size: int


@dataclass(frozen=True)
class Inventory:
    """What is to be reviewed below `root`, by path, and what is not."""

    root: Path
    entries: tuple[Entry, ...]
    left_out: tuple[Unchecked, ...]


def take_inventory(request: Request) -> Inventory:
    """
    Look at what a request names. Links are not followed.

    Raises:
        NothingToReview: there is no such path here, or no text file in it.
    """
    path = Path(request.path)
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:  # a ValueError for a zero byte in it
        why = getattr(error, "strerror", None) or str(error)
        raise NothingToReview(
            request.path, f"{why} where the workers are; check the path, and that they see the same files"
        ) from None
    # Resolved, because tools name files by their real path.
    if stat.S_ISDIR(mode):
        root = path.resolve()
        found: Iterator[str | Unchecked] = _walk(root)
    else:
        root = path.parent.resolve()
        found = iter([path.name])
    entries: list[Entry] = []
    left_out: list[Unchecked] = []
    more = 0
    for name in found:
        if not isinstance(name, Unchecked) and not _asked_for(name, request):
            continue
        looked = name if isinstance(name, Unchecked) else _look(root, name)
        if isinstance(looked, Unchecked):
            left_out.append(looked)
        elif len(entries) == MAX_FILES:
            more += 1
        else:
            entries.append(looked)
    if more:
        reason = f"more than {MAX_FILES:,} files: review parts of it, with `include`"
        left_out.append(Unchecked(path=f"{more:,} more files", reason=reason))
    if not entries:
        raise NothingToReview(request.path, "there is no text file to review; check path, `include` and `exclude`")
    return Inventory(root, tuple(entries), tuple(left_out))


def _walk(root: Path) -> Iterator[str | Unchecked]:
    """Yield the relative paths of files, in order, and the folders that are left out."""
    folders = [""]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(root / folder) as listed:
                entries = sorted(listed, key=lambda entry: entry.name)
        except OSError as error:
            yield Unchecked(path=_shown(f"{folder}/"), reason=f"cannot be read: {error.strerror}")
            continue
        below = []
        for entry in entries:
            name = f"{folder}/{entry.name}" if folder else entry.name
            if not entry.is_dir(follow_symlinks=False):
                yield name
            elif entry.name in LEFT_OUT or os.path.lexists(Path(entry.path) / "pyvenv.cfg"):
                yield Unchecked(path=_shown(f"{name}/"), reason="a folder of tools or dependencies")
            elif entry.name != DERIVED:
                below.append(name)
        folders.extend(reversed(below))


def _asked_for(name: str, request: Request) -> bool:
    return (not request.include or _matches(name, request.include)) and not _matches(name, request.exclude)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _look(root: Path, name: str) -> Entry | Unchecked:
    """Return the file, or why it is left out."""
    shown = _shown(name)
    if shown != name:
        return Unchecked(path=shown, reason="its name is not UTF-8")
    file = root / name
    try:
        status = file.lstat()
        reason = _kind(status)
        if not reason:
            with file.open("rb") as stream:
                reason = "no text" if b"\0" in stream.read(SNIFFED) else ""
    except OSError as error:
        return Unchecked(path=name, reason=f"cannot be read: {error.strerror}")
    return (
        Unchecked(path=name, reason=reason) if reason else Entry(name, LANGUAGES.get(file.suffix, TEXT), status.st_size)
    )


def _kind(status: os.stat_result) -> str:
    """Return why something is not opened."""
    if stat.S_ISLNK(status.st_mode):
        return "a link"
    if not stat.S_ISREG(status.st_mode):
        return "no regular file"  # to open a pipe waits for its other end
    return f"larger than {MAX_BYTES:,} bytes" if status.st_size > MAX_BYTES else ""


def _shown(name: str) -> str:
    """Return a name that can be written as UTF-8."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
