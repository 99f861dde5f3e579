"""Building hierarchies: what they plan, how assignments find their specialists, and what is refused."""

from __future__ import annotations

import math
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from billiard.exceptions import SoftTimeLimitExceeded
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError, field_serializer, field_validator

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
from orchestrator.messages import MAX_STEPS, Member, PlanStep
from orchestrator.patterns.delegation import MAX_ASSIGNMENTS, answer_type, may_plan, output_of
from orchestrator.patterns.flow import locate, within

if TYPE_CHECKING:
    from collections.abc import Callable
    from decimal import Decimal

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


class Speechless(ValueError):
    """Cannot say what is wrong."""

    def __str__(self) -> str:
        raise KeyError("speechless")

    __repr__ = __str__


RAISED: dict[str, BaseException] = {
    "key": KeyError("key"),
    "type": TypeError("type"),
    "memory": MemoryError(),
    "deep": RecursionError("deep"),
    "speechless": Speechless(),
    "late": SoftTimeLimitExceeded(),
}


class Touchy(BaseModel):
    """What a specialist takes whose validators and serialisers raise what comes to them."""

    text: str

    @field_validator("text")
    @classmethod
    def _look(cls, text: str) -> str:
        if text in RAISED:
            raise RAISED[text]
        return text

    @field_serializer("text")
    def _write(self, text: str) -> str:
        return {"fine": text}[text]


async def answers_later(*_: object) -> bool:
    return False


class AnswersLater:
    """An object that is called, and whose answer is to be awaited."""

    async def __call__(self, *_: object) -> bool:
        return False


class Assigned(BaseModel):
    """What an answer may have too."""

    assignments: list[str]


class Staffed(Assigned):
    """An answer that looks like a plan."""


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
    boss = given.pop("boss") if "boss" in given else planner()
    synthesizer = given.pop("synthesize") if "synthesize" in given else reporter()
    return Hierarchy(name, boss=boss, synthesize=synthesizer, **given)


def touchy(**options: Any) -> Hierarchy:  # noqa: ANN401  as of Hierarchy
    @agent("team.touchy")
    def touchy(job: Touchy) -> Done:
        return Done(text=job.text)

    return team(workers=[touchy], **options)


ODD_NUMBERS = (0, 10_001, 2.5, True, "2", None)


def named(odd: object) -> Any:  # noqa: ANN401
    """Say it is of the type that it is not."""
    return odd


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


@pytest.mark.parametrize("odd", ["50%", "100%s", "%(a)s", "{0}", "ü x"])
def test_names_are_taken_as_they_are_written(odd: str) -> None:
    hierarchy = team(workers=[Specialist(worker("team.work"), name=odd)])
    plan = Plan([Assignment(to=odd, input={"text": ""}), Assignment(to="nobody%s", input={})])
    Pipeline("outer", [Stage(hierarchy, name=odd)])
    found = hierarchy.members(plan, fan=f"{odd}/report", start=0, number=1)
    assert [member.steps[0].name for member in found] == [f"{odd}/{odd}#1", f"{odd}/unassigned#2"]


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


def test_whatever_a_specialist_s_input_type_raises_concerns_that_assignment_alone() -> None:
    # given a specialist that is particular about what it takes, and a plan that has something good for it too
    texts = ["key", "type", "memory", "deep", "speechless", "unwritable", "fine"]
    # when it is compiled
    found = compiled(touchy(), *(Assignment(to="touchy", input={"text": text}) for text in texts))
    # then each but the good one fails with its reason
    begins = "the input does not fit specialist 'touchy': "
    assert all(member.fault.startswith(begins) for member in found[:-1])
    reasons = [member.fault.removeprefix(begins) for member in found]
    assert reasons[:4] == ["KeyError: 'key'", "TypeError: type", "MemoryError", "RecursionError: deep"]
    assert "speechless" in reasons[4].lower()
    assert "KeyError: 'unwritable'" in reasons[5]
    assert (reasons[6], found[6].value) == ("", b'{"text":"fine"}')


