"""Each agent shows one thing that an agent on a shared event loop may do."""

from __future__ import annotations

import asyncio
import os
import random
import time
from contextvars import ContextVar

import celery

from orchestrator import Assignment, Context, Plan, Results, agent

from .documents import Doc
from .floor import MANY_POLL, inside, note, told, wait_to_be_told
from .plain import observations

_gatherings: dict[str, tuple[set[str], asyncio.Event]] = {}


@agent("waiting.together", timeout=60.0)
async def together(ctx: Context, doc: Doc) -> Doc:
    """Wait until as many as the text says, `NAME NUMBER`, have begun in this process."""
    begun, all_here = _gatherings.setdefault(doc.text, (set(), asyncio.Event()))
    begun.add(ctx.run_id)
    if len(begun) >= int(doc.text.split()[1]):
        all_here.set()
    await all_here.wait()
    return doc


@agent("waiting.hold")
async def hold(ctx: Context, doc: Doc) -> Doc:
    """Wait for the word in the text; note what becomes of it."""
    note(ctx, "started")
    try:
        with inside.counted("hold"):
            await wait_to_be_told(ctx, doc.text)
    except asyncio.CancelledError:
        note(ctx, "cancelled")
        raise
    finally:
        note(ctx, "finally")
    return Doc(text=doc.text, number=inside.most["hold"])


@agent("waiting.many")
async def many(ctx: Context, doc: Doc) -> Doc:
    """The same for hundreds: no notes but one, and a look ten times a second."""
    with inside.counted("many"):
        await wait_to_be_told(ctx, doc.text, poll=MANY_POLL)
    return Doc(text=doc.text, number=os.getpid())


@agent("waiting.hold-sync")
def hold_sync(ctx: Context, doc: Doc) -> Doc:
    note(ctx, "started")
    with inside.counted("hold-sync"):
        while not told(ctx, doc.text):
            time.sleep(0.1)
    return Doc(text=doc.text, number=inside.most["hold-sync"])


@agent("waiting.quick")
async def quick(doc: Doc) -> Doc:
    await asyncio.sleep(0)
    return doc


@agent("waiting.quick-sync")
def quick_sync(doc: Doc) -> Doc:
    return doc


@agent("waiting.late", timeout=0.3)
async def late(ctx: Context, doc: Doc) -> Doc:
    try:
        await asyncio.sleep(60)
    finally:
        await asyncio.sleep(0.01)
        note(ctx, "finally")
    return doc


@agent("waiting.late-sync", timeout=0.3)
def late_sync(ctx: Context, doc: Doc) -> Doc:
    try:
        while not told(ctx, "enough"):
            time.sleep(0.02)
    finally:
        note(ctx, "finally")
    return doc


@agent("waiting.stubborn", timeout=0.3)
async def stubborn(ctx: Context, doc: Doc) -> Doc:
    """Do not let oneself be cancelled, until told."""
    note(ctx, "started")
    while not told(ctx, "enough"):
        try:
            await asyncio.sleep(0.1)
        except asyncio.CancelledError:
            note(ctx, "cancelled")
    return doc


own: ContextVar[str] = ContextVar("own", default="nobody's")


@agent("waiting.contexts", timeout=60.0)
async def contexts(ctx: Context, doc: Doc) -> Doc:
    """Say what was not this agent's own among context variables, those of its children, and Celery's current task."""
    me, wrong = ctx.run_id, []
    task = asyncio.current_task()

    def look(where: str, expected: str = me) -> None:
        if own.get() != expected:
            wrong.append(f"{where}: {own.get()} and not {expected}")

    def look_at_celery(where: str) -> None:
        current = celery.current_task
        if not current or current.request.kwargs != {"run": me, "step": ctx.step}:
            wrong.append(f"{where}: Celery's current task is {current.request.kwargs if current else None}")
        if asyncio.current_task() is not task:
            wrong.append(f"{where}: asyncio's current task is another")

    async def child(name: str) -> None:
        look(name)
        own.set(f"{me} {name}")
        await asyncio.sleep(random.random() / 50)  # noqa: S311  any order will do
        look(name, f"{me} {name}")

    look("at first", "nobody's")
    own.set(me)
    look_at_celery("at first")
    for _ in range(3):
        await asyncio.sleep(random.random() / 50)  # noqa: S311
        look("after a sleep")
        look_at_celery("after a sleep")
        await asyncio.gather(child("gathered"), child("gathered too"))
        look("after a gather")
        await asyncio.create_task(child("a task"))
        async with asyncio.TaskGroup() as group:
            group.create_task(child("of a group"))
            group.create_task(child("of a group too"))
        look("after a group")
        look_at_celery("after a group")
        if await asyncio.to_thread(own.get) != me:
            wrong.append("in a thread")
        look_at_celery("after a thread")
    return Doc(text=doc.text, said=tuple(wrong))


