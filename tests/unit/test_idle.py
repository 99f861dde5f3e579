"""The idle timeout of a coroutine, on an event loop whose time passes only while nothing is to be done."""

from __future__ import annotations

import asyncio
import math
import pickle
import selectors
import threading
from typing import TYPE_CHECKING, TypeVar, TypeVarTuple, Unpack

import pytest

from orchestrator.errors import InvalidPolicy
from orchestrator.resilience.idle import IdleTimeout, IdleWatch, watched

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from contextvars import Context

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Jumping(selectors.SelectSelector):
    """Waits for nothing: where the loop would wait, its time has passed."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = super().select(0)
        assert found or timeout is not None, "the loop would wait for ever"
        if not found and timeout is not None:
            self.now += max(0.0, timeout)
        return found


class Loop(asyncio.SelectorEventLoop):
    """
    An event loop with a time of its own.

    Attributes:
        armed: how many timers have been set.
    """

    def __init__(self) -> None:
        self.jumping = Jumping()
        self.armed = 0
        super().__init__(self.jumping)

    def time(self) -> float:
        return self.jumping.now

    def block(self, seconds: float) -> None:
        """Let time pass as code does that does not await."""
        self.jumping.now += seconds

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        self.armed += 1
        return super().call_at(when, callback, *args, context=context)


def run(main: Callable[[Loop, IdleWatch], Coroutine[object, object, T]], *, limit: float = 1.0) -> T:
    """Run a test's coroutine, given the loop and a watch by its time."""
    loop = Loop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(main(loop, IdleWatch(limit, loop.time)))


def test_a_coroutine_that_is_silent_is_given_up_and_cleans_up() -> None:
    # given a coroutine that never beats
    cleaned: list[float] = []

    async def silent(loop: Loop) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.25)
            cleaned.append(loop.time())

    async def main(loop: Loop, watch: IdleWatch) -> None:
        # when it is watched
        with pytest.raises(IdleTimeout, match=r"^no heartbeat for 1 s$"):
            await watched(silent(loop), watch)

        # then it is given up at the limit, after its finally block, and the task is not cancelled
        assert cleaned == [pytest.approx(1.25)]
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        await asyncio.sleep(10)

    run(main)


def test_beats_put_the_end_off() -> None:
    async def main(loop: Loop, watch: IdleWatch) -> None:
        # given a coroutine that beats for a while, each time within the limit, and then no more
        async def slows_down() -> None:
            for _ in range(10):
                await asyncio.sleep(0.9)
                watch.beat()
            await asyncio.sleep(60)

        # when it is watched
        with pytest.raises(IdleTimeout):
            await watched(slows_down(), watch)

        # then it is given up a limit after its last beat
        assert loop.time() == pytest.approx(10.0)

    run(main)


def test_many_beats_cost_no_timers() -> None:
    async def main(loop: Loop, watch: IdleWatch) -> int:
        # given a coroutine that beats a thousand times within two limits, without awaiting a timer of its own
        async def busy() -> int:
            for _ in range(1000):
                loop.block(0.002)
                watch.beat()
                await asyncio.sleep(0)
            return loop.armed

        return await watched(busy(), watch)

    # then the timer was armed at the start, and once each time it ran out in between
    assert run(main) <= 3


def test_what_the_coroutine_returns_comes_through_and_no_timer_is_left() -> None:
    async def main(loop: Loop, watch: IdleWatch) -> None:
        async def quick() -> str:
            await asyncio.sleep(0.5)
            return "done"

        assert await watched(quick(), watch) == "done"
        # A timer that is left would cancel the task while it does something else.
        await asyncio.sleep(5)
        assert loop.time() == pytest.approx(5.5)

    run(main)


def test_its_start_counts_as_a_beat() -> None:
    async def main(_: Loop, watch: IdleWatch) -> str:
        # given a watch that is old when the coroutine starts
        await asyncio.sleep(5)
        assert watch.remaining() == 0
        return await watched(asyncio.sleep(0.9, "done"), watch)

    assert run(main) == "done"


def test_what_the_coroutine_raises_comes_through() -> None:
    async def main(_: Loop, watch: IdleWatch) -> None:
        async def broken() -> None:
            await asyncio.sleep(0.5)
            raise LookupError("own")

        async def cancels_itself() -> None:
            await asyncio.sleep(0)
            raise asyncio.CancelledError("own")

        with pytest.raises(LookupError, match="own"):
            await watched(broken(), watch)
        with pytest.raises(asyncio.CancelledError, match="own"):
            await watched(cancels_itself(), watch)
        await asyncio.sleep(5)

    run(main)


def test_a_cancellation_from_outside_stays_one() -> None:
    async def main(_: Loop, watch: IdleWatch) -> None:
        # given a watched coroutine in a task
        task = asyncio.create_task(watched(asyncio.sleep(60), watch))
        await asyncio.sleep(0.5)

        # when the task is cancelled before the limit
        task.cancel("the run has ended")

        # then that is what it ends with
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()

    run(main)


def test_a_cancellation_from_outside_wins_over_the_limit_at_the_same_time() -> None:
    async def main(loop: Loop, watch: IdleWatch) -> None:
        task = asyncio.create_task(watched(asyncio.sleep(60), watch))
        await asyncio.sleep(0)
        loop.call_at(1.0, task.cancel)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()

    run(main)


