"""Blackboards in Redis, without workers: who is woken, what is written or refused, who holds a lock, how they end."""

from __future__ import annotations

import time
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.board.conditions import Condition, Count, Entry, matches
from orchestrator.messages import MAX_STEPS, BoardRules, BoardState, Member, PlanStep, RunState, SourceRules, Terms
from orchestrator.state.boards import Author, Boards, Put, Wrote
from orchestrator.state.fan_outs import FanOuts
from orchestrator.state.fold import fold
from orchestrator.state.fold_board import fold_board
from orchestrator.state.runs import Begun, Refused, RunStore, Submission
from tests.servers import no_key_left_without_ttl_or_declaration, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from redis import Redis

    from orchestrator import Settings
    from orchestrator.state.boards import Locking

BOARD = "board"


@pytest.fixture
def store(redis_client: Redis, settings: Settings) -> Iterator[RunStore]:
    """A store; what it leaves behind is looked at."""
    store = RunStore(redis_client, settings.model_copy(update={"max_attempts": 2}))
    yield store
    no_key_left_without_ttl_or_declaration(redis_client)


@pytest.fixture
def boards(store: RunStore) -> Boards:
    """The boards of that store."""
    return Boards(store)


def source(name: str, watch: str = "*", when: Condition | None = None, **more: Any) -> SourceRules:  # noqa: ANN401
    steps = more.pop("steps", (PlanStep(name="", agent=name),))
    rule = None if when is None else when.as_rule()
    return SourceRules(
        name=name, watch=tuple(watch.split()), when=rule, **{"priority": 0, "own": False, **more}, steps=steps
    )


def rules(*sources: SourceRules, goal: Condition | None = None, **more: Any) -> BoardRules:  # noqa: ANN401
    limits = {
        "max_wakes": 100,
        "max_writes": 1000,
        "max_entries": 5,
        "max_bytes": 100,
        "max_total": 300,
        "max_steps": MAX_STEPS,
    }
    conditions = [Condition(list(each.when)) for each in sources if each.when is not None]
    conditions += [] if goal is None else [goal]
    return BoardRules(
        sources=sources,
        goal=None if goal is None else goal.as_rule(),
        asked=tuple(name for each in conditions for name in each.names()),
        **{"otherwise": "fail", "width": len(sources), **limits, **more},
    )


def submit(store: RunStore, of: BoardRules, *, after: tuple[PlanStep, ...] = ()) -> str:
    following = after[0].name if after else None
    plan = (PlanStep(name=BOARD, agent="rota", rules=of, next=following), *after)
    submission = Submission(flow="rota", plan=plan, value=b'{"people":3}', tags={}, deadline=60.0, retention=60.0)
    return store.submit([submission])[0].run_id


def of_board(of: BoardRules) -> PlanStep:
    return PlanStep(name=BOARD, agent="rota", rules=of)


def planned(store: RunStore, *plan: PlanStep, deadline: float = 60.0) -> str:
    submission = Submission(flow="rota", plan=plan, value=b"1", tags={}, deadline=deadline, retention=60.0)
    return store.submit([submission])[0].run_id


def begin(store: RunStore, run: str, name: str) -> Begun:
    step = store.load(run).step(name)
    assert step is not None
    begun = store.begin(run, name, agent=step.agent, nonce=name, worker="w")
    assert isinstance(begun, Begun), begun
    return begun


def ready(store: RunStore, run: str) -> list[str]:
    return [step.name for step in store.load(run).steps if step.status == "ready"]


def by(begun: Begun | None = None, name: str = "person") -> Author:
    if begun is None:
        return Author(name=name, writer=name)
    return Author(name=begun.step.name.partition("#")[0], writer=begun.fence, step=begun.step.name, fence=begun.fence)


class Pen:
    """Writes one entry at a time."""

    def __init__(self, boards: Boards, run: str, begun: Begun | None = None, name: str = "person") -> None:
        self.boards, self.run, self.by, self.number = boards, run, by(begun, name), 0

    def put(self, name: str, value: bytes = b"1", **more: Any) -> Wrote:  # noqa: ANN401
        return self.puts(Put(**{"name": name, "how": "set", "value": value, **more}))

    def puts(self, *puts: Put, once: str = "") -> Wrote:
        self.number += 1
        return self.boards.write(self.run, BOARD, self.by, self.number, puts, once=once)

    def lock(self, lock: str, *names: str, ttl: float = 5.0, wait: float = 5.0) -> Locking:
        return self.boards.lock(self.run, BOARD, self.by, lock, names, ttl=ttl, wait=wait, channel="")


def board(store: RunStore, run: str) -> BoardState:
    """Return the board as it is stored, which is what its log folds to; so is the run."""
    events = store.events(run)
    stored, folded = Boards(store).load(run, BOARD), fold_board(BOARD, events)
    assert stored is not None
    assert stored == folded
    state: RunState = store.load(run)
    assert fold(run, events) == state
    return stored


