"""Events of thousands of members become a few lines of progress; what people must know is told all the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.cli.folding import EVERY, Folding
from orchestrator.messages import Event

if TYPE_CHECKING:
    from collections.abc import Iterator

MANY = 1000
FEW = 5


class Clock:
    """Seconds, moved by the test."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def event(kind: str, **data: object) -> Event:
    return Event.model_validate({"id": "1-0", "type": kind, "version": 1, "at_ms": 1_000, "data": data})


def members(size: int, path: str = "") -> list[str]:
    return [f"{path}work#{number}" for number in range(1, size + 1)]


def given_out(size: int, path: str = "", *, refused: int = 0, **more: object) -> Iterator[Event]:
    """Give the events of a boss that gives work out; each member has more of these fields."""
    fan = f"{path}join"
    yield event("StepDelegated", step=f"{path}boss", fan=fan, facts={"size": size, "width": 100, "failed": refused})
    steps = {name: {"agent": "work", "fan": fan, "member": name, **more} for name in members(size, path)}
    yield event("MembersAdded", fan=fan, steps=steps)
    yield event("MembersOpened", fan=fan)


def done(step: str) -> Iterator[Event]:
    yield event("StepStarted", step=step, attempt=1, worker="w")
    yield event("EffectRecorded", step=step, name="sub")
    yield event("StepCompleted", step=step)


def told(folding: Folding, *events: Event) -> list[str]:
    """Return the lines without their times."""
    return [line.partition("  ")[2] for each in events for line in folding.lines(each)]


def joined(**facts: object) -> Event:
    return event("FanOutJoined", fan="join", verdict="met", **facts)


def test_members_of_a_large_fan_out_are_a_line_of_progress_now_and_then() -> None:
    # given
    clock = Clock()
    folding, names = Folding(clock), members(MANY)
    assert told(folding, *given_out(MANY)) == [
        f"StepDelegated     boss  gave work to {MANY}, at most 100 at a time → join"
    ]

    # when they are done, a hundred in each interval
    lines = []
    for name in names:
        clock.now += EVERY / 100
        lines += told(folding, *done(name))

    # then there is a line for each interval, and one for all
    assert 9 <= len(lines) <= 10
    assert lines[0] in {f"progress          join  {number} of {MANY} done" for number in (99, 100)}
    assert told(folding, joined(good=MANY, failed=0)) == [f"FanOutJoined      join  met: {MANY} done"]


def test_members_of_a_small_fan_out_are_told_one_by_one() -> None:
    folding = Folding(Clock())
    lines = told(folding, *given_out(FEW), *(one for name in members(FEW) for one in done(name)))
    assert len(lines) == 3 + 3 * FEW
    assert "StepStarted       work#5  attempt 1 on w" in lines


def test_the_first_failures_are_told_and_the_others_counted() -> None:
    # given a fan-out of which three were refused
    clock = Clock()
    folding = Folding(clock)
    told(folding, *given_out(MANY, refused=3))

    # when twenty more fail
    lines = told(folding, *(event("StepFailed", step=name, reason="no") for name in members(20)))

    # then
    assert lines == [f"StepFailed        {name}  no" for name in members(5)]
    clock.now += EVERY
    assert told(folding, event("StepRedispatched", step="work#21")) == [
        f"progress          join  0 of {MANY} done, 23 failed"
    ]


def test_who_waits_for_a_person_is_told_however_many_there_are() -> None:
    folding = Folding(Clock())
    told(folding, *given_out(MANY))
    waits = event("StepWaiting", step="work#7", waiting={"question": "fine?"})
    decided = event("StepDecided", step="work#7", decision={"choice": "approve", "by": "ada"})
    assert told(folding, waits, decided) == [
        "StepWaiting       work#7  fine?",
        "StepDecided       work#7  approve by ada",
    ]


def test_members_that_try_again_are_counted_as_delayed_until_they_begin() -> None:
    # given
    clock = Clock()
    folding = Folding(clock)
    told(folding, *given_out(MANY))
    clock.now += EVERY

    # then
    delayed = [event("StepDelayed", step=name, due_ms=1, why="busy") for name in members(2)]
    assert told(folding, delayed[0]) == [f"progress          join  0 of {MANY} done, 1 delayed"]
    assert told(folding, delayed[1], *done("work#1"), *done("work#3")) == []
    clock.now += EVERY
    assert told(folding, *done("work#3"))[0] == f"progress          join  1 of {MANY} done, 1 delayed"


def test_what_is_done_again_is_not_counted_twice() -> None:
    # given a member that failed, and is done when the run is sent on its way again
    clock = Clock()
    folding = Folding(clock)
    told(folding, *given_out(MANY), event("StepFailed", step="work#1", reason="no"), *done("work#2"))
    told(folding, *done("work#1"), *done("work#2"), *done("work#2"))
    clock.now += EVERY

    # then
    assert told(folding, event("StepLate", step="work#9")) == [f"progress          join  2 of {MANY} done"]


def test_what_teams_give_out_is_folded_with_them() -> None:
    # given teams whose boss and join are steps of the member
    clock = Clock()
    folding = Folding(clock)
    teams = {}
    for number in range(1, 31):
        path = f"team#{number}/"
        teams[f"{path}boss"] = {"fan": "join", "member": f"{path}boss", "next": f"{path}join"}
        teams[f"{path}join"] = {"fan": "join", "member": f"{path}boss"}
    facts = {"size": 30, "width": 100, "failed": 0}
    told(
        folding,
        event("StepDelegated", step="boss", fan="join", facts=facts),
        event("MembersAdded", fan="join", steps=teams),
    )

    # when one gives work out, its members are done, one fails, and it is done itself
    inner = [
        *given_out(FEW, "team#1/"),
        *(one for name in members(FEW, "team#1/") for one in done(name)),
        event("StepFailed", step="team#1/work#1", reason="no"),
        event("FanOutJoined", fan="team#1/join", verdict="met", good=4, failed=1),
    ]
    assert told(folding, *done("team#1/boss"), *inner, *done("team#1/join")) == []
    clock.now += EVERY

    # then it counts as one
    assert told(folding, event("StepStarted", step="team#2/boss")) == ["progress          join  1 of 30 done"]


def test_a_further_round_is_counted_for_itself() -> None:
    # given a first round
    clock = Clock()
    folding = Folding(clock)
    told(folding, *given_out(MANY), *done("work#1"), joined(good=1))

    # when the join gives work out again
    steps = {f"work#{number}": {"fan": "join", "member": f"work#{number}"} for number in range(2001, 2021)}
    told(folding, event("StepDelegated", step="join", fan="join", facts={"size": 20, "width": 100}))
    assert told(folding, event("MembersAdded", fan="join", steps=steps)) == []
    clock.now += EVERY

    # then
    assert told(folding, event("StepStarted", step="work#2001")) == ["progress          join  0 of 20 done"]


def test_the_undoing_of_members_is_counted_too() -> None:
    # given
    clock = Clock()
    folding = Folding(clock)
    told(folding, *given_out(MANY))
    undo = [{"name": f"{name}~undo", "undoes": name} for name in members(50)]
    told(folding, event("RunUndoing", status="failed", reason="no", steps=[*undo, {"name": "p~undo", "undoes": "p"}]))
    clock.now += EVERY

    # then
    assert told(folding, event("StepCompleted", step="work#1~undo")) == ["progress          undoing  1 of 50 undone"]
    assert told(folding, event("StepCompleted", step="p~undo")) == ["StepCompleted     p~undo"]
