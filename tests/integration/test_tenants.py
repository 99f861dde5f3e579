"""Tenants with much to do beside tenants with little, in one queue: on real workers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.broker import lane_of
from tests.integration.fleet import FAST, USER_CODE
from tests.servers import wait_until

if TYPE_CHECKING:
    from orchestrator import Run
    from tests.integration.conftest import Make
    from tests.integration.fleet import Deployment

pytestmark = pytest.mark.integration

MODULE = "tests.integration.offices.flows"
WORK = "offices.work"
BIG, SMALL = "south", "north"
RUNS, EACH, FEW = 5, 60, 10
SLOTS = 2
SOON = 30.0


@pytest.fixture
def deployment(make: Make) -> Deployment:
    """Bosses are served; nobody works yet."""
    assert lane_of(BIG) != lane_of(SMALL)
    made = make(settings=FAST | {"dispatch_timeout": 0.3}, agents=(MODULE,), path=[USER_CODE.parents[1]])
    made.client.settings = made.settings.model_copy(update={"agents": (MODULE,)})
    made.start_worker(queues=["offices.plan", "offices.report"], pool="threads").wait_until_ready()
    return made


def submit(deployment: Deployment, tenant: str, count: int, **options: Any) -> Run:  # noqa: ANN401  as of Client.submit
    jobs = [{"to": "work", "input": {"text": str(number)}} for number in range(count)]
    return deployment.client.submit("squad", {"rounds": [jobs]}, tenant=tenant, **options)


def queued(deployment: Deployment) -> int:
    return len(deployment.messages(WORK))


def fill(deployment: Deployment) -> tuple[list[Run], Run]:
    """Queue the work of a tenant's many runs, and behind it that of another's one."""
    many = [submit(deployment, BIG, EACH) for _ in range(RUNS)]
    wait_until(lambda: queued(deployment) == RUNS * EACH, SOON, "the large tenant's work is queued")
    few = submit(deployment, SMALL, FEW)
    wait_until(lambda: queued(deployment) == RUNS * EACH + FEW, SOON, "so is the small one's")
    return many, few


def test_a_tenant_with_one_small_run_is_not_behind_all_of_another_with_many(deployment: Deployment) -> None:
    # given a queue with 300 assignments of a tenant, and 10 of another that came later
    many, few = fill(deployment)
    # when workers come
    deployment.start_worker(queues=[WORK], pool="threads", concurrency=SLOTS)
    few.result(timeout=SOON)
    for run in many:
        run.result(timeout=SOON)
    # then they take from both in turn: what counts is in which order the steps began, however long it took
    begun = [
        line.split()[0] for line in (deployment.floor / "ledger").read_text().splitlines() if line.endswith(" work")
    ]
    assert len(begun) == RUNS * EACH + FEW
    last = max(at for at, run_id in enumerate(begun) if run_id == few.id)
    others = last + 1 - FEW
    assert others <= 2 * FEW + 4 * SLOTS, f"{others} of the large tenant's before the small one's {FEW}"


def test_a_high_priority_goes_before_all_lanes_of_a_lower_one(deployment: Deployment) -> None:
    # given work of normal priority in two lanes, and behind it some that is urgent
    many, few = fill(deployment)
    urgent = submit(deployment, BIG, FEW, priority="high")
    wait_until(lambda: queued(deployment) == RUNS * EACH + 2 * FEW, SOON, "the urgent work is queued")
    # when one worker comes that works at one at a time
    deployment.start_worker(queues=[WORK], pool="threads", concurrency=1)
    for run in (*many, few, urgent):
        run.result(timeout=SOON)
    # then the urgent was done first
    begun = [
        line.split()[0] for line in (deployment.floor / "ledger").read_text().splitlines() if line.endswith(" work")
    ]
    assert begun[:FEW] == [urgent.id] * FEW


def test_a_lost_message_is_missed_though_others_of_its_queue_wait(deployment: Deployment) -> None:
    # given a small tenant's messages, lost while a large one's still wait
    many, few = fill(deployment)
    lane = f"{WORK}\x06\x16{lane_of(SMALL)}3"
    assert deployment.broker.llen(lane) == FEW
    deployment.broker.delete(lane)
    # then they are published again, and the others are not: theirs is a backlog
    wait_until(lambda: deployment.broker.llen(lane) == FEW, SOON, "the lost messages are published again")
    assert queued(deployment) == RUNS * EACH + FEW
    deployment.start_worker(queues=[WORK], pool="threads", concurrency=8)
    for run in (*many, few):
        run.result(timeout=SOON)
