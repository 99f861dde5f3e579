"""The Redis client of an event loop's greenlets: calls that go out together, and each one's own errors."""

from __future__ import annotations

import contextvars
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, cast

import pytest

from orchestrator.runtime.batching import BatchingRedis
from orchestrator.runtime.bridge import TaskGreenlet, run_coroutine
from orchestrator.runtime.loop import AgentLoop
from tests.servers import on_valkey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.servers import Server


@pytest.fixture
def loop() -> Iterator[AgentLoop]:
    made = AgentLoop(2)
    made.start()
    yield made
    made.stop()


@pytest.fixture
def client(server: Server) -> Iterator[BatchingRedis]:
    made = cast("BatchingRedis", BatchingRedis.from_url(server.url))
    made.flushdb()
    yield made
    made.close()


def outcomes(loop: AgentLoop, calls: list[Callable[[], Any]]) -> list[Any]:
    """Make each call in a greenlet of its own, all in one turn; return what they gave or raised."""
    found: SimpleQueue[tuple[int, Any]] = SimpleQueue()

    def make(number: int, call: Callable[[], Any]) -> None:
        try:
            found.put((number, call()))
        except Exception as error:  # noqa: BLE001  it is what the call gave
            found.put((number, error))

    def start() -> None:
        for number, call in enumerate(calls):
            loop.host.turn(TaskGreenlet(loop.host, partial(make, number, call)))

    loop.call(start)
    return [outcome for _, outcome in sorted((found.get(timeout=10) for _ in calls), key=lambda one: one[0])]


@on_valkey
def test_calls_of_one_turn_go_out_together(loop: AgentLoop, client: BatchingRedis) -> None:
    before = client.info("stats")["total_reads_processed"]
    assert outcomes(loop, [partial(client.incrby, "count", n) for n in range(100)])[-1] == sum(range(100))
    # a read of the server's for each batch, and not for each call
    assert client.info("stats")["total_reads_processed"] - before < 50


@on_valkey
def test_a_call_that_cannot_be_written_fails_alone(loop: AgentLoop, client: BatchingRedis) -> None:
    no_value: Any = {}
    calls: list[Callable[[], Any]] = [
        partial(client.set, "a", 1),
        partial(client.set, "bad \ud800", 1),
        partial(client.set, "b", no_value),
        client.ping,
    ]
    first, surrogate, mapping, last = outcomes(loop, calls)
    assert (first, last) == (True, True)
    assert isinstance(surrogate, UnicodeEncodeError)
    assert type(mapping).__name__ == "DataError"


@on_valkey
def test_an_error_reply_is_its_callers_alone(loop: AgentLoop, client: BatchingRedis) -> None:
    client.set("text", "no number")
    failed, fine = outcomes(loop, [lambda: client.incr("text"), lambda: client.incr("number")])
    assert type(failed).__name__ == "ResponseError"
    assert fine == 1


def test_coroutines_of_one_thread_share_no_context() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="none")

    async def use(value: str) -> str:
        before = variable.get()
        variable.set(value)
        return before

    assert [run_coroutine(use(value)) for value in ("a", "b")] == ["none", "none"]
