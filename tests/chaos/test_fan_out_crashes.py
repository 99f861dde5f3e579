"""SIGKILL at each named point of plan, member, join and synthesis: every run completes, each round is joined once."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

import pytest

from tests.chaos.points import IN_CHILD, WHERE_WORK_IS_GIVEN_OUT, mark
from tests.integration.checks import wrong_with, wrong_with_effects
from tests.integration.fleet import Supervisor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from orchestrator import Run
    from tests.integration.fleet import Deployment, Pool

TIMEOUT: Final = 90.0
ROUNDS: Final = 4
PLAN: Final = "effect effect-sync effects effect effect-sync | effect effects"
"""Of the hierarchy `team`, two of whose members are in flight at a time; `effects` is a pipeline of three steps."""
MEMBERS: Final = ("effect#1", "effect-sync#2", "effects#3/a", "effect#4", "effect-sync#5", "effect#6", "effects#7/a")

BOSS: Final = tuple(
    f"{point}:boss" for point in ("before-begin", "after-begin", "in-handler", *WHERE_WORK_IS_GIVEN_OUT)
)
MID_PUBLISH: Final = ("before-publish:effect#1", "before-publish:effect-sync#2", "mid-publish:effect-sync#2")
MEMBER: Final = tuple(f"{point}:{step}" for step in ("effect-sync#2", "effects#3/b", "effect#4") for point in IN_CHILD)
JOIN: Final = tuple(f"{point}:sum" for point in ("after-join", "before-publish", "after-publish"))
SYNTHESIS: Final = (
    *(f"{point}:sum" for point in ("before-begin", "after-begin", "before-gather", "after-gather", "in-handler")),
    *(f"{point}:sum" for point in (*WHERE_WORK_IS_GIVEN_OUT, "before-commit", "after-commit")),
    "mid-publish:effects#7/a",
)
PARENT: Final = ("popped:boss", "popped:effect#4", "received:effect-sync#2", "popped:sum", "received:sum")
CARETAKER: Final = {
    "after-lost:boss": "after-begin:boss",
    "after-lost:effects#3/b": "after-begin:effects#3/b",
    "after-redispatch:effect-sync#2": "mid-publish:effect-sync#2",
    "after-lost:sum": "after-gather:sum",
    "after-redispatch:sum": "after-join:sum",
}
"""Where the caretaker dies, and what else has to die for it to come to its point."""


def die_at(deployment: Deployment, points: Iterable[str], marks: Path) -> None:
    """Let a run of `team` die at each point, all together, and check that every one of them ends right."""
    submitted: list[Run] = []
    missing = list(points)
    with Supervisor(deployment):
        for _ in range(ROUNDS):
            # A parent that dies takes other runs' processes along, and one of these may thus pass its point alive.
            batch = [
                (point, deployment.submit("team", PLAN, tags={"crash": f"{CARETAKER.get(point, '')} {point}"}))
                for point in missing
            ]
            for point, run in batch:
                assert run.result(timeout=TIMEOUT).trail == tuple(f"{member} ok" for member in MEMBERS), point
            missing = [point for point, run in batch if not mark(marks, run.id, *point.split(":", maxsplit=1)).exists()]
            submitted += [run for _, run in batch]
        problems = [f"no run died at {point}" for point in missing]
        for run in submitted:
            problems += wrong_with(run.state(), run.events())
            problems += once_each(run)
        problems += wrong_with_effects(deployment.ledger, [run.state() for run in submitted])
        assert not problems, "\n".join(problems)


def once_each(run: Run) -> list[str]:
    """Return what was done more or less than once: a commit, a round given out, a join."""
    events = run.events()
    committed = Counter(str(event.data["step"]) for event in events if event.type == "StepCompleted")
    within = ("effects#3/b", "effects#3/c", "effects#7/b", "effects#7/c")
    delegated = Counter(str(event.data["step"]) for event in events if event.type == "StepDelegated")
    joined = [event.data["verdict"] for event in events if event.type == "FanOutJoined"]
    found = []
    if committed != Counter([*MEMBERS, *within, "sum"]):
        found.append(f"{run.id} committed {committed}")
    if delegated != {"boss": 1, "sum": 1}:
        found.append(f"{run.id} gave work out {delegated}")
    if joined != ["met", "met"]:
        found.append(f"{run.id} was joined {joined}")
    return found


@pytest.mark.integration
@pytest.mark.timeout(400)
def test_a_fan_out_survives_the_death_of_a_child_at_each_point(
    fragile: Callable[..., Deployment], tmp_path: Path
) -> None:
    deployment = fragile()
    deployment.start_worker(concurrency=6).wait_until_ready()
    die_at(deployment, [*BOSS, *MID_PUBLISH, *MEMBER, *JOIN, *SYNTHESIS], tmp_path)


@pytest.mark.integration
@pytest.mark.timeout(400)
def test_a_fan_out_survives_the_death_of_a_worker_at_each_point(
    fragile: Callable[..., Deployment], tmp_path: Path
) -> None:
    deployment = fragile()
    for worker in [deployment.start_worker(), deployment.start_worker()]:
        worker.wait_until_ready()
    die_at(deployment, [*PARENT, *CARETAKER], tmp_path)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("pool", "points"),
    [
        pytest.param("asyncio", ("mid-publish:effect-sync#2", "after-join:sum"), marks=pytest.mark.integration),
        pytest.param("asyncio", (*BOSS, *MID_PUBLISH, *MEMBER), marks=pytest.mark.chaos),
        pytest.param("asyncio", (*JOIN, *SYNTHESIS, *PARENT, *CARETAKER), marks=pytest.mark.chaos),
        pytest.param("threads", (*BOSS, *MID_PUBLISH, *JOIN, *SYNTHESIS), marks=pytest.mark.chaos),
    ],
)
def test_a_fan_out_survives_the_death_of_a_pool_in_one_process_at_each_point(
    pool: Pool, points: tuple[str, ...], fragile: Callable[..., Deployment], tmp_path: Path
) -> None:
    deployment = fragile("redis7", own_broker=True)
    for worker in [deployment.start_worker(pool=pool, concurrency=8) for _ in range(2)]:
        worker.wait_until_ready()
    die_at(deployment, points, tmp_path)
