"""Conversations whose members do what a test's task tells them to."""

from __future__ import annotations

from pydantic import BaseModel

from orchestrator import (
    Concluded,
    Consensus,
    Context,
    Conversation,
    Deadline,
    Mail,
    MaxTurns,
    NoReply,
    Vote,
    agent,
)


class Task(BaseModel):
    """What is to be talked about, and how."""

    text: str = "what to do"
    how: str = ""
    rounds: int = 3


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
            reply = await ctx.ask("replier", Word(text=f"{mail.body.how}{number}"), within=2.0)
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
