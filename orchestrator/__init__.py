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
    RunCancelled,
    RunFailed,
    RunNotFound,
    UnknownFlow,
)
from orchestrator.messages import Event, RunState, StepState
from orchestrator.patterns import Decision, Gate, Pipeline, Stage
from orchestrator.settings import Settings, get_settings

if TYPE_CHECKING:
    from orchestrator.client import Client, Run

__all__ = [
    "Agent",
    "AgentFailed",
    "Client",
    "Context",
    "Decision",
    "Event",
    "Gate",
    "InvalidInput",
    "KeyConflict",
    "OrchestratorError",
    "PayloadTooLarge",
    "Pipeline",
    "Run",
    "RunCancelled",
    "RunFailed",
    "RunNotFound",
    "RunState",
    "Settings",
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
