"""One execution of a step in a worker: what it is made of, and how it lets the run go on."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from redis.exceptions import RedisError

from orchestrator.agent import Account, agents
from orchestrator.broker import message_priority
from orchestrator.conversation.handle import Outbox
from orchestrator.patterns.canvas import Foreseen, link, publish, publish_members
from orchestrator.runtime.bridge import outside_loop
from orchestrator.runtime.outcomes import DEGRADED, StepAgain, StepClosed, StepSuperseded
from orchestrator.state.text import shorten

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from celery import Task

    from orchestrator.agent import Agent
    from orchestrator.messages import Member, Terms
    from orchestrator.runtime.process import WorkerProcess
    from orchestrator.state.runs import Begun, Change, Spent, Verdict

logger = logging.getLogger(__name__)

REFUSALS = {
    "gone": "there is no such run or step",
    "done": "the step is done already",
    "held": "another execution holds the step's lease",
    "early": "the step is not ready yet",
    "moved": "the step has fallen back to another agent",
    "stale": "another execution has taken the step over",
    "late": "the time the step has is over",
}


class AttemptFailed(Exception):
    """
    An attempt gave no output; its cause is what the handler raised.

    Attributes:
        final: no other attempt would fare better.
        judged: it is the gate that said no, not the agent that failed: there is no fallback but the gate's own.
    """

    def __init__(self, reason: str, *, final: bool = False, judged: bool = False) -> None:
        super().__init__(reason, final, judged)
        self.reason, self.final, self.judged = shorten(reason), final or judged, judged


@dataclass(frozen=True)
class Delegated:
    """
    Work that an output gives to others.

    Attributes:
        fan: the step where it comes together; `members`: the assignments; `terms`: when they come together.
    """

    fan: str
    members: Sequence[Member]
    terms: Terms


@dataclass(frozen=True)
class Judged:
    """
    An output with its gate's verdict, as commit.lua takes it.

    `ask`: there is none yet, the step waits for a reply; `says`: the model that a member's reply is.
    """

    value: bytes
    verdict: Verdict | Literal["delegate", "ask"] = "complete"
    details: Mapping[str, object] | None = None
    delegated: Delegated | None = None
    says: str = ""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """
    An execution of a step under its lease.

    Attributes:
        task: Celery's, with its request.
        agent: whose code runs; `primary`: whose step it is, where the agent stands in for another.
        account: what the agent says it has used; `outbox`: what it says to others, where it is a conversation's member.
        until: when the step and its run must be done, in seconds of `time.monotonic()`.
    """

    task: Task
    agent: Agent[Any, Any]
    process: WorkerProcess
    begun: Begun
    until: float
    account: Account = field(default_factory=Account)
    outbox: Outbox = field(default_factory=Outbox)

    @property
    def primary(self) -> Agent[Any, Any]:
        """The agent whose fallbacks count."""
        step = self.begun.step
        return agents().get(step.instead_of or step.agent, self.agent)

    @property
    def own_value(self) -> bytes | None:
        """What the step itself takes, where its gate's fallback was given another input; None: that is no one value."""
        begun = self.begun
        return begun.value if begun.step.took is None else self.process.store.value(begun.run_id, begun.step.took)

    @property
    def spent(self) -> Spent:
        """What it has used, as the state keeps it."""
        total = self.account.total
        return total.tokens, total.cost

    def refuse(self, why: str) -> NoReturn:
        """
        End an execution that may not write.

        Raises:
            StepClosed, StepSuperseded: always.
        """
        if why == "closed":
            self.tell_spent()
        raise refusal(why)

    def tell_spent(self) -> None:
        """Let what it has used count where its step was closed meanwhile."""
        if any(self.spent):
            try:
                self.process.store.spend(self.begun, self.spent)
            except RedisError as error:
                logger.warning("run %s: what it used is not counted: %s", self.begun.run_id, error)

    def carry_on(self, change: Change) -> None:
        """
        Publish what is ready now.

        What remains of the chain that brought the message is not. The body of the chord that brought it may be: then
        Celery carries that on, when this execution returns.
        """
        request = self.task.request
        request.chain = None
        ready = [step for step in change.to_publish if not self._is_body(step)]
        request.joins = len(ready) < len(change.to_publish)
        if not ready:
            return
        app, begun = self.task.app, self.begun
        if request.chord and change.what == "joins" and change.step == begun.step.fan:
            # Members of the same fan-out that had to wait for this one to end.
            flow, priority = begun.flow, message_priority(app.conf.broker_url, begun.priority, begun.tenant)
            agents_of = dict(change.ready)
            foreseen = None if begun.budgets else Foreseen(begun.tenant, begun.priority, 1)
            header = [
                link(app, begun.run_id, step, agents_of[step], flow=flow, priority=priority, foreseen=foreseen)
                for step in ready
            ]
            outside_loop(publish_members, app, header, request.chord, request.group)
        else:
            left = self.process.store.left(begun.run_id, ready)
            if left is not None:
                outside_loop(publish, app, left)

    def _is_body(self, step: str) -> bool:
        chord = self.task.request.chord
        return bool(chord) and chord["kwargs"].get("step") == step

    def commit(self, judged: Judged) -> str:
        """
        Record an output, and let what it made ready follow.

        Celery carries the chain on where its next link is the step that is ready. Otherwise (the chain's window is used
        up, the message came alone from the caretaker, the gate turned the run) the canvas is compiled anew.

        Returns:
            A few words for Flower.

        Raises:
            StepAgain, StepClosed, StepSuperseded: see there.
            PayloadTooLarge: the output is over the maximum.
        """
        details = judged.details or {}
        committed = self._commit(judged, details)
        if committed.what in {"stale", "closed", "late"}:
            self.refuse(committed.what)
        chain = self.task.request.chain
        degraded = judged.verdict in {"complete", "partial"} and (self.begun.step.degraded or "reason" in details)
        done = DEGRADED if degraded else "completed"
        if committed.what == "next" and chain and chain[-1]["kwargs"].get("step") == committed.step:
            return f"{done} → {committed.step}"
        self.carry_on(committed)
        if committed.what == "asked":
            raise StepAgain("waits for a reply, and goes on with it")
        if committed.what == "again":
            raise StepAgain(_why_again(committed, details))
        if judged.delegated is not None:
            return f"gave work to {len(judged.delegated.members)} → {committed.step}"
        return {"waiting": "waiting for a person", "finished": f"{done}, the run is done"}.get(
            committed.what, f"{done} → {committed.step}"
        )

    def _commit(self, judged: Judged, details: Mapping[str, object]) -> Change:
        work, verdict, step = judged.delegated, judged.verdict, self.begun.step
        if work is not None:
            return self.process.fan_outs.delegate(
                self.begun, work.fan, work.members, work.terms, judged.value, self.spent
            )
        if step.talk is not None and verdict in {"complete", "ask"} and not step.delegates:
            return self.process.conversations.speak(
                self.begun,
                judged.value,
                asks=verdict == "ask",
                said=self.outbox.said,
                says=judged.says,
                reason=str(details.get("reason", "")),
                spent=self.spent,
            )
        assert verdict != "delegate"  # it has the work with it  # noqa: S101
        assert verdict != "ask"  # only a member of a conversation does  # noqa: S101
        if verdict == "complete" and step.delegates:
            verdict = "answer"
        return self.process.store.commit(self.begun, judged.value, verdict, details, self.spent)


def refusal(why: str) -> StepSuperseded | StepClosed:
    """Return what an execution that may not write ends with."""
    if why in {"closed", "late"}:
        return StepClosed("the others came together without it" if why == "late" else "the run has ended")
    return StepSuperseded(REFUSALS[why])


def _why_again(committed: Change, details: Mapping[str, object]) -> str:
    fallback = details.get("agent")
    why = shorten(str(details.get("reason" if fallback else "feedback", "")))
    return f"falls back to {fallback}: {why}" if fallback else f"{committed.step} runs again: {why}"