def test_input_that_no_json_can_hold_is_refused_with_the_reason() -> None:
    @agent("team.loose")
    def loose(job: dict[str, Any]) -> Done:
        return Done(text=str(job))

    cyclic: dict[str, Any] = {}
    cyclic["again"] = cyclic
    odd = [cyclic, {"text": "\ud800"}, {"bytes": b"\xff"}, {"object": object()}]
    found = compiled(team(workers=[loose]), *(Assignment(to="loose", input=given) for given in odd))
    assert all(member.fault.startswith("the input does not fit specialist 'loose': ") for member in found)


def test_a_router_that_gives_no_name_concerns_that_assignment_alone() -> None:
    odd: dict[str, Any] = {"object": Speechless(), "nothing": None, "": "work"}
    hierarchy = team(router=lambda assignment, _: odd[assignment.label])
    found = compiled(hierarchy, *(Assignment(input={"text": ""}, label=label) for label in [*odd, "unknown"]))
    assert [member.fault for member in found] == [
        "the router must return a specialist's name, not Speechless",
        "the router must return a specialist's name, not NoneType",
        "",
        "the router raised KeyError: 'unknown'",
    ]


def test_a_boss_whose_time_is_over_is_not_an_assignment_that_does_not_fit() -> None:
    def stop(_: Assignment, __: tuple[str, ...]) -> str:
        raise SoftTimeLimitExceeded

    hierarchy = touchy(router=stop)
    for assignment in (Assignment(input={}), Assignment(to="touchy", input={"text": "late"})):
        with pytest.raises(SoftTimeLimitExceeded):
            compiled(hierarchy, assignment)


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
    agents = [member.steps[0].agent for member in found]
    assert agents[:3] in (["team.a", "team.b", "team.a"], ["team.b", "team.a", "team.b"])
    assert agents[3:] == ["team.b", "team.c"]


def test_plans_of_one_assignment_do_not_all_go_to_the_same_specialist() -> None:
    hierarchy = team(workers=[Specialist(worker(f"team.{name}"), capabilities={"read"}) for name in "abcd"])
    plan = Plan([Assignment(capability="read", input={"text": ""})])

    def goes_to(run: int = 0, fan: str = "report", start: int = 0) -> str:
        (member,) = hierarchy.members(plan, fan=fan, start=start, number=1, seed=f"{run:024}")
        return member.steps[0].agent

    # given many runs, many inner fan-outs and many rounds, then all have about the same to do
    for many in (
        [goes_to(run=number) for number in range(1000)],
        [goes_to(fan=f"squad#{number}/report") for number in range(1000)],
        [goes_to(start=number) for number in range(1000)],
    ):
        assert all(150 < many.count(f"team.{name}") < 350 for name in "abcd")
    # and the same plan goes to the same
    assert len({goes_to(run=7) for _ in range(3)}) == 1


def test_an_assignment_that_names_a_specialist_and_a_capability_is_not_guessed_at() -> None:
    hierarchy = team(workers=[Specialist(worker("team.work"), capabilities={"read"}), worker("team.other")])
    both, one = compiled(
        hierarchy,
        Assignment(to="other", capability="read", input={"text": ""}),
        Assignment(to="other", input={"text": ""}),
    )
    assert both.fault == "the assignment names a specialist, 'other', and a capability, 'read'; give one of the two"
    assert one.fault == ""


def test_an_input_that_is_too_large_concerns_that_assignment_alone() -> None:
    plan = Plan([Assignment(to="work", input={"text": "x" * length}) for length in (90, 91)])
    small, large = team().members(plan, fan="report", start=0, number=1, max_bytes=len('{"text":""}') + 90)
    assert (small.fault, len(small.value)) == ("", 101)
    assert large.fault.startswith("the input of specialist 'work' is 102 bytes, the limit is 101; ")
    assert large.value == b""


