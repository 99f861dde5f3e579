"""
Whether a rota keeps the rules, and what it costs: worked out from the models alone.

Nothing here is shared with the search that makes rotas, so that a mistake in one of them does not hide in the other.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from workers.rota.models import DAYS, WEEKDAYS, Audit, Instance, Person, Score, Shift, Violation, Week

SATURDAY: Final = WEEKDAYS.index("sat")
DAY: Final = dt.timedelta(days=1)
MOST_TOLD: Final = 50
"""Violations that an audit names."""


def audit(instance: Instance, weeks: Iterable[Week]) -> Audit:
    """Return what there is to be said of a rota, of which weeks may be missing."""
    weeks = tuple(weeks)
    missing, found = open_slots(instance, weeks), violations(instance, weeks)
    cost = score(instance, weeks)
    told = [*found, *missing][:MOST_TOLD]
    return Audit(
        open=sum(each.number for each in missing),
        broken=len(found),
        score=cost,
        total=cost.total,
        violations=tuple(told),
    )


def open_slots(instance: Instance, weeks: Sequence[Week]) -> list[Violation]:
    """Return the slots that lack people, or people with a skill."""
    given: dict[dt.date, Mapping[str, str]] = {date: who for week in weeks for date, who in week.given.items()}
    skills = {person.id: frozenset(person.skills) for person in instance.people}
    found = []
    for day, needed in enumerate(instance.needed):
        date = instance.date(day)
        for shift, need in needed.items():
            here = [who for who, what in given.get(date, {}).items() if what == shift and who in skills]
            short = {"": need.people - len(here)} | {
                skill: number - sum(skill in skills[who] for who in here) for skill, number in need.skills.items()
            }
            lacking = max(short.values())
            if lacking > 0:
                named = ", ".join(skill for skill, number in short.items() if skill and number > 0)
                text = f"{lacking} missing on {date}/{shift}" + (f" with {named}" if named else "")
                found.append(Violation(rule="open", week=day // DAYS + 1, day=date, text=text, number=lacking))
    return found


def violations(instance: Instance, weeks: Sequence[Week]) -> list[Violation]:
    """Return every hard rule that is broken. That a slot is open breaks none."""
    shifts = {shift.id: shift for shift in instance.shifts}
    people = {person.id: person for person in instance.people}
    worked: dict[str, dict[dt.date, Shift]] = defaultdict(dict)
    found: list[Violation] = []
    for week in weeks:
        begins = instance.first + (week.number - 1) * DAYS * DAY
        for date, who in sorted(week.given.items()):
            if week.number > instance.weeks or not begins <= date < begins + DAYS * DAY:
                found.append(_broken("day", week.number, None, date, f"{date} is not in week {week.number}"))
                continue
            for name, shift in sorted(who.items()):
                if name not in people or shift not in shifts:
                    what = f"person {name!r}" if name not in people else f"shift {shift!r}"
                    found.append(_broken("unknown", week.number, None, date, f"there is no {what}"))
                else:
                    worked[name][date] = shifts[shift]
            found += _crowded(instance, week.number, date, who)
    for person in instance.people:
        found += _Line(instance, person, worked[person.id]).broken()
    return found


def _broken(rule: str, week: int, person: Person | None, day: dt.date, text: str) -> Violation:
    who = None if person is None else person.id
    text = text if person is None else f"{person.name}: {text}"
    return Violation(rule=rule, week=week, person=who, day=day, text=text)


def _crowded(instance: Instance, week: int, date: dt.date, who: Mapping[str, str]) -> Iterator[Violation]:
    needed = instance.needed[(date - instance.first).days]
    for shift, number in sorted(Counter(who.values()).items()):
        most = needed[shift].people if shift in needed else 0
        if number > most:
            yield _broken("crowded", week, None, date, f"{date}/{shift} has {number} people and takes {most}")


class _Line:
    """What one person works, by date in order, and what is wrong with it."""

    def __init__(self, instance: Instance, person: Person, worked: Mapping[dt.date, Shift]) -> None:
        self.instance, self.person, self.rules = instance, person, instance.rules
        self.worked = dict(sorted(worked.items()))

    def broken(self) -> Iterator[Violation]:
        """Give every rule that is broken."""
        yield from self._by_day()
        yield from self._in_rows()
        yield from self._by_week()

    def _violation(self, rule: str, day: dt.date, text: str) -> Violation:
        return _broken(rule, (day - self.instance.first).days // DAYS + 1, self.person, day, text)

    def _by_day(self) -> Iterator[Violation]:
        for date, shift in self.worked.items():
            if date in self.person.absent:
                yield self._violation("absent", date, f"{shift.id} on {date}, a day of absence")
            if self.person.shifts and shift.id not in self.person.shifts:
                yield self._violation("shift", date, f"may not be given {shift.id}, and is on {date}")
            after = self.worked.get(date + DAY)
            if after is not None:
                ends = dt.datetime.combine(date, dt.time()) + dt.timedelta(minutes=shift.ends)
                begins = dt.datetime.combine(date + DAY, dt.time()) + dt.timedelta(minutes=after.begins)
                if begins - ends < dt.timedelta(hours=self.rules.rest):
                    between = (begins - ends) / dt.timedelta(hours=1)
                    text = f"{between:g} h between {shift.id} on {date} and {after.id}; {self.rules.rest} at least"
                    yield self._violation("rest", date + DAY, text)

    def _in_rows(self) -> Iterator[Violation]:
        nights = [date for date, shift in self.worked.items() if shift.night]
        for rule, days, most in (("days", list(self.worked), self.rules.days), ("nights", nights, self.rules.nights)):
            for length, last in _rows(days):
                if length > most:
                    yield self._violation(rule, last, f"{length} {rule} in a row until {last}; {most} at most")

    def _by_week(self) -> Iterator[Violation]:
        instance, hours, busy = self.instance, Counter[dt.date](), set()
        for date, shift in self.worked.items():
            monday = date - dt.timedelta(days=date.weekday())
            hours[monday] += shift.hours
            if date.weekday() >= SATURDAY:
                busy.add(monday)
        for monday, number in sorted(hours.items()):
            if number > self.rules.hours:
                text = f"{number} h in the week of {monday}; {self.rules.hours} at most"
                yield self._violation("hours", monday, text)
        free, least = instance.weeks - len(busy), min(self.rules.weekends, instance.weeks)
        if free < least:
            last = instance.date(instance.days - 1)
            yield self._violation("weekends", last, f"{free} free weekends; {least} at least")


def _rows(days: Sequence[dt.date]) -> Iterator[tuple[int, dt.date]]:
    """Give the length and the last day of each unbroken row of days, which are in order."""
    length = 0
    for number, day in enumerate(days):
        length += 1
        if number + 1 == len(days) or days[number + 1] != day + DAY:
            yield length, day
            length = 0


def score(instance: Instance, weeks: Sequence[Week]) -> Score:
    """Return what a rota costs. Who or what the instance does not know costs nothing."""
    shifts = {shift.id: shift for shift in instance.shifts}
    given = {date: who for week in weeks for date, who in week.given.items()}
    weights = instance.weights
    costs: Counter[str] = Counter()
    for person in instance.people:
        worked = {date: shifts[who[person.id]] for date, who in given.items() if who.get(person.id) in shifts}
        for wish in person.wishes:
            has = worked.get(wish.date)
            met = has is not None and wish.shift in (None, has.id)
            costs["wishes"] += wish.weight * (met != wish.want)
        hours = sum(shift.hours for shift in worked.values())
        costs["hours"] += weights.hours * abs(hours - instance.target(person))
        nights = sum(shift.night for shift in worked.values())
        costs["nights"] += weights.nights * max(0, nights - instance.fair_nights.get(person.id, 0))
        for week in range(instance.weeks):
            saturday = instance.date(week * DAYS + SATURDAY)
            costs["weekends"] += weights.weekends * ((saturday in worked) != (saturday + DAY in worked))
        costs["single"] += weights.single * sum(
            date - DAY not in worked and date + DAY not in worked
            for date in worked
            if instance.first < date < instance.date(instance.days - 1)
        )
    return Score(**costs)
