"""Conversations while workers, their children and the server are killed: each ends, nothing is lost or said twice."""

from __future__ import annotations

import functools
import os
import random
import secrets
from typing import TYPE_CHECKING, Final

import pytest

from orchestrator.state.fold_conversation import fold_conversation
from tests.chaos.test_monkey import Strike, kill_all_workers, kill_child, kill_server, kill_worker
from tests.integration.checks import wrong_with
from tests.integration.fleet import FAST, USER_CODE, Supervisor
from tests.servers import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from orchestrator import Run
    from tests.integration.fleet import Deployment
    from tests.servers import Kind

MODULE: Final = "tests.integration.talks.flows"
TURNS: Final = 12
MEMBERS: Final = "abcd"
LATE: Final = 300.0


def ended(runs: Sequence[Run], count: int) -> bool:
    """Tell whether so many of some runs have ended."""
    done = 0
    for run in runs:
        done += run.status() in {"completed", "failed", "cancelled"}
        if done >= count:
            return True
    return done >= count


def handled(deployment: Deployment) -> dict[str, list[str]]:
    """Return, by run, the messages that the external ledger says were handled: the step, and the message's number."""
    found: dict[str, list[str]] = {}
    for path in deployment.ledger.iterdir():
        run_id, step, number = str(path.readlink()).split()
        found.setdefault(run_id, []).append(f"{step} {number}")
    return found


def wrong_with_talk(deployment: Deployment, run: Run, ledger: dict[str, list[str]]) -> Iterator[str]:
    """Give what breaks the promises of a conversation in which each tells the next, twelve times."""
    events = run.events()
    yield from wrong_with(run.state(), events)
    if deployment.client.conversations.load(run.id, "talk") != fold_conversation("talk", events):
        yield f"{run.id}: the log does not fold to the conversation"
    said = [(line.number, line.who, line.body) for line in run.transcript() if line.kind == "tell"]
    wanted = [
        (
            number + 2,
            MEMBERS[number % 4],
            {"text": f"{MEMBERS[number % 4]} {TURNS - number}", "left": TURNS - number - 1},
        )
        for number in range(TURNS - 1)
    ]
    if said != wanted:
        yield f"{run.id}: the transcript is out of order, or has lost or doubled a message: {said}"
    turns = [f"{MEMBERS[number % 4]}#{number // 4 + 1} {number + 1}" for number in range(TURNS)]
    if sorted(ledger.get(run.id, ())) != sorted(turns):
        yield f"{run.id}: the ledger has {sorted(ledger.get(run.id, ()))}"


@pytest.mark.timeout(1500)
@pytest.mark.parametrize(
    ("kind", "runs", "faults"),
    [
        pytest.param("valkey", 40, 3, id="small", marks=pytest.mark.integration),
        pytest.param("valkey", 1000, 20, id="valkey", marks=pytest.mark.chaos),
        pytest.param("redis7", 1000, 20, id="redis7", marks=pytest.mark.chaos),
    ],
)
def test_every_conversation_ends_with_each_message_handled_once_whatever_is_killed(
    kind: Kind, runs: int, faults: int, make: Callable[..., Deployment]
) -> None:
    # given conversations of four members and twelve turns, on workers that come back
    seed = int(os.environ.get("CHAOS_SEED") or secrets.randbelow(1_000_000))
    print(f"CHAOS_SEED={seed}")  # noqa: T201  what to type to see it again
    chance = random.Random(seed)
    deployment = make(
        kind,
        settings=FAST | {"max_attempts": 50},
        config={"appendonly": "yes", "appendfsync": "always"},
        agents=(MODULE,),
        path=[USER_CODE.parents[1]],
    )
    deployment.client.settings = deployment.settings.model_copy(update={"agents": (MODULE,)})
    for worker in [deployment.start_worker(queues=["talks.round"], concurrency=3) for _ in range(2)]:
        worker.wait_until_ready()
    with Supervisor(deployment):
        talks = [deployment.client.submit("talks-ring", {"rounds": TURNS}) for _ in range(runs)]
        # when one thing after the other is killed, each after more of them have ended
        for number in range(faults):
            wait_until(functools.partial(ended, talks, number * runs // (faults + 1)), LATE, "they go on")
            fault = chance.choice((kill_child, kill_worker, kill_server, kill_all_workers))
            strike = Strike(0, fault, chance.uniform(0, 1))
            strike.fault(deployment, chance.choice(deployment.workers), strike)
        wait_until(functools.partial(ended, talks, runs), LATE, "all have ended")
    # then each has come to its end, in order, and nothing was lost or handled twice
    ledger = handled(deployment)
    problems = [line for run in talks for line in wrong_with_talk(deployment, run, ledger)]
    problems += [f"{run.id}: {run.status()}" for run in talks if run.status() != "completed"]
    assert not problems, "\n".join(problems[:20])