# Waking


def test_a_board_wakes_at_its_opening_who_watches_its_task(store: RunStore) -> None:
    run = submit(store, rules(source("fill"), source("audit", "week.*"), source("later", "task", Entry("week.1"))))
    assert ready(store, run) == ["fill#1"]
    begun = begin(store, run, "fill#1")
    assert (begun.value, begun.step.changed, begun.step.source) == (b'{"people":3}', ("task",), "fill")
    board(store, run)


def test_a_condition_can_ask_for_what_is_later_than_all_of_a_pattern(store: RunStore, boards: Boards) -> None:
    later = Entry("audit").after("week.*")
    run = submit(store, rules(source("fill", "task"), source("print", "*", later)))
    pen = Pen(boards, run, begin(store, run, "fill#1"))
    # when there is none, or one of them is as late, then it does not hold
    pen.put("week.1", version=0)
    pen.puts(*(Put(name=name, how="set", value=b"1", version=0) for name in ("audit", "week.2")))
    assert ready(store, run) == []
    pen.put("week.1", b"2", version=1)
    assert ready(store, run) == []
    # when it is later than all, then it does
    pen.put("audit", b"2", version=1)
    assert ready(store, run) == ["print#1"]
    board(store, run)


def test_a_change_wakes_who_watches_it_once_however_often_it_comes(store: RunStore, boards: Boards) -> None:
    run = submit(store, rules(source("fill", "task"), source("audit", "week.*"), source("other", "note.*")))
    pen = Pen(boards, run, begin(store, run, "fill#1"))
    # when a burst comes
    wrote = pen.put("week.1", version=0)
    assert wrote.change is not None
    assert wrote.change.ready == (("audit#1", "audit"),)
    pen.put("week.2", version=0)
    pen.put("week.1", b"2", version=1)
    # then the audit is woken once, and told of all
    assert ready(store, run) == ["audit#1"]
    audit = begin(store, run, "audit#1")
    assert audit.step.changed == ("week.1", "week.2")
    # and what comes while it looks wakes it again when it is done
    pen.put("week.2", b"3", version=1)
    assert ready(store, run) == []
    change = store.commit(audit, b"1")
    assert change.ready == (("audit#2", "audit"),)
    assert begin(store, run, "audit#2").step.changed == ("week.2",)
    board(store, run)


def test_a_source_is_not_woken_by_itself_unless_it_asks(store: RunStore, boards: Boards) -> None:
    run = submit(store, rules(source("fill"), source("keen", own=True)))
    for name in ("fill#1", "keen#1"):
        begun = begin(store, run, name)
        Pen(boards, run, begun).put(name.partition("#")[0], version=0)
        store.commit(begun, b"1")
    # each was woken by the other's, the keen one maybe by its own as well
    assert ready(store, run) == ["fill#2", "keen#2"]
    assert begin(store, run, "fill#2").step.changed == ("keen",)
    assert begin(store, run, "keen#2").step.changed == ("keen",)


def test_a_condition_is_waited_for_and_what_changed_is_kept(store: RunStore, boards: Boards) -> None:
    enough = (Count("week.*") >= 2) & (Entry("audit").field("open") == 0)
    run = submit(store, rules(source("fill", "task"), source("improve", "week.*", enough)))
    pen = Pen(boards, run, begin(store, run, "fill#1"))
    pen.put("week.1", version=0)
    pen.put("week.2", version=0)
    pen.put("audit", b'{"open":3}', version=0)
    assert ready(store, run) == []
    # nothing that it watches changes, but its condition comes true
    pen.put("audit", b'{"open":0}', version=1)
    store.commit(begin_again(store, run, "fill#1"), b"1")
    assert ready(store, run) == ["improve#1"]
    assert begin(store, run, "improve#1").step.changed == ("week.1", "week.2")
    board(store, run)


def test_a_condition_is_waited_for_though_nobody_watches_what_it_asks_for(store: RunStore, boards: Boards) -> None:
    run = submit(store, rules(source("fill", "task"), source("print", "task", Entry("plan").value == 1)))
    pen = Pen(boards, run, begin(store, run, "fill#1"))
    pen.put("plan", b"0", version=0)
    assert ready(store, run) == []
    wrote = pen.put("plan", b"1", version=1)
    assert wrote.change is not None
    assert wrote.change.ready == (("print#1", "print"),)
    board(store, run)


def begin_again(store: RunStore, run: str, name: str) -> Begun:
    """Return an execution that has begun: the same nonce gets the same answer."""
    step = store.load(run).step(name)
    assert step is not None
    begun = store.begin(run, name, agent=step.agent, nonce=name, worker="w")
    assert isinstance(begun, Begun)
    return begun


