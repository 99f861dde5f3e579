"""SIGKILL at each named point of a turn, a question and a reply: each is said once, and the conversation ends right."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

import pytest

from orchestrator.state.fold_conversation import fold_conversation
from tests.chaos.points import mark
from tests.integration.checks import wrong_with
from tests.integration.fleet import CHECKOUT, Supervisor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from orchestrator import Run
    from tests.integration.fleet import Deployment, Pool

MODULE: Final = "tests.integration.talks.flows"
QUEUES: Final = ("talks.asker", "talks.replier")
TIMEOUT: Final = 90.0
ROUNDS: Final = 4
QUESTIONS: Final = 2
TURN: Final = (
    *("before-begin", "after-begin", "before-commit", "after-commit"),
    *("before-publish", "after-publish"),
)
POINTS: Final = [f"{point}:{step}" for step in ("asker#1", "replier#1", "replier#2") for point in TURN]
TAKEN: Final = [f"{point}:{step}" for step in ("asker#1", "replier#1") for point in ("popped", "received")]
CARETAKER: Final = (
    ("after-begin:asker#1", "after-lost:asker#1"),
    ("after-commit:asker#1", "after-redispatch:replier#1"),
    ("after-commit:replier#2", "after-redispatch:asker#1"),
)


def wrong_with_questions(deployment: Deployment, run: Run) -> Iterator[str]:
    """Give what breaks the promises of a member that asks another twice, and gives a verdict."""
    events = run.events()
    yield from wrong_with(run.state(), events)
    if deployment.client.conversations.load(run.id, "talk") != fold_conversation("talk", events):
        yield f"{run.id}: the log does not fold to the conversation"
    said = Counter((line.kind, line.who) for line in run.transcript())
    wanted = {("open", ""): 1, ("ask", "asker"): QUESTIONS, ("reply", "replier"): QUESTIONS, ("conclude", "asker"): 1}
    if said != {**wanted, ("ended", "verdict"): 1}:
        yield f"{run.id}: {dict(said)}"


def die_at(deployment: Deployment, deaths: Sequence[tuple[str, ...]], marks: Path) -> None:
    """Let conversations die where each is to, all together, and check that each of them ends right."""
    missing, submitted = list(deaths), []
    with Supervisor(deployment):
        for _ in range(ROUNDS):
            # A parent that dies takes other runs' processes along, and one of these may thus pass its point alive.
            batch = [
                (
                    points,
                    deployment.client.submit(
                        "talks-questions", {"rounds": QUESTIONS, "within": TIMEOUT}, tags={"crash": " ".join(points)}
                    ),
                )
                for points in missing
            ]
            for points, run in batch:
                assert run.result(timeout=TIMEOUT).decision.body == {"text": "re0 re1"}, points
            missing = [points for points, run in batch if not all(has_died(marks, run, point) for point in points)]
            submitted += [run for _, run in batch]
        problems = [f"no run died at {' and '.join(points)}" for points in missing]
        problems += [line for run in submitted for line in wrong_with_questions(deployment, run)]
        assert not problems, "\n".join(problems)


def has_died(marks: Path, run: Run, at: str) -> bool:
    point, _, step = at.partition(":")
    return mark(marks, run.id, point, step).exists()


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("pool", "deaths"),
    [
        pytest.param("prefork", [tuple(POINTS[2::7]), (*TAKEN[2:3], *CARETAKER[1])], id="several"),
        pytest.param("prefork", [(point,) for point in POINTS], id="each", marks=pytest.mark.chaos),
        pytest.param("prefork", [*((point,) for point in TAKEN), *CARETAKER], id="taken", marks=pytest.mark.chaos),
        pytest.param("asyncio", [(point,) for point in POINTS], id="asyncio", marks=pytest.mark.chaos),
    ],
)
@pytest.mark.integration
def test_a_conversation_survives_a_death_at_each_point(
    pool: Pool, deaths: list[tuple[str, ...]], fragile: Callable[..., Deployment], tmp_path: Path
) -> None:
    deployment = fragile(agents=("acme.flows", MODULE, "tests.chaos.crashpoints"), path=(CHECKOUT,))
    deployment.client.settings = deployment.settings.model_copy(update={"agents": (MODULE,)})
    for worker in [deployment.start_worker(queues=QUEUES, pool=pool, concurrency=4) for _ in range(2)]:
        worker.wait_until_ready()
    die_at(deployment, deaths, tmp_path)
