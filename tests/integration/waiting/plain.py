"""What asyncio promises, observed: the same lines wherever the coroutine runs."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

colour: ContextVar[str] = ContextVar("colour", default="none")


class OddError(Exception):
    """What a part raises."""


async def part(number: int) -> int:
    await asyncio.sleep(0.001 * number)
    if number == 3:
        msg = f"part {number}"
        raise OddError(msg)
    return number


async def observations() -> tuple[str, ...]:
    """Use asyncio in many ways; return what was seen."""
    return (
        *await _timeouts(),
        *await _cancellations(),
        *await _gathers(),
        *await _groups(),
        *await _contexts(),
        *await _queues(),
    )


async def _timeouts() -> list[str]:
    seen, short, long = [], asyncio.timeout(0.01), asyncio.timeout(60)
    try:
        async with short:
            await asyncio.sleep(60)
    except TimeoutError:
        seen.append(f"timeout expired {short.expired()}")
    try:
        async with asyncio.timeout(0.01), long:
            await asyncio.sleep(60)
    except TimeoutError:
        seen.append(f"the other timeout expired {long.expired()}")
    try:
        await asyncio.wait_for(asyncio.sleep(60), 0.01)
    except TimeoutError as error:
        seen.append(f"wait_for {type(error).__name__} {error}")
    async with asyncio.timeout(60) as unused:
        await asyncio.sleep(0)
    seen.append(f"unused timeout expired {unused.expired()}")
    return seen


async def _cancellations() -> list[str]:
    seen = []
    task = asyncio.current_task()
    assert task is not None
    task.cancel("by itself")
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError as error:
        seen.append(f"cancelled {error.args} {task.cancelling()} {task.uncancel()}")
    await asyncio.sleep(0)
    child = asyncio.create_task(asyncio.sleep(60))
    await asyncio.sleep(0)
    child.cancel("a child")
    try:
        await child
    except asyncio.CancelledError:
        seen.append(f"child {child.cancelled()} {task.cancelling()}")
    inner = asyncio.ensure_future(part(1))
    shielded = asyncio.shield(inner)
    shielded.cancel()
    seen.append(f"shielded {await inner} {shielded.cancelled()}")
    return seen


async def _gathers() -> list[str]:
    seen = [f"gathered {await asyncio.gather(*map(part, (2, 1, 0)))}"]
    try:
        await asyncio.gather(asyncio.gather(part(1), part(3)), asyncio.gather(part(0), part(5)))
    except OddError as error:
        seen.append(f"gather raised {error!r}")
    both = await asyncio.gather(
        asyncio.gather(part(3), part(1), return_exceptions=True), part(3), return_exceptions=True
    )
    seen.append(f"gathered {both}")
    done, pending = await asyncio.wait([asyncio.create_task(part(number)) for number in (0, 1)])
    seen.append(f"waited {sorted(one.result() for one in done)} {len(pending)}")
    seen.append(f"completed {[await one for one in asyncio.as_completed([part(200), part(1)])]}")
    return seen


async def _groups() -> list[str]:
    seen, others = [], []
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(part(number)) for number in (2, 1)]
    seen.append(f"group {[task.result() for task in tasks]}")
    try:
        async with asyncio.TaskGroup() as group:
            others.append(group.create_task(asyncio.sleep(60)))
            group.create_task(part(3))
            await asyncio.sleep(60)
    except* OddError as raised:
        seen.append(f"group raised {raised.exceptions!r} {[other.cancelled() for other in others]}")
    try:
        async with asyncio.timeout(0.01), asyncio.TaskGroup() as group:
            others.append(group.create_task(asyncio.sleep(60)))
    except TimeoutError:
        seen.append(f"group timed out {[other.cancelled() for other in others]}")
    task = asyncio.current_task()
    seen.append(f"cancelling {task.cancelling() if task else None}")
    return seen


async def _contexts() -> list[str]:
    async def own(name: str) -> str:
        before = colour.get()
        colour.set(name)
        await asyncio.sleep(0.001)
        return f"{before}>{colour.get()}"

    seen = [f"first {colour.get()}"]
    colour.set("red")
    children = [
        await own("pink"),
        *await asyncio.gather(own("blue"), own("green")),
        await asyncio.create_task(own("x")),
    ]
    async with asyncio.TaskGroup() as group:
        member = group.create_task(own("y"))
    seen.append(f"children {children} {member.result()} {await asyncio.to_thread(colour.get)} own {colour.get()}")
    return seen


async def _queues() -> list[str]:
    queue: asyncio.Queue[int] = asyncio.Queue(1)
    lock, seen = asyncio.Lock(), []

    async def put() -> None:
        for number in range(3):
            async with lock:
                await queue.put(number)

    putting = asyncio.create_task(put())
    seen.append(f"queue {[await queue.get() for _ in range(3)]}")
    await putting

    async def numbers() -> AsyncGenerator[int]:
        try:
            for number in range(3):
                await asyncio.sleep(0)
                yield number
        finally:
            seen.append("generator closed")

    found = numbers()
    async for number in found:
        seen.append(f"number {number}")
        break
    await found.aclose()
    return seen
