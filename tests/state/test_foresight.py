"""What a message foresees of the attempt it leads to: its guards are asked along with its begin, and once."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, Final

import celery._state
import pytest
from celery import Celery
from celery.app.trace import build_tracer
from kombu.transport.redis import Channel

from orchestrator import AgentFailed, Breaker, Budget, Concurrency, Gate, Pipeline, RateLimit, Spend, Stage, agent
from orchestrator.broker import celery_config
from orchestrator.runtime import batching, process
from orchestrator.runtime.caretaker import Caretaker
from orchestrator.runtime.outcomes import StepAgain, StepSuperseded
from orchestrator.runtime.tasks import register_tasks
from orchestrator.state import keys
from orchestrator.state.guards import Admitted, Guards, Refused
from tests.servers import wait_until
from tests.state import flows
from tests.state.fleet import Fleet, nothing_is_held
from tests.state.flows import Note
from tests.state.invariants import look, problems

if TYPE_CHECKING:
    from collections.abc import Iterator

    from redis import Redis

    from orchestrator import Client, Settings
    from orchestrator.client import Run
    from orchestrator.runtime.batching import BatchingRedis

MANY: Final = 1000
GUARDS: Final[dict[str, Any]] = {
    "breaker": Breaker(),
    "rate": RateLimit(requests=MANY, tokens=MANY, per=3600.0),
    "concurrency": Concurrency(total=1),
    "estimate": 100,
}


@agent("state.plain")
def plain(note: Note) -> Note:
    """Pass on."""
    return note


@agent("state.guarded", **GUARDS)
def guarded(note: Note) -> Note:
    """Pass on, where all guards let it."""
    return note


@agent("state.retaken", **GUARDS)
def retaken(note: Note) -> Note:
    """Undo it."""
    return note


@agent("state.judged", **{**GUARDS, "estimate": lambda note: len(note.text)})
def judged(note: Note) -> Note:
    """Pass on, at a price that depends on the input."""
    return note


guardedly = Pipeline("guardedly", [guarded])
judgedly = Pipeline("judgedly", [judged])
plainly = Pipeline("plainly", [plain])
revised = Pipeline(
    "revised", [Stage(guarded, gate=Gate(lambda note: note.number > 0, on_fail="human"), undo=retaken), plain]
)
QUEUES: Final = ("state.plain", "state.guarded", "state.judged", "state.retaken")


class Worker:
    """A worker's code in this process: it takes the messages that are in the queues, one at a time."""

    def __init__(self, settings: Settings) -> None:
        self.app = Celery("test", set_as_current=False)
        self.app.conf.update(celery_config(settings))
        register_tasks(self.app)
        self.process = process.WorkerProcess(settings)

    def take(self, queue: str = "state.guarded") -> tuple[dict[str, Any], dict[str, Any]]:
        """Take a message out of a queue: its headers, and its keyword arguments."""
        with self.app.connection_for_read() as connection:
            channel = connection.default_channel
            assert isinstance(channel, Channel)
            message = channel.basic_get(queue, no_ack=True)
            assert message is not None, f"no message in {queue}"
            payload = json.loads(message.body)
            return dict(message.headers), payload[1]

    def execute(self, message: tuple[dict[str, Any], dict[str, Any]]) -> Any:  # noqa: ANN401  a task's result
        """Execute a message as Celery does, and return what its task returns; what that raises is raised."""
        headers, kwargs = message
        task = self.app.tasks[headers["task"]]
        tracer = build_tracer(task.name, task, app=self.app, eager=True, propagate=True)
        traced = tracer(headers["id"], (), kwargs, {**headers, "args": (), "kwargs": kwargs})
        if traced.info is not None:
            raise traced.info.retval
        return traced.retval

    def close(self) -> None:
        self.process.store.client.close()
        self.app.close()


