"""
The same rota as an integer programme: what OR-Tools' CP-SAT finds in a given time, and what no rota can be better than.

Written from the models alone, as `workers.rota.checker` is; a test holds that the two agree.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ortools.sat.python import cp_model

from workers.rota.models import DAYS, Instance, Person, Week

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterator, Sequence

SATURDAY: Final = 5


@dataclass(frozen=True)
class Bound:
    """
    What the solver says.

    Attributes:
        status: OPTIMAL, FEASIBLE, INFEASIBLE or UNKNOWN.
        bound: no rota costs less; `cost`: of the best one found, `weeks`.
        seconds: that it took.
    """

    status: str
    bound: float
    cost: float | None
    weeks: tuple[Week, ...]
    seconds: float


def solve(instance: Instance, *, seconds: float, hint: Sequence[Week] = ()) -> Bound:
    """
    Solve an instance as well as can be within a time.

    Args:
        hint: a rota to begin with.
    """
    programme = _Programme(instance)
    programme.start_from(hint)
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = seconds
    solver.parameters.num_workers = os.cpu_count() or 1
    status = solver.solve(programme.model)
    found = status in (cp_model.OPTIMAL, cp_model.FEASIBLE)
    return Bound(
        status=solver.status_name(status),
        bound=solver.best_objective_bound,
        cost=solver.objective_value if found else None,
        weeks=tuple(programme.weeks(solver)) if found else (),
        seconds=solver.wall_time,
    )


class _Programme:
    """A truth for each person, day and shift; the rules; and the cost."""

    def __init__(self, instance: Instance) -> None:
        self.instance, self.model = instance, cp_model.CpModel()
        self.given = {
            (person.id, day, shift.id): self.model.new_bool_var(f"{person.id}/{day}/{shift.id}")
            for person in instance.people
            for day in range(instance.days)
            for shift in instance.shifts
        }
        self._costs: list[Any] = []
        self._cover()
        for person in instance.people:
            self._person(person)
        self.model.minimize(sum(self._costs))

    def start_from(self, weeks: Sequence[Week]) -> None:
        """Give the solver a rota to begin with."""
        if weeks:
            known = {(who, date): what for week in weeks for date, on in week.given.items() for who, what in on.items()}
            for (who, day, shift), truth in self.given.items():
                self.model.add_hint(truth, known.get((who, self.instance.date(day))) == shift)

    def weeks(self, solver: cp_model.CpSolver) -> Iterator[Week]:
        """Give what the solver has found."""
        for number in range(1, self.instance.weeks + 1):
            given: dict[dt.date, dict[str, str]] = {}
            for (who, day, shift), truth in self.given.items():
                if day // DAYS + 1 == number and solver.boolean_value(truth):
                    given.setdefault(self.instance.date(day), {})[who] = shift
            yield Week(number=number, given=given)

    def _cover(self) -> None:
        people = self.instance.people
        for day, needed in enumerate(self.instance.needed):
            for shift in self.instance.shifts:
                need = needed.get(shift.id)
                all_of_it = [self.given[person.id, day, shift.id] for person in people]
                self.model.add(sum(all_of_it) == (need.people if need else 0))
                for skill, number in need.skills.items() if need else ():
                    able = [self.given[person.id, day, shift.id] for person in people if skill in person.skills]
                    self.model.add(sum(able) >= number)

    def _person(self, person: Person) -> None:
        instance, model, rules, shifts = self.instance, self.model, self.instance.rules, self.instance.shifts
        days = range(instance.days)
        works = [sum(self.given[person.id, day, shift.id] for shift in shifts) for day in days]
        nights = [sum(self.given[person.id, day, shift.id] for shift in shifts if shift.night) for day in days]
        for day in days:
            model.add(works[day] <= (0 if instance.date(day) in person.absent else 1))
            for shift in shifts:
                if person.shifts and shift.id not in person.shifts:
                    model.add(self.given[person.id, day, shift.id] == 0)
        self._rest(person)
        for row, most in ((works, rules.days), (nights, rules.nights)):
            for first in range(instance.days - most):
                model.add(sum(row[first : first + most + 1]) <= most)
        self._weeks(person, works)
        self._cost_of(person, works, nights)

    def _rest(self, person: Person) -> None:
        shifts, minutes = self.instance.shifts, self.instance.rules.rest * 60
        short = [(one, after) for one in shifts for after in shifts if after.begins + 24 * 60 - one.ends < minutes]
        for day in range(self.instance.days - 1):
            for one, after in short:
                both = self.given[person.id, day, one.id] + self.given[person.id, day + 1, after.id]
                self.model.add(both <= 1)

    def _weeks(self, person: Person, works: Sequence[Any]) -> None:
        instance, model, busy = self.instance, self.model, []
        for week in range(instance.weeks):
            days = range(week * DAYS, (week + 1) * DAYS)
            hours = sum(self.given[person.id, day, shift.id] * shift.hours for day in days for shift in instance.shifts)
            model.add(hours <= instance.rules.hours)
            saturday, sunday = works[days[SATURDAY]], works[days[SATURDAY + 1]]
            busy.append(model.new_bool_var(f"{person.id}/{week}/busy"))
            model.add(busy[-1] >= saturday)
            model.add(busy[-1] >= sunday)
            self._costs.append(instance.weights.weekends * (2 * busy[-1] - saturday - sunday))
        model.add(sum(busy) <= instance.weeks - min(instance.rules.weekends, instance.weeks))

    def _cost_of(self, person: Person, works: Sequence[Any], nights: Sequence[Any]) -> None:
        instance, model, weights = self.instance, self.model, self.instance.weights
        for wish in person.wishes:
            day = (wish.date - instance.first).days
            met = works[day] if wish.shift is None else self.given[person.id, day, wish.shift]
            self._costs.append(wish.weight * ((1 - met) if wish.want else met))
        hours = sum(
            self.given[person.id, day, shift.id] * shift.hours
            for day in range(instance.days)
            for shift in instance.shifts
        )
        off = model.new_int_var(0, instance.weeks * 168, f"{person.id}/off")
        model.add(off >= hours - instance.target(person))
        model.add(off >= instance.target(person) - hours)
        more = model.new_int_var(0, instance.days, f"{person.id}/nights")
        model.add(more >= sum(nights) - instance.fair_nights.get(person.id, 0))
        self._costs += [weights.hours * off, weights.nights * more]
        for day in range(1, instance.days - 1):
            single = model.new_bool_var(f"{person.id}/{day}/single")
            model.add(single >= works[day] - works[day - 1] - works[day + 1])
            self._costs.append(weights.single * single)
