"""
What travels between the agents of the rota flow.

Days are counted from 0, the instance's first day, a Monday; weeks from 1. Hours are whole. A *slot* is a day and a
shift.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from functools import cached_property
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

DAYS: Final = 7
MAX_WEEKS: Final = 8
MAX_PEOPLE: Final = 200
MAX_SHIFTS: Final = 12

Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,39}$")]
Weekday = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
WEEKDAYS: Final[tuple[Weekday, ...]] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
Weight = Annotated[int, Field(ge=0, le=1000)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Shift(_Frozen):
    """
    A kind of shift.

    Attributes:
        start, end: "HH:MM"; one that ends at or before its start ends on the next day. Its length is whole hours.
        night: whether it counts as a night.
    """

    id: Id
    start: str
    end: str
    night: bool = False

    @field_validator("start", "end")
    @classmethod
    def _time(cls, value: str) -> str:
        try:
            dt.time.fromisoformat(value)
        except ValueError:
            msg = f"is a time of day such as '06:00', not {value!r}"
            raise ValueError(msg) from None
        return value

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.ends - self.begins) % 60:
            msg = f"shift {self.id}: from {self.start} to {self.end} is no whole number of hours"
            raise ValueError(msg)
        return self

    @cached_property
    def begins(self) -> int:
        """Minutes from midnight."""
        return int(self.start[:2]) * 60 + int(self.start[3:5])

    @cached_property
    def ends(self) -> int:
        """Minutes from the midnight before its start."""
        end = int(self.end[:2]) * 60 + int(self.end[3:5])
        return end if end > self.begins else end + 24 * 60

    @property
    def hours(self) -> int:
        """How long it is."""
        return (self.ends - self.begins) // 60


class Wish(_Frozen):
    """
    What somebody would like on a day.

    Attributes:
        shift: the one it is about; None: any, so that to avoid it is a day off.
        weight: what it costs where it is not met.
    """

    date: dt.date
    want: bool
    shift: Id | None = None
    weight: Weight = 3


class Person(_Frozen):
    """
    Somebody who works here.

    Attributes:
        hours: of the contract, a week.
        shifts: those that may be given; none: all.
        absent: days on which nothing may be given; of a working day, a fifth of a week's hours counts as worked.
    """

    id: Id
    name: str = Field(min_length=1, max_length=100)
    hours: int = Field(ge=1, le=60)
    skills: tuple[Id, ...] = ()
    shifts: tuple[Id, ...] = ()
    absent: tuple[dt.date, ...] = ()
    wishes: Annotated[tuple[Wish, ...], Field(max_length=100)] = ()


class Need(_Frozen):
    """
    How many people a shift takes.

    Attributes:
        days: of the week; `dates`: single ones instead, which overrule what is said of their weekday.
        people: exactly so many; `skills`: how many of them at least have a skill.
    """

    shift: Id
    people: int = Field(ge=0, le=MAX_PEOPLE)
    days: tuple[Weekday, ...] = ()
    dates: tuple[dt.date, ...] = ()
    skills: dict[Id, Annotated[int, Field(ge=1, le=MAX_PEOPLE)]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if bool(self.days) == bool(self.dates):
            msg = f"a need of {self.shift} names either days of the week or dates"
            raise ValueError(msg)
        for skill, number in self.skills.items():
            if number > self.people:
                msg = f"a need of {self.shift}: {number} with {skill} are more than its {self.people} people"
                raise ValueError(msg)
        return self


class Rules(_Frozen):
    """
    What holds for everybody, whatever it costs.

    Attributes:
        rest: hours between two shifts, at least; `days`, `nights`: in a row, at most; `hours`: in a calendar week, at
            most; `weekends`: that are free from Saturday to Sunday, at least, of all whose two days are planned.
    """

    rest: int = Field(default=11, ge=0, le=48)
    days: int = Field(default=6, ge=1, le=14)
    nights: int = Field(default=4, ge=1, le=14)
    hours: int = Field(default=48, ge=1, le=168)
    weekends: int = Field(default=1, ge=0, le=MAX_WEEKS)


class Weights(_Frozen):
    """
    What it costs where something is not as it should be.

    Attributes:
        hours: each hour more or less than a contract's, over all weeks; `nights`: each night more than a fair share;
            `weekends`: each one of which one day is worked; `single`: each working day between two free ones.
    """

    hours: Weight = 1
    nights: Weight = 6
    weekends: Weight = 4
    single: Weight = 3


class Instance(_Frozen):
    """People, shifts, what is needed, and the rules: what a rota is to be made for."""

    name: str = Field(min_length=1, max_length=100)
    first: dt.date
    weeks: int = Field(ge=1, le=MAX_WEEKS)
    shifts: Annotated[tuple[Shift, ...], Field(min_length=1, max_length=MAX_SHIFTS)]
    needs: Annotated[tuple[Need, ...], Field(min_length=1, max_length=500)]
    people: Annotated[tuple[Person, ...], Field(min_length=1, max_length=MAX_PEOPLE)]
    rules: Rules = Rules()
    weights: Weights = Weights()

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.first.weekday():
            msg = f"first: {self.first} is no Monday: weeks begin on Mondays"
            raise ValueError(msg)
        shifts = _unique("shift", (shift.id for shift in self.shifts))
        _unique("person", (person.id for person in self.people))
        for person in self.people:
            self._check_person(person, shifts)
        seen: set[tuple[str, str | dt.date]] = set()
        skills = {skill for person in self.people for skill in person.skills}
        for need in self.needs:
            self._check_need(need, shifts, skills)
            for day in (*need.days, *need.dates):
                if (need.shift, day) in seen:
                    msg = f"needs: {need.shift} on {day} is there twice"
                    raise ValueError(msg)
                seen.add((need.shift, day))
        self._check_enough()
        return self

    def _check_person(self, person: Person, shifts: set[str]) -> None:
        named = [*person.shifts, *(wish.shift for wish in person.wishes if wish.shift)]
        for shift in named:
            if shift not in shifts:
                msg = f"person {person.id}: there is no shift {shift!r} (known: {', '.join(sorted(shifts))})"
                raise ValueError(msg)
        for date in (*person.absent, *(wish.date for wish in person.wishes)):
            self._check_date(f"person {person.id}", date)

    def _check_need(self, need: Need, shifts: set[str], skills: set[str]) -> None:
        if need.shift not in shifts:
            msg = f"needs: there is no shift {need.shift!r} (known: {', '.join(sorted(shifts))})"
            raise ValueError(msg)
        for skill in need.skills:
            if skill not in skills:
                msg = f"needs: {need.shift} takes skill {skill!r}, which nobody has"
                raise ValueError(msg)
        for date in need.dates:
            self._check_date(f"needs: {need.shift}", date)

    def _check_date(self, what: str, date: dt.date) -> None:
        if not 0 <= (date - self.first).days < self.days:
            msg = f"{what}: {date} is not within {self.first} to {self.date(self.days - 1)}"
            raise ValueError(msg)

    def _check_enough(self) -> None:
        for day in range(self.days):
            wanted = sum(need.people for need in self.needed[day].values())
            here = sum(self.date(day) not in person.absent for person in self.people)
            if wanted > here:
                msg = f"needs: {self.date(day)} takes {wanted} people, and {here} are there; nobody works twice a day"
                raise ValueError(msg)
            for shift, need in self.needed[day].items():
                able = [one for one in self.people if may(one, shift) and self.date(day) not in one.absent]
                for skill, number in ((None, need.people), *need.skills.items()):
                    have = sum(skill is None or skill in one.skills for one in able)
                    if number > have:
                        who = "people" if skill is None else f"people with {skill}"
                        msg = f"needs: {self.slot(day, shift)} takes {number} {who}, and {have} can be given it"
                        raise ValueError(msg)

    @property
    def days(self) -> int:
        """How many there are."""
        return self.weeks * DAYS

    def date(self, day: int) -> dt.date:
        """Return the date of a day."""
        return self.first + dt.timedelta(days=day)

    def slot(self, day: int, shift: str) -> str:
        """Return the name of a slot, such as `2026-11-30/night`."""
        return f"{self.date(day)}/{shift}"

    @cached_property
    def needed(self) -> tuple[dict[str, Need], ...]:
        """What each day takes, by shift."""
        found: list[dict[str, Need]] = [{} for _ in range(self.days)]
        for need in sorted(self.needs, key=lambda each: bool(each.dates)):
            for day, needed in enumerate(found):
                if WEEKDAYS[day % DAYS] in need.days or self.date(day) in need.dates:
                    needed[need.shift] = need
        return tuple(found)

    def target(self, person: Person) -> int:
        """Return the hours that somebody should be given: of the contract, without days of absence."""
        away = sum(date.weekday() < WEEKDAYS.index("sat") for date in set(person.absent))
        return max(0, round(person.hours * self.weeks - person.hours / 5 * away))

    @cached_property
    def fair_nights(self) -> dict[str, int]:
        """
        How many nights each person should have at most, rounded up; those who have none are not there.

        Who is given nothing else fills the contract with them; what is left is shared among the others by their hours.
        """
        nights = {shift.id: shift.hours for shift in self.shifts if shift.night}
        left = sum(need.people for needed in self.needed for need in needed.values() if need.shift in nights)
        able = [person for person in self.people if any(may(person, shift) for shift in nights)]
        alone = [person for person in able if person.shifts and nights.keys() >= set(person.shifts)]
        found = {person.id: -(-self.target(person) // min(nights[each] for each in person.shifts)) for person in alone}
        left = max(0, left - sum(found.values()))
        sharing = [person for person in able if person not in alone]
        hours = sum(self.target(person) for person in sharing) or 1
        return found | {person.id: -(-left * self.target(person) // hours) for person in sharing}


def may(person: Person, shift: str) -> bool:
    """Tell whether somebody may be given a shift at all."""
    return not person.shifts or shift in person.shifts


def _unique(what: str, ids: object) -> set[str]:
    counts = Counter(ids)  # type: ignore[call-overload]
    twice = next((each for each, number in counts.items() if number > 1), None)
    if twice is not None:
        msg = f"{what} {twice!r} is there twice"
        raise ValueError(msg)
    return set(counts)


class Request(_Frozen):
    """
    What is asked for.

    Attributes:
        out: absolute path of the folder for the files, each run's in a folder with its id; None: `rota` in the data
            folder. Workers write there: give them a user of their own.
    """

    instance: Instance
    out: str | None = Field(default=None, max_length=4000)

    @field_validator("out")
    @classmethod
    def _absolute(cls, value: str | None) -> str | None:
        # A worker's current folder is not the producer's.
        if value is not None and not Path(value).is_absolute():
            msg = f"must be an absolute path, not {value!r}"
            raise ValueError(msg)
        return value


class Week(_Frozen):
    """
    A part of a rota.

    Attributes:
        number: from 1; `given`: by date, who works, and in which shift.
    """

    number: int = Field(ge=1, le=MAX_WEEKS)
    given: dict[dt.date, dict[Id, Id]] = Field(default_factory=dict)


class Violation(_Frozen):
    """
    A hard rule that is broken, or a slot that is open.

    Attributes:
        rule: its name; `week`: in which the last of its days is; `person`, `day`: where it is about one.
        number: how often; of an open slot, how many people are missing.
    """

    rule: str
    week: int
    text: str
    number: int = 1
    person: str | None = None
    day: dt.date | None = None


class Score(_Frozen):
    """What a rota costs, in the instance's weights; 0 would please everybody."""

    wishes: int = 0
    hours: int = 0
    nights: int = 0
    weekends: int = 0
    single: int = 0

    @property
    def total(self) -> int:
        """The sum."""
        return self.wishes + self.hours + self.nights + self.weekends + self.single


class Audit(_Frozen):
    """
    What an audit has found.

    Attributes:
        open: people who are missing; `broken`: hard rules broken; the first of each are `violations`.
        score: what it costs; `total`: of it.
    """

    open: int
    broken: int
    score: Score
    total: int
    violations: tuple[Violation, ...] = ()


class Effort(_Frozen):
    """
    How a source has tried.

    Attributes:
        tries: so far; `left`: before it gives up.
        of: the versions of the weeks that it left, by their entries.
    """

    tries: int = 0
    left: int = 0
    of: dict[str, int] = Field(default_factory=dict)


class Note(_Frozen):
    """What a source has done, in words."""

    text: str


class Plan(_Frozen):
    """
    What the flow gives.

    Attributes:
        outcome: of the board, and `why`; `weeks`: the rota; `audit`: of it.
        files: absolute paths of what was written, by kind: `html`, `csv`, `json`.
        writes, wakes: on the board.
    """

    instance: Instance
    weeks: tuple[Week, ...]
    audit: Audit
    outcome: str
    why: str
    writes: int = 0
    wakes: int = 0
    files: dict[str, str] = Field(default_factory=dict)
