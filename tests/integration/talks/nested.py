"""Conversations within conversations and blackboards, and a hierarchy within one."""

from __future__ import annotations

from pydantic import BaseModel

from orchestrator import (
    Assignment,
    Blackboard,
    Concluded,
    Context,
    Conversation,
    Hierarchy,
    Mail,
    Peer,
    Plan,
    Results,
    Source,
    Wake,
    agent,
)


class Part(BaseModel):
    """A task."""

    number: int = 1


class Found(BaseModel):
    """What comes of it."""

    number: int = 0


@agent("nested.asker")
async def asker(ctx: Context, mail: Mail[Part]) -> None:
    talked = await ctx.ask("pair", Part(number=4 + mail.body.number), within=20.0)
    worked = await ctx.ask("team", Part(number=6), within=20.0)
    ctx.conclude(Found(number=100 * talked.decision.get(Found).number + worked.number))


@agent("nested.first")
def first(ctx: Context, mail: Mail[Mail[Part]]) -> None:
    if mail.body.sender == "asker":
        ctx.send("second", Found(number=mail.body.body.number))


@agent("nested.second")
def second(ctx: Context, mail: Mail[Found]) -> None:
    ctx.conclude(Found(number=mail.body.number + 1))


pair = Conversation("nested-pair", task=Mail[Part], members=[first, second], until=Concluded("second"))


@agent("nested.boss")
def boss(mail: Mail[Part]) -> Plan:
    return Plan([Assignment(to="work", input=mail.body), Assignment(to="work", input=Part())])


@agent("nested.work")
def work(part: Part) -> Found:
    return Found(number=part.number)


@agent("nested.join")
def join(results: Results[Mail[Part], Found]) -> Found:
    return Found(number=sum(found.number for found in results.values) + results.task.body.number)


team = Hierarchy("nested-team", boss=boss, workers=[work], synthesize=join)
around = Conversation(
    "nested-around",
    task=Part,
    members=[asker, Peer(pair, name="pair"), Peer(team, name="team")],
    until=Concluded("asker"),
)


@agent("nested.fill")
async def fill(ctx: Context, wake: Wake[Part]) -> None:
    await ctx.board.write({"a": Found(number=2 + wake.task.number)})


@agent("nested.seer")
def seer(ctx: Context, mail: Mail[Wake[Part]]) -> None:
    ctx.propose(Found(number=mail.body.number))


seers = Conversation("nested-seers", task=Wake[Part], members=[seer])
board = Blackboard(
    "nested-board",
    task=Part,
    entries={"a": Found},
    sources=[Source(fill, watch="task"), Source(seers, watch=["task", "a"])],
)
