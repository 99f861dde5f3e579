"""The checks themselves are checked: what is broken on purpose is found."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, cast

import hypothesis
import pytest
from hypothesis.stateful import run_state_machine_as_test

from orchestrator.messages import PlanStep
from orchestrator.state import keys, scripts
from orchestrator.state.runs import Begun, RunStore, Submission
from tests.servers import no_key_left_without_ttl_or_declaration, on_valkey
from tests.state.invariants import look, problems
from tests.state.machine import CLAIM_BYTES, LIMITS, Runs

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis import Redis

    from orchestrator import Settings

    Command = tuple[str | bytes | int, ...]

pytestmark = on_valkey

PLAN = (
    PlanStep(name="first", agent="a", next="second", undo="u", within_ms=60_000),
    PlanStep(name="second", agent="b"),
)
LARGE = json.dumps("x" * CLAIM_BYTES).encode()


@pytest.fixture
def store(redis_client: Redis, settings: Settings) -> RunStore:
    return RunStore(redis_client, settings.model_copy(update=LIMITS))


def queued(store: RunStore) -> str:
    submission = Submission(flow="flow", plan=PLAN, value=LARGE, deadline=60.0, retention=60.0, tags={})
    return store.submit([submission])[0].run_id


def begin(store: RunStore, run: str, step: str, agent: str) -> Begun:
    begun = store.begin(run, step, agent=agent, nonce="n", worker="w")
    assert isinstance(begun, Begun)
    return begun


def running(store: RunStore) -> str:
    run = queued(store)
    begin(store, run, "first", "a")
    return run


def waiting(store: RunStore) -> str:
    run = queued(store)
    details = {"question": "?", "timeout_ms": 60_000, "default": "reject"}
    store.commit(begin(store, run, "first", "a"), b"2", "wait", details)
    return run


def completed(store: RunStore) -> str:
    run = queued(store)
    for step in PLAN:
        store.commit(begin(store, run, step.name, step.agent), b"2")
    return run


def delayed(store: RunStore) -> str:
    run = queued(store)
    store.postpone(begin(store, run, "first", "a"), 30.0, "503")
    return run


def dead(store: RunStore) -> str:
    run = queued(store)
    store.fail(begin(store, run, "first", "a"), "no")
    return run


def undoing(store: RunStore) -> str:
    run = queued(store)
    store.commit(begin(store, run, "first", "a"), LARGE)
    store.cancel(run, reason="enough", by="me")
    return run


def add_event(run: str, kind: str, facts: str, at: str = "*") -> Command:
    return "XADD", keys.events(run), at, "type", kind, "v", 1, "at", 1, "data", facts


@pytest.mark.parametrize(
    ("state", "fault", "found"),
    [
        (running, lambda run: ("HSET", keys.run(run), "tenant", "other"), "run: tenant is 'other' in the projection"),
        (
            running,
            lambda run: ("HSET", keys.run(run), "step:second", '{"agent": "b", "status": "ready"}'),
            "step second: status is 'ready' in the projection and 'pending' by its events",
        ),
        (running, lambda run: ("DEL", keys.events(run)), "the log does not begin with RunSubmitted"),
        (completed, lambda run: add_event(run, "StepLost", '{"step": "first"}'), "events follow the run's end"),
        (
            completed,
            lambda run: add_event(run, "StepCompleted", '{"step": "first", "output": "first@1"}'),
            "step first is committed twice in one revision",
        ),
        (queued, lambda run: ("ZREM", keys.ready(keys.shard_of(run)), keys.member(run, "first")), "is in no index"),
        (running, lambda run: ("ZREM", keys.leases(keys.shard_of(run)), keys.member(run, "first")), "is in no index"),
        (waiting, lambda run: ("ZREM", keys.timers(keys.shard_of(run)), keys.member(run, "first")), "is in no index"),
        (waiting, lambda run: ("ZREM", keys.timers(keys.shard_of(run)), run), "no timer holds the run's deadline"),
        (
            running,
            lambda run: ("ZADD", keys.ready(keys.shard_of(run)), 1, keys.member(run, "first")),
            "step first is running and is in leases, ready",
        ),
        (
            running,
            lambda run: ("ZADD", keys.index(keys.shard_of(run), "waiting"), 1, run),
            "the run is running and is listed as running, waiting",
        ),
        (
            completed,
            lambda run: ("ZADD", keys.timers(keys.shard_of(run)), 1, run),
            "the run has ended and",
        ),
        (completed, lambda run: ("PERSIST", keys.data(run)), "has no TTL"),
        (running, lambda run: ("EXPIRE", keys.events(run), 60), "expires or is gone"),
        (delayed, lambda run: ("ZREM", keys.timers(keys.shard_of(run)), keys.member(run, "first")), "is in no index"),
        (
            delayed,
            lambda run: ("ZADD", keys.timers(keys.shard_of(run)), 1, keys.member(run, "first")),
            "no timer holds the time until which step first waits",
        ),
        (
            running,
            lambda run: ("ZREM", keys.timers(keys.shard_of(run)), keys.member(run, "/first")),
            "and its timer says None",
        ),
        (
            running,
            lambda run: ("ZADD", keys.timers(keys.shard_of(run)), 1, keys.member(run, "/second")),
            "step second is pending, to be done by None, and its timer says 1.0",
        ),
        (
            running,
            lambda run: ("ZADD", keys.timers(keys.shard_of(run)), 1, keys.member(run, "/")),
            "the run is running and its children are to be ended",
        ),
        (running, lambda run: ("HSET", keys.run(run), "ending", '{"status": "failed"}'), "its end is to be"),
        (undoing, lambda run: ("HDEL", keys.run(run), "ending"), "its end is to be None"),
        (undoing, lambda run: ("EXPIRE", keys.blob(run, "input"), 60), "expires before its run"),
        (undoing, lambda run: add_event(run, "StepReady", '{"step": "second"}'), "step second: status is 'cancelled'"),
        (dead, lambda run: ("ZREM", keys.dead(keys.shard_of(run)), run), "the run is a dead letter until None"),
        (completed, lambda run: ("ZADD", keys.dead(keys.shard_of(run)), 1, run), "the run is a dead letter until 1.0"),
        (dead, lambda run: ("EXPIRE", keys.run(run), 60), "the run is kept for"),
        (dead, lambda run: ("PEXPIRE", keys.blob(run, "input"), 60_000), "expires before its run"),
        (running, lambda run: ("HDEL", keys.data(run), "input"), "the value input is missing"),
        (running, lambda run: ("DEL", keys.blob(run, "input")), "the value input cannot be read"),
    ],
)
def test_a_fault_planted_in_the_state_is_reported(
    store: RunStore, state: Callable[[RunStore], str], fault: Callable[[str], Command], found: str
) -> None:
    # given a run with which all is well
    run = state(store)
    assert problems(look(store, run)) == []

    # when something of it is changed behind the scripts' back
    store.client.execute_command(*fault(run))  # type: ignore[no-untyped-call]  # redis-py's is untyped

    # then the check says so
    assert found in "\n".join(problems(look(store, run)))


@pytest.mark.parametrize(
    ("script", "line", "instead", "seed"),
    [
        ("begin", "redis.call('ZREM', READY, member(step))", "", 1),
        ("begin", "if rec.status == 'running' then return {'held'} end", "", 8),
        ("commit", "or rec.fence ~= fence then", "then", 1),
        ("commit", "redis.call('ZREM', LEASES, member(step))", "", 1),
        ("decide", "redis.call('ZREM', TIMERS, member(step))", "", 1),
        ("lost", "emit('StepLost', facts)", "", 1),
        ("lost", "rec.losses = (rec.losses or 0) + 1", "rec.losses = 1", 1),
        ("cancel", "redis.call('PEXPIRE', EVENTS, retention_ms)", "", 2),
        ("renew", " and rec.fence == fence then", " then", 1),
        ("record", "or rec.fence ~= ARGV[2] then", "then", 4),
        ("record", "if known then return {'known', known} end", "", 8),
        ("postpone", "if ARGV[5] == '0' then rec.attempt = rec.attempt - 1 end", "", 1),
        ("postpone", "redis.call('ZREM', LEASES, member(step))", "", 1),
        ("degrade", "rec.rung = rung", "", 1),
        ("commit", "rec.tokens = (rec.tokens or 0) + tokens", "rec.tokens = tokens", 3),
        ("commit", "if to ~= 'completed' or facts.partial then", "if to ~= 'completed' then", 4),
        ("fail", "if facts.kind then retention_ms =", "if false then retention_ms =", 1),
        ("cancel", "redis.call('ZADD', TIMERS, NOW, by_then(''))", "", 9),
        ("redrive", "redis.call('ZREM', DEAD, ID)", "", 1),
        ("drop", "redis.call('HDEL', RUN, 'failure')", "", 8),
    ],
)
def test_a_fault_planted_in_a_script_is_found_by_the_state_machine(
    redis_client: Redis,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    script: str,
    line: str,
    instead: str,
    seed: int,
) -> None:
    """The seed is one with which it takes few examples; with others it may take hundreds."""
    # given a script with one line gone wrong
    sound = scripts.source

    def source(name: str) -> str:
        text = sound(name)
        assert name != script or line in text
        return text.replace(line, instead) if name == script else text

    monkeypatch.setattr(scripts, "source", source)
    store = RunStore(redis_client, settings.model_copy(update=LIMITS))

    # when the machine runs, then it finds it
    machine = hypothesis.seed(seed)(lambda: Runs(store))
    with pytest.raises((AssertionError, KeyError)):
        run_state_machine_as_test(
            cast("type[Runs]", machine),
            settings=hypothesis.settings(
                max_examples=1000,  # it stops at the first that fails
                stateful_step_count=40,
                deadline=None,
                database=None,
                phases=[hypothesis.Phase.generate],
                report_multiple_bugs=False,
            ),
        )


def test_a_key_without_ttl_that_nobody_declares_permanent_is_reported(store: RunStore) -> None:
    # given runs in every state, of which nothing stays for ever
    for state in (queued, running, waiting, delayed, undoing, completed, dead):
        state(store)
    no_key_left_without_ttl_or_declaration(store.client)

    # when a key of nobody's is added, then it is named
    store.client.set("stray", "1")
    with pytest.raises(AssertionError, match="stray"):
        no_key_left_without_ttl_or_declaration(store.client)


def test_an_index_entry_of_a_run_that_has_ended_is_reported(store: RunStore) -> None:
    # given a finished run
    run = completed(store)

    # when it is entered among the leases again, then it is named
    store.client.zadd(keys.leases(keys.shard_of(run)), {keys.member(run, "first"): 1})
    with pytest.raises(AssertionError, match=run):
        no_key_left_without_ttl_or_declaration(store.client)
