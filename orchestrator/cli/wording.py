"""Runs, steps and events in words."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, cast

from orchestrator.cli.output import clock_time, duration
from orchestrator.cli.plain import plain
from orchestrator.messages import TURN, Event, RunState, StepState, Waiting

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


def _completed(data: Data) -> str:
    return "; ".join(part for part in ("partial" if data.get("partial") else "", _reason(data)) if part)


def _delayed(data: Data) -> str:
    return _until(cast("int", data["due_ms"]), str(data.get("why")))


def _until(due_ms: int, why: str | None) -> str:
    # Of who waits for its turn nobody knows when it comes; its timer is for what nobody foresees.
    return str(why) if str(why).startswith(TURN) else f"again at {clock_time(due_ms)}: {why}"


def _lost(data: Data) -> str:
    said = f"attempt {data.get('attempt')} on {data.get('worker')} stopped answering"
    return f"{said}; delayed {_delayed(data)}" if "due_ms" in data else said


def _undoing(data: Data) -> str:
    steps = cast("list[Data]", data.get("steps") or [])
    return f"{', '.join(str(step.get('undoes')) for step in steps)}: {_reason(data) or data.get('status')}"


def _delegated(data: Data) -> str:
    facts = cast("Data", data.get("facts") or {})
    return f"gave work to {facts.get('size')}, at most {facts.get('width')} at a time → {data.get('fan')}"


def _joined(data: Data) -> str:
    late = _late(data)
    failed = f", {data['failed']} failed" if data.get("failed") else ""
    why = f": {data['why']}" if data.get("why") else ""
    return f"{data.get('verdict')}: {data.get('good')} done{failed}{late}{why}"


def _names(listed: object) -> list[str]:
    return [str(name) for name in cast("list[object]", listed or [])]


def _late(data: Data) -> str:
    return f", {data['late']} late" if data.get("late") else ""


def _written(data: Data) -> str:
    entries = cast("dict[str, Data]", data.get("entries") or {})
    listed = [f"{name} (version {put.get('v')})" for name, put in entries.items()]
    return f"{data.get('by')} wrote {', '.join(listed)}"


def _redriven(data: Data) -> str:
    return f"by {data.get('agent')} with {data.get('input')}, asked for by {data.get('by') or 'nobody'}"


WITHOUT_RESULT: Final = frozenset({"failed", "cancelled"})
"""Of a run that ends so nothing is less than it should be: there is no result."""


def _message(data: Data) -> str:
    to = ", ".join(cast("list[str]", data.get("to") or ()))
    about = f" about {data['re']}" if data.get("re") else ""
    return f"{data.get('id')}: {data.get('kind')}{about} by {data.get('from') or 'nobody'}{f' to {to}' if to else ''}"


_DETAILS: Final[dict[str, Callable[[Data], str]]] = {
    "RunSubmitted": _submitted,
    "StepStarted": lambda data: f"attempt {data.get('attempt')} on {data.get('worker')}",
    "StepCompleted": _completed,
    "StepDelayed": _delayed,
    "EffectRecorded": lambda data: f"once: {data.get('name')}",
    "StepRevised": lambda data: f"sent back: {data.get('feedback')}",
    "StepFellBack": lambda data: f"to {data.get('agent')}: {data.get('reason')}",
    "StepWaiting": _waiting,
    "StepDecided": _decided,
    "StepLost": _lost,
    "StepRedispatched": lambda data: f"message sent again, {data.get('dispatches')} in all",
    "StepFailed": _reason,
    "StepDelegated": _delegated,
    "MembersAdded": lambda data: f"{len(cast('Data', data.get('steps') or {}))} steps",
    "FanOutJoined": _joined,
    "StepLate": lambda _: "the others had gone on without it; recorded, and of no use any more",
    "StepSpent": lambda data: f"{data.get('tokens', 0)} tokens in all, told when it had ended",
    "BoardOpened": lambda data: (
        f"open; watched by {', '.join(cast('list[str]', data.get('marked') or ())) or 'nobody'}"
    ),
    "EntriesWritten": _written,
    "SourceWoken": lambda data: f"wake {data.get('number')} of {data.get('source')}",
    "GoalReached": lambda data: f"reached by {data.get('by')}{_late(data)}",
    "BoardEnded": lambda data: f"{data.get('outcome')}: {data.get('why')}{_late(data)}",
    "ConversationOpened": lambda data: f"open; there are {', '.join(cast('list[str]', data.get('present') or ()))}",
    "TurnStarted": lambda data: f"turn {data.get('number')} of {data.get('peer')}, with message {data.get('id')}",
    "MessageSent": _message,
    "MessageReturned": lambda data: f"message {data.get('id')} does not reach {data.get('to')}: {data.get('why')}",
    "AskUnanswered": lambda data: f"message {data.get('id')} is not answered by {data.get('peer')}: {data.get('why')}",
    "MemberJoined": lambda data: f"{data.get('peer')}: {data.get('why')}",
    "MemberLeft": lambda data: f"{data.get('peer')}: {data.get('why')}",
    "WaitCycleFound": lambda data: f"{' waits for '.join(cast('list[str]', data.get('peers') or ()))}: not asked",
    "PingPongFound": lambda data: f"{' and '.join(cast('list[str]', data.get('peers') or ()))}: not delivered",
    "JudgeCalled": lambda data: f"{data.get('outcome')}: {data.get('why')}{_late(data)}",
    "ConversationEnded": lambda data: f"{data.get('outcome')}: {data.get('why')}{_late(data)}",
    "StepAsked": lambda data: f"{data.get('why')}",
    "RunUndoing": _undoing,
    "RunRedriven": _redriven,
    "RunCompleted": _completed,
    "RunFailed": _reason,
    "RunCancelled": _reason,
    "DeadLetterDropped": lambda data: f"by {data.get('by') or 'nobody'}",
}


def details(event: Event) -> str:
    """Return what an event tells beyond its type and step; one line, possibly empty."""
    tell = _DETAILS.get(event.type)
    return plain(tell(cast("Data", event.data))) if tell else ""


def _of(data: Data) -> str:
    return next((str(data[name]) for name in ("step", "fan", "board", "talk") if data.get(name)), "")


def step_of(event: Event) -> str:
    """Return the step an event is about, or an empty text."""
    return plain(_of(cast("Data", event.data)))


def current_step(state: RunState) -> str:
    """Return where a run is: the step at work, or how much of a fan-out has ended; or the step that failed."""
    if state.status in {"running", "waiting"}:
        for name, fan in state.fans.items():
            if fan.verdict is None and fan.size and _is_own(name):
                return plain(f"{name} ({fan.ended} of {fan.size})")
    for wanted in ("running", "waiting", "ready", "delayed", "failed"):
        if wanted == "failed" and state.status == "completed":
            return ""
        for step in state.steps:
            if step.status == wanted and _is_own(step.name):
                return plain(step.name)
    return ""


def _is_own(name: str) -> bool:
    """Tell whether a step is one of the flow itself, and no member of a fan-out or within one."""
    return "#" not in name


def took(state: RunState | StepState, now_ms: float | None = None) -> str:
    """Return how long a run, or a step's last attempt, took or has taken so far."""
    began = state.created_ms if isinstance(state, RunState) else state.started_ms
    if began is None or (isinstance(state, StepState) and state.status in {"pending", "ready"}):
        return ""
    if isinstance(state, StepState) and state.status in {"waiting", "delayed", "cancelled"}:
        return ""
    ended = state.ended_ms or now_ms or time.time() * 1000
    return duration((ended - began) / 1000)


