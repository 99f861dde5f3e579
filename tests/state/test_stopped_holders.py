"""
Locks in the hands of real processes that are stopped past their time, in any order: no stale write is ever accepted.

Each holder is a process with the locks' own thread, which renews what it holds. SIGSTOP stops both, in the middle of
whatever they do; SIGCONT lets them go on as if nothing had happened.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import hypothesis
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from orchestrator.state.fold_board import fold_board
from tests.state.holder import ENTRIES, TTL, Nothing, held

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator import Client, Settings
    from tests.servers import Server

NAMES: Final = ("one", "two", "three")
CHECKOUT: Final = Path(__file__).parents[2]


class Holder:
    """A process, and what it thinks it holds."""

    def __init__(self, url: str, name: str) -> None:
        self.name, self.stopped, self.stopped_at = name, False, 0.0
        self.locks: tuple[str, ...] = ()
        self.lapsed = False
        """Whether it was stopped for longer than they last."""
        self.process = subprocess.Popen(  # noqa: S603  our own command
            [sys.executable, "-m", "tests.state.holder", url, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=CHECKOUT,
        )

    def tell(self, *words: object) -> str:
        """Let it do something; return what it says."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def stop(self) -> None:
        """Stop it where it is."""
        os.kill(self.process.pid, signal.SIGSTOP)
        if not self.stopped:
            self.stopped, self.stopped_at = True, time.monotonic()

    def go_on(self) -> None:
        """Let it go on."""
        # What it had sent before may have come to Redis a little later.
        self.lapsed |= self.stopped and time.monotonic() - self.stopped_at > 2 * TTL
        os.kill(self.process.pid, signal.SIGCONT)
        self.stopped = False

    def end(self) -> None:
        """End it."""
        self.process.kill()
        self.process.communicate()


class StoppedMachine(RuleBasedStateMachine):
    """Processes that lock, write, stop and go on; `owner` is who was last told that an entry is his."""

    def __init__(self, client: Client, holders: dict[str, Holder]) -> None:
        super().__init__()
        self.client, self.holders, self.number = client, holders, 0
        self.run = client.submit(held, Nothing())
        self.owner: dict[str, str] = {}
        self.written: dict[str, int] = {}
        for holder in holders.values():
            assert holder.tell("run", self.run.id) == "done"
            holder.locks = ()

    def teardown(self) -> None:
        """Let all go on, and nothing stay."""
        for holder in self.holders.values():
            holder.go_on()
            holder.tell("release")
        self.run.cancel()

    @rule(name=st.sampled_from(NAMES), entries=st.sampled_from([("a",), ("b",), ("a", "b"), ("b", "a")]))
    def lock(self, name: str, entries: tuple[str, ...]) -> None:
        """Ask for a lock, and wait for none."""
        holder = self.holders[name]
        if holder.stopped or holder.locks:
            return
        said = holder.tell("lock", *entries)
        assert said in {"done", "LockTimeout"}
        if said == "done":
            holder.locks, holder.lapsed = entries, False
            self.owner |= dict.fromkeys(entries, name)

    @rule(name=st.sampled_from(NAMES))
    def release(self, name: str) -> None:
        """Give up what it holds, or thinks it does."""
        holder = self.holders[name]
        if holder.stopped or not holder.locks:
            return
        assert holder.tell("release") == "done"
        for entry in holder.locks:
            if self.owner.get(entry) == name:
                del self.owner[entry]
        holder.locks = ()

    @rule(name=st.sampled_from(NAMES))
    def stop(self, name: str) -> None:
        """Stop a process, in whatever its threads are at."""
        self.holders[name].stop()

    @rule(name=st.sampled_from(NAMES), other=st.sampled_from(NAMES))
    def outlast(self, name: str, other: str) -> None:
        """Stop one for longer than its locks last, let another have them, and the first write when it goes on."""
        holder = self.holders[name]
        if not holder.locks:
            return
        holder.stop()
        time.sleep(3 * TTL)
        self.lock(other, holder.locks)
        self.go_on_and_write(name, 0)

    @rule(name=st.sampled_from(NAMES), place=st.integers(0, 1))
    def go_on_and_write(self, name: str, place: int) -> None:
        """Let a process go on, and write to what it holds, or thinks it does."""
        holder = self.holders[name]
        holder.go_on()
        entry = (holder.locks or ENTRIES)[place % len(holder.locks or ENTRIES)]
        self.number += 1
        said = holder.tell("write", entry, self.number)
        assert said in {"done", "LockLost", "WriteConflict"}
        if said == "done":
            if holder.locks:
                assert self.owner.get(entry) == name, "a stale write was accepted: the entry is another's"
                assert not holder.lapsed, "a stale write was accepted: its lock's time was over"
            self.written[entry] = self.number

    @rule()
    def sleep(self) -> None:
        """Let the locks of those run out that are stopped: whoever is at work renews his."""
        time.sleep(1.5 * TTL)

    @invariant()
    def what_was_accepted_stands(self) -> None:
        """The board holds what was last accepted, and its log folds to it."""
        found = self.client.boards.load(self.run.id, "board")
        assert found is not None
        assert {name: entry.value for name, entry in found.entries.items()} == self.written
        assert fold_board("board", self.run.events()) == found


@pytest.fixture
def holders(settings: Settings) -> Iterator[dict[str, Holder]]:
    """The processes; they are ended, stopped or not."""
    assert settings.redis_url is not None
    made = {name: Holder(settings.redis_url.get_secret_value(), name) for name in NAMES}
    yield made
    for holder in made.values():
        holder.end()


@pytest.mark.timeout(600)  # where it fails, the shortest example is worth waiting for
def test_no_write_of_a_process_that_was_stopped_past_its_lock_is_accepted(
    server: Server, client: Client, holders: dict[str, Holder]
) -> None:
    run_state_machine_as_test(
        # Documented as a class or a function that makes one.
        cast("type[StoppedMachine]", lambda: StoppedMachine(client, holders)),
        settings=hypothesis.settings(
            max_examples=12 if server.kind == "valkey" else 3,
            stateful_step_count=20,
            deadline=None,
            print_blob=True,
            report_multiple_bugs=False,
        ),
    )
