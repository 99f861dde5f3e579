"""A boss, its specialists, and what puts their results together: on real workers."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator import RunFailed
from orchestrator.errors import WrongState
from tests.integration.checks import check_all
from tests.integration.conftest import FAILED
from tests.integration.fleet import FAST, USER_CODE, Deployment
from tests.servers import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator import Run

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("hierarchy")]

SOON = 20.0
MODULE = "tests.integration.offices.flows"
AGENTS = (
    "odd-plan",
    "slip",
    "unwritable",
    "plan",
    "report",
    "work",
    "other",
    "degraded",
    "stubborn",
    "moody",
    "limited",
    "finish",
    "undo",
    "end",
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    made = Deployment(
        "valkey",
        tmp_path_factory.mktemp("offices"),
        settings=FAST | {"tick": 0.05, "claim_check_bytes": 1024, "max_payload_bytes": 1_000_000},
        agents=(MODULE,),
        path=[USER_CODE.parents[1]],
    )
    made.client.settings = made.settings.model_copy(update={"agents": (MODULE,)})
    made.start_worker(queues=[f"offices.{name}" for name in AGENTS], pool="asyncio", concurrency=50).wait_until_ready()
    yield made
    made.close()


@pytest.fixture
def deployment(request: pytest.FixtureRequest, place: Deployment) -> Iterator[Deployment]:
    """A worker for the agents; afterwards nothing is left of what they did."""
    yield place
    if FAILED in request.node.stash:
        place.redis.flushall()
        place.checked.clear()
        return
    check_all(place)


def submit(deployment: Deployment, flow: str, *rounds: list[dict[str, Any]], **more: Any) -> Run:  # noqa: ANN401
    return deployment.client.submit(flow, {"rounds": rounds, **more})


def job(to: str | None = "work", text: str = "", how: str = "ok", **more: Any) -> dict[str, Any]:  # noqa: ANN401
    return {"to": to, "input": {"text": text, "how": how}, **more}


def waits(text: str) -> dict[str, Any]:
    return job(text=text, how="wait")


def test_what_the_specialists_gave_is_put_together_in_the_order_of_the_plan(deployment: Deployment) -> None:
    run = submit(deployment, "all", [job(text=f"t{number}") for number in range(20)])
    told = run.result(timeout=SOON)
    assert told.texts == [f"t{number}" for number in range(20)]
    assert set(told.statuses.values()) == {"ok"}
    assert not run.state().degraded


def test_a_boss_may_answer_itself(deployment: Deployment) -> None:
    run = submit(deployment, "all", answer="42")
    assert run.result(timeout=SOON).direct
    assert [step.status for step in run.state().steps] == ["completed", "completed"]


@pytest.mark.parametrize("office", ["all", "quorum", "first", "timed", "tolerant"])
def test_a_plan_without_assignments_goes_straight_to_the_synthesiser_whatever_is_needed(
    deployment: Deployment, office: str
) -> None:
    run = submit(deployment, office, [])
    told = run.result(timeout=SOON)
    assert (told.texts, told.statuses) == ([], {})
    assert not run.state().degraded


def test_a_plan_of_fewer_assignments_than_are_needed_fails_the_run(deployment: Deployment) -> None:
    run = submit(deployment, "quorum", [job(text="a", how="wait")])
    with pytest.raises(RunFailed, match="there is 1 assignment, and 2 are needed"):
        run.result(timeout=SOON)


def test_a_failed_assignment_fails_the_run_where_all_are_needed(deployment: Deployment) -> None:
    run = submit(deployment, "all", [job(text="a", how="wait"), job(text="b", how="fail")])
    with pytest.raises(RunFailed, match="1 of 2 assignments failed"):
        run.result(timeout=SOON)


def test_a_failed_assignment_is_a_value_where_the_join_tolerates_it(deployment: Deployment) -> None:
    run = submit(deployment, "tolerant", [job(text="a"), job(text="b", how="fail"), job(to="poor", text="c")])
    told = run.result(timeout=SOON)
    assert told.statuses == {"work#1": "ok", "work#2": "failed", "poor#3": "degraded"}
    assert "cannot do b" in told.reasons["work#2"]
    assert run.state().degraded


# Routing


def test_an_assignment_that_cannot_be_done_fails_alone_with_a_reason_that_helps(deployment: Deployment) -> None:
    run = submit(
        deployment,
        "tolerant",
        [
            job(to="nobody", text="a"),
            {"to": "work", "input": {"text": []}},
            {"capability": "magic", "input": {}},
            {"input": {}, "label": "nowhere"},
            {"input": {"text": "routed"}, "label": "by the router"},
            {"input": {}},
            job(to="offices.work", text="by its agent's name"),
        ],
    )
    told = run.result(timeout=SOON)
    assert told.texts == ["routed", "by its agent's name"]
    assert [reason.split("(")[0].strip() for reason in told.reasons.values()] == [
        "there is no specialist 'nobody'",
        "the input does not fit specialist 'work': text: Input should be a valid string",
        "no specialist is capable of 'magic'",
        "the router raised LookupError: nowhere",
        "there is no specialist 'nobody'",
    ]


def test_what_is_odd_about_an_assignment_harms_no_other(deployment: Deployment) -> None:
    # given a name that is far too long, an input that JSON cannot hold, one whose validator breaks, and one too large
    run = submit(deployment, "odd", answer=None)
    told = run.result(timeout=SOON)
    assert list(told.statuses.values()) == ["failed", "failed", "failed", "failed", "ok"]
    assert "cannot be written as JSON" in list(told.reasons.values())[1]
    assert list(told.reasons.values())[2] == "the input does not fit specialist 'touchy': KeyError: 'not there'"
    assert list(told.reasons.values())[3].startswith("the input of specialist 'work' is 1,000,022 bytes, the limit is")


def test_a_slip_in_a_plan_is_told_and_no_answer(deployment: Deployment) -> None:
    assert submit(deployment, "slips", answer="capability").result(timeout=SOON).texts == ["a"]
    run = submit(deployment, "slips", answer="too")
    with pytest.raises(RunFailed, match=r"assignments\.1\.too: Extra inputs are not permitted"):
        run.result(timeout=SOON)


def test_small_plans_are_spread_over_those_who_are_capable(deployment: Deployment) -> None:
    plans = [[{"capability": "any", "input": {"text": "a"}}] for _ in range(20)]
    runs = [submit(deployment, "all", plan) for plan in plans]
    assert {text for run in runs for text in run.result(timeout=SOON).texts} == {"a", "other a"}


def test_of_several_steps_that_wait_for_a_person_one_is_named(deployment: Deployment) -> None:
    run = submit(deployment, "asking", [job("asked", "a"), job("asked", "b")])
    wait_until(lambda: run.state().waits == 2, SOON, "both wait")
    assert run.status() == "waiting"
    with pytest.raises(WrongState, match="steps asked#1/work, asked#2/work wait for a decision"):
        run.approve(by="me")
    run.approve("asked#1/work", by="me")
    assert run.status() == "waiting"
    run.reject("asked#2/work", by="me")
    assert run.result(timeout=SOON).statuses == {"asked#1/work": "ok", "asked#2/work": "failed"}


def test_those_who_are_capable_take_the_work_in_turn(deployment: Deployment) -> None:
    run = submit(deployment, "all", [{"capability": "any", "input": {"text": str(number)}} for number in range(4)])
    assert run.result(timeout=SOON).texts in (["0", "other 1", "2", "other 3"], ["other 0", "1", "other 2", "3"])


# Joins


def test_as_soon_as_enough_are_done_the_rest_is_cancelled(deployment: Deployment) -> None:
    run = submit(
        deployment, "quorum", [job(text="a"), job(text="b", how="wait"), job(text="c"), job(text="d", how="wait")]
    )
    told = run.result(timeout=SOON)
    assert told.texts == ["a", "c"]
    assert told.statuses == {"work#1": "ok", "work#2": "late", "work#3": "ok", "work#4": "late"}
    assert not run.state().degraded


def test_a_member_that_failed_degrades_what_a_quorum_gives(deployment: Deployment) -> None:
    run = submit(deployment, "quorum", [job(text="a", how="fail"), waits("b"), waits("c")])
    wait_until(lambda: step(run, "work#1") == "failed", SOON, "one has failed")
    for text in "bc":
        say(deployment, run, text)
    assert run.result(timeout=SOON).texts == ["b", "c"]
    assert run.state().degraded


def test_a_quorum_that_cannot_be_reached_any_more_fails_the_run_at_once(deployment: Deployment) -> None:
    run = submit(deployment, "quorum", [job(text="a", how="fail"), job(text="b", how="fail"), waits("c")])
    with pytest.raises(RunFailed, match="2 of 3 assignments failed"):
        run.result(timeout=SOON)
    assert step(run, "work#3") == "cancelled"


def test_a_share_counts_by_weight(deployment: Deployment) -> None:
    run = submit(deployment, "share", [job(text="a", weight=3.0), *(job(text=text, how="wait") for text in "bcd")])
    assert run.result(timeout=SOON).texts == ["a"]


def test_the_first_acceptable_answer_is_enough(deployment: Deployment) -> None:
    run = submit(
        deployment, "first", [job(text="bad"), job(text="c", how="fail"), job(text="good"), job(text="d", how="wait")]
    )
    assert "good" in run.result(timeout=SOON).texts
    assert step(run, "work#4") == "cancelled"
    assert not run.state().degraded


def test_an_acceptable_answer_that_a_person_approves_is_enough(deployment: Deployment) -> None:
    # given three members that wait for a person, each with an answer
    run = submit(deployment, "picky", [job("asked", "bad"), job("asked", "good"), job("asked", "worse")])
    wait_until(lambda: run.state().waits == 3, SOON, "all wait")
    # when one that is not acceptable is approved, then the others are waited for
    run.approve("asked#1/work", by="me")
    assert run.state().waits == 2
    # when the acceptable one is, then it is enough
    run.approve("asked#2/work", by="me")
    assert run.result(timeout=SOON).texts == ["bad", "good"]
    assert step(run, "asked#3/work") == "cancelled"
    assert not run.state().degraded


def test_where_no_answer_is_acceptable_the_run_fails(deployment: Deployment) -> None:
    run = submit(deployment, "first", [job(text="bad"), job(text="worse")])
    with pytest.raises(RunFailed, match="no answer was acceptable"):
        run.result(timeout=SOON)


def test_when_the_time_is_over_what_is_there_is_put_together(deployment: Deployment) -> None:
    run = submit(deployment, "timed", [job(text="a"), job(text="b", how="wait")])
    told = run.result(timeout=SOON)
    assert told.statuses == {"work#1": "ok", "work#2": "late"}
    assert run.state().degraded


def test_when_the_time_is_over_a_strict_join_fails_the_run(deployment: Deployment) -> None:
    run = submit(deployment, "strict", [job(text="a"), job(text="b", how="wait")])
    with pytest.raises(RunFailed, match="1 of 2 assignments were not done in time"):
        run.result(timeout=SOON)
    assert run.dead_letter().kind == "deadline"


def test_a_late_result_is_recorded_and_ignored(deployment: Deployment) -> None:
    # given a member that does not react when it is cancelled
    run = submit(deployment, "quorum", [job(text="a"), job(text="b"), job("stubborn", "c")])
    held = submit(deployment, "quorum", [job("stubborn", "x"), job(text="a", how="wait"), job(text="b", how="wait")])
    wait_until(lambda: step(held, "stubborn#1") == "running", SOON, "it is at work")
    for text in "ab":
        say(deployment, held, text)
    told = held.result(timeout=SOON)
    # then it was not waited for
    assert told.statuses["stubborn#1"] == "late"
    assert run.result(timeout=SOON).texts == ["a", "b"]
    say(deployment, run, "c")
    say(deployment, held, "x")


def test_no_more_are_in_flight_than_the_width(deployment: Deployment) -> None:
    # given a hierarchy of width two, and five assignments that wait
    run = submit(deployment, "narrow", [job(text=text, how="wait") for text in "abcde"])
    # when one after the other is done, then never more than two are at work
    for number, text in enumerate("abcde", 1):
        wanted = [f"work#{number}", f"work#{number + 1}"][: 6 - number]
        wait_until(partial(are_at_work, run, wanted), SOON, "their turn has come")
        say(deployment, run, text)
        assert len(at_work(run)) <= 2
    assert run.result(timeout=SOON).texts == list("abcde")


def test_tenants_are_served_in_turn_where_a_specialist_is_limited(deployment: Deployment) -> None:
    # given three runs of one tenant with many assignments for a specialist that works at two at a time
    plan = {"rounds": [[job("limited", str(number)) for number in range(20)]]}
    many = [deployment.client.submit("all", plan, tenant="many") for _ in range(3)]
    wait_until(lambda: step(many[2], "limited#1") is not None, SOON, "they are under way")
    # when another tenant submits a small one
    few = deployment.client.submit("all", {"rounds": [[job("limited", "x"), job("limited", "y")]]}, tenant="few")
    # then it does not wait for theirs
    assert few.result(timeout=SOON).texts == ["x", "y"]
    assert not any(run.state().finished for run in many)
    for run in many:
        run.result(timeout=SOON)


# Rounds


def test_the_synthesiser_may_give_work_out_again(deployment: Deployment) -> None:
    run = submit(deployment, "all", [job(text="a")], [job(text="b"), job(text="c")], [job(text="d")])
    told = run.result(timeout=SOON)
    assert told.texts == ["a", "b", "c", "d"]
    assert told.round == 3
    assert list(told.statuses) == ["work#1", "work#2", "work#3", "work#4"]


def test_more_rounds_than_allowed_fail_the_run(deployment: Deployment) -> None:
    run = submit(deployment, "tolerant", *([job(text="a")] for _ in range(3)))
    with pytest.raises(RunFailed, match="round 3, and the hierarchy has max_rounds=2"):
        run.result(timeout=SOON)


# Nesting


def test_a_specialist_may_be_a_pipeline(deployment: Deployment) -> None:
    run = submit(deployment, "all", [job("two-steps", "a"), job(text="b"), job("two-steps", "c")])
    assert run.result(timeout=SOON).texts == ["a, finished", "b", "c, finished"]


@pytest.mark.parametrize("text", ["bad", "rejected"])
def test_where_a_specialists_pipeline_fails_the_assignment_does(deployment: Deployment, text: str) -> None:
    run = submit(deployment, "tolerant", [job("two-steps", text), job(text="b")])
    told = run.result(timeout=SOON)
    assert told.texts == ["b"]
    assert told.statuses == {"two-steps#1/work": "failed", "work#2": "ok"}


def test_what_a_specialists_pipeline_makes_of_a_fallbacks_output_is_degraded(deployment: Deployment) -> None:
    run = submit(deployment, "all", [job("poor-steps", "a")])
    assert run.result(timeout=SOON).statuses == {"poor-steps#1/degraded": "degraded"}


def test_a_specialist_may_be_a_hierarchy(deployment: Deployment) -> None:
    inner = {"to": "squad", "input": {"rounds": [[job(text="x"), job("two-steps", "y"), job(text="z", how="fail")]]}}
    run = submit(deployment, "whole", [inner, job(text="b")])
    told = run.result(timeout=SOON)
    assert told.statuses == {"office/squad#1/plan": "degraded", "office/work#2": "ok"}
    assert run.state().fans["office/squad#1/report"].failed == 1
    assert {one.name for one in run.state().steps} >= {"office/squad#1/two-steps#2/finish", "office/work#2", "end"}


def test_a_failed_hierarchy_is_a_failed_assignment_of_the_one_above(deployment: Deployment) -> None:
    run = submit(deployment, "tolerant", [{"to": "squad", "input": {"rounds": [[]] * 2}}, job(text="b")])
    told = run.result(timeout=SOON)
    assert told.statuses == {"squad#1/plan": "failed", "work#2": "ok"}
    assert "max_rounds=1" in told.reasons["squad#1/plan"]


def test_a_cancel_reaches_all_that_is_below(deployment: Deployment) -> None:
    inner = {"to": "squad", "input": {"rounds": [[job(text="x", how="wait"), job("two-steps", "y", how="wait")]]}}
    run = submit(deployment, "whole", [inner, job(text="b", how="wait")])
    wait_until(lambda: step(run, "office/squad#1/two-steps#2/work") == "running", SOON, "all are at work")
    run.cancel("enough", by="me")
    wait_until(lambda: run.state().finished, SOON, "it has ended")
    assert {one.status for one in run.state().steps if one.fan and one.name != "office/squad#1/plan"} == {"cancelled"}


def test_what_is_within_a_late_assignment_is_cancelled(deployment: Deployment) -> None:
    inner = {"to": "squad", "input": {"rounds": [[waits("x"), job("two-steps", "y", how="wait")]]}}
    run = submit(deployment, "quorum", [inner, waits("a"), waits("b")])
    wait_until(lambda: step(run, "squad#1/two-steps#2/work") == "running", SOON, "all are at work")
    for text in "ab":
        say(deployment, run, text)
    assert run.result(timeout=SOON).texts == ["a", "b"]
    assert {one.status for one in run.state().steps if one.name.startswith("squad#1/")} == {"completed", "cancelled"}


# Redriven


def test_a_redriven_join_does_again_what_is_not_done_and_nothing_else(deployment: Deployment) -> None:
    # given a run that failed since one assignment did
    run = submit(deployment, "all", [job(text="a"), job("moody", "b"), job(text="c")])
    wait_until(lambda: {step(run, "work#1"), step(run, "work#3")} == {"completed"}, SOON, "the others are done")
    say(deployment, run, "b.fails")
    with pytest.raises(RunFailed, match="1 of 3 assignments failed"):
        run.result(timeout=SOON)
    assert run.dead_letter().step == "report"
    # when what was wrong is mended, and the run is sent again
    say(deployment, run, "b")
    run.redrive(by="me")
    # then the others are not done again
    assert run.result(timeout=SOON).texts == ["a", "b", "c"]
    ledger = (deployment.floor / "ledger").read_text().splitlines()
    assert sorted(line.split()[1] for line in ledger if line.startswith(run.id) and "#" in line) == [
        *("moody#2", "moody#2", "work#1", "work#3"),
    ]


def test_an_assignment_alone_is_not_redriven(deployment: Deployment) -> None:
    run = submit(deployment, "all", [job(text="b", how="fail")])
    with pytest.raises(RunFailed):
        run.result(timeout=SOON)
    with pytest.raises(WrongState, match="whose assignments that failed run again with 'report'"):
        run.redrive("work#1", by="me")


def test_a_redrive_from_the_boss_makes_a_new_plan(deployment: Deployment) -> None:
    run = submit(deployment, "all", [job(text="b", how="fail")])
    with pytest.raises(RunFailed):
        run.result(timeout=SOON)
    run.redrive("plan", input={"rounds": [[job(text="other")]]}, by="me")
    assert run.result(timeout=SOON).texts == ["other"]
    assert [one.name for one in run.state().steps] == ["plan", "report", "work#2"]


def are_at_work(run: Run, wanted: list[str]) -> bool:
    return at_work(run) == wanted


def at_work(run: Run) -> list[str]:
    return [one.name for one in run.state().steps if one.fan and one.status in {"ready", "running"}]


def step(run: Run, name: str) -> str | None:
    found = run.state().step(name)
    return found.status if found else None


def say(deployment: Deployment, run: Run, word: str) -> None:
    (deployment.floor / f"{run.id}.{word}").touch()
