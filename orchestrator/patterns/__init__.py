"""The orchestration patterns, one a module, built on agents and state alone."""

from orchestrator.patterns.blackboard import Blackboard, BoardResult, Limits, Proposal, Source, Wake
from orchestrator.patterns.contract_net import Announcement, Award, Contract, ContractNet
from orchestrator.patterns.conversation import (
    Conversation,
    ConversationLimits,
    ConversationResult,
    Peer,
    Resolution,
)
from orchestrator.patterns.delegation import Assignment, Join, Outcome, Plan, Results, Specialist
from orchestrator.patterns.flow import Flow, flows
from orchestrator.patterns.gate import Decision, Gate
from orchestrator.patterns.hierarchy import Hierarchy
from orchestrator.patterns.pipeline import Pipeline, Stage

__all__ = [
    "Announcement",
    "Assignment",
    "Award",
    "Blackboard",
    "BoardResult",
    "Contract",
    "ContractNet",
    "Conversation",
    "ConversationLimits",
    "ConversationResult",
    "Decision",
    "Flow",
    "Gate",
    "Hierarchy",
    "Join",
    "Limits",
    "Outcome",
    "Peer",
    "Pipeline",
    "Plan",
    "Proposal",
    "Resolution",
    "Results",
    "Source",
    "Specialist",
    "Stage",
    "Wake",
    "flows",
]
