"""The checker finds what it is there for: a stuck run, a lost and a doubled effect, a second commit, a false state."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from orchestrator.state import keys
from tests.integration import checks
from tests.integration.checks import all_runs, check_all, wrong_with, wrong_with_effects
from tests.integration.fleet import Deployment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator import Run

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("marred")]


@pytest.fixture(scope="module")
def marred(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A deployment for faults to be planted in, which nobody checks at its end."""
    deployment = Deployment("valkey", tmp_path_factory.mktemp("marred"))
    deployment.start_worker().wait_until_ready()
    yield deployment
    deployment.close()


@pytest.fixture(autouse=True)
def _nobody_comes_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is planted here is taken away by nobody, so that there is no need to wait for it."""
    monkeypatch.setattr(checks, "LATE", 0.5)


@pytest.fixture
def run(marred: Deployment) -> Run:
    """A run with nothing wrong."""
    found = marred.submit("effects")
    found.result(timeout=15)
    assert wrong_with(found.state(), found.events()) == []
    return found


def log(deployment: Deployment, run: Run, kind: str, **facts: object) -> None:
    """Put an event into a run's log."""
    fields = {"type": kind, "v": "1", "at": "1", "data": json.dumps(facts)}
    deployment.redis.xadd(keys.events(run.id), {name: value.encode() for name, value in fields.items()})


def test_a_stuck_run_is_found(marred: Deployment) -> None:
    run = marred.submit("only-parked")
    assert wrong_with(run.state(), run.events()) == [f"I1: {run.id} is stuck: queued"]
    with pytest.raises(AssertionError, match=f"{run.id} is stuck"):
        check_all(marred)
    run.cancel()
    marred.broker.delete(marred.queue_key("acme.parked"))


def test_a_failure_without_a_reason_is_found(marred: Deployment, run: Run) -> None:
    state = run.state().model_copy(update={"status": "failed", "reason": None})
    assert f"I1: {run.id} failed without a reason" in wrong_with(state, run.events())
    assert not marred.notes(run, "started")


def test_a_second_commit_is_found(marred: Deployment, run: Run) -> None:
    log(marred, run, "StepCompleted", step="b", output="b@1")
    found = wrong_with(run.state(), run.events())
    assert f"I2: {run.id}/b was committed 2 times" in found
    assert f"I2: {run.id} went on after its end: StepCompleted" in found


def test_a_missing_commit_is_found(run: Run) -> None:
    events = [event for event in run.events() if event.data.get("step") != "b" or event.type != "StepCompleted"]
    assert f"I2: {run.id}/b was never committed" in wrong_with(run.state(), events)


@pytest.fixture
def fanned(marred: Deployment) -> Run:
    """A run of two rounds with nothing wrong."""
    found = marred.submit("crew", "effect effects | effect")
    found.result(timeout=15)
    assert wrong_with(found.state(), found.events()) == []
    return found


def test_a_second_join_is_found(marred: Deployment, fanned: Run) -> None:
    log(marred, fanned, "FanOutJoined", fan="sum", verdict="met", good=1, failed=0, late=0)
    found = wrong_with(fanned.state(), fanned.events())
    assert f"I2: {fanned.id}/sum gave work out 2 times and was joined 3 times" in found


def test_a_join_before_the_members_of_its_round_is_found(fanned: Run) -> None:
    # given two joins in all, both of them in the second round
    events = fanned.events()
    first, second = (event for event in events if event.type == "FanOutJoined")
    others = [event for event in events if event is not first]
    doubled = [each for event in others for each in ((event, event) if event is second else (event,))]
    assert f"I2: {fanned.id}/sum was joined twice in a row" in wrong_with(fanned.state(), doubled)


def test_a_missing_join_is_found(fanned: Run) -> None:
    last = max(number for number, event in enumerate(fanned.events()) if event.type == "FanOutJoined")
    events = [event for number, event in enumerate(fanned.events()) if number != last]
    found = wrong_with(fanned.state(), events)
    assert f"I2: {fanned.id}/sum gave work out 2 times and was joined 1 times" in found


def test_a_member_that_is_committed_twice_or_never_is_found(fanned: Run) -> None:
    events = fanned.events()
    (commit,) = (event for event in events if event.type == "StepCompleted" and event.data["step"] == "effects#2/b")
    without = [event for event in events if event is not commit]
    twice = [each for event in events for each in ((event, event) if event is commit else (event,))]
    name = f"{fanned.id}/effects#2/b"
    assert f"I2: {name} was never committed" in wrong_with(fanned.state(), without)
    assert f"I2: {name} was committed 2 times" in wrong_with(fanned.state(), twice)


def test_a_second_end_is_found(marred: Deployment, run: Run) -> None:
    log(marred, run, "RunCompleted", output="c@1")
    assert any("ended 2 times" in line for line in wrong_with(run.state(), run.events()))


def test_a_state_that_its_log_does_not_tell_is_found(marred: Deployment, run: Run) -> None:
    marred.redis.hset(keys.run(run.id), "tenant", "somebody")
    assert wrong_with(run.state(), run.events()) == [f"I3: {run.id}: fold(events) is not the projection"]


def test_lost_doubled_and_unexpected_effects_are_found(marred: Deployment, run: Run) -> None:
    def wrong() -> list[str]:
        states = [run.state() for run in all_runs(marred)]
        return wrong_with_effects(marred.ledger, [state for state in states if state.flow in {"effects", "crew"}])

    assert wrong() == []
    (marred.ledger / f"{run.id}:b:another-key").symlink_to(f"{run.id} b 0")
    assert wrong() == [f"I5: 2 times the effect: {run.id} b 0"]
    for path in marred.ledger.glob(f"{run.id}:b:*"):
        path.unlink()
    assert wrong() == [f"I5: lost effect: {run.id} b 0"]
    (marred.ledger / "stranger").symlink_to(f"{run.id} x 0")
    assert f"I5: unexpected effect: {run.id} x 0" in wrong()


@pytest.mark.parametrize("index", [keys.leases, keys.timers, keys.ready])
def test_an_index_entry_that_stays_is_found(marred: Deployment, run: Run, index: object) -> None:
    assert callable(index)
    name = str(index(keys.shard_of(run.id)))
    # far ahead, so that the caretaker leaves it alone
    marred.redis.zadd(name, {keys.member(run.id, "b"): 9e15})
    marred.checked.update(found.id for found in marred.client.list_runs(limit=1000))
    with pytest.raises(AssertionError, match="an index entry of a run that has ended"):
        check_all(marred)
    marred.redis.zrem(name, keys.member(run.id, "b"))


def test_a_key_without_expiry_is_found(marred: Deployment) -> None:
    marred.checked.update(found.id for found in marred.client.list_runs(limit=1000))
    marred.redis.set("stray", "1")
    with pytest.raises(AssertionError, match="stray"):
        check_all(marred)
    marred.redis.delete("stray")
