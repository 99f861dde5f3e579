"""
A rota in numbers, for the search: a line of shifts for each person, and what lines and slots cost.

The rules here are those of `checker.py`, written again: a mistake in one shows as a difference between the two.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from workers.rota.models import DAYS, WEEKDAYS, Instance, Person, Week, may

OPEN: Final = 10_000_000
"""What it costs the search that one person is missing in a slot: more than a line can cost by an instance's weights."""
BROKEN: Final = 10_000_000_000
"""What a broken rule costs it: more than all that may be open in a slot."""
MOST_KEPT: Final = 200_000  # lines whose cost is kept
FREE: Final = 0
SATURDAY: Final = WEEKDAYS.index("sat")


class Grid:
    """
    A rota, for the search.

    Args:
        instance: what the rota is for.
        weeks: those that there are; who or what the instance does not know is left out.

    Attributes:
        lines: a shift for each day, by person; 0: free, else one more than the shift's place in the instance.
        open: the slots that lack somebody, as days and shifts.
        cost: of all lines and slots.
    """

    def __init__(self, instance: Instance, weeks: Iterable[Week]) -> None:
        self.instance = instance
        self.shifts = {shift.id: place for place, shift in enumerate(instance.shifts, start=1)}
        self._line_costs = [LineCost(instance, person) for person in instance.people]
        self.lines = [bytearray(instance.days) for _ in instance.people]
        self._slots = [self._of_day(day) for day in range(instance.days)]
        people = {person.id: place for place, person in enumerate(instance.people)}
        for week in weeks:
            for date, who in week.given.items():
                day = (date - instance.first).days
                for person, shift in who.items():
                    if 0 <= day < instance.days and person in people and shift in self.shifts:
                        self.lines[people[person]][day] = self.shifts[shift]
        for number, line in enumerate(self.lines):
            for day, place in enumerate(line):
                self._slots[day][place].change(number, 1)
        self.open = {
            (day, shift)
            for day, slots in enumerate(self._slots)
            for shift, slot in enumerate(slots)
            if slot.missing > 0
        }
        self.cost = sum(map(self.line_cost, range(len(self.lines)))) + sum(
            slot.cost for slots in self._slots for slot in slots
        )

    def _of_day(self, day: int) -> list[Slot]:
        people, needed = self.instance.people, self.instance.needed[day]
        # That people are free is no slot, and costs nothing.
        slots = [Slot(people, 0, {}, free=True)]
        for shift in self.shifts:
            need = needed.get(shift)
            slots.append(Slot(people, need.people, need.skills) if need else Slot(people, 0, {}))
        return slots

    def slot(self, day: int, shift: int) -> Slot:
        """Return the slot of a day and a shift."""
        return self._slots[day][shift]

    def line_cost(self, person: int, line: bytearray | None = None) -> int:
        """Return what a person's line costs: this one, or another."""
        return self._line_costs[person](bytes(self.lines[person] if line is None else line))

    def line_broken(self, person: int) -> bool:
        """Tell whether a person's line breaks a rule."""
        return self.line_cost(person) >= BROKEN

    def put(self, person: int, days: Sequence[int], shifts: Sequence[int]) -> None:
        """Give a person shifts on some days, and keep the cost."""
        line = self.lines[person]
        self.cost -= self.line_cost(person)
        for day, shift in zip(days, shifts, strict=True):
            before = line[day]
            if before != shift:
                line[day] = shift
                for changed, by in ((before, -1), (shift, 1)):
                    slot = self._slots[day][changed]
                    self.cost += slot.change(person, by)
                    (self.open.add if slot.missing > 0 else self.open.discard)((day, changed))
        self.cost += self.line_cost(person)

    def week(self, number: int) -> Week:
        """Return a week of it, in the models' words."""
        given = {}
        for day in range((number - 1) * DAYS, number * DAYS):
            who = {
                person.id: self.instance.shifts[line[day] - 1].id
                for person, line in zip(self.instance.people, self.lines, strict=True)
                if line[day]
            }
            if who:
                given[self.instance.date(day)] = who
        return Week(number=number, given=given)