def test_an_agent_that_is_several_specialists_is_not_told_apart_by_its_own_name() -> None:
    work = worker("team.work")
    hierarchy = team(workers=[Specialist(work, name="slow"), Specialist(work, name="fast")])
    meant, unclear = compiled(hierarchy, *(Assignment(to=to, input={"text": "a"}) for to in ("fast", "team.work")))
    assert (meant.steps[0].name, meant.fault) == ("fast#1", "")
    assert unclear.fault == "'team.work' is several specialists; name the one that is meant: slow, fast"


def test_an_agent_stands_for_its_name() -> None:
    work = worker("team.work")
    assert Assignment(to=work, input={}).to == "team.work"


def test_more_assignments_than_a_run_may_have_are_refused() -> None:
    plan = Plan([Assignment(to="work", input={"text": ""})] * 2)
    with pytest.raises(ValueError, match=f"{MAX_ASSIGNMENTS + 1} assignments; a fan-out has at most {MAX_ASSIGNMENTS}"):
        team().members(plan, fan="report", start=MAX_ASSIGNMENTS - 1, number=1)


def test_more_steps_than_a_run_may_have_are_refused_before_they_are_made() -> None:
    # given a specialist of many stages, and one who is a hierarchy, which counts as its two steps here
    def conclude(results: Results[Task, Done]) -> Done:
        return results.values[0]

    inner = team("inner", boss=planner("x.plan"), synthesize=agent("x.conclude")(conclude))
    stages = [Stage(worker("team.one"), name=f"s{number}") for number in range(500)]
    hierarchy = team(workers=[Pipeline("long", stages), inner])
    few = [Assignment(to="long", input={"text": ""})] * (MAX_STEPS // 500 - 1)
    more = [Assignment(to="inner", input={"text": ""})] * 250
    # then as many as a run may have are fine
    assert len(compiled(hierarchy, *few, *more)) == len(few) + len(more)
    # and not one more, whether it can be done or not
    why = f"280 assignments of {MAX_STEPS + 1} steps in all; a run has at most {MAX_STEPS} steps"
    with pytest.raises(ValueError, match=why):
        compiled(hierarchy, *few, *more, Assignment(to="nobody"))
    # nor does it take long to say so
    with pytest.raises(ValueError, match="10000 assignments of 5000000 steps in all"):
        compiled(hierarchy, *few[:1] * MAX_ASSIGNMENTS)


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


def needed(share: float, weights: list[int], times: int = 1) -> int:
    members = [Member(steps=(PlanStep(name="work#1", agent="work", weight=each),)) for each in weights] * times
    return team(join=Join(need=share)).terms(members).need


@given(st.integers(1, MAX_ASSIGNMENTS), st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_share_of_so_many_alike_is_that_many(count: int, data: st.DataObject) -> None:
    part, weight = data.draw(st.integers(1, count)), data.draw(st.integers(1, 1_000_000_000))
    # given a share that floats hold as well as they can, as written or as computed
    for share in (part / count, float(Fraction(part, count)), 1 - (count - part) / count):
        # then it is that part of them, not a thousandth more or less
        assert needed(share, [weight], times=count) == part * weight


@given(st.decimals("0.000001", 1, places=6), st.lists(st.integers(1, 1_000_000_000), min_size=1, max_size=20))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_share_is_what_is_written(share: Decimal, weights: list[int]) -> None:
    assert needed(float(share), weights) == math.ceil(Fraction(share) * sum(weights))


def test_a_share_of_something_is_something_and_of_nothing_nothing() -> None:
    assert [needed(1e-12, [1]), needed(1e-12, [10**9]), needed(0.5, [])] == [1, 1, 0]
    assert needed(1.0, [10**9, 10**9]) == 2 * 10**9


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"need": 0.0}, "need, a share, must be above 0.0 and at most 1.0, not 0.0"),
        ({"need": 1.5}, "need, a share, must be above 0.0"),
        ({"need": 0}, "need, a number, must be 1 to"),
        ({"need": True}, "need is a share (0.8) or a number (3), not True"),
        ({"need": "all"}, "need is a share (0.8) or a number (3), not 'all'"),
        ({"accept": "good"}, "accept must be a plain `def` of an answer, not 'good'"),
        ({"accept": answers_later}, "accept must be a plain `def`"),
        ({"accept": AnswersLater()}, "accept must be a plain `def`"),
        ({"deadline": 0.0}, "deadline must be above 0 s"),
        ({"deadline": float("nan")}, "deadline must be above 0 s"),
        ({"deadline": True}, "deadline is a number of seconds (60.0), not True"),
        ({"deadline": "60"}, "deadline is a number of seconds (60.0), not '60'"),
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
        ({"boss": None}, "boss takes an agent or its name, not None"),
        ({"workers": None}, "workers is a list of agents, flows or Specialists, not None"),
        ({"workers": work}, "workers is a list of agents, flows or Specialists, not <agent team.work>"),
        ({"workers": "team.work"}, "workers is a list of agents, flows or Specialists, not 'team.work'"),
        ({"workers": {"work": work}}, "workers is a list of agents, flows or Specialists"),
        ({"workers": [None]}, "None is neither an agent nor a flow"),
        ({"workers": [Specialist(work, name=named(3))]}, "a specialist's name is a text, not 3"),
        ({"workers": [Specialist(work, name="")]}, "a specialist's name has none of / ~ # and is not empty"),
        ({"workers": [Specialist(work, name="a\ud800")]}, "at most 100 printable characters, not 2: 'a\\ud800'"),
        ({"workers": [Specialist(work, name="a\nb")]}, "at most 100 printable characters"),
        ({"workers": [Specialist(work, name="a" * 101)]}, "at most 100 printable characters, not 101"),
        ({"workers": [Specialist(work, capabilities="legal")]}, "capabilities of 'work' is a set of texts: write {'le"),
        ({"workers": [Specialist(work, capabilities=named(1))]}, "set of texts, such as {'legal'}, not 1"),
        ({"workers": [Specialist(work, capabilities=[named(1)])]}, "set of texts, such as {'legal'}, not [1]"),
        ({"workers": [Specialist(work, capabilities={""})]}, "set of texts, such as {'legal'}"),
        ({"router": "work"}, "router must be a plain `def` of an assignment and the specialists' names, not 'work'"),
        ({"router": answers_later}, "router must be a plain `def`"),
        ({"router": AnswersLater()}, "router must be a plain `def`"),
        ({"router": work}, "router must be a plain `def`"),
        ({"join": 0.8}, "join takes a Join: write join=Join(need=0.8), not join=0.8"),
        ({"join": 3}, "join takes a Join: write join=Join(need=3), not join=3"),
        ({"join": 0}, "join takes a Join"),
        ({"join": "all"}, "join takes a Join, such as Join(need=0.8), not 'all'; leave it out where all are needed"),
        *(({"width": odd}, f"width must be 1 to 10000, a whole number, not {odd!r}") for odd in ODD_NUMBERS),
        *(({"max_rounds": odd}, f"max_rounds must be 1 to 100, a whole number, not {odd!r}") for odd in ODD_NUMBERS),
    ]
    for options, why in cases:
        assert why in refusal(partial(team, **options)), options


