"""SIGKILL at each named point of plan, member, join and synthesis: every run completes, each round is joined once."""

from __future__ import annotations

from collections import Counter
from itertools import zip_longest
from typing import TYPE_CHECKING, Final

import pytest

from tests.chaos.points import IN_CHILD, WHERE_WORK_IS_GIVEN_OUT, mark
from tests.integration.checks import wrong_with, wrong_with_effects
from tests.integration.fleet import Supervisor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from orchestrator import Run
    from tests.integration.fleet import Deployment, Pool

    Deaths = tuple[str, ...]

TIMEOUT: Final = 90.0
ROUNDS: Final = 4
CREW: Final = ("crew", "effect effect-sync effects effect effect-sync | effect effects")
"""Two of its members are in flight at a time; `effects` is a pipeline of three steps."""
CREWS: Final = ("crews", "crew:effect,effect-sync,effect;effects effect crew:effect | crew:effect,effect effect")
"""Some of its members are such crews."""
FAILING: Final = ("crews", "crew:effect,raiser,effect effect raiser effect")
"""A member that fails, and one whose own member does."""
OVERDUE: Final = ("timed-quorum-4-degrade", "parked parked parked parked")
"""Members that nobody takes, until their time is over."""
TRAILS: Final = {
    CREW: "effect#1, effect-sync#2, effects#3/a, effect#4, effect-sync#5, effect#6, effects#7/a",
    CREWS: "crew#1/boss, effect#2, crew#3/boss, crew#4/boss, effect#5",
    FAILING: "crew#1/boss failed, effect#2, raiser#3 failed, effect#4",
    OVERDUE: "parked#1 late, parked#2 late, parked#3 late, parked#4 late",
}

BOSS: Final = (
    *(f"{point}:boss" for point in ("before-begin", "after-begin", "in-handler", *WHERE_WORK_IS_GIVEN_OUT)),
    *("before-publish:effect#1", "before-publish:effect-sync#2", "mid-publish:effect-sync#2"),
)
FIRST, NESTED, LATER = (
    tuple(f"{point}:{step}" for point in IN_CHILD) for step in ("effect-sync#2", "effects#3/b", "effect#4")
)
SYNTHESIS: Final = (
    *(f"{point}:sum" for point in ("after-join", "before-publish", "after-publish")),
    *(f"{point}:sum" for point in ("before-begin", "after-begin", "before-gather", "after-gather", "in-handler")),
    *(f"{point}:sum" for point in (*WHERE_WORK_IS_GIVEN_OUT, "before-commit", "after-commit")),
    "mid-publish:effects#7/a",
)
TAKEN: Final = ("popped:boss", "popped:effect#4", "received:effect-sync#2", "popped:sum", "received:sum")
CARETAKER: Final = (
    # where the caretaker dies, and before that what has to die for it to come there
    ("after-begin:boss", "after-lost:boss"),
    ("after-begin:effects#3/b", "after-lost:effects#3/b"),
    ("mid-publish:effect-sync#2", "after-redispatch:effect-sync#2"),
    ("after-gather:sum", "after-lost:sum"),
    ("after-join:sum", "after-redispatch:sum"),
)
CHILDREN: Final = (*BOSS, *FIRST, *NESTED, *LATER, *SYNTHESIS)
OF_CREWS: Final = (
    *(f"{point}:crew#1/boss" for point in WHERE_WORK_IS_GIVEN_OUT),
    *("mid-publish:crew#1/effect-sync#2", "after-commit:crew#1/effect-sync#2", "after-commit:crew#1/effects#4/a"),
    *(f"{point}:crew#1/sum" for point in (*WHERE_WORK_IS_GIVEN_OUT, "before-publish", "before-gather")),
    # what ends a crew ends a member of the one above
    *(f"{point}:crew#1/sum" for point in ("after-join", "before-commit", "after-commit")),
    *(f"{point}:crew#4/sum" for point in ("after-join", "before-commit", "after-commit")),
    *(f"{point}:sum" for point in ("after-join", "before-gather", "after-delegate")),
)


def each(points: Iterable[str]) -> list[Deaths]:
    """Return the deaths of runs that die once."""
    return [(point,) for point in points]


def several(*phases: Iterable[str]) -> list[Deaths]:
    """Return the deaths of runs that die once in each phase: as few runs as it takes."""
    return [tuple(point for point in points if point) for points in zip_longest(*phases)]


def die_at(deployment: Deployment, deaths: Sequence[Deaths], marks: Path, flow: tuple[str, str] = CREW) -> None:
    """Let runs die where each is to, all together, and check that every one of them ends right."""
    submitted: list[Run] = []
    missing = list(deaths)
    with Supervisor(deployment):
        for _ in range(ROUNDS):
            # A parent that dies takes other runs' processes along, and one of these may thus pass its point alive.
            batch = [(points, deployment.submit(*flow, tags={"crash": " ".join(points)})) for points in missing]
            for points, run in batch:
                wanted = tuple(end if " " in end else f"{end} ok" for end in TRAILS[flow].split(", "))
                assert run.result(timeout=TIMEOUT).trail == wanted, points
            missing = [points for points, run in batch if not all(has_died(marks, run, point) for point in points)]
            submitted += [run for _, run in batch]
        problems = [f"no run died at {' and '.join(points)}" for points in missing]
        for run in submitted:
            problems += wrong_with(run.state(), run.events())
            problems += once_each(run)
        if flow not in {FAILING, OVERDUE}:
            problems += wrong_with_effects(deployment.ledger, [run.state() for run in submitted])
        assert not problems, "\n".join(problems)


