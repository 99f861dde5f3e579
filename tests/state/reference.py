"""What a run does, said as plainly as possible: the reference that the Lua scripts are compared with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orchestrator.messages import Choice, FailureKind, PlanStep, RunStatus, StepStatus
    from orchestrator.state.runs import Verdict

LIVE = frozenset({"queued", "running", "waiting", "undoing"})
UNFINISHED = frozenset({"pending", "ready", "running", "delayed", "waiting"})
REPLIES: dict[Verdict, str] = {"revise": "again", "fallback": "again", "wait": "waiting", "partial": "finished"}


@dataclass
class ReferenceStep:
    """
    A step; `fence` names the attempt that may commit, `committed` what each one that did was told.

    `due`: whether the timer of a delayed step has rung, or the time of a waiting one is over; `late`: whether the step
    should be done by now; `own`: what it took before a fallback took something else in its place; `earlier`: what it
    gave, and in which revision, when a later gate sent it back, to be undone.
    """

    name: str
    agent: str
    plan: PlanStep | None
    next: str | None
    status: StepStatus = "pending"
    attempt: int = 0
    begins: int = 0
    revision: int = 0
    sent_back: int = 0
    losses: int = 0
    rung: int = 0
    tokens: int = 0
    degraded: bool = False
    instead_of: str | None = None
    feedback: tuple[str, ...] = ()
    value: bytes | None = None
    own: bytes | None = None
    output: bytes | None = None
    draft: bytes | None = None
    fence: str | None = None
    recorded: dict[tuple[int, bool, str], bytes] = field(default_factory=dict)
    effects: int = 0
    committed: dict[str, str] = field(default_factory=dict)
    due: bool = False
    late: bool = False
    default: Choice = "reject"
    waits_with_fallback: str | None = None
    waits_accepted: bool = False
    undoes: str | None = None
    undone: bool = False
    earlier: list[tuple[bytes, int]] = field(default_factory=list)

    def give_back(self) -> None:
        """Let it be its first agent's again, with what that one took."""
        self.agent, self.instead_of = self.instead_of or self.agent, None
        self.value, self.own = self.value if self.own is None else self.own, None

    @property
    def first(self) -> str:
        """Where its gate sends the run back to."""
        return self.plan.start or self.name if self.plan else self.name

    @property
    def within_ms(self) -> int | None:
        """The time it has."""
        return self.plan.within_ms if self.plan else None

    @property
    def ended(self) -> bool:
        """Whether nothing more happens to it unless somebody takes something back."""
        return self.status not in UNFINISHED


@dataclass(frozen=True)
class Ask:
    """What a commit comes with, by its verdict. `reason`: why its output is not what it should be."""

    verdict: Verdict
    feedback: str = ""
    agent: str | None = None
    default: Choice = "reject"
    wait_over: bool = False
    reason: str = ""
    tokens: int = 0


@dataclass(frozen=True)
class Later:
    """
    What a step is given back with.

    Attributes:
        due: whether it may run again at once, not only in an hour.
        counts: whether it was an attempt.
        too_late: whether an hour is more than it has.
    """

    due: bool
    counts: bool
    too_late: bool = False
    tokens: int = 0


@dataclass(frozen=True)
class Ending:
    """How a run ends when what it did is undone."""

    status: RunStatus
    kind: FailureKind | None = None


