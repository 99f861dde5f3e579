"""What a run does, said as plainly as possible: the reference that the Lua scripts are compared with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from orchestrator.messages import Choice, PlanStep, RunStatus, StepStatus
    from orchestrator.state.runs import Verdict

LIVE = frozenset({"queued", "running", "waiting"})
UNFINISHED = frozenset({"pending", "ready", "running", "waiting"})
REPLIES: dict[Verdict, str] = {"revise": "again", "fallback": "again", "wait": "waiting"}


@dataclass
class ReferenceStep:
    """A step; `fence` names the attempt that may commit, `committed` what each one that did was told."""

    plan: PlanStep
    agent: str
    status: StepStatus = "pending"
    attempt: int = 0
    begins: int = 0
    revision: int = 0
    sent_back: int = 0
    degraded: bool = False
    feedback: tuple[str, ...] = ()
    value: bytes = b""
    output: bytes | None = None
    draft: bytes | None = None
    fence: str | None = None
    recorded: dict[tuple[int, bool, str], bytes] = field(default_factory=dict)
    committed: dict[str, str] = field(default_factory=dict)
    wait_over: bool = False
    default: Choice = "reject"
    waits_with_fallback: str | None = None


@dataclass(frozen=True)
class Ask:
    """What a commit comes with, by its verdict."""

    verdict: Verdict
    feedback: str = ""
    agent: str | None = None
    default: Choice = "reject"
    wait_over: bool = False


class ReferenceRun:
    """
    One run.

    Args:
        plan: its steps in order.
        value: its input.
        max_attempts: begins of one step, at most.
    """

    def __init__(self, plan: tuple[PlanStep, ...], value: bytes, *, max_attempts: int) -> None:
        self.steps = {step.name: ReferenceStep(step, step.agent) for step in plan}
        self.order = [step.name for step in plan]
        self.status: RunStatus = "queued"
        self.overdue = False
        self.output: bytes | None = None
        self._max_attempts = max_attempts
        self._ready(self.order[0], value)

    @property
    def current(self) -> ReferenceStep | None:
        """The step that is ready, running or waiting."""
        return next((step for step in self.steps.values() if step.status in UNFINISHED - {"pending"}), None)

    def begin(self, name: str, agent: str, fence_of: str) -> str:
        """Deliver a message; `fence_of` is its nonce."""
        step = self.steps.get(name)
        if step is None:
            return "gone"
        if step.status == "completed":
            return "done"
        if self.status not in LIVE or self.overdue:
            return "closed"
        if step.status != "ready":
            again = step.status == "running" and step.fence == f"{step.begins}-{fence_of}"
            return "execute" if again else "held" if step.status == "running" else "early"
        if step.agent != agent:
            return "moved"
        step.attempt, step.begins, step.status = step.attempt + 1, step.begins + 1, "running"
        step.fence = f"{step.begins}-{fence_of}"
        self.status = "running"
        return "execute"

    def owns(self, name: str, fence: str) -> Literal["yes", "stale", "closed"]:
        """Tell whether an attempt may still write."""
        step = self.steps[name]
        if self.status not in LIVE:
            return "closed"
        return "yes" if step.status == "running" and step.fence == fence else "stale"

    def record(self, name: str, fence: str, key: tuple[int, bool, str], value: bytes) -> bytes | str:
        """Record a sub-step's result, by revision, whether it is the fallback's, and name."""
        owns = self.owns(name, fence)
        return self.steps[name].recorded.setdefault(key, value) if owns == "yes" else owns

    def commit(self, name: str, fence: str, value: bytes, ask: Ask) -> str:
        """Hand in an output."""
        step = self.steps[name]
        if fence in step.committed:
            return step.committed[fence]
        if (owns := self.owns(name, fence)) != "yes":
            return owns
        step.output = value
        if ask.verdict == "complete":
            step.committed[fence] = self._complete(step)
            return step.committed[fence]
        step.committed[fence] = REPLIES[ask.verdict]
        if ask.verdict == "wait":
            step.status = self.status = "waiting"
            step.wait_over, step.default, step.waits_with_fallback = ask.wait_over, ask.default, ask.agent
        elif ask.verdict == "fallback":
            self._fall_back(step, ask.agent or "")
        else:
            self._revise(step, ask.feedback)
        return step.committed[fence]

    def fail(self, name: str, fence: str) -> str:
        """Report that a handler failed."""
        step = self.steps[name]
        if step.status == "failed" and step.fence == fence:
            return "failed"
        if (owns := self.owns(name, fence)) != "yes":
            return owns
        return self._fail(step)

    def decide(self, name: str, choice: Choice | None) -> str:
        """Settle a gate; None is its timer's."""
        step = self.steps[name]
        if refused := self._refused(step, choice):
            return refused
        choice = choice or step.default
        self.status = "running"
        if choice == "approve":
            return self._complete(step)
        if choice == "fallback":
            self._fall_back(step, step.waits_with_fallback or "")
            return "again"
        self._fail(step)
        return "rejected"

    def _refused(self, step: ReferenceStep, choice: Choice | None) -> str:
        if self.status not in LIVE:
            return "closed"
        if step.status != "waiting":
            return "not waiting"
        if choice is None and not step.wait_over:
            return "early"
        lacking = (choice or step.default) == "fallback" and step.waits_with_fallback is None
        return "no fallback" if lacking else ""

    def lost(self, name: str, *, expired: bool) -> str:
        """Let the caretaker look at a lease."""
        step = self.steps[name]
        if self.status not in LIVE or step.status != "running":
            return "closed"
        if not expired:
            return "held"
        if step.attempt >= self._max_attempts:
            return self._fail(step)
        step.status = "ready"
        return "ready"

    def end(self, status: RunStatus) -> None:
        """End the run, and with it what is unfinished."""
        self.status = status
        for step in self.steps.values():
            if step.status in UNFINISHED:
                step.status = "cancelled"

    def _ready(self, name: str, value: bytes) -> None:
        step = self.steps[name]
        step.status, step.value = "ready", value

    def _complete(self, step: ReferenceStep) -> str:
        step.status = "completed"
        if step.plan.next:
            self._ready(step.plan.next, step.output or b"")
            return "next"
        self.output = step.output
        self.end("completed")
        return "finished"

    def _fail(self, step: ReferenceStep) -> str:
        step.status = "failed"
        self.end("failed")
        return "failed"

    def _fall_back(self, step: ReferenceStep, agent: str) -> None:
        step.agent, step.degraded, step.attempt, step.output, step.draft = agent, True, 0, None, None
        self._ready(step.plan.name, self.steps[step.plan.start or step.plan.name].value)

    def _revise(self, gated: ReferenceStep, feedback: str) -> None:
        first = self.steps[gated.plan.start or gated.plan.name]
        begin, end = self.order.index(first.plan.name), self.order.index(gated.plan.name)
        first.draft = gated.output if first is gated else None
        first.feedback += (feedback,)
        for name in self.order[begin : end + 1]:
            step = self.steps[name]
            step.status, step.attempt, step.revision = "pending", 0, step.revision + 1
            step.agent, step.degraded = step.plan.agent, False
            step.sent_back = step.sent_back + 1 if step is gated else 0
        gated.output = None
        first.status = "ready"
