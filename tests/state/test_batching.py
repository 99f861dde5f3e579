"""The Redis client of an event loop's greenlets: calls that go out together, and each one's own errors."""

from __future__ import annotations

import contextvars
import os
import signal
import threading
from contextlib import contextmanager
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, cast

import pytest
import redis

from orchestrator.runtime.batching import BatchingRedis
from orchestrator.runtime.bridge import TaskGreenlet, run_coroutine
from orchestrator.runtime.loop import AgentLoop
from tests.servers import on_valkey, start_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

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


class Interrupted(Exception):
    """Raised in the midst of a call."""


@contextmanager
def in_the_midst(do: Callable[[], object]) -> Iterator[None]:
    """Do something in this thread after a moment, as a signal's handler does."""
    before = signal.signal(signal.SIGALRM, lambda *_: do())
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        yield
    finally:
        signal.signal(signal.SIGALRM, before)


def interrupt() -> None:
    raise Interrupted


def taken(client: redis.Redis) -> int:
    """Return how many connections are out of the client's pool."""
    counts = client.connection_pool.get_connection_count()
    return sum(count for count, facts in counts if "used" in facts.values())


@on_valkey
def test_a_thread_keeps_its_connection_until_it_ends(client: BatchingRedis) -> None:
    # given a thread that has made calls, and one that still makes some
    before = {client.client_id() for _ in range(3)}
    ids: list[int] = []
    ended = threading.Thread(target=lambda: ids.extend(client.client_id() for _ in range(3)))
    ended.start()
    ended.join()

    # then each has had one of its own, and what the ended one had is the next one's
    assert len(before) == len(set(ids)) == 1
    assert before.isdisjoint(ids)
    assert taken(client) == 1
    following = threading.Thread(target=lambda: ids.append(client.client_id()))
    following.start()
    following.join()
    assert len(set(ids)) == 1


@on_valkey
def test_a_reply_that_nobody_waited_for_is_not_read_by_the_next_call(client: BatchingRedis) -> None:
    # given a call that is interrupted while it waits, as by a soft time limit, and whose reply comes afterwards
    client.ping()
    with in_the_midst(interrupt), pytest.raises(Interrupted):
        client.blpop(["list"], timeout=10)
    client.rpush("list", "late")

    # then the next one has its own
    assert client.echo("mine") == b"mine"


@on_valkey
@pytest.mark.parametrize("along", [(), ("ECHO", "theirs")], ids=["alone", "along"])
def test_a_reply_to_a_call_that_was_only_sent_is_not_read_by_the_next_one(
    client: BatchingRedis, monkeypatch: pytest.MonkeyPatch, along: tuple[str, ...]
) -> None:
    # given a call that is interrupted when it is sent and nothing of its reply is read
    if along:
        client.along(*along)
    with monkeypatch.context() as patched:
        patched.setattr(client, "parse_response", lambda *_, **__: interrupt())
        with pytest.raises(Interrupted):
            client.echo("theirs")

    # then the next one has its own
    assert client.echo("mine") == b"mine"


@on_valkey
def test_a_signals_handler_may_call_in_the_midst_of_a_call(client: BatchingRedis) -> None:
    client.ping()
    with in_the_midst(lambda: client.rpush("list", client.echo("pushed"))):
        assert client.blpop(["list"], timeout=10) == (b"list", b"pushed")
    assert client.echo("mine") == b"mine"
    assert taken(client) == 1


@on_valkey
def test_an_error_reply_leaves_the_connection_as_it_is(client: BatchingRedis) -> None:
    before = client.client_id()
    client.set("text", "no number")
    with pytest.raises(redis.ResponseError):
        client.incr("text")
    assert client.client_id() == before


@on_valkey
def test_a_timeout_tells_the_caller_and_leaves_no_reply_behind(server: Server) -> None:
    # given a client that tries once, and a server that answers too late
    client = cast("BatchingRedis", BatchingRedis.from_url(server.url, socket_timeout=0.2, retry=None))
    client.delete("list")
    with pytest.raises(redis.TimeoutError):
        client.execute_command("BLPOP", "list", 1)
    client.rpush("list", "late")
    assert client.echo("mine") == b"mine"
    client.close()


def test_a_call_survives_a_server_that_was_started_again(tmp_path: Path) -> None:
    server = start_server("valkey", tmp_path)
    client = cast("BatchingRedis", BatchingRedis.from_url(server.url))
    script = client.register_script("return 1")
    assert script() == 1
    server.stop()
    server = start_server("valkey", tmp_path, port=server.port)
    try:
        # neither the connection nor the script is there any more
        assert script() == 1
    finally:
        client.close()
        server.stop()


@on_valkey
def test_a_forked_child_has_a_connection_of_its_own(client: BatchingRedis) -> None:
    before = client.client_id()
    pid = os.fork()
    if pid == 0:
        same = True
        try:
            same = client.client_id() == before
        finally:
            os._exit(same)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert client.client_id() == before


@on_valkey
def test_a_call_goes_along_with_the_next_one(loop: AgentLoop, client: BatchingRedis) -> None:
    def both() -> tuple[Any, Any]:
        along = client.along("INCRBY", "count", 5)
        return client.set("a", 1), along.end()

    def reads() -> int:
        return int(client.info("stats")["total_reads_processed"])

    # when one is sent from a thread, then after the other and in the same write
    before = reads()
    assert both() == (True, 5)
    assert reads() - before == 2  # the second is that of `info`

    # and from a greenlet it is the same, once it is connected
    outcomes(loop, [client.ping])
    before = reads()
    assert outcomes(loop, [both]) == [(True, 10)]
    assert reads() - before == 2


@on_valkey
def test_a_call_that_found_none_to_go_along_with_is_not_sent(client: BatchingRedis) -> None:
    along = client.along("SET", "a", 1)
    assert along.end() is None
    client.ping()
    assert client.get("a") is None


@on_valkey
def test_neither_of_two_calls_fails_with_the_other(loop: AgentLoop, client: BatchingRedis) -> None:
    client.set("text", "no number")

    def failing() -> Any:  # noqa: ANN401
        along = client.along("INCR", "number")
        with pytest.raises(redis.ResponseError):
            client.incr("text")
        return along.end()

    def beside_failing() -> Any:  # noqa: ANN401
        along = client.along("INCR", "text")
        return client.incr("number"), along.end()

    assert [failing(), *outcomes(loop, [failing])] == [1, 2]
    assert [beside_failing(), *outcomes(loop, [beside_failing])] == [(3, None), (4, None)]
