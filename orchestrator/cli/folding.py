"""A run's events as lines, with those of large fan-outs' members folded into lines of progress."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, cast

from orchestrator.cli.output import clock_time
from orchestrator.cli.plain import plain
from orchestrator.cli.steps import MOST, MOST_TROUBLES
from orchestrator.cli.wording import details, step_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from orchestrator.messages import Event

EVERY: Final = 2.0
"""Seconds between two lines of progress."""
ALWAYS: Final = frozenset({"StepWaiting", "StepDecided"})
"""What is told of a member however many there are: somebody has to decide, or did."""


def line(event: Event) -> str:
    """Return an event as a line."""
    return _line(event, event.type, step_of(event), details(event))


def _line(event: Event, kind: str, step: str, text: str) -> str:
    parts = [clock_time(event.at_ms), f"{kind:<16}", step, text]
    return "  ".join(part for part in parts if part).rstrip()


@dataclass
class _Group:
    """The members of a fan-out, or the steps that undo what members did: how many there are, and what they are at."""

    name: str
    size: int
    word: str = "done"
    refused: int = 0
    done: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)
    delayed: set[str] = field(default_factory=set)
    told: int = 0

    def __str__(self) -> str:
        failed = len(self.failed) + self.refused
        counted = [(failed, "failed"), (len(self.delayed), "delayed")]
        said = [f"{len(self.done)} of {self.size} {self.word}"]
        said += [f"{number} {what}" for number, what in counted if number]
        return ", ".join(said)


@dataclass(frozen=True)
class _Folded:
    """A step of a group: of which member, whether it is that member's last, and whether the group counts it."""

    group: _Group
    member: str
    last: bool
    counts: bool


class Folding:
    """
    Makes lines of events.

    Args:
        clock: in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._said = -EVERY
        self._last = ""
        self._groups: dict[str, _Group] = {}
        self._steps: dict[str, _Folded] = {}

    def lines(self, event: Event) -> Iterator[str]:
        """Give the lines for an event, the next of the log: one, none, or one for many before it."""
        match event.type:
            case "StepDelegated":
                told = self._delegated(event.data)
            case "MembersAdded":
                told = self._added(event.data)
            case "MembersOpened" | "FanOutJoined":
                fan = str(event.data.get("fan"))
                told = fan not in self._steps and (event.type == "FanOutJoined" or fan not in self._groups)
            case "RunUndoing":
                told = self._undoing(event.data)
            case _:
                folded = self._steps.get(str(event.data.get("step")))
                told = folded is None or self._moved(event, folded)
                if folded is not None and self._clock() - self._said >= EVERY:
                    yield from self._progress(event, folded.group)
        if told:
            yield line(event)

    def _progress(self, event: Event, group: _Group) -> Iterator[str]:
        said = str(group)
        if said != self._last:
            self._said, self._last = self._clock(), said
            yield _line(event, "progress", plain(group.name), said)

    def _delegated(self, data: Mapping[str, object]) -> bool:
        if str(data.get("step")) in self._steps and str(data.get("fan")) in self._steps:
            return False  # of a team, whose group counts the team alone
        facts = cast("Mapping[str, int]", data.get("facts") or {})
        fan, size = str(data.get("fan")), facts.get("size", 0)
        if size > MOST:
            self._said = self._clock()  # that it has begun is told by the event itself
            self._groups[fan] = _Group(fan, size, refused=facts.get("failed", 0))
        else:
            self._groups.pop(fan, None)
        return True

    def _added(self, data: Mapping[str, object]) -> bool:
        fan = str(data.get("fan"))
        above = self._steps.get(fan)
        group = above.group if above is not None else self._groups.get(fan)
        if group is None:
            return True
        for name, step in cast("Mapping[str, Mapping[str, object]]", data.get("steps") or {}).items():
            member = str(step.get("member") or name)
            self._steps[name] = _Folded(group, member, last=not step.get("next"), counts=above is None)
        return False

    def _undoing(self, data: Mapping[str, object]) -> bool:
        steps = cast("list[Mapping[str, object]]", data.get("steps") or [])
        names = [str(step.get("name")) for step in steps if str(step.get("undoes")) in self._steps]
        group = _Group("undoing", len(names), word="undone")
        for name in names:
            self._steps[name] = _Folded(group, name, last=True, counts=True)
        return True

    def _moved(self, event: Event, folded: _Folded) -> bool:
        """Count an event of a member, and return whether it is told."""
        group, step = folded.group, str(event.data.get("step"))
        if event.type == "StepDelayed":
            group.delayed.add(step)
        else:
            group.delayed.discard(step)
        if folded.counts:
            if event.type == "StepStarted":
                # Also of one that was sent back, or redriven.
                group.done.discard(folded.member)
                group.failed.discard(folded.member)
            elif event.type == "StepCompleted" and folded.last:
                group.done.add(folded.member)
            elif event.type == "StepFailed":
                group.failed.add(folded.member)
                group.told += 1
                return group.told <= MOST_TROUBLES
        return event.type in ALWAYS
