"""Agents that fail, or are not let through, each with another last resort; and stages that can be undone."""

# ruff: noqa: ARG001  an agent takes an input, whatever it gives

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from pydantic import BaseModel

import orchestrator
from orchestrator import (
    Blackboard,
    Breaker,
    Cached,
    Concluded,
    Constant,
    Context,
    Conversation,
    Decision,
    Gate,
    Mail,
    Pipeline,
    RateLimit,
    Source,
    Stage,
    Wake,
    agent,
)

POLL = 0.02
LARGE = 4000


class Given(BaseModel):
    """What goes through; `text` says what is to happen."""

    text: str = ""


class Taken(BaseModel):
    """Which agent gave it."""

    by: str = ""


class Count(BaseModel):
    """What a stage within a stage takes."""

    number: int


NOTHING = Constant(Taken(by="constant"))


def opens(when_open: Any) -> Breaker:  # noqa: ANN401  each of the literals
    return Breaker(when_open=when_open, failures=1, cooldown=60.0)


async def word(ctx: Context, name: str) -> None:
    """Wait for the test to say it."""
    path = Path(os.environ["ACME_FLOOR"])
    while not (path / f"{ctx.run_id}.{name}").exists():  # noqa: ASYNC110  the word comes from another process
        await asyncio.sleep(POLL)


@agent("resorts.also-fails")
def also_fails(given: Given) -> Taken:
    raise ValueError(given.text)


@agent("resorts.fails", fallback=[also_fails, NOTHING])
def fails(given: Given) -> Taken:
    raise ValueError(given.text)


@agent("resorts.helpless", fallback=[also_fails])
def helpless(given: Given) -> Taken:
    raise ValueError(given.text)


@agent("resorts.anything")
def anything(given: Given) -> dict[str, Any]:
    return {"text": given.text, "more": given.text} if given.text != "odd" else {"text": 7}


@agent("resorts.picky", fallback=[Constant(Taken(by="constant"))])
def picky(given: Given) -> Taken:
    return Taken(by="x" * LARGE if given.text == "large" else "picky")


@agent("resorts.waits", breaker=opens("wait"), fallback=[NOTHING])
def waits(given: Given) -> Taken:
    return Taken(by="waits")


@agent("resorts.waits-alone", breaker=opens("auto"))
def waits_alone(given: Given) -> Taken:
    return Taken(by="waits-alone")


@agent("resorts.falls", breaker=opens("fallback"), fallback=[NOTHING])
def falls(given: Given) -> Taken:
    return Taken(by="falls")


@agent("resorts.falls-alone", breaker=opens("fallback"))
def falls_alone(given: Given) -> Taken:
    return Taken(by="falls-alone")


@agent("resorts.gives-up", breaker=opens("fail"), fallback=[NOTHING])
def gives_up(given: Given) -> Taken:
    return Taken(by="gives-up")


@agent("resorts.gives-up-alone", breaker=opens("fail"))
def gives_up_alone(given: Given) -> Taken:
    return Taken(by="gives-up-alone")


@agent("resorts.cheap", estimate=50)
def cheap(given: Given) -> Taken:
    return Taken(by="cheap")


@agent("resorts.dear", estimate=100, fallback=[cheap, Cached(), NOTHING])
def dear(ctx: Context, given: Given) -> Taken:
    ctx.spend(tokens=100)
    return Taken(by="dear")


@agent("resorts.too-large", estimate=lambda _: 500, rate=RateLimit(tokens=100), fallback=[NOTHING])
def too_large(given: Given) -> Taken:
    return Taken(by="too-large")


@agent("resorts.too-late", deadline=0.5, breaker=opens("wait"), fallback=[cheap, NOTHING])
async def too_late(given: Given) -> Taken:
    await asyncio.sleep(60)
    return Taken(by="too-late")


@agent("resorts.alone", estimate=100)
def alone(given: Given) -> Taken:
    return Taken(by="alone")


