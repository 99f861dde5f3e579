"""A run's steps as rows for people: what thousands do the same is told in one."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from orchestrator.cli.plain import plain
from orchestrator.cli.wording import remark, spent, took
from orchestrator.resilience.fallback import FIXED, LAST_GOOD

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from orchestrator.messages import FanOut, RunState, StepState

MOST: Final = 12
"""Members of a fan-out that are told one by one."""
MOST_TROUBLES: Final = 5
"""Of more members, those that are told one by one because they failed or wait, for each specialist."""
INDENT: Final = "  "


@dataclass(frozen=True)
class Row:
    """
    A row.

    Attributes:
        name, agent, remark: safe for a terminal.
        status: of the step; of several together how many are in which.
        attempt, took, used: texts, possibly empty.
    """

    name: str
    agent: str
    status: str
    attempt: str = ""
    took: str = ""
    used: str = ""
    remark: str = ""


def rows(state: RunState, now_ms: float | None = None, *, everything: bool = False) -> list[Row]:
    """
    Return a run's steps in the order in which they follow each other: members before the step that joins them.

    Args:
        state: of the run.
        now_ms: for how long it has taken.
        everything: tell every member on a row of its own, however many there are.
    """
    return list(_Table(state, now_ms, everything=everything).of(None, 0))


class _Table:
    """A run's steps by where they belong, so that each is looked at a few times however many there are."""

    def __init__(self, state: RunState, now_ms: float | None, *, everything: bool) -> None:
        self._state, self._now_ms, self._everything = state, now_ms, everything
        self._within: dict[str | None, list[StepState]] = {}
        for step in state.steps:
            self._within.setdefault(step.fan or step.board or step.talk, []).append(step)
        self._members: dict[str | None, list[StepState]] = {}
        """The steps of each member's own flow, by its first."""
        for step in state.steps:
            if step.fan is not None or step.board is not None or step.talk is not None:
                self._members.setdefault(step.member or step.name, []).append(step)

    def of(self, fan: str | None, depth: int) -> Iterator[Row]:
        """Give the rows of the steps of a fan-out, or of the run's own, with what is within them."""
        for step in self._within.get(fan, ()):
            joined = self._state.fans.get(step.name)
            if step.joins and joined is not None and joined.total:
                if self._everything or len(self._within.get(step.name, ())) <= MOST:
                    yield from self.of(step.name, depth + 1)
                else:
                    yield from self._together(step.name, joined, depth + 1)
            if (step.rules is not None or step.converses is not None) and self._within.get(step.name):
                if self._everything or len(self._within[step.name]) <= MOST:
                    yield from self.of(step.name, depth + 1)
                else:
                    yield from self._woken(step.name, depth + 1)
            yield self._row(step, depth, _joined(joined) if joined is not None else "")

    def _row(self, step: StepState, depth: int, more: str = "") -> Row:
        return Row(
            name=INDENT * depth + plain(step.name),
            agent=plain(_by(step)),
            status=step.status,
            attempt=str(step.attempt or ""),
            took=took(step, self._now_ms),
            used=spent(step.tokens, step.cost),
            remark="; ".join(part for part in (plain(step.label), more, remark(step)) if part),
        )

    def _together(self, name: str, fan: FanOut, depth: int) -> Iterator[Row]:
        """Tell the members of each specialist in one row, and those in trouble in rows of their own."""
        path = name[: name.rfind("/") + 1]
        by_specialist: dict[str, list[StepState]] = {}
        for step in self._within[name]:
            if step.member == step.name:
                by_specialist.setdefault(step.specialist or step.agent, []).append(step)
        for specialist, firsts in by_specialist.items():
            now = {first.name: whereabouts(self._members[first.name]) for first in firsts}
            status = {first.name: _status(first, now[first.name], fan) for first in firsts}
            tokens, cost = self._used(firsts)
            counts = Counter(status.values())
            yield Row(
                # With its path: each of many inner fan-outs has a group of the same specialist.
                name=INDENT * depth + plain(f"{path}{specialist} ({len(firsts)})"),
                agent=plain(firsts[0].agent),
                status=", ".join(f"{count} {which}" for which, count in counts.most_common()),
                used=spent(tokens, cost),
            )
            troubled = [first for first in firsts if status[first.name] in {"failed", "waiting", "delayed"}]
            for first in troubled[:MOST_TROUBLES]:
                yield self._row(now[first.name], depth + 1)
            if len(troubled) > MOST_TROUBLES:
                more = f"and {len(troubled) - MOST_TROUBLES} more: celeriac runs show {self._state.id} --all"
                yield Row(name=INDENT * (depth + 1) + more, agent="", status="")

    def _woken(self, board: str, depth: int) -> Iterator[Row]:
        """Tell the wakes of each source, or turns of a member, in a row, and those in trouble in rows of their own."""
        by_source: dict[str, list[StepState]] = {}
        for step in self._within[board]:
            who = step.source or step.peer
            if who is not None:
                by_source.setdefault(who, []).append(step)
        for source, firsts in by_source.items():
            now = [whereabouts(self._members[first.name]) for first in firsts]
            tokens, cost = self._used(firsts)
            yield Row(
                name=INDENT * depth + plain(f"{board[: board.rfind('/') + 1]}{source} ({len(firsts)})"),
                agent=plain(firsts[0].agent),
                status=", ".join(f"{count} {which}" for which, count in Counter(s.status for s in now).most_common()),
                used=spent(tokens, cost),
            )
            for step in [one for one in now if one.status in {"failed", "waiting", "delayed"}][:MOST_TROUBLES]:
                yield self._row(step, depth + 1)

    def _used(self, firsts: Iterable[StepState]) -> tuple[int, float]:
        """Return what members have used, with all that is within them."""
        tokens, cost = 0, 0.0
        for first in firsts:
            for step in self._members[first.name]:
                tokens, cost = tokens + step.tokens, cost + step.cost
                if step.joins:
                    within = self._used(one for one in self._within.get(step.name, ()) if one.member == one.name)
                    tokens, cost = tokens + within[0], cost + within[1]
        return tokens, cost


