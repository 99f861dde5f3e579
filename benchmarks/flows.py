"""What is measured: five stages that do nothing, as our agents and as plain Celery tasks."""

from __future__ import annotations

import os

from celery import Celery
from pydantic import BaseModel

from orchestrator import Pipeline, agent

STAGES = ("one", "two", "three", "four", "five")


class Document(BaseModel):
    """A small payload, as a stage passes it on."""

    text: str
    seen: int = 0


@agent("bench.one")
def one(document: Document) -> Document:
    """Count itself."""
    return document.model_copy(update={"seen": document.seen + 1})


@agent("bench.two")
def two(document: Document) -> Document:
    """Count itself."""
    return document.model_copy(update={"seen": document.seen + 1})


@agent("bench.three")
def three(document: Document) -> Document:
    """Count itself."""
    return document.model_copy(update={"seen": document.seen + 1})


@agent("bench.four")
def four(document: Document) -> Document:
    """Count itself."""
    return document.model_copy(update={"seen": document.seen + 1})


@agent("bench.five")
def five(document: Document) -> Document:
    """Count itself."""
    return document.model_copy(update={"seen": document.seen + 1})


pipeline = Pipeline("bench", [one, two, three, four, five])

plain = Celery("plain", set_as_current=False)
plain.conf.update(
    broker_url=os.environ.get("BENCH_URL", "redis://127.0.0.1:6379/0"),
    result_backend=os.environ.get("BENCH_URL", "redis://127.0.0.1:6379/0"),
    broker_connection_retry_on_startup=True,
)


def _count(document: dict[str, object]) -> dict[str, object]:
    return {**document, "seen": int(str(document["seen"])) + 1}


for _name in STAGES:
    plain.task(name=f"plain.{_name}")(_count)
    plain.conf.task_routes = {**(plain.conf.task_routes or {}), f"plain.{_name}": {"queue": f"plain.{_name}"}}
