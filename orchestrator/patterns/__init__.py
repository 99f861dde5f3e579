"""The orchestration patterns, one a module, built on agents and state alone."""

from orchestrator.patterns.flow import Flow, flows
from orchestrator.patterns.gate import Decision, Gate
from orchestrator.patterns.pipeline import Pipeline, Stage

__all__ = ["Decision", "Flow", "Gate", "Pipeline", "Stage", "flows"]
