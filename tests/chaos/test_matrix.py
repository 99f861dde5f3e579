"""
The fault matrix: M9 to M13. Each case is here twice, in small for every day and in full size for `make chaos`.

What must hold after every case is in `tests.integration.checks`, I1 to I5. `test_fan_out_matrix` has M16 to M18.
"""

from __future__ import annotations

import functools
import json
import os
import random
import re
import secrets
import time
from collections import Counter
from typing import TYPE_CHECKING, Final

import pytest
from celery import Celery

from orchestrator import RunFailed
from orchestrator.agent import load_agents
from orchestrator.state import keys
from tests.chaos import delays, impatient, poisons, postman
from tests.chaos.poisons import OutOfMemoryKiller
from tests.integration.checks import all_runs, wrong_with, wrong_with_effects
from tests.integration.fleet import CHECKOUT, FAST, INTERPRETER, PRIORITIES, QUEUES, Supervisor
from tests.integration.test_unreadable import odd_messages
from tests.servers import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from orchestrator import Event, Run
    from tests.integration.fleet import Deployment, Pool, Worker
    from tests.servers import Kind

in_small = pytest.mark.integration
in_full = (pytest.mark.chaos, pytest.mark.timeout(600))

CLOCKS: Final = CHECKOUT / "tests" / "chaos" / "clocks"
HOUR: Final = 3600.0
SLOTS: Final = 4
CREW: Final = "effect effects effect-sync effect | effect-sync effects"
PARKED: Final = "acme.parked"
"""Whose queue no worker takes from."""


def seed() -> int:
    """Return `CHAOS_SEED` or any other, and print it for whoever wants to see a failure again."""
    chosen = int(os.environ.get("CHAOS_SEED") or secrets.randbelow(1_000_000))
    print(f"CHAOS_SEED={chosen}")  # noqa: T201
    return chosen


def events_of(run: Run, kind: str, step: str) -> list[Event]:
    return [event for event in run.events() if event.type == kind and event.data["step"] == step]


def check(runs: Iterable[Run], *, ledger: Path | None = None) -> None:
    """Fail unless I1 to I3 hold for these runs, and I5 for those that have effects."""
    states = [run.state() for run in runs]
    problems = [line for run, state in zip(runs, states, strict=True) for line in wrong_with(state, run.events())]
    if ledger is not None:
        problems += wrong_with_effects(ledger, [state for state in states if state.flow in {"effects", "crew"}])
    assert not problems, "\n".join(problems)


def pass_time(seconds: float) -> None:
    """Let so much time pass: what is asserted is that nothing happens in it."""
    until = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() > until, seconds + 5, f"{seconds:g} s have passed")


# M9