@agent("waiting.contexts-sync")
def contexts_sync(ctx: Context, doc: Doc) -> Doc:
    """Say what it found in a context variable before it set it."""
    found = own.get()
    own.set(ctx.run_id)
    time.sleep(0.02)
    return Doc(text=doc.text, said=(found, own.get()))


@agent("waiting.children")
async def children(doc: Doc) -> Doc:
    """Say whose Celery task children are part of."""

    async def child() -> str:
        seen = {_current_step()}
        for _ in range(3):
            await asyncio.sleep(0.005)
            seen.add(_current_step())
        return ", ".join(sorted(seen))

    async with asyncio.TaskGroup() as group:
        member = group.create_task(child())
    return Doc(text=doc.text, said=(*await asyncio.gather(child(), child()), member.result(), _current_step()))


def _current_step() -> str:
    task = celery.current_task
    return str(task.request.kwargs["run"]) if task else "no Celery task"


@agent("waiting.plain")
async def plain(doc: Doc) -> Doc:
    return Doc(text=doc.text, said=await observations())


@agent("waiting.blocker")
async def blocker(doc: Doc) -> Doc:
    time.sleep(0.8)  # noqa: ASYNC251  what it is here for
    return doc


def blocks() -> None:
    time.sleep(0.8)


@agent("waiting.parent")
async def parent(doc: Doc) -> Doc:
    async def child() -> None:
        await asyncio.sleep(0)
        blocks()

    await asyncio.create_task(child())
    return doc


@agent("waiting.hog")
async def hog(ctx: Context, doc: Doc) -> Doc:
    note(ctx, "started")
    time.sleep(300)  # noqa: ASYNC251  what it is here for
    return doc


@agent("waiting.busy")
async def busy(doc: Doc) -> Doc:
    """Work a lot, and let go of the loop all the time."""
    until = time.monotonic() + 0.8
    steps = 0
    while time.monotonic() < until:
        sum(range(5000))
        await asyncio.sleep(0)
        steps += 1
    return Doc(text=doc.text, number=steps)


class OwnBaseError(BaseException):
    """Not an Exception: what some extension modules raise."""


@agent("waiting.raiser")
async def raiser(doc: Doc) -> Doc:
    """Raise what the text says."""
    await asyncio.sleep(0.01)
    return _raise(doc)


def _raise(doc: Doc) -> Doc:
    match doc.text:
        case "SystemExit":
            raise SystemExit(3)
        case "KeyboardInterrupt":
            raise KeyboardInterrupt
        case "CancelledError":
            raise asyncio.CancelledError
        case "BaseExceptionGroup":
            raise BaseExceptionGroup("a group", [SystemExit(3), ValueError("x")])
        case "OwnBaseError":
            raise OwnBaseError("mine")
    return doc


@agent("waiting.child-raiser")
async def child_raiser(doc: Doc) -> Doc:
    """Raise what the text says, in a child, which the agent awaits."""
    return await asyncio.create_task(_raise_later(doc))


@agent("waiting.group-raiser")
async def group_raiser(doc: Doc) -> Doc:
    """Raise what the text says, in a child of a task group."""
    async with asyncio.TaskGroup() as group:
        group.create_task(_raise_later(doc))
    return doc


@agent("waiting.forgetter")
async def forgetter(doc: Doc) -> Doc:
    """Raise what the text says, in a child that nobody awaits."""
    child = asyncio.create_task(_raise_later(doc))
    await asyncio.wait([child])
    return doc


async def _raise_later(doc: Doc) -> Doc:
    await asyncio.sleep(0.01)
    return _raise(doc)


@agent("waiting.ticker")
async def ticker(ctx: Context, doc: Doc) -> Doc:
    """Count short sleeps while the word `away` is said and `back` is not."""
    note(ctx, "started")
    await wait_to_be_told(ctx, "away")
    ticks = 0
    while not told(ctx, "back"):
        await asyncio.sleep(0.05)
        ticks += 1
    note(ctx, "counted")
    return Doc(text=doc.text, number=ticks)


@agent("waiting.threaded")
async def threaded(ctx: Context, doc: Doc) -> Doc:
    """Await a thread that does not end by itself."""
    note(ctx, "started")
    try:
        await asyncio.to_thread(time.sleep, 300)
    finally:
        note(ctx, "finally")
    return doc


@agent("waiting.boss")
async def boss(doc: Doc) -> Plan:
    """Give work to who is to be found: a router of the hierarchy's says who that is."""
    return Plan([Assignment(input=doc)])


@agent("waiting.whole")
async def whole(results: Results[Doc, Doc]) -> Doc:
    return Doc(text=results.outcomes[0].status, number=len(results.values))
