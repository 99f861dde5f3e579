"""
Boards against a model: who is woken, what he is told, and when a board is at its end, in whatever order things happen.

Hypothesis draws the sources, what they watch and wait for, and then any order of writes, beginnings and ends. The model
says who must be at work after each of them, from the words of the documentation alone.
"""

from __future__ import annotations

import time
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final, NamedTuple, cast

import hypothesis
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from orchestrator.board.conditions import Condition, Count, Entry
from orchestrator.state.boards import Author, Boards, Put
from orchestrator.state.fold import fold
from orchestrator.state.fold_board import fold_board
from orchestrator.state.runs import Begun, Refused, RunStore
from tests.state.test_boards import BOARD, rules, source, submit

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis import Redis

    from orchestrator import Settings
    from tests.servers import Server

ENTRIES: Final = ("a", "b", "c")
Standing = dict[str, tuple[int, int]]
"""By entry, its value and the number of the write that it was changed by."""


class Wanted(NamedTuple):
    """A condition, and the same as a function of what stands on the board."""

    rule: Condition | None
    holds: Callable[[Standing], bool]


def later(on: Standing, one: str, *others: str) -> bool:
    """Tell whether an entry was changed after all others that are there."""
    return one in on and all(on[one][1] > on[other][1] for other in others if other in on)


CONDITIONS: Final = (
    Wanted(None, lambda _: True),
    Wanted(Entry("a"), lambda on: "a" in on),
    Wanted(Entry("b").value > 1, lambda on: "b" in on and on["b"][0] > 1),
    Wanted(Count("*") >= 2, lambda on: len(on) >= 2),
    Wanted(~Entry("c"), lambda on: "c" not in on),
    Wanted(Entry("a").after("b"), lambda on: later(on, "a", "b")),
    Wanted(Entry("c").after("*"), lambda on: later(on, "c", "a", "b")),
    Wanted((Entry("a").value == 1) | (Entry("b").value == 1), lambda on: any(on[e][0] == 1 for e in "ab" if e in on)),
)
GOALS: Final = (
    Wanted(None, lambda _: False),
    Wanted(Entry("c").value == 3, lambda on: "c" in on and on["c"][0] == 3),
    Wanted(Entry("a").after("*") & (Count("*") == 3), lambda on: len(on) == 3 and later(on, "a", "b", "c")),
)


class Modelled:
    """A source as the documentation has it."""

    def __init__(self, name: str, watch: str, when: Wanted, priority: int, *, own: bool) -> None:
        self.name, self.watch, self.when, self.priority, self.own = name, watch, when, priority, own
        self.number, self.since = 0, 0
        self.changed: set[str] = set()
        self.told: set[str] = set()
        self.busy = ""
        """Empty, `ready` or `running`."""

    @property
    def step(self) -> str:
        """The step of its wake."""
        return f"{self.name}#{self.number}"


drawn = st.tuples(st.sampled_from(("*", "a", "b c", "task", "task a", "c")), st.sampled_from(CONDITIONS), st.booleans())


