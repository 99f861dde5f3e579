"""Agents that fail as they are told, each with another policy."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from orchestrator import (
    Assignment,
    Breaker,
    Cached,
    Concurrency,
    Constant,
    Context,
    Plan,
    RateLimit,
    Results,
    Retry,
    RetryLater,
    Spend,
    Wake,
    agent,
)

POLL = 0.02
SOON = Retry(max_attempts=4, base=0.02, cap=0.1, budget=None)


class Order(BaseModel):
    """What each attempt is to do, by its number; after the last it succeeds."""

    acts: list[str] = []
    note: str = ""


class Done(BaseModel):
    """Which agent did it, in which attempt."""

    by: str = ""
    attempt: int = 0
    acts: list[str] = []


def floor() -> Path:
    return Path(os.environ["ACME_FLOOR"])


def note(ctx: Context, what: str) -> None:
    """Leave a note: one more line in `<run>.<what>`."""
    with (floor() / f"{ctx.run_id}.{what}").open("a") as file:
        file.write(f"{os.getpid()} {time.monotonic():.3f}\n")


def told(ctx: Context) -> bool:
    return (floor() / f"{ctx.run_id}.go").exists() or (floor() / "all.go").exists()


@dataclass
class Response:
    """As much of an HTTP response as counts."""

    status_code: int
    headers: dict[str, str]


class StatusError(Exception):
    """What clients of HTTP raise: an error that carries the response."""

    def __init__(self, status: int, headers: dict[str, str] | None = None) -> None:
        super().__init__(f"HTTP {status}")
        self.response = Response(status, headers or {})


class MuteError(Exception):
    """What cannot say what is wrong."""

    def __str__(self) -> str:
        raise RuntimeError("mute")


def act(ctx: Context, order: Order) -> str:
    """Do what is due; return what an async agent has to wait for."""
    number = ctx.attempt - 1
    what, _, argument = (order.acts[number] if number < len(order.acts) else "ok").partition(" ")
    note(ctx, f"{ctx.step}")
    match what:
        case "ok" | "hang" | "beat" | "linger" | "deaf":
            ctx.spend(tokens=int(argument or 0))
            return what
        case "raise":
            raise ValueError(argument or "no")
        case "mute":
            raise MuteError
        case "status":
            raise StatusError(int(argument))
        case "later":
            raise RetryLater(float(argument), "not yet")
        case "pause":
            raise StatusError(429, {"retry-after": argument})
        case "spend":
            ctx.spend(tokens=int(argument))
            return "ok"
        case _:
            raise AssertionError(what)


async def perform(ctx: Context, order: Order, by: str) -> Done:
    what = act(ctx, order)
    while what != "ok" and not told(ctx):
        if what == "beat":
            ctx.heartbeat()
        if what == "linger" and ctx.cancelled:
            note(ctx, "saw-cancel")
            return Done(by=by, attempt=ctx.attempt)
        await asyncio.sleep(POLL)
    return Done(by=by, attempt=ctx.attempt, acts=order.acts)


@agent("trouble.bare")
async def bare(ctx: Context, order: Order) -> Done:
    return await perform(ctx, order, "bare")


@agent("trouble.simple")
def simple(ctx: Context, order: Order) -> Done:
    note(ctx, "simple")
    return Done(by="simple", attempt=ctx.attempt, acts=order.acts)


@agent("trouble.retried", retry=SOON)
async def retried(ctx: Context, order: Order) -> Done:
    return await perform(ctx, order, "retried")


@agent("trouble.hasty", retry=Retry(max_attempts=50, base=0.2, cap=0.2, total=1.0, budget=None))
async def hasty(ctx: Context, order: Order) -> Done:
    return await perform(ctx, order, "hasty")


@agent("trouble.thrifty", retry=Retry(max_attempts=3, base=0.01, cap=0.01, budget=0.0, floor=2.0))
async def thrifty(ctx: Context, order: Order) -> Done:
    return await perform(ctx, order, "thrifty")


@agent("trouble.falls", retry=Retry(max_attempts=2, base=0.02, cap=0.02, budget=None), fallback=["trouble.simple"])
async def falls(ctx: Context, order: Order) -> Done:
    return await perform(ctx, order, "falls")


@agent("trouble.remembers", fallback=[Cached(max_age=60.0, same_input=False), Constant(Done(by="constant"))])
async def remembers(ctx: Context, order: Order) -> Done:
    return await perform(ctx, order, "remembers")


@agent("trouble.fixed", fallback=[Constant({"by": "constant"})])
async def fixed(ctx: Context, order: Order) -> Done:
    return await perform(ctx, order, "fixed")


@agent("trouble.patient", breaker=Breaker(failures=2, window=30.0, cooldown=1.0), retry=SOON)
async def patient(ctx: Context, order: Order) -> Done:
    return await perform(ctx, order, "patient")


@agent("trouble.skips", breaker=Breaker(failures=2, window=30.0, cooldown=30.0), fallback=[simple])
async def skips(ctx: Context, order: Order) -> Done:
    return await perform(ctx, order, "skips")


@agent("trouble.narrow", concurrency=Concurrency(total=2, per_tenant=1))
async def narrow(ctx: Context, order: Order) -> Done:
    note(ctx, "in")
    done = await perform(ctx, order, "narrow")
    note(ctx, "out")
    return done


@agent("trouble.paced", rate=RateLimit(requests=10, per=1.0))
async def paced(ctx: Context, order: Order) -> Done:
    return await perform(ctx, order, "paced")


@agent("trouble.gated", rate=RateLimit(requests=1000, per=1.0, of="provider"), retry=SOON)
async def gated(ctx: Context, order: Order) -> Done:
    return await perform(ctx, order, "gated")


@agent("trouble.costly", estimate=Spend(tokens=100))
async def costly(ctx: Context, order: Order) -> Done:
    return await perform(ctx, order, "costly")


@agent("trouble.frugal", estimate=0)
async def frugal(ctx: Context, order: Order) -> Done:
    return await perform(ctx, order, "frugal")


@agent("trouble.cheaper", estimate=100, fallback=[frugal])
async def cheaper(ctx: Context, order: Order) -> Done:
    return await perform(ctx, order, "cheaper")


@agent("trouble.turn", estimate=100)
async def turn(ctx: Context, done: Done) -> Done:
    ctx.spend(tokens=100)
    return done


@agent("trouble.split")
async def split(order: Order) -> Plan:
    return Plan([Assignment(to="bare", input=Order(acts=[act])) for act in order.acts])


@agent("trouble.join")
async def join(results: Results[Order, Done]) -> Done:
    if results.task.note == "fail":
        raise ValueError(results.task.note)
    return Done(by=",".join(done.by for done in results.values))


@agent("trouble.look")
async def look(ctx: Context, wake: Wake[Order]) -> None:
    ctx.spend(tokens=10)
    await ctx.board.write({"found": await perform(ctx, wake.task, "look")})


@agent("trouble.idle", idle=0.4)
async def idle(ctx: Context, order: Order) -> Done:
    return await perform(ctx, order, "idle")


@agent("trouble.idle-sync", idle=0.4)
def idle_sync(ctx: Context, order: Order) -> Done:
    note(ctx, ctx.step)
    if "spend" in order.acts:
        ctx.spend(tokens=70)
    while not told(ctx):
        if "beat" in order.acts:
            ctx.heartbeat()
        time.sleep(POLL)
    return Done(by="idle-sync", attempt=ctx.attempt)


@agent("trouble.urgent", deadline=0.6, retry=Retry(max_attempts=100, base=0.1, cap=0.1, budget=None))
async def urgent(ctx: Context, order: Order) -> Done:
    note(ctx, f"has-{ctx.remaining() < 1.0}")
    return await perform(ctx, order, "urgent")


@agent("trouble.charge")
async def charge(ctx: Context, done: Done) -> Done:
    note(ctx, f"did-{ctx.step}")
    return Done(by=ctx.step, acts=done.acts)


@agent("trouble.refund", retry=SOON)
async def refund(ctx: Context, done: Done) -> Done:
    note(ctx, f"undid-{done.by}")
    if "refund-once" in done.acts and ctx.attempt == 1:
        msg = "the bank is closed"
        raise ConnectionError(msg)
    if f"never {done.by}" in done.acts:
        raise StatusError(410)
    return done


@agent("trouble.begin")
async def begin(order: Order) -> Done:
    return Done(by="begin", acts=order.acts)


@agent("trouble.end")
async def end(ctx: Context, done: Done) -> Done:
    if "hang" in done.acts:
        note(ctx, "hangs")
        while not told(ctx):  # noqa: ASYNC110  the word comes from another process
            await asyncio.sleep(POLL)
    if "fail" in done.acts:
        msg = "the end is no good"
        raise ValueError(msg)
    return done


@agent("trouble.parent")
async def parent(ctx: Context, order: Order) -> Done:
    child = await ctx.submit("trouble-bare", Order(acts=["hang"]), key="one")
    again = await ctx.submit("trouble-bare", Order(acts=["hang"]), key="one")
    (floor() / f"{ctx.run_id}.child").write_text(f"{child} {again}")
    if order.acts == ["fail"] and not told(ctx):
        msg = "the parent fails"
        raise ValueError(msg)
    while not told(ctx):  # noqa: ASYNC110
        await asyncio.sleep(POLL)
    return Done(by="parent")
