"""Hierarchies whose plans come with their input, so that a test says what is to be done and what is to go wrong."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel, field_validator

from orchestrator import (
    Assignment,
    Concurrency,
    Constant,
    Context,
    Decision,
    Gate,
    Hierarchy,
    Join,
    Pipeline,
    Plan,
    Results,
    RetryLater,
    Specialist,
    Stage,
    agent,
)

POLL = 0.01


class Job(BaseModel):
    """
    What a specialist is to do.

    Attributes:
        text: what it gives back; `how`: `ok`, `fail`, `die`, `wait` for the test's word, or `flaky`: the first attempt
            asks to be tried again.
    """

    text: str = ""
    how: str = "ok"


class Done(BaseModel):
    """What it gave."""

    text: str


class Task(BaseModel):
    """
    What a boss is to give out: one entry for each round.

    Attributes:
        rounds: assignments, as of Assignment.
        answer: what the boss answers itself.
    """

    rounds: list[list[dict[str, Any]]] = []
    answer: str | None = None


class Told(BaseModel):
    """What a synthesiser makes of it."""

    text: str = "told"
    texts: list[str] = []
    statuses: dict[str, str] = {}
    reasons: dict[str, str] = {}
    round: int = 0
    direct: bool = False


def floor() -> Path:
    return Path(os.environ["ACME_FLOOR"])


def log(ctx: Context, text: str) -> None:
    """Append to a ledger that no fault touches."""
    with (floor() / "ledger").open("a") as ledger:
        ledger.write(f"{ctx.run_id} {ctx.step} {ctx.revision} {text}\n")


@agent("offices.plan")
def plan(ctx: Context, task: Task) -> Plan | Told:
    log(ctx, "plan")
    if task.answer is not None:
        return Told(texts=[task.answer], direct=True)
    return Plan([Assignment(**each) for each in task.rounds[0]])


def _tell(results: Results[Task, Done]) -> Told:
    return Told(
        texts=[value.text for value in results.values],
        statuses={outcome.step: outcome.status for outcome in results.outcomes},
        reasons={outcome.step: outcome.reason for outcome in results.outcomes if outcome.reason},
        round=results.round,
    )


@agent("offices.report")
def report(ctx: Context, results: Results[Task, Done]) -> Told | Plan:
    log(ctx, "report")
    if results.round < len(results.task.rounds):
        return Plan([Assignment(**each) for each in results.task.rounds[results.round]])
    return _tell(results)


@agent("offices.work", timeout=20.0)
async def work(ctx: Context, job: Job) -> Done:
    log(ctx, "work")
    if job.how == "fail":
        msg = f"cannot do {job.text}"
        raise ValueError(msg)
    if job.how == "flaky" and ctx.attempt == 1:
        raise RetryLater(0.05)
    if job.how == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    while job.how == "wait" and not (floor() / f"{ctx.run_id}.{job.text}").exists():  # noqa: ASYNC110  another process's
        await asyncio.sleep(POLL)
    return Done(text=job.text)


@agent("offices.stubborn", timeout=20.0)
def stubborn(ctx: Context, job: Job) -> Done:
    """Wait for the test's word, whatever becomes of the run."""
    log(ctx, "stubborn")
    while not (floor() / f"{ctx.run_id}.{job.text}").exists():
        time.sleep(POLL)
    return Done(text=job.text)


@agent("offices.moody")
def moody(ctx: Context, job: Job) -> Done:
    """Fail, or give an output, as the test says."""
    log(ctx, "moody")
    good = floor() / f"{ctx.run_id}.{job.text}"
    while not good.exists():
        if good.with_name(f"{good.name}.fails").exists():
            raise ValueError(job.text)
        time.sleep(POLL)
    return Done(text=job.text)


@agent("offices.other")
def other(ctx: Context, job: Job) -> Done:
    log(ctx, "other")
    if job.how == "fail":
        msg = f"cannot do {job.text}"
        raise ValueError(msg)
    return Done(text=f"other {job.text}")


@agent("offices.degraded", fallback=[Constant(Done(text="constant"))])
def degraded(job: Job) -> Done:
    raise ValueError(job.text)


@agent("offices.limited", concurrency=Concurrency(total=2))
async def limited(job: Job) -> Done:
    await asyncio.sleep(0.05)
    return Done(text=job.text)


