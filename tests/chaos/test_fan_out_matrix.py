"""The fault matrix, M16 to M18: fan-outs whose broker, results or members are gone. See `test_matrix`."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Final, cast

import pytest

from orchestrator import RunFailed
from tests.chaos.test_matrix import PARKED, check, events_of, in_full, in_small
from tests.integration.fleet import FAST, QUEUES, Supervisor
from tests.servers import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from orchestrator import Run
    from tests.integration.fleet import Deployment, Pool

# M16, M17


@pytest.mark.parametrize(
    ("count", "pool"),
    [
        pytest.param(3, "asyncio", marks=in_small),
        pytest.param(12, "prefork", marks=in_full),
        pytest.param(50, "asyncio", marks=in_full),
    ],
)
@pytest.mark.parametrize("emptied", ["broker", "results"])
def test_all_fan_outs_finish_though_their_broker_or_their_results_were_emptied(
    make: Callable[..., Deployment], emptied: str, count: int, pool: Pool
) -> None:
    """M16: the broker's database is emptied in the middle of a chord; M17: the result backend is."""
    # given fan-outs with members that are done, at work, in the queue and not yet ready
    deployment = make(own_broker=True)
    for _ in range(2):
        deployment.start_worker(pool=pool, concurrency=count).wait_until_ready()
    plan = "effect hold parked effect effects raiser"
    runs = [deployment.submit("tolerant-crew", plan) for _ in range(count)]
    wait_until(lambda: len(deployment.messages(PARKED)) == count, 60, "a member of each is in a queue")
    # when it is emptied under them
    if emptied == "broker":
        deployment.broker.flushdb()
    else:
        assert not celery_keys(deployment), "nothing is written that could be lost"
    deployment.say()
    deployment.start_worker(queues=[PARKED])
    # then all finish
    wanted = ("effect#1 ok", "hold#2 ok", "parked#3 ok", "effect#4 ok", "effects#5/a ok", "raiser#6 failed")
    for run in runs:
        assert run.result(timeout=60 + count).trail == wanted
        assert joined(run) == ["missed"]
    assert not celery_keys(deployment)
    lost = [event for run in runs for event in events_of(run, "StepRedispatched", "parked#3")]
    assert len(lost) >= (count if emptied == "broker" else 0)
    check(runs)


def celery_keys(deployment: Deployment) -> list[bytes]:
    """Return the keys of Celery's result backend, those of its chords among them."""
    return list(cast("Iterable[bytes]", deployment.redis.scan_iter(match="celery-*", count=1000)))


def joined(run: Run) -> list[object]:
    """Return the verdict of each join."""
    return [event.data["verdict"] for event in run.events() if event.type == "FanOutJoined"]


# M18

QUORUMS: Final = {
    # of four: what a join needs, and what otherwise follows; the verdicts where a member fails, and where it is late
    (3, "fail"): ("met", "met"),
    (3, "degrade"): ("met", "met"),
    (4, "fail"): ("missed", "overdue"),
    (4, "degrade"): ("missed", "overdue"),
}


@pytest.mark.parametrize(
    ("count", "killed", "pool"),
    [
        pytest.param(1, "child", "prefork", marks=in_small),
        pytest.param(4, "child", "prefork", marks=in_full),
        pytest.param(1, "parent", "prefork", marks=in_full),
        pytest.param(1, "child", "asyncio", marks=in_full),
    ],
)
def test_a_dead_member_fails_or_degrades_its_run_where_the_others_are_not_enough(
    make: Callable[..., Deployment], count: int, killed: str, pool: Pool
) -> None:
    """M18: a member that kills its worker each time, or whose pool is down; the quorum met and not met."""
    # given fan-outs with a member that nobody survives, whose others wait, and with one that nobody takes
    deployment = make(settings=FAST | {"max_attempts": 3})
    deployment.start_worker(queues=["acme.hold"], pool="asyncio", concurrency=100)
    deployment.start_worker(queues=[queue for queue in QUEUES if queue != "acme.hold"], pool=pool, concurrency=4)
    for worker in deployment.workers:
        worker.wait_until_ready()
    with Supervisor(deployment):
        deadly = [
            (need, otherwise, deployment.submit(f"quorum-{need}-{otherwise}", f"poison:{killed} hold hold hold"))
            for need, otherwise in [*QUORUMS] * count
        ]
        absent = submit_absent(deployment, count) if pool == "prefork" else []
        # when the member has ended in every one
        for _, _, run in deadly:
            wait_until(functools.partial(has_failed, run, "poison#1"), 60 + 10 * count, "the poison is a dead letter")
        deployment.say()
        # then each run is joined once, with what there is, or has failed with the reason
        for need, otherwise, run in deadly:
            verdict, _ = QUORUMS[need, otherwise]
            wait_until(functools.partial(has_ended, run), 60, "it has ended")
            assert joined(run) == [verdict]
            assert reason(run, "poison#1").startswith("begun 3 times and never finished")
            ends(run, otherwise, verdict, "poison#1 failed", "1 of 4 assignments failed")
        # A boss that is begun beside what kills the one process of an asyncio pool may be lost as often as that is.
        absent = absent or submit_absent(deployment, count)
        for need, otherwise, run in absent:
            _, verdict = QUORUMS[need, otherwise]
            wait_until(functools.partial(has_ended, run), 60, "it has ended")
            assert joined(run) == [verdict]
            ends(run, otherwise, verdict, "parked#1 late", "of 4 assignments were not done in time")
    # and the messages of a pool that comes back too late change nothing
    deployment.start_worker(queues=[PARKED])
    wait_until(lambda: not deployment.messages(PARKED), 30, "they are taken")
    check([run for _, _, run in (*deadly, *absent)])


def submit_absent(deployment: Deployment, count: int) -> list[tuple[int, str, Run]]:
    return [
        (need, otherwise, deployment.submit(f"timed-quorum-{need}-{otherwise}", "parked effect effect effect"))
        for need, otherwise in [*QUORUMS] * count
    ]


def reason(run: Run, step: str) -> str:
    found = run.state().step(step)
    return (found and found.reason) or ""


def has_failed(run: Run, step: str) -> bool:
    found = run.state().step(step)
    return found is not None and found.status == "failed"


def has_ended(run: Run) -> bool:
    return run.state().finished


def ends(run: Run, otherwise: str, verdict: str, dead: str, why: str) -> None:
    """Fail unless a run of a quorum of four has ended as its verdict says."""
    if otherwise == "fail" and verdict != "met":
        with pytest.raises(RunFailed, match=why):
            run.result(timeout=10)
        return
    trail = run.result(timeout=10).trail
    assert trail[0] == dead
    assert {member.partition(" ")[2] for member in trail[1:]} <= {"ok", "late" if verdict == "overdue" else "ok"}
    # Of a quorum that is met, what comes too late is missed by nobody.
    assert run.state().degraded == (verdict != "met" or dead.endswith("failed"))
