"""The Celery tasks: one for each agent, and the one that starts runs for any producer."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from celery import Task
from kombu import Exchange, Queue

from orchestrator.agent import agents
from orchestrator.broker import START_QUEUE, START_TASK
from orchestrator.client import Client
from orchestrator.errors import AgentFailed
from orchestrator.runtime.outcomes import StepSuperseded
from orchestrator.runtime.process import current
from orchestrator.runtime.step import HARD_LIMIT_GRACE, execute
from orchestrator.state import keys

if TYPE_CHECKING:
    from celery import Celery

    from orchestrator.agent import Agent


class StepTask(Task):
    """Base of the agents' tasks: a message holds a run and a step, nothing else."""

    Request = "orchestrator.runtime.request:StepRequest"
    ignore_result = True
    abstract = True
    is_async = False
    throws = (AgentFailed,)  # told in the run, in Flower and in the log above it; no second traceback


def register_tasks(app: Celery) -> None:
    """Give a Celery app the task of every registered agent, and `orchestrator.start`."""
    for agent in agents().values():
        _register_agent(app, agent)
    app.task(
        name=START_TASK,
        bind=True,
        ignore_result=False,
        acks_late=True,
        reject_on_worker_lost=True,
        Request="orchestrator.runtime.request:StartRequest",
        shared=False,  # or every other app of the process, the producers' too, would get the task
    )(start)


def routes() -> dict[str, dict[str, str]]:
    """Return which queue each task belongs to: an agent's is named after it."""
    return {START_TASK: {"queue": START_QUEUE}, **{name: {"queue": name} for name in agents()}}


def queues() -> list[Queue]:
    """Return every queue; a worker without -Q consumes them all."""
    names = (START_QUEUE, *agents())
    return [Queue(name, Exchange(name, type="direct"), routing_key=name) for name in names]


def _register_agent(app: Celery, agent: Agent[Any, Any]) -> None:
    def run_step(self: StepTask, *args: object, run: object = None, step: object = None, **others: object) -> str:
        if args or others or not isinstance(run, str) or not isinstance(step, str) or not keys.is_run_id(run):
            reason = "an agent's message holds a run and a step; enqueue with Client.submit or orchestrator.start"
            held = {"args": args, "run": run, "step": step, **others}
            current().dead.add(queue=agent.name, reason=reason, body=json.dumps(held, default=repr).encode())
            raise StepSuperseded(reason)
        return execute(self, agent, current(), run, step)

    # Async handlers have their own timeout; the pool's interrupts what blocks, where it can.
    app.task(
        name=agent.name,
        bind=True,
        shared=False,
        base=StepTask,
        is_async=agent.is_async,
        soft_time_limit=None if agent.is_async else agent.timeout,
        time_limit=agent.timeout + HARD_LIMIT_GRACE,
    )(run_step)


def start(
    self: Task,
    flow: object = None,
    input: object = None,  # noqa: A002  the word of the domain
    *others: object,
    **options: object,
) -> str:
    """
    Start a run, for producers that have no code of ours: `{"flow": name, "input": ...}`.

    Args:
        self: Celery's task.
        flow: the flow's name.
        input: its input, as JSON data.
        others: refused.
        options: `key`, `deadline`, `priority`, `tenant`, `tags`, `budget` (an object), as of Client.submit. Without a
            key the message's own id serves, so that a redelivered message starts no second run.

    Returns:
        The run's id; of a run that failed with the reason where anything is refused.
    """
    process = current()
    client = Client(process.settings, app=self.app, connection=process.store.client)
    if others:
        options["positional"] = "only flow and input may be positional"
    # Plain Celery's null for "not given" must not become a key.
    given = {name: value for name, value in options.items() if value is not None and name != "message_id"}
    return client.start(flow, input, message_id=self.request.id, **given).id
