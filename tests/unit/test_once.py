"""`ctx.once` as an agent's own tests see it: no Redis, awaited in async agents and called in sync ones."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel

from orchestrator import InvalidInput
from orchestrator.testing import fake_context

if TYPE_CHECKING:
    from collections.abc import Callable


class Receipt(BaseModel):
    """What a payment gives."""

    number: int
    lines: tuple[str, ...] = ()


def test_in_a_sync_agent_it_is_called_and_does_its_work_once() -> None:
    ctx, done = fake_context(), []

    def charge() -> dict[str, int]:
        done.append("charged")
        return {"number": len(done)}

    assert ctx.once("charge", charge) == {"number": 1}
    assert ctx.once("charge", charge) == {"number": 1}
    assert done == ["charged"]


def test_in_an_async_agent_it_is_awaited_and_its_work_may_be_a_coroutine() -> None:
    ctx, done = fake_context(), []

    async def charge() -> Receipt:
        await asyncio.sleep(0)
        done.append("charged")
        return Receipt(number=len(done), lines=("a",))

    async def handle() -> list[Receipt]:
        return [await ctx.once("charge", charge, returns=Receipt) for _ in range(2)]

    # the type is back where it is named, the first time as the second
    assert asyncio.run(handle()) == [Receipt(number=1, lines=("a",))] * 2
    assert done == ["charged"]


def test_an_async_agent_may_give_it_a_plain_function() -> None:
    ctx = fake_context()

    async def handle() -> Any:  # noqa: ANN401  JSON
        pending: Any = ctx.once("number", lambda: 7)
        return await pending

    assert asyncio.run(handle()) == 7


def test_what_fails_is_not_recorded() -> None:
    ctx = fake_context()

    def fail() -> int:
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        ctx.once("charge", fail)
    assert ctx.once("charge", lambda: 3) == 3


def test_a_result_of_none_is_a_result() -> None:
    ctx, done = fake_context(), []
    for _ in range(2):
        assert ctx.once("notify", lambda: done.append("sent")) is None
    assert done == ["sent"]


@pytest.mark.parametrize("made", [Receipt(number=1), (1, 2), {"at": (1,)}])
def test_a_result_that_json_does_not_give_back_needs_its_type(made: object) -> None:
    with pytest.raises(InvalidInput, match=r"pass returns="):
        fake_context().once("charge", lambda: made)


@pytest.mark.parametrize("name", ["", "n" * 101, "a\ud800", "a\nb"])
def test_a_name_is_short(name: str) -> None:
    with pytest.raises(InvalidInput, match="1 to 100 printable characters"):
        fake_context().once(name, lambda: 1)


def test_a_coroutine_that_waits_is_refused_in_a_sync_agent() -> None:
    async def wait() -> int:
        await asyncio.sleep(0)
        return 1

    once: Callable[..., object] = fake_context().once
    for make in (wait, lambda: wait()):  # noqa: PLW0108  what the call finds out only when it has made it
        with pytest.raises(InvalidInput, match="takes a plain function"):
            once("wait", make)
