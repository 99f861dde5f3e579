"""Blackboards whose sources do what a test's task tells them to."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from pathlib import Path

from pydantic import BaseModel

from orchestrator import (
    Arbiter,
    Assignment,
    Blackboard,
    BoardResult,
    Context,
    Count,
    Entry,
    Hierarchy,
    HighestConfidence,
    Join,
    LastWriter,
    Limits,
    Merge,
    Pipeline,
    Plan,
    Results,
    Retry,
    Source,
    Wake,
    WriteConflict,
    agent,
)
from orchestrator.errors import LeaseLost, LockLost

POLL = 0.01


class Task(BaseModel):
    """
    What is to be done.

    Attributes:
        weeks: that are to be filled; `times`: increments for each counter; `how`: in which way.
        die: sources whose process is to die once, after it has written.
    """

    weeks: int = 3
    times: int = 10
    how: str = "add"
    die: list[str] = []


class Week(BaseModel):
    """A part of the plan."""

    shifts: list[str] = []
    checked: bool = False


class Audit(BaseModel):
    """What was found."""

    open: int


class Said(BaseModel):
    """What a source gives: for people to read."""

    text: str = ""


def dies_once(ctx: Context, task: Task, name: str) -> None:
    mark = Path(os.environ["ACME_FLOOR"]) / f"{ctx.run_id}.{name}.died"
    if name in task.die and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)


@agent("boards.fill")
async def fill(ctx: Context, wake: Wake[Task]) -> Said:
    """Write all weeks, one after the other."""
    for number in range(1, wake.task.weeks + 1):
        if await ctx.board.get(f"week.{number}") is None:
            await ctx.board.write({f"week.{number}": Week(shifts=[f"{number}/early"])})
        dies_once(ctx, wake.task, "fill")
    return Said(text=f"filled {wake.task.weeks}")


@agent("boards.audit")
def audit(ctx: Context, wake: Wake[Task]) -> Said:
    """Count what is not checked, of the weeks as they stand together."""
    weeks = ctx.board.read("week.*")
    ctx.board.get("audit")
    left = wake.task.weeks - sum(item.value.checked for item in weeks.values())
    dies_once(ctx, wake.task, "audit")
    try:
        ctx.board.write({"audit": Audit(open=left)}, unchanged=list(weeks))
    except WriteConflict:
        return Said(text="overtaken")
    return Said(text=f"{left} open")


@agent("boards.improve")
async def improve(ctx: Context, wake: Wake[Task]) -> Said:
    """Check what has changed, each week for itself."""

    def checked(week: Week | None) -> Week:
        return (week or Week()).model_copy(update={"checked": True})

    for name in [each for each in wake.changed if each.startswith("week.")]:
        await ctx.board.edit(name, checked)
    dies_once(ctx, wake.task, "improve")
    return Said(text=f"checked {len(wake.changed)}")


@agent("boards.report")
def report(result: BoardResult) -> Said:
    """Tell what the board came to."""
    found = result.get("audit", Audit)
    return Said(text=f"{result.outcome}: {found.open if found else '?'} open of {len(result.entries) - 1}")


weeks = Blackboard(
    "weeks",
    task=Task,
    entries={"week.*": Week, "audit": Audit},
    sources=[
        Source(fill, watch="task"),
        Source(audit, watch="week.*", when=Count("week.*") >= 1),
        Source(improve, watch="week.*", priority=1),
    ],
    goal=(Entry("audit").field("open") == 0) & (Count("week.*") >= 3),
    limits=Limits(time=60.0),
)
planning = Pipeline("planning", [weeks, report])


async def count_up(ctx: Context, task: Task) -> Said:
    """Add one, so many times."""
    board = ctx.board
    for _ in range(task.times):
        if task.how == "add":
            await board.add("count")
        elif task.how == "edit":
            await board.edit("count", lambda value: (value or 0) + 1)
        else:
            async with board.lock("count"):
                found = await board.get("count")
                await board.write({"count": (found.value if found else 0) + 1})
    return Said()


@agent("boards.one")
async def one(ctx: Context, wake: Wake[Task]) -> Said:
    """Count."""
    return await count_up(ctx, wake.task)


@agent("boards.two")
def two(ctx: Context, wake: Wake[Task]) -> Said:
    """Count, in a sync agent."""
    board = ctx.board
    for _ in range(wake.task.times):
        if wake.task.how == "add":
            board.add("count")
        elif wake.task.how == "edit":
            board.edit("count", lambda value: (value or 0) + 1)
        else:
            with board.lock("count"):
                found = board.get("count")
                board.write({"count": (found.value if found else 0) + 1})
    return Said()


@agent("boards.burst")
async def burst(ctx: Context, wake: Wake[Task]) -> Said:
    """Write, edit and lock in many coroutines at once."""
    board = ctx.board

    async def locked(number: int) -> None:
        async with board.lock(f"mark.{number}"):
            await board.write({f"mark.{number}": number})

    times = range(wake.task.times)
    await asyncio.gather(
        *(board.add("count") for _ in times), *(board.append("log", number) for number in times), *map(locked, times)
    )
    return Said()


bursts = Blackboard(
    "bursts",
    task=Task,
    entries={"count": int, "log": list[int], "mark.*": int},
    sources=[Source(burst, watch="task")],
)
COUNTERS = [Source(runs, watch="task", name=f"{runs.name[7:]}-{number}") for number in range(4) for runs in (one, two)]
counters = Blackboard("counters", task=Task, entries={"count": int}, sources=COUNTERS)


@agent("boards.talk")
async def talk(ctx: Context, wake: Wake[Task]) -> Said:
    """Write in every way that there is."""
    board, name = ctx.board, wake.source
    await board.append("log", name, once="said")
    await board.merge("scores", {name: len(name)})
    await board.write({"last": name})
    await board.write({"tags": [name]})
    try:
        await board.write({"best": name}, confidence=0.9 if name == "sure" else 0.1)
    except WriteConflict as error:
        return Said(text=error.why["best"])
    return Said()


talks = Blackboard(
    "talks",
    task=Task,
    entries={"log": list[str], "scores": dict[str, int], "last": str, "tags": list[str], "best": str},
    sources=[Source(talk, watch="task", name=name) for name in ("sure", "unsure", "third")],
    conflicts={
        "last": LastWriter(),
        "best": HighestConfidence(),
        "tags": Merge(lambda there, mine: sorted({*there, *mine})),
    },
)


@agent("boards.fail", retry=Retry(max_attempts=2, base=0.01, cap=0.02))
async def fail(ctx: Context, wake: Wake[Task]) -> Said:
    """Fail, until the test brings luck."""
    if (Path(os.environ["ACME_FLOOR"]) / f"{ctx.run_id}.luck").exists():
        return Said()
    msg = f"no luck with {wake.source}"
    raise ValueError(msg)


@agent("boards.hold")
async def hold(ctx: Context, wake: Wake[Task]) -> Said:  # noqa: ARG001  every source takes one
    """Hold an entry until the test says the word, and then stay until it says the last one."""
    floor = Path(os.environ["ACME_FLOOR"])
    async with ctx.board.lock("count", ttl=1.0):
        (floor / f"{ctx.run_id}.held").touch()
        while not (floor / f"{ctx.run_id}.word").exists():  # noqa: ASYNC110  a test says it by a file
            await asyncio.sleep(POLL)
        await ctx.board.add("count")
    while not (floor / f"{ctx.run_id}.end").exists():  # noqa: ASYNC110  likewise
        await asyncio.sleep(POLL)
    return Said()


@agent("boards.freeze", retry=Retry(max_attempts=2, base=0.01, cap=0.02))
def freeze(ctx: Context, wake: Wake[Task]) -> Said:
    """Lock an entry and stop the whole process, once; then write to it, however long that has taken."""
    floor = Path(os.environ["ACME_FLOOR"])
    held, refused = floor / f"{ctx.run_id}.held", floor / f"{ctx.run_id}.refused"
    with ctx.board.lock("count", ttl=0.3, wait=30.0):
        if held.exists():
            ctx.board.add("count")
            return Said(text="began again")
        ctx.board.write({"count": 1})
        held.with_suffix(".new").write_text(str(os.getpid()))
        held.with_suffix(".new").rename(held)
        # Sent to this thread: sent to the process, another would take it, and this one might write before it stops.
        signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
        try:
            ctx.board.write({"count": 1_000_000 * wake.number})
        except (LockLost, LeaseLost) as error:
            refused.write_text(type(error).__name__)
            raise
    return Said(text="was not stopped")


holding = Blackboard("holding", task=Task, entries={"count": int}, sources=[Source(hold, watch="task")])
# The last writer wins, so that nothing but the fencing token can refuse a write.
freezing = Blackboard(
    "freezing",
    task=Task,
    entries={"count": int},
    sources=[Source(freeze, watch="task")],
    conflicts={"count": LastWriter()},
)
failing = Blackboard("failing", task=Task, entries={"count": int}, sources=[fail, Source(one, watch="task")])
lame = Blackboard(
    "lame", task=Task, entries={"count": int}, sources=[fail, Source(one, watch="task")], otherwise="degrade"
)


@agent("boards.bid")
async def bid(ctx: Context, wake: Wake[Task]) -> Said:
    """Put up a name without looking: all but one rest on an older version."""
    await ctx.board.write({"winner": wake.source}, confidence=0.5)
    return Said()


@agent("boards.judge", retry=Retry(max_attempts=20, base=0.01, cap=0.05))
async def judge(ctx: Context, wake: Wake[Task]) -> Said:
    """Let the last one of the alphabet win, of what stands there and what was proposed."""
    dispute = await ctx.board.get("dispute.winner")
    stands = await ctx.board.get("winner")
    names = [stands.value, *(proposal.value for proposal in dispute.value)]
    await ctx.board.write({"winner": max(names), "dispute.winner": []})
    return Said(text=f"{len(names)} names, asked for {wake.number} times")


auction = Blackboard(
    "auction",
    task=Task,
    entries={"winner": str},
    sources=[Source(bid, watch="task", name=name) for name in ("ann", "bob", "cyd", "dan")],
    conflicts={"winner": Arbiter(judge)},
)


@agent("boards.after")
async def after(ctx: Context, said: Said) -> Said:
    """Come second in a source that is a flow."""
    await ctx.board.add("count", 100)
    return said


twice = Pipeline("twofold", [one, after])
chained = Blackboard("chained", task=Task, entries={"count": int}, sources=[Source(twice, watch="task")])


@agent("boards.prepare")
def prepare(task: Task) -> Task:
    """Come before a board."""
    return task.model_copy(update={"times": task.times + 1})


@agent("boards.tell")
def tell(result: BoardResult) -> Said:
    """Come after a board."""
    return Said(text=f"{result.outcome}: {result.entries}")


between = Pipeline("between", [prepare, chained, tell])


@agent("boards.split")
def split(wake: Wake[Task]) -> Plan:
    """Give out as many numbers as there are weeks."""
    return Plan([Assignment(to="square", input=Said(text=str(number))) for number in range(wake.task.weeks)])


@agent("boards.square")
async def square(said: Said) -> Said:
    """Do a part of the work, without the board."""
    return Said(text=str(int(said.text) ** 2))


@agent("boards.gather")
async def gather(ctx: Context, results: Results[Wake[Task], Said]) -> Said:
    """Write what came of it, and why it was asked for."""
    await ctx.board.append("log", sum(int(said.text) for said in results.values))
    return Said(text=f"{results.task.source} {results.task.number} for {', '.join(results.task.changed)}")


squares = Hierarchy("squares", boss=split, workers=[square], synthesize=gather)
split_up = Blackboard("split-up", task=Task, entries={"log": list[int]}, sources=[Source(squares, watch="task")])


@agent("boards.lead")
def lead(task: Task) -> Plan:
    """Give a board to each of some numbers, and one where somebody fails."""
    numbers = [Assignment(to="chained", input=Task(times=number)) for number in range(task.weeks)]
    return Plan([*numbers, Assignment(to="failing", input=Task(times=1))] if task.how == "fail" else numbers)


@agent("boards.total")
def total(results: Results[Task, BoardResult]) -> Said:
    """Put together what the boards came to."""
    found = [outcome.value for outcome in results.outcomes if outcome.value is not None]
    return Said(text=", ".join(f"{each.outcome} {each.entries['count']}" for each in found))


teams = Hierarchy("teams", boss=lead, workers=[chained, failing], synthesize=total, join=Join(otherwise="fail"))
