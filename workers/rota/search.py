"""
Changes for the better: fill what is open, repair what is broken, improve what costs.

Each takes whatever rota there is, changes the weeks that it is asked to, reads all others, and gives the weeks that it
has changed. The same seed gives the same weeks; how long each takes is bounded by its number of tries.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from workers.rota.grid import BROKEN, FREE, Grid
from workers.rota.models import DAYS, Instance, Week

TRIES: Final = 40_000
HOT: Final = 1.0
"""What a step for the worse may cost at the beginning of a search, about."""
HOTTER: Final = 12.0
"""Where something is open: what people would like comes later."""
COLD: Final = 0.1
FILLING: Final = 0.5
"""How many of the steps of a repair try to fill what is open; the others swap."""
INSTEAD: Final = 0.6
"""How many of these take a person from another day, so that what is open moves to where it can be filled."""
LONGEST: Final = 7  # days in a row that two people swap at a time
TWICE: Final = 0.3
"""How many swaps are of two such rows: a weekend for another one."""


def fill(instance: Instance, weeks: Sequence[Week], number: int) -> Week:
    """Give the open slots of a week to whom they cost least; leave open what nobody can be given."""
    grid = Grid(instance, weeks)
    _fill(grid, _days([number]))
    return grid.week(number)


def repair(
    instance: Instance, weeks: Sequence[Week], window: Sequence[int], seed: int, tries: int = TRIES
) -> list[Week]:
    """Take away what breaks rules in some weeks, and move people until less is open there."""
    grid = Grid(instance, weeks)
    days = _days(window)
    start = _lacking(grid)
    _clear(grid, days)
    _fill(grid, days)
    if _open(grid, days):
        _anneal(grid, days, random.Random(seed), tries, until_full=True)  # noqa: S311  no secret
    # What the instance does not know has no place in the grid, and is gone when its week is written.
    better = _lacking(grid) < start or _strange(instance, weeks, window)
    return _changed(grid, weeks, window) if better else []


def improve(
    instance: Instance, weeks: Sequence[Week], window: Sequence[int], seed: int, tries: int = TRIES
) -> list[Week]:
    """Swap people in some weeks so that it costs less."""
    grid = Grid(instance, weeks)
    start = grid.cost
    _anneal(grid, _days(window), random.Random(seed), tries)  # noqa: S311  no secret
    return _changed(grid, weeks, window) if grid.cost < start else []


def windows(instance: Instance) -> list[tuple[int, ...]]:
    """Return weeks that are worth changing together: each and the one after it."""
    numbers = range(1, instance.weeks + 1)
    return list(pairwise(numbers)) or [(1,)]


def _days(window: Sequence[int]) -> list[int]:
    return [day for number in window for day in range((number - 1) * DAYS, number * DAYS)]


def _changed(grid: Grid, weeks: Sequence[Week], window: Sequence[int]) -> list[Week]:
    known = {week.number: week for week in weeks}
    found = [grid.week(number) for number in window]
    return [week for week in found if week != known.get(week.number)]


def _strange(instance: Instance, weeks: Sequence[Week], window: Sequence[int]) -> bool:
    """Tell whether a week has people, shifts or days that the instance does not know."""
    of_window = [week for week in weeks if week.number in window]
    known = Grid(instance, of_window)
    return any(known.week(week.number) != week for week in of_window)


def _lacking(grid: Grid) -> int:
    """Return broken rules and missing people, weighted, without what is a matter of taste."""
    soft = sum(grid.line_cost(person) % BROKEN for person in range(len(grid.lines)))
    return grid.cost - soft


def _open(grid: Grid, days: Sequence[int]) -> set[tuple[int, int]]:
    return {slot for slot in grid.open if slot[0] in days}


def _fill(grid: Grid, days: Sequence[int]) -> None:
    people = range(len(grid.lines))
    left = _open(grid, days)
    while left:
        able: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for day, shift in left:
            slot = grid.slot(day, shift)
            costs = []
            for person in people:
                line = grid.lines[person]
                if line[day] == FREE and slot.lacks(person):
                    before = grid.line_cost(person)
                    line[day] = shift
                    more = grid.line_cost(person) - before
                    line[day] = FREE
                    if more < BROKEN // 2:
                        costs.append((more, person))
            if costs:
                able[day, shift] = costs
        if not able:
            return
        # The one with the fewest who can be given it goes first.
        day, shift = min(able, key=lambda slot: (len(able[slot]), slot))
        grid.put(min(able[day, shift])[1], [day], [shift])
        left = {slot for slot in able if grid.slot(*slot).missing > 0}


def _clear(grid: Grid, days: Sequence[int]) -> None:
    """Take away, one after the other, the days whose loss mends most of a broken line; and who is too many."""
    for person in range(len(grid.lines)):
        while grid.line_broken(person):
            now = grid.line_cost(person)
            costs = []
            for day in days:
                line = bytearray(grid.lines[person])
                if line[day]:
                    line[day] = FREE
                    costs.append((grid.line_cost(person, line), day))
            if not costs or min(costs)[0] > now - BROKEN // 2:
                break
            grid.put(person, [min(costs)[1]], [FREE])
    for day in days:
        for person in range(len(grid.lines)):
            shift = grid.lines[person][day]
            if shift and grid.slot(day, shift).cost >= BROKEN:
                grid.put(person, [day], [FREE])


def _anneal(grid: Grid, days: Sequence[int], rng: random.Random, tries: int, *, until_full: bool = False) -> None:
    """Leave the grid at the best that a search from it has met, which may be where it began."""
    best, best_lines = grid.cost, [bytes(line) for line in grid.lines]
    heat = HOTTER if until_full else HOT
    cooling = (COLD / heat) ** (1 / tries)
    fulfilled = False
    for _ in range(tries):
        heat *= cooling
        allowed = -heat * math.log(1.0 - rng.random())
        if until_full and grid.open and rng.random() < FILLING:
            _fill_one(grid, days, rng, allowed)
        else:
            _swap(grid, days, rng, allowed, exact=not until_full)
        if grid.cost < best:
            best, best_lines = grid.cost, [bytes(line) for line in grid.lines]
            fulfilled = until_full and not _open(grid, days)
        if fulfilled:
            break
    for person, line in enumerate(best_lines):
        if line != grid.lines[person]:
            grid.put(person, days, [line[day] for day in days])


def _fill_one(grid: Grid, days: Sequence[int], rng: random.Random, allowed: float) -> None:
    """Put somebody into an open slot: from another one of that day or from a day off, or for another day's shift."""
    day, shift = rng.choice(sorted(grid.open))
    person = rng.randrange(len(grid.lines))
    line = grid.lines[person]
    if line[day] == shift or day not in days:
        return
    span, given = [day], [shift]
    if line[day] == FREE and rng.random() < INSTEAD:
        worked = [other for other in days if line[other]]
        if worked:
            span.append(rng.choice(worked))
            given.append(FREE)
    cost, was = grid.cost, [line[each] for each in span]
    grid.put(person, span, given)
    if grid.cost - cost > allowed:
        grid.put(person, span, was)