def test_those_of_a_higher_priority_are_woken_first_where_there_is_no_room_for_all(store: RunStore) -> None:
    sources = [source("low", priority=-1), source("first"), source("second"), source("high", priority=5)]
    run = submit(store, rules(*sources, width=1))
    order = []
    while names := ready(store, run):
        order += names
        store.commit(begin(store, run, names[0]), b"1")
    assert order == ["high#1", "first#1", "second#1", "low#1"]
    assert store.load(run).status == "completed"
    board(store, run)


def test_another_attempt_is_told_what_the_first_was_told(store: RunStore, boards: Boards) -> None:
    run = submit(store, rules(source("fill", "task"), source("audit", "week.*")))
    pen = Pen(boards, run, begin(store, run, "fill#1"))
    pen.put("week.1", version=0)
    store.postpone(begin(store, run, "audit#1"), 0, "again")
    pen.put("week.2", version=0)
    wait_until(lambda: store.wake([(run, "audit#1")]) == ["ready"], 5, "its delay is over")
    assert begin(store, run, "audit#1").step.changed == ("week.1", "week.2")
    board(store, run)


def test_a_source_that_is_a_flow_is_woken_when_all_of_it_is_done(store: RunStore, boards: Boards) -> None:
    steps = (PlanStep(name="a", agent="a", next="b"), PlanStep(name="b", agent="b"))
    run = submit(store, rules(source("fill", "task"), source("flow", "week.*", steps=steps)))
    pen = Pen(boards, run, begin(store, run, "fill#1"))
    pen.put("week.1", version=0)
    assert ready(store, run) == ["flow#1/a"]
    store.commit(begin(store, run, "flow#1/a"), b'"a"')
    pen.put("week.1", b"2", version=1)
    begun = begin(store, run, "flow#1/b")
    assert begun.value == b'"a"'
    # what a step of the flow writes is the source's own
    Pen(boards, run, begun).put("week.2", version=0)
    assert store.commit(begun, b'"b"').ready == (("flow#2/a", "a"),)
    assert begin(store, run, "flow#2/a").step.changed == ("week.1",)
    board(store, run)


# Writing


def test_a_write_is_refused_that_rests_on_another_version_and_told_what_stands(store: RunStore, boards: Boards) -> None:
    run = submit(store, rules(source("fill")))
    pen = Pen(boards, run)
    assert pen.put("plan", b'{"a":[]}', version=0).what == "written"
    before = board(store, run)
    for version in (0, 2):
        wrote = pen.puts(
            Put(name="other", how="set", version=0), Put(name="plan", how="set", version=version, value=b"2")
        )
        assert wrote.what == "refused"
        assert wrote.refusals is not None
        refusal = wrote.refusals["plan"]
        assert (refusal.why, refusal.entry and refusal.entry.value) == ("conflict", {"a": []})
    # all or none: nothing has changed
    assert board(store, run) == before
    assert pen.puts(Put(name="plan", how="set", version=1, value=b"2"), Put(name="x", how="check", version=0)).seq == 2


@pytest.mark.parametrize(
    ("rule", "confidence", "why"),
    [
        ("reject", 1.0, "conflict"),
        ("merge", 1.0, "conflict"),
        ("last", None, None),
        ("confidence", 0.9, None),
        ("confidence", 0.5, "weaker"),
        ("confidence", None, "weaker"),
    ],
)
def test_where_two_rest_on_the_same_version_the_rule_decides(
    store: RunStore, boards: Boards, rule: str, confidence: float | None, why: str | None
) -> None:
    run = submit(store, rules(source("fill")))
    pen = Pen(boards, run)
    pen.put("plan", b"1", version=0, rule=rule, confidence=0.5)
    wrote = pen.put("plan", b"2", version=0, rule=rule, confidence=confidence)
    found = board(store, run).entries["plan"]
    if why is None:
        assert (wrote.what, found.value, found.version) == ("written", 2, 2)
    else:
        assert wrote.refusals is not None
        assert (wrote.refusals["plan"].why, found.value) == (why, 1)


def test_numbers_and_lists_are_added_to_whatever_others_do(store: RunStore, boards: Boards) -> None:
    run = submit(store, rules(source("fill")))
    pen = Pen(boards, run)
    for value in (b"2", b"-5", b"0.25"):
        pen.put("count", value, how="add")
    for value in (b"{}", b"[]", b'"x"'):
        pen.put("log", value, how="append")
    entries = board(store, run).entries
    assert (entries["count"].value, entries["log"].value) == (-2.75, [{}, [], "x"])
    # and what is none is left alone
    for how in ("add", "append"):
        pen.put("text", b'"x"', version=None, rule="last")
        wrote = pen.put("text", b"1", how=how)
        assert wrote.refusals is not None
        assert wrote.refusals["text"].why == "kind"


