"""A run's steps as rows: thousands are told in a few, by name, and counted as what became of them."""

from __future__ import annotations

import sys
from typing import Any

from orchestrator.cli.steps import Row, rows
from orchestrator.messages import RunState

TEAMS = 40
EACH = 20


def member(name: str, fan: str, status: str = "completed", outcome: str | None = "ok", **more: Any) -> dict[str, Any]:  # noqa: ANN401
    specialist = name.rpartition("/")[2].partition("#")[0]
    common = {"name": name, "member": name, "fan": fan, "agent": "work", "specialist": specialist, "round": 1}
    return common | {"status": status, "outcome": outcome} | more


def fan_out(size: int, **more: Any) -> dict[str, Any]:  # noqa: ANN401  fields of a fan-out
    return {"total": size, "size": size, "ended": size, "good": size, "round": 1} | more


def run_state(steps: list[dict[str, Any]], fans: dict[str, Any], status: str = "completed") -> RunState:
    own = [
        {"name": "boss", "agent": "boss", "next": "join", "delegates": True, "status": "completed"},
        {"name": "join", "agent": "join", "joins": True, "status": "completed"},
    ]
    common = {"id": "01abc", "flow": "f", "tenant": "t", "priority": "normal", "tags": {}}
    times = {"created_ms": 1, "deadline_ms": 2, "retention_ms": 3}
    return RunState.model_validate({**common, **times, "status": status, "steps": [*own, *steps], "fans": fans})


def of_teams(teams: int, each: int) -> RunState:
    """Return a run whose members are teams, each with members of its own that use a token."""
    steps, fans = [], {"join": fan_out(teams)}
    for path in (f"inner#{number}/" for number in range(1, teams + 1)):
        boss = member(f"{path}boss", "join", next=f"{path}join", delegates=True, specialist="inner", tokens=10)
        steps.append(boss)
        steps.append({**boss, "name": f"{path}join", "next": None, "joins": True, "specialist": None, "outcome": None})
        steps += [member(f"{path}work#{number}", f"{path}join", tokens=1) for number in range(1, each + 1)]
        fans[f"{path}join"] = fan_out(each)
    return run_state(steps, fans)


def group(found: list[Row], name: str) -> Row:
    (row,) = (row for row in found if row.name.strip().startswith(name))
    return row


def test_groups_of_nested_fan_outs_are_told_apart_by_their_paths() -> None:
    # given four teams with twenty assignments each
    found = rows(of_teams(4, EACH))

    # then each team's have a name of their own
    names = [row.name.strip() for row in found if "(" in row.name]
    assert names == [f"inner#{number}/work ({EACH})" for number in range(1, 5)]


def test_what_a_group_used_includes_what_is_within_its_members() -> None:
    # given teams that are told together: boss and join use 10 each, and each assignment 1
    row = group(rows(of_teams(TEAMS, EACH)), "inner (")

    # then
    assert row.used == f"{TEAMS * (20 + EACH):,} tokens"


def test_the_time_for_all_rows_grows_with_the_steps_and_not_with_their_square() -> None:
    # given a run, and one of ten times as many teams
    def looks(teams: int) -> int:
        """Return how many lines of the module it takes; no clock of a busy machine decides."""
        state, count = of_teams(teams, 1), 0

        def trace(frame: Any, _: str, __: object) -> Any:  # noqa: ANN401  of sys.settrace
            nonlocal count
            count += 1
            return trace if frame.f_code.co_filename.endswith("steps.py") else None

        sys.settrace(trace)
        try:
            rows(state, everything=True)
        finally:
            sys.settrace(None)
        return count

    # then it takes some ten times as much
    assert looks(200) < 15 * looks(20)


def with_cancelled(status: str, **fan: Any) -> Row:  # noqa: ANN401  fields of the fan-out
    """Return the group of twenty assignments of which one failed and ten were cancelled."""
    cancelled = [member(f"work#{number}", "join", "cancelled", None) for number in range(11, 21)]
    done = [member(f"work#{number}", "join") for number in range(2, 11)]
    failed = member("work#1", "join", "failed", "failed", reason="no", fault="no")
    facts = fan_out(20, ended=10, good=9, failed=1, **fan)
    return group(rows(run_state([failed, *done, *cancelled], {"join": facts}, status)), "work (")


def test_assignments_that_end_with_another_that_failed_are_cancelled_and_not_late() -> None:
    row = with_cancelled("failed", verdict="missed", otherwise="fail", why="1 of 20 assignments failed")
    assert row.status == "10 cancelled, 9 completed, 1 failed"


def test_assignments_of_a_cancelled_run_are_cancelled_and_not_late() -> None:
    assert with_cancelled("cancelled").status == "10 cancelled, 9 completed, 1 failed"


def test_assignments_that_the_others_came_together_without_are_late() -> None:
    assert with_cancelled("completed", verdict="met").status == "10 late, 9 completed, 1 failed"
    assert with_cancelled("failed", verdict="overdue", otherwise="fail", why="late").status.startswith("10 late")


def test_assignments_of_an_earlier_round_that_was_joined_without_them_are_late() -> None:
    # given a second round that has begun
    earlier = [member(f"work#{number}", "join", "cancelled", None) for number in range(1, 21)]
    state = run_state([*earlier, member("work#21", "join", "running", None, round=2)], {"join": fan_out(21, round=2)})

    # then
    assert group(rows(state), "work (").status == "20 late, 1 running"


def test_the_join_says_what_became_of_those_that_had_not_ended() -> None:
    cancelled = [member(f"work#{number}", "join", "cancelled", None) for number in range(1, 3)]

    def said(**fan: Any) -> str:  # noqa: ANN401  fields of the fan-out
        facts = fan_out(3, ended=1, good=0, failed=1, **fan)
        failed = member("work#3", "join", "failed", "failed", fault="no")
        return group(rows(run_state([*cancelled, failed], {"join": facts})), "join").remark

    assert "2 cancelled" in said(verdict="missed", otherwise="fail")
    assert "2 late" in said(verdict="met")


def test_a_failed_assignment_is_told_at_the_step_that_failed_and_not_at_one_that_ended_with_it() -> None:
    # given many whose flow has two steps, the first of which failed
    steps = []
    for number in range(1, 21):
        first = member(f"flow#{number}/a", "join", "failed", "failed", reason=f"no {number}", next=f"flow#{number}/b")
        last = member(f"flow#{number}/b", "join", "cancelled", None, member=f"flow#{number}/a")
        steps += [{**first, "specialist": "flow"}, {**last, "specialist": None}]
    found = rows(run_state(steps, {"join": fan_out(20, failed=20, good=0)}))

    # then some are told with why, and how to see the others
    told = [row for row in found if "#" in row.name]
    assert [(row.name.strip(), row.status, row.remark) for row in told[:2]] == [
        ("flow#1/a", "failed", "no 1"),
        ("flow#2/a", "failed", "no 2"),
    ]
    assert group(found, "and 15 more").name.strip() == "and 15 more: celeriac runs show 01abc --all"


def test_a_team_whose_members_are_at_work_is_running() -> None:
    # given teams whose bosses are done
    state = of_teams(TEAMS, 1)
    steps = [
        step.model_copy(update={"outcome": None} | ({"status": "pending"} if step.joins and step.fan else {}))
        for step in state.steps
    ]

    # then
    row = group(rows(state.model_copy(update={"steps": tuple(steps)})), "inner (")
    assert row.status == f"{TEAMS} running"
