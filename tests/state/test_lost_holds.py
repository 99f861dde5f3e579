"""What attempts hold whose worker is dead, or whose run goes on without them: given back once, by whose it is."""

from __future__ import annotations

from itertools import count
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, cast

import pytest

from orchestrator import Breaker, Concurrency, Pipeline, agent
from orchestrator.client import Run
from orchestrator.messages import Member, PlanStep, Terms
from orchestrator.runtime.attempt import Attempt, AttemptFailed
from orchestrator.runtime.caretaker import Caretaker
from orchestrator.runtime.guarding import Guarding
from orchestrator.runtime.leases import LeaseKeeper
from orchestrator.runtime.outcomes import StepAgain, StepSuperseded
from orchestrator.runtime.process import WorkerProcess
from orchestrator.state import keys
from orchestrator.state.fan_outs import FanOuts
from orchestrator.state.runs import Begun, RunStore, Submission
from tests.servers import wait_until
from tests.state import flows
from tests.state.flows import Note
from tests.state.invariants import look, problems

if TYPE_CHECKING:
    from collections.abc import Iterator

    from redis import Redis

    from orchestrator import Client, Settings

LONG_AGO_MS: Final = 1
LEASE: Final = 0.5


@agent("state.scarce", concurrency=Concurrency(total=1), breaker=Breaker(failures=1, when_open="wait"))
def scarce(note: Note) -> Note:
    """Take a place; these tests execute it by themselves."""
    return note


scarcely = Pipeline("scarcely", [scarce])


