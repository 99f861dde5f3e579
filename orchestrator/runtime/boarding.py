"""A source at its blackboard: what it is told when it is woken, and the board that it is given."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from orchestrator.board.handle import Board
from orchestrator.board.post import RedisPost
from orchestrator.messages import Woken
from orchestrator.patterns.blackboard import Blackboard
from orchestrator.patterns.canvas import publish
from orchestrator.patterns.flow import planner_of
from orchestrator.runtime.attempt import AttemptFailed
from orchestrator.state.boards import Author

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

    from celery import Celery

    from orchestrator.messages import StepState
    from orchestrator.runtime.process import WorkerProcess
    from orchestrator.state.runs import Begun, Change


logger = logging.getLogger(__name__)


def blackboard_of(flow: str, step: str) -> Blackboard:
    """
    Return the blackboard that a board's step belongs to.

    Raises:
        AttemptFailed: this worker does not know it.
    """
    found = planner_of(flow, step)
    if not isinstance(found, Blackboard):
        why = f"this worker does not know flow {flow!r} with a blackboard here; add its module to CELERIAC_AGENTS"
        raise AttemptFailed(why, judged=True)
    return found


def woken(begun: Begun) -> Begun:
    """Return the execution of a source's first step with what it takes: a wake in place of the board's task."""
    step = begun.step
    if step.source is None or begun.fault:
        return begun
    facts = Woken(source=step.source, number=_number(step), changed=step.changed)
    return replace(begun, value=wake_of(facts, begun.value))


def wake_of(facts: Woken, task: bytes) -> bytes:
    """Return what a source takes: a wake around its blackboard's task."""
    return b'{"task":' + task + b"," + facts.model_dump_json()[1:].encode()


def board_for(
    process: WorkerProcess, app: Celery, begun: Begun, call: Callable[..., Coroutine[Any, Any, Any]]
) -> Board | None:
    """
    Return the board that a step may use; None: it is no source's.

    Raises:
        AttemptFailed: this worker does not know the flow.
    """
    step = begun.step
    if step.board is None:
        return None

    def carry_on(change: Change) -> None:
        try:
            left = process.store.left(begun.run_id, change.to_publish)
            if left is not None:
                publish(app, left)
        except Exception as error:  # noqa: BLE001  a transport whose server is away raises more than it says
            # What is written is written: the dispatch deadlines of those who are woken bring their messages.
            why = f"{type(error).__name__}: {error}"
            logger.warning("run %s step %s: whom it wakes is not published yet: %s", begun.run_id, step.name, why)

    by = Author(name=_source(step), writer=begun.fence, step=step.name, fence=begun.fence)
    post = RedisPost(process.boards, process.locks, begun.run_id, step.board, by, carry_on=carry_on, call=call)
    return Board(blackboard_of(begun.flow, step.board), post)


def _root(step: StepState) -> str:
    path = (step.board or "").rpartition("/")[0]
    inside = step.name[len(path) + 1 :] if path else step.name
    return inside.partition("/")[0]


def _source(step: StepState) -> str:
    return _root(step).rpartition("#")[0]


def _number(step: StepState) -> int:
    return int(_root(step).rpartition("#")[2])
