"""A rota as CSV, and what all its forms have in common."""

from __future__ import annotations

import csv
import io

from workers.rota.models import WEEKDAYS, Instance, Plan


def as_csv(plan: Plan) -> str:
    """Return a row for each shift that somebody is given, in the order of days, shifts and people."""
    instance = plan.instance
    names = {person.id: person.name for person in instance.people}
    shifts = {shift.id: (place, shift) for place, shift in enumerate(instance.shifts)}
    rows = sorted(
        (date, shifts[what][0], person)
        for week in plan.weeks
        for date, who in week.given.items()
        for person, what in who.items()
    )
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["date", "weekday", "shift", "start", "end", "hours", "person", "name"])
    for date, place, person in rows:
        shift = instance.shifts[place]
        day = WEEKDAYS[date.weekday()]
        # A spreadsheet takes a cell that begins so for a formula.
        name = f"'{names[person]}" if names[person][0] in "=+-@\t\r" else names[person]
        writer.writerow([date, day, shift.id, shift.start, shift.end, shift.hours, person, name])
    return out.getvalue()


def letters(instance: Instance) -> dict[str, str]:
    """Return a letter for each shift: its first, or the next of its letters that is free."""
    found: dict[str, str] = {}
    for shift in instance.shifts:
        wanted = [*shift.id.upper(), *"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"]
        found[shift.id] = next(letter for letter in wanted if letter not in found.values())
    return found


def verdict(plan: Plan) -> str:
    """Say in a sentence what the rota is worth."""
    audit = plan.audit
    parts = ", ".join(f"{kind} {cost}" for kind, cost in audit.score.model_dump().items() if cost)
    cost = f"costs {audit.total}" + (f" ({parts})" if parts else "")
    if not audit.open and not audit.broken:
        return f"every slot is filled and every rule kept; {cost}"
    first = "; ".join(each.text for each in audit.violations[:3])
    return f"{audit.open} people missing, {audit.broken} rules broken: {first}; {cost}"
