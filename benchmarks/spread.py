"""What the fan-out benchmark spreads: assignments that do nothing, as ours and as the members of a plain chord."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery, chord
from pydantic import BaseModel

from orchestrator import Assignment, Hierarchy, Join, Plan, Results, agent


class Order(BaseModel):
    """How many there are to be."""

    count: int


class Item(BaseModel):
    """What one takes and gives."""

    number: int


class Total(BaseModel):
    """What they come to."""

    count: int


@agent("spread.plan")
def plan(order: Order) -> Plan:
    """Give out as many as asked for."""
    return Plan([Assignment(to="work", input=Item(number=number)) for number in range(order.count)])


@agent("spread.work")
def work(item: Item) -> Item:
    """Do nothing."""
    return item


@agent("spread.total")
def total(results: Results[Order, Item]) -> Total:
    """Count what was given."""
    return Total(count=len(results.values))


spread = Hierarchy("spread", boss=plan, workers=[work], synthesize=total, join=Join(), width=10_000)
narrow = Hierarchy("spread-narrow", boss=plan, workers=[work], synthesize=total, join=Join(), width=100)

plain = Celery("plain", set_as_current=False)
plain.conf.update(
    broker_url=os.environ.get("BENCH_URL", "redis://127.0.0.1:6379/0"),
    result_backend=os.environ.get("BENCH_URL", "redis://127.0.0.1:6379/0"),
    broker_connection_retry_on_startup=True,
)


def _plan(self: Any, count: int) -> Any:  # noqa: ANN401  Celery's
    return self.replace(chord([plain_work.s({"number": number}) for number in range(count)], plain_total.s()))


def _work(item: dict[str, int]) -> dict[str, int]:
    return item


def _total(items: list[dict[str, int]]) -> int:
    return len(items)


# A task that replaces itself by a chord, as Celery's users do it.
plain_plan = plain.task(name="spread-plain.plan", bind=True)(_plan)
plain_work = plain.task(name="spread-plain.work")(_work)
plain_total = plain.task(name="spread-plain.total")(_total)

plain.conf.task_routes = {"spread-plain.*": {"queue": "spread-plain"}}