@pytest.fixture
def worker(settings: Settings, client: Client, monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:  # noqa: ARG001  ends first
    """A worker in this process."""
    # Celery announces tasks to every app that is finalised later in the process; here each test has its own.
    monkeypatch.setattr(celery._state, "_on_app_finalizers", set(celery._state._on_app_finalizers))  # noqa: SLF001
    monkeypatch.setattr(flows, "QUEUES", (*flows.QUEUES, *QUEUES))
    worker = Worker(settings)
    monkeypatch.setattr(process, "_processes", {os.getpid(): worker.process})
    yield worker
    worker.close()


def requests(client: Redis) -> int:
    """Return how many calls a rate limit has counted in its window."""
    return int(client.hget(keys.rate("state.guarded", 3_600_000), "requests") or 0)


def completes(run: Run) -> bool:
    return bool(run.result(timeout=1.0) == Note(text="x"))


def note(monkeypatch: pytest.MonkeyPatch, owner: type, name: str, calls: list[str]) -> None:
    """Note each call of a method."""
    method = getattr(owner, name)

    def noting(*args: object, **options: object) -> object:
        calls.append(name)
        return method(*args, **options)

    monkeypatch.setattr(owner, name, noting)


def foreseen(message: tuple[dict[str, Any], dict[str, Any]]) -> object:
    return message[0].get("foreseen")


@pytest.mark.parametrize(
    ("flow", "budget", "more"),
    [
        (plainly, None, 0),
        (guardedly, None, 0),
        (judgedly, None, 1),
        (guardedly, Budget(tokens=MANY), 2),
    ],
)
def test_guards_cost_a_step_round_trips_only_where_its_message_does_not_tell_all(
    client: Client, worker: Worker, monkeypatch: pytest.MonkeyPatch, flow: Pipeline, budget: Budget | None, more: int
) -> None:
    # given a step, and a process that has done this before
    trips: list[str] = []
    spent: list[int] = []
    for name in ("call", "call_all"):  # each is one message to the server
        note(monkeypatch, batching._Lent, name, trips)  # noqa: SLF001
    for _ in range(2):
        run = client.submit(flow, {"text": "x"}, budget=budget)
        message = worker.take(run.state().steps[0].agent)
        trips.clear()
        # when it is executed
        worker.execute(message)
        spent.append(len(trips))
        assert completes(run)
    # then it has asked the server to begin, and to commit, and so often more
    assert spent[1] == 2 + more


def test_what_was_foreseen_is_taken_once_and_given_back_once(
    client: Client, worker: Worker, redis_client: Redis
) -> None:
    # given a message that tells of its attempt
    run = client.submit(guardedly, {"text": "x"}, tenant="acme", priority="high")
    message = worker.take()
    assert foreseen(message) == ["acme", "high", 1]
    # when it is executed
    worker.execute(message)
    # then the call counts once everywhere, and nothing is held
    assert completes(run)
    assert requests(redis_client) == 1
    assert [found.calls for found in worker.process.guards.breakers()] == [1]
    assert nothing_is_held(redis_client)


@pytest.mark.parametrize(
    "told",
    [
        None,
        ["other", "normal", 1],
        ["default", "low", 1],
        ["default", "normal", 7],
        ["default", "urgent", 1],
        ["default", 1],
        "default",
        [[], {}, "1"],
    ],
)
def test_a_message_that_foresees_something_else_changes_nothing(
    client: Client, worker: Worker, redis_client: Redis, told: object
) -> None:
    # given a message of an earlier version, or one that tells what is not so
    run = client.submit(guardedly, {"text": "x"})
    headers, kwargs = worker.take()
    # when it is executed
    worker.execute(({**headers, "foreseen": told}, kwargs))
    # then the call counts once, for its own tenant, and nothing is held
    assert completes(run)
    assert requests(redis_client) == 1
    assert [found.calls for found in worker.process.guards.breakers()] == [1]
    assert nothing_is_held(redis_client)


def test_a_message_that_comes_twice_takes_nothing_twice(client: Client, worker: Worker, redis_client: Redis) -> None:
    # given a step that is done, when its message comes once more
    run = client.submit(guardedly, {"text": "x"})
    message = worker.take()
    worker.execute(message)
    with pytest.raises(StepSuperseded):
        worker.execute(message)
    # then its guards know of one call
    assert completes(run)
    assert requests(redis_client) == 1
    assert nothing_is_held(redis_client)


def test_a_message_that_comes_while_its_step_is_at_work_leaves_it_what_it_holds(
    client: Client, worker: Worker, redis_client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a step whose message comes once more while it is at work
    run = client.submit(guardedly, {"text": "x"})
    message = worker.take()
    places = []

    def work(note: Note) -> Note:
        with pytest.raises(StepSuperseded):
            worker.execute(message)
        places.append(redis_client.hget(keys.slots("state.guarded"), "total"))
        return note

    monkeypatch.setattr(guarded, "function", work)
    worker.execute(message)
    # then it has its place until it ends
    assert completes(run)
    assert places == [b"1"]
    assert requests(redis_client) == 1
    assert nothing_is_held(redis_client)


def test_a_step_that_cannot_take_its_input_gives_back_what_it_did_not_use(
    client: Client, worker: Worker, redis_client: Redis
) -> None:
    # given a run whose input is lost
    client.submit(guardedly, {"text": "x" * (client.settings.claim_check_bytes + 1)})
    message = worker.take()
    redis_client.delete(keys.blob(message[1]["run"], "input"))
    # when its step is executed
    with pytest.raises(AgentFailed, match="noeviction"):
        worker.execute(message)
    # then no call was made, and none counts
    assert requests(redis_client) == 0
    assert nothing_is_held(redis_client)


def test_one_that_must_wait_is_in_the_queue_after_one_question_and_goes_on_in_its_turn(
    client: Client, worker: Worker, redis_client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given an agent whose only place is taken
    first, second = client.submit_many(guardedly, [{"text": "x"}] * 2)
    message = worker.take()
    waits = worker.take()
    asked: list[str] = []
    note(monkeypatch, Guards, "admit", asked)

    def work(note: Note) -> Note:
        # when another comes, then it waits, and was told so along with its begin
        asked.clear()  # the first one asked once more where the server had never seen the script
        with pytest.raises(StepAgain, match="waits for its turn"):
            worker.execute(waits)
        assert asked == []
        return note

    monkeypatch.setattr(guarded, "function", work)
    worker.execute(message)
    monkeypatch.setattr(guarded, "function", lambda note: note)
    # when the first has ended, then the other is called: the next message tells of its second begin
    called = worker.take()
    assert foreseen(called) == ["default", "normal", 2]
    worker.execute(called)
    assert completes(first)
    assert completes(second)
    assert requests(redis_client) == 2
    assert nothing_is_held(redis_client)


def test_an_answer_that_was_lost_is_given_again(
    client: Client, worker: Worker, redis_client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a worker that never hears what it asked along
    monkeypatch.setattr(batching.Along, "end", lambda _: None)
    run = client.submit(guardedly, {"text": "x"})
    message = worker.take()
    # when its step is executed
    worker.execute(message)
    # then the call counts once, and nothing is held
    assert completes(run)
    assert requests(redis_client) == 1
    assert nothing_is_held(redis_client)
    # and neither does one that is not even begun take anything
    with pytest.raises(StepSuperseded):
        worker.execute(message)
    assert requests(redis_client) == 1
    assert nothing_is_held(redis_client)


def test_a_step_with_a_budget_and_one_that_undoes_another_ask_when_they_are_begun(
    client: Client, worker: Worker, redis_client: Redis
) -> None:
    # given a run with a budget: what is in it is known when its step begins
    run = client.submit(guardedly, {"text": "x"}, budget=Budget(tokens=1000))
    message = worker.take()
    assert foreseen(message) is None
    worker.execute(message)
    assert completes(run)

    # given a run that is sent back, and is undone: that costs no budget whatever there is
    run = client.submit(revised, {"text": "x"})
    worker.execute(worker.take())
    run.approve(by="me")
    assert foreseen(worker.take("state.plain")) == ["default", "normal", 1]
    run.cancel()
    undoes = worker.take("state.retaken")
    assert foreseen(undoes) is None
    worker.execute(undoes)
    assert run.status() == "cancelled"
    assert problems(look(client.store, run.id)) == []
    assert nothing_is_held(redis_client)


def test_the_next_attempt_of_a_lost_one_is_foreseen_too(
    client: Client, worker: Worker, redis_client: Redis, settings: Settings
) -> None:
    # given a step whose worker died when it held its place
    run = client.submit(guardedly, {"text": "x"})
    (name,) = (step.name for step in run.state().steps)
    worker.take()
    lost = worker.process.store.begin(run.id, name, agent="state.guarded", nonce="n", worker="w")
    assert not isinstance(lost, Refused)
    member = keys.member(run.id, name)
    options: dict[str, Any] = {"tenant": "default", "need": Spend(tokens=100), "hold_ms": 60_000, "wait": True}
    worker.process.guards.admit("state.guarded", member, guarded.guards(fallback=False), fence="1-n", **options)
    caretaker = Caretaker(client.app, worker.process)
    worker.process.store.client.zadd(keys.leases(keys.shard_of(run.id)), {member: 1}, xx=True)

    def is_ready() -> bool:
        caretaker.sweep()
        caretaker.tick()
        step = run.state().step(name)
        return step is not None and step.status == "ready"

    # when its lease is over, then the next message tells of the second begin, and that has the place
    wait_until(is_ready, 3 * settings.lease + 5, "the step is ready again")
    message = worker.take()
    assert foreseen(message) == ["default", "normal", 2]
    worker.execute(message)
    assert completes(run)
    assert nothing_is_held(redis_client)


def everything(client: Redis) -> dict[bytes, object]:
    """Return all that guards have written, but for when it expires and where a window begins."""
    found: dict[bytes, object] = {}
    for key in client.scan_iter(f"{keys.GUARDS}*"):
        kind = client.type(key)
        if kind == b"hash":
            found[key] = {
                field: value for field, value in client.hgetall(key).items() if field != b"first" and value != b"0"
            }
        elif kind == b"zset":
            found[key] = client.zrange(key, 0, -1, withscores=True)
        else:
            found[key] = client.smembers(key)
    return {key: value for key, value in found.items() if value}


def ahead(fleet: Fleet, member: str, fence: str = "1-n") -> Admitted | Refused | None:
    return fleet.ask_ahead(member, tokens=10, cost=0.5, budgets=("tenant:acme",), fence=fence)


@pytest.mark.parametrize("state", ["free", "full", "half-open", "window passed"])
def test_what_is_withdrawn_is_as_if_it_had_never_been_asked(asking: BatchingRedis, state: str) -> None:
    # given an agent's guards, one of whose calls is under way
    fleet = Fleet(
        asking,
        Breaker(failures=1, cooldown=1.0, when_open="wait").guard("model"),
        RateLimit(requests=5, tokens=100, per=60.0).guard("model"),
        Concurrency(total=1 if state == "full" else 2).guard("model"),
    )
    fleet.store.set_budget("tenant:acme", tokens=1000, cost=10.0)
    if state == "half-open":
        fleet.ask("bad/step")
        fleet.end("bad/step", "failed")
        fleet.clock.forward(2)
    else:
        fleet.ask("other/step", tokens=10, budgets=["tenant:acme"])
    before = everything(asking)

    # when another asks ahead, and is not begun
    found = ahead(fleet, "a/step")
    assert isinstance(found, Refused) == (state == "full")
    if state == "window passed":
        fleet.clock.forward(3600)
    # what another attempt has is not withdrawn by it
    assert fleet.store.withdraw("model", "a/step", "2-n") == []
    assert everything(asking) != before
    fleet.store.withdraw("model", "a/step", "1-n")

    # then nothing is left of that: but that a breaker has let its probe come
    after = everything(asking)
    if state == "half-open":
        for shown in (before, after):
            breaker = shown[keys.breaker("model").encode()]
            assert isinstance(breaker, dict)
            for field in (b"state", b"since"):
                breaker.pop(field)
    if state == "window passed":
        # Both calls have left it meanwhile.
        before.pop(keys.rate("model", 60_000).encode())
    assert after == before


def test_nobody_asks_ahead_for_a_member_that_has_or_waits_for_something(asking: BatchingRedis) -> None:
    # given a member that holds the only place, and one that waits for it
    fleet = Fleet(asking, Concurrency(total=1).guard("model"))
    fleet.ask("a/step", fence="1-x")
    fleet.ask("b/step", wait=True, fence="1-x")
    before = everything(asking)
    # when another attempt of each asks ahead, then it has no answer, and nothing is changed
    for member in ("a/step", "b/step"):
        assert ahead(fleet, member, "2-y") is None
    assert everything(asking) == before


def test_what_is_withdrawn_goes_to_who_waits_for_it(asking: BatchingRedis) -> None:
    # given one that asked ahead and has the only place, and another that waits for that
    fleet = Fleet(asking, Concurrency(total=1).guard("model"))
    assert isinstance(ahead(fleet, "a/step"), Admitted)
    fleet.ask("b/step", wait=True)
    # when it is withdrawn, then the other's turn has come
    assert fleet.store.withdraw("model", "a/step", "1-n") == ["b/step"]
    assert fleet.store.withdraw("model", "a/step", "1-n") == []
