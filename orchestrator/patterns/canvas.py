"""A run's state, compiled to the Celery canvases of what is left of it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple, get_args

from celery import chain, chord

from orchestrator.broker import message_priority
from orchestrator.messages import Priority
from orchestrator.state.reading import IN_A_ROW

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from celery import Celery
    from celery.canvas import Signature
    from kombu import Producer

    from orchestrator.messages import RunState, StepState

WINDOW: Final = IN_A_ROW
"""Links in one chain: every link's message carries the rest, so a long pipeline's chain is compiled piece by piece."""

PRIORITIES: Final = get_args(Priority)
HEADER: Final = "foreseen"
"""Of a message: see `Foreseen`."""

NUMBER: Final = re.compile(r"#[0-9]+")
"""Of a member; left out of the name that Flower and its metrics show, of which there must be few."""


def left(state: RunState, step: StepState) -> Iterator[StepState]:
    """
    Give the steps that are left to do from one that is ready.

    What gives work out may follow, not what joins it; nor a blackboard or a conversation, whose queue nobody serves.
    """
    by_name = {step.name: step for step in state.steps}
    following: StepState | None = step
    while following is not None:
        yield following
        following = by_name.get(following.next or "")
        if following is not None and (following.joins or following.rules or following.converses):
            return


def compile_canvas(app: Celery, state: RunState) -> list[Signature]:
    """
    Return the canvases of what is left of a run; none when no step is ready.

    The flow's own steps are a chain, at most `WINDOW` links; one link is itself. The members of a fan-out that are
    ready are the header of a chord, whose body is the step where they come together.

    Starting, recovering, approving a gate, revising and redriving are this one function on different states. A canvas
    only triggers: each message carries the run and the step, and the state decides what an arriving one may do. So does
    it decide when a chord's body is published: see runtime/celery_app.py.
    """
    if state.finished:
        return []
    ready = [step for step in state.steps if step.status == "ready"]
    members: dict[str, list[StepState]] = {}
    canvases: list[Signature] = []
    for step in ready:
        if step.fan is not None:
            members.setdefault(step.fan, []).append(step)
            continue
        links = [_link(app, state, each) for each, _ in zip(left(state, step), range(WINDOW), strict=False)]
        if state.status == "queued":
            # Nothing has begun: the root that Flower links every execution to shall be a page that exists.
            links[0].set(task_id=state.id)
        canvases.append(chain(*links, app=app) if len(links) > 1 else links[0])
    for name, steps in members.items():
        body = state.step(name)
        header = [_link(app, state, step) for step in steps]
        canvases += [chord(header, _link(app, state, body), app=app)] if body is not None else header
    return canvases


def _link(app: Celery, state: RunState, step: StepState) -> Signature:
    number = message_priority(app.conf.broker_url, state.priority, state.tenant)
    # What a budget is asked for, and what undoes another, is known only when it begins.
    simple = not (state.budgets or step.undoes or step.joins)
    foreseen = Foreseen(state.tenant, state.priority, step.begins + 1) if simple else None
    return link(app, state.id, step.name, step.agent, flow=state.flow, priority=number, foreseen=foreseen)


class Foreseen(NamedTuple):
    """
    What a message tells of the attempt that it will lead to, so that its guards can be asked along with its begin.

    It may turn out to be another: then they are asked again, and what is here counts for nothing.

    Attributes:
        begin: the number that its fence begins with.
    """

    tenant: str
    priority: Priority
    begin: int

    @classmethod
    def of(cls, header: object) -> Foreseen | None:
        """Read it from a message's header; None where it is none that can be read."""
        if not isinstance(header, list) or len(header) != len(cls._fields):
            return None
        tenant, priority, begin = header
        fits = isinstance(tenant, str) and priority in PRIORITIES and isinstance(begin, int)
        return cls(tenant, priority, begin) if fits else None


def link(
    app: Celery, run_id: str, step: str, agent: str, *, flow: str, priority: int, foreseen: Foreseen | None
) -> Signature:
    """Return a step's message; its priority as the broker takes it."""
    return app.signature(
        agent,
        kwargs={"run": run_id, "step": step},
        immutable=True,
        queue=agent,
        priority=priority,
        shadow=f"{flow}/{NUMBER.sub('', step)}",
        ignore_result=True,
        root_id=run_id,
        **({} if foreseen is None else {"headers": {HEADER: foreseen}}),
    )


def publish(app: Celery, state: RunState, producer: Producer | None = None) -> bool:
    """
    Publish what is left of a run; False when nothing is ready.

    Args:
        app: with the broker.
        state: fresh from the store; what `RunReader.left` gives is enough.
        producer: to publish with; one of the app's unless given.
    """
    canvases = compile_canvas(app, state)
    for canvas in canvases:
        if canvas.task == "celery.chord":
            body = canvas.kwargs["body"]
            publish_members(app, canvas.kwargs["header"], body, f"{state.id}:{body.kwargs['step']}", producer)
        else:
            canvas.apply_async(root_id=state.id, producer=producer)
    return bool(canvases)


def publish_members(
    app: Celery,
    header: Sequence[Signature],
    body: Any,  # noqa: ANN401  as messages hold it
    group: str,
    producer: Producer | None = None,
) -> None:
    """
    Publish a chord's header, with few round trips where the broker's transport can.

    Celery's own way prepares, counts and keeps the whole group before the first message leaves; and a fan-out's members
    become ready a few at a time.

    Args:
        app: with the broker.
        header: the members' messages.
        body: the chord's; None: they are published alone.
        group: the chord's id.
        producer: to publish with; one of the app's unless given.
    """
    options = {} if body is None else {"chord": body, "group_id": group}
    if producer is not None or len(header) == 1:
        for message in header:
            message.apply_async(producer=producer, add_to_parent=False, **options)
        return
    with app.producer_or_acquire() as own, own.batch():
        for message in header:
            message.apply_async(producer=own, add_to_parent=False, **options)


def publish_many(app: Celery, states: Iterable[RunState]) -> None:
    """Publish what is left of each run, with few round trips where the broker's transport can."""
    with app.producer_or_acquire() as producer, producer.batch():
        for state in states:
            publish(app, state, producer)