@agent("resorts.counts")
async def counts(given: Given) -> Count:
    return Count(number=len(given.text))


@agent("resorts.names")
async def names(count: Count) -> Taken:
    return Taken(by=f"names {count.number}")


@agent("resorts.numbers")
async def numbers(count: Count) -> Taken:
    return Taken(by=f"numbers {count.number}")


@agent("resorts.calls", fallback=[Cached(), numbers])
async def calls(count: Count) -> Taken:
    return Taken(by=f"calls {count.number}")


@agent("resorts.does")
async def does(given: Given) -> Given:
    return given


@agent("resorts.undoes", estimate=100)
async def undoes(ctx: Context, given: Given) -> Given:
    if given.text == "slowly":
        await word(ctx, "undo")
    return given


@agent("resorts.ends", estimate=100)
async def ends(ctx: Context, given: Given) -> Given:
    if given.text == "late":
        await word(ctx, "never")
    if given.text in {"slowly", "fail"}:
        raise ValueError(given.text)
    return given


@agent("resorts.parent", estimate=0)
async def parent(ctx: Context, given: Given) -> Given:
    return Given(text=await ctx.submit("resorts-dear", given))


ALONE = (
    fails,
    helpless,
    picky,
    waits,
    waits_alone,
    falls,
    falls_alone,
    gives_up,
    gives_up_alone,
    dear,
    too_large,
    too_late,
    alone,
    parent,
)


def odd(taken: Taken) -> Decision:
    """Let pass what is of an even number."""
    return Decision.ok() if int(taken.by[-1]) % 2 == 0 else Decision.fall_back("odd")


for last in (names, calls):
    inner = Pipeline(f"resorts-inner-{last.name[8:]}", [counts, Stage(last, name="last")])
    Pipeline(f"resorts-outer-{last.name[8:]}", [Stage(inner, gate=Gate(odd, fallback=also_fails))])


@agent("resorts.looks")
async def looks(wake: Wake[Given]) -> Count:
    return Count(number=len(wake.task.text))


@agent("resorts.writes")
async def writes(ctx: Context, wake: Wake[Given]) -> Taken:
    taken = Taken(by=wake.task.text)
    await ctx.board.write({"found": taken})
    return taken


@agent("resorts.hears")
async def hears(mail: Mail[Given]) -> Count:
    return Count(number=len(mail.body.text))


@agent("resorts.speaks")
async def speaks(mail: Mail[Given]) -> Taken:
    return Taken(by=mail.body.text)


@agent("resorts.concludes")
async def concludes(ctx: Context, taken: Taken) -> None:
    ctx.conclude(taken)


look = Pipeline("look", [Stage(Pipeline("look-inner", [looks, names]), gate=Gate(odd, fallback=writes))])
Blackboard(
    "resorts-board",
    task=Given,
    entries={"found": Taken},
    sources=[Source(look, watch="task")],
    goal=orchestrator.Count("found") > 0,
)
hear = Pipeline("hear", [Stage(Pipeline("hear-inner", [hears, names]), gate=Gate(odd, fallback=speaks)), concludes])
Conversation("resorts-talk", task=Given, members=[hear], until=Concluded("hear"))
part = Pipeline("resorts-inner-part", [counts, Stage(names, name="last")])
Pipeline("resorts-outer-part", [Stage(part, gate=Gate(odd, fallback=alone))])

for one in ALONE:
    Pipeline(one.name.replace(".", "-"), [Stage(one, name="only")])

Pipeline("resorts-odd", [anything, Stage(picky, name="only")])
Pipeline("resorts-rejected", [Stage(picky, name="only", gate=Gate(lambda _: False))])
Pipeline("resorts-undone", [Stage(does, name="book", undo=undoes), ends])
Pipeline("resorts-half", [does, Stage(does, name="book", undo=undoes, gate=Gate(lambda given: given.text != "no"))])