class ReferenceRun:
    """
    One run.

    Args:
        name: its id.
        plan: its steps in order.
        value: its input.
        max_losses: of workers in one revision of a step, until it has failed.
        parent: the run whose step submitted it.
    """

    def __init__(
        self,
        name: str,
        plan: tuple[PlanStep, ...],
        value: bytes,
        *,
        max_losses: int,
        parent: ReferenceRun | None = None,
    ) -> None:
        self.name = name
        self.steps = {step.name: ReferenceStep(step.name, step.agent, step, step.next) for step in plan}
        self.order = [step.name for step in plan]
        self.status: RunStatus = "queued"
        self.overdue: bool = parent is not None and parent.overdue
        self.lasts_longer = False
        self.output: bytes | None = None
        self.kind: FailureKind | None = None
        self.failed_at: str | None = None
        self.partial = False
        self.parent = parent
        self.budgets: tuple[str, ...] = (name, *(parent.budgets if parent else ()))
        self.children: list[ReferenceRun] = []
        if parent is not None:
            parent.children.append(self)
        self.ends_children = False
        self.is_orphan = False
        self._ending: Ending | None = None
        self._recorded: dict[tuple[str | None, int], dict[tuple[int, bool, str], bytes]] = {}
        self._max_losses = max_losses
        self._ready(self.order[0], value)

    @property
    def current(self) -> ReferenceStep | None:
        """The step that is ready, running, delayed or waiting."""
        return next((step for step in self.steps.values() if step.status in UNFINISHED - {"pending"}), None)

    @property
    def may_have_children(self) -> bool:
        """Whether its steps may submit runs."""
        return self.status in LIVE and self.status != "undoing"

    def _ended_above(self) -> str:
        """Return the nearest run above this one that has ended without completing, or an empty text."""
        parent = self.parent
        if parent is None:
            return ""
        ended = parent.status in {"failed", "cancelled", "undoing"}
        return parent.name if ended else parent._ended_above()  # noqa: SLF001  its own kind

    # Workers

    def begin(self, name: str, agent: str, fence_of: str) -> str:
        """Deliver a message; `fence_of` is its nonce."""
        step = self.steps.get(name)
        if step is None:
            return "gone"
        if step.status == "completed":
            return "done"
        if self.status not in LIVE or self.overdue or step.ended or (not step.undoes and self._ended_above()):
            return "closed"
        if step.status == "running":
            return "execute" if step.fence == f"{step.begins}-{fence_of}" else "held"
        if refused := "early" if step.status != "ready" else "moved" if step.agent != agent else "late" * step.late:
            return refused
        step.attempt, step.begins, step.status = step.attempt + 1, step.begins + 1, "running"
        step.fence = f"{step.begins}-{fence_of}"
        if self.status != "undoing":
            self.status = "running"
        return "execute"

    def owns(self, name: str, fence: str) -> Literal["yes", "stale", "closed"]:
        """Tell whether an attempt may still write."""
        step = self.steps.get(name)
        if self.status not in LIVE or (step is not None and step.status == "cancelled"):
            return "closed"
        return "yes" if step and step.status == "running" and step.fence == fence else "stale"

    def has_committed(self, name: str, fence: str) -> bool:
        """Tell whether an attempt has handed in its output."""
        step = self.steps.get(name)
        return step is not None and fence in step.committed

    def record(self, name: str, fence: str, key: tuple[int, bool, str], value: bytes) -> bytes | str:
        """Record a sub-step's result, by revision, whether it is the fallback's, and name."""
        if (owns := self.owns(name, fence)) != "yes":
            return owns
        step = self.steps[name]
        step.effects += key not in step.recorded
        return step.recorded.setdefault(key, value)

    def commit(self, name: str, fence: str, value: bytes, ask: Ask) -> str:
        """Hand in an output."""
        step = self.steps.get(name)
        if step is None:
            return "closed"
        if fence in step.committed:
            return step.committed[fence]
        if (owns := self.owns(name, fence)) != "yes":
            return owns
        step.output = value
        step.tokens += ask.tokens
        step.committed[fence] = REPLIES.get(ask.verdict, "")
        if ask.verdict == "complete":
            step.degraded = step.degraded or bool(ask.reason)
            step.committed[fence] = self._complete(step)
        elif ask.verdict == "partial" and step.undoes:
            step.output = None
            step.committed[fence] = "next" if self._fail(step, None) == "undoing" else "finished"
        elif ask.verdict == "partial":
            step.status, step.degraded = "cancelled", False
            self.output, self.partial = value, True
            self._finish("completed", None)
        elif ask.verdict == "wait":
            step.status = self.status = "waiting"
            step.due, step.default, step.waits_with_fallback = ask.wait_over, ask.default, ask.agent
        elif ask.verdict == "fallback":
            self._fall_back(step, ask.agent or "", self.steps[step.first].value or b"")
        else:
            self._revise(step, ask.feedback)
        return step.committed[fence]

    def fail(self, name: str, fence: str, tokens: int) -> str:
        """Report that a handler failed."""
        step = self.steps.get(name)
        if step is None:
            return "closed"
        if step.status == "failed" and step.fence == fence:
            return "undoing" if self.status == "undoing" else "failed"
        if (owns := self.owns(name, fence)) != "yes":
            return owns
        step.tokens += tokens
        return self._fail(step, "failed")

    def postpone(self, name: str, fence: str, later: Later) -> str:
        """Give a step back."""
        step = self.steps.get(name)
        if step is None or self.status not in LIVE:
            return "closed"
        if step.status == "delayed" and step.fence == fence:
            return "delayed"
        if (owns := self.owns(name, fence)) != "yes":
            return owns
        if later.counts and (self.overdue or step.late or later.too_late):
            return "late"
        step.attempt -= not later.counts
        step.tokens += later.tokens
        step.status, step.due = "delayed", later.due
        return "delayed"

    def degrade(self, name: str, fence: str, agent: str, rung: int, tokens: int) -> str:
        """Give a step that failed to another agent."""
        step = self.steps.get(name)
        if step is None or self.status not in LIVE:
            return "closed"
        if step.status == "ready" and (step.fence, step.rung) == (fence, rung):
            return "again"
        if (owns := self.owns(name, fence)) != "yes":
            return owns
        step.rung = rung
        step.tokens += tokens
        self._fall_back(step, agent, (step.value if step.own is None else step.own) or b"")
        return "again"

    # People

    def decide(self, name: str, choice: Choice | None) -> str:
        """Settle a gate; None is its timer's."""
        step = self.steps[name]
        if refused := self._refused(step, choice):
            return refused
        choice = choice or step.default
        self.status = "running"
        if choice == "approve":
            return self._complete(step, accepted=step.waits_accepted)
        if choice == "fallback":
            self._fall_back(step, step.waits_with_fallback or "", self.steps[step.first].value or b"")
            return "again"
        return "undoing" if self._fail(step, None) == "undoing" else "rejected"

    def _refused(self, step: ReferenceStep, choice: Choice | None) -> str:
        if self.status not in LIVE:
            return "closed"
        if step.status != "waiting":
            return "not waiting"
        if choice is None and not step.due:
            return "early"
        lacking = (choice or step.default) == "fallback" and step.waits_with_fallback is None
        return "no fallback" if lacking else ""

    def cancel(self) -> str:
        """Cancel the run."""
        if not self.may_have_children:
            return "closed"
        return self._finish("cancelled", None)

    def orphan(self) -> str:
        """Cancel the run where its parent has ended."""
        ended = self.parent is not None and self.parent.status in {"failed", "cancelled", "undoing"}
        if not self.may_have_children or not ended:
            return "closed"
        self.is_orphan = True
        return self._finish("cancelled", None)

    @property
    def is_void(self) -> bool:
        """Whether its parent, which goes on, gets another run where it submits this one again."""
        goes_on = self.parent is not None and self.parent.may_have_children
        return self.is_orphan and goes_on and self.status in {"cancelled", "undoing"}

    def redrive(self, name: str, value: bytes | None, agent: str) -> tuple[str, str]:
        """Let the run go on from a step; empty: the first that is not done, or was undone."""
        own = [step for step in self.steps.values() if not step.undoes]
        open_ = [step.name for step in own if step.status != "completed" or step.undone]
        named, name = bool(name), name or next(iter(open_), "")
        if refused := self._refused_redrive(name, named=named, changed=value is not None or agent != ""):
            return refused
        index = self.order.index(name)
        if value is None and (self.steps[name].value is None or set(open_) & set(self.order[:index])):
            return "no input", name
        self._recorded |= {(step.undoes, step.revision): step.recorded for step in self.steps.values() if step.undoes}
        self._hand_over_what_undid()
        self.steps = {step.name: step for step in own}
        self.order = list(self.steps)
        first, *others = own[index:]
        self._reset(first, anew=first.status == "completed" or value is not None or agent != "")
        for step in others:
            self._reset(step, anew=step.begins > 0)
            step.value = None
        self.status, self.overdue, self.lasts_longer = "running", False, True
        self.kind, self.failed_at, self.ends_children = None, None, False
        first.agent = agent or first.agent
        self._ready(name, first.value if value is None else value)
        return "redriven", name

    def _hand_over_what_undid(self) -> None:
        """Keep in the run's account what was used by steps that will be no more."""
        for step in self.steps.values():
            if step.undoes:
                self.steps[step.undoes].tokens += step.tokens

    def _refused_redrive(self, name: str, *, named: bool, changed: bool) -> tuple[str, str] | None:
        if self.status != "failed":
            return "not failed", ""
        if above := self._ended_above():
            return "orphan", above
        if name not in self.steps or self.steps[name].undoes:
            return "no step", name
        if not named and changed and self._is_for_another(name):
            return "elsewhere", name
        undone = [each for each in self.order[: self.order.index(name)] if self.steps[each].undone]
        return ("undone", undone[0]) if undone else None

    def _is_for_another(self, name: str) -> bool:
        """Tell whether what is given without a step is for what failed, and the run goes on at another one."""
        if self.kind and self.failed_at:
            return name != self.failed_at
        return self.steps[name].status == "completed"

    @staticmethod
    def _reset(step: ReferenceStep, *, anew: bool) -> None:
        step.revision += anew
        step.give_back()
        step.status, step.attempt, step.losses, step.rung, step.sent_back = "pending", 0, 0, 0, 0
        step.output = step.draft = None
        step.degraded = step.undone = step.late = False
        step.earlier = []

    def drop(self) -> str:
        """Give a dead letter up."""
        if self.kind is None:
            return "closed"
        self.kind = None
        return "dropped"

    # The caretaker

    def lost(self, name: str, *, expired: bool) -> str:
        """Look at a lease."""
        step = self.steps[name]
        if self.status not in LIVE or step.status != "running":
            return "closed"
        if not expired:
            return "held"
        step.losses += 1
        if step.losses >= self._max_losses:
            return self._fail(step, "poison")
        step.status, step.due = ("ready" if step.losses == 1 else "delayed"), False
        return step.status

    def wake(self, name: str, *, turn: bool) -> str:
        """Look at a delayed step, or let it go on because it is its turn."""
        step = self.steps[name]
        if self.status not in LIVE or step.ended or step.status == "pending":
            return "closed"
        if step.status != "delayed":
            return "waiting" if step.status == "waiting" else "busy"
        if not (turn or step.due):
            return "early"
        step.status = "ready"
        return "ready"

    def overrun(self, name: str) -> str:
        """Look at the time by which a step must be done."""
        step = self.steps[name]
        if self.status not in LIVE or step.ended or step.status == "pending" or not step.within_ms:
            return "closed"
        return self._fail(step, "deadline") if step.late else "early"

    def expire(self) -> str:
        """Look at the run's deadline."""
        if self.status not in LIVE:
            return "closed"
        if not self.overdue:
            return "early"
        return self._finish("failed", "undo" if self.status == "undoing" else "deadline")

    def due(self) -> set[str | None]:
        """Return its timers that have rung, as the caretaker sees them."""
        found: set[str | None] = {"/"} if self.ends_children else set()
        if self.status in LIVE and self.overdue:
            found.add(None)
        for step in self.steps.values():
            if step.status in {"delayed", "waiting"} and step.due:
                found.add(step.name)
            if step.late and not step.ended:
                found.add(f"/{step.name}")
        return found

    # What follows

    def _ready(self, name: str, value: bytes | None) -> None:
        step = self.steps[name]
        step.status, step.value = "ready", value

    def _complete(self, step: ReferenceStep, *, accepted: bool = False) -> str:  # noqa: ARG002  of fan-outs
        step.status = "completed"
        if step.undoes:
            self._take_back(self.steps[step.undoes], step.revision)
        if step.next:
            self._ready(step.next, self.steps[step.next].value if step.undoes else step.output)
            return "next"
        if step.undoes:
            self._end_undoing()
        else:
            self.output = step.output
            self._finish("completed", None)
        return "finished"

    @staticmethod
    def _take_back(step: ReferenceStep, revision: int) -> None:
        step.earlier = [one for one in step.earlier if one[1] != revision]
        step.undone = step.undone or step.revision == revision or step.status != "completed"

    def _fail(self, step: ReferenceStep, kind: FailureKind | None) -> str:
        """Return what the caller is told: `failed` or `undoing`."""
        step.status, self.failed_at = "failed", step.name
        if not step.undoes:
            return "undoing" if self._finish("failed", kind) == "undoing" else "failed"
        self._ending = Ending("failed", "undo")
        if step.next:
            self._ready(step.next, self.steps[step.next].value)
            return "undoing"
        self._end_undoing()
        return "failed"

    def _end_undoing(self) -> None:
        if self._ending is not None:
            self._finish(self._ending.status, self._ending.kind)

    def _finish(self, status: RunStatus, kind: FailureKind | None) -> str:
        """End the run, and with it what is unfinished; or undo what was done first."""
        for step in self.steps.values():
            if not step.ended:
                step.status = "cancelled"
        if status != "completed":
            self.ends_children = self.ends_children or bool(self.children)
            undo = self._to_be_undone(reversed(self.steps.values()))
            if undo and self.status != "undoing":
                self._undo(undo, Ending(status, kind))
                return "undoing"
        self.status, self.kind, self._ending = status, kind, None
        return "cancelled"

    @staticmethod
    def _to_be_undone(steps: Iterable[ReferenceStep]) -> list[ReferenceStep]:
        """Return what undoes what these steps did, in all their revisions, the last first."""
        found = []
        for step in steps:
            agent = step.plan.undo if step.plan else None
            if agent is None:
                continue
            done = [(f"{step.name}~undo@{revision}", output, revision) for output, revision in step.earlier]
            if step.status == "completed" and not step.undone:
                done.append((f"{step.name}~undo", step.output or b"", step.revision))
            found += [
                ReferenceStep(name, agent, None, None, value=output, undoes=step.name, revision=revision)
                for name, output, revision in reversed(done)
            ]
        return found

    def _undo(self, steps: list[ReferenceStep], ending: Ending) -> None:
        self.status, self.overdue, self.lasts_longer, self._ending = "undoing", False, True, ending
        for step, after in zip(steps, [*steps[1:], None], strict=True):
            step.next = after.name if after else None
            # Where the same doing was to be undone before, what was recorded then counts.
            step.recorded = self._recorded.get((step.undoes, step.revision), {})
            self.steps[step.name] = step
            self.order.append(step.name)
        self._ready(steps[0].name, steps[0].value)

    def _fall_back(self, step: ReferenceStep, agent: str, value: bytes) -> None:
        step.instead_of = step.instead_of or step.agent
        step.own = step.value if step.own is None else step.own
        step.agent, step.degraded, step.attempt, step.losses, step.output, step.draft = agent, True, 0, 0, None, None
        self._ready(step.name, value)

    @staticmethod
    def _keep_for_undo(step: ReferenceStep) -> None:
        if step.plan and step.plan.undo and step.status == "completed":
            step.earlier.append((step.output or b"", step.revision))

    def _revise(self, gated: ReferenceStep, feedback: str) -> None:
        first = self.steps[gated.first]
        begin, end = self.order.index(first.name), self.order.index(gated.name)
        first.draft = gated.output if first is gated else None
        first.feedback += (feedback,)
        for name in self.order[begin : end + 1]:
            step = self.steps[name]
            self._keep_for_undo(step)
            step.status, step.attempt, step.revision, step.losses, step.rung = "pending", 0, step.revision + 1, 0, 0
            step.give_back()
            step.degraded = step.late = False
            step.sent_back = step.sent_back + 1 if step is gated else 0
        gated.output = None
        first.status = "ready"
