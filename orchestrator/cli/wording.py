"""Runs, steps and events in words."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, cast

from orchestrator.cli.output import duration
from orchestrator.messages import Event, RunState, StepState, Waiting

Data = dict[str, object]


def _submitted(data: Data) -> str:
    steps = cast("list[object]", data.get("steps", []))
    tags = cast("dict[str, str]", data.get("tags") or {})
    return ", ".join(
        [f"flow {data.get('flow')}", f"{len(steps)} steps", *(f"{name}={text}" for name, text in tags.items())]
    )


def _waiting(data: Data) -> str:
    asked = cast("Data", data.get("waiting") or {})
    return str(asked.get("question", ""))


def _decided(data: Data) -> str:
    decision = cast("Data", data.get("decision") or {})
    note = f": {decision['note']}" if decision.get("note") else ""
    return f"{decision.get('choice')} by {decision.get('by') or 'nobody'}{note}"


def _reason(data: Data) -> str:
    return str(data.get("reason") or "")


_DETAILS: Final[dict[str, Callable[[Data], str]]] = {
    "RunSubmitted": _submitted,
    "StepStarted": lambda data: f"attempt {data.get('attempt')} on {data.get('worker')}",
    "StepRevised": lambda data: f"sent back: {data.get('feedback')}",
    "StepFellBack": lambda data: f"to {data.get('agent')}: {data.get('reason')}",
    "StepWaiting": _waiting,
    "StepDecided": _decided,
    "StepLost": lambda data: f"attempt {data.get('attempt')} on {data.get('worker')} stopped answering",
    "StepRedispatched": lambda data: f"message sent again, {data.get('dispatches')} in all",
    "StepFailed": _reason,
    "RunFailed": _reason,
    "RunCancelled": _reason,
}


def details(event: Event) -> str:
    """Return what an event tells beyond its type and step; one line, possibly empty."""
    tell = _DETAILS.get(event.type)
    return " ".join(tell(cast("Data", event.data)).split()) if tell else ""


def step_of(event: Event) -> str:
    """Return the step an event is about, or an empty text."""
    return str(event.data.get("step", ""))


def current_step(state: RunState) -> str:
    """Return where a run is: the step at work, or the one that failed."""
    for wanted in ("running", "waiting", "ready", "failed"):
        for step in state.steps:
            if step.status == wanted:
                return step.name
    return ""


def took(state: RunState | StepState, now_ms: float | None = None) -> str:
    """Return how long a run, or a step's last attempt, took or has taken so far."""
    began = state.created_ms if isinstance(state, RunState) else state.started_ms
    if began is None or (isinstance(state, StepState) and state.status in {"pending", "ready"}):
        return ""
    if isinstance(state, StepState) and state.status in {"waiting", "cancelled"}:
        return ""
    ended = state.ended_ms or now_ms or time.time() * 1000
    return duration((ended - began) / 1000)


def remark(step: StepState) -> str:
    """Return what is worth knowing of a step: a question, a decision, a reason; one line, possibly empty."""
    parts = []
    if step.waiting is not None:
        parts.append(step.waiting.question or "waits for a decision")
    if step.decision is not None:
        note = f": {step.decision.note}" if step.decision.note else ""
        parts.append(f"{step.decision.choice} by {step.decision.by}{note}")
    if step.revision:
        parts.append(f"revision {step.revision}")
    if step.degraded:
        parts.append("by the fallback")
    if step.reason:
        parts.append(step.reason)
    return "; ".join(parts)


def asked(state: RunState) -> list[tuple[StepState, Waiting]]:
    """Return the steps that wait for a person."""
    return [(step, step.waiting) for step in state.steps if step.waiting is not None]


def how_to_decide(state: RunState) -> list[str]:
    """Return the commands that decide what a run waits for."""
    return [
        f"celeriac runs {choice} {state.id} --step {step.name} --note '...'"
        for step, _ in asked(state)
        for choice in ("approve", "reject")
    ]
