"""Blackboards on real workers: sources that are woken, write, lock and die; what comes of it."""

from __future__ import annotations

import itertools
import os
import signal
from typing import TYPE_CHECKING, Any, cast

import pytest

from orchestrator import RunFailed, WriteConflict
from orchestrator.errors import BoardClosed, InvalidInput, LockTimeout
from orchestrator.state.fold_board import fold_board
from tests.integration.checks import check_all
from tests.integration.conftest import FAILED
from tests.integration.fleet import FAST, USER_CODE, Deployment
from tests.servers import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator import Run
    from tests.integration.fleet import Pool

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("boards")]

SOON = 20.0
MODULE = "tests.integration.boards.flows"
AGENTS = (
    "fill",
    "audit",
    "improve",
    "report",
    "one",
    "two",
    "burst",
    "prepare",
    "tell",
    "split",
    "square",
    "gather",
    "talk",
    "fail",
    "hold",
    "freeze",
    "after",
    "bid",
    "judge",
    "lead",
    "total",
)
QUEUES = [f"boards.{name}" for name in AGENTS]


@pytest.fixture(scope="module", params=["asyncio", "prefork"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A worker for all sources, on either pool."""
    made = Deployment(
        "valkey",
        tmp_path_factory.mktemp("boards"),
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
    """A worker for the sources; afterwards nothing is left of what they did."""
    yield place
    if FAILED in request.node.stash:
        place.redis.flushall()
        place.checked.clear()
        return
    check_all(place)


def submit(deployment: Deployment, flow: str, **task: Any) -> Run:  # noqa: ANN401  fields of a task
    return deployment.client.submit(flow, task)


def folds(deployment: Deployment, run: Run, step: str = "board") -> None:
    """Fail unless the board is what its log folds to."""
    assert deployment.client.boards.load(run.id, step) == fold_board(step, run.events())


def test_sources_refine_a_plan_together_until_its_goal_is_reached(deployment: Deployment) -> None:
    run = submit(deployment, "planning", weeks=3)
    assert run.result(timeout=SOON).text == "goal: 0 open of 3"
    folds(deployment, run, "weeks/board")
    state = run.state()
    assert {step.source for step in state.steps if step.source} == {"fill", "audit", "improve"}


@pytest.mark.parametrize(("how", "times"), [("add", 500), ("edit", 25), ("lock", 25)])
def test_no_update_is_lost_where_eight_sources_count_together(deployment: Deployment, how: str, times: int) -> None:
    run = submit(deployment, "counters", times=times, how=how)
    assert run.result(timeout=60).entries == {"count": 8 * times}
    folds(deployment, run)


def test_a_source_writes_in_many_coroutines_at_once(deployment: Deployment) -> None:
    run = submit(deployment, "bursts", times=10)
    entries = run.result(timeout=SOON).entries
    assert (entries["count"], sorted(cast("list[int]", entries["log"]))) == (10, list(range(10)))
    assert [entries[f"mark.{number}"] for number in range(10)] == list(range(10))
    folds(deployment, run)


def test_each_rule_decides_its_own_conflicts(deployment: Deployment) -> None:
    run = submit(deployment, "talks")
    entries = run.result(timeout=SOON).entries
    assert sorted(entries["log"]) == sorted(entries["tags"]) == sorted(entries["scores"]) == ["sure", "third", "unsure"]
    assert entries["best"] == "sure"
    assert entries["last"] in {"sure", "third", "unsure"}
    folds(deployment, run)


def test_an_arbiter_decides_what_rests_on_the_same_version(deployment: Deployment) -> None:
    run = submit(deployment, "auction")
    assert run.result(timeout=SOON).entries == {"winner": "dan", "dispute.winner": []}
    folds(deployment, run)
    # what was proposed is in the log
    writes = [event for event in run.events() if event.type == "EntriesWritten"]
    proposed = [event for event in writes if "dispute.winner" in cast("dict[str, object]", event.data["entries"])]
    assert len(proposed) >= 4
    assert any(step.source == "judge" for step in run.state().steps)


@pytest.mark.parametrize("place", ["prefork"], indirect=True)
def test_a_source_that_dies_is_begun_again_and_the_plan_comes_out(deployment: Deployment) -> None:
    run = submit(deployment, "planning", weeks=3, die=["fill", "audit", "improve"])
    assert run.result(timeout=60).text == "goal: 0 open of 3"
    folds(deployment, run, "weeks/board")


def test_a_source_that_is_a_flow_writes_in_all_its_steps(deployment: Deployment) -> None:
    run = submit(deployment, "chained", times=3)
    assert run.result(timeout=SOON).entries == {"count": 103}
    assert [step.name for step in run.state().steps] == ["board", "twofold#1/one", "twofold#1/after"]


def test_a_board_between_two_stages_takes_from_one_and_gives_to_the_other(deployment: Deployment) -> None:
    # and no message is left in a queue of its own, which nobody serves: all tests here look at that
    run = submit(deployment, "between", times=3)
    assert run.result(timeout=SOON).text == "quiet: {'count': 104}"
    folds(deployment, run, "chained/board")


def test_a_source_that_is_a_hierarchy_puts_together_what_it_was_woken_for(deployment: Deployment) -> None:
    run = submit(deployment, "split-up", weeks=4)
    assert run.result(timeout=SOON).entries == {"log": [14]}
    last = run.state().step("squares#1/gather")
    assert last is not None
    assert run.value(last.output or "") == {"text": "squares 1 for task"}
    folds(deployment, run)


def test_each_assignment_of_a_hierarchy_may_be_a_board_of_its_own(deployment: Deployment) -> None:
    run = submit(deployment, "teams", weeks=3)
    assert run.result(timeout=SOON).text == "quiet 100, quiet 101, quiet 102"
    for number in range(1, 4):
        folds(deployment, run, f"chained#{number}/board")


def test_a_board_within_a_fan_out_that_failed_goes_on_when_it_is_redriven(deployment: Deployment) -> None:
    # given a hierarchy that failed with one of its boards
    run = submit(deployment, "teams", weeks=2, how="fail")
    with pytest.raises(RunFailed, match="no luck with fail"):
        run.result(timeout=SOON)
    # when it is redriven with more luck
    (deployment.floor / f"{run.id}.luck").touch()
    run.redrive()
    # then its sources look again, and no other board's
    assert run.result(timeout=SOON).text.startswith("quiet 100, quiet 101, quiet ")
    begun = [str(event.data["step"]) for event in run.events() if event.type == "StepStarted"]
    assert [step for step in begun if step.startswith("chained")].count("chained#1/twofold#1/one") == 1
    assert "failing#3/fail#2" in begun
    for board in ("chained#1/board", "chained#2/board", "failing#3/board"):
        folds(deployment, run, board)


def test_a_source_that_fails_fails_the_run(deployment: Deployment) -> None:
    run = submit(deployment, "failing", times=1)
    with pytest.raises(RunFailed, match=r"board: fail#1: ValueError: no luck with fail"):
        run.result(timeout=SOON)


def test_or_the_others_go_on_without_it(deployment: Deployment) -> None:
    run = submit(deployment, "lame", times=1)
    result = run.result(timeout=SOON)
    assert (result.outcome, result.entries) == ("quiet", {"count": 1})
    assert run.state().degraded
    folds(deployment, run)


def test_a_lock_is_renewed_and_a_client_waits_for_its_turn(deployment: Deployment) -> None:
    run = submit(deployment, "holding")
    floor = deployment.floor
    wait_until((floor / f"{run.id}.held").exists, SOON, "the source holds the entry")
    board = run.board(by="ann")
    with pytest.raises(WriteConflict, match="count: another has locked it"):
        board.write({"count": 5})
    with pytest.raises(LockTimeout), board.lock("count", wait=0.1):
        pass  # pragma: no cover  it is not free
    # longer than its time to live the source holds it: it is renewed
    with pytest.raises(LockTimeout), board.lock("count", wait=1.5):
        pass  # pragma: no cover  likewise
    (floor / f"{run.id}.word").touch()
    with board.lock("count", wait=SOON):
        board.add("count", 10)
    (floor / f"{run.id}.end").touch()
    assert run.result(timeout=SOON).entries == {"count": 11}
    with pytest.raises(BoardClosed, match="its run has ended"):
        board.write({"count": 1})


def test_who_was_stopped_while_it_held_a_lock_writes_nothing_when_it_goes_on(deployment: Deployment) -> None:
    # given a source whose process stops while it holds the lock
    run = submit(deployment, "freezing")
    held, refused = (deployment.floor / f"{run.id}.{name}" for name in ("held", "refused"))
    wait_until(held.exists, SOON, "the source holds the entry")
    # when another takes the lock after its time, writes, and the process goes on
    with run.board(by="ann").lock("count", wait=SOON) as board:
        board.write({"count": 7})
        os.kill(int(held.read_text()), signal.SIGCONT)
        wait_until(refused.exists, SOON, "the write is refused")
    # then its write was refused, and the attempt that follows rests on what stands
    assert refused.read_text() in {"LockLost", "LeaseLost"}
    assert run.result(timeout=SOON).entries == {"count": 8}
    folds(deployment, run)


@pytest.mark.parametrize("place", ["prefork"], indirect=True)
def test_nor_when_another_attempt_has_done_its_work(deployment: Deployment) -> None:
    run = submit(deployment, "freezing")
    held, refused = (deployment.floor / f"{run.id}.{name}" for name in ("held", "refused"))
    assert run.result(timeout=SOON).entries == {"count": 2}
    os.kill(int(held.read_text()), signal.SIGCONT)
    wait_until(refused.exists, SOON, "the write is refused")
    assert refused.read_text() == "LeaseLost"
    assert run.result().entries == {"count": 2}
    folds(deployment, run)


def test_a_board_can_be_looked_at_after_any_event(deployment: Deployment) -> None:
    run = submit(deployment, "planning", weeks=3)
    run.result(timeout=SOON)
    events = run.events()
    writes = [number for number, event in enumerate(events, 1) if event.type == "EntriesWritten"]
    grows = [len(run.board_at(event=number).entries) for number in writes]
    assert all(before <= after for before, after in itertools.pairwise(grows))
    assert run.board_at(event=writes[0]).writes == 1
    assert run.board_at().outcome == "goal"
    with pytest.raises(InvalidInput, match=r"has events 1 to \d+, not 999"):
        run.board_at(event=999)


def test_what_does_not_fit_is_refused_before_anything_is_sent(deployment: Deployment) -> None:
    run = submit(deployment, "holding")
    board = run.board()
    for bad, why in (
        (lambda: board.write({"count": "many"}), "does not fit: Input should be a valid integer"),
        (lambda: board.write({"other": 1}), "has no entry 'other'; it has: count"),
        (lambda: board.write({}), "write takes 1 to 100 values"),
        (lambda: board.write({"count": 1}, confidence=2), "confidence is 0 to 1"),
        (lambda: board.append("count", 1), "does not fit"),
        (board.lock, "lock takes 1 to 100 different entries"),
        (lambda: board.lock("count", ttl=0), "ttl must be seconds"),
        (lambda: board.get("task"), "an entry's name has"),
    ):
        with pytest.raises(InvalidInput, match=why):
            bad()
    (deployment.floor / f"{run.id}.word").touch()
    (deployment.floor / f"{run.id}.end").touch()
    assert run.result(timeout=SOON).entries == {"count": 1}
