"""Building hierarchies: what they plan, how assignments find their specialists, and what is refused."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel, ValidationError

from orchestrator import (
    Agent,
    Assignment,
    Gate,
    Hierarchy,
    Join,
    Outcome,
    Pipeline,
    Plan,
    Results,
    Specialist,
    Stage,
    agent,
)
from orchestrator.errors import DefinitionError, InvalidFlow, InvalidPolicy, UnknownAgent
from orchestrator.patterns.delegation import MAX_ASSIGNMENTS, answer_type, may_plan
from orchestrator.patterns.flow import locate, within

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.messages import Member

pytestmark = pytest.mark.usefixtures("registries")


class Task(BaseModel):
    """What a boss takes."""

    text: str = ""


class Job(BaseModel):
    """What a specialist takes."""

    text: str


class Done(BaseModel):
    """What it gives."""

    text: str


class Other(BaseModel):
    """What fits nothing here."""

    number: int


class Report(BaseModel):
    """What a synthesiser gives."""

    texts: list[str] = []


def planner(name: str = "team.plan", *, answers: bool = False) -> Agent[Any, Any]:
    def plan(task: Task) -> Plan:
        return Plan([Assignment(to="work", input=task)])

    def answer(task: Task) -> Plan | Report:
        return Report(texts=[task.text])

    return agent(name)(answer if answers else plan)


def reporter(name: str = "team.report") -> Agent[Any, Any]:
    def report(results: Results[Task, Done]) -> Report:
        return Report(texts=[done.text for done in results.values])

    return agent(name)(report)


def worker(name: str) -> Agent[Any, Any]:
    def work(job: Job) -> Done:
        return Done(text=job.text)

    return agent(name)(work)


def team(name: str = "team", **options: Any) -> Hierarchy:  # noqa: ANN401  as of Hierarchy
    given = {"workers": [worker("team.work")], **options}
    return Hierarchy(
        name, boss=given.pop("boss", None) or planner(), synthesize=given.pop("synthesize", None) or reporter(), **given
    )


def refusal(make: Callable[[], object]) -> str:
    with pytest.raises(DefinitionError) as refused:
        make()
    assert __file__ in str(refused.value)
    return str(refused.value)


def compiled(hierarchy: Hierarchy, *assignments: Assignment) -> list[Member]:
    return hierarchy.members(Plan(assignments), fan="report", start=0, number=1)


# What is planned


def test_a_run_starts_with_the_boss_and_what_joins_its_work() -> None:
    hierarchy = team()
    assert [(step.name, step.agent, step.next, step.delegates, step.joins) for step in hierarchy.plan()] == [
        ("plan", "team.plan", "report", True, False),
        ("report", "team.report", None, False, True),
    ]
    assert hierarchy.output.validate_python({"texts": ["a"]}) == Report(texts=["a"])
    assert repr(hierarchy) == "<hierarchy team: plan → work → report>"


def test_an_assignment_becomes_a_step_that_names_its_fan_out() -> None:
    (first, second) = compiled(
        team(),
        Assignment(to="work", input=Job(text="a"), weight=2.5, label="the first"),
        Assignment(to="team.work", input={"text": "b"}),
    )
    (step,) = first.steps
    assert (step.name, step.agent, step.fan, step.member) == ("work#1", "team.work", "report", "work#1")
    assert (step.specialist, step.label, step.weight, step.round) == ("work", "the first", 2500, 1)
    assert (first.value, second.value) == (b'{"text":"a"}', b'{"text":"b"}')
    assert second.steps[0].name == "work#2"


def test_a_specialist_s_flow_becomes_steps_behind_the_assignment_s_name() -> None:
    inner = Pipeline("inner", [worker("team.one"), Stage(worker("team.two"), gate=Gate(bool))])
    (member,) = compiled(team(workers=[inner]), Assignment(to="inner", input={"text": "a"}))
    assert [(step.name, step.next, step.fan, step.member, step.gated) for step in member.steps] == [
        ("inner#1/one", "inner#1/two", "report", "inner#1/one", False),
        ("inner#1/two", None, "report", "inner#1/one", True),
    ]


def test_within_a_stage_names_begin_with_the_stage_s() -> None:
    (member,) = team().members(
        Plan([Assignment(to="work", input={"text": ""})]), fan="office/report", start=7, number=2
    )
    assert (member.steps[0].name, member.steps[0].round) == ("office/work#8", 2)


def test_a_step_of_a_specialist_s_flow_is_found_by_its_name() -> None:
    inner = Pipeline("inner", [worker("team.one"), Stage(worker("team.two"), gate=Gate(bool))])
    hierarchy = team(workers=[inner])
    outer = Pipeline("outer", [Stage(hierarchy, name="office")])
    assert locate(outer, "office/inner#3/two") == (inner, "two")
    assert locate(outer, "office/plan") == (outer, "office/plan")
    assert within(outer, ["office"]) is hierarchy
    for unknown in ("office/nobody#1/two", "nowhere/inner#3/two"):
        with pytest.raises(LookupError):
            locate(outer, unknown)


# Routing


@pytest.mark.parametrize(
    ("assignment", "why"),
    [
        (Assignment(to="nobody", input={}), "there is no specialist 'nobody' (known: work)"),
        (Assignment(to="work", input={}), "the input does not fit specialist 'work': text: Field required"),
        (Assignment(capability="magic", input={}), "no specialist is capable of 'magic' (known capabilities: none)"),
        (Assignment(input={}), "the assignment names neither a specialist (to=) nor a capability"),
    ],
)
def test_what_cannot_be_done_has_the_reason_in_place_of_its_input(assignment: Assignment, why: str) -> None:
    good = Assignment(to="work", input={"text": "a"})
    found = compiled(team(), assignment, good)
    assert found[0].fault.startswith(why)
    assert (found[0].value, found[1].fault) == (b"", "")


def test_a_capability_s_specialists_are_taken_in_turn_and_a_router_finds_the_rest() -> None:
    hierarchy = team(
        workers=[
            Specialist(worker("team.a"), capabilities={"read"}),
            Specialist(worker("team.b"), capabilities=["read", "write"]),
            worker("team.c"),
        ],
        router=lambda assignment, names: names[len(assignment.label)],
    )
    reads = [Assignment(capability="read", input={"text": ""}) for _ in range(3)]
    routed = Assignment(input={"text": ""}, label="xx")
    found = compiled(hierarchy, *reads, Assignment(capability="write", input={"text": ""}), routed)
    assert [member.steps[0].agent for member in found] == ["team.a", "team.b", "team.a", "team.b", "team.c"]


def test_an_agent_stands_for_its_name() -> None:
    work = worker("team.work")
    assert Assignment(to=work, input={}).to == "team.work"


def test_more_assignments_than_a_run_may_have_are_refused() -> None:
    plan = Plan([Assignment(to="work", input={"text": ""})] * 2)
    with pytest.raises(ValueError, match=f"{MAX_ASSIGNMENTS + 1} assignments; a run has at most {MAX_ASSIGNMENTS}"):
        team().members(plan, fan="report", start=MAX_ASSIGNMENTS - 1, number=1)


# Joins


@pytest.mark.parametrize(
    ("join", "need", "share"),
    [(Join(), 4500, True), (Join(need=0.5), 2250, True), (Join(need=2 / 3), 3000, True), (Join(need=2), 2, False)],
)
def test_what_a_join_needs_is_a_number_or_a_share_of_the_weight(join: Join, need: int, share: bool) -> None:  # noqa: FBT001
    hierarchy = team(join=join)
    found = compiled(
        hierarchy, *(Assignment(to="work", input={"text": ""}, weight=weight) for weight in (1.0, 1.5, 2.0))
    )
    terms = hierarchy.terms(found)
    assert (terms.need, terms.share) == (need, share)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"need": 0.0}, "need, a share, must be above 0.0 and at most 1.0, not 0.0"),
        ({"need": 1.5}, "need, a share, must be above 0.0"),
        ({"need": 0}, "need, a number, must be 1 to"),
        ({"need": True}, "need is a share (0.8) or a number (3), not True"),
        ({"need": "all"}, "need is a share (0.8) or a number (3), not 'all'"),
        ({"accept": "good"}, "accept must be a function"),
        ({"deadline": 0.0}, "deadline must be above 0 s"),
        ({"otherwise": "ignore"}, "otherwise must be fail or degrade, not 'ignore'"),
    ],
)
def test_a_join_that_does_not_fit_is_refused_where_it_is_written(options: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidPolicy) as refused:
        Join(**options)
    assert __file__ in str(refused.value)
    assert why in str(refused.value)


# What is refused


def test_what_is_no_hierarchy_is_refused_with_the_place_and_the_reason() -> None:
    def gives_nothing(results: Results[Task, Done]) -> Plan:
        return Plan([Assignment(to="work", input=results.task)])

    def takes_anything(results: Report) -> Report:
        return results

    def other(job: Job) -> Other:
        return Other(number=len(job.text))

    only_plans, no_results, misfit = (
        agent("team.p")(gives_nothing),
        agent("team.t")(takes_anything),
        agent("team.o")(other),
    )
    work = worker("team.work")
    cases: list[tuple[dict[str, Any], str]] = [
        ({"workers": []}, "a hierarchy has at least one worker"),
        ({"workers": [print]}, "is neither an agent nor a flow"),
        ({"workers": [work, Specialist(planner("x.work"))]}, "two specialists are named 'work'"),
        ({"workers": [Specialist(work, name="a/b")]}, "a specialist's name has none of"),
        ({"workers": [misfit]}, "'team.report' needs text, which 'o' does not give"),
        ({"boss": work}, "must return a Plan, or a Plan or the answer"),
        ({"boss": "plan", "workers": [work]}, "there is no agent 'plan'"),
        ({"boss": print}, "boss takes an agent or its name"),
        ({"boss": planner("a.report")}, "boss and synthesize are both named 'report'"),
        ({"synthesize": only_plans}, "must be able to return an answer, not only a Plan"),
        ({"synthesize": no_results}, "takes Results[Task, Value]"),
        ({"width": 0}, "width must be 1 to"),
        ({"max_rounds": 0}, "max_rounds must be 1 to"),
    ]
    for options, why in cases:
        assert why in refusal(partial(team, **options)), options


def test_an_unknown_specialist_is_refused_by_name() -> None:
    with pytest.raises(UnknownAgent, match="there is no agent 'team\\.nobody'"):
        team(workers=["team.nobody"])


def test_a_gate_behind_a_boss_that_may_answer_past_it_is_refused() -> None:
    hierarchy = team(boss=planner(answers=True))
    with pytest.raises(InvalidFlow, match="may answer past a gate; put it behind a stage of its own"):
        Pipeline("gated", [Stage(hierarchy, gate=Gate(bool))])
    assert Pipeline("fine", [Stage(team("strict", boss=planner("strict.plan")), gate=Gate(bool))]).plan()[-1].gated


# What passes between them


def test_an_answer_is_what_is_no_plan() -> None:
    assert answer_type(Plan | Report) == Report
    assert answer_type(Plan | Report | str) == Report | str
    assert answer_type(Report) is Report
    assert answer_type(Plan) is Plan
    assert [may_plan(kind) for kind in (Plan, Plan | Report, Report, str | None)] == [True, True, False, False]


def test_results_tell_what_there_is_and_what_is_missing() -> None:
    outcomes = (
        Outcome[Done](worker="a", status="ok", value=Done(text="x")),
        Outcome[Done](worker="b", status="degraded", value=Done(text="y"), reason="cached"),
        Outcome[Done](worker="c", status="failed", reason="no"),
        Outcome[Done](worker="d", status="late"),
    )
    results = Results[Task, Done](task=Task(), outcomes=outcomes)
    assert [value.text for value in results.values] == ["x", "y"]
    assert [outcome.worker for outcome in results.missing] == ["c", "d"]


@pytest.mark.parametrize("odd", [{"weight": 0.0}, {"weight": float("inf")}, {"label": "x" * 201}, {"wait": 1}])
def test_an_assignment_that_does_not_fit_is_refused_when_it_is_made(odd: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Assignment(to="work", input={}, **odd)


def test_a_plan_is_read_back_from_json() -> None:
    plan = Plan([Assignment(to="work", input=Job(text="a"))])
    assert Plan.model_validate_json(plan.model_dump_json()).assignments[0].input == {"text": "a"}
