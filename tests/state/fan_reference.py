"""What a run with fan-outs does, said as plainly as possible; what all runs do is in reference.py."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import takewhile
from typing import TYPE_CHECKING, Final

from tests.state.reference import LIVE, Ending, ReferenceRun, ReferenceStep

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from orchestrator.messages import FailureKind, JoinVerdict, Member, MemberOutcome, PlanStep, RunStatus, Terms
    from tests.state.reference import Ask

FAN: Final = b"what the members gave"
"""In place of the value that a step takes where a fan-out's members come together."""
ACTIVE: Final = frozenset({"ready", "running", "delayed", "waiting"})
SHORT: Final = frozenset({"missed", "overdue"})


@dataclass
class Assigned:
    """A member; `names` are its own steps. Without an outcome it has not ended, or is late."""

    names: tuple[str, ...]
    weight: int
    round: int
    value: bytes
    refused: bool
    opened: bool = False
    outcome: MemberOutcome | None = None
    answer: bytes | None = None

    @property
    def root(self) -> str:
        """What the names of all its steps begin with."""
        head, _, tail = self.names[0].rpartition("#")
        return f"{head}#{tail.partition('/')[0]}"

    def has(self, name: str) -> bool:
        """Whether a step is one of its own, or of those that work for it."""
        return name == self.root or name.startswith(f"{self.root}/")


@dataclass
class Fan:
    """A fan-out; without terms nothing is given out now. `due`: whether its time is over."""

    name: str
    terms: Terms | None = None
    total: int = 0
    round: int = 0
    task: bytes | None = None
    members: list[Assigned] = field(default_factory=list)
    verdict: JoinVerdict | None = None
    degraded: bool = False
    due: bool = False

    @property
    def current(self) -> list[Assigned]:
        """The members of this round."""
        return [member for member in self.members if member.round == self.round]

    def count(self, *outcomes: MemberOutcome) -> int:
        """Count members of this round by how they ended."""
        return sum(member.outcome in outcomes for member in self.current)

    def weigh(self, *outcomes: MemberOutcome) -> int:
        """Weigh them."""
        return sum(member.weight for member in self.current if member.outcome in outcomes)

    @property
    def ended(self) -> int:
        """How many have ended."""
        return self.count("ok", "degraded", "failed")

    @property
    def in_flight(self) -> int:
        """How many are at work."""
        return sum(member.opened and member.outcome is None for member in self.current)

    def decide(self) -> JoinVerdict | None:
        """Tell what it has come to, if it has."""
        assert self.terms is not None
        if not self.current:
            return "met"
        all_ended = self.ended == len(self.current)
        if self.terms.accept:
            return "missed" if all_ended else None
        measure = self.weigh if self.terms.share else self.count
        if measure("ok", "degraded") >= self.terms.need:
            return "met"
        whole = sum(member.weight for member in self.current) if self.terms.share else len(self.current)
        hopeless = self.terms.otherwise == "fail" and whole - measure("failed") < self.terms.need
        return "missed" if all_ended or hopeless else None


