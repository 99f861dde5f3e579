"""Asks the guards of a step along with its begin, on what its message foresees of the attempt: one round trip less."""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Self

from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from orchestrator.patterns.canvas import HEADER, Foreseen
from orchestrator.resilience.budget import Spend
from orchestrator.runtime.waking import wake
from orchestrator.state import keys

if TYPE_CHECKING:
    from types import TracebackType

    from celery import Task

    from orchestrator.agent import Agent
    from orchestrator.runtime.process import WorkerProcess
    from orchestrator.state.guards import Admitted, Ahead, Guard, Need, Refused
    from orchestrator.state.runs import Begun

logger = logging.getLogger(__name__)

LEAST: Final = Spend(tokens=1, cost=0.000001)
"""What an agent that says nothing is expected to use: enough to find a budget that is used up."""


class Foresight:
    """
    What the guards are asked along with a step's begin; as a context manager, taken back where it was of no use.

    Args:
        task: Celery's, with its request.
        nonce: that the step is begun with.
    """

    def __init__(
        self, task: Task, process: WorkerProcess, agent: Agent[Any, Any], run_id: str, step: str, nonce: str
    ) -> None:
        self._task, self._process, self._agent = task, process, agent
        self._member = keys.member(run_id, step)
        self._guards = agent.guards(fallback=bool(agent.fallback))
        self._ahead: Ahead | None = None
        self._foreseen: Foreseen | None = None
        # Nothing is asked without guards; and an estimate that is a function needs the input.
        if callable(agent.estimate) or not agent.is_guarded:
            return
        self._foreseen = Foreseen.of(task.request.get(HEADER))
        if self._foreseen is None:
            return
        self._fence = f"{self._foreseen.begin}-{nonce}"
        self._ahead = process.guards.ahead(
            agent.name,
            self._member,
            self._guards,
            tenant=self._foreseen.tenant,
            priority=self._foreseen.priority,
            need=expected(agent, None),
            hold_ms=round(process.settings.lease * 1000),
            budgets=(f"tenant:{self._foreseen.tenant}",),
            fence=self._fence,
        )
        self._ahead.go_along()

    def answer(self, begun: Begun, guards: tuple[Guard, ...]) -> Admitted | Refused | None:
        """
        Return the guards' answer to an attempt; None: they are to be asked.

        Args:
            begun: the attempt. Where it is not the one that was foreseen, what that was given is taken back.
            guards: that it has to ask.
        """
        ahead = self._ahead
        if ahead is None or not self._fits(begun, guards):
            self._withdraw()
            return None
        self._ahead = None
        # Where the answer is lost, the same question has the same one.
        return ahead.answer()

    def _fits(self, begun: Begun, guards: tuple[Guard, ...]) -> bool:
        return (
            self._fence == begun.fence
            and self._guards is guards
            and self._foreseen == (begun.tenant, begun.priority, begun.step.begins)
            and not begun.budgets
            and begun.step.undoes is None
        )

    def _withdraw(self) -> None:
        ahead, self._ahead = self._ahead, None
        if ahead is None:
            return
        try:
            ahead.answer()
            if ahead.took:
                granted = self._process.guards.withdraw(self._agent.name, self._member, self._fence)
                wake(self._task.app, self._process, self._agent.name, granted)
        except (RedisError, OperationalError) as failure:
            # What was taken is free again when its time is over.
            logger.warning("%s: what was asked of its guards is not withdrawn: %s", self._member, failure)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._withdraw()


def expected(agent: Agent[Any, Any], value: object) -> Need:
    """
    Return what an attempt on an input is expected to use.

    Raises:
        Exception: whatever its agent's estimate raises; InvalidPolicy where that is no amount.
    """
    found = agent.expects(value)
    return LEAST if found is None else _at_least(found)


@lru_cache(maxsize=256)
def _at_least(found: Spend) -> Spend:
    """Who tells the tokens alone is not meant to have a budget of money for nothing, and the other way round."""
    return Spend(tokens=found.tokens or LEAST.tokens, cost=found.cost or LEAST.cost) if found else found
