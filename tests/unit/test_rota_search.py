"""Fill, repair and improve, in any order, from any rota; and a checker that shares no rule with them."""

from __future__ import annotations

import datetime as dt
from random import Random
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.rota import improve, repair
from workers.rota.checker import audit, violations
from workers.rota.grid import BROKEN, OPEN, Grid
from workers.rota.models import DAYS, Instance, Week
from workers.rota.reading import INSTANCES, WARD, load_instance
from workers.rota.search import fill

KIOSK: Final = load_instance(INSTANCES / "kiosk.yaml")
FIRST: Final = dt.date(2026, 11, 30)
ENOUGH: Final = 200
"""Turns after which a rota that is still not valid is a failure."""


def seeded(seed: int) -> Random:
    """Return the same chance each time."""
    return Random(seed)  # noqa: S311  no secret


def instance(**more: Any) -> Instance:  # noqa: ANN401  whatever a file may hold
    shifts = [
        {"id": "early", "start": "06:00", "end": "14:00"},
        {"id": "late", "start": "14:00", "end": "22:00"},
        {"id": "night", "start": "22:00", "end": "06:00", "night": True},
    ]
    people = [{"id": "ann", "name": "Ann", "hours": 40}]
    needs = [{"shift": "early", "days": ["mon"], "people": 1}]
    rules = {"rest": 11, "days": 3, "nights": 2, "hours": 32, "weekends": 1}
    data = {"name": "x", "first": FIRST, "weeks": 2, "shifts": shifts, "people": people, "needs": needs}
    return Instance.model_validate(data | {"rules": rules} | more)


def rota(text: str, of: Instance, person: str = "ann") -> list[Week]:
    """Return what one person works: a letter a day, of the shift; `.` is free."""
    names = {shift.id[0]: shift.id for shift in of.shifts}
    weeks = []
    for number in range(1, of.weeks + 1):
        letters = text[(number - 1) * DAYS : number * DAYS]
        days = {of.date((number - 1) * DAYS + day): letter for day, letter in enumerate(letters) if letter != "."}
        weeks.append(Week(number=number, given={date: {person: names[letter]} for date, letter in days.items()}))
    return weeks


def soft_violations(of: Instance, weeks: list[Week]) -> list[str]:
    """Return the rules broken, but that there are too many people where nobody is needed."""
    return [each.rule for each in violations(of, weeks) if each.rule != "crowded"]


@pytest.mark.parametrize(
    ("worked", "broken"),
    [
        ("eee....", []),
        ("eeee...", ["days"]),
        ("eeee.eeee", ["days", "days", "hours"]),
        ("le.....", ["rest"]),
        ("ne.....", ["rest"]),
        ("en.....", []),
        ("nnn....", ["nights"]),
        ("nn.nn.n", ["hours"]),
        (".....e......e.", ["weekends"]),
        (".....ee.......", []),
        # a row goes on over the border of weeks, and so does rest
        ("....eee" + "e......", ["days"]),
        ("......l" + "e......", ["rest"]),
    ],
)
def test_each_hard_rule_is_found_where_it_is_broken(worked: str, broken: list[str]) -> None:
    of = instance()
    assert sorted(soft_violations(of, rota(worked, of))) == sorted(broken)


def test_absence_and_what_nobody_may_be_given_are_violations() -> None:
    ann = {"id": "ann", "name": "Ann", "hours": 40, "shifts": ["early"], "absent": ["2026-12-01"]}
    of = instance(people=[ann, {"id": "bo", "name": "Bo", "hours": 40}])
    assert soft_violations(of, rota(".e..", of)) == ["absent"]
    assert soft_violations(of, rota("...l", of)) == ["shift"]
    assert soft_violations(of, rota("e", of, "nobody")) == ["unknown"]
    assert soft_violations(of, [Week(number=1, given={of.date(7): {"ann": "early"}})]) == ["day"]


def test_open_slots_are_counted_by_the_people_and_the_skills_that_are_missing() -> None:
    people = [{"id": name, "name": name, "hours": 40, "skills": ["keys"] * (name == "ann")} for name in ("ann", "bo")]
    of = instance(
        people=people, needs=[{"shift": "early", "days": ["mon"], "people": 2, "skills": {"keys": 1}}], weeks=1
    )
    assert audit(of, []).open == 2
    alone = audit(of, rota("e", of, "bo"))
    assert (alone.open, alone.violations[0].text) == (1, "1 missing on 2026-11-30/early with keys")
    both = [Week(number=1, given={FIRST: {"ann": "early", "bo": "early"}})]
    assert audit(of, both).open == 0
    crowd = audit(of, [Week(number=1, given={FIRST: {"ann": "late", "bo": "early"}})])
    assert (crowd.open, crowd.broken, crowd.violations[0].rule) == (1, 1, "crowded")


def test_what_a_rota_costs_is_the_sum_of_its_parts() -> None:
    wishes = [{"date": "2026-11-30", "want": False, "weight": 5}, {"date": "2026-12-01", "want": True, "weight": 7}]
    of = instance(people=[{"id": "ann", "name": "Ann", "hours": 20, "wishes": wishes}], weeks=1)
    # 8 h of 20; Monday although she would not, Tuesday not; nothing of Monday's is single: nobody knows the day before
    assert audit(of, rota("e......", of)).score.model_dump() == {
        "wishes": 12,
        "hours": 12,
        "nights": 0,
        "weekends": 0,
        "single": 0,
    }
    assert audit(of, rota("..e..e.", of)).score.model_dump() == {
        "wishes": 7,
        "hours": 4,
        "nights": 0,
        "weekends": 4,
        "single": 6,
    }