def has_died(marks: Path, run: Run, at: str) -> bool:
    point, _, step = at.partition(":")
    return mark(marks, run.id, point, step).exists()


def once_each(run: Run) -> list[str]:
    """Return what was done more or less than once: a commit, a join."""
    events, steps = run.events(), run.state().steps
    commits = Counter(event.data["step"] for event in events if event.type in {"StepCompleted", "StepDelegated"})
    given = Counter(event.data["fan"] for event in events if event.type == "StepDelegated")
    joined = Counter(event.data["fan"] for event in events if event.type == "FanOutJoined")
    found = []
    # What gives work out again is committed for every round.
    wanted = {step.name: step.revision + 1 for step in steps if step.status == "completed"}
    if {name: count for name, count in commits.items() if name in wanted} != wanted:
        found.append(f"{run.id} committed {commits}")
    failed = Counter(event.data["step"] for event in events if event.type == "StepFailed")
    if any(count > 1 for count in failed.values()):
        found.append(f"{run.id} failed {failed}")
    if joined != given:
        found.append(f"{run.id} gave out {given} and joined {joined}")
    return found


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    "deaths",
    [
        pytest.param(several(BOSS[3::2], NESTED[1::2], SYNTHESIS[::3]), id="several", marks=pytest.mark.integration),
        pytest.param(each(CHILDREN), id="each", marks=pytest.mark.chaos),
    ],
)
def test_a_fan_out_survives_the_death_of_a_child_at_each_point(
    deaths: list[Deaths], fragile: Callable[..., Deployment], tmp_path: Path
) -> None:
    deployment = fragile()
    deployment.start_worker(concurrency=6).wait_until_ready()
    die_at(deployment, deaths, tmp_path)


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    "deaths",
    [
        pytest.param([TAKEN[1:4], CARETAKER[-1]], id="several", marks=pytest.mark.integration),
        pytest.param([*each(TAKEN), *CARETAKER], id="each", marks=pytest.mark.chaos),
    ],
)
def test_a_fan_out_survives_the_death_of_a_worker_at_each_point(
    deaths: list[Deaths], fragile: Callable[..., Deployment], tmp_path: Path
) -> None:
    deployment = fragile()
    for worker in [deployment.start_worker(), deployment.start_worker()]:
        worker.wait_until_ready()
    die_at(deployment, deaths, tmp_path)


@pytest.mark.chaos
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("pool", "deaths"),
    [
        pytest.param("asyncio", each(CHILDREN), id="asyncio"),
        pytest.param("asyncio", [*each(TAKEN), *CARETAKER], id="asyncio-taken"),
        pytest.param("threads", each(CHILDREN), id="threads"),
    ],
)
def test_a_fan_out_survives_the_death_of_a_pool_in_one_process_at_each_point(
    pool: Pool, deaths: list[Deaths], fragile: Callable[..., Deployment], tmp_path: Path
) -> None:
    deployment = fragile("redis7", own_broker=True)
    for worker in [deployment.start_worker(pool=pool, concurrency=8) for _ in range(2)]:
        worker.wait_until_ready()
    die_at(deployment, deaths, tmp_path)


FAILS: Final = (
    *("before-fail:raiser#3", "after-fail:raiser#3"),
    *("before-fail:crew#1/raiser#2", "after-fail:crew#1/raiser#2"),
    *("after-join:sum", "before-gather:sum", "after-commit:crew#1/effect#1"),
)
# The last one that fails dies over its own failure, and so does not come to what it joins.
FAIL_TOGETHER: Final = tuple(point for point in FAILS if point != "after-join:sum")


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("pool", "deaths"),
    [
        pytest.param("asyncio", [FAILS[1::2]], id="several", marks=pytest.mark.integration),
        pytest.param("prefork", [*each(FAILS), FAIL_TOGETHER], id="prefork", marks=pytest.mark.chaos),
        pytest.param("asyncio", [*each(FAILS), FAIL_TOGETHER], id="asyncio", marks=pytest.mark.chaos),
    ],
)
def test_a_member_that_fails_does_so_once_whoever_dies_over_it(
    pool: Pool, deaths: list[Deaths], fragile: Callable[..., Deployment], tmp_path: Path
) -> None:
    deployment = fragile()
    for worker in [deployment.start_worker(pool=pool, concurrency=4) for _ in range(2)]:
        worker.wait_until_ready()
    die_at(deployment, deaths, tmp_path, FAILING)


@pytest.mark.chaos
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("pool", "deaths"),
    [
        pytest.param("prefork", each(OF_CREWS), id="prefork"),
        pytest.param("asyncio", each(OF_CREWS), id="asyncio"),
    ],
)
def test_fan_outs_within_each_other_survive_deaths(
    pool: Pool, deaths: list[Deaths], fragile: Callable[..., Deployment], tmp_path: Path
) -> None:
    deployment = fragile()
    for worker in [deployment.start_worker(pool=pool, concurrency=4) for _ in range(2)]:
        worker.wait_until_ready()
    die_at(deployment, deaths, tmp_path, CREWS)


@pytest.mark.chaos
def test_a_join_whose_time_is_over_survives_the_death_of_the_caretaker(
    fragile: Callable[..., Deployment], tmp_path: Path
) -> None:
    deployment = fragile()
    for worker in [deployment.start_worker() for _ in range(2)]:
        worker.wait_until_ready()
    die_at(deployment, [("after-overdue:sum",)] * 3, tmp_path, OVERDUE)
