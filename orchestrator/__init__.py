"""Celeriac: multi-agent orchestration for production, on Celery and Redis."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from orchestrator.agent import Agent, Context, agent
from orchestrator.errors import (
    AgentFailed,
    InvalidInput,
    KeyConflict,
    OrchestratorError,
    PayloadTooLarge,
    RetryLater,
    RunCancelled,
    RunFailed,
    RunNotFound,
    UnknownFlow,
)
from orchestrator.messages import Event, RunState, StepState
from orchestrator.patterns import (
    Assignment,
    Decision,
    Gate,
    Hierarchy,
    Join,
    Outcome,
    Pipeline,
    Plan,
    Results,
    Specialist,
    Stage,
)
from orchestrator.resilience.breaker import Breaker
from orchestrator.resilience.budget import Budget, Spend
from orchestrator.resilience.fallback import Cached, Constant
from orchestrator.resilience.limit import Concurrency, RateLimit
from orchestrator.resilience.retry import Retry
from orchestrator.settings import Settings, get_settings

if TYPE_CHECKING:
    from orchestrator.client import Client, Run

__all__ = [
    "Agent",
    "AgentFailed",
    "Assignment",
    "Breaker",
    "Budget",
    "Cached",
    "Client",
    "Concurrency",
    "Constant",
    "Context",
    "Decision",
    "Event",
    "Gate",
    "Hierarchy",
    "InvalidInput",
    "Join",
    "KeyConflict",
    "OrchestratorError",
    "Outcome",
    "PayloadTooLarge",
    "Pipeline",
    "Plan",
    "RateLimit",
    "Results",
    "Retry",
    "RetryLater",
    "Run",
    "RunCancelled",
    "RunFailed",
    "RunNotFound",
    "RunState",
    "Settings",
    "Specialist",
    "Spend",
    "Stage",
    "StepState",
    "UnknownFlow",
    "agent",
    "get_settings",
]


def __getattr__(name: str) -> object:
    # A worker's module, or `celeriac --help`, does not pay for Celery and redis-py before it publishes anything.
    if name in {"Client", "Run"}:
        return getattr(import_module("orchestrator.client"), name)
    raise AttributeError(name)
