"""The research flow with less time."""

from __future__ import annotations

from orchestrator import Consensus, Conversation, Deadline, MaxTurns, Pipeline, Stage, Vote
from workers.research.critic import critic
from workers.research.fact_checker import fact_checker
from workers.research.models import Answer, Question
from workers.research.proposer import proposer
from workers.research.publish import publish
from workers.research.scribe import scribe

hurry = Conversation(
    "hurried.debate",
    task=Question,
    members=[proposer, critic, fact_checker, scribe],
    until=Consensus(1.0) | MaxTurns(150) | Deadline(2.0),
    resolve=Vote(),
    decides=[Answer],
)
hurried = Pipeline("hurried", [Stage(hurry, name="debate"), publish])