class FanRun(ReferenceRun):
    """A run with fan-outs."""

    def __init__(self, name: str, plan: tuple[PlanStep, ...], value: bytes, *, max_losses: int) -> None:
        super().__init__(name, plan, value, max_losses=max_losses)
        self.spine = [step.name for step in plan]
        self.fans: dict[str, Fan] = {}

    @property
    def status(self) -> RunStatus:
        """A run waits as long as one of its steps waits for a person."""
        if self._status in {"running", "waiting"}:
            return "waiting" if any(step.status == "waiting" for step in self.steps.values()) else "running"
        return self._status

    @status.setter
    def status(self, status: RunStatus) -> None:
        self._status: RunStatus = status

    @property
    def active(self) -> list[str]:
        """The steps that something can happen to."""
        return [step.name for step in self.steps.values() if step.status in ACTIVE]

    def open_fans(self) -> list[Fan]:
        """Return the fan-outs whose members are at work."""
        if self.status not in LIVE or self.status == "undoing":
            return []
        return [fan for fan in self.fans.values() if fan.terms and not fan.verdict and self._pending(fan.name)]

    def _pending(self, name: str) -> bool:
        return name in self.steps and self.steps[name].status == "pending"

    def gathered(self, name: str) -> list[tuple[str, MemberOutcome | None, bytes | None]]:
        """Return what the members of all rounds have come to."""
        return [(member.names[0], member.outcome, member.answer) for member in self.fans[name].members]

    def taken(self, name: str) -> bytes | None:
        """Return the value that an execution of a step is given."""
        value = self.steps[name].value
        return self.fans[name].task if value is FAN else value

    # Workers

    def delegate(
        self, name: str, fence: str, fan_name: str, members: Sequence[Member], terms: Terms, value: bytes, tokens: int
    ) -> str:
        """Give work out."""
        step = self.steps.get(name)
        if step is None:
            return "closed"
        if fence in step.committed:
            return step.committed[fence]
        if (owns := self.owns(name, fence)) != "yes":
            return owns
        again = name == fan_name
        known = self.fans.get(fan_name, Fan(fan_name))
        fan = Fan(
            fan_name,
            terms,
            total=known.total + len(members),
            round=known.round + 1 if again else 1,
            task=((known.task or self._boss_of(fan_name).value) if again else None) or step.value,
            members=known.members if again else [],
            degraded=again and (known.degraded or step.degraded),
        )
        self.fans[fan_name] = fan
        step.tokens += tokens
        step.committed[fence] = "delegated"
        if again:
            step.status, step.attempt, step.losses, step.rung, step.late = "pending", 0, 0, 0, False
            step.revision += 1
            step.give_back()
            step.value, step.degraded = None, False
        else:
            step.status, step.output = "completed", value
        for member in members:
            self._add(fan, member)
        if verdict := fan.decide():
            self._join(fan, verdict)
        else:
            self._open(fan)
        return "delegated"

    def _boss_of(self, join: str) -> ReferenceStep:
        return next(step for step in self.steps.values() if step.plan and step.plan.delegates and step.next == join)

    def _add(self, fan: Fan, member: Member) -> None:
        first = member.steps[0]
        refused = bool(member.fault)
        assigned = Assigned(
            tuple(step.name for step in member.steps), first.weight, fan.round, member.value, refused, opened=refused
        )
        if refused:
            assigned.outcome = "failed"
        fan.members.append(assigned)
        for step in member.steps:
            made = ReferenceStep(step.name, step.agent, step, step.next)
            if refused:
                made.status = "failed" if step is first else "cancelled"
            elif step is first:
                made.value = member.value
            self.steps[step.name] = made

    def commit(self, name: str, fence: str, value: bytes, ask: Ask, *, accepted: bool = False) -> str:
        """Hand in an output."""
        step = self.steps.get(name)
        if step is None:
            return "closed"
        of_fan = _fan_of(step)
        if of_fan and step.status == "cancelled":
            if fence not in step.committed and self.status != "cancelled" and step.fence == fence:
                step.output, step.committed[fence] = value, "late"
                step.tokens += ask.tokens
            return "late" if fence in step.committed else "closed"
        if step.committed.get(fence) == "late":  # and redriven since
            return "next" if step.next else "joins"
        mine = ask.verdict in {"complete", "answer"} or (of_fan and ask.verdict == "partial")
        if fence in step.committed or not mine or self.owns(name, fence) != "yes":
            if ask.verdict == "wait" and self.owns(name, fence) == "yes":
                step.waits_accepted = accepted
            return super().commit(name, fence, value, ask)
        step.output = value
        step.tokens += ask.tokens
        step.degraded = step.degraded or bool(ask.reason and ask.verdict != "partial")
        if ask.verdict == "partial":
            step.output, step.committed[fence] = None, "joins"
            self._fail(step, None)
        elif ask.verdict == "answer":
            step.status = "completed"
            joins = self.steps[step.next or ""]
            joins.output = value
            if known := self.fans.get(joins.name):
                self.fans[joins.name] = Fan(joins.name, total=known.total)
            step.committed[fence] = self._complete(joins)
        else:
            step.committed[fence] = self._complete(step, accepted=accepted)
        return step.committed[fence]

    # People

    def redrive(self, name: str, value: bytes | None, agent: str) -> tuple[str, str]:
        """Let the run go on from a step; empty: the first that is not done, or of which something was undone."""
        open_ = [each for each in self.spine if not self._done(each)]
        named, name = bool(name), name or next(iter(open_), "")
        if refused := self._refused_redrive(name, named=named, changed=value is not None or agent != ""):
            return refused
        index = self.spine.index(name)
        reopens = value is None and self._reopens(name)
        if value is None and ((self.steps[name].value is None and not reopens) or set(open_) & set(self.spine[:index])):
            return "no input", name
        self._recorded |= {(step.undoes, step.revision): step.recorded for step in self.steps.values() if step.undoes}
        self._hand_over_what_undid()
        self.steps = {each: step for each, step in self.steps.items() if not step.undoes}
        self.order = list(self.steps)
        first = self.steps[name]
        self._again(first, anew=value is not None or agent != "")
        for each in self.spine[index + 1 :]:
            self._forget(each, each)
            self._again(self.steps[each], anew=self.steps[each].begins > 0)
            self.steps[each].value = None
        self.status, self.overdue, self.lasts_longer = "running", False, True
        self.kind, self.failed_at, self.ends_children = None, None, False
        first.agent = agent or first.agent
        fan = self.fans.get(name)
        if reopens and fan:
            first.value = None
            self._reopen(fan)
        else:
            if fan and not fan.verdict:
                fan.terms, fan.due = None, False
            self._ready(name, first.value if value is None else value)
        return "redriven", name

    def _refused_redrive(self, name: str, *, named: bool, changed: bool) -> tuple[str, str] | None:
        if self.status != "failed":
            return "not failed", ""
        if name not in self.steps or self.steps[name].undoes:
            return "no step", name
        if name not in self.spine:
            return "member", next(each for each in self.spine if name in self._within(each))
        if not named and changed and self._is_for_another(name):
            return "elsewhere", name
        undone = [each for each in self.spine[: self.spine.index(name)] if self._was_undone(each)]
        return ("undone", undone[0]) if undone else None

    def _within(self, join: str) -> list[str]:
        """Return all steps of all that work for a step of the flow itself."""
        path = join[: join.rfind("/") + 1]
        if not (plan := self.steps[join].plan) or not plan.joins:
            return []
        return [
            name
            for name, step in self.steps.items()
            if not step.undoes and name.startswith(path) and "#" in name[len(path) :].partition("/")[0]
        ]

    def _undone(self, join: str) -> set[str]:
        if join in self.fans and self.fans[join].task is None:
            return set()  # the boss answered itself since
        return {name for name in self._within(join) if self.steps[name].undone}

    def _undone_earlier(self, join: str) -> bool:
        """Tell whether something was undone on which a later round was planned."""
        if join not in self.fans:
            return False
        fan, undone = self.fans[join], self._undone(join)
        return any(member.round < fan.round and any(map(member.has, undone)) for member in fan.members)

    def _was_undone(self, name: str) -> bool:
        step = self.steps[name]
        planned = step.plan is not None and step.plan.delegates and self._undone_earlier(step.next or "")
        return planned or step.undone or bool(self._undone(name))

    def _done(self, name: str) -> bool:
        return self.steps[name].status == "completed" and not self._was_undone(name)

    def _reopens(self, name: str) -> bool:
        fan = self.fans.get(name)
        taken = self.steps[name].value if self.steps[name].own is None else self.steps[name].own
        if fan is None or fan.task is None or taken not in (None, FAN, fan.task):
            return False
        missed = fan.terms and fan.terms.otherwise == "fail" and fan.verdict in SHORT
        return bool(self._undone(name) or not fan.verdict or missed)

    def _reopen(self, fan: Fan) -> None:
        """Let those members of the last round run again that are not done."""
        assert fan.terms is not None
        undone = self._undone(fan.name)
        for member in [one for one in fan.current if not one.refused]:
            if member.outcome in {"ok", "degraded"} and not any(map(member.has, undone)):
                continue
            member.outcome, member.answer, member.opened = None, None, False
            stays = list(takewhile(self._stays, member.names[:-1]))
            first, *others = member.names[len(stays) :]
            for each in (first, *others):
                self._forget(each, fan.name)
                step = self.steps[each]
                self._again(step, anew=each != first and step.begins > 0)
                step.value = None
            self.steps[first].value = self.steps[stays[-1]].output if stays else member.value
        before = [member for member in fan.members if member.round < fan.round]
        fan.degraded = not fan.terms.accept and any(member.outcome == "failed" for member in before)
        fan.verdict, fan.due = None, False
        if verdict := fan.decide():
            self._join(fan, verdict)
        else:
            self._open(fan)

    def _stays(self, name: str) -> bool:
        """Tell whether what a member's step did is not done again: what a boss gave out is."""
        plan = self.steps[name].plan
        return self._done(name) and not (plan and plan.delegates)

    def _forget(self, name: str, to: str) -> None:
        """Take back what a step had given out; what that has used is in the account of another."""
        if name not in self.fans:
            return
        root = name[: name.rfind("/") + 1]
        for each in [other for other in self.steps if other.startswith(root) and "#" in other[len(root) :]]:
            self.steps[to].tokens += self.steps.pop(each).tokens
            self.fans.pop(each, None)
        self.fans[name] = Fan(name, total=self.fans[name].total)
        self.order = list(self.steps)

    def _again(self, step: ReferenceStep, *, anew: bool) -> None:
        self._reset(step, anew=anew or step.status == "completed")

    # The caretaker

    def join(self, name: str) -> str:
        """Look at the time that a fan-out has."""
        fan = self.fans[name]
        if fan not in self.open_fans() or fan.terms is None or fan.terms.within is None:
            return "closed"
        if not fan.due:
            return "early"
        self._join(fan, "overdue")
        return "joined"

    def due(self) -> set[str | None]:
        """Return its timers that have rung."""
        return super().due() | {f"//{fan.name}" for fan in self.open_fans() if fan.due}

    # What follows

    def _complete(self, step: ReferenceStep, *, accepted: bool = False) -> str:
        of_fan = _fan_of(step)
        if not of_fan or step.next:
            return super()._complete(step)
        step.status = "completed"
        self._member_ended(step, "degraded" if self._is_lesser(step) else "ok", accepted=accepted)
        return "joins"

    def _is_lesser(self, step: ReferenceStep) -> bool:
        """Tell whether a member gives what a fallback gave, or less than its own fan-out takes."""
        names = self._member(step).names
        return any(self.steps[name].degraded or (name in self.fans and self.fans[name].degraded) for name in names)

    def _member(self, step: ReferenceStep) -> Assigned:
        members = self.fans[_fan_of(step) or ""].members
        return next(member for member in members if step.name in member.names)

    def _fail(self, step: ReferenceStep, kind: FailureKind | None) -> str:
        if not _fan_of(step):
            return super()._fail(step, kind)
        step.status = "failed"
        return self._member_ended(step, "failed")

    def _member_ended(self, step: ReferenceStep, outcome: MemberOutcome, *, accepted: bool = False) -> str:
        fan = self.fans[_fan_of(step) or ""]
        member = self._member(step)
        member.outcome = outcome
        if outcome == "failed":
            self._close(filter(member.has, self.steps))
        else:
            member.answer = step.output
        if verdict := "accepted" if accepted else fan.decide():
            return self._join(fan, verdict)
        self._open(fan)
        return "failed"

    def _room(self, fan: Fan) -> int:
        """Tell how many may be in flight: of a fan-out within another its share of that one, and one at least."""
        assert fan.terms is not None
        outer = _fan_of(self.steps[fan.name])
        if not outer:
            return fan.terms.width
        share = self._room(self.fans[outer]) // max(self.fans[outer].in_flight, 1)
        return max(1, min(fan.terms.width, share))

    def _open(self, fan: Fan) -> None:
        room = self._room(fan)
        for member in fan.current:
            if not member.opened and fan.in_flight < room:
                member.opened = True
                first = next(name for name in member.names if self.steps[name].status != "completed")
                self._ready(first, self.steps[first].value)

    def _join(self, fan: Fan, verdict: JoinVerdict) -> str:
        assert fan.terms is not None
        fan.verdict = verdict
        fan.degraded = fan.degraded or verdict in SHORT or (fan.count("failed") > 0 and verdict != "accepted")
        late = [member for member in fan.current if member.outcome is None]
        self._close(name for name in self.steps if any(member.has(name) for member in late))
        if fan.terms.otherwise == "fail" and verdict in SHORT:
            return self._fail(self.steps[fan.name], "deadline" if verdict == "overdue" else "failed")
        self._ready(fan.name, FAN)
        return "failed"

    def _close(self, names: Iterator[str]) -> None:
        for step in [self.steps[name] for name in names]:
            if not step.ended:
                step.status = "cancelled"

    def _finish(self, status: RunStatus, kind: FailureKind | None) -> str:
        self._close(iter(self.steps))
        if status != "completed" and self.status != "undoing":
            done = [self.steps[name] for name in reversed(list(self._as_done()))]
            if undo := self._to_be_undone(done):
                self._undo(undo, Ending(status, kind))
                return "undoing"
        self.status, self.kind, self._ending = status, kind, None
        return "cancelled"

    def _as_done(self, of_fan: str | None = None) -> Iterator[str]:
        """Give the steps in the order in which they are done: members before the step where they come together."""
        for name, step in list(self.steps.items()):
            if step.plan and step.plan.fan == of_fan:
                if step.plan.joins:
                    yield from self._as_done(name)
                yield name

    def _revise(self, gated: ReferenceStep, feedback: str) -> None:
        first = step = self.steps[gated.first]
        first.draft = gated.output if first is gated else None
        first.feedback += (feedback,)
        gated.output = None
        while True:
            self._keep_for_undo(step)
            step.status, step.attempt, step.revision, step.losses, step.rung = "pending", 0, step.revision + 1, 0, 0
            step.give_back()
            step.degraded = step.late = False
            step.sent_back = step.sent_back + 1 if step is gated else 0
            if step is gated:
                break
            step = self.steps[step.next or ""]
        first.status = "ready"


def _fan_of(step: ReferenceStep) -> str | None:
    return step.plan.fan if step.plan else None
