"""A blackboard in somebody's hands, on a real server without workers: what is read, written, edited and locked."""

from __future__ import annotations

import asyncio
import math
import threading
from typing import TYPE_CHECKING, Any, cast

import pytest
from pydantic import BaseModel, JsonValue

from orchestrator import Blackboard, HighestConfidence, InvalidInput, LastWriter, Source, Wake, WriteConflict, agent
from orchestrator.errors import LockLost, LockTimeout
from orchestrator.state import keys
from orchestrator.state.boards import Boards
from orchestrator.state.fold_board import fold_board
from orchestrator.state.locks import LockKeeper
from tests.servers import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from redis import Redis

    from orchestrator import Client, Run
    from orchestrator.board.handle import Board
    from orchestrator.state.boards import Locking


class Desk(BaseModel):
    """What the board is about."""


@agent("state.sit")
def sit(wake: Wake[Desk]) -> Desk:
    """Keep the board open: nobody serves its queue."""
    return wake.task


desk = Blackboard(
    "state-desk",
    task=Desk,
    entries={"count": int, "share": float, "last": int, "best": str, "note.*": str, "any": JsonValue},
    sources=[Source(sit, watch="task")],
    conflicts={"last": LastWriter(), "best": HighestConfidence()},
)


@pytest.fixture
def run(client: Client) -> Iterator[Run]:
    """A run whose board is open; its log folds to it in the end."""
    run = client.submit(desk, Desk())
    yield run
    assert client.boards.load(run.id, "board") == fold_board("board", run.events())
    run.cancel()


# Editing


@pytest.mark.parametrize("name", ["count", "last"])
def test_an_edit_loses_nothing_whatever_the_entrys_rule_is(run: Run, name: str) -> None:
    one, other = run.board(by="one"), run.board(by="other")
    run.board().write({name: 0})
    calls: list[int] = []

    def overtaken(value: int) -> int:
        calls.append(value)
        if len(calls) == 1:
            other.edit(name, lambda there: there + 10)
        return value + 1

    one.edit(name, overtaken)
    assert calls == [0, 10]
    assert one.get(name).value == 11


def test_an_edit_asks_for_no_confidence(run: Run) -> None:
    run.board(by="sure").write({"best": "a"}, confidence=0.9)
    calls: list[str] = []

    def overtaken(value: str) -> str:
        calls.append(value)
        if len(calls) == 1:
            run.board(by="surer").write({"best": "b"}, confidence=1.0)
        return f"{value}!"

    assert run.board(by="unsure").edit("best", overtaken) == "b!"


def test_the_rule_of_an_entry_does_not_depend_on_who_made_it(run: Run) -> None:
    # given an entry that an edit has made, whatever it is
    run.board(by="ann").edit("best", lambda _: "a")
    # when somebody writes who has not read it, then who is surer wins, as the board says
    run.board(by="bob").write({"best": "b"}, confidence=0.5)
    assert run.board().get("best").value == "b"


def test_an_edit_that_was_made_before_gives_what_stands_there_and_rests_on_nothing_that_was_not_read(run: Run) -> None:
    board, other = run.board(by="ann"), run.board(by="bob")
    board.edit("count", lambda _: 1, once="first")
    other.edit("count", lambda value: value + 1)
    # when the same is to be done again
    assert board.edit("count", lambda value: value + 1, once="first") == 2
    # then what others write afterwards is not taken for read
    other.edit("count", lambda value: value + 1)
    with pytest.raises(WriteConflict):
        board.write({"count": 100})
    assert other.get("count").value == 3


# Writing