@pytest.mark.parametrize(
    ("values", "stands"),
    [
        ((b"9007199254740990", b"1"), 2**53 - 1),
        ((b"0.1", b"0.2"), 0.1 + 0.2),
        ((b"1.5", b"1.5"), 3.0),
        ((b"1e300", b"1e300"), 2e300),
        ((b"9007199254740992.0", b"3"), 9007199254740996.0),
        ((b"-0.0", b"0"), 0.0),
    ],
)
def test_a_sum_is_what_its_log_folds_to(
    store: RunStore, boards: Boards, values: tuple[bytes, ...], stands: float
) -> None:
    run = submit(store, rules(source("fill")))
    pen = Pen(boards, run)
    for value in values:
        assert pen.put("sum", value, how="add").what == "written"
    assert board(store, run).entries["sum"].value == stands
    # a whole number stays one, and another does not become one
    assert type(board(store, run).entries["sum"].value) is type(stands)


@pytest.mark.parametrize(
    ("stands", "added"),
    [
        (b"9007199254740991", b"1"),
        (b"9007199254740993", b"0"),
        (b"1", b"100000000000000000000"),
        (b"1.7e308", b"1.7e308"),
        (b"1", b'"x"'),
        (b"1", b"null"),
        (b"null", b"1"),
    ],
)
def test_a_sum_that_would_not_be_exact_is_refused(store: RunStore, boards: Boards, stands: bytes, added: bytes) -> None:
    run = submit(store, rules(source("fill")))
    pen = Pen(boards, run)
    pen.put("sum", stands, version=0)
    before = board(store, run)
    wrote = pen.put("sum", added, how="add")
    assert wrote.refusals is not None
    assert wrote.refusals["sum"].why == "kind"
    assert board(store, run) == before


def test_a_confidence_is_kept_to_its_last_digit(store: RunStore, boards: Boards) -> None:
    run = submit(store, rules(source("fill")))
    pen = Pen(boards, run)
    for number, confidence in enumerate((1 / 3, 0.1 + 0.2, 1e-7, 1)):
        pen.put("plan", version=number, confidence=confidence)
        assert board(store, run).entries["plan"].confidence == confidence


def test_a_pattern_with_many_stars_does_not_hold_up_redis(store: RunStore, boards: Boards) -> None:
    run = submit(store, rules(source("fill", "a*" * 40 + "b"), source("audit", "a*" * 40 + "a")))
    begun = time.monotonic()
    assert Pen(boards, run).put("a" * 200, version=0).change is not None
    assert time.monotonic() - begun < 1
    assert ready(store, run) == ["audit#1"]


@pytest.mark.parametrize(
    "pattern", ["*", "a", "a*", "*a", "*a*", "a*b", "a*a", "a**b", "**", "a.*", "*-*.*", "ab*ba", "%a"]
)
def test_patterns_fit_alike_in_redis_and_here(store: RunStore, boards: Boards, pattern: str) -> None:
    names = ["a", "b", "ab", "aa", "aba", "abba", "a.b", "axb", "x-y.z", "x-y", "a-a.", "aab"]
    run = submit(store, rules(source("fill"), source("other", pattern), max_entries=20))
    Pen(boards, run).puts(*(Put(name=name, how="set", version=0) for name in names))
    wanted = [name for name in names if matches(pattern, name)]
    assert wanted == [name for name in names if fnmatchcase(name, pattern)]
    if wanted:
        assert [name for name in begin(store, run, "other#1").step.changed if name != "task"] == wanted
    else:
        assert "other#1" not in ready(store, run)


def test_the_same_write_sent_again_is_made_once(store: RunStore, boards: Boards) -> None:
    run = submit(store, rules(source("fill")))
    pen = Pen(boards, run)
    put = Put(name="count", how="add", value=b"1")
    first = boards.write(run, BOARD, pen.by, 7, [put])
    again = boards.write(run, BOARD, pen.by, 7, [put])
    assert (first.what, again.what, first.seq, again.seq) == ("written", "known", 1, 1)
    assert board(store, run).entries["count"].value == 1
    # nor is an earlier one that was on its way for longer
    assert boards.write(run, BOARD, pen.by, 8, [put]).what == "written"
    assert boards.write(run, BOARD, pen.by, 7, [put]).what == "known"
    assert board(store, run).entries["count"].value == 2


@pytest.mark.parametrize("more", [{"goal": Entry("count")}, {"max_writes": 1}])
def test_a_write_that_ended_the_board_is_known_when_it_is_sent_again(
    store: RunStore, boards: Boards, more: dict[str, Any]
) -> None:
    run = submit(store, rules(source("fill"), otherwise="degrade", **more))
    for author in (by(), by(begin(store, run, "fill#1"))):
        put = Put(name="count", how="add", value=b"1")
        said = [boards.write(run, BOARD, author, 1, [put]).what for _ in range(2)]
        assert said in (["written", "known"], ["closed", "closed"])
    assert store.load(run).status == "completed"


