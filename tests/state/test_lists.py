"""Lists of runs and dead letters: what they read, what they tell of fan-outs, and runs that cannot be read."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator import Client, RunNotFound
from orchestrator.cli.wording import current_step, standing
from orchestrator.errors import RunUnreadable
from orchestrator.messages import PlanStep
from orchestrator.state import keys
from orchestrator.state.fan_outs import FanOuts
from orchestrator.state.listing import UnreadableRun
from orchestrator.state.runs import RunStore, Submission
from tests.command_line import Shell
from tests.servers import on_valkey, wait_until
from tests.state.test_fan_outs import begin, give, needs, one, store, submit, team, work

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from orchestrator import Settings

__all__ = ["store"]
MANY = 300
PIPELINE = (PlanStep(name="first", agent="first", next="last", undo="back"), PlanStep(name="last", agent="last"))


@pytest.fixture
def client(store: RunStore, settings: Settings) -> Iterator[Client]:
    client = Client(settings, connection=store.client)
    yield client
    client.app.close()


@pytest.fixture
def shell(tmp_path: Path, redis_url: str) -> Shell:
    """A folder to run commands in."""
    return Shell(tmp_path, {"CELERIAC_REDIS_URL": redis_url, "CELERIAC_SHARDS": "2"})


def fanned_out(store: RunStore, members: int = MANY, **terms: Any) -> str:  # noqa: ANN401  as of `needs`
    """Return a run whose boss has given work out."""
    run = submit(store)
    names = [f"work#{number}" for number in range(1, members + 1)]
    give(store, run, *(one(name, value=b"1", specialist="work") for name in names), terms=needs(members, **terms))
    return run


def failed(store: RunStore, run: str, step: str, reason: str = "ValueError: no") -> str:
    store.fail(begin(store, run, step), reason, spent=(5, 0.5))
    return run


# What is read


@on_valkey
def test_lists_do_not_read_the_members_of_a_fan_out(client: Client, store: RunStore) -> None:
    # given runs with hundreds of members, one of them dead
    run, dead = fanned_out(store), failed(store, fanned_out(store), "work#1")
    work(store, run, "work#1")
    store.client.config_resetstat()

    # when all lists are asked for
    states = client.list_runs() + client.list_runs(flow="f")
    sent = int(store.client.info("stats")["total_net_output_bytes"])
    letters = client.dead_letters()

    # then what comes of members are their names
    assert [[step.name for step in state.steps] for state in states] == [["boss", "join"]] * 4
    assert [letter.run_id for letter in letters] == [dead]
    assert sent < 2 * 2 * MANY * 20 + 5000
    assert store.client.info("commandstats").get("cmdstat_hgetall") is None


def test_a_run_at_work_on_a_fan_out_is_listed_with_how_much_of_it_has_ended(client: Client, store: RunStore) -> None:
    # given
    work(store, fanned_out(store), "work#1", "work#2")

    # then
    (state,) = client.list_runs()
    assert current_step(state) == f"join (2 of {MANY})"


def test_a_run_whose_assignments_wait_for_people_is_listed_with_how_many(client: Client, store: RunStore) -> None:
    # given two of twenty that wait
    run = fanned_out(store, 20)
    for name in ("work#1", "work#2"):
        details = {"question": "fine?", "timeout_ms": 60_000, "default": "approve"}
        store.commit(begin(store, run, name), b"1", "wait", details)

    # then
    (state,) = client.list_runs(status="waiting")
    assert standing(state) == "2 of its assignments wait for a person"


def test_a_failed_run_is_not_listed_as_degraded(client: Client, store: RunStore) -> None:
    failed(store, fanned_out(store), "work#1")
    (state,) = client.list_runs()
    assert state.degraded
    assert standing(state).startswith("join: 1 of ")


# Dead letters


def whole(client: Client, run: str) -> dict[str, Any]:
    """Return a dead letter as the whole run and the whole log give it."""
    return client.get(run).dead_letter().model_dump()


def test_a_listed_dead_letter_has_the_errors_of_all_attempts(client: Client, store: RunStore) -> None:
    # given a run that failed after many attempts, was redriven, and failed again
    run = submit(store, PIPELINE)
    for number in range(12):
        assert store.postpone(begin(store, run, "first"), 0.001, f"no {number}") == "delayed"
        wait_until(lambda: store.wake([(run, "first")]) == ["ready"], 5, "its time has come")
    failed(store, run, "first")
    store.redrive(run, step="", value=None, agent="", deadline=60.0, by="ada")
    failed(store, run, "first", "ValueError: again")

    # then
    (letter,) = client.dead_letters()
    assert letter.model_dump() == whole(client, run)
    assert (len(letter.errors), letter.tokens) == (14, 10)


def test_a_listed_dead_letter_says_where_it_goes_on_after_a_long_undoing(client: Client, store: RunStore) -> None:
    # given a run whose first step was undone, with many events since it failed
    run = submit(store, PIPELINE)
    work(store, run, "first")
    failed(store, run, "last")
    undoing = begin(store, run, "first~undo")
    for number in range(50):
        store.record(undoing, f"sub {number}", b"1")
    store.commit(undoing, b"1")

    # then
    (letter,) = client.dead_letters()
    assert letter.model_dump() == whole(client, run)
    assert (letter.step, letter.goes_on_at) == ("last", "first")


@pytest.mark.parametrize("undo", [None, "back"])
def test_a_listed_dead_letter_of_a_fan_out_leaves_out_only_what_its_members_used(
    client: Client, store: RunStore, undo: str | None
) -> None:
    # given one whose members are undone, or need not be
    run = submit(store)
    names = [f"work#{number}" for number in range(1, 21)]
    give(store, run, *(one(name, value=b"1", undo=undo) for name in names))
    work(store, run, "work#2", "work#3")
    failed(store, run, "work#1")
    if undo:
        work(store, run, "work#3~undo", "work#2~undo")

    # then
    (letter,) = client.dead_letters()
    used = {} if undo else {"tokens": None, "cost": None}
    assert letter.model_dump() == whole(client, run) | used


def test_dead_letters_are_listed_by_flow_and_by_the_agent_they_failed_on(client: Client, store: RunStore) -> None:
    runs = [failed(store, submit(store, PIPELINE), "first"), failed(store, fanned_out(store, 2), "work#1")]

    def listed(**wishes: Any) -> set[str]:  # noqa: ANN401  keywords of dead_letters
        return {letter.run_id for letter in client.dead_letters(**wishes)}

    assert listed() == set(runs)
    assert listed(agent="first") == {runs[0]}
    assert listed(agent="join") == {runs[1]}
    assert listed(flow="f", agent="nobody") == listed(flow="g") == set()
    assert len(listed(limit=1)) == 1


# What cannot be read


def odd_width(store: RunStore, run: str) -> None:
    fan = json.loads(store.client.hget(keys.run(run), "fan:join") or b"")
    store.client.hset(keys.run(run), "fan:join", json.dumps(fan | {"width": 2.5}))


def unknown_field(store: RunStore, run: str) -> None:
    step = json.loads(store.client.hget(keys.run(run), "step:join") or b"")
    store.client.hset(keys.run(run), "step:join", json.dumps(step | {"of_tomorrow": 1}))


def no_json(store: RunStore, run: str) -> None:
    store.client.hset(keys.run(run), "step:join", "nonsense")


def no_step(store: RunStore, run: str) -> None:
    store.client.hdel(keys.run(run), "step:join")


def no_order(store: RunStore, run: str) -> None:
    store.client.hdel(keys.run(run), "order")


def odd_order(store: RunStore, run: str) -> None:
    store.client.hset(keys.run(run), "order", "[1, {}]")


def no_text(store: RunStore, run: str) -> None:
    store.client.hset(keys.run(run), "flow", b"\xff")


ODD = (odd_width, unknown_field, no_json, no_step, no_order, odd_order, no_text)


@on_valkey
@pytest.mark.parametrize("spoil", ODD)
def test_a_run_that_cannot_be_read_does_not_hide_the_others(
    client: Client, store: RunStore, spoil: Callable[[RunStore, str], None]
) -> None:
    # given two runs at work and two dead ones, one of each spoilt
    good, odd = fanned_out(store, 2), fanned_out(store, 2)
    dead, odd_dead = (failed(store, fanned_out(store, 2), "work#1") for _ in range(2))
    for run in (odd, odd_dead):
        spoil(store, run)

    # then the lists have them all
    found = client.lists.runs(["running", "failed"], limit=10)
    assert {one.id for one in found} == {good, odd, dead, odd_dead}
    assert {one.id for one in found if isinstance(one, UnreadableRun)} == {odd, odd_dead}
    letters = client.lists.dead(limit=10)
    assert {one.id for one in letters if isinstance(one, UnreadableRun)} == {odd_dead}
    # and those that a program reads have what can be read
    assert {state.id for state in client.list_runs()} == {good, dead}
    assert [letter.run_id for letter in client.dead_letters()] == [dead]
    # and it is told when it is read itself
    with pytest.raises(RunUnreadable, match=f"run {odd} cannot be read"):
        client.get(odd).state()
    # and a dead one can be given up
    client.get(odd_dead).drop(by="ada")
    assert client.lists.dead(limit=10) == client.dead_letters()


@on_valkey
@pytest.mark.parametrize("spoil", [odd_width, unknown_field])
def test_a_run_that_cannot_be_read_is_listed_dropped_and_cancelled_by_hand(
    store: RunStore, shell: Shell, spoil: Callable[[RunStore, str], None]
) -> None:
    # given
    odd, dead = fanned_out(store, 2), failed(store, fanned_out(store, 2), "work#1")
    for run in (odd, dead):
        spoil(store, run)

    # when they are listed, then as what they are, with why
    lines = shell.run("runs", "list").out.splitlines()[1:]
    assert [(line.split()[0], " unreadable " in line) for line in lines] == [(dead, True), (odd, True)]
    documents = shell.run("runs", "list", "--json").document
    assert [(one["id"], one["status"], one["unreadable"]) for one in documents] == [
        (dead, "failed", True),
        (odd, "running", True),
    ]
    assert f"{dead} " in shell.run("dead", "list").out
    (letter,) = shell.run("dead", "list", "--json").document
    assert (letter["id"], letter["kind"]) == (dead, "unreadable")
    for command in ("runs show", "dead show"):
        shell.run(*command.split(), dead).assert_one_line(f"run {dead} cannot be read", f"celeriac dead drop {dead}")

    # and they can be given up
    cancelled = shell.run("runs", "cancel", odd)
    assert cancelled.code == 0, cancelled
    assert cancelled.out.startswith(f"{odd} cancelled; it cannot be read: ")
    assert store.status(odd) == "cancelled"
    assert shell.run("dead", "drop", "--all", "--yes").out == f"{dead} dropped\n"
    assert shell.run("dead", "list").out == "none\n"


@on_valkey
def test_a_child_that_cannot_be_read_does_not_hide_its_parent(
    client: Client, store: RunStore, caplog: pytest.LogCaptureFixture
) -> None:
    # given a run with two children
    parent = submit(store)
    common: dict[str, Any] = {"value": b"1", "tags": {}, "deadline": 60.0, "retention": 60.0, "parent": parent}
    children = [store.submit([Submission(flow="f", plan=PIPELINE, **common)])[0].run_id for _ in range(2)]
    store.client.hset(keys.run(children[0]), "step:last", "nonsense")

    # then
    assert [state.id for state in client.get(parent).descendants()] == [children[1]]
    assert f"run {children[0]} cannot be read" in caplog.text


def test_the_status_of_a_run_that_is_gone_is_not_found(client: Client) -> None:
    with pytest.raises(RunNotFound):
        client.get("0" * 24).drop(by="ada")


# Which assignments failed


@on_valkey
def test_a_dead_letter_of_a_fan_out_is_shown_with_what_failed(store: RunStore, shell: Shell) -> None:
    # given a run of which eight assignments failed, and twelve were done
    run = submit(store)
    names = [f"work#{number}" for number in range(1, 21)]
    give(
        store,
        run,
        *(one(name, value=b"1", specialist="work", label=f"part of {name}") for name in names),
        terms=needs(13),
    )
    work(store, run, *names[8:])
    for name in names[:8]:
        failed(store, run, name, f"ValueError: {name} is bad")

    # when
    text = shell.run("dead", "show", run).out
    shown = shell.run("dead", "show", run, "--json").document

    # then the first are told, and where the others are
    assert "step join, agent join, 12 of 20 assignments done\n" in text
    assert "  1. work#1 (part of work#1), agent work, 1 attempt: ValueError: work#1 is bad\n" in text
    assert "  5. work#5 " in text
    assert "  6. " not in text
    assert f"  and 3 more: celeriac runs show {run} --all\n" in text
    assert len(shown["assignments"]) == 8
    assert shown["assignments"][7] == {
        "name": "work#8",
        "agent": "work",
        "label": "part of work#8",
        "reason": "ValueError: work#8 is bad",
        "attempts": 1,
    }


@on_valkey
def test_of_a_team_that_failed_it_is_shown_what_failed_within_it(store: RunStore, shell: Shell) -> None:
    # given an assignment that is a fan-out itself
    run = submit(store)
    give(store, run, team("team#1"))
    give(store, run, one("team#1/work#1", fan="team#1/join"), boss="team#1/boss")
    failed(store, run, "team#1/work#1", "ValueError: within")

    # then
    text = shell.run("dead", "show", run).out
    assert "  1. team#1/work#1, agent work, 1 attempt: ValueError: within\n" in text


@on_valkey
def test_of_a_fan_out_whose_time_is_over_it_is_shown_what_was_not_done(store: RunStore, shell: Shell) -> None:
    # given
    run = fanned_out(store, 3, within=0.01)
    work(store, run, "work#2")
    wait_until(lambda: FanOuts(store).join(run, "join").what != "early", 5, "its time is over")

    # then
    shown = shell.run("dead", "show", run, "--json").document
    assert [(one["name"], one["reason"]) for one in shown["assignments"]] == [
        ("work#1", "not done in time"),
        ("work#3", "not done in time"),
    ]
