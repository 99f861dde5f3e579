"""A flow for each agent."""

from __future__ import annotations

from orchestrator import Pipeline

from .agents import bare, guarded

guarded_flow = Pipeline("guarded", [guarded])
bare_flow = Pipeline("bare", [bare])
