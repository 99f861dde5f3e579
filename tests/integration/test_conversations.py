"""Conversations on real workers: members that talk, ask, decide and die; what comes of it."""

from __future__ import annotations

import functools
import json
import os
import signal
from collections import Counter
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from orchestrator import RunFailed
from orchestrator.errors import ConversationClosed, InvalidInput
from orchestrator.state.fold_conversation import fold_conversation
from tests.command_line import Shell
from tests.integration.checks import check_all
from tests.integration.conftest import FAILED
from tests.integration.fleet import FAST, USER_CODE, Deployment
from tests.integration.talks.flows import Word
from tests.servers import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from orchestrator import ConversationResult, Run
    from tests.integration.fleet import Pool

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("talks")]

SOON = 20.0
MODULE = "tests.integration.talks.flows"
AGENTS = (
    *("author", "critic", "asker", "replier", "circle", "echo", "silent", "patient", "voter", "carrier", "round"),
    *("draft", "finish", "guest", "helper", "mute"),
)
QUEUES = [*(f"talks.{name}" for name in AGENTS), "talks-net.manager"]


@pytest.fixture(scope="module", params=["asyncio", "prefork"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A worker for all members but `parked`, on either pool."""
    made = Deployment(
        "valkey",
        tmp_path_factory.mktemp("talks"),
        settings=FAST | {"tick": 0.05},
        agents=(MODULE,),
        path=[USER_CODE.parents[1]],
    )
    made.client.settings = made.settings.model_copy(update={"agents": (MODULE,)})
    pool: Pool = request.param
    made.start_worker(queues=QUEUES, pool=pool, concurrency=8).wait_until_ready()
    yield made
    made.close()


@pytest.fixture
def deployment(request: pytest.FixtureRequest, place: Deployment) -> Iterator[Deployment]:
    """A worker for the members; afterwards nothing is left of what they did."""
    yield place
    if not request.node.stash.get(FAILED, False):
        check_all(place)
        for run in place.client.lists.runs(["completed", "failed", "cancelled"], limit=100):
            events = place.client.get(run.id).events()
            assert place.client.conversations.load(run.id, "talk") == fold_conversation("talk", events)


def talk(deployment: Deployment, flow: str, **task: Any) -> Run:  # noqa: ANN401  a task's fields
    return deployment.client.submit(flow, task)


def has_said(run: Run, lines: int) -> bool:
    return len(run.transcript()) > lines


def result(run: Run) -> ConversationResult:
    found: ConversationResult = run.result(timeout=SOON)
    return found


def test_two_members_come_to_a_consensus(deployment: Deployment) -> None:
    run = talk(deployment, "talks-debate")

    found = result(run)

    assert (found.outcome, found.dissent, found.abstained) == ("consensus", (), ())
    assert found.decision is not None
    assert (found.decision.by, found.decision.body) == ("author", {"text": "but why?"})
    said = [(line.kind, line.who, line.to) for line in run.transcript()]
    assert said[:-1] == [
        ("open", "", ("author",)),
        ("propose", "author", ("critic",)),
        ("reject", "critic", ("author",)),
        ("propose", "author", ("critic",)),
        ("accept", "critic", ()),
    ]


@pytest.mark.parametrize(
    ("how", "said"), [("", "re0 re1 re2"), ("none", "declined declined declined"), ("fail", "failed failed failed")]
)
def test_who_asks_goes_on_with_each_reply_and_says_nothing_twice(deployment: Deployment, how: str, said: str) -> None:
    run = talk(deployment, "talks-questions", how=how)

    found = result(run)

    assert found.decision is not None
    assert found.decision.body == {"text": said}
    kinds = Counter(line.kind for line in run.transcript())
    assert kinds["ask"] == 3
    assert kinds["reply"] + kinds["unanswered"] == 3
    # and each question was a begin of the same step, whose worker was free meanwhile
    asker = next(step for step in run.state().steps if step.peer == "asker")
    assert (asker.begins, asker.attempt) == (4, 1)


def test_a_circle_of_members_that_wait_for_each_other_is_broken_where_it_closes(deployment: Deployment) -> None:
    run = talk(deployment, "talks-wait-cycle")

    found = result(run)

    assert found.decision is not None
    assert found.decision.body == {"text": "three: cycle", "left": 0}
    (event,) = [event for event in run.events() if event.type == "WaitCycleFound"]
    assert event.data["peers"] == ["one", "two", "three"]


def test_two_that_answer_only_each_other_come_to_an_end(deployment: Deployment) -> None:
    run = talk(deployment, "talks-ping-pong")

    found = result(run)

    assert (found.outcome, found.turns) == ("quiet", 8)
    (event,) = [event for event in run.events() if event.type == "PingPongFound"]
    assert sorted(event.data["peers"]) == ["ping", "pong"]  # type: ignore[arg-type,type-var]  # JSON


def test_a_silent_member_and_one_whose_pool_is_down_hold_up_nobody_beyond_the_time(deployment: Deployment) -> None:
    run = talk(deployment, "talks-silent")

    found = result(run)

    assert found.decision is not None
    assert found.decision.body == {"text": "parked=deadline replier=re! silent=deadline"}
    steps = {step.peer: step.status for step in run.state().steps if step.peer}
    assert (steps["silent"], steps["parked"]) == ("cancelled", "cancelled")


def test_contradictory_votes_with_a_tie_are_settled_by_the_stated_rule(deployment: Deployment) -> None:
    run = talk(deployment, "talks-tie")

    found = result(run)

    assert found.decision is not None
    assert found.decision.body == {"text": "right"}
    assert (found.tie, found.dissent, found.abstained) == (True, ("left-1", "left-2"), ())
    assert sorted(found.votes.values()) == [2.0, 2.0]


def test_a_contract_goes_to_the_next_best_where_the_best_fail(deployment: Deployment) -> None:
    run = talk(deployment, "talks-net", tons=2.0)

    found = result(run)

    assert found.decision is not None
    assert found.decision.body == {
        "contractor": "good",
        "bid": {"price": 4.0},
        "report": {"by": "good"},
        "failed": ["broken: failed, ValueError: out of order", "dead: deadline", "shy: declined"],
    }


def test_members_that_are_flows_join_and_leave_and_hear_of_what_is_not_delivered(deployment: Deployment) -> None:
    run = talk(deployment, "talks-party")

    found = result(run)

    assert found.decision is not None
    assert found.decision.body == {"text": "absent expert"}
    lines = [(line.kind, line.who) for line in run.transcript()]
    assert ("joined", "helper") in lines
    assert ("returned", "expert") in lines


def test_a_member_whose_process_is_killed_says_what_it_says_once(deployment: Deployment) -> None:
    if "-P prefork" not in " ".join(psutil.Process(deployment.workers[0].pid).cmdline()):
        pytest.skip("a child of the pool is killed")
    run = talk(deployment, "talks-ring", rounds=12)
    for lines in (2, 4, 6):
        wait_until(functools.partial(has_said, run, lines), SOON, "they go on")
        children = deployment.workers[0].children()
        os.kill(children[lines % len(children)].pid, signal.SIGKILL)

    found = result(run)

    assert (found.outcome, found.turns, found.messages) == ("quiet", 12, 13)
    tells = [line.body for line in run.transcript() if line.kind == "tell"]
    assert tells == [{"text": f"{'abcd'[number % 4]} {12 - number}", "left": 11 - number} for number in range(11)]
    notes = [path.name for path in deployment.ledger.glob(f"{run.id}.*")]
    assert len(notes) == 12


def test_somebody_outside_speaks_as_long_as_it_is_open(deployment: Deployment) -> None:
    run = talk(deployment, "talks-silent")
    wait_until(lambda: any(line.kind == "ask" for line in run.transcript()), SOON, "somebody is asked")

    number = run.say("replier", Word(text="hear me"), by="ann")

    with pytest.raises(InvalidInput, match="no member 'nobody'"):
        run.say("nobody", Word(text="?"), by="ann")
    result(run)
    line = next(line for line in run.transcript() if line.number == number)
    assert (line.kind, line.who, line.body) == ("tell", "~ann", {"text": "hear me", "left": 0})
    with pytest.raises(ConversationClosed, match="its run has ended"):
        run.say("replier", Word(text="hear me"), by="ann")


def test_a_conversation_without_a_decision_fails_and_says_why(deployment: Deployment) -> None:
    run = talk(deployment, "talks-mute")

    with pytest.raises(
        RunFailed, match="no decision was reached: quiet, nobody has anything to do; nothing was proposed"
    ):
        result(run)


def test_a_cancelled_conversation_leaves_nobody_waiting(deployment: Deployment) -> None:
    run = talk(deployment, "talks-silent")
    wait_until(lambda: any(step.asking for step in run.state().steps), SOON, "it waits for replies")

    run.cancel("enough", by="ann")

    wait_until(lambda: run.status() == "cancelled", SOON, "it is cancelled")
    assert all(step.status in {"cancelled", "completed"} for step in run.state().steps)


def test_the_transcript_can_be_read_on_the_command_line(deployment: Deployment, tmp_path: Path) -> None:
    shell = Shell(tmp_path, deployment.env)
    run = talk(deployment, "talks-debate")
    result(run)

    shown = shell.run("runs", "transcript", run.id).out
    assert "author proposes: what to do" in shown
    assert "critic is against #2: why?" in shown
    assert "the end: consensus" in shown
    markdown = shell.run("runs", "transcript", run.id, "--markdown").out
    assert "**author proposes** (#2)\n\n> what to do\n" in markdown
    lines = shell.run("runs", "transcript", run.id, "--json").document
    assert [line["kind"] for line in lines] == ["open", "propose", "reject", "propose", "accept", "ended"]
    followed = shell.run("runs", "transcript", run.id, "--follow", "--json").out.splitlines()
    assert [json.loads(line) for line in followed] == lines