def remark(step: StepState) -> str:
    """Return what is worth knowing of a step: a question, a decision, a reason; one line, possibly empty."""
    parts = []
    if step.due_ms is not None:
        parts.append(_until(step.due_ms, step.why))
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
    if step.undoes is not None:
        parts.append(f"undoes {step.undoes}")
    if step.undone:
        parts.append("undone")
    return plain("; ".join(parts))


def standing(state: RunState) -> str:
    """Return what is worth knowing of a run beside its status: a wait, a reason, a lesser result; one line."""
    parts = []
    if state.degraded and state.status not in WITHOUT_RESULT:
        parts.append("partial" if state.partial else "degraded")
    parts += [_until(step.due_ms, step.why) for step in state.steps if step.due_ms is not None and _is_own(step.name)]
    if state.waits and state.fans and not any(step.waiting for step in state.steps if _is_own(step.name)):
        parts.append(f"{state.waits} of its assignments wait for a person")
    if state.ending is not None:
        parts.append(f"ends as {state.ending.status}")
    reason = state.reason or (state.ending.reason if state.ending else None)
    if reason:
        parts.append(reason)
    return plain("; ".join(parts))


def spent(tokens: int, cost: float) -> str:
    """Return what was used, such as `1,200 tokens, cost 0.03`; an empty text where it is nothing."""
    parts = [f"{tokens:,} tokens" if tokens else "", f"cost {amount(cost)}" if cost else ""]
    return ", ".join(part for part in parts if part)


def amount(cost: float) -> str:
    """Return an amount of money, to the millionth, without zeros at its end."""
    return f"{cost:.6f}".rstrip("0").rstrip(".")


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


def how_to_go_on(state: RunState) -> list[str]:
    """Return what a run waits for and the commands that decide it, as lines; none if it waits for nobody."""
    until = [
        plain(f"{step.name} waits until {clock_time(waiting.until_ms)}, then: {waiting.default}")
        for step, waiting in asked(state)
    ]
    return until + [f"  {command}" for command in how_to_decide(state)]


def outcome(state: RunState, wanted: str) -> str:
    """
    Return what became of a run that somebody decided or cancelled, as a line.

    Args:
        state: of the run, read afterwards.
        wanted: "approved", "rejected" or "cancelled".
    """
    if state.status == wanted:
        return f"{state.id} {wanted}"
    return f"{state.id} {wanted}; it {_NOW[state.status]}"


_NOW: Final = {
    "queued": "is queued",
    "running": "goes on",
    "waiting": "waits for a person",
    "completed": "has completed",
    "failed": "has ended as failed",
    "cancelled": "is cancelled",
    "undoing": "is being undone",
}
