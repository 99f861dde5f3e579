"""Quality gates: what is asked of a stage's output, and what follows from the answer."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Any, Final, Literal, get_args

from orchestrator.agent import Agent, agents
from orchestrator.errors import InvalidGate, definition_site

Action = Literal["pass", "revise", "reject", "fallback", "human"]
OnFail = Literal["revise", "reject", "fallback", "human"]
Then = Literal["pass", "reject", "fallback", "human"]
Default = Literal["approve", "reject", "fallback"]

DAY: Final = 86400.0
LONGEST: Final = 366 * DAY
"""As long as a run may take; and Lua's numbers hold no time that is much later."""


@dataclass(frozen=True)
class Decision:
    """What a gate decides about an output, and why; the reason is kept in the log, so keep it short."""

    action: Action
    reason: str = ""

    def __post_init__(self) -> None:
        if self.action not in get_args(Action):
            msg = f"a decision's action is one of {', '.join(get_args(Action))}, not {self.action!r}"
            raise ValueError(msg)
        given: object = self.reason
        if not isinstance(given, str):
            # It becomes part of the run's state, where nobody could read it back.
            msg = f"a decision's reason is a text, not {given!r:.80}"
            raise TypeError(msg)

    @classmethod
    def ok(cls) -> Decision:
        """Let the output pass."""
        return cls("pass")

    @classmethod
    def revise(cls, feedback: str) -> Decision:
        """Run the stage again; it finds the feedback in `ctx.feedback`."""
        return cls("revise", feedback)

    @classmethod
    def reject(cls, reason: str) -> Decision:
        """Fail the run."""
        return cls("reject", reason)

    @classmethod
    def fall_back(cls, reason: str) -> Decision:
        """Give the stage's input to the fallback agent; its output passes, marked degraded."""
        return cls("fallback", reason)

    @classmethod
    def ask(cls, question: str) -> Decision:
        """Wait for a person."""
        return cls("human", question)


# A gate's check sees an agent's output, whose type only the user knows.
Check = Callable[[Any], "bool | Decision"]


@dataclass(frozen=True)
class Gate:
    """
    A quality gate behind a stage.

    Attributes:
        check: given the output, returns a Decision, or True (pass) or False (`on_fail`).
        on_fail: what False means.
        max_revisions: how often the stage may run again; `then`: what a further failure means.
        fallback: the agent, or its name, that takes the stage's input instead.
        timeout: seconds a person has; `default`: what is decided for them then.

    Raises:
        InvalidGate: a value does not fit; the message names the file.
    """

    check: Check
    on_fail: OnFail = "reject"
    _: KW_ONLY
    max_revisions: int = 2
    then: Then = "reject"
    fallback: Agent[Any, Any] | str | None = None
    timeout: float = DAY
    default: Default = "reject"

    def __post_init__(self) -> None:
        where = definition_site()
        self._one_of(where, "on_fail", self.on_fail, get_args(OnFail))
        self._one_of(where, "then", self.then, get_args(Then))
        self._one_of(where, "default", self.default, get_args(Default))
        if not callable(self.check):
            raise InvalidGate(where, "check must be a function of the stage's output")
        if inspect.iscoroutinefunction(self.check) or isinstance(self.check, Agent):
            # A coroutine that nobody awaits is true, and would let everything pass.
            raise InvalidGate(
                where, "check must be a plain `def`; what has to wait for a model is a stage of its own before"
            )
        if self.max_revisions < 0:
            raise InvalidGate(where, f"max_revisions must be 0 or more, not {self.max_revisions}")
        if not 0 < self.timeout <= LONGEST:
            raise InvalidGate(where, f"timeout must be above 0 s and at most a year, not {self.timeout}")
        if self.fallback is None and "fallback" in {self.on_fail, self.then, self.default}:
            raise InvalidGate(where, "name the agent to fall back to: Gate(..., fallback=agent)")

    @staticmethod
    def _one_of(where: str, name: str, value: str, allowed: tuple[str, ...]) -> None:
        if value not in allowed:
            raise InvalidGate(where, f"{name} must be one of {', '.join(allowed)}, not {value!r}")

    @property
    def fallback_agent(self) -> Agent[Any, Any] | None:
        """The agent to fall back to."""
        return agents().get(self.fallback) if isinstance(self.fallback, str) else self.fallback

    def decide(self, output: object, *, sent_back: int) -> Decision:
        """
        Judge an output.

        Args:
            output: what the stage gave.
            sent_back: how often the gate has sent the stage back so far.

        Returns:
            What is to be done: never `revise` beyond `max_revisions`, never `fallback` without an agent for it.

        Raises:
            TypeError: the check returned neither a Decision nor a bool. Taken for true or false, a forgotten `return`
                would decide.
        """
        verdict: object = self.check(output)
        if isinstance(verdict, Decision):
            decision = verdict
        elif not isinstance(verdict, bool):
            msg = f"the check must return True, False or a Decision, not {type(verdict).__name__}"
            raise TypeError(msg)
        else:
            decision = Decision("pass") if verdict else Decision(self.on_fail, "the gate's check said no")
        if decision.action == "revise" and sent_back >= self.max_revisions:
            times = "once" if sent_back == 1 else f"{sent_back} times"
            decision = Decision(self.then, f"still not accepted after it was revised {times}: {decision.reason}")
        if decision.action == "fallback" and self.fallback is None:
            return Decision("reject", f"{decision.reason} (and the gate names no fallback)")
        return decision
