"""Fan-outs at their edges: none, thousands, all refused, sent again, stale, out of memory, and sent again for good."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from redis.exceptions import OutOfMemoryError

from orchestrator.errors import TooManySteps
from orchestrator.messages import Member, PlanStep, Terms
from orchestrator.state import fan_outs, keys
from orchestrator.state.fan_outs import FanOuts
from orchestrator.state.runs import Begun, RunStore, Submission
from tests.servers import no_key_left_without_ttl_or_declaration, wait_until
from tests.state.invariants import look, problems

if TYPE_CHECKING:
    from collections.abc import Iterator

    from redis import Redis

    from orchestrator import Settings
    from orchestrator.messages import RunState
    from orchestrator.state.runs import Change
    from tests.servers import Server

PLAN = (
    PlanStep(name="boss", agent="boss", next="join", delegates=True),
    PlanStep(name="join", agent="join", joins=True),
)
ALL = Terms(need=1000, share=True, accept=False, otherwise="fail", width=100, within=None)
"""All of one assignment; for more the tests say what is needed."""
LARGE = b'"%s"' % (b"x" * 200)


@pytest.fixture
def store(redis_client: Redis, settings: Settings) -> Iterator[RunStore]:
    """A store whose claim checks begin early; what it leaves behind is looked at."""
    store = RunStore(redis_client, settings.model_copy(update={"claim_check_bytes": 100, "max_attempts": 2}))
    yield store
    no_key_left_without_ttl_or_declaration(redis_client)


def submit(
    store: RunStore, plan: tuple[PlanStep, ...] = PLAN, *, deadline: float = 60.0, retention: float = 60.0
) -> str:
    submission = Submission(flow="f", plan=plan, value=b"1", tags={}, deadline=deadline, retention=retention)
    return store.submit([submission])[0].run_id


def begin(store: RunStore, run: str, name: str) -> Begun:
    step = store.load(run).step(name)
    assert step is not None
    begun = store.begin(run, name, agent=step.agent, nonce="n", worker="w")
    assert isinstance(begun, Begun), begun
    return begun


def work(store: RunStore, run: str, *names: str) -> None:
    for name in names:
        store.commit(begin(store, run, name), b'"%s"' % name.encode())


def one(name: str, *, fan: str = "join", value: bytes = LARGE, fault: str = "", **more: Any) -> Member:  # noqa: ANN401
    step = PlanStep(name=name, agent="work", fan=fan, member=name, round=more.pop("round", 1), **more)
    return Member(steps=(step,), value=value, fault=fault)


def flow(name: str, *, fan: str = "join", **last: Any) -> Member:  # noqa: ANN401  fields of a step
    first = f"{name}/first"
    common: dict[str, Any] = {"fan": fan, "member": first, "agent": "work"}
    return Member(
        steps=(
            PlanStep(name=first, next=f"{name}/last", round=1, **common),
            PlanStep(name=f"{name}/last", **common, **last),
        ),
        value=b"2",
    )


def team(name: str, *, fan: str = "join") -> Member:
    common: dict[str, Any] = {"fan": fan, "member": f"{name}/boss", "agent": "team"}
    return Member(
        steps=(
            PlanStep(name=f"{name}/boss", next=f"{name}/join", delegates=True, round=1, **common),
            PlanStep(name=f"{name}/join", joins=True, **common),
        ),
        value=b"3",
    )


def needs(members: int, **more: Any) -> Terms:  # noqa: ANN401  fields of the terms
    facts: dict[str, Any] = {
        "need": members,
        "share": False,
        "accept": False,
        "otherwise": "fail",
        "width": 100,
        "within": None,
    }
    return Terms(**facts | more)


def give(store: RunStore, run: str, *members: Member, terms: Terms | None = None, boss: str = "boss") -> Change:
    begun = begin(store, run, boss)
    fan = begun.step.name if begun.step.joins else begun.step.next or ""
    return FanOuts(store).delegate(begun, fan, members, terms or needs(len(members)), LARGE)


def statuses(store: RunStore, run: str) -> dict[str, str]:
    return {step.name: step.status for step in store.load(run).steps}


def gathered(store: RunStore, run: str, name: str = "join") -> dict[str, tuple[str | None, bytes | None]]:
    fans = FanOuts(store)
    fan = fans.load(run, name)
    assert fan is not None
    return {step.name: (step.outcome, answer) for step, answer in fans.gather(run, fan)}


def is_well(store: RunStore, run: str) -> RunState:
    snapshot = look(store, run)
    assert problems(snapshot) == []
    return snapshot.state


def end(store: RunStore, run: str) -> None:
    store.cancel(run, reason="", by="me")


# How many


def test_thousands_of_members_are_given_out_at_once(
    store: RunStore, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    # given a boss with work for 5,000
    run = submit(store)
    members = [one(f"work#{number}", value=b'{"number":1}') for number in range(1, 5001)]
    begun = begin(store, run, "boss")
    client = store.client
    client.config_set("slowlog-log-slower-than", 0)
    client.slowlog_reset()
    # when it gives it out
    before = server_time(client)
    change = FanOuts(store).delegate(begun, "join", members, needs(5000), b'{"assignments":5000}')
    took_ms = (server_time(client) - before) / 1000
    blocked = sorted((entry["duration"] / 1000 for entry in client.slowlog_get(128)), reverse=True)
    client.config_set("slowlog-log-slower-than", 10_000)
    with capsys.disabled():
        longest = ", ".join(f"{each:.0f}" for each in blocked[:3])
        print(f"\n{server.kind}: 5,000 members in {took_ms:.0f} ms; longest scripts {longest} ms")  # noqa: T201
    # then as many are ready as there is room for, and all are there
    assert (change.what, len(change.ready)) == ("delegated", 100)
    state = is_well(store, run)
    assert (len(state.steps), state.fans["join"].size, state.fans["join"].opened) == (5002, 5000, 100)
    assert len(gathered(store, run)) == 5000
    # and nothing else waits for long meanwhile
    assert blocked[0] < 2000
    end(store, run)


def server_time(client: Redis) -> int:
    seconds, microseconds = client.time()
    return seconds * 1_000_000 + microseconds


def test_without_members_the_join_follows_at_once(store: RunStore) -> None:
    run = submit(store)
    terms = Terms(need=0, share=True, accept=False, otherwise="fail", width=1, within=60.0)
    change = give(store, run, terms=terms)
    assert (change.what, change.ready) == ("delegated", (("join", "join"),))
    state = is_well(store, run)
    assert (state.fans["join"].verdict, state.degraded) == ("met", False)
    assert gathered(store, run) == {}
    work(store, run, "join")
    assert is_well(store, run).status == "completed"


@pytest.mark.parametrize(("otherwise", "status"), [("fail", "failed"), ("degrade", "running")])
def test_where_all_are_refused_nobody_is_asked(store: RunStore, otherwise: str, status: str) -> None:
    run = submit(store)
    members = [one("work#1", fault="nobody\ncan"), Member(steps=flow("flow#2").steps, fault="not that either")]
    change = give(store, run, *members, terms=needs(1, otherwise=otherwise))
    assert change.what == "delegated"
    state = is_well(store, run)
    assert (state.status, state.degraded) == (status, True)
    assert statuses(store, run)["flow#2/last"] == "cancelled"
    assert [step.fault for step in state.steps if step.outcome == "failed"] == ["nobody can", "not that either"]
    if status == "running":
        assert change.ready == (("join", "join"),)
        end(store, run)
    else:
        # and it does not help to send the same again
        assert store.redrive(run, step="", value=None, agent="", deadline=60.0, by="me").what == "redriven"
        assert is_well(store, run).status == "failed"


def test_where_more_are_needed_than_there_are_the_run_says_so(store: RunStore) -> None:
    run = submit(store)
    assert give(store, run, one("work#1"), one("work#2"), terms=needs(3)).ready == ()
    state = is_well(store, run)
    assert (state.status, state.reason) == ("failed", "join: there are 2 assignments, and 3 are needed")
    assert statuses(store, run)["work#1"] == "cancelled"


def test_where_more_are_needed_than_there_are_a_tolerant_join_takes_what_there_is(store: RunStore) -> None:
    run = submit(store)
    give(store, run, one("work#1"), one("work#2"), terms=needs(3, otherwise="degrade", width=1))
    work(store, run, "work#1", "work#2")
    state = is_well(store, run)
    assert (state.fans["join"].verdict, state.fans["join"].degraded) == ("missed", True)
    assert gathered(store, run) == {"work#1": ("ok", b'"work#1"'), "work#2": ("ok", b'"work#2"')}
    end(store, run)


def test_more_steps_than_a_run_may_have_are_refused_wherever_they_are_given_out(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a run with two steps of its own, of the twelve that it may have, and work for two teams: six
    monkeypatch.setattr(fan_outs, "MAX_STEPS", 12)
    run = submit(store)
    give(store, run, team("team#1"), team("team#2"))
    # when the one team's boss gives out five, then the run is not full
    give(store, run, *(one(f"team#1/work#{number}", fan="team#1/join") for number in range(5)), boss="team#1/boss")
    before, blobs = look(store, run), set(store.client.scan_iter(f"*{run}*boss*"))
    # and when the other's gives out two, then nothing of it is there, and it says what is too many
    with pytest.raises(TooManySteps, match="the plan has 2 steps, the run has 11 already, and a run has at most 12"):
        give(store, run, flow("team#2/flow#1", fan="team#2/join"), boss="team#2/boss")
    after = look(store, run)
    assert [step.name for step in after.state.steps] == [step.name for step in before.state.steps]
    assert len(after.events) == len(before.events) + 1
    assert set(store.client.scan_iter(f"*{run}*boss*")) == blobs
    # but another attempt that gives out one has its place
    store.client.zadd(keys.leases(keys.shard_of(run)), {keys.member(run, "team#2/boss"): 1})
    assert store.lost(run, "team#2/boss").what == "ready"
    give(store, run, one("team#2/work#1", fan="team#2/join"), boss="team#2/boss")
    assert len(is_well(store, run).steps) == 12
    end(store, run)


# Sent again, and stale


def test_work_that_is_given_out_again_since_the_reply_was_lost_is_given_out_once(store: RunStore) -> None:
    # given work that was given out, and its first member done
    run = submit(store)
    begun = begin(store, run, "boss")
    fans, members = FanOuts(store), [one("work#1"), one("work#2")]
    assert fans.delegate(begun, "join", members, needs(2), LARGE).ready == (("work#1", "work"), ("work#2", "work"))
    work(store, run, "work#1")
    before = look(store, run)

    # when the same comes again, then it is told what was told, and nothing changes
    change = fans.delegate(begun, "join", members, needs(2), LARGE)
    assert (change.what, change.step, change.ready) == ("delegated", "join", ())
    assert look(store, run).state == before.state
    assert look(store, run).events == before.events

    # and likewise when the run is over
    work(store, run, "work#2", "join")
    assert fans.delegate(begun, "join", members, needs(2), LARGE).what == "delegated"
    assert is_well(store, run).status == "completed"


def test_a_stale_boss_writes_nothing(store: RunStore) -> None:
    # given a boss whose lease was lost, and which another attempt has
    run = submit(store)
    slow = begin(store, run, "boss")
    store.client.zadd(keys.leases(keys.shard_of(run)), {keys.member(run, "boss"): 1})
    assert store.lost(run, "boss").what == "ready"
    now = begin(store, run, "boss")
    before = look(store, run)
    # when it gives work out, then nothing of it is there
    fans = FanOuts(store)
    assert fans.delegate(slow, "join", [one("work#1"), one("work#2")], needs(2), LARGE).what == "stale"
    after = look(store, run)
    assert (after.state, after.events, after.values) == (before.state, before.events, before.values)
    # and what its members were to take takes no room
    assert list(store.client.scan_iter(f"*{run}:blob:*")) == []
    # and the other attempt's work is
    assert fans.delegate(now, "join", [one("work#1")], needs(1), LARGE).what == "delegated"
    assert sorted(name for name in statuses(store, run) if "#" in name) == ["work#1"]
    end(store, run)


@pytest.mark.parametrize("value", [b"1", LARGE])
def test_a_boss_that_comes_when_the_run_has_expired_leaves_nothing(store: RunStore, value: bytes) -> None:
    # given a run that is over and has expired while its boss was at work
    run = submit(store, deadline=2.0, retention=0.2)
    begun = begin(store, run, "boss")
    end(store, run)
    wait_until(lambda: not store.exists(run), 5.0, "the run has expired")
    # when it gives work out
    assert FanOuts(store).delegate(begun, "join", [one("work#1", value=value)], needs(1), value).what == "closed"
    # then nothing is left of it
    assert list(store.client.scan_iter(f"*{run}*")) == []


# Out of memory


def test_work_is_given_out_as_a_whole_or_not_at_all_where_memory_is_short(store: RunStore) -> None:
    run = submit(store)
    begun = begin(store, run, "boss")
    before = look(store, run)
    store.client.config_set("maxmemory", 1)
    try:
        with pytest.raises(OutOfMemoryError):
            FanOuts(store).delegate(begun, "join", [one("work#1", value=b"1")], needs(1), b"1")
        # and where what they take is stored already
        with pytest.raises(OutOfMemoryError):
            FanOuts(store).delegate(begun, "join", [], needs(0), b"1")
    finally:
        store.client.config_set("maxmemory", 0)
    assert look(store, run).state == before.state
    assert look(store, run).events == before.events
    assert is_well(store, run).status == "running"
    assert FanOuts(store).delegate(begun, "join", [one("work#1")], needs(1), b"1").what == "delegated"
    is_well(store, run)
    end(store, run)


@pytest.mark.parametrize("how", ["commit", "fail", "late"])
def test_members_come_together_as_a_whole_or_not_at_all_where_memory_is_short(store: RunStore, how: str) -> None:
    # given the last member but one
    run = submit(store)
    terms = needs(2 if how == "fail" else 1, within=0.001 if how == "late" else None)
    give(store, run, one("work#1"), one("work#2"), flow("flow#3"), terms=terms)
    begun, fans = begin(store, run, "work#1"), FanOuts(store)
    if how == "fail":
        store.fail(begin(store, run, "work#2"), "cannot")
    before = look(store, run)

    def decides() -> str:
        if how == "fail":
            return store.fail(begun, "cannot either").what
        return fans.join(run, "join").what if how == "late" else store.commit(begun, b"1").what

    # when memory is short as it decides
    store.client.config_set("maxmemory", 1)
    try:
        told = decides()
    except OutOfMemoryError:
        told = ""
    finally:
        store.client.config_set("maxmemory", 0)
    # then all of it has happened, or nothing
    assert problems(look(store, run)) == []
    if not told:
        assert look(store, run).state == before.state
        assert look(store, run).events == before.events
        told = decides()
    assert told == {"commit": "joins", "fail": "failed", "late": "joined"}[how]
    assert is_well(store, run).fans["join"].verdict == {"commit": "met", "fail": "missed", "late": "overdue"}[how]
    end(store, run)


# Nesting


def test_what_fails_within_a_member_fails_the_member_and_then_the_run(store: RunStore) -> None:
    # given a member that gives work out itself
    run = submit(store)
    give(store, run, team("team#1"), one("work#2"))
    give(
        store,
        run,
        flow("team#1/flow#1", fan="team#1/join"),
        one("team#1/work#2", fan="team#1/join"),
        boss="team#1/boss",
    )
    # when the first step of what works for it fails
    change = store.fail(begin(store, run, "team#1/flow#1/first"), "cannot")
    # then all above fail at once, each for what it waited for
    assert (change.what, change.ready) == ("failed", ())
    state = is_well(store, run)
    assert (state.status, state.reason) == (
        "failed",
        (
            "join: 1 of 2 assignments failed; the first: team#1/join: 1 of 2 assignments failed; "
            "the first: team#1/flow#1/first: cannot"
        ),
    )
    assert {name: step for name, step in statuses(store, run).items() if step != "cancelled"} == {
        "boss": "completed",
        "join": "failed",
        "team#1/boss": "completed",
        "team#1/join": "failed",
        "team#1/flow#1/first": "failed",
    }
    assert {step.name: step.fault for step in state.steps if step.fault} == {
        "team#1/boss": "1 of 2 assignments failed; the first: team#1/flow#1/first: cannot",
        "team#1/flow#1/first": "cannot",
    }


def test_a_member_that_fails_is_ended_without_a_look_at_all_others(store: RunStore) -> None:
    # given a member of several steps, one of thousands for all it knows
    run = submit(store)
    give(store, run, flow("flow#1"), flow("flow#2"), terms=needs(2, otherwise="degrade"))
    begun = begin(store, run, "flow#1/first")
    store.client.config_resetstat()
    # when its first step fails, then its others are closed, and the run is not read as a whole
    assert store.fail(begun, "cannot").what == "failed"
    assert "cmdstat_hgetall" not in store.client.info("commandstats")
    assert statuses(store, run)["flow#1/last"] == "cancelled"
    is_well(store, run)
    end(store, run)


def test_an_inner_join_closes_what_is_late_in_it_without_a_look_at_all_others(store: RunStore) -> None:
    # given teams, each of which is content with the first of its own, among them one that is a team again
    run = submit(store)
    give(store, run, team("team#1"), team("team#2"))
    for name in ("team#1", "team#2"):
        parts = (one(f"{name}/work#{number}", fan=f"{name}/join") for number in (1, 2))
        deep = (team(f"{name}/deep#3", fan=f"{name}/join"), flow(f"{name}/flow#4", fan=f"{name}/join"))
        give(store, run, *parts, *deep, terms=needs(1), boss=f"{name}/boss")
        give(store, run, one(f"{name}/deep#3/work#1", fan=f"{name}/deep#3/join"), boss=f"{name}/deep#3/boss")
    begun = begin(store, run, "team#1/work#2")
    store.client.config_resetstat()
    # when the first of one of them has an answer
    assert store.commit(begun, b"1").what == "joins"
    # then what is late in that one is closed, whatever it has given out, nothing else is, and the run is not read
    assert "cmdstat_hgetall" not in store.client.info("commandstats")
    late = {name for name, status in statuses(store, run).items() if status == "cancelled"}
    within = ("work#1", "deep#3/join", "deep#3/work#1", "flow#4/first", "flow#4/last")
    assert late == {f"team#1/{name}" for name in within}
    is_well(store, run)
    end(store, run)


def test_fan_outs_within_others_share_the_width_of_the_outer_one(store: RunStore) -> None:
    # given three teams at once at most, each of whose own may be a hundred at once
    run = submit(store)
    give(store, run, *(team(f"team#{number}") for number in range(1, 5)), terms=needs(4, width=6, otherwise="degrade"))

    def ready() -> list[str]:
        return [step.name for step in store.load(run).steps if step.status == "ready" and "work#" in step.name]

    def spread(team_number: int) -> None:
        fan = f"team#{team_number}/join"
        parts = [one(f"team#{team_number}/work#{number}", fan=fan) for number in range(1, 11)]
        give(store, run, *parts, terms=needs(10, otherwise="degrade"), boss=f"team#{team_number}/boss")

    # when four of them give work out, then each has its share of the six
    for number in (1, 2, 3, 4):
        spread(number)
    assert sorted(ready()) == [f"team#{number}/work#1" for number in (1, 2, 3, 4)]
    # and who is left has more when others have ended
    for number in (1, 2, 3):
        store.fail(begin(store, run, f"team#{number}/work#1"), "no")
        for each in range(2, 11):
            store.fail(begin(store, run, f"team#{number}/work#{each}"), "no")
        work(store, run, f"team#{number}/join")
    work(store, run, "team#4/work#1")
    assert sorted(ready()) == [f"team#4/work#{number}" for number in range(2, 8)]
    is_well(store, run)
    end(store, run)


def test_a_step_that_a_fallback_has_given_out_is_its_first_agents_in_the_next_round(store: RunStore) -> None:
    # given a join whose fallback gives work out once more
    run = submit(store)
    give(store, run, one("work#1"))
    work(store, run, "work#1")
    assert store.degrade(begin(store, run, "join"), "other", "down", rung=1).what == "again"
    give(store, run, one("work#2", round=2), boss="join")
    work(store, run, "work#2")
    # when its first agent puts it together
    join = begin(store, run, "join")
    # then it is no fallback, and is judged like any other; the run is degraded all the same
    assert (join.step.agent, join.step.degraded, join.step.reason) == ("join", False, None)
    assert is_well(store, run).fans["join"].degraded
    assert store.load(run).degraded
    end(store, run)


def test_why_a_member_gives_less_is_told_wherever_in_it_that_was(store: RunStore) -> None:
    # given a member of two steps, the last of which falls back
    run = submit(store)
    give(store, run, flow("flow#1"), one("work#2"))
    work(store, run, "flow#1/first", "work#2")
    # when it is done
    store.commit(begin(store, run, "flow#1/last"), b"1", "complete", {"reason": "the last good output"})
    # then whoever puts it together is told why
    state = is_well(store, run)
    assert {step.name: (step.outcome, step.fault) for step in state.steps if step.outcome} == {
        "flow#1/first": ("degraded", "the last good output"),
        "work#2": ("ok", None),
    }
    end(store, run)


def test_a_team_that_was_content_without_one_of_its_own_tells_why_that_failed(store: RunStore) -> None:
    # given a team that needs one of two, the first of which fails
    run = submit(store)
    give(store, run, team("team#1"))
    parts = [one(f"team#1/work#{number}", fan="team#1/join") for number in (1, 2)]
    give(store, run, *parts, terms=needs(1), boss="team#1/boss")
    store.fail(begin(store, run, "team#1/work#1"), "no room")
    # when it puts together what there is
    work(store, run, "team#1/work#2", "team#1/join")
    # then whoever takes that is told what was missing
    boss = is_well(store, run).step("team#1/boss")
    assert boss is not None
    assert (boss.outcome, boss.fault) == ("degraded", "team#1/work#1: no room")
    end(store, run)


def test_whose_answer_was_accepted_is_told(store: RunStore) -> None:
    run = submit(store)
    give(store, run, one("work#1"), one("work#2"), terms=needs(2, accept=True))
    work(store, run, "work#1")
    store.commit(begin(store, run, "work#2"), b"1", "complete", {"accepted": True})
    assert [step.name for step in is_well(store, run).steps if step.accepted] == ["work#2"]
    end(store, run)


def test_a_share_that_cannot_come_says_how_much_was_needed(store: RunStore) -> None:
    run = submit(store)
    members = [one(f"work#{number}", weight=1000) for number in (1, 2, 3, 4)]
    give(store, run, *members, terms=needs(3000, share=True))
    store.fail(begin(store, run, "work#2"), "no room")
    store.fail(begin(store, run, "work#3"), "no time")
    why = "2 of 4 assignments failed, 0.75 of the weight is needed and 0.5 can come; the first: work#2: no room"
    assert is_well(store, run).reason == f"join: {why}"


def test_what_a_member_has_started_ends_where_the_others_come_together_without_it(store: RunStore) -> None:
    # given two members, each of which has started a run of its own
    run = submit(store)
    give(store, run, one("work#1"), one("work#2"), terms=needs(1))
    begun = {name: begin(store, run, name) for name in ("work#1", "work#2")}
    plan = (PlanStep(name="only", agent="only"),)

    def child(step: str) -> str:
        submission = Submission(
            flow="f", plan=plan, value=b"1", tags={}, deadline=60.0, retention=60.0, parent=run, parent_step=step
        )
        submitted = store.submit([submission])[0]
        return submitted.run_id if submitted.what == "created" else submitted.what

    children = {name: child(name) for name in begun}
    # when one of them is enough
    store.commit(begun["work#1"], b"1")
    # then the caretaker is told, and ends what the other has started
    assert (run, "/") in store.timers(keys.shards(store.settings.shards))
    assert {name: store.orphan(one_run, run).what for name, one_run in children.items()} == {
        "work#1": "closed",
        "work#2": "cancelled",
    }
    # and it starts nothing more
    assert child("work#2") == "closed"
    store.leave(run)
    store.cancel(children["work#1"], reason="", by="me")
    end(store, run)
    store.leave(run)


@pytest.mark.parametrize(("otherwise", "status"), [("degrade", "completed"), ("fail", "failed")])
def test_what_a_member_gives_after_the_run_has_ended_is_recorded_and_changes_nothing(
    store: RunStore, otherwise: str, status: str
) -> None:
    # given a run that came to its end while a member was still at work
    run = submit(store)
    give(store, run, one("a#1"), one("b#2"), terms=needs(1 if status == "completed" else 2, otherwise=otherwise))
    slow, twice = begin(store, run, "b#2"), begin(store, run, "a#1")
    if status == "completed":
        store.commit(twice, b"1")
        store.commit(begin(store, run, "join"), b"2")
    else:
        store.fail(twice, "no")
    before = store.load(run)
    assert before.status == status
    # when it hands in its output, also a second time
    assert store.commit(slow, b'"late"').what == "late"
    assert store.commit(slow, b'"late"').what == "late"
    # then that can be read, and the run is as it was
    after = is_well(store, run)
    late = after.step("b#2")
    assert late is not None
    assert store.value(run, late.output or "") == b'"late"'
    assert [event.data["step"] for event in store.events(run) if event.type == "StepLate"] == ["b#2"]
    assert (after.status, after.output, after.reason) == (before.status, before.output, before.reason)
    assert gathered(store, run)["b#2"] == (None, None)


def test_a_cancelled_run_takes_nothing_more(store: RunStore) -> None:
    run = submit(store)
    give(store, run, one("a#1"))
    begun = begin(store, run, "a#1")
    store.cancel(run, reason="enough", by="me")
    assert store.commit(begun, b"1").what == "closed"


def test_a_member_knows_until_when_it_is_of_use(store: RunStore) -> None:
    # given a fan-out that has 5 seconds, and one within it that has none of its own
    run = submit(store)
    give(store, run, one("work#1"), team("team#2"), terms=needs(2, within=5.0))
    give(store, run, one("team#2/work#1", fan="team#2/join"), boss="team#2/boss")
    # when members begin, then both know of it
    for name in ("work#1", "team#2/work#1"):
        begun = begin(store, run, name)
        assert 0 < begun.useful <= 5.0 < begun.remaining
    end(store, run)


def test_a_join_timer_that_two_have_seen_revives_nothing(store: RunStore) -> None:
    # given a fan-out that has a time, in a member that is cancelled as it is over
    run = submit(store)
    give(store, run, team("team#1"), one("work#2"), terms=needs(1))
    inner = one("team#1/work#1", fan="team#1/join")
    give(store, run, inner, terms=needs(1, within=0.001), boss="team#1/boss")
    wait_until(lambda: store.timers([keys.shard_of(run)]), 5.0, "its time is over")
    work(store, run, "work#2")
    # when a caretaker that had seen its timer comes
    assert FanOuts(store).join(run, "team#1/join").what == "closed"
    assert statuses(store, run)["team#1/join"] == "cancelled"
    is_well(store, run)
    end(store, run)


def test_a_join_timer_revives_nothing_while_the_run_is_being_undone(store: RunStore) -> None:
    before = PlanStep(name="before", agent="a", next="boss", undo="undo")
    run = submit(store, (before, *PLAN))
    work(store, run, "before")
    give(store, run, one("work#1"), terms=needs(1, within=0.001))
    wait_until(lambda: store.timers([keys.shard_of(run)]), 5.0, "its time is over")
    assert store.cancel(run, reason="", by="me").what == "undoing"
    assert FanOuts(store).join(run, "join").what == "closed"
    assert is_well(store, run).status == "undoing"
    work(store, run, "before~undo")


# Undone


def test_members_are_undone_after_what_followed_them_and_before_what_came_before(store: RunStore) -> None:
    # given a run of which everything can be undone
    plan = (
        PlanStep(name="before", agent="a", next="boss", undo="undo"),
        PLAN[0],
        PLAN[1].model_copy(update={"next": "after", "undo": "undo"}),
        PlanStep(name="after", agent="a", next="last", undo="undo"),
        PlanStep(name="last", agent="a"),
    )
    run = submit(store, plan)
    work(store, run, "before")
    give(store, run, team("team#1"), flow("flow#2", undo="undo"))
    give(store, run, one("team#1/work#1", fan="team#1/join", undo="undo"), boss="team#1/boss")
    work(store, run, "flow#2/first", "flow#2/last", "team#1/work#1", "team#1/join", "join", "after")
    # when it fails
    assert store.fail(begin(store, run, "last"), "cannot").what == "undoing"
    # then what was done last is undone first
    undone = [step.undoes for step in is_well(store, run).steps if step.undoes]
    assert undone == ["after", "join", "flow#2/last", "team#1/work#1", "before"]
    work(store, run, *(f"{name}~undo" for name in undone))
    assert is_well(store, run).status == "failed"


def redrive(store: RunStore, run: str, step: str = "", value: bytes | None = None) -> tuple[str, str]:
    change = store.redrive(run, step=step, value=value, agent="", deadline=60.0, by="me")
    return change.what, change.step


def test_a_redriven_member_goes_on_at_what_was_undone_or_at_its_own_boss(store: RunStore) -> None:
    # given members that are flows: what one of them did is undone, another failed behind a fan-out of its own
    run = submit(store)
    first, *others = team("team#2").steps
    deep = Member(
        steps=(
            PlanStep(name="team#2/before", next=first.name, fan="join", member="team#2/before", agent="work", round=1),
            *(step.model_copy(update={"member": "team#2/before", "round": 0}) for step in (first, *others)),
        ),
        value=b"5",
    )
    give(store, run, flow("flow#1", undo="undo"), deep)
    work(store, run, "flow#1/first", "flow#1/last", "team#2/before")
    give(store, run, one("team#2/work#1", fan="team#2/join"), boss="team#2/boss")
    assert store.fail(begin(store, run, "team#2/work#1"), "cannot").what == "undoing"
    work(store, run, "flow#1/last~undo")
    # when the run is sent again, then both go on there, with what the steps before gave
    assert redrive(store, run) == ("redriven", "join")
    state = is_well(store, run)
    assert [step.name for step in state.steps if step.status == "ready"] == ["flow#1/last", "team#2/boss"]
    assert begin(store, run, "flow#1/last").value == b'"flow#1/first"'
    assert begin(store, run, "team#2/boss").value == b'"team#2/before"'
    end(store, run)


def test_a_redriven_join_runs_again_only_what_failed(store: RunStore) -> None:
    # given four members, of which one failed, one was at work and one had no room yet
    run = submit(store)
    give(store, run, one("work#1"), flow("flow#2"), one("work#3"), one("work#4"), terms=needs(4, width=3))
    work(store, run, "work#1", "flow#2/first")
    slow = begin(store, run, "work#3")
    assert statuses(store, run)["work#4"] == "ready"
    assert store.fail(begin(store, run, "flow#2/last"), "cannot").what == "failed"
    # when the run is sent again
    assert redrive(store, run) == ("redriven", "join")
    # then what is done stays done, and the rest begins as far as there is room
    state = is_well(store, run)
    assert statuses(store, run) == {
        "boss": "completed",
        "join": "pending",
        "work#1": "completed",
        "flow#2/first": "completed",
        "flow#2/last": "ready",
        "work#3": "ready",
        "work#4": "ready",
    }
    assert not [step.name for step in state.steps if step.revision]
    # and what was at work when it failed is stale
    assert store.commit(slow, b"0").what == "stale"
    again = begin(store, run, "flow#2/last")
    assert again.value == b'"flow#2/first"'
    store.commit(again, b'"flow#2/last"')
    work(store, run, "work#3", "work#4")
    assert set(gathered(store, run).values()) == {
        ("ok", b'"work#1"'),
        ("ok", b'"flow#2/last"'),
        ("ok", b'"work#3"'),
        ("ok", b'"work#4"'),
    }
    work(store, run, "join")
    assert is_well(store, run).degraded is False


def test_a_member_that_was_undone_runs_again_and_the_others_do_not(store: RunStore) -> None:
    run = submit(store)
    give(store, run, one("work#1", undo="undo"), one("work#2"), terms=needs(2))
    work(store, run, "work#1", "work#2")
    assert store.fail(begin(store, run, "join"), "cannot").what == "undoing"
    work(store, run, "work#1~undo")
    assert redrive(store, run) == ("redriven", "join")
    assert statuses(store, run) == {"boss": "completed", "join": "pending", "work#1": "ready", "work#2": "completed"}
    is_well(store, run)
    work(store, run, "work#1", "join")
    assert is_well(store, run).status == "completed"


def test_where_a_member_of_an_earlier_round_was_undone_the_boss_plans_anew(store: RunStore) -> None:
    # given a second round, which was planned on what the first gave
    run = submit(store)
    give(store, run, one("work#1", undo="undo"))
    work(store, run, "work#1")
    give(store, run, one("work#2", round=2), boss="join")
    # when the run fails and what was done is undone
    assert store.fail(begin(store, run, "work#2"), "cannot").what == "undoing"
    work(store, run, "work#1~undo")
    # then the second round alone is no use
    assert redrive(store, run, "join") == ("undone", "boss")
    assert redrive(store, run) == ("redriven", "boss")
    assert statuses(store, run) == {"boss": "ready", "join": "pending"}
    is_well(store, run)
    end(store, run)


def test_what_is_dropped_leaves_no_fan_out_behind(store: RunStore) -> None:
    # given a member that gave work out itself, of which something failed
    run = submit(store)
    give(store, run, team("team#1"), one("work#2"))
    give(store, run, one("team#1/work#1", fan="team#1/join"), boss="team#1/boss", terms=needs(1, otherwise="degrade"))
    store.fail(begin(store, run, "team#1/work#1"), "cannot")
    work(store, run, "team#1/join")
    store.fail(begin(store, run, "work#2"), "cannot")
    assert is_well(store, run).degraded
    # when the boss plans anew, then nothing is told of it
    assert redrive(store, run, "boss") == ("redriven", "boss")
    state = is_well(store, run)
    assert (list(state.fans), state.degraded) == (["join"], False)
    give(store, run, terms=needs(0))
    work(store, run, "join")
    assert is_well(store, run).degraded is False


def test_whoever_sends_a_join_again_with_an_input_has_said_what_came_of_its_members(store: RunStore) -> None:
    # given a fan-out that was open when the run's time was over
    run = submit(store)
    give(store, run, one("work#1"), terms=needs(1, within=60.0))
    store.client.hset(keys.run(run), "deadline_ms", 1)
    assert store.expire(run).what == "cancelled"
    # when the join is sent again with what it is to take, then it is not waited for any members
    assert redrive(store, run, "join", b'"given"') == ("redriven", "join")
    assert is_well(store, run).fans["join"].size == 0
    begun = begin(store, run, "join")
    assert begun.value == b'"given"'
    # and when it fails, it takes the same again
    store.fail(begun, "cannot")
    assert redrive(store, run) == ("redriven", "join")
    assert begin(store, run, "join").value == b'"given"'
    is_well(store, run)
    end(store, run)


def test_an_earlier_rounds_failure_is_told_after_the_last_one_was_sent_again(store: RunStore) -> None:
    run = submit(store)
    give(store, run, one("work#1"), one("work#2"), terms=needs(1))
    store.fail(begin(store, run, "work#1"), "cannot")
    work(store, run, "work#2")
    give(store, run, one("work#3", round=2), boss="join")
    store.fail(begin(store, run, "work#3"), "cannot")
    assert redrive(store, run) == ("redriven", "join")
    work(store, run, "work#3", "join")
    state = is_well(store, run)
    assert (state.status, state.degraded) == ("completed", True)


# What members say


def test_a_boss_that_answers_with_less_makes_its_member_degraded(store: RunStore) -> None:
    run = submit(store)
    give(store, run, team("team#1"))
    begun = begin(store, run, "team#1/boss")
    store.commit(begun, b'"old"', "answer", {"reason": "the last good output"})
    is_well(store, run)
    assert gathered(store, run) == {"team#1/boss": ("degraded", b'"old"')}
    end(store, run)


def test_a_members_part_that_is_handed_in_again_is_told_the_same(store: RunStore) -> None:
    run = submit(store)
    give(store, run, flow("flow#1"), one("work#2"), terms=needs(1))
    begun = begin(store, run, "flow#1/first")
    for _ in range(2):
        change = store.commit(begun, b"1", "partial", {"reason": "no budget is left"})
        assert (change.what, change.step) == ("joins", "join")
    is_well(store, run)
    end(store, run)


def test_a_step_may_be_named_like_what_a_join_takes(store: RunStore) -> None:
    run = submit(store, (PlanStep(name="fan:join", agent="a", next="last"), PlanStep(name="last", agent="a")))
    work(store, run, "fan:join")
    assert begin(store, run, "last").value == b'"fan:join"'
    end(store, run)


def test_the_reason_of_a_late_fan_out_counts_what_was_not_done(store: RunStore) -> None:
    run = submit(store)
    give(store, run, one("work#1"), one("work#2"), terms=needs(2, within=0.001))
    wait_until(lambda: FanOuts(store).join(run, "join").what == "joined", 5.0, "its time is over")
    assert is_well(store, run).reason == "join: 2 of 2 assignments were not done in time; the first: work#1"


SENT_BACK = (
    PlanStep(name="boss", agent="boss", next="join", delegates=True),
    PlanStep(name="join", agent="join", next="end", joins=True, start="boss", gated=True),
    PlanStep(name="end", agent="end"),
)
"""A hierarchy that a gate sends back to its boss, and a step after it."""


def test_a_boss_that_answers_itself_when_it_is_sent_back_leaves_nothing_of_what_it_had_given_out(
    store: RunStore,
) -> None:
    # given a run whose fan-out lacked something, and which its gate sends back to the boss
    run = submit(store, SENT_BACK)
    give(store, run, one("work#1", undo="undo"), one("work#2"), terms=needs(2, otherwise="degrade"))
    work(store, run, "work#1")
    store.fail(begin(store, run, "work#2"), "cannot")
    assert store.load(run).degraded
    store.commit(begin(store, run, "join"), b"1", "revise", {"feedback": "once more"})

    # when the boss answers itself
    store.commit(begin(store, run, "boss"), b'"42"', "answer")

    # then nothing is missing from the answer
    state = store.load(run)
    assert (state.degraded, state.fans["join"].total) == (False, 2)
    assert problems(look(store, run)) == []

    # when the run fails later, and what the first fan-out's member did is undone
    assert store.fail(begin(store, run, "end"), "no").what == "undoing"
    work(store, run, "work#1~undo")

    # then it goes on where it failed: that member is of no use to the answer
    assert redrive(store, run) == ("redriven", "end")
    assert begin(store, run, "end").value == b'"42"'
    assert problems(look(store, run)) == []
    store.cancel(run, reason="", by="")


def test_a_join_that_was_given_an_input_in_place_of_a_plan_may_give_work_out(store: RunStore) -> None:
    # given a run that was redriven from its boss, whose new plan did not come
    run = submit(store)
    give(store, run, one("work#1"))
    store.fail(begin(store, run, "work#1"), "cannot")
    assert redrive(store, run, "boss") == ("redriven", "boss")
    store.fail(begin(store, run, "boss"), "no plan")

    # when the join is given what should have come of it, and gives work out
    assert redrive(store, run, "join", b'"given"') == ("redriven", "join")
    assert give(store, run, one("work#2"), boss="join").what == "delegated"
    work(store, run, "work#2")

    # then it goes on with what came of that, and with what the boss took
    begun = begin(store, run, "join")
    assert (begun.value, gathered(store, run)) == (b"1", {"work#2": ("ok", b'"work#2"')})
    assert problems(look(store, run)) == []
    store.cancel(run, reason="", by="")


def test_a_join_that_is_redriven_after_its_gates_fallback_failed_takes_what_its_members_gave(store: RunStore) -> None:
    # given a fan-out with a gate, whose fallback takes what the boss took
    run = submit(store, (PLAN[0], PLAN[1].model_copy(update={"gated": True, "start": "boss"})))
    give(store, run, one("work#1"))
    work(store, run, "work#1")
    store.commit(begin(store, run, "join"), b"1", "fallback", {"agent": "spare", "reason": "not sure"})
    begun = begin(store, run, "join")
    assert (begun.step.agent, begun.step.input, begun.value) == ("spare", "input", b"1")

    # when that fails, and the run is redriven
    store.fail(begun, "no")
    assert redrive(store, run) == ("redriven", "join")

    # then
    assert begin(store, run, "join").step.input == "fan:join"
    assert gathered(store, run) == {"work#1": ("ok", b'"work#1"')}
    assert problems(look(store, run)) == []
    store.cancel(run, reason="", by="")


def test_what_steps_have_used_that_a_redrive_does_away_with_stays_in_the_runs_account(store: RunStore) -> None:
    # given a fan-out, and what undid one of its members, that have used something
    run = submit(store, (PLAN[0], PLAN[1]))
    give(store, run, one("work#1", undo="undo"), one("work#2"), terms=needs(2))
    store.commit(begin(store, run, "work#1"), b"1", spent=(70, 0.5))
    store.fail(begin(store, run, "work#2"), "no", spent=(20, 0.0))
    store.commit(begin(store, run, "work#1~undo"), b"1", spent=(7, 0.0))
    assert (store.load(run).tokens, store.load(run).cost) == (97, 0.5)

    # when its boss is to plan anew
    assert redrive(store, run, "boss") == ("redriven", "boss")

    # then
    assert [step.name for step in store.load(run).steps] == ["boss", "join"]
    assert (store.load(run).tokens, store.load(run).cost) == (97, 0.5)
    assert problems(look(store, run)) == []
    store.cancel(run, reason="", by="")