def test_what_is_to_be_written_once_is_not_written_by_another_attempt(store: RunStore, boards: Boards) -> None:
    run = submit(store, rules(source("fill")))
    begun = begin(store, run, "fill#1")
    before = Pen(boards, run, begun)
    assert before.puts(Put(name="log", how="append", value=b"1"), once="found").what == "written"
    store.postpone(begun, 0, "again")
    wait_until(lambda: store.wake([(run, "fill#1")]) == ["ready"], 5, "its delay is over")
    again = store.begin(run, "fill#1", agent="fill", nonce="other", worker="w")
    assert isinstance(again, Begun)
    assert Pen(boards, run, again).puts(Put(name="log", how="append", value=b"1"), once="found").what == "known"
    # and the attempt before it writes nothing any more
    assert before.put("late", version=0).what == "stale"
    assert board(store, run).entries["log"].value == [1]


@pytest.mark.parametrize(
    ("puts", "what"),
    [
        ([Put(name=f"e{number}", how="set", version=0) for number in range(6)], "entries"),
        ([Put(name="large", how="set", version=0, value=b'"%s"' % (b"x" * 99))], "large"),
        ([Put(name=f"e{number}", how="set", version=0, value=b'"%s"' % (b"x" * 90)) for number in range(4)], "bytes"),
    ],
)
def test_what_does_not_fit_is_refused_and_the_rest_stands(
    store: RunStore, boards: Boards, puts: list[Put], what: str
) -> None:
    run = submit(store, rules(source("fill")))
    pen = Pen(boards, run)
    pen.put("log", b"[1]", version=0)
    wrote = pen.puts(*puts)
    assert (wrote.what, wrote.why) == ("full", what)
    assert list(board(store, run).entries) == ["log"]


# Ending


def test_a_board_is_quiet_when_nothing_is_left_to_be_looked_at(store: RunStore) -> None:
    run = submit(store, rules(source("fill"), source("audit", "week.*")), after=(PlanStep(name="report", agent="r"),))
    change = store.commit(begin(store, run, "fill#1"), b"1")
    assert change.ready == (("report", "r"),)
    state = store.load(run)
    assert begin(store, run, "report").value == (
        b'{"outcome":"quiet","why":"nothing is left to be looked at","writes":0,"wakes":1,"entries":{}}'
    )
    assert (state.status, state.degraded, board(store, run).outcome) == ("running", False, "quiet")


def test_a_board_whose_opening_wakes_nobody_ends_by_its_timer(store: RunStore) -> None:
    run = submit(store, rules(source("audit", "week.*")))
    assert ready(store, run) == []
    assert store.timers(["{s" + run[-2:] + "}"]) == [(run, f"//{BOARD}")]
    assert FanOuts(store).join(run, BOARD).what == "joined"
    assert (store.load(run).status, board(store, run).outcome) == ("completed", "quiet")


def test_the_goal_ends_a_board_and_closes_who_has_nothing_to_do_with_it(store: RunStore, boards: Boards) -> None:
    goal = Entry("audit").field("open") == 0
    run = submit(store, rules(source("fill"), source("audit", "task"), source("slow", "task"), goal=goal))
    audit, slow = begin(store, run, "audit#1"), begin(store, run, "slow#1")
    wrote = Pen(boards, run, audit).put("audit", b'{"open":0,"rows":[]}', version=0)
    # then nobody else may write or begin, and the one that has reached it ends first
    assert wrote.what == "written"
    assert ready(store, run) == []
    assert isinstance(store.begin(run, "fill#1", agent="fill", nonce="x", worker="w"), Refused)
    assert Pen(boards, run).put("late", version=0).what == "ended"
    assert Pen(boards, run, slow).put("late", version=0).what == "closed"
    assert board(store, run).status == "closing"
    assert store.commit(slow, b'"late"').what == "late"
    assert store.commit(audit, b"1").what == "joins"
    state = store.load(run)
    assert (state.status, state.degraded) == ("completed", False)
    assert store.value(run, state.output or "") == (
        b'{"outcome":"goal","why":"it holds","writes":1,"wakes":3,"entries":{"audit":{"open":0,"rows":[]}}}'
    )
    assert board(store, run).outcome == "goal"


def test_a_person_may_reach_the_goal(store: RunStore, boards: Boards) -> None:
    run = submit(store, rules(source("fill"), goal=Entry("plan")), after=(PlanStep(name="report", agent="r"),))
    wrote = Pen(boards, run).put("plan", version=0)
    assert wrote.change is not None
    assert wrote.change.ready == (("report", "r"),)
    assert board(store, run).outcome == "goal"


def test_a_step_that_has_reached_the_goal_and_is_lost_does_not_begin_again(store: RunStore, boards: Boards) -> None:
    run = submit(store, rules(source("fill"), goal=Entry("plan")))
    begun = begin(store, run, "fill#1")
    Pen(boards, run, begun).put("plan", version=0)
    store.postpone(begun, 0, "again")
    wait_until(lambda: store.wake([(run, "fill#1")]) == ["ready"], 5, "its delay is over")
    assert store.begin(run, "fill#1", agent="fill", nonce="x", worker="w") == Refused("closed")
    assert (store.load(run).status, board(store, run).outcome) == ("completed", "goal")


