"""A blackboard, rebuilt from its run's events alone: as it is, or as it was at any of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from orchestrator.messages import CLOSED, CLOSES, BoardEntry, BoardState, SourceState

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from orchestrator.messages import Event


def boards_of(events: Iterable[Event]) -> list[str]:
    """Return the steps of the blackboards that a log tells of, in the order in which they were opened."""
    return list(dict.fromkeys(str(event.data["board"]) for event in events if event.type == "BoardOpened"))


def fold_board(step: str, events: Iterable[Event]) -> BoardState | None:
    """
    Rebuild a blackboard.

    Args:
        step: its step.
        events: the run's, from the first one on, oldest first. A prefix gives the board at that time.

    Returns:
        The board; None: it was not open yet.
    """
    board: _Board | None = None
    sources: dict[str, str] = {}
    for event in events:
        if event.type == "BoardOpened" and event.data["board"] == step:
            board = _Board(board)
        if board is None:
            continue
        if event.type in CLOSES:
            board.closes()
        if event.type == "RunRedriven" and step in cast("list[str]", event.data.get("cleared") or ()):
            board.entries.clear()
        if event.type == "StepStarted" and str(event.data["step"]) in sources:
            board.looked(sources[str(event.data["step"])])
        elif event.type == "ConversationOpened" and str(event.data["talk"]) in sources:
            board.looked(sources[str(event.data["talk"])])
        elif event.data.get("board") == step:
            if event.type == "SourceWoken":
                sources[str(cast("list[str]", event.data["order"])[0])] = str(event.data["source"])
            board.take(event)
    return board.state(step) if board else None


MOST_CHANGED: Final = 1000
"""Entries of which a source is told: see _board.lua."""


class _Board:
    """A board while it is being built."""

    def __init__(self, before: _Board | None) -> None:
        self.facts: dict[str, Any] = {"status": "open", "writes": 0, "wakes": 0}
        self.entries: dict[str, BoardEntry] = dict(before.entries) if before else {}
        self.sources: dict[str, SourceState] = {}
        if before:
            self.facts["writes"] = before.facts["writes"]
            self.sources = {name: SourceState(wakes=state.wakes) for name, state in before.sources.items()}

    def take(self, event: Event) -> None:
        data = event.data
        if event.type == "BoardOpened":
            for name in cast("list[str]", data["marked"]):
                self.mark(name, ["task"])
        elif event.type == "EntriesWritten":
            self.facts["writes"] = data["seq"]
            for name, put in cast("dict[str, dict[str, Any]]", data["entries"]).items():
                self.entries[name] = _written(self.entries.get(name), put, event)
            for name, changed in cast("Mapping[str, list[str]]", data.get("marked") or {}).items():
                self.mark(name, changed)
        elif event.type == "SourceWoken":
            self.facts["wakes"] += 1
            name = str(data["source"])
            known = self.sources.get(name, SourceState())
            self.sources[name] = known.model_copy(update={"wakes": data["number"]})
        elif event.type == "GoalReached":
            self.facts["status"] = "closing"
        elif event.type == "BoardEnded":
            self.facts |= {"status": "ended", "outcome": data["outcome"], "why": data["why"]}

    def closes(self) -> None:
        """It is over with its run, if it had not ended before."""
        if self.facts["status"] != "ended":
            self.facts |= CLOSED

    def mark(self, source: str, changed: list[str]) -> None:
        known = self.sources.get(source, SourceState())
        names = tuple(dict.fromkeys([*known.changed, *changed]))[:MOST_CHANGED]
        self.sources[source] = known.model_copy(update={"changed": names})

    def looked(self, source: str) -> None:
        self.sources[source] = self.sources.get(source, SourceState()).model_copy(update={"changed": ()})

    def state(self, step: str) -> BoardState:
        return BoardState(step=step, entries=self.entries, sources=self.sources, **self.facts)


def _written(before: BoardEntry | None, put: Mapping[str, Any], event: Event) -> BoardEntry:
    given = put["value"]
    value: Any = given
    if put["how"] == "add" and before is not None:
        value = cast("Any", before.value) + given
    elif put["how"] == "append":
        value = [*(cast("Any", before.value) if before else ()), given]
    return BoardEntry(
        value=value,
        version=put["v"],
        seq=cast("int", event.data["seq"]),
        author=str(event.data["by"]),
        step=cast("str | None", event.data.get("step")),
        at_ms=event.at_ms,
        confidence=put.get("c"),
    )
