"""Conversations whose members do what a test's task tells them to."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from pydantic import BaseModel

from orchestrator import (
    Announcement,
    Award,
    Concluded,
    Consensus,
    Context,
    ContractNet,
    Conversation,
    ConversationLimits,
    Deadline,
    Mail,
    MaxTurns,
    NoReply,
    Peer,
    Pipeline,
    Returned,
    Vote,
    agent,
)


class Task(BaseModel):
    """What is to be talked about, and how."""

    text: str = "what to do"
    how: str = ""
    rounds: int = 3
    within: float = 2.0


class Idea(BaseModel):
    """Something that is proposed."""

    text: str


class Doubt(BaseModel):
    """Why not."""

    text: str


class Word(BaseModel):
    """Something that is told or asked."""

    text: str
    left: int = 0


@agent("talks.author")
def author(ctx: Context, mail: Mail[Task | Doubt]) -> None:
    text = mail.body.text if isinstance(mail.body, Task) else f"but {mail.body.text}"
    ctx.propose(Idea(text=text))


@agent("talks.critic")
async def critic(ctx: Context, mail: Mail[Idea]) -> None:
    if mail.body.text.startswith("but"):
        ctx.accept(mail)
    else:
        ctx.reject(mail, Doubt(text="why?"))


debate = Conversation(
    "talks-debate", task=Task, members=[author, critic], until=Consensus(1.0) | MaxTurns(12), resolve=Vote()
)


@agent("talks.asker")
async def asker(ctx: Context, mail: Mail[Task]) -> None:
    words = []
    for number in range(mail.body.rounds):
        try:
            reply = await ctx.ask("replier", Word(text=f"{mail.body.how}{number}"), within=mail.body.within)
        except NoReply as error:
            words.append(error.why)
        else:
            words.append(reply.text)
    ctx.conclude(Idea(text=" ".join(words)))


@agent("talks.replier")
def replier(mail: Mail[Word]) -> Word | None:
    if mail.body.text.startswith("none"):
        return None
    if mail.body.text.startswith("fail"):
        raise ValueError("no idea")
    return Word(text=f"re{mail.body.text}")


questions = Conversation(
    "talks-questions", task=Task, members=[asker, replier], until=Concluded("asker") | Deadline(30.0)
)


# What goes wrong in conversations, planted.

LEDGER = Path(os.environ.get("ACME_LEDGER", "."))


def note(ctx: Context, what: str) -> None:
    """Leave an entry in the external ledger, which is there once however often this is done."""
    path = LEDGER / f"{ctx.run_id}.{ctx.step}.{what}"
    if not path.is_symlink():
        path.symlink_to(f"{ctx.run_id} {ctx.step} {what}")


@agent("talks.circle")
async def circle(ctx: Context, mail: Mail[Task | Word]) -> Word:
    """Whoever is asked asks the next one first; the third asks the first one, who waits."""
    following = {"one": "two", "two": "three", "three": "one"}[ctx.step.partition("#")[0]]
    try:
        reply = await ctx.ask(following, Word(text="and you?"), within=20.0)
    except NoReply as error:
        said = f"{ctx.step.partition('#')[0]}: {error.why}"
    else:
        said = reply.text
    if isinstance(mail.body, Task):
        ctx.conclude(Word(text=said))
    return Word(text=said)


wait_cycle = Conversation(
    "talks-wait-cycle",
    task=Task,
    members=[Peer(circle, name="one"), Peer(circle, name="two"), Peer(circle, name="three")],
    until=Concluded("one"),
)


@agent("talks.echo")
def echo(ctx: Context, _: Mail[Task | Word]) -> None:
    other = "pong" if ctx.step.startswith("ping") else "ping"
    ctx.send(other, Word(text="you!"))


ping_pong = Conversation(
    "talks-ping-pong",
    task=Task,
    members=[Peer(echo, name="ping"), Peer(echo, name="pong")],
    limits=ConversationLimits(volleys=6),
)


@agent("talks.parked")
def parked(mail: Mail[Word]) -> Word:
    """Nobody serves its queue."""
    return mail.body


@agent("talks.silent")
async def silent(mail: Mail[Word]) -> Word:
    await asyncio.sleep(60)
    return mail.body


@agent("talks.patient")
async def patient(ctx: Context, _: Mail[Task]) -> None:
    answers = await ctx.ask_all(["silent", "parked", "replier"], Word(text="!"), within=1.0)
    said = {name: answer.why or answer.body.text for name, answer in answers.items()}
    ctx.conclude(Idea(text=" ".join(f"{name}={word}" for name, word in sorted(said.items()))))


silence = Conversation(
    "talks-silent", task=Task, members=[patient, silent, parked, replier], until=Concluded("patient")
)


@agent("talks.voter")
async def voter(ctx: Context, mail: Mail[Task | Idea]) -> None:
    """Each says what its name begins with, twice, first the other way round."""
    own = ctx.step.partition("#")[0]
    if isinstance(mail.body, Task):
        if own.startswith("chair"):
            ctx.propose(Idea(text="left"))
            ctx.propose(Idea(text="right"))
        return
    ideas = {motion.body.text: motion for motion in await ctx.proposals()}
    if len(ideas) == 2 and mail.body.text == "right":
        wish = "left" if own.startswith("left") else "right"
        ctx.accept(ideas["right" if wish == "left" else "left"])
        ctx.vote(ideas[wish])


tie = Conversation(
    "talks-tie",
    task=Task,
    members=[
        Peer(voter, name="chair", weight=0),
        *(Peer(voter, name=name) for name in ("left-1", "left-2", "right-1", "right-2")),
    ],
    resolve=Vote(ties="latest"),
)


# A contract whose best bidders fail.


class Load(BaseModel):
    """What is to be carried."""

    tons: float = 1.0


class Offer(BaseModel):
    """What it costs."""

    price: float


class Done(BaseModel):
    """By whom."""

    by: str


@agent("talks.carrier")
async def carrier(ctx: Context, mail: Mail[Announcement[Load] | Award[Load, Offer]]) -> Offer | Done | None:
    own = ctx.step.partition("#")[0]
    if isinstance(mail.body, Announcement):
        return None if own == "full" else Offer(price={"broken": 1.0, "dead": 2.0, "shy": 3.0, "good": 4.0}[own])
    match own:
        case "broken":
            raise ValueError("out of order")
        case "dead":
            await asyncio.sleep(60)
        case "shy":
            return None
    return Done(by=own)


net = ContractNet(
    "talks-net",
    task=Load,
    bid=Offer,
    report=Done,
    contractors=[Peer(carrier, name=name) for name in ("full", "good", "shy", "dead", "broken")],
    rank=lambda offer: offer.price,
    bids_within=10.0,
    work_within=1.0,
)


# Four members and twelve turns, whose every message is in an external ledger.


@agent("talks.round")
def round_robin(ctx: Context, mail: Mail[Task | Word]) -> None:
    own = ctx.step.partition("#")[0]
    note(ctx, f"{mail.id}")
    left = mail.body.rounds if isinstance(mail.body, Task) else mail.body.left
    if left > 1:
        ring = ["a", "b", "c", "d"]
        ctx.send(ring[(ring.index(own) + 1) % 4], Word(text=f"{own} {left}", left=left - 1))
    else:
        ctx.propose(Idea(text="enough"), to=[])


ring = Conversation(
    "talks-ring",
    task=Task,
    members=[Peer(round_robin, name=name) for name in "abcd"],
    resolve=Vote(),
    limits=ConversationLimits(turns=100),
)


# A member that is a pipeline, one that joins and one that leaves.


@agent("talks.draft")
def draft(ctx: Context, mail: Mail[Word]) -> Word:
    ctx.send("author", Doubt(text="a moment"))
    return Word(text=f"draft of {mail.body.text}")


@agent("talks.finish")
def finish(word: Word) -> Word:
    return Word(text=f"{word.text}, finished")


writers = Pipeline("talks-writers", [draft, finish])


@agent("talks.guest")
async def guest(ctx: Context, mail: Mail[Task | Word | Returned | Doubt]) -> None:
    """Invites an expert, asks the writers, and hears of what could not be delivered."""
    if isinstance(mail.body, Returned):
        ctx.conclude(Idea(text=f"{mail.body.why} {mail.body.to}"))
    elif isinstance(mail.body, Task):
        ctx.send("expert", Word(text="too early"))
        ctx.invite("helper", Word(text="come"))
        text = (await ctx.ask("talks-writers", Word(text="all"))).text
        ctx.propose(Idea(text=text))


@agent("talks.helper")
def helper(ctx: Context, mail: Mail[Word | Idea]) -> None:
    if isinstance(mail.body, Idea):
        ctx.accept(mail)
        ctx.leave()


party = Conversation(
    "talks-party",
    task=Task,
    members=[
        Peer(guest, name="author"),
        writers,
        Peer(helper, name="helper", present=False),
        Peer(helper, name="expert", present=False, joins=MaxTurns(100)),
    ],
    until=Concluded("author"),
)


@agent("talks.mute")
def mute(mail: Mail[Task]) -> None:
    """Says nothing."""


muteness = Conversation("talks-mute", task=Task, members=[mute], resolve=Vote())