@pytest.mark.parametrize("otherwise", ["fail", "degrade"])
@pytest.mark.parametrize(
    ("limits", "why"),
    [({"max_wakes": 2}, "after 2 wakes"), ({"max_writes": 2}, "after 2 writes"), ({"max_steps": 3}, "as many steps")],
)
def test_a_limit_ends_a_board_which_is_told(
    store: RunStore, boards: Boards, limits: dict[str, int], why: str, otherwise: str
) -> None:
    run = submit(store, rules(source("ping"), source("pong"), goal=Entry("plan"), otherwise=otherwise, **limits))
    while names := ready(store, run):
        begun = begin(store, run, names[0])
        Pen(boards, run, begun).put(begun.step.name.replace("#", "."), version=0)
        store.commit(begun, b"1")
    state, found = store.load(run), board(store, run)
    assert (found.outcome, why in found.why) == ("limit", True)
    if otherwise == "fail":
        assert (state.status, state.failure and state.failure.step) == ("failed", BOARD)
        assert "the goal was not reached: limit, " in (state.reason or "")
    else:
        assert (state.status, state.degraded) == ("completed", True)


def test_time_ends_a_board(store: RunStore) -> None:
    run = submit(store, rules(source("fill"), within_ms=1))
    begun = begin(store, run, "fill#1")
    wait_until(lambda: FanOuts(store).join(run, BOARD).what == "joined", 5, "its time is over")
    assert board(store, run).outcome == "limit"
    assert store.commit(begun, b"1").what in {"late", "closed"}


@pytest.mark.parametrize("otherwise", ["fail", "degrade"])
def test_a_source_that_fails_fails_the_run_or_not(store: RunStore, boards: Boards, otherwise: str) -> None:
    run = submit(store, rules(source("fill"), source("audit", "task fill"), otherwise=otherwise))
    pen = Pen(boards, run, begin(store, run, "fill#1"))
    store.fail(begin(store, run, "audit#1"), "no luck")
    state = store.load(run)
    if otherwise == "fail":
        assert (state.status, state.reason) == ("failed", "board: audit#1: no luck")
        assert board(store, run).outcome == "failed"
        return
    # it goes on without it, and it may be woken again
    assert state.status == "running"
    pen.put("fill", version=0)
    store.commit(begin_again(store, run, "fill#1"), b"1")
    store.commit(begin(store, run, "audit#2"), b"1")
    state = store.load(run)
    step = state.step(BOARD)
    assert step is not None
    assert (state.status, step.degraded, step.reason) == ("completed", True, "audit#1: no luck")
    assert b'"fault":"audit#1: no luck"' in (store.value(run, str(state.output)) or b"")
    assert board(store, run).outcome == "quiet"


def test_a_cancelled_run_closes_its_board(store: RunStore, boards: Boards) -> None:
    run = submit(store, rules(source("fill")))
    begun = begin(store, run, "fill#1")
    store.cancel(run, reason="", by="")
    assert Pen(boards, run, begun).put("plan", version=0).what == "closed"
    assert Pen(boards, run).put("plan", version=0).what == "closed"
    assert Pen(boards, run, begun).lock("l", "plan").what == "closed"
    found = board(store, run)
    assert (found.status, found.outcome, found.why) == ("ended", "closed", "its run has ended")
    # and before the last thing in its log it was open
    before = fold_board(BOARD, store.events(run)[:-1])
    assert before == found.model_copy(update={"status": "open", "outcome": None, "why": ""})


def test_a_board_is_over_while_its_run_undoes_what_was_done(store: RunStore, boards: Boards) -> None:
    run = planned(store, PlanStep(name="first", agent="x", next=BOARD, undo="back"), of_board(rules(source("fill"))))
    store.commit(begin(store, run, "first"), b"1")
    Pen(boards, run, begin(store, run, "fill#1")).put("plan", version=0)
    store.cancel(run, reason="enough", by="me")
    assert store.load(run).status == "undoing"
    found = board(store, run)
    assert (found.outcome, list(found.entries)) == ("closed", ["plan"])
    store.commit(begin(store, run, "first~undo"), b"1")
    assert (store.load(run).status, board(store, run)) == ("cancelled", found)


def test_a_board_that_was_closed_with_its_run_is_open_again_when_that_is_redriven(store: RunStore) -> None:
    first = PlanStep(name="first", agent="x", next=BOARD)
    run = planned(store, first, of_board(rules(source("fill"))), deadline=0.5)
    store.commit(begin(store, run, "first"), b"1")
    wait_until(lambda: store.expire(run).what == "cancelled", 10, "its deadline has passed")
    assert board(store, run).outcome == "closed"
    # when it begins before the board, that has not opened yet
    store.redrive(run, step="first", value=None, agent="", deadline=60.0, by="")
    assert (store.load(run).status, board(store, run).outcome) == ("running", "closed")
    store.commit(begin(store, run, "first"), b"1")
    assert (board(store, run).status, board(store, run).outcome) == ("open", None)


