"""A run's steps as rows for people: what thousands do the same is told in one."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from orchestrator.cli.plain import plain
from orchestrator.cli.wording import remark, spent, took

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

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
    return list(_of([step for step in state.steps if step.fan is None], state, now_ms, 0, everything=everything))


def _of(
    steps: Iterable[StepState], state: RunState, now_ms: float | None, depth: int, *, everything: bool
) -> Iterator[Row]:
    for step in steps:
        fan = state.fans.get(step.name)
        if step.joins and fan is not None and fan.total:
            within = [one for one in state.steps if one.fan == step.name]
            few = len(within) <= MOST
            if few or everything:
                yield from _of(within, state, now_ms, depth + 1, everything=everything)
            else:
                yield from _together(within, now_ms, depth + 1)
        yield _row(step, now_ms, depth, _joined(fan) if fan is not None else "")


def _row(step: StepState, now_ms: float | None, depth: int, more: str = "") -> Row:
    return Row(
        name=INDENT * depth + plain(step.name),
        agent=plain(step.agent),
        status=step.status,
        attempt=str(step.attempt or ""),
        took=took(step, now_ms),
        used=spent(step.tokens, step.cost),
        remark="; ".join(part for part in (plain(step.label), more, remark(step)) if part),
    )


def _together(steps: list[StepState], now_ms: float | None, depth: int) -> Iterator[Row]:
    """Tell the members of each specialist in one row, and those in trouble in rows of their own."""
    first = {step.name: step for step in steps if step.member == step.name}
    now: dict[str, StepState] = {}
    for step in steps:
        # Where a member is: at its step that is at work, or last was.
        if step.status != "pending" or step.member not in now:
            now[step.member or step.name] = step
    by_specialist: dict[str, list[str]] = {}
    for name, entry in first.items():
        by_specialist.setdefault(entry.specialist or entry.agent, []).append(name)
    for specialist, names in by_specialist.items():
        counts = Counter(_status(first[name], now[name]) for name in names)
        members = set(names)
        own = [step for step in steps if step.member in members]
        yield Row(
            name=INDENT * depth + plain(f"{specialist} ({len(names)})"),
            agent=plain(first[names[0]].agent),
            status=", ".join(f"{count} {status}" for status, count in counts.most_common()),
            used=spent(sum(step.tokens for step in own), sum(step.cost for step in own)),
        )
        troubled = [name for name in names if _status(first[name], now[name]) in {"failed", "waiting", "delayed"}]
        for name in troubled[:MOST_TROUBLES]:
            yield _row(now[name], now_ms, depth + 1)
        if len(troubled) > MOST_TROUBLES:
            yield Row(name=INDENT * (depth + 1) + f"and {len(troubled) - MOST_TROUBLES} more", agent="", status="")


def _status(first: StepState, now: StepState) -> str:
    if first.outcome in {"failed", "degraded"}:
        return first.outcome
    return "completed" if first.outcome == "ok" else "late" if now.status == "cancelled" else now.status


def _joined(fan: FanOut) -> str:
    """Return what became of a fan-out so far, in words."""
    counted = f"{fan.good} of {fan.size} done" + (f", {fan.failed} failed" if fan.failed else "")
    late = fan.size - fan.ended
    if fan.verdict and late:
        counted += f", {late} late"
    words = [f"round {fan.round}" if fan.round > 1 else "", counted]
    if fan.verdict == "overdue" or (fan.verdict == "missed" and not fan.failed):
        words.append(fan.why or fan.verdict)
    return plain("; ".join(word for word in words if word))
