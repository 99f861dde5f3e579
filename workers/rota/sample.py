"""
Make `instances/ward.yaml`: `python -m workers.rota.sample > workers/rota/instances/ward.yaml`.

Names, contracts, absences and wishes are drawn at random, always the same; no person is meant.
"""

from __future__ import annotations

import datetime as dt
import random
import sys
from collections.abc import Iterator
from typing import Final

SEED: Final = 20261130
FIRST: Final = dt.date(2026, 11, 30)
WEEKS: Final = 4
# fmt: off
GIVEN: Final = (
    "Ada", "Amir", "Anna", "Ben", "Carla", "Chen", "Dana", "David", "Elif", "Emma", "Farid", "Finn", "Grace",
    "Hana", "Ivan", "Jana", "Jonas", "Kofi", "Lara", "Leon", "Lina", "Luis", "Maja", "Marco", "Mia", "Nadia",
    "Nils", "Nora", "Olga", "Omar", "Paula", "Pavel", "Rosa", "Ruth", "Sami", "Sofia", "Tariq", "Tessa", "Vera",
    "Yusuf",
)
# fmt: on
# fmt: off
FAMILY: Final = (
    "Adler", "Bauer", "Becker", "Costa", "Demir", "Diaz", "Ekman", "Fischer", "Garcia", "Haas", "Ito", "Jansen",
    "Keller", "Kim", "Lang", "Lopez", "Maier", "Moreau", "Nagy", "Novak", "Okafor", "Olsen", "Park", "Petrov",
    "Quinn", "Rossi", "Sato", "Schulz", "Silva", "Stein", "Tanaka", "Torres", "Ueda", "Vogel", "Weber", "Weiss",
    "Wolf", "Yilmaz", "Young", "Zhang",
)
# fmt: on
SKILLS: Final = {"senior": 0.4, "icu": 0.45, "wounds": 0.25}
"""How likely somebody has each."""
NO_NIGHTS: Final = 0.18
ONLY_NIGHTS: Final = 0.05
AWAY: Final = 0.3
WANTS: Final = 0.4
"""Of the wishes that name a shift, those to have it."""
HEAD: Final = """\
# A hospital's ward: 40 people over 4 weeks. Made by `python -m workers.rota.sample`; no person is meant.
name: Ward 4B
first: 2026-11-30
weeks: 4

shifts:
  - {id: early, start: "06:00", end: "14:00"}
  - {id: late, start: "14:00", end: "22:00"}
  - {id: night, start: "22:00", end: "06:00", night: true}

needs:
  - {shift: early, days: [mon, tue, wed, thu, fri], people: 9, skills: {senior: 2, icu: 2, wounds: 1}}
  - {shift: early, days: [sat, sun], people: 6, skills: {senior: 1, icu: 2}}
  - {shift: late, days: [mon, tue, wed, thu, fri], people: 8, skills: {senior: 2, icu: 2}}
  - {shift: late, days: [sat, sun], people: 6, skills: {senior: 1, icu: 2}}
  - {shift: night, days: [mon, tue, wed, thu, fri], people: 5, skills: {senior: 1, icu: 1}}
  - {shift: night, days: [sat, sun], people: 4, skills: {senior: 1, icu: 1}}
  - {shift: early, dates: [2026-12-24, 2026-12-25, 2026-12-26], people: 6, skills: {senior: 1, icu: 2}}
  - {shift: late, dates: [2026-12-24, 2026-12-25, 2026-12-26], people: 5, skills: {senior: 1, icu: 1}}

# Hours of rest between shifts; days, nights and hours at most; free weekends at least.
rules: {rest: 11, days: 5, nights: 4, hours: 48, weekends: 2}
weights: {hours: 1, nights: 6, weekends: 4, single: 3}

people:
"""


def lines() -> Iterator[str]:
    """Give the people, a line of YAML each."""
    rng = random.Random(SEED)  # noqa: S311  no secret
    contracts = [40] * 18 + [30] * 13 + [20] * 9
    rng.shuffle(contracts)
    for number, hours in enumerate(contracts):
        name = f"{GIVEN[number]} {FAMILY[(number * 7) % len(FAMILY)]}"
        parts = [f"id: p{number + 1:02}", f"name: {name}", f"hours: {hours}"]
        skills = [skill for skill, share in (("senior", 0.4), ("icu", 0.45), ("wounds", 0.25)) if rng.random() < share]
        if skills:
            parts.append(f"skills: [{', '.join(skills)}]")
        # Some have no nights, and a few nothing else.
        drawn = rng.random()
        if drawn < NO_NIGHTS:
            parts.append("shifts: [early, late]")
        elif drawn < NO_NIGHTS + ONLY_NIGHTS:
            parts.append("shifts: [night]")
        absent: list[dt.date] = []
        if rng.random() < AWAY:
            start = rng.randrange(WEEKS * 7 - 5)
            absent = [FIRST + dt.timedelta(days=start + day) for day in range(rng.randint(2, 7))]
            absent = [date for date in absent if date < FIRST + dt.timedelta(weeks=WEEKS)]
            parts.append(f"absent: [{', '.join(map(str, absent))}]")
        yield (
            f"  - {{{', '.join(parts)}}}"
            if not (wishes := list(_wishes(rng, set(absent))))
            else "\n".join([f"  - {{{', '.join(parts)},", f"     wishes: [{', '.join(wishes)}]}}"])
        )


def _wishes(rng: random.Random, absent: set[dt.date]) -> Iterator[str]:
    days = [day for day in range(WEEKS * 7) if FIRST + dt.timedelta(days=day) not in absent]
    for day in sorted(rng.sample(days, rng.randint(0, 5))):
        date = FIRST + dt.timedelta(days=day)
        shift = rng.choice(("", "", "", ", shift: early", ", shift: late", ", shift: night"))
        want = "true" if shift and rng.random() < WANTS else "false"
        yield f"{{date: {date}, want: {want}{shift}, weight: {rng.choice((2, 3, 3, 5, 8))}}}"


def ward() -> str:
    """Return the file."""
    return HEAD + "\n".join(lines()) + "\n"


if __name__ == "__main__":
    sys.stdout.write(ward())