def test_a_board_that_others_go_on_without_is_closed(store: RunStore) -> None:
    # given a board that is an assignment, and another that is enough
    boss = PlanStep(name="boss", agent="x", delegates=True, next="join")
    run = planned(store, boss, PlanStep(name="join", agent="x", joins=True))
    common: dict[str, Any] = {"fan": "join", "round": 1}
    of = PlanStep(name="rota#1/board", agent="rota", rules=rules(source("fill")), member="rota#1/board", **common)
    quick = PlanStep(name="quick#2", agent="quick", member="quick#2", **common)
    terms = Terms(need=1, share=False, accept=False, otherwise="fail", width=9, within=None)
    members = [Member(steps=(each,), value=b"1") for each in (of, quick)]
    FanOuts(store).delegate(begin(store, run, "boss"), "join", members, terms, b"1")
    begin(store, run, "rota#1/fill#1")
    # when they have come together without it
    store.commit(begin(store, run, "quick#2"), b"1")
    # then it says so, and its log, too
    events = store.events(run)
    found = Boards(store).load(run, "rota#1/board")
    assert found == fold_board("rota#1/board", events)
    assert found is not None
    assert (found.status, found.outcome, found.why) == ("ended", "closed", "the others went on without it")
    assert fold(run, events) == store.load(run)
    store.commit(begin(store, run, "join"), b"1")
    assert Boards(store).load(run, "rota#1/board") == fold_board("rota#1/board", store.events(run)) == found


# Locks


def test_a_locked_entry_is_written_by_its_holder_alone(store: RunStore, boards: Boards) -> None:
    run = submit(store, rules(source("fill")))
    mine, other = Pen(boards, run, name="mine"), Pen(boards, run, name="other")
    held = mine.lock("1", "plan", "log")
    assert (held.what, held.token) == ("locked", "1-1")
    refused = other.put("plan", version=0)
    assert refused.refusals is not None
    assert refused.refusals["plan"].why == "locked"
    assert other.put("free", version=0).what == "written"
    assert mine.put("plan", version=0, token=held.token).what == "written"
    # and when it has given it up it has it no more
    assert boards.unlock(run, BOARD, "1", ["plan", "log"])
    lost = mine.put("plan", version=1, token=held.token)
    assert lost.refusals is not None
    assert lost.refusals["plan"].why == "lost"


def test_who_waits_for_several_gets_all_or_none_in_the_order_of_asking(store: RunStore, boards: Boards) -> None:
    run = submit(store, rules(source("fill")))
    pen = Pen(boards, run)
    assert pen.lock("1", "a").what == "locked"
    assert pen.lock("2", "a", "b").what == "waiting"
    # then b is free, but somebody has come before
    assert pen.lock("3", "b").what == "waiting"
    assert pen.lock("4", "c").what == "locked"
    boards.unlock(run, BOARD, "1", ["a"])
    assert pen.lock("3", "b").what == "waiting"
    assert pen.lock("2", "a", "b").token.split("-") == ["3", "2"]
    boards.unlock(run, BOARD, "2", ["a", "b"])
    assert pen.lock("3", "b").token.split("-") == ["4", "3"]


def test_a_lock_ends_with_its_time_and_with_its_step(store: RunStore, boards: Boards) -> None:
    run = submit(store, rules(source("fill"), source("audit")))
    fill, audit = begin(store, run, "fill#1"), begin(store, run, "audit#1")
    short = Pen(boards, run).lock("short", "a", ttl=0.001)
    wait_until(lambda: Pen(boards, run).lock("next", "a").what == "locked", 5, "its time is over")
    lost = Pen(boards, run).put("a", version=0, token=short.token)
    assert lost.refusals is not None
    assert lost.refusals["a"].why == "lost"
    assert not boards.extend(run, BOARD, "short", ["a"], ttl=5)
    # and one whose step is over is free at once
    held = Pen(boards, run, fill).lock("step", "b", ttl=60)
    assert Pen(boards, run, audit).lock("other", "b").what == "waiting"
    store.commit(fill, b"1")
    assert Pen(boards, run, audit).lock("other", "b").what == "locked"
    assert Pen(boards, run, fill).put("b", version=0, token=held.token).what in {"closed", "stale"}


def test_who_does_not_wait_is_told_so_and_who_waited_long_enough(store: RunStore, boards: Boards) -> None:
    run = submit(store, rules(source("fill")))
    pen = Pen(boards, run)
    pen.lock("1", "a")
    assert pen.lock("2", "a", wait=0.0).what == "busy"
    assert pen.lock("3", "a", wait=0.001).what == "waiting"
    wait_until(lambda: pen.lock("3", "a", wait=0.001).what == "busy", 5, "it has waited long enough")
    boards.unlock(run, BOARD, "1", ["a"])
    assert pen.lock("4", "a").what == "locked"