@given(cells=st.lists(st.integers(0, 2), min_size=6 * 14, max_size=6 * 14))
@settings(max_examples=60, deadline=None)
def test_the_search_and_the_checker_agree_on_any_rota(cells: list[int]) -> None:
    """The rules are written twice: a mistake in one of them shows here."""
    weeks = []
    for number in (1, 2):
        found: dict[dt.date, dict[str, str]] = {}
        for place, one in enumerate(KIOSK.people):
            for day in range((number - 1) * DAYS, number * DAYS):
                if cell := cells[place * 14 + day]:
                    found.setdefault(KIOSK.date(day), {})[one.id] = KIOSK.shifts[cell - 1].id
        weeks.append(Week(number=number, given=found))
    grid, said = Grid(KIOSK, weeks), audit(KIOSK, weeks)
    soft = sum(grid.line_cost(place) % BROKEN for place in range(len(KIOSK.people)))
    assert soft == said.total
    broken = sum(grid.line_cost(place) // BROKEN for place in range(len(KIOSK.people)))
    of_lines = [each for each in violations(KIOSK, weeks) if each.rule != "crowded"]
    assert (broken == 0) == (not of_lines)
    crowded = [each for each in violations(KIOSK, weeks) if each.rule == "crowded"]
    of_slots = grid.cost - soft - broken * BROKEN
    assert of_slots % BROKEN == said.open * OPEN % BROKEN
    assert (of_slots - said.open * OPEN > 0) == bool(crowded)
    assert [grid.week(number) for number in (1, 2)] == weeks


def anyhow(of: Instance, chance: Random) -> list[Week]:
    """Return a rota that somebody without a plan has made: some weeks not there, shifts given as they come."""
    weeks = []
    for number in range(1, of.weeks + 1):
        if chance.random() < 0.3:
            continue
        days = range((number - 1) * DAYS, number * DAYS)
        found = {
            of.date(day): {one.id: chance.choice(of.shifts).id for one in of.people if chance.random() < 0.5}
            for day in days
        }
        weeks.append(Week(number=number, given=found))
    return weeks


def in_any_order(of: Instance, weeks: list[Week], chance: Random) -> list[Week]:
    """Let fill, repair and improve change a rota in any order until it is valid."""
    board = {week.number: week for week in weeks}
    for turn in range(ENOUGH):
        known = sorted(board.values(), key=lambda week: week.number)
        found = audit(of, known)
        if not found.open and not found.broken:
            return known
        match chance.choice(("fill", "repair", "repair", "improve")):
            case "fill":
                number = chance.randint(1, of.weeks)
                board[number] = fill(of, known, number)
            case "repair":
                board.update({week.number: week for week in repair.search(of, known, turn) or ()})
            case _:
                board.update({week.number: week for week in improve.search(of, known, turn)})
    raise AssertionError(audit(of, list(board.values())))


@pytest.mark.parametrize("seed", range(6))
def test_from_any_rota_and_in_any_order_the_sources_come_to_a_valid_one(seed: int) -> None:
    chance = seeded(seed)
    found = in_any_order(KIOSK, anyhow(KIOSK, chance), chance)
    assert violations(KIOSK, found) == []


@pytest.mark.parametrize("seed", range(2))
def test_a_ward_of_forty_people_is_planned_from_nothing_and_from_a_muddle(seed: int) -> None:
    ward, chance = load_instance(WARD), seeded(seed)
    found = in_any_order(ward, anyhow(ward, chance) if seed else [], chance)
    assert violations(ward, found) == []


def test_improving_keeps_a_rota_valid_and_never_makes_it_dearer() -> None:
    weeks = in_any_order(KIOSK, [], seeded(1))
    cost = audit(KIOSK, weeks).total
    for tries in range(6):
        board = {week.number: week for week in weeks} | {
            week.number: week for week in improve.search(KIOSK, weeks, tries)
        }
        weeks = list(board.values())
        found = audit(KIOSK, weeks)
        assert (found.open, found.broken) == (0, 0)
        assert found.total <= cost
        cost = found.total


def test_the_solver_and_the_checker_agree_and_nothing_beats_its_bound() -> None:
    # Imported here: each of pytest-xdist's processes would take half a second for OR-Tools and pandas.
    from benchmarks.rota_bound import solve  # noqa: PLC0415

    bound = solve(KIOSK, seconds=20)
    found = audit(KIOSK, bound.weeks)
    assert (bound.status, found.open, found.broken, found.total) == ("OPTIMAL", 0, 0, bound.cost)
    ours = audit(KIOSK, in_any_order(KIOSK, [], seeded(3)))
    assert ours.total >= bound.bound


def test_no_wish_is_dear_enough_to_break_a_rule_or_leave_a_slot_open() -> None:
    # given weights as high as they may be, and everybody wishing to be off on all days
    days = [KIOSK.date(day) for day in range(KIOSK.days)]
    off = [{"date": date, "want": False, "weight": 1000} for date in days]
    dear = Instance.model_validate(
        KIOSK.model_dump()
        | {
            "weights": {"hours": 1000, "nights": 1000, "weekends": 1000, "single": 1000},
            "people": [one.model_dump() | {"wishes": off} for one in KIOSK.people],
        }
    )
    found = in_any_order(dear, [], seeded(5))
    for tries in range(3):
        board = {week.number: week for week in found}
        found = list((board | {week.number: week for week in improve.search(dear, found, tries)}).values())
    assert (audit(dear, found).open, audit(dear, found).broken) == (0, 0)