class Slot:
    """
    How many people a slot has, and with which skills.

    Args:
        people: of the instance; `needed`: exactly so many; `skills`: so many with a skill at least.
        free: whether it is none: who is free, of whom there are never too many nor too few.

    Attributes:
        missing: how many people would have to be put here, or to give way to others with a skill; below 1 if none.
    """

    def __init__(self, people: Sequence[Person], needed: int, skills: Mapping[str, int], *, free: bool = False) -> None:
        self._needed, self._people, self._free = needed, 0, free
        self._skills = [_Skill(number, people, skill) for skill, number in skills.items()]
        self.missing = self.cost = 0
        self.change(-1, 0)

    def lacks(self, person: int) -> bool:
        """Tell whether a person would fill a place: there is room, and not for others with a skill alone."""
        room = self._needed - self._people
        short = [each for each in self._skills if each.missing > 0]
        return room > 0 and (
            any(person in each.people for each in short) or room > max((each.missing for each in short), default=0)
        )

    def change(self, person: int, by: int) -> int:
        """Put a person here (1) or take one away (-1); returns what that changes of the cost."""
        if self._free:
            return 0
        self._people += by
        missing = self._needed - self._people
        cost = -BROKEN * missing if missing < 0 else 0
        for each in self._skills:
            if person in each.people:
                each.missing -= by
            if each.missing > missing:  # noqa: PLR1730  a call would take twice as long
                missing = each.missing
        if missing > 0:
            cost += OPEN * missing
        before, self.cost, self.missing = self.cost, cost, missing
        return cost - before


class _Skill:
    """How many of those who have a skill a slot lacks; below 0: has more than it takes."""

    __slots__ = ("missing", "people")

    def __init__(self, needed: int, people: Sequence[Person], skill: str) -> None:
        self.missing = needed
        self.people = frozenset(place for place, one in enumerate(people) if skill in one.skills)


class LineCost:
    """What one person's line costs: broken rules, and what it should not be."""

    def __init__(self, instance: Instance, person: Person) -> None:
        rules, weights, shifts = instance.rules, instance.weights, instance.shifts
        self._rules, self._weights, self._weeks = rules, weights, instance.weeks
        self._hours = [0, *(shift.hours for shift in shifts)]
        self._night = [False, *(shift.night for shift in shifts)]
        # What may not follow each shift on the next day.
        self._short = [
            frozenset(
                place
                for place, after in enumerate(shifts, start=1)
                if shift is not None and after.begins + 24 * 60 - shift.ends < rules.rest * 60
            )
            for shift in (None, *shifts)
        ]
        self._never = frozenset(place for place, shift in enumerate(shifts, start=1) if not may(person, shift.id))
        self._absent = frozenset((date - instance.first).days for date in person.absent)
        places = {shift.id: place for place, shift in enumerate(shifts, start=1)}
        self._wishes = [
            ((wish.date - instance.first).days, places[wish.shift] if wish.shift else -1, wish.want, wish.weight)
            for wish in person.wishes
        ]
        self._target = instance.target(person)
        self._nights = instance.fair_nights.get(person.id, 0)
        self._free_weekends = min(rules.weekends, instance.weeks)
        self._known: dict[bytes, int] = {}

    def __call__(self, line: bytes) -> int:
        """Return what a line costs; what has been worked out is kept."""
        found = self._known.get(line)
        if found is None:
            if len(self._known) >= MOST_KEPT:
                self._known.clear()
            found = self._known[line] = self._cost(line)
        return found

    def _cost(self, line: bytes) -> int:  # noqa: C901, PLR0912  the innermost loop of the search: one pass, no calls
        rules, weights = self._rules, self._weights
        broken = soft = total = nights = row = night_row = before = this_week = busy = 0
        for day, shift in enumerate(line):
            if shift:
                hours = self._hours[shift]
                total += hours
                this_week += hours
                row += 1
                if row > rules.days:
                    broken += 1
                if self._night[shift]:
                    nights += 1
                    night_row += 1
                    if night_row > rules.nights:
                        broken += 1
                else:
                    night_row = 0
                if shift in self._short[before]:
                    broken += 1
                if shift in self._never or day in self._absent:
                    broken += 1
            else:
                # One working day alone; of the first nobody knows what was before it.
                if row == 1 and day > 1:
                    soft += weights.single
                row = night_row = 0
            before = shift
            if day % DAYS == DAYS - 1:
                if this_week > rules.hours:
                    broken += 1 + (this_week - rules.hours) // DAYS
                this_week = 0
                saturday = line[day - 1]
                if saturday or shift:
                    busy += 1
                    if not (saturday and shift):
                        soft += weights.weekends
        for day, wanted, want, weight in self._wishes:
            given = line[day]
            if (given == wanted if wanted > 0 else given > 0) != want:
                soft += weight
        soft += weights.hours * abs(total - self._target) + weights.nights * max(0, nights - self._nights)
        free = self._weeks - busy
        return soft + BROKEN * (broken + max(0, self._free_weekends - free))