def test_threads_write_at_the_same_time_each_once(run: Run, client: Client) -> None:
    board = run.board(by="ann")
    threads = [threading.Thread(target=lambda: [board.add("count") for _ in range(20)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert board.get("count").value == 160
    # as many writers as wrote at the same time, and not one for each write
    fields = cast("list[bytes]", client.store.client.hkeys(keys.board(run.id, "board")))
    assert 1 <= sum(field.startswith(b"n:") for field in fields) <= len(threads)


@pytest.mark.parametrize(
    ("name", "value"),
    [("share", math.nan), ("share", math.inf), ("any", "\ud800"), ("note.1", "\ud800")],
)
def test_what_nobody_could_read_again_is_not_written(run: Run, name: str, value: object) -> None:
    board = run.board(by="ann")
    writes: tuple[Callable[[], object], ...] = (
        lambda: board.write({name: value}),
        lambda: board.edit(name, lambda _: value),
    )
    for write in writes:
        with pytest.raises(InvalidInput, match="has no JSON"):
            write()
    assert board.get(name) is None


@pytest.mark.parametrize(("name", "amount"), [("share", math.inf), ("share", math.nan), ("any", "x"), ("any", True)])
def test_only_numbers_are_added(run: Run, name: str, amount: Any) -> None:  # noqa: ANN401  the point of it
    board = run.board(by="ann")
    with pytest.raises(InvalidInput, match="add takes a number"):
        board.add(name, amount)


def test_entries_that_are_named_are_read_as_they_stand_together(run: Run) -> None:
    board = run.board(by="ann")
    board.write({"note.1": "a", "note.2": "b", "count": 3})
    found = board.read("note.1", "count", "note.9")
    assert ({name: item.value for name, item in found.items()}, found.writes) == ({"note.1": "a", "count": 3}, 1)
    # and what is written rests on it
    run.board(by="bob").edit("count", lambda value: value + 1)
    with pytest.raises(WriteConflict):
        board.write({"count": 9})


def test_a_server_that_has_forgotten_its_scripts_is_told_them_again(run: Run, client: Client) -> None:
    board = run.board(by="ann")
    for _ in range(2):
        board.add("count")
        client.store.client.script_flush()
    with board.lock("count"):
        client.store.client.script_flush()
    assert board.get("count").value == 2


def test_a_server_that_restarts_again_and_again_knows_each_script_that_it_is_sent(
    run: Run, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = run.board(by="ann")
    connection = client.store.client
    execute: Callable[..., Any] = connection.execute_command

    def forgetting(*args: Any, **options: Any) -> Any:  # noqa: ANN401  redis-py's
        if args[0] == "EVALSHA":
            execute("SCRIPT FLUSH")  # as if it had restarted since the call before, whatever that was
        return execute(*args, **options)

    monkeypatch.setattr(connection, "execute_command", forgetting)
    board.add("count")
    board.add("count")
    assert board.get("count").value == 2


# Locks


def test_a_lock_that_is_given_up_while_it_is_renewed_is_not_lost(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    # given a renewal that comes after the lock was given up, as two threads may have it
    told: list[Callable[[], None]] = []
    monkeypatch.setattr(LockKeeper, "keep", lambda *args, **_: told.append(args[3]))
    board = run.board(by="ann")
    with board.lock("count"):
        board.add("count")
    told[0]()
    # then others may write, and who takes it again holds it
    board.add("count")
    with board.lock("count"):
        told[0]()
        board.add("count")
        told[1]()
        with pytest.raises(LockLost):
            board.add("count")
    board.add("count")


def test_the_keeper_tells_of_no_loss_of_what_is_not_held_any_more(redis_client: Redis) -> None:
    # given a renewal that is under way
    keeper, begun, released = LockKeeper(lambda: redis_client), threading.Event(), threading.Event()
    lost: list[str] = []

    def renew() -> bool:
        begun.set()
        return not released.wait(5)  # it was given up meanwhile

    keeper.keep("one", renew, lambda: lost.append("one"), ttl=0.06)
    assert begun.wait(5)
    # when the lock is given up, and the renewal finds that it is not held
    keeper.release("one")
    released.set()
    keeper.keep("two", lambda: False, lambda: lost.append("two"), ttl=0.06)
    # then that is no loss, unlike another's
    wait_until(lambda: "two" in lost, 5, "the other one is lost")
    assert lost == ["two"]


def test_who_has_waited_long_enough_does_not_wait_once_more(
    run: Run, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given one that waits, whose place in the queue is lost: as where Redis is restarted from what it had saved
    redis = client.store.client
    holder = run.board(by="ann").lock("count", ttl=60.0)
    asked = []
    ask = Boards.lock

    def lock(*args: Any, **kwargs: Any) -> Locking:  # noqa: ANN401  the method's
        found = ask(*args, **kwargs)
        asked.append(redis.hdel(keys.board(run.id, "board"), "#queue"))
        return found

    with holder:
        board = run.board(by="bob")
        monkeypatch.setattr(Boards, "lock", lock)
        # when its time is over, then it is told so, and has not asked again and again
        with pytest.raises(LockTimeout), board.lock("count", wait=0.3):
            pass  # pragma: no cover  it is not free
        assert len(asked) <= 5


def test_who_waits_asks_again_when_the_connection_on_which_it_would_be_told_is_back(run: Run, client: Client) -> None:
    # given one that waits, for a lock that is held for a minute
    redis = client.store.client
    holder = run.board(by="ann").lock("count", ttl=60.0)
    got, ready = threading.Event(), threading.Event()
    board = run.board(by="bob")

    def wait_for_it() -> None:
        ready.set()
        with board.lock("count", wait=30.0):
            got.set()

    with holder:
        waiter = threading.Thread(target=wait_for_it)
        waiter.start()
        ready.wait(5)
        wait_until(lambda: redis.hexists(keys.board(run.id, "board"), "#queue"), 5, "it waits")
        wait_until(lambda: any(redis.pubsub_numsub(client.locks.channel)[0][1:]), 5, "it is listened to")
        # when the connection is cut, and the lock is given up before it is there again: nobody hears of that
        redis.client_kill_filter(_type="pubsub")
        client.boards.unlock(run.id, "board", holder._id, ["count"])  # noqa: SLF001  as its end does
        # then it is held long before the minute is over
        assert got.wait(5)
        waiter.join(5)


def test_coroutines_take_a_lock_in_turn_and_hold_up_nobody(run: Run) -> None:
    async def count(board: Board) -> None:
        for _ in range(5):
            async with board.lock("count"):
                found = await board.get("count")
                await asyncio.sleep(0)
                await board.write({"count": (found.value if found else 0) + 1})

    async def all_of_them() -> None:
        await asyncio.gather(*(count(run.board(by=f"by-{number}")) for number in range(4)))

    asyncio.run(all_of_them())
    assert run.board().get("count").value == 20
