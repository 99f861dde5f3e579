"""What Hypothesis chooses from where work is given out: plans, the work itself, what an attempt comes to."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from hypothesis import strategies as st

from orchestrator.messages import (
    Member,
    Otherwise,
    PlanStep,
    Terms,
)
from tests.state.choices import ASKS, HOUR_MS
from tests.state.reference import Ask

if TYPE_CHECKING:
    from orchestrator.state.runs import Begun

Kind = Literal["work", "flow", "team", "mixed", "refused", "refused-flow", "refused-mixed"]
DEEPEST: Final = 2
ROUNDS: Final = 3


@dataclass(frozen=True)
class Part:
    """One assignment, and which steps of it have an agent that undoes them or a time to be done in."""

    kind: Kind
    weight: int
    undo: bool
    timed: bool


@dataclass(frozen=True)
class Work:
    """
    What a boss gives out, on which terms: need, share, accept, otherwise, width, and whether in a time.

    A share is in hundredths of the weight, a number of members in twentieths.
    """

    parts: tuple[Part, ...]
    on: tuple[int, bool, bool, Otherwise, int, bool]

    def terms(self, members: list[Member]) -> Terms:
        """Return when these members come together."""
        need, share, accept, otherwise, width, timed = self.on
        weight = sum(member.steps[0].weight for member in members)
        return Terms(
            need=math.ceil(need * weight / 100) if share else need // 20,
            share=share,
            accept=accept,
            otherwise=otherwise,
            width=width,
            within=HOUR_MS / 1000 if timed else None,
        )

    def members(self, fan: str, *, start: int, number: int, most: int) -> list[Member]:
        """Compile it, as hierarchies do. `start`: members of earlier rounds; `number`: the round's."""
        path = fan[: fan.rfind("/") + 1]
        return [_member(part, f"{path}%s#{at}", fan, number) for at, part in enumerate(self.parts[:most], start + 1)]


def _member(part: Part, name: str, fan: str, number: int) -> Member:
    refused = part.kind.startswith("refused")
    kind = "work" if part.kind in {"team", "mixed"} and fan.count("#") >= DEEPEST else part.kind.replace("refused-", "")
    root = name % ("work" if kind == "refused" else kind)
    plan: tuple[PlanStep, ...] = (PlanStep(name=root, agent="works"),)
    if kind == "flow":
        one, two = f"{root}/one", f"{root}/two"
        plan = (PlanStep(name=one, agent="ones", next=two), PlanStep(name=two, agent="twos", start=one, gated=True))
    elif kind == "team":
        boss, joins = f"{root}/boss", f"{root}/join"
        plan = (
            PlanStep(name=boss, agent="bosses", next=joins, delegates=True),
            PlanStep(name=joins, agent="joins", joins=True),
        )
    elif kind == "mixed":
        one, boss, joins, two = f"{root}/one", f"{root}/h/boss", f"{root}/h/join", f"{root}/two"
        plan = (
            PlanStep(name=one, agent="ones", next=boss),
            PlanStep(name=boss, agent="bosses", next=joins, delegates=True),
            PlanStep(name=joins, agent="joins", joins=True, next=two, gated=True, start=boss),
            PlanStep(name=two, agent="twos"),
        )
    common = {"fan": fan, "member": plan[0].name, "within_ms": HOUR_MS if part.timed else None}
    steps = [step.model_copy(update=common) for step in plan]
    if part.undo:
        steps[-1] = steps[-1].model_copy(update={"undo": f"undoes-{kind}"})
    steps[0] = steps[0].model_copy(update={"weight": part.weight, "round": number, "specialist": kind, "label": root})
    return Member(steps=tuple(steps), value=f'"for {root}"'.encode(), fault="nobody\ncan" if refused else "")


@st.composite
def plans(draw: st.DrawFn) -> tuple[PlanStep, ...]:
    """A boss and the step that joins, perhaps with a step before or after them, perhaps in a flow of their own."""
    path = draw(st.sampled_from(["", "office/"]))
    names = [f"{path}boss", f"{path}join"]
    if path and draw(st.booleans()):
        names += ["second/boss", "second/join"]
    if draw(st.booleans()):
        names.insert(0, "before")
    if draw(st.booleans()):
        names.append("after")
    following = [*names[1:], None]
    steps = []
    for name, after in zip(names, following, strict=True):
        before = [each for each in names[: names.index(name)] if not each.endswith("join")]  # no flow begins there
        back = None if name.endswith("boss") or not before else draw(st.none() | st.sampled_from(before))
        steps.append(
            PlanStep(
                name=name,
                agent=f"agent-{name}",
                next=after,
                start=back,
                gated=not name.endswith("boss"),
                undo=draw(st.sampled_from([None, None, None, f"undoes-{name}"])),
                within_ms=draw(st.sampled_from([None, HOUR_MS])),
                delegates=name.endswith("boss"),
                joins=name.endswith("join"),
            )
        )
    return tuple(steps)


# Each is one choice of Hypothesis's, as examples have room for so many: the plainest first.
_KINDS: Final[tuple[Kind, ...]] = (
    *("work", "mixed", "flow", "work", "mixed", "team"),
    *("refused", "refused-flow", "refused-mixed"),
)
PARTS: Final = st.sampled_from(
    [
        Part(kind, weight, undo, timed)
        for weight, undo, timed in [(1000, False, False), (3000, False, True), (1000, True, False), (500, True, True)]
        for kind in _KINDS
    ]
)
_NEEDS: Final = ((100, True, False), (50, True, False), (40, False, False), (140, False, False), (100, True, True))
_OTHERWISE: Final[tuple[Otherwise, ...]] = ("degrade", "fail", "fail")
TERMS: Final = st.sampled_from(
    [
        (need, share, accept, otherwise, width, timed)
        for width, timed in [(3, False), (2, True), (1, False)]
        for need, share, accept in _NEEDS
        for otherwise in _OTHERWISE
    ]
)
WORKS: Final = st.one_of(
    *[st.builds(Work, st.lists(PARTS, min_size=least, max_size=6).map(tuple), TERMS) for least in (2, 0, 3, 4)]
)
# A boss mostly gives work out, a step that joins mostly answers.
DELEGATES: Final = st.integers(0, 7).flatmap(lambda number: st.none() if number == 7 else WORKS)
AGAIN: Final = st.integers(0, 2).flatmap(lambda number: WORKS if number == 1 else st.none())
ASKED: Final = st.one_of(st.just(Ask("complete")), st.just(Ask("complete")), ASKS)


@dataclass(frozen=True)
class Attempt:
    """An execution that was allowed to start, with what it will hand in, however often it does."""

    begun: Begun
    value: bytes
    ask: Ask
    accepted: bool
    fan: str = ""
    members: tuple[Member, ...] = ()
    terms: Terms | None = None

    @property
    def key(self) -> tuple[str, str, str]:
        """Where it belongs, and its fence."""
        return self.begun.run_id, self.begun.step.name, self.begun.fence
