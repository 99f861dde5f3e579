"""Threads whose calls can be interrupted and given up."""

from __future__ import annotations

import threading
import time

from orchestrator.runtime.threads import DaemonExecutor, Execution, Threads

LONG = 10.0


def test_a_call_that_is_given_up_as_it_ends_leaves_no_other_without_a_thread() -> None:
    # given a call that is given up while its result is handed over
    threads, handed = Threads(), threading.Event()
    made: list[Execution[int]] = []

    def hand_over(_: object) -> None:
        made[0].give_up()
        handed.set()

    made.append(Execution(lambda: 1, hand_over))
    threads.run(made[0])
    assert handed.wait(LONG)
    # when another one follows, then it is made
    ran = threading.Event()
    threads.run(Execution(lambda: None, lambda _: ran.set()))
    assert ran.wait(LONG)
    threads.stop()


def test_a_call_that_is_given_up_ends_at_its_next_line_and_its_thread_with_it() -> None:
    # given a call that never ends by itself
    threads, begun, ended = Threads(), threading.Event(), threading.Event()

    def spin() -> None:
        begun.set()
        try:
            while True:
                time.sleep(0.005)
        finally:
            ended.set()

    reported = threading.Event()
    execution = Execution(spin, lambda _: reported.set())
    threads.run(execution)
    assert begun.wait(LONG)
    # when it is given up
    execution.give_up()
    # then it ends, is reported, and its thread is gone
    assert ended.wait(LONG)
    assert reported.wait(LONG)
    assert len(threads) == 0


def test_an_executor_runs_no_more_calls_at_once_than_it_may() -> None:
    executor, lock, now, most = DaemonExecutor(3, "test"), threading.Lock(), [0], [0]

    def call(number: int) -> int:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.01)
        with lock:
            now[0] -= 1
        return number

    futures = [executor.submit(call, number) for number in range(20)]
    assert [future.result(LONG) for future in futures] == list(range(20))
    assert most[0] == 3
