"""The flow: four members who argue, and an agent that writes down what they have come to."""

from __future__ import annotations

from orchestrator import Consensus, Conversation, Deadline, MaxTurns, Pipeline, Stage, Vote
from workers.research.critic import critic
from workers.research.fact_checker import fact_checker
from workers.research.models import Answer, Question
from workers.research.proposer import proposer
from workers.research.publish import publish
from workers.research.scribe import scribe

WITHIN = 600.0  # s, after which the answer is what most of them are for
TURNS = 150

debate = Conversation(
    "research.debate",
    task=Question,
    members=[proposer, critic, fact_checker, scribe],
    until=Consensus(1.0) | MaxTurns(TURNS) | Deadline(WITHIN),
    resolve=Vote(),
    # Claims are argued about on the way; all four are for an answer, and for nothing else.
    decides=[Answer],
)
research = Pipeline("research", [Stage(debate, name="debate"), publish])
