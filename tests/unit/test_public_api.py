"""The names that `from orchestrator import ...` gives: added to on purpose only."""

from __future__ import annotations

import subprocess
import sys

import pytest

import orchestrator


def test_the_public_names_are_these() -> None:
    assert sorted(orchestrator.__all__) == [
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


@pytest.mark.parametrize("name", orchestrator.__all__)
def test_every_public_name_can_be_imported_and_is_documented(name: str) -> None:
    assert getattr(orchestrator, name).__doc__


def test_another_name_is_no_attribute() -> None:
    assert not hasattr(orchestrator, "nothing")


def test_a_module_of_agents_costs_neither_celery_nor_redis() -> None:
    # given a process that imports what a module of agents imports
    program = "import sys, orchestrator; print(sorted({'celery', 'kombu', 'redis'} & set(sys.modules)))"

    # when it runs
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)  # noqa: S603  ours

    # then the engine has not been loaded
    assert ran.stdout.strip() == "[]"