@agent("offices.finish")
def finish(ctx: Context, done: Done) -> Done:
    log(ctx, "finish")
    if done.text.startswith("bad"):
        msg = f"cannot finish {done.text}"
        raise ValueError(msg)
    return Done(text=f"{done.text}, finished")


@agent("offices.undo")
def undo(ctx: Context, done: Done) -> None:
    log(ctx, f"undo {done.text}")


@agent("offices.end")
def end(ctx: Context, told: Told) -> Told:
    log(ctx, "end")
    return told


def not_rejected(done: Done) -> bool:
    return not done.text.startswith("rejected")


two_steps = Pipeline(
    "two-steps",
    [Stage(work, undo=undo), Stage(finish, gate=Gate(not_rejected))],
)

squad = Hierarchy(
    "squad",
    boss=plan,
    synthesize=report,
    workers=[work, two_steps],
    join=Join(otherwise="degrade"),
)

WORKERS: list[Any] = [
    Specialist(work, capabilities={"slow", "any"}),
    Specialist("offices.other", capabilities={"any"}),
    Specialist(degraded, name="poor"),
    Specialist(stubborn),
    moody,
    limited,
    Pipeline("poor-steps", [degraded, finish]),
    two_steps,
    squad,
]


def route(assignment: Assignment, names: tuple[str, ...]) -> str:
    assert "work" in names
    if assignment.label == "nowhere":
        raise LookupError(assignment.label)
    return "work" if assignment.label else "nobody"


def office(name: str, **options: Any) -> Hierarchy:  # noqa: ANN401  as of Hierarchy
    return Hierarchy(name, boss=plan, synthesize=report, workers=WORKERS, router=route, **options)


everything = office("all", max_rounds=3)
tolerant = office("tolerant", join=Join(otherwise="degrade"), max_rounds=2)
quorum = office("quorum", join=Join(need=2))
share = office("share", join=Join(need=0.5, otherwise="degrade"))
first = office("first", join=Join(accept=lambda done: done.text == "good"))
timed = office("timed", join=Join(need=2, deadline=0.5, otherwise="degrade"))
strict = office("strict", join=Join(deadline=0.5))
narrow = office("narrow", join=Join(otherwise="degrade"), width=2)


@agent("offices.odd-plan")
def odd_plan(task: Task) -> Plan:
    return Plan(
        [
            Assignment(to="x" * 5000, input=Job()),
            Assignment(to="unwritable", input=Unwritable(given=object())),
            Assignment(to="touchy", input={"text": "not there"}),
            Assignment(to="work", input=Job(text="x" * 1_000_000)),
            Assignment(to="work", input=Job(text=str(len(task.rounds))), label="ünïcode"),
        ]
    )


class Unwritable(BaseModel):
    """What pydantic takes, and JSON does not."""

    given: object


@agent("offices.slip")
def slip(task: Task) -> Plan | Told:
    """Return a plan as plain data, as a model may have written it."""
    return cast("Plan", {"assignments": [{"to": "work", "input": {"text": "a"}}, {task.answer: "work"}]})


slips = Hierarchy("slips", boss=slip, synthesize=report, workers=[work], join=Join(otherwise="degrade"))


class Touchy(BaseModel):
    """What pydantic lets a validator raise, as it is no ValueError."""

    text: str

    @field_validator("text")
    @classmethod
    def _look_up(cls, text: str) -> str:
        known = {"there": "yes"}
        return known[text]


@agent("offices.touchy")
def touchy(given: Touchy) -> Done:
    return Done(text=given.text)


@agent("offices.unwritable")
def unwritable(given: Unwritable) -> Done:
    return Done(text=str(given))


odd = Hierarchy(
    "odd", boss=odd_plan, synthesize=report, workers=[work, unwritable, touchy], join=Join(otherwise="degrade")
)
asked = Pipeline("asked", [Stage(work, gate=Gate(lambda done: Decision.ask(f"{done.text}?")))])
picky = Hierarchy(
    "picky", boss=plan, synthesize=report, workers=[asked], join=Join(accept=lambda done: done.text == "good")
)
asking = Hierarchy("asking", boss=plan, synthesize=report, workers=[asked], join=Join(otherwise="degrade"))

whole = Pipeline("whole", [Stage(everything, name="office", gate=None, undo=None), end])
