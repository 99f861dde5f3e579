"""Acme's agents: each shows one thing that an agent may do to its worker."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from functools import partial
from typing import Any, cast

from orchestrator import Assignment, Context, Plan, Results, agent

from .documents import Doc, Draft, Exact, Report
from .floor import POLL, effect, note, told, wait_to_be_told


@agent("acme.first")
async def first(ctx: Context, doc: Doc) -> Doc:
    return doc.via(ctx.step)


@agent("acme.second")
def second(doc: Doc) -> Doc:
    return doc.via("second")


@agent("acme.third")
async def third(ctx: Context, doc: Doc) -> Report:
    return Report(text=doc.text, steps=len(doc.trail) + 1, tenant=ctx.tenant, tags=dict(ctx.tags))


@agent("acme.hold")
async def hold(ctx: Context, doc: Doc) -> Doc:
    """Hold the document until told to go; notes what becomes of it."""
    note(ctx, "started")
    try:
        await wait_to_be_told(ctx)
    except asyncio.CancelledError:
        note(ctx, "cancelled")
        raise
    finally:
        note(ctx, "finally")
    return doc.via(ctx.step)


@agent("acme.hold-sync")
def hold_sync(ctx: Context, doc: Doc) -> Doc:
    """Hold the document until told to go or until the run has ended."""
    note(ctx, "started")
    while not told(ctx):
        if ctx.cancelled:
            note(ctx, "saw-cancelled")
            break
        time.sleep(POLL)
    return doc.via(ctx.step)


@agent("acme.parked")
async def parked(ctx: Context, doc: Doc) -> Doc:
    """Do nothing of note; its queue gets a worker only when a test wants one."""
    return doc.via(ctx.step)


@agent("acme.slow")
async def slow(ctx: Context, doc: Doc) -> Doc:
    note(ctx, "slow")
    await asyncio.sleep(POLL)
    return doc.via(ctx.step)


@agent("acme.raiser")
def raiser(doc: Doc) -> Doc:
    msg = f"cannot work on {len(doc.text)} characters"
    raise ValueError(msg)


@agent("acme.liar")
async def liar(doc: Doc) -> Doc:
    return cast("Doc", cast("Any", {"text": len(doc.text)}))


@agent("acme.exact")
async def exact(doc: Exact) -> Doc:
    return Doc(text=doc.text, trail=doc.trail)


@agent("acme.late", timeout=0.3)
async def late(ctx: Context, doc: Doc) -> Doc:
    try:
        await asyncio.sleep(60)
    finally:
        note(ctx, "finally")
    return doc


@agent("acme.late-sync", timeout=1.0)
def late_sync(doc: Doc) -> Doc:
    time.sleep(60)
    return doc


@agent("acme.poison")
def poison(doc: Doc) -> Doc:
    """Kill whoever works on this: the process itself, or its parent."""
    os.kill(os.getppid() if doc.text == "parent" else os.getpid(), signal.SIGKILL)
    time.sleep(60)  # until the parent's death reaches its child
    return doc


@agent("acme.writer")
async def writer(ctx: Context, doc: Doc) -> Draft:
    before = ctx.draft
    return Draft(
        text=doc.text,
        version=ctx.revision,
        feedback=ctx.feedback,
        previous=before.version if isinstance(before, Draft) else -1,
        trail=(*doc.trail, ctx.step),
    )


@agent("acme.rules")
def rules(doc: Doc) -> Draft:
    """The simple writer that a gate falls back to."""
    return Draft(text=doc.text, version=0, by="rules", trail=doc.trail)


@agent("acme.editor")
async def editor(ctx: Context, draft: Draft) -> Draft:
    return draft.model_copy(update={"trail": (*draft.trail, ctx.step)})


@agent("acme.prepare")
async def prepare(ctx: Context, doc: Doc) -> Doc:
    """The first stage of a nested pipeline: passes on what its gate said, in the trail."""
    return Doc(text=doc.text, trail=(*doc.trail, "+".join((ctx.step, *ctx.feedback))))


@agent("acme.effect")
async def effect_async(ctx: Context, doc: Doc) -> Doc:
    effect(ctx)
    note(ctx, f"effect-{ctx.step}")
    return doc.via(ctx.step)


@agent("acme.effect-sync")
def effect_sync(ctx: Context, doc: Doc) -> Doc:
    effect(ctx)
    note(ctx, f"effect-{ctx.step}")
    return doc.via(ctx.step)


@agent("acme.labour")
async def labour(ctx: Context, doc: Doc) -> Doc:
    """Work for a while, with the effect in the middle of it."""
    await asyncio.sleep(POLL)
    effect(ctx)
    await asyncio.sleep(POLL)
    return doc.via(ctx.step)


def assignments(doc: Doc, number: int) -> list[Assignment]:
    """
    Return what a round gives out.

    The text says `specialist specialist:text | ...`, with `|` between the rounds. In a text for a specialist, which may
    be a boss itself, `,` and `;` stand for the space and the bar.
    """
    words = [word.partition(":") for word in doc.text.split("|")[number - 1].split()]
    return [Assignment(to=to, input=Doc(text=text.replace(",", " ").replace(";", "|"))) for to, _, text in words]


@agent("acme.boss")
def boss(ctx: Context, doc: Doc) -> Plan:
    effect(ctx)
    return Plan(assignments(doc, 1))


@agent("acme.sum")
def total(ctx: Context, results: Results[Doc, Doc]) -> Doc | Plan:
    """Give the next round out, or what came of all: by outcome, in the order of the plan."""
    effect(ctx)
    if results.round <= results.task.text.count("|"):
        return Plan(assignments(results.task, results.round + 1))
    return Doc(text=results.task.text, trail=tuple(f"{one.step} {one.status}" for one in results.outcomes))


def charge(ctx: Context) -> str:
    """Have an effect that must not be had again."""
    note(ctx, "charged")
    return f"charged-by-{os.getpid()}"


@agent("acme.careful")
async def careful(ctx: Context, doc: Doc) -> Doc:
    """Charge once, wait to be told, then record three things at once."""

    async def charge_slowly() -> str:
        await asyncio.sleep(POLL)
        return charge(ctx)

    async def number(count: int) -> str:
        await asyncio.sleep(POLL)
        return f"parallel-{count}"

    charged = await ctx.once("charge", charge_slowly)
    await wait_to_be_told(ctx)
    others = await asyncio.gather(*(ctx.once(f"parallel-{n}", partial(number, n)) for n in range(3)))
    return Doc(text=doc.text, trail=(charged, *others))


@agent("acme.careful-sync")
def careful_sync(ctx: Context, doc: Doc) -> Doc:
    """Do the same, and wait for nothing but the word."""
    charged = ctx.once("charge", lambda: charge(ctx))
    while not told(ctx):
        time.sleep(POLL)
    others = [ctx.once(name, partial(str, name)) for name in ("parallel-0", "parallel-1", "parallel-2")]
    return Doc(text=doc.text, trail=(charged, *others))
