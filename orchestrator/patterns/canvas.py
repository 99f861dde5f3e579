"""A run's state, compiled to the Celery canvas of what is left of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from celery import chain

from orchestrator.broker import message_priority

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from celery import Celery
    from celery.canvas import Signature
    from kombu import Producer

    from orchestrator.messages import RunState, StepState

WINDOW: Final = 10
"""Links in one chain: every link's message carries the rest, so a long pipeline's chain is compiled piece by piece."""


def left(state: RunState) -> Iterator[StepState]:
    """Give the steps that are left to do: the one that is ready, and what follows it."""
    by_name = {step.name: step for step in state.steps}
    step = next((step for step in state.steps if step.status == "ready"), None)
    while step is not None:
        yield step
        step = by_name[step.next] if step.next else None


def compile_canvas(app: Celery, state: RunState) -> Signature | None:
    """
    Return the chain of what is left of a run, at most `WINDOW` links; one link is itself; None when no step is ready.

    Starting, recovering, approving a gate and revising are this one function on different states. The chain only
    triggers: each link carries the run and the step, and the state decides what an arriving message may do.
    """
    if state.finished:
        return None
    steps = [step for step, _ in zip(left(state), range(WINDOW), strict=False)]
    priority = message_priority(app.conf.broker_url, state.priority)
    links = [
        app.signature(
            step.agent,
            kwargs={"run": state.id, "step": step.name},
            immutable=True,
            queue=step.agent,
            priority=priority,
            shadow=f"{state.flow}/{step.name}",
            ignore_result=True,
        )
        for step in steps
    ]
    if not links:
        return None
    if state.status == "queued":
        # Nothing has begun: the root that Flower links every execution to shall be a page that exists.
        links[0].set(task_id=state.id)
    return chain(*links, app=app) if len(links) > 1 else links[0]


def publish(app: Celery, state: RunState, producer: Producer | None = None) -> bool:
    """
    Publish what is left of a run; False when nothing is ready.

    Args:
        app: with the broker.
        state: fresh from the store.
        producer: to publish with; one of the app's unless given.
    """
    canvas = compile_canvas(app, state)
    if canvas is None:
        return False
    canvas.apply_async(root_id=state.id, producer=producer)
    return True


def publish_many(app: Celery, states: Iterable[RunState]) -> None:
    """Publish what is left of each run, with few round trips where the broker's transport can."""
    with app.producer_or_acquire() as producer, producer.batch():
        for state in states:
            publish(app, state, producer)
