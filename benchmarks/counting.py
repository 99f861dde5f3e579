"""A blackboard with one number on it, and the ways in which a process counts up there, and in plain Redis."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any, Final

from pydantic import BaseModel, SecretStr
from redis import Redis, WatchError

from orchestrator import Blackboard, Client, Context, Limits, Settings, Source, Wake, agent
from orchestrator.state.connection import connect

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.board.handle import Board

KEY: Final = "bench:count"
POLL: Final = 0.005
BARE: Final = "return redis.call('INCRBY', KEYS[1], ARGV[1])"
"""What there is to be done, in a script, and nothing else: no version, no author, no event, nobody who is woken."""


class Empty(BaseModel):
    """Nothing to be said."""


@agent("bench.idle")
def idle(wake: Wake[Empty]) -> Empty:
    """Keep the board open: nobody serves its queue."""
    return wake.task


board = Blackboard(
    "bench-count",
    task=Empty,
    entries={"count": int},
    sources=[Source(idle, watch="task")],
    limits=Limits(writes=1_000_000),
)


class Counting(BaseModel):
    """How often each source is to count, in which way, and how many of them begin together."""

    times: int
    how: str
    sources: int


@agent("bench.counter", timeout=120.0)
def counter(ctx: Context, wake: Wake[Counting]) -> Empty:
    """Count up, when all are there."""
    task, found = wake.task, ctx.board
    found.add("here")
    while found.get("here").value < task.sources:
        time.sleep(POLL)
    count = ON_BOARD[task.how](found)
    for _ in range(task.times):
        count()
    return Empty()


PROCESSES: Final = 8
counters = Blackboard(
    "bench-counters",
    task=Counting,
    entries={"count": int, "here": int},
    sources=[Source(counter, watch="task", name=f"counter-{number}") for number in range(PROCESSES)],
    limits=Limits(writes=1_000_000),
)


def client_of(url: str) -> Client:
    """Return a client of a server."""
    return Client(Settings(redis_url=SecretStr(url), agents=("benchmarks.counting",)))


def _bare(url: str, _: str) -> Callable[[], object]:
    script = Redis.from_url(url).register_script(BARE)
    return lambda: script([KEY], [1])


def _lock(url: str, _: str) -> Callable[[], object]:
    redis = Redis.from_url(url)

    def count() -> None:
        with redis.lock(f"{KEY}:lock", timeout=10):
            redis.set(KEY, int(redis.get(KEY) or 0) + 1)

    return count


def _watch(url: str, _: str) -> Callable[[], object]:
    redis: Any = Redis.from_url(url)

    def count() -> None:
        with redis.pipeline() as pipe:
            while True:
                try:
                    pipe.watch(KEY)
                    found = int(pipe.get(KEY) or 0)
                    pipe.multi()
                    pipe.set(KEY, found + 1)
                    pipe.execute()
                except WatchError:
                    continue
                return

    return count


def _on_board(url: str, run: str) -> Any:  # noqa: ANN401  a board's methods give anything
    return client_of(url).get(run).board(by="bench")


def _add(found: Board) -> Callable[[], object]:
    return lambda: found.add("count")


def _edit(found: Board) -> Callable[[], object]:
    return lambda: found.edit("count", lambda value: (value or 0) + 1)


def _locked(found: Board) -> Callable[[], object]:
    def count() -> None:
        with found.lock("count"):
            item = found.get("count")
            found.write({"count": (item.value if item else 0) + 1})

    return count


ON_BOARD: Final = {"board.add": _add, "board.edit": _edit, "board.lock": _locked}
WAYS: Final[dict[str, Callable[[str, str], Callable[[], object]]]] = {
    "bare script": _bare,
    "redis-py Lock": _lock,
    "redis-py WATCH": _watch,
    **{
        name: lambda url, run, way=way: way(_on_board(url, run))  # type: ignore[misc]  # a lambda with a default
        for name, way in ON_BOARD.items()
    },
}
PLAIN: Final = ("bare script", "redis-py Lock", "redis-py WATCH")


def main() -> None:
    """Count up so often, from the moment that is given; tell when it is done."""
    url, way, run, times = sys.argv[1:]
    count = WAYS[way](url, run)
    gate = connect(Settings(redis_url=SecretStr(url)))
    gate.rpush("bench:here", "1")
    gate.blpop(["bench:go"], timeout=60)
    begun = time.perf_counter()
    for _ in range(int(times)):
        count()
    gate.rpush("bench:done", time.perf_counter() - begun)


if __name__ == "__main__":
    main()