@pytest.fixture
def worker(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[WorkerProcess]:
    """A worker's process that takes no messages."""
    monkeypatch.setattr(flows, "QUEUES", (*flows.QUEUES, "state.scarce"))
    worker = WorkerProcess(settings)
    yield worker
    worker.store.client.close()


@pytest.fixture
def caretaker(client: Client, worker: WorkerProcess) -> Caretaker:
    """The role."""
    return Caretaker(client.app, worker)


@pytest.fixture
def hasty(settings: Settings, worker: WorkerProcess) -> WorkerProcess:
    """The process with a lease that is soon over."""
    worker.settings = settings.model_copy(update={"lease": LEASE})
    worker.store = RunStore(worker.store.client, worker.settings)
    worker.leases = LeaseKeeper(worker.store, worker.guards, interval=LEASE / 3, hold=LEASE)
    return worker


numbers = count()


def begin(client: Client, worker: WorkerProcess, run: Run, step: str = "scarce") -> Guarding:
    """Begin a step, as far as its guards; nothing renews its lease."""
    task = SimpleNamespace(app=client.app, request=SimpleNamespace(chain=None))
    parts = {"task": task, "process": worker, "until": float("inf")}
    return Guarding(Attempt(agent=scarce, begun=begun(worker, run, step), **cast("Any", parts)), Note(text="x"))


def begun(worker: WorkerProcess, run: Run, step: str, agent: str = "state.scarce") -> Begun:
    """Take a step's lease."""
    found = worker.store.begin(run.id, step, agent=agent, nonce=f"n{next(numbers)}", worker="w")
    assert isinstance(found, Begun), found
    return found


def lose(worker: WorkerProcess, run: Run, step: str = "scarce") -> None:
    """Let a step's lease expire, if there is one."""
    leases = keys.leases(keys.shard_of(run.id))
    worker.store.client.zadd(leases, {keys.member(run.id, step): LONG_AGO_MS}, xx=True)


def places(redis_client: Redis) -> int:
    """Return how many places are taken."""
    return int(redis_client.hget(keys.slots("state.scarce"), "total") or 0)


def expiry(redis_client: Redis, run: Run) -> float:
    """Return until when (ms) a run's step holds its place, if nothing keeps it longer."""
    return redis_client.zscore(keys.GUARD_HOLDS, f"state.scarce/{keys.member(run.id, 'scarce')}") or 0


def test_an_attempt_that_was_lost_settles_nothing_of_the_next_one(
    client: Client, worker: WorkerProcess, caretaker: Caretaker, redis_client: Redis
) -> None:
    # given a step whose first attempt stalled at work, and was lost, and is executed again
    run = client.submit(scarcely, {"text": "x"})
    first = begin(client, worker, run)
    assert first.admit() is None
    lose(worker, run)
    caretaker.sweep()
    assert places(redis_client) == 0
    second = begin(client, worker, run)
    assert second.admit() is None

    # when the first goes on, and fails
    failed = AttemptFailed("no")
    failed.__cause__ = ConnectionError("no")
    with first:
        first.failed(failed)

    # then the second has its place, and nothing counts against the breaker
    assert places(redis_client) == 1
    assert worker.guards.breakers() == []
    with second:
        second.failed(failed)
    assert places(redis_client) == 0
    assert [breaker.state for breaker in worker.guards.breakers()] == ["open"]


def test_an_attempt_that_was_lost_before_it_asked_is_not_let_through(
    client: Client, worker: WorkerProcess, caretaker: Caretaker, redis_client: Redis
) -> None:
    # given a step whose first attempt stalled before it asked, and that is executed again
    run = client.submit(scarcely, {"text": "x"})
    first = begin(client, worker, run)
    lose(worker, run)
    caretaker.sweep()
    second = begin(client, worker, run)
    assert second.admit() is None

    # when the first asks, then it learns that the step is another's
    with pytest.raises(StepSuperseded):
        first.admit()
    with second:
        pass
    assert places(redis_client) == 0


def free(caretaker: Caretaker, redis_client: Redis) -> bool:
    """Look as the caretaker does, and tell whether no place is taken."""
    caretaker.tick()
    return not places(redis_client)


def test_the_place_of_a_cancelled_run_whose_worker_is_dead_is_the_next_one_s_within_the_lease(
    client: Client, hasty: WorkerProcess, caretaker: Caretaker, redis_client: Redis
) -> None:
    # given a run at work, of a worker that dies, and another that waits for its place
    run, other = client.submit_many(scarcely, [{"text": "x"}, {"text": "y"}])
    assert begin(client, hasty, run).admit() is None
    with pytest.raises(StepAgain):
        begin(client, hasty, other).admit()
    caretaker.sweep()

    # when the run is cancelled, then the other is called as soon as its lease would be over
    run.cancel()
    seconds = expiry(redis_client, run) / 1000 - redis_client.time()[0]
    assert seconds < LEASE + 1

    def called() -> bool:
        caretaker.tick()
        step = other.state().step("scarce")
        return step is not None and step.status == "ready"

    wait_until(called, 5, "the other is called")


def test_the_place_of_a_late_member_whose_worker_is_dead_is_free_within_the_lease(
    client: Client, hasty: WorkerProcess, caretaker: Caretaker, redis_client: Redis
) -> None:
    # given a fan-out where one is enough, and the worker of another is dead
    plan = (
        PlanStep(name="boss", agent="boss", next="join", delegates=True),
        PlanStep(name="join", agent="join", joins=True),
    )
    submission = Submission(flow="f", plan=plan, value=b"1", tags={}, deadline=60.0, retention=60.0)
    run = Run(client, hasty.store.submit([submission])[0].run_id)
    names = ("work#1", "work#2")
    agents = {"work#1": "other", "work#2": "state.scarce"}
    steps = [PlanStep(name=name, agent=agents[name], fan="join", member=name, round=1) for name in names]
    terms = Terms(need=1, share=False, accept=False, otherwise="fail", width=2, within=None)
    boss = begun(hasty, run, "boss", "boss")
    FanOuts(hasty.store).delegate(boss, "join", [Member(steps=(step,), value=b"1") for step in steps], terms, b"1")
    assert begin(client, hasty, run, "work#2").admit() is None
    caretaker.sweep()

    # when the others come together without it
    hasty.store.commit(begun(hasty, run, "work#1", "other"), b"1")
    late = run.state().step("work#2")
    assert late is not None
    assert late.status == "cancelled"

    # then its place is free as soon as its lease would be over
    wait_until(lambda: free(caretaker, redis_client), 5, "the place is free")
    run.cancel()


def test_an_agent_holds_its_place_until_it_ends_however_long_its_run_is_over(
    client: Client, hasty: WorkerProcess, caretaker: Caretaker, redis_client: Redis
) -> None:
    # given a cancelled run whose agent takes its time to end
    run = client.submit(scarcely, {"text": "x"})
    guarding = begin(client, hasty, run)
    assert guarding.admit() is None
    caretaker.sweep()
    told: list[str] = []
    attempt = guarding._attempt  # noqa: SLF001  as the worker has it

    with guarding, hasty.leases.held(attempt.begun, told.append, longest=60.0):
        run.cancel()
        wait_until(lambda: told == ["closed"], 5, "the worker knows")
        begins = expiry(redis_client, run)
        # when more time passes than its lease
        wait_until(lambda: expiry(redis_client, run) > begins + 2000 * LEASE, 10, "the place is kept")
        # then the place is its own, and it was told once
        assert not free(caretaker, redis_client)
        assert told == ["closed"]

    # when it ends, then it is free
    assert free(caretaker, redis_client)


def test_what_an_attempt_had_used_when_its_worker_died_is_counted_once(
    client: Client, worker: WorkerProcess, caretaker: Caretaker
) -> None:
    # given a step whose worker has told what it used, and dies
    run = client.submit(scarcely, {"text": "x"})
    first = begun(worker, run, "scarce")
    with worker.leases.held(first, lambda _: None, longest=60.0, spent=lambda: (70, 0.5)):
        worker.leases.renew()
    lose(worker, run)
    caretaker.sweep()
    assert (run.state().tokens, run.state().cost) == (70, 0.5)

    # when the next one dies before it has told anything, and the third comes to its end
    begun(worker, run, "scarce")
    lose(worker, run)
    caretaker.sweep()
    worker.store.wake([(run.id, "scarce")], turn=True)
    third = begun(worker, run, "scarce")
    with worker.leases.held(third, lambda _: None, longest=60.0, spent=lambda: (20, 0.0)):
        worker.leases.renew()
    worker.store.commit(third, b'{"text": "x"}', spent=(30, 0.25))

    # then all that was told counts, once, and the log says so
    state = run.state()
    assert (state.status, state.tokens, state.cost) == ("completed", 100, 0.75)
    assert problems(look(worker.store, run.id)) == []


def test_a_dead_letter_of_poison_tells_what_its_attempts_used(
    client: Client, worker: WorkerProcess, caretaker: Caretaker
) -> None:
    # given a step that loses its worker each time, after it has used something
    run = client.submit(scarcely, {"text": "x"})
    while run.status() != "failed":
        attempt = begun(worker, run, "scarce")
        with worker.leases.held(attempt, lambda _: None, longest=60.0, spent=lambda: (5, 0.0)):
            worker.leases.renew()
        lose(worker, run)
        caretaker.sweep()
        worker.store.wake([(run.id, "scarce")], turn=True)
    # then its dead letter tells that
    letter = run.dead_letter()
    losses = run.state().steps[0].losses
    assert (letter.kind, letter.tokens) == ("poison", 5 * losses)
    assert losses > 1
