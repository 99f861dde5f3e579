"""A rota as one HTML page, complete in itself: to be looked at, and to be printed on A4."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from html import escape
from pathlib import Path
from string import Template
from typing import Final

from workers.rota.models import DAYS, WEEKDAYS, Instance, Person, Plan
from workers.rota.sheet import letters

_TEMPLATE: Final = Path(__file__).with_name("page.html")
_COLOURS: Final = 6  # of shifts, in the template
_WEEKEND: Final = 5


def as_html(plan: Plan) -> str:
    """Fill in the template. Everything that comes from the instance passes through `escape`."""
    instance, audit = plan.instance, plan.audit
    valid = not audit.open and not audit.broken
    given = sum(len(who) for week in plan.weeks for who in week.given.values())
    score = "".join(f"<li>{kind} <b>{cost:,}</b></li>" for kind, cost in audit.score.model_dump().items())
    return Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        name=escape(instance.name),
        lead=f"{instance.first:%d %B %Y} to {instance.date(instance.days - 1):%d %B %Y}; "
        f"{len(instance.people)} people, {given:,} shifts",
        tone="good" if valid else "bad",
        verdict="Every slot is filled and every rule kept."
        if valid
        else f"People missing: {audit.open}. Rules broken: {audit.broken}.",
        facts=f"<li>costs <b>{audit.total:,}</b>, of these:</li>{score}",
        legend=_legend(instance),
        days="".join(_days(instance)),
        people="\n".join(_row(plan, person) for person in instance.people),
        slots="\n".join(_needed(plan)),
        wrongs=_wrongs(plan),
        footer=f"Ended by {escape(plan.outcome)}: {escape(plan.why)}. {plan.wakes:,} wakes, {plan.writes:,} writes.",
    )


def _legend(instance: Instance) -> str:
    marks = letters(instance)
    shifts = "".join(
        f'<li><i class="shift{place % _COLOURS}">{marks[shift.id]}</i>{escape(shift.id)} '
        f"{shift.start}&ndash;{shift.end}</li>"
        for place, shift in enumerate(instance.shifts)
    )
    return (
        f'{shifts}<li><i class="absent">&nbsp;</i>absent</li><li><i class="unmet">&nbsp;</i>a wish that is not met</li>'
        '<li><i class="wrong">&nbsp;</i>breaks a rule</li>'
    )


def _of(day: int) -> str:
    return " ".join(name for name, holds in (("monday", day % DAYS == 0), ("weekend", day % DAYS >= _WEEKEND)) if holds)


def _days(instance: Instance) -> Iterator[str]:
    for day in range(instance.days):
        date = instance.date(day)
        named = f"{date:%b}" if day == 0 or date.day == 1 else WEEKDAYS[day % DAYS][:2].capitalize()
        yield f'<th class="{_of(day)}" title="{date:%A} {date}">{date.day}<small>{named}</small></th>'


def _row(plan: Plan, person: Person) -> str:
    instance, marks = plan.instance, letters(plan.instance)
    places = {shift.id: place for place, shift in enumerate(instance.shifts)}
    given = {date: who[person.id] for week in plan.weeks for date, who in week.given.items() if person.id in who}
    wrong = {each.day: each.text for each in plan.audit.violations if each.person == person.id}
    cells, hours, nights = [], 0, 0
    for day in range(instance.days):
        date = instance.date(day)
        shift = given.get(date, "")
        known = shift in places
        if known:
            hours += instance.shifts[places[shift]].hours
            nights += instance.shifts[places[shift]].night
        unmet = [
            wish for wish in person.wishes if wish.date == date and (known and wish.shift in (None, shift)) != wish.want
        ]
        classes = [_of(day), "absent" * (date in person.absent), "unmet" * bool(unmet), "wrong" * (date in wrong)]
        said = [f"{date:%a} {date}", shift or ("absent" if date in person.absent else "free")]
        said += [f"wish: {'to have' if wish.want else 'not'} {wish.shift or 'to work'}" for wish in unmet]
        said += [wrong[date]] if date in wrong else []
        mark = f'<i class="shift{places[shift] % _COLOURS}">{marks[shift]}</i>' if known else ""
        cells.append(f'<td class="{" ".join(filter(None, classes))}" title="{escape(", ".join(said))}">{mark}</td>')
    skills = f" <small>{escape(', '.join(person.skills))}</small>" if person.skills else ""
    more = hours - instance.target(person)
    sums = (
        f'<td class="sum">{hours}</td><td class="sum">{f"{more:+d}" if more else "0"}</td><td class="sum">{nights}</td>'
    )
    return f'<tr><th class="who">{escape(person.name)}{skills}</th>{"".join(cells)}{sums}</tr>'


def _needed(plan: Plan) -> Iterator[str]:
    """Give a row for each shift: how many are there, and where that is not what is needed."""
    instance = plan.instance
    here = Counter((date, shift) for week in plan.weeks for date, who in week.given.items() for shift in who.values())
    short = {
        (each.day, shift.id): each.text
        for each in plan.audit.violations
        for shift in instance.shifts
        if each.rule in {"open", "crowded"} and f"/{shift.id}" in each.text
    }
    for shift in instance.shifts:
        cells = []
        for day in range(instance.days):
            date = instance.date(day)
            need = instance.needed[day].get(shift.id)
            number, wanted = here[date, shift.id], need.people if need else 0
            why = short.get((date, shift.id))
            wrong = "short" if why or number != wanted else ""
            text = f"{number}/{wanted}" if number != wanted else str(number or "")
            cells.append(f'<td class="{_of(day)} {wrong}" title="{escape(why or "")}">{text}</td>')
        yield f'<tr><th class="who">{escape(shift.id)}</th>{"".join(cells)}<td colspan="3"></td></tr>'


def _wrongs(plan: Plan) -> str:
    if not plan.audit.violations:
        return ""
    listed = "".join(f"<li>{escape(each.text)}</li>" for each in plan.audit.violations)
    left = plan.audit.open + plan.audit.broken - sum(each.number for each in plan.audit.violations)
    more = f"<li>and {left:,} more</li>" if left > 0 else ""
    return f'<h2>What is wrong</h2><ul class="wrongs">{listed}{more}</ul>'
