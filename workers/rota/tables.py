"""A rota for the terminal."""

from __future__ import annotations

from typing import Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from workers.rota.models import DAYS, WEEKDAYS, Plan
from workers.rota.sheet import letters, verdict

COLOURS: Final = ("green", "yellow", "blue", "magenta", "cyan", "red")
"""Of shifts, in their order."""
FREE: Final = "·"
AWAY: Final = "-"


def table(plan: Plan) -> RenderableType:
    """Return the rota for a terminal: a line for each person, a letter for each day."""
    instance, marks = plan.instance, letters(plan.instance)
    colours = {shift.id: COLOURS[place % len(COLOURS)] for place, shift in enumerate(instance.shifts)}
    given = {date: who for week in plan.weeks for date, who in week.given.items()}
    found = Table(title=f"{instance.name}, from {instance.first}", title_justify="left", pad_edge=False, box=None)
    found.add_column("", no_wrap=True, max_width=20)
    found.add_column("h", justify="right")
    for number in range(instance.weeks):
        # A letter a day, so that four weeks fit into eighty columns.
        heading = Text("".join(day[0].upper() for day in WEEKDAYS))
        found.add_column(Text(f"{instance.date(number * DAYS):%d %b}\n").append(heading), no_wrap=True)
    hours = {shift.id: shift.hours for shift in instance.shifts}
    for person in instance.people:
        cells, total = [], 0
        for number in range(instance.weeks):
            text = Text()
            for day in range(number * DAYS, (number + 1) * DAYS):
                date = instance.date(day)
                shift = given.get(date, {}).get(person.id)
                total += hours.get(shift, 0) if shift else 0
                if shift in marks:
                    text.append(marks[shift], style=f"bold {colours[shift]}")
                else:
                    text.append(AWAY if date in person.absent else FREE, style="dim")
            cells.append(text)
        found.add_row(Text(person.name), Text(str(total)), *cells)
    legend = Text("  ").join(
        Text(f"{marks[shift.id]} {shift.id} {shift.start}-{shift.end}", style=colours[shift.id])
        for shift in instance.shifts
    )
    return Group(found, "", legend, Text(f"{AWAY} absent  {FREE} free", style="dim"), Text(verdict(plan)))
