"""Celeriac: multi-agent orchestration for production, on Celery and Redis."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from orchestrator.agent import Agent, Context, agent
from orchestrator.board.conditions import Condition, Count, Entry
from orchestrator.board.rules import Arbiter, HighestConfidence, LastWriter, Merge, Reject
from orchestrator.conversation.ends import Concluded, Consensus, Deadline, MaxTurns, Silence, Spent
from orchestrator.conversation.mail import Answer, Dispute, Mail, Motion, Returned, Ruling, Said
from orchestrator.conversation.resolving import Judge, PriorityOrder, RankedVote, Vote
from orchestrator.errors import (
    AgentFailed,
    BoardError,
    InvalidInput,
    KeyConflict,
    NoReply,
    OrchestratorError,
    PayloadTooLarge,
    RetryLater,
    RunCancelled,
    RunFailed,
    RunNotFound,
    UnknownFlow,
    WriteConflict,
)
from orchestrator.messages import Event, RunState, StepState
from orchestrator.patterns import (
    Announcement,
    Assignment,
    Award,
    Blackboard,
    BoardResult,
    Contract,
    ContractNet,
    Conversation,
    ConversationLimits,
    ConversationResult,
    Decision,
    Gate,
    Hierarchy,
    Join,
    Limits,
    Outcome,
    Peer,
    Pipeline,
    Plan,
    Proposal,
    Resolution,
    Results,
    Source,
    Specialist,
    Stage,
    Wake,
)
from orchestrator.resilience.breaker import Breaker
from orchestrator.resilience.budget import Budget, Spend
from orchestrator.resilience.fallback import Cached, Constant
from orchestrator.resilience.limit import Concurrency, RateLimit
from orchestrator.resilience.retry import Retry
from orchestrator.settings import Settings, get_settings

if TYPE_CHECKING:
    from orchestrator.board.handle import Board, Item
    from orchestrator.client import Client, Run

__all__ = [
    "Agent",
    "AgentFailed",
    "Announcement",
    "Answer",
    "Arbiter",
    "Assignment",
    "Award",
    "Blackboard",
    "Board",
    "BoardError",
    "BoardResult",
    "Breaker",
    "Budget",
    "Cached",
    "Client",
    "Concluded",
    "Concurrency",
    "Condition",
    "Consensus",
    "Constant",
    "Context",
    "Contract",
    "ContractNet",
    "Conversation",
    "ConversationLimits",
    "ConversationResult",
    "Count",
    "Deadline",
    "Decision",
    "Dispute",
    "Entry",
    "Event",
    "Gate",
    "Hierarchy",
    "HighestConfidence",
    "InvalidInput",
    "Item",
    "Join",
    "Judge",
    "KeyConflict",
    "LastWriter",
    "Limits",
    "Mail",
    "MaxTurns",
    "Merge",
    "Motion",
    "NoReply",
    "OrchestratorError",
    "Outcome",
    "PayloadTooLarge",
    "Peer",
    "Pipeline",
    "Plan",
    "PriorityOrder",
    "Proposal",
    "RankedVote",
    "RateLimit",
    "Reject",
    "Resolution",
    "Results",
    "Retry",
    "RetryLater",
    "Returned",
    "Ruling",
    "Run",
    "RunCancelled",
    "RunFailed",
    "RunNotFound",
    "RunState",
    "Said",
    "Settings",
    "Silence",
    "Source",
    "Specialist",
    "Spend",
    "Spent",
    "Stage",
    "StepState",
    "UnknownFlow",
    "Vote",
    "Wake",
    "WriteConflict",
    "agent",
    "get_settings",
]


def __getattr__(name: str) -> object:
    # A worker's module, or `celeriac --help`, does not pay for Celery and redis-py before it publishes anything.
    if name in {"Client", "Run"}:
        return getattr(import_module("orchestrator.client"), name)
    if name in {"Board", "Item"}:
        return getattr(import_module("orchestrator.board.handle"), name)
    raise AttributeError(name)