def test_a_cancellation_during_the_cleaning_up_wins_too() -> None:
    async def main(loop: Loop, watch: IdleWatch) -> None:
        # given a coroutine that has been given up and cleans up slowly
        async def slow_to_go() -> None:
            try:
                await asyncio.sleep(60)
            finally:
                await asyncio.sleep(5)

        task = asyncio.create_task(watched(slow_to_go(), watch))
        # when the task is cancelled meanwhile
        loop.call_at(2.0, task.cancel)
        # then it ends as cancelled, at once
        with pytest.raises(asyncio.CancelledError):
            await task
        assert loop.time() == pytest.approx(2.0)

    run(main)


def test_an_output_in_spite_of_the_cancellation_is_kept() -> None:
    async def main(_: Loop, watch: IdleWatch) -> None:
        # given a coroutine that returns what it has when it is given up
        async def partial() -> str:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                return "half"
            return "whole"

        assert await watched(partial(), watch) == "half"
        # then the task goes on as if nothing had been
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0

    run(main)


def test_an_error_in_the_cleaning_up_comes_through() -> None:
    async def main(_: Loop, watch: IdleWatch) -> None:
        async def breaks() -> None:
            try:
                await asyncio.sleep(60)
            finally:
                raise LookupError("while closing")

        with pytest.raises(LookupError, match="while closing"):
            await watched(breaks(), watch)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0

    run(main)


def test_the_attempts_timeout_around_it_holds() -> None:
    async def main(loop: Loop, watch: IdleWatch) -> None:
        async def beats() -> None:
            while True:
                await asyncio.sleep(0.5)
                watch.beat()

        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(3.2):
                await watched(beats(), watch)
        assert not isinstance(caught.value, IdleTimeout)
        assert loop.time() == pytest.approx(3.2)

    run(main)


def test_inside_the_attempts_timeout_the_limit_is_told_apart() -> None:
    async def main(_: Loop, watch: IdleWatch) -> None:
        with pytest.raises(IdleTimeout):
            async with asyncio.timeout(3.2):
                await watched(asyncio.sleep(60), watch)

    run(main)


def test_tasks_of_the_coroutine_end_with_it() -> None:
    async def main(_: Loop, watch: IdleWatch) -> None:
        # given a coroutine whose work is done by tasks of a group
        ended: list[str] = []

        async def member(name: str) -> None:
            try:
                await asyncio.sleep(60)
            finally:
                ended.append(name)

        async def group() -> None:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(member("a"))
                tasks.create_task(member("b"))

        with pytest.raises(IdleTimeout):
            await watched(group(), watch)
        assert sorted(ended) == ["a", "b"]

    run(main)


def test_a_loop_that_another_coroutine_has_blocked_is_no_silence() -> None:
    async def main(loop: Loop, watch: IdleWatch) -> str:
        # given a coroutine that beats in time, and another that blocks the loop for three limits
        async def beats() -> str:
            for _ in range(8):
                await asyncio.sleep(0.5)
                watch.beat()
            return "done"

        loop.call_at(0.6, loop.block, 3.0)
        return await watched(beats(), watch)

    # then the first is not given up for the second
    assert run(main) == "done"


def test_a_coroutine_that_blocks_the_loop_itself_is_given_up_all_the_same() -> None:
    async def main(loop: Loop, watch: IdleWatch) -> None:
        # given a coroutine that never beats, and blocks the loop again and again
        async def blocks() -> None:
            while loop.time() < 100:
                loop.block(2.0)
                await asyncio.sleep(0.01)

        with pytest.raises(IdleTimeout):
            await watched(blocks(), watch)
        # then it was spared once, and no more
        assert loop.time() < 10

    run(main)


def test_it_is_awaited_in_a_task() -> None:
    # given a coroutine that is driven by hand
    loop = asyncio.new_event_loop()
    inner = asyncio.sleep(0)
    outcome: list[str] = []

    def drive() -> None:
        try:
            watched(inner, IdleWatch(1.0)).send(None)
        except RuntimeError as error:
            outcome.append(str(error))
        loop.stop()

    loop.call_soon(drive)
    loop.run_forever()
    loop.close()
    assert outcome == ["watched() is awaited in an asyncio task"]


def test_the_watch_tells_how_long_nobody_has_beaten() -> None:
    # given a watch with a clock of the test's
    now = [100.0]
    watch = IdleWatch(5.0, lambda: now[0])

    # when time passes, then it counts
    assert (watch.idle_for(), watch.remaining()) == (0.0, 5.0)
    now[0] += 3.0
    assert (watch.idle_for(), watch.remaining()) == (3.0, 2.0)
    now[0] += 30.0
    assert (watch.idle_for(), watch.remaining()) == (33.0, 0.0)

    # when another thread beats, then it starts anew
    thread = threading.Thread(target=watch.beat)
    thread.start()
    thread.join()
    assert (watch.idle_for(), watch.remaining()) == (0.0, 5.0)


@pytest.mark.parametrize("limit", [0, -1.0, math.inf, math.nan, True, "5", None])
def test_a_limit_that_does_not_fit_is_an_error_that_names_the_line(limit: float) -> None:
    with pytest.raises(InvalidPolicy) as caught:
        IdleWatch(limit)
    assert caught.value.args[1].startswith(f"{__file__}:")
    assert caught.value.args[2] == f"idle must be above 0 s and finite, not {limit!r}"


def test_the_error_survives_its_way_to_another_process() -> None:
    rebuilt = pickle.loads(pickle.dumps(IdleTimeout(2.5)))  # noqa: S301  our own
    assert isinstance(rebuilt, IdleTimeout)
    assert str(rebuilt) == "no heartbeat for 2.5 s"
    assert str(IdleTimeout(*IdleTimeout(2.5).args)) == "no heartbeat for 2.5 s"