def test_who_has_waited_long_enough_holds_up_nobody(store: RunStore, boards: Boards) -> None:
    run = submit(store, rules(source("fill"), source("audit")))
    fill, audit = begin(store, run, "fill#1"), begin(store, run, "audit#1")
    pen = Pen(boards, run)
    pen.lock("1", "a")
    # given one that waits and does not ask again, since it is dead: its time is over
    assert pen.lock("2", "a", "b", ttl=60, wait=0.001).what == "waiting"
    assert pen.lock("3", "a").what == "waiting"
    wait_until(lambda: pen.lock("4", "b").what == "locked", 5, "its time is over")
    # and a step that waits, and is over before that
    assert Pen(boards, run, fill).lock("5", "a", "c").what == "waiting"
    assert Pen(boards, run, audit).lock("6", "c").what == "waiting"
    store.commit(fill, b"1")
    assert Pen(boards, run, audit).lock("6", "c").what == "locked"
    # then the lock goes to who is there
    boards.unlock(run, BOARD, "1", ["a"])
    assert pen.lock("3", "a").what == "locked"


# Sent again


def test_a_board_that_has_come_to_its_writes_may_be_written_to_again(store: RunStore, boards: Boards) -> None:
    run = submit(store, rules(source("fill"), goal=Entry("done"), max_writes=2))
    pen = Pen(boards, run)
    for number in range(2):
        pen.put("plan", version=number)
    assert (store.load(run).status, board(store, run).outcome) == ("failed", "limit")
    store.redrive(run, step="", value=None, agent="", deadline=60.0, by="ann")
    # those of before are not held against it
    assert pen.put("plan", version=2).what == "written"
    assert board(store, run).status == "open"
    pen.put("plan", version=3)
    assert (store.load(run).status, board(store, run).outcome) == ("failed", "limit")


def test_a_board_that_failed_goes_on_with_what_stands_there(store: RunStore, boards: Boards) -> None:
    run = submit(store, rules(source("fill"), source("audit", "fill"), goal=Entry("done"), max_writes=2))
    pen = Pen(boards, run, begin(store, run, "fill#1"))
    pen.put("fill", version=0)
    store.fail(begin(store, run, "audit#1"), "no luck")
    assert store.load(run).failure is not None
    # when it is sent again
    change = store.redrive(run, step="", value=None, agent="", deadline=60.0, by="ann")
    # then its sources look again, under other names, at what stands there
    assert (change.what, change.step, change.ready) == ("redriven", BOARD, (("fill#2", "fill"),))
    found = board(store, run)
    assert (found.status, found.entries["fill"].value, found.writes) == ("open", 1, 1)
    Pen(boards, run, begin(store, run, "fill#2")).put("done", version=0)
    store.commit(begin_again(store, run, "fill#2"), b"1")
    assert (store.load(run).status, board(store, run).outcome) == ("completed", "goal")


def test_a_board_that_is_given_another_task_begins_anew(store: RunStore, boards: Boards) -> None:
    run = submit(store, rules(source("fill")), after=(PlanStep(name="report", agent="r"),))
    Pen(boards, run, begin(store, run, "fill#1")).put("plan", version=0)
    store.commit(begin_again(store, run, "fill#1"), b"1")
    store.fail(begin(store, run, "report"), "no luck")
    # sent again where it failed, the board is left alone
    assert store.redrive(run, step="", value=None, agent="", deadline=60.0, by="").ready == (("report", "r"),)
    store.fail(begin(store, run, "report"), "no luck")
    assert [step.name for step in store.load(run).steps] == [BOARD, "fill#1", "report"]
    # and from the board on it is opened again
    change = store.redrive(run, step=BOARD, value=b'{"people":4}', agent="", deadline=60.0, by="")
    assert change.ready == (("fill#2", "fill"),)
    assert begin(store, run, "fill#2").value == b'{"people":4}'
    assert list(board(store, run).entries) == ["plan"]


def test_a_board_behind_what_is_done_again_is_empty(store: RunStore, boards: Boards) -> None:
    plan = (
        PlanStep(name="first", agent="first", next=BOARD),
        PlanStep(name=BOARD, agent="rota", rules=rules(source("fill")), next="report"),
        PlanStep(name="report", agent="r"),
    )
    submission = Submission(flow="rota", plan=plan, value=b"1", tags={}, deadline=60.0, retention=60.0)
    run = store.submit([submission])[0].run_id
    store.commit(begin(store, run, "first"), b"2")
    Pen(boards, run, begin(store, run, "fill#1")).put("plan", version=0)
    store.commit(begin_again(store, run, "fill#1"), b"1")
    store.fail(begin(store, run, "report"), "no luck")
    store.redrive(run, step="first", value=None, agent="", deadline=60.0, by="")
    store.commit(begin(store, run, "first"), b"3")
    assert begin(store, run, "fill#2").value == b"3"
    assert board(store, run).entries == {}