@pytest.mark.parametrize("whose", ["boss", "synthesize", "workers"])
def test_an_agent_s_own_fallbacks_must_be_there_and_take_what_it_takes(whose: str) -> None:
    def take(other: Other) -> Done:
        return Done(text=str(other.number))

    def plan(task: Task) -> Plan:
        return Plan([Assignment(to="work", input=task)])

    def report(results: Results[Task, Done]) -> Report:
        return Report(texts=[str(results.round)])

    def work(job: Job) -> Done:
        return Done(text=job.text)

    agent("team.other")(take)

    def part(fallback: str) -> dict[str, Any]:
        made: Any = {"boss": plan, "synthesize": report, "workers": work}[whose]
        made = agent(f"lame.{made.__name__}", fallback=[fallback])(made)
        return {whose: [made] if whose == "workers" else made}

    assert "there is no agent 'team.typo'" in refusal(lambda: team(**part("team.typo")))
    assert "'team.other' needs number, which 'lame." in refusal(lambda: team(**part("team.other")))


def test_what_a_specialist_s_fallback_gives_must_fit_the_results() -> None:
    @agent("team.other")
    def other(job: Job) -> Other:
        return Other(number=len(job.text))

    @agent("team.lame", fallback=["team.other"])
    def lame(job: Job) -> Done:
        return Done(text=job.text)

    @agent("team.fine", fallback=["team.lame"])
    def fine(job: Job) -> Done:
        return Done(text=job.text)

    assert "'team.report' needs text, which 'team.other' does not give" in refusal(lambda: team(workers=[lame]))
    assert team("fine", workers=[fine]).workers == ("fine",)


