"""What the benchmark of conversations runs: members that answer each other, and a plain task that does nothing."""

from __future__ import annotations

import os

from celery import Celery
from pydantic import BaseModel

from orchestrator import Context, Conversation, ConversationLimits, Mail, Peer, agent

MEMBERS = 50
plain = Celery("chatter", broker=os.environ.get("BENCH_URL"), backend=os.environ.get("BENCH_URL"))
plain.conf.update(task_default_queue="chatter-plain", broker_connection_retry_on_startup=True)


class Start(BaseModel):
    """How often each message is answered."""

    answers: int


class Word(BaseModel):
    """A message; `left`: how often it is to be answered yet."""

    left: int


@agent("chatter.member")
def member(ctx: Context, mail: Mail[Start | Word]) -> None:
    """Say something to all others one by one, and answer what others say."""
    if isinstance(mail.body, Start):
        own = ctx.step.rpartition("#")[0]
        for number in range(MEMBERS):
            if f"m{number}" != own:
                ctx.send(f"m{number}", Word(left=mail.body.answers))
    elif mail.body.left:
        ctx.send(mail.sender, Word(left=mail.body.left - 1))


chatter = Conversation(
    "chatter",
    task=Start,
    members=[Peer(member, name=f"m{number}") for number in range(MEMBERS)],
    opening=[f"m{number}" for number in range(MEMBERS)],
    limits=ConversationLimits(turns=10_000),
)


@plain.task(name="chatter.nothing")  # type: ignore[untyped-decorator]  # Celery has no types
def nothing(number: int) -> int:
    """Do nothing."""
    return number