def _swap(grid: Grid, days: Sequence[int], rng: random.Random, allowed: float, *, exact: bool) -> None:
    """
    Swap some days of two people.

    Args:
        exact: that nothing is open, so that slots can only become worse: lines that do are not tried.
    """
    one, other = rng.randrange(len(grid.lines)), rng.randrange(len(grid.lines))
    line, line_of_other = grid.lines[one], grid.lines[other]
    span = _block(days, rng)
    if rng.random() < TWICE:
        span = sorted({*span, *_block(days, rng)})
    span = [day for day in span if line[day] != line_of_other[day]]
    if not span:
        return
    mine, theirs = [line[day] for day in span], [line_of_other[day] for day in span]
    if exact:
        before = grid.line_cost(one) + grid.line_cost(other)
        new, new_of_other = bytearray(line), bytearray(line_of_other)
        for day, of_mine, of_theirs in zip(span, mine, theirs, strict=True):
            new[day], new_of_other[day] = of_theirs, of_mine
        more = grid.line_cost(one, new) - before
        if more > allowed or more + grid.line_cost(other, new_of_other) > allowed:
            return
    cost = grid.cost
    grid.put(one, span, theirs)
    grid.put(other, span, mine)
    if grid.cost - cost > allowed:
        grid.put(one, span, mine)
        grid.put(other, span, theirs)


def _block(days: Sequence[int], rng: random.Random) -> Sequence[int]:
    first = rng.randrange(len(days))
    return days[first : first + rng.randint(1, LONGEST)]