@pytest.mark.parametrize(
    ("poisoned", "others"), [pytest.param(1, 20, marks=in_small), pytest.param(10, 300, marks=in_full)]
)
def test_poison_ends_as_a_dead_letter_after_so_many_begins_and_nothing_else_fails(
    make: Callable[..., Deployment], poisoned: int, others: int
) -> None:
    """M9: a step that kills its child, its parent, or eats the memory."""
    # given steps that end whoever works on them, among others, and one that stops at its own limit
    load_agents([poisons.__name__])
    deployment = make(settings=FAST | {"max_attempts": 4}, agents=("acme.flows", poisons.__name__), path=(CHECKOUT,))
    for worker in [deployment.start_worker(queues=[*QUEUES, *poisons.QUEUES], concurrency=3) for _ in range(2)]:
        worker.wait_until_ready()
    with Supervisor(deployment) as supervisor, OutOfMemoryKiller(deployment) as killer:
        good = [deployment.submit("effects") for _ in range(others // 2)]
        poison = {
            (run, step)
            for _ in range(poisoned)
            for run, step in (
                (deployment.submit("poisoned", "child"), "poison"),
                (deployment.submit("poisoned", "parent"), "poison"),
                (deployment.submit("eats-memory"), "glutton"),
            )
        }
        greedy = deployment.submit("wants-memory")
        good += [deployment.submit("effects") for _ in range(others - others // 2)]
        # then each of them is begun so often, and is failed with the reason
        for run, step in poison:
            with pytest.raises(RunFailed, match=r"begun \d times and never finished"):
                run.result(timeout=60 + 10 * poisoned)
            # what dies slowly may pass for a bystander at first
            begun_times = len(events_of(run, "StepStarted", step))
            assert 4 <= begun_times <= (4 if step == "poison" else 7)
            # later each time, and never before the time it was put off to
            put_off = [event for event in events_of(run, "StepLost", step) if "due_ms" in event.data]
            pauses = [int(str(event.data["due_ms"])) - event.at_ms for event in put_off]
            assert len(pauses) == begun_times - 2
            assert 0 < pauses[0] < pauses[1]
            begins = [event.at_ms for event in events_of(run, "StepStarted", step)][2:]
            assert all(begun >= int(str(event.data["due_ms"])) for begun, event in zip(begins, put_off, strict=True))
        # and the others complete, the one at its limit fails of itself
        for run in good:
            assert run.result(timeout=30).trail == ("a", "b", "c")
        with pytest.raises(RunFailed, match="MemoryError"):
            greedy.result(timeout=30)
    assert supervisor.restarts >= 1
    assert killer.kills >= 1
    assert len(events_of(greedy, "StepStarted", "greedy")) - greedy.state().steps[0].losses == 1
    check([*good, *(run for run, _ in poison), greedy], ledger=deployment.ledger)


@pytest.mark.parametrize(
    ("pool", "poisoned", "before", "more"),
    [
        pytest.param("prefork", "parent", 2, 0, marks=in_small),
        pytest.param("asyncio", "child", 11, 3, marks=in_small),
        pytest.param("prefork", "parent", 8, 2, marks=in_full),
        pytest.param("asyncio", "child", 200, 60, marks=in_full),
    ],
)
def test_long_steps_beside_poison_in_one_worker_complete(
    make: Callable[..., Deployment], pool: Pool, poisoned: str, before: int, more: int
) -> None:
    """M9: the bystanders of a step that kills its parent, and of one that kills an asyncio pool's only process."""
    # given one worker with long steps
    deployment = make(settings=FAST | {"max_attempts": 4})
    deployment.start_worker(pool=pool, concurrency=before + 3 * more + 1).wait_until_ready()
    bystanders = [deployment.submit("held") for _ in range(before)]
    for run in bystanders:
        deployment.wait_for_note(run, "started")
    pass_time(deployment.settings.lease)
    # when a step beside them kills it as often as it may, and further ones begin each time
    with Supervisor(deployment) as supervisor:
        poison = deployment.submit("poisoned", poisoned)
        for losses in range(1, 4):
            wait_until(functools.partial(was_lost, poison, losses), 60, f"the poison is lost {losses} times")
            bystanders += [deployment.submit("held") for _ in range(more)]
        with pytest.raises(RunFailed, match="poison: begun 4 times and never finished"):
            poison.result(timeout=60)
        # then they complete
        deployment.say()
        for run in bystanders:
            run.result(timeout=60)
    assert supervisor.restarts == 4
    assert max(len(events_of(run, "StepLost", "hold")) for run in bystanders) >= 2
    check([*bystanders, poison])


def was_lost(run: Run, losses: int) -> bool:
    """Whether a run's poison was lost so often."""
    return len(events_of(run, "StepLost", "poison")) >= losses


# M10


@pytest.mark.parametrize(
    ("good", "odd", "kind", "pool"),
    [
        pytest.param(100, 20, "valkey", "prefork", marks=in_small),
        pytest.param(1000, 200, "valkey", "prefork", marks=in_full),
        pytest.param(1000, 200, "redis7", "asyncio", marks=in_full),
    ],
)
def test_malformed_messages_are_set_aside_and_all_good_ones_run(
    make: Callable[..., Deployment], good: int, odd: int, kind: Kind, pool: Pool
) -> None:
    """M10: 200 malformed messages among 1,000 good ones."""
    # given both in one queue, in any order
    chance = random.Random(seed())
    deployment = make(kind)
    runs = deployment.client.submit_many("relay", [{"text": str(number)} for number in range(good)])
    messages = deployment.messages("acme.first")
    assert len(messages) == good
    shapes = list(odd_messages().values())
    messages += [chance.choice(shapes) for _ in range(odd)]
    chance.shuffle(messages)
    deployment.broker.delete(deployment.queue_key("acme.first"))
    deployment.broker.rpush(deployment.queue_key("acme.first"), *messages)
    # when two workers take them
    workers = [deployment.start_worker(pool=pool, concurrency=4) for _ in range(2)]
    for worker in workers:
        worker.wait_until_ready()
    children = [child.pid for worker in workers for child in worker.children()]
    # then the good ones are done and the others set aside, each with its reason
    for number, run in enumerate(runs):
        assert run.result(timeout=60).text == str(number)
    wait_until(lambda: deployment.dead.count() == odd, 15, f"{odd} messages are set aside")
    assert all(letter.reason and letter.queue == "acme.first" for letter in deployment.dead.list(limit=odd))
    # and no worker has ended, no child, no connection
    assert all(worker.running for worker in workers)
    assert [child.pid for worker in workers for child in worker.children()] == children
    assert not any("Connection to broker lost" in worker.text() for worker in workers)
    check(runs)


# M11


@pytest.mark.parametrize(
    ("count", "kind", "pool"),
    [
        pytest.param(40, "valkey", "prefork", marks=in_small),
        pytest.param(500, "valkey", "prefork", marks=in_full),
        pytest.param(500, "redis7", "asyncio", marks=in_full),
    ],
)
def test_messages_that_come_several_times_in_any_order_and_late_are_executed_once(
    make: Callable[..., Deployment], count: int, kind: Kind, pool: Pool
) -> None:
    """M11: every message delivered one to three times, shuffled, late."""
    # given a post that does so to every message
    deployment = make(
        kind,
        agents=("acme.flows", postman.__name__),
        path=(CHECKOUT,),
        env={postman.SEED: str(seed())},
        # No worker dies here: on a machine with much else to do, none shall seem to.
        settings=FAST | {"lease": 20.0},
    )
    for worker in [deployment.start_worker(pool=pool, concurrency=4) for _ in range(2)]:
        worker.wait_until_ready()
    # when runs go through it
    with postman.bad_post():
        runs = [
            deployment.submit(*(("effects",), ("crew", CREW), ("relay",), ("essay", "revise 1"))[number % 4])
            for number in range(count)
        ]
    for run in runs:
        run.result(timeout=30 + count / 5)
    pass_time(postman.LATEST)
    wait_until(lambda: not deployment.waiting_messages(), 30, "the last copy has arrived")
    assert sum(worker.text().count(" ignored") for worker in deployment.workers) > count
    # then no step was executed twice, none committed twice, each effect was made once
    for run in runs:
        begun = Counter(
            (event.data["step"], event.data["attempt"]) for event in run.events() if event.type == "StepStarted"
        )
        revised = {(step.name, 1): step.revision + 1 for step in run.state().steps}
        assert begun == revised, run.events()
    check(runs, ledger=deployment.ledger)


# M12


@pytest.mark.parametrize(
    ("takes", "visible_after", "settings"),
    [
        pytest.param(3.0, 0.5, FAST | {"lease": 1.5}, marks=in_small),
        pytest.param(60.0, 5.0, {}, marks=in_full),
    ],
)
def test_a_step_longer_than_the_visibility_timeout_is_executed_once(
    make: Callable[..., Deployment], takes: float, visible_after: float, settings: dict[str, float]
) -> None:
    """M12: a step of 60 s, a visibility timeout of 5 s."""
    # given a broker that gives again what has not been acknowledged in time
    deployment = make(
        agents=("acme.flows", impatient.__name__),
        path=(CHECKOUT,),
        env={"VISIBILITY_TIMEOUT": str(visible_after)},
        settings=settings,
    )
    pools: list[Pool] = ["prefork", "asyncio"]
    for worker in [deployment.start_worker(pool=pool, concurrency=4) for pool in pools]:
        worker.wait_until_ready()
    runs = [deployment.submit(flow) for flow in ("held", "held-sync") for _ in range(2)]
    for run in runs:
        deployment.wait_for_note(run, "started")
    # when the steps take longer than that, while it gives again what is nobody's
    deployment.broker.hset("unacked", "forgotten", json.dumps([sample(deployment), "", PARKED]))
    deployment.broker.zadd("unacked_index", {"forgotten": time.time()})
    pass_time(takes)
    assert not deployment.broker.hlen("unacked")
    assert len(deployment.messages(PARKED)) == 1
    deployment.broker.delete(*(f"{PARKED}{priority}" for priority in PRIORITIES))
    # then each was begun once
    deployment.say()
    for run in runs:
        assert run.result(timeout=20).steps == 4
        assert [event.data["attempt"] for event in run.events() if event.type == "StepStarted"] == [1] * 4
    check(runs)


def sample(deployment: Deployment) -> object:
    """Return a message as kombu writes it, for a run that does not exist."""
    deployment.client.app.send_task(PARKED, kwargs={"run": "0" * 24, "step": "parked"}, queue=PARKED)
    (raw,) = deployment.messages(PARKED)
    deployment.broker.delete(*(f"{PARKED}{priority}" for priority in PRIORITIES))
    return json.loads(raw)


# M13


@pytest.mark.parametrize("count", [pytest.param(10, marks=in_small), pytest.param(200, marks=in_full)])
def test_workers_whose_clocks_are_an_hour_wrong_let_nothing_expire_before_its_time(
    make: Callable[..., Deployment], count: int
) -> None:
    """M13: worker clocks off by an hour, one fast and one slow."""
    # given a worker an hour ahead and one an hour behind
    load_agents([delays.__name__])
    deployment = make(
        agents=("acme.flows", delays.__name__),
        path=(CLOCKS, CHECKOUT),
        settings=FAST | {"lease": 1.5, "tick": 0.1},
        program=INTERPRETER,  # the interpreter reads what is in CLOCKS at its start
    )
    for offset in (HOUR, -HOUR):
        deployment.env["CLOCK_OFFSET"] = str(offset)
        deployment.start_worker(queues=[*QUEUES, *delays.QUEUES], concurrency=SLOTS)
    for worker in deployment.workers:
        worker.wait_until_ready()
    assert [round(wrong_by(worker) / HOUR) for worker in deployment.workers] == [1, -1]
    # when there are leases to renew, gates to time out, deadlines to keep, retries and limits, and starts to deliver
    with Celery("elsewhere", broker=deployment.server.url, set_as_current=False) as app:
        for number in range(count):
            asked = {"flow": "labours", "input": {"text": str(number)}}
            app.send_task("orchestrator.start", kwargs=asked, queue="orchestrator")
    long = [deployment.submit(flow, deadline=120.0) for flow in ("held", "held-sync") for _ in range(2)]
    effects = [deployment.submit("effects") for _ in range(count)]
    gates = [deployment.submit("impatient-approve", "ask") for _ in range(count)]
    put_off = [deployment.submit(flow) for flow in ("chaos.later", "chaos.flaky") for _ in range(count)]
    limited = [deployment.submit("chaos.limited") for _ in range(3 * delays.REQUESTS)]
    closing = [deployment.submit("to-parked", deadline=2.0) for _ in range(4)]
    for run in long:
        deployment.wait_for_note(run, "started")
    pass_time(2 * 1.5)
    # then nothing is lost, doubled, or ended before its time
    deployment.say()
    for run in (*long, *effects, *gates, *put_off, *limited):
        run.result(timeout=30 + count / 5)
    wait_until(lambda: len(started(deployment)) == count, 30, f"{count} runs were started")
    for run in started(deployment):
        run.result(timeout=30 + count / 5)
    for run in gates:
        assert 400 <= at(run, "StepDecided")[0] - at(run, "StepWaiting")[0] < 5000
    for run in put_off:
        check_not_early(run)
    check_limit([float(line) for line in (deployment.floor / "limited").read_text().splitlines()], count=len(limited))
    for run in closing:
        with pytest.raises(RunFailed, match="deadline"):
            run.result(timeout=15)
        assert 2000 <= at(run, "RunFailed")[0] - at(run, "RunSubmitted")[0] < 7000
    deployment.broker.delete(deployment.queue_key(PARKED))
    guards = (keys.GUARD_HOLDS, keys.GUARD_MEMBERS, keys.GUARD_WAITING)
    wait_until(lambda: not deployment.redis.exists(*guards), 10, "nothing is held and nobody waits")
    runs = all_runs(deployment)
    assert Counter(event.type for run in runs for event in run.events())["StepLost"] == 0
    check(runs)


def at(run: Run, kind: str) -> list[int]:
    """Return when events of a type happened, in ms."""
    return [event.at_ms for event in run.events() if event.type == kind]


def check_not_early(run: Run) -> None:
    """Fail unless each attempt began when it was due, no earlier than the agent had asked for."""
    delayed = [event for event in run.events() if event.type == "StepDelayed"]
    asked_for = delays.AGAIN_AFTER * 1000 if run.state().flow == "chaos.later" else 0
    for event, begun_at in zip(delayed, at(run, "StepStarted")[1:], strict=True):
        assert event.at_ms + asked_for <= int(str(event.data["due_ms"])) <= begun_at
    assert len(delayed) == delays.ATTEMPTS - 1


def check_limit(called: list[float], *, count: int) -> None:
    """Fail unless all were called, and no more in a second than the limit and what had been let through before it."""
    called.sort()
    assert len(called) == count
    most = delays.REQUESTS + 2 * SLOTS
    assert all(after - before >= delays.PER for before, after in zip(called, called[most:], strict=False))
    assert called[-1] - called[0] >= (count / delays.REQUESTS - 1) * delays.PER - 0.5


def wrong_by(worker: Worker) -> float:
    """Return by how many seconds a worker's clock is ahead, as its log shows."""
    found = re.search(r"\[(\d+-\d+-\d+ \d+:\d+:\d+),", worker.text())
    assert found, worker.text()
    return time.mktime(time.strptime(found[1], "%Y-%m-%d %H:%M:%S")) - time.time()


def started(deployment: Deployment) -> list[Run]:
    return [run for run in all_runs(deployment) if run.state().flow == "labours"]