class BoardMachine(RuleBasedStateMachine):
    """A board, its sources, and somebody who writes from outside."""

    def __init__(self, store: RunStore) -> None:
        super().__init__()
        self.store, self.boards = store, Boards(store)
        self.number = self.seq = self.turn = 0
        self.sources: dict[str, Modelled] = {}
        self.begun: dict[str, Begun] = {}
        self.on: Standing = {}
        self.outcome, self.closing = "", ""

    @initialize(
        first=drawn,
        others=st.lists(drawn, min_size=1, max_size=3),
        width=st.integers(1, 4),
        goal=st.sampled_from(GOALS),
    )
    def open(
        self, first: tuple[str, Wanted, bool], others: list[tuple[str, Wanted, bool]], width: int, goal: Wanted
    ) -> None:
        """Open it; the first source is woken by that, so that something is."""
        made = [("task " + first[0], CONDITIONS[0], first[2]), *others]
        for place, (watch, when, own) in enumerate(made):
            name = f"s{place}"
            self.sources[name] = Modelled(name, watch, when, len(made) - place, own=own)
        self.width, self.goal = width, goal
        of = rules(
            *(
                source(one.name, one.watch, one.when.rule, priority=one.priority, own=one.own)
                for one in self.sources.values()
            ),
            goal=goal.rule,
            width=width,
            otherwise="degrade",
            max_wakes=10_000,
            max_writes=10_000,
        )
        self.run = submit(self.store, of)
        self._change("task", by="")
        self._wake()

    def teardown(self) -> None:
        """Let nothing stay."""
        if hasattr(self, "run"):
            self.store.cancel(self.run, reason="", by="")

    # The model

    def _change(self, entry: str, by: str) -> None:
        self.turn += 1
        for one in self.sources.values():
            if any(fnmatchcase(entry, pattern) for pattern in one.watch.split()) and (one.name != by or one.own):
                one.since = one.since if one.changed else self.turn
                one.changed.add(entry)

    def _wake(self) -> None:
        while sum(bool(one.busy) for one in self.sources.values()) < self.width:
            able = [one for one in self.sources.values() if one.changed and not one.busy and one.when.holds(self.on)]
            if not able:
                break
            woken = max(able, key=lambda one: one.priority)
            woken.busy, woken.number, woken.told = "ready", woken.number + 1, set()
        if not any(one.busy for one in self.sources.values()):
            self.outcome = "quiet"

    def _ended(self, one: Modelled) -> None:
        one.busy = ""
        self.begun.pop(one.name, None)
        if self.closing:
            self.outcome = "goal"
        else:
            self._wake()

    # What happens

    def _of(self, busy: str, place: int) -> Modelled | None:
        able = [one for one in self.sources.values() if one.busy == busy and (self.closing in {"", one.name})]
        return able[place % len(able)] if able and not self.outcome else None

    @rule(place=st.integers(0, 3))
    def begin(self, place: int) -> None:
        """A worker takes a wake: it is told all that has changed until now."""
        one = self._of("ready", place)
        if one is None:
            return
        self.number += 1
        begun = self.store.begin(self.run, one.step, agent=one.name, nonce=f"n{self.number}", worker="w")
        assert isinstance(begun, Begun), begun
        one.told |= one.changed
        assert set(begun.step.changed) == one.told
        one.busy, one.changed = "running", set()
        self.begun[one.name] = begun

    @rule(place=st.integers(0, 3), names=st.sets(st.sampled_from(ENTRIES), min_size=1), value=st.integers(0, 3))
    def write(self, place: int, names: set[str], value: int) -> None:
        """A source at work writes some entries at once; where none is, a person does."""
        if self.outcome or self.closing:
            return
        one = self._of("running", place)
        self.number += 1
        by = Author(name="ann", writer="ann")
        if one is not None:
            begun = self.begun[one.name]
            by = Author(name=one.name, writer=begun.fence, step=begun.step.name, fence=begun.fence)
        puts = [Put(name=name, how="set", value=b"%d" % value) for name in sorted(names)]
        assert self.boards.write(self.run, BOARD, by, self.number, puts).what == "written"
        self.seq += 1
        for name in names:
            self.on[name] = (value, self.seq)
            self._change(name, by="" if one is None else one.name)
        if not self.goal.holds(self.on):
            self._wake()
        elif one is None:
            self.outcome = "goal"
        else:
            self.closing = one.name

    @rule(place=st.integers(0, 3), fails=st.booleans())
    def end(self, place: int, fails: bool) -> None:  # noqa: FBT001  drawn
        """A source at work is done, or fails for good, which is no end of the board's."""
        one = self._of("running", place)
        if one is not None:
            begun = self.begun[one.name]
            if fails:
                self.store.fail(begun, "planted")
            else:
                self.store.commit(begun, b"1")
            self._ended(one)

    @rule(place=st.integers(0, 3))
    def lose(self, place: int) -> None:
        """An attempt is lost: the wake is begun again, and told again; what the first one writes now is refused."""
        one = self._of("running", place)
        if one is None or self.closing:
            return
        lost = self.begun.pop(one.name)
        self.store.postpone(lost, 0, "lost")
        deadline = time.monotonic() + 5
        while self.store.wake([(self.run, one.step)]) != ["ready"]:
            assert time.monotonic() < deadline
        one.busy = "ready"
        self.number += 1
        by = Author(name=one.name, writer=lost.fence, step=one.step, fence=lost.fence)
        wrote = self.boards.write(self.run, BOARD, by, self.number, [Put(name="a", how="set", value=b"9")])
        assert wrote.what == "stale"

    @precondition(lambda self: bool(self.outcome))
    @rule()
    def write_too_late(self) -> None:
        """After the end nobody writes, and nobody begins."""
        self.number += 1
        put = Put(name="a", how="set", value=b"9")
        wrote = self.boards.write(self.run, BOARD, Author(name="ann", writer="ann"), self.number, [put])
        assert wrote.what in {"ended", "closed"}  # the board, or its run with it
        for one in self.sources.values():
            if one.number:
                assert isinstance(self.store.begin(self.run, one.step, agent=one.name, nonce="x", worker="w"), Refused)

    @invariant()
    def it_is_as_the_model_says(self) -> None:
        """Those are at work who must be, and the board has ended where nobody is; the log folds to both."""
        if not hasattr(self, "run"):
            return
        events = self.store.events(self.run)
        state, board = self.store.load(self.run), self.boards.load(self.run, BOARD)
        assert board is not None
        assert (state, board) == (fold(self.run, events), fold_board(BOARD, events))
        at_work = {step.name: step.status for step in state.steps if step.status in {"ready", "running", "delayed"}}
        at_work.pop(BOARD, None)
        if self.outcome:
            assert (board.status, board.outcome, at_work) == ("ended", self.outcome, {})
            return
        wanted = {one.step: one.busy for one in self.sources.values() if one.busy}
        if self.closing:
            wanted = {step: busy for step, busy in wanted.items() if step.startswith(f"{self.closing}#")}
        assert at_work == wanted
        assert {name: int(entry.value) for name, entry in board.entries.items()} == {  # type: ignore[arg-type]  # a number
            name: value for name, (value, _) in self.on.items()
        }


@pytest.mark.parametrize("times", [1, pytest.param(10, marks=pytest.mark.chaos)])
@pytest.mark.timeout(600)  # where it fails, the shortest example is worth waiting for
def test_who_is_to_be_woken_is_and_a_board_ends_when_nobody_is(
    server: Server, redis_client: Redis, settings: Settings, times: int
) -> None:
    # given a store of runs
    store = RunStore(redis_client, settings)

    # when boards are written to and looked at in orders that Hypothesis chooses, then the model is right
    run_state_machine_as_test(
        cast("type[BoardMachine]", lambda: BoardMachine(store)),  # documented as a class or a function that makes one
        settings=hypothesis.settings(
            max_examples=times * (60 if server.kind == "valkey" else 10),
            stateful_step_count=30,
            deadline=None,
            print_blob=True,
            report_multiple_bugs=False,
        ),
    )
