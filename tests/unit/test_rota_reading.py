"""What a rota is to be made for: read from files, with errors that say where and what."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator import InvalidInput
from workers.rota.models import Instance
from workers.rota.reading import INSTANCES, WARD, load_instance
from workers.rota.sample import ward

if TYPE_CHECKING:
    from pathlib import Path

SMALL: dict[str, Any] = {
    "name": "Desk",
    "first": "2026-11-30",
    "weeks": 1,
    "shifts": [{"id": "day", "start": "08:00", "end": "16:00"}, {"id": "night", "start": "22:00", "end": "06:00"}],
    "needs": [{"shift": "day", "days": ["mon"], "people": 1}],
    "people": [{"id": "ann", "name": "Ann", "hours": 8}, {"id": "bo", "name": "Bo", "hours": 8, "skills": ["keys"]}],
}


def changed(**more: Any) -> dict[str, Any]:  # noqa: ANN401  whatever a file may hold
    return SMALL | more


def person(**more: Any) -> dict[str, Any]:  # noqa: ANN401  likewise
    return changed(people=[{"id": "ann", "name": "Ann", "hours": 8, **more}])


def test_the_instances_that_come_along_can_be_read() -> None:
    of_ward, of_kiosk = load_instance(WARD), load_instance(INSTANCES / "kiosk.yaml")
    assert (len(of_ward.people), of_ward.weeks, len(of_kiosk.people)) == (40, 4, 6)


def test_the_ward_is_what_its_script_makes() -> None:
    assert WARD.read_text(encoding="utf-8") == ward()


def test_yaml_and_json_of_the_same_are_the_same(tmp_path: Path) -> None:
    kiosk = load_instance(INSTANCES / "kiosk.yaml")
    file = tmp_path / "kiosk.json"
    file.write_text(kiosk.model_dump_json(), encoding="utf-8")
    assert load_instance(file) == kiosk


def test_a_single_date_overrules_its_weekday_and_absence_counts_as_worked() -> None:
    instance = Instance.model_validate(
        changed(
            needs=[
                {"shift": "day", "days": ["mon", "tue"], "people": 1},
                {"shift": "day", "dates": ["2026-12-01"], "people": 0},
            ],
            people=[{"id": "ann", "name": "Ann", "hours": 40, "absent": ["2026-12-03", "2026-12-05"]}],
        )
    )
    assert [day.get("day") and day["day"].people for day in instance.needed[:3]] == [1, 0, None]
    # Saturday is no working day
    assert instance.target(instance.people[0]) == 32


def test_nights_are_shared_among_those_who_have_other_shifts_too() -> None:
    people = [
        {"id": "ann", "name": "Ann", "hours": 16, "shifts": ["night"]},
        {"id": "bo", "name": "Bo", "hours": 30},
        {"id": "cy", "name": "Cy", "hours": 10},
        {"id": "di", "name": "Di", "hours": 40, "shifts": ["day"]},
    ]
    shifts = [SMALL["shifts"][0], {**SMALL["shifts"][1], "night": True}]
    needs = [{"shift": "night", "days": ["mon", "tue", "wed", "thu", "fri", "sat"], "people": 1}]
    instance = Instance.model_validate(changed(people=people, shifts=shifts, needs=needs))
    # two of the six fill Ann's contract; of the other four a quarter is for Cy
    assert instance.fair_nights == {"ann": 2, "bo": 3, "cy": 1}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (changed(first="2026-12-01"), "is no Monday"),
        (changed(weeks=0), "weeks: Input should be greater than or equal to 1"),
        (changed(people=[]), "people: "),
        (changed(colour="red"), "colour: Extra inputs are not permitted"),
        (changed(shifts=[{"id": "day", "start": "8", "end": "16:00"}]), "a time of day such as '06:00'"),
        (changed(shifts=[{"id": "day", "start": "08:00", "end": "16:30"}]), "no whole number of hours"),
        (changed(shifts=[*SMALL["shifts"], SMALL["shifts"][0]]), "shift 'day' is there twice"),
        (changed(people=[*SMALL["people"], SMALL["people"][0]]), "person 'ann' is there twice"),
        (person(shifts=["noon"]), "person ann: there is no shift 'noon' (known: day, night)"),
        (person(absent=["2026-12-07"]), "person ann: 2026-12-07 is not within 2026-11-30 to 2026-12-06"),
        (person(wishes=[{"date": "2026-11-29", "want": True}]), "2026-11-29 is not within"),
        (person(hours=0), "people[ann].hours: "),
        (person(name=""), "people[ann].name: "),
        (changed(needs=[{"shift": "noon", "days": ["mon"], "people": 1}]), "there is no shift 'noon'"),
        (changed(needs=[{"shift": "day", "people": 1}]), "names either days of the week or dates"),
        (changed(needs=[{"shift": "day", "dates": ["2027-01-01"], "people": 1}]), "needs: day: 2027-01-01 is not"),
        (changed(needs=[*SMALL["needs"], *SMALL["needs"]]), "needs: day on mon is there twice"),
        (
            changed(needs=[{"shift": "day", "days": ["mon"], "people": 1, "skills": {"french": 1}}]),
            "takes skill 'french', which nobody has",
        ),
        (
            changed(needs=[{"shift": "day", "days": ["mon"], "people": 1, "skills": {"keys": 2}}]),
            "2 with keys are more than its 1 people",
        ),
        (changed(needs=[{"shift": "day", "days": ["mon"], "people": 3}]), "takes 3 people, and 2 are there"),
        (
            person(shifts=["night"]),
            "2026-11-30/day takes 1 people, and 0 can be given it",
        ),
        ([1], "it must hold name, first, weeks"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(data: object, said: str, tmp_path: Path) -> None:
    file = tmp_path / "people.json"
    file.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(InvalidInput) as refused:
        load_instance(file)
    assert str(refused.value).startswith(str(file))
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("people.json", "{", "people.json:1: no JSON"),
        ("people.json", '{"name": 1, "name": 2}', "'name' is there twice"),
        ("people.yaml", "name: a\nname: b\n", "people.yaml:2: no YAML: found duplicate key"),
        ("people.yaml", "a: [1\nb: 2", "people.yaml:2: no YAML"),
        ("people.yaml", "- 1\n", "it must hold name, first, weeks"),
        ("people.yaml", "a: \x00", "no YAML"),
        ("people.yml", "!!python/object:os.system x", "no YAML"),
        ("people.json", "[" * 100_000, "nested too deeply"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_line(name: str, text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_text(text, encoding="utf-8")
    with pytest.raises(InvalidInput) as refused:
        load_instance(file)
    assert said in str(refused.value)


def test_a_file_that_is_not_there_or_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="there is no such file; the ones that come along are in"):
        load_instance(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"name: M\xfcller")
    with pytest.raises(InvalidInput, match="no UTF-8 text"):
        load_instance(tmp_path / "latin.yaml")
