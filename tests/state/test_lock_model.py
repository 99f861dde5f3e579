"""
Locks on a board against a model: whatever is acquired, renewed, released, slept over and written, nothing stale counts.

Hypothesis drives any order of steps; the model is told what Redis said, and holds it to its promises. A holder that
sleeps past its time stands for a process that was stopped: it goes on as if nothing had happened.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, cast

import hypothesis
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    rule,
    run_state_machine_as_test,
)

from orchestrator.messages import MAX_STEPS, BoardRules, PlanStep, SourceRules
from orchestrator.state.boards import Author, Boards, Put
from orchestrator.state.fold_board import fold_board
from orchestrator.state.runs import Begun, RunStore, Submission

if TYPE_CHECKING:
    from redis import Redis

    from orchestrator import Settings
    from tests.servers import Server

ENTRIES = ("a", "b", "c")
SHORT, LONG = 0.02, 600.0
"""Seconds: a lock that a sleep outlasts, and one that none does."""
SLEEP = 0.025
SOURCES = ("one", "two")


class Held:
    """A lock as its holder sees it: who, what, by which token, and whether it may still count on it."""

    def __init__(self, by: Author, lock: str, names: tuple[str, ...], ttl: float) -> None:
        self.by, self.lock, self.names, self.ttl = by, lock, names, ttl
        self.token, self.over, self.until, self.latest = "", False, 0.0, float("inf")


class LockMachine(RuleBasedStateMachine):
    """Two steps and two outsiders who lock, write, sleep and lose their steps."""

    locks: Bundle[Held] = Bundle("locks")

    def __init__(self, store: RunStore) -> None:
        super().__init__()
        self.store, self.number = store, 0
        sources = tuple(
            SourceRules(name=name, watch=("task",), priority=0, own=False, steps=(PlanStep(name="", agent=name),))
            for name in SOURCES
        )
        rules = BoardRules(
            sources=sources,
            otherwise="degrade",
            width=len(sources),
            max_wakes=10_000,
            max_writes=100_000,
            max_entries=10,
            max_bytes=1000,
            max_total=10_000,
            max_steps=MAX_STEPS,
        )
        plan = (PlanStep(name="board", agent="f", rules=rules),)
        submission = Submission(flow="f", plan=plan, value=b"1", tags={}, deadline=600.0, retention=60.0)
        self.run = self.store.submit([submission])[0].run_id
        self.boards = Boards(self.store)
        self.begun: dict[str, Begun] = {name: self._begin(f"{name}#1") for name in SOURCES}
        self.owner: dict[str, Held] = {}
        """By entry, whose lock Redis said it is, until it said or time told that it is not."""
        self.written: dict[str, int] = {}
        self.waiting: list[Held] = []

    def teardown(self) -> None:
        """Let nothing stay."""
        self.store.cancel(self.run, reason="", by="")

    def _begin(self, step: str) -> Begun:
        self.number += 1
        found = self.store.begin(self.run, step, agent=step[:3], nonce=f"n{self.number}", worker="w")
        assert isinstance(found, Begun), found
        return found

    def _author(self, who: str) -> Author:
        if who not in self.begun:
            return Author(name=who, writer=who)
        begun = self.begun[who]
        return Author(name=who, writer=begun.fence, step=begun.step.name, fence=begun.fence)

    def _live(self, held: Held) -> bool:
        """
        Whether nothing is known that ends it: its own end, its step's, or its time, of which a little is unsure.

        Asked after a call it tells that it was so at the call: this process may have stood still on the way there.
        """
        return not held.over and time.monotonic() < held.until

    def _ask(self, held: Held, wait: float) -> str:
        asked = time.monotonic()
        said = self.boards.lock(self.run, "board", held.by, held.lock, held.names, ttl=held.ttl, wait=wait, channel="")
        if said.what == "locked":
            held.token = said.token
            # From when it was asked at the earliest: what Redis may count from later is no promise.
            held.until = asked + said.left - 0.002
            held.latest = time.monotonic() + said.left + 0.002
            for name in held.names:
                before = self.owner.get(name)
                assert before is None or before is held or not self._live(before), "two hold the same entry"
                self.owner[name] = held
            if held in self.waiting:
                self._was_first(held)
                self.waiting.remove(held)
        return said.what

    def _was_first(self, held: Held) -> None:
        """Nobody may get what somebody has waited for longer, unless that was over: with its step, or unused."""
        for earlier in self.waiting[: self.waiting.index(held)]:
            assert earlier.over or earlier.ttl == SHORT or not set(earlier.names) & set(held.names), (
                "the queue was jumped"
            )

    @rule(
        target=locks,
        who=st.sampled_from((*SOURCES, "ann", "bob")),
        names=st.lists(st.sampled_from(ENTRIES), min_size=1, max_size=3, unique=True),
        ttl=st.sampled_from((SHORT, LONG)),
        wait=st.sampled_from((0.0, LONG)),
    )
    def acquire(self, who: str, names: list[str], ttl: float, wait: float) -> Held:
        """Ask for a lock; one that is asked for before its turn waits, or not."""
        self.number += 1
        held = Held(self._author(who), f"l{self.number}", tuple(names), ttl)
        said = self._ask(held, wait)
        assert said in {"locked", "waiting", "busy", "stale"}, said
        if said == "waiting":
            self.waiting.append(held)
        elif said != "locked":
            held.over = True
        return held

    @rule(held=locks)
    def ask_again(self, held: Held) -> None:
        """Ask what has come of it: what is held stays held, under the same token."""
        token, until = held.token, held.until
        if held.over or (token and not self._live(held)):
            return
        said = self._ask(held, LONG)
        if token and time.monotonic() < until:
            assert (said, held.token) == ("locked", token)

    @rule(held=locks)
    def extend(self, held: Held) -> None:
        """Renew it: one that is live stays, one that was lost does not come back."""
        asked = time.monotonic()
        kept = self.boards.extend(self.run, "board", held.lock, held.names, ttl=held.ttl)
        if held.token and self._live(held):
            assert kept
        if held.over:
            assert not kept
        assert not (kept and asked > held.latest), "a lock came back that was lost"
        if kept and held.token:
            held.until, held.latest = asked + held.ttl - 0.002, time.monotonic() + held.ttl + 0.002

    @rule(held=consumes(locks))
    def release(self, held: Held) -> None:
        """Give it up, or the wait for it."""
        released = self.boards.unlock(self.run, "board", held.lock, held.names)
        if held.token and self._live(held):
            assert released
        if held.over:
            assert not released
        held.over = True
        if held in self.waiting:
            self.waiting.remove(held)

    @rule(held=locks, name=st.sampled_from(ENTRIES))
    def write_with_token(self, held: Held, name: str) -> None:
        """Write by the token: only while it holds."""
        if not held.token or name not in held.names:
            return
        other = self.owner.get(name)
        self.number += 1
        put = Put(name=name, how="set", value=b"%d" % self.number, token=held.token)
        asked = time.monotonic()
        wrote = self.boards.write(self.run, "board", held.by, self.number, [put])
        if wrote.what == "written":
            assert not held.over, "a stale write was accepted"
            assert asked <= held.latest, "a write was accepted after its lock's time"
            others = other is not None and other is not held and self._live(other)
            assert not others, "a write was accepted that another's lock should have kept off"
            self.written[name] = self.number
        else:
            assert not self._live(held), "a write was refused that holds its lock"
            assert wrote.what in {"refused", "stale", "closed"}

    @rule(who=st.sampled_from((*SOURCES, "ann")), name=st.sampled_from(ENTRIES))
    def write_without(self, who: str, name: str) -> None:
        """Write without a lock: not where another holds one."""
        other = self.owner.get(name)
        self.number += 1
        put = Put(name=name, how="set", value=b"%d" % self.number)
        wrote = self.boards.write(self.run, "board", self._author(who), self.number, [put])
        if wrote.what == "written":
            locked = other is not None and self._live(other)
            assert not locked, "a write was accepted that a lock should have kept off"
            self.written[name] = self.number

    @rule()
    def sleep(self) -> None:
        """Stand still for longer than a short lock lasts."""
        time.sleep(SLEEP)

    @rule(who=st.sampled_from(SOURCES))
    def lose_the_step(self, who: str) -> None:
        """A step is taken for dead and begun again: what its first attempt holds is free, what it writes is refused."""
        before, stale = self.begun[who], self._author(who)
        self.store.postpone(before, 0, "lost")
        deadline = time.monotonic() + 5
        while self.store.wake([(self.run, before.step.name)]) != ["ready"]:
            assert time.monotonic() < deadline
        self.begun[who] = self._begin(before.step.name)
        for held in {*self.owner.values(), *self.waiting}:
            if held.by.fence == before.fence:
                held.over = True
        for name, held in self.owner.items():
            # One that waits may have it by now, and not have asked yet.
            if held.by.fence == before.fence and not any(name in waiter.names for waiter in self.waiting):
                self.number += 1
                put = Put(name=name, how="set", value=b"%d" % self.number)
                wrote = self.boards.write(self.run, "board", self._author("ann"), self.number, [put])
                assert wrote.what == "written", "a lock outlives its step"
                self.written[name] = self.number
        self.number += 1
        wrote = self.boards.write(self.run, "board", stale, self.number, [Put(name="a", how="set", value=b"0")])
        assert wrote.what == "stale"

    @invariant()
    def what_was_accepted_stands(self) -> None:
        """The board holds what was last accepted, and its log folds to it."""
        found = self.boards.load(self.run, "board")
        assert found is not None
        assert {name: entry.value for name, entry in found.entries.items()} == self.written
        assert fold_board("board", self.store.events(self.run)) == found


@pytest.mark.parametrize("times", [1, pytest.param(10, marks=pytest.mark.chaos)])
@pytest.mark.timeout(600)  # where it fails, the shortest example is worth waiting for
def test_no_stale_write_is_ever_accepted(server: Server, redis_client: Redis, settings: Settings, times: int) -> None:
    # given a store of runs
    store = RunStore(redis_client, settings)

    # when locks are taken, kept, lost and used in orders that Hypothesis chooses, then nothing that must hold is broken
    run_state_machine_as_test(
        cast("type[LockMachine]", lambda: LockMachine(store)),  # documented as a class or a function that makes one
        settings=hypothesis.settings(
            max_examples=times * (25 if server.kind == "valkey" else 10),
            stateful_step_count=40,
            deadline=None,
            print_blob=True,
            report_multiple_bugs=False,
        ),
    )