def whereabouts(steps: Sequence[StepState]) -> StepState:
    """Return where a member is: at the step that failed or is at work, or else the last that was begun."""
    begun = [step for step in steps if step.status != "pending"]
    open_ = [step for step in begun if step.status not in {"completed", "cancelled"}]
    return (open_ or begun or list(steps))[-1]


def _status(first: StepState, now: StepState, fan: FanOut) -> str:
    if first.outcome is not None:
        return "completed" if first.outcome == "ok" else first.outcome
    if now.status == "cancelled":
        return "late" if first.round < fan.round or _came_together(fan) else now.status
    # What a team's boss has given out is at work, and no step of the team itself.
    return "running" if now.status == "completed" else now.status


def _came_together(fan: FanOut) -> bool:
    """Tell whether a fan-out was joined without those that had not ended, and not given up because others failed."""
    return fan.verdict is not None and not (fan.verdict == "missed" and fan.otherwise == "fail")


def _by(step: StepState) -> str:
    """Return who is to give a step's output, or what gave it in an agent's place."""
    if step.degraded and step.status == "completed":
        for what in (FIXED, LAST_GOOD):
            if (step.reason or "").startswith(what):
                return f"({what})"
    return step.agent


def _joined(fan: FanOut) -> str:
    """Return what became of a fan-out so far, in words."""
    counted = f"{fan.good} of {fan.size} done" + (f", {fan.failed} failed" if fan.failed else "")
    left = fan.size - fan.ended
    if fan.verdict and left:
        counted += f", {left} {'late' if _came_together(fan) else 'cancelled'}"
    words = [f"round {fan.round}" if fan.round > 1 else "", counted]
    if fan.verdict == "overdue" or (fan.verdict == "missed" and not fan.failed):
        words.append(fan.why or fan.verdict)
    return plain("; ".join(word for word in words if word))
