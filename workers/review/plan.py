"""The boss: splits what there is by language and file, and assigns it to specialists."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Final

from orchestrator import Assignment, Plan, agent
from workers.review.inventory import MEASURED, PYTHON, STUB, Entry, take_inventory
from workers.review.models import Files, Request

BATCH_BYTES: Final = 16 * 1024  # some 400 lines: a second of work for the slowest tool
BATCH_FILES: Final = 8
MAX_BATCHES: Final = 1_000  # of a specialist; the batches of a large folder are larger
NAMED: Final = 3  # files in a label
LABEL: Final = 200  # characters that an assignment takes
HEAVIEST: Final = 1_000_000.0  # weight that an assignment takes

BATCHED: Final[dict[str, frozenset[str] | None]] = {
    "ruff": frozenset({PYTHON, STUB}),
    "bandit": frozenset({PYTHON}),
    "complexity": frozenset(MEASURED.values()),
    "licence": None,
    "secrets": None,
}
"""Specialists that read file by file, and the languages that they read; None: any text."""
SPECIALISTS: Final[dict[str, frozenset[str] | None]] = {
    **BATCHED,
    # What one file defines, another uses: only all files together tell what nobody uses.
    "dead_code": frozenset({PYTHON}),
}


@agent("review.plan", timeout=120.0)
def plan(request: Request) -> Plan:
    """
    Assign every file to each specialist that reads its language.

    Raises:
        NothingToReview: there is no such path here, or no text file in it.
    """
    inventory = take_inventory(request)
    root = str(inventory.root)
    # What takes longest begins first. What the folder as such declares, it declares at its top.
    whole = {
        "dead_code": readable("dead_code", inventory.entries),
        "licence": [entry for entry in inventory.entries if "/" not in entry.path],
    }
    assignments = [
        _assignment(name, Files(root=root, language="", paths=_paths(entries), whole=True), entries)
        for name, entries in whole.items()
        if entries or name == "licence"
    ]
    split = [
        [
            _assignment(name, Files(root=root, language=language, paths=_paths(entries)), entries)
            for language, entries in batches(readable(name, inventory.entries))
        ]
        for name in BATCHED
    ]
    # In turns: so many assignments are in flight at once, and each specialist shall have some of them.
    assignments += [one for turn in zip_longest(*split) for one in turn if one is not None]
    return Plan(assignments)


def readable(specialist: str, entries: Sequence[Entry]) -> list[Entry]:
    """Return the files that a specialist reads."""
    languages = SPECIALISTS[specialist]
    return [entry for entry in entries if languages is None or entry.language in languages]


def batches(entries: Sequence[Entry]) -> Iterator[tuple[str, list[Entry]]]:
    """
    Split files into batches of one language, in order.

    Yields:
        Language and files: BATCH_FILES and BATCH_BYTES at most, or one file that is larger; more in each where there
        would be more than MAX_BATCHES.
    """
    scale = max(1.0, 2 * sum(entry.size for entry in entries) / BATCH_BYTES / MAX_BATCHES)
    scale = max(scale, 2 * len(entries) / BATCH_FILES / MAX_BATCHES)
    for language in sorted({entry.language for entry in entries}):
        batch: list[Entry] = []
        size = 0
        for entry in entries:
            if entry.language != language:
                continue
            if batch and (len(batch) >= BATCH_FILES * scale or size + entry.size > BATCH_BYTES * scale):
                yield language, batch
                batch, size = [], 0
            batch.append(entry)
            size += entry.size
        yield language, batch


def _paths(entries: Sequence[Entry]) -> tuple[str, ...]:
    return tuple(entry.path for entry in entries)


def _assignment(specialist: str, files: Files, entries: Sequence[Entry]) -> Assignment:
    return Assignment(
        to=specialist,
        input=files,
        # An empty file takes time as well.
        weight=min(max(1, sum(entry.size + 100 for entry in entries)) / 1000, HEAVIEST),
        label="the folder as a whole" if files.whole else label(files.paths),
    )


def label(paths: Sequence[str]) -> str:
    """Return the first files of a batch and how many follow."""
    rest = len(paths) - NAMED
    more = f" and {rest} more" if rest > 0 else ""
    shown = ", ".join(paths[:NAMED])
    room = LABEL - len(more)
    return (shown if len(shown) <= room else f"{shown[: room - 1]}…") + more