def test_a_hierarchy_s_name_is_a_text() -> None:
    assert "flow 3" in refusal(lambda: team(named(3)))


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


def test_what_has_assignments_is_meant_as_a_plan() -> None:
    # given a boss that may give a plan or an answer, all of whose fields have defaults
    boss = planner(answers=True)
    good = {"assignments": [{"to": "work", "input": {"text": "a"}}]}
    # when it gives a plan as plain data, then it is one; and where there is a slip in it, it says which
    assert output_of(boss, good) == Plan.model_validate(good)
    with pytest.raises(ValidationError, match=r"assignments\.0\.too\n  Extra inputs are not permitted"):
        output_of(boss, {"assignments": [{"too": "work"}]})
    # and what has none is what it was
    assert output_of(boss, {"texts": ["a"]}) == output_of(boss, Report(texts=["a"])) == Report(texts=["a"])
    assert output_of(boss, Plan()) == Plan()
    assert output_of(worker("team.work"), {"text": "a", "assignments": 1}) == Done(text="a")


def test_an_answer_that_has_assignments_itself_is_still_one() -> None:
    @agent("team.staff")
    def staff(task: Task) -> Plan | Staffed:
        return Staffed(assignments=[task.text])

    assert output_of(staff, {"assignments": ["a"], "number": 1}) == Staffed(assignments=["a"])
    assert output_of(staff, {"assignments": [{"to": "work"}]}) == Plan([Assignment(to="work")])


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


def test_results_tell_which_answer_was_accepted() -> None:
    refused = Outcome[Done](worker="a", status="ok", value=Done(text="bad"))
    first = Outcome[Done](worker="b", status="ok", value=Done(text="good"), accepted=True)
    second = Outcome[Done](worker="a", status="degraded", value=Done(text="better"), accepted=True, round=2)
    found = [Results[Task, Done](task=Task(), outcomes=outcomes) for outcomes in ((refused, first), (refused,))]
    assert [results.accepted for results in found] == [Done(text="good"), None]
    # of several rounds, the last one's, wherever in it
    results = Results[Task, Done](task=Task(), outcomes=(refused, first, second, refused))
    assert (results.accepted, len(results.values)) == (Done(text="better"), 4)


@pytest.mark.parametrize("odd", [{"weight": 0.0}, {"weight": float("inf")}, {"label": "x" * 201}, {"wait": 1}])
def test_an_assignment_that_does_not_fit_is_refused_when_it_is_made(odd: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Assignment(to="work", input={}, **odd)


def test_a_plan_is_read_back_from_json() -> None:
    plan = Plan([Assignment(to="work", input=Job(text="a"))])
    assert Plan.model_validate_json(plan.model_dump_json()).assignments[0].input == {"text": "a"}
