"""Building pipelines: what they plan, what their gates decide, and what is refused."""

from __future__ import annotations

import importlib.util
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import pytest
from pydantic import (
    AliasChoices,
    AliasPath,
    BaseModel,
    ConfigDict,
    Field,
    RootModel,
    computed_field,
    model_serializer,
    model_validator,
)

from orchestrator import Agent, Decision, Gate, Pipeline, Stage, agent
from orchestrator.errors import DuplicateName, InvalidFlow, InvalidGate, UnknownAgent
from orchestrator.patterns import flows
from orchestrator.patterns.pipeline import MAX_STAGES

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("registries")

Any_ = Agent[Any, Any]


class Text(BaseModel):
    """What the agents here take and give."""

    text: str = ""


def made(name: str) -> Any_:
    """Return an agent of this name."""

    def handle(text: Text) -> Text:
        return text

    return agent(name)(handle)


def passes(_: object) -> bool:
    return True


def fails(_: object) -> bool:
    return False


# What is planned


def test_a_pipeline_plans_its_stages_in_order_each_with_the_next() -> None:
    # given agents, one of them with a gate and one with a name of its own
    ingest, classify, publish = made("shop.ingest"), made("shop.classify"), made("publish")

    # when they are put in sequence
    pipeline = Pipeline("shop", [ingest, Stage(classify, gate=Gate(passes)), Stage(publish, name="out")])

    # then the plan says who follows whom
    assert [(step.name, step.agent, step.next, step.start, step.gated) for step in pipeline.plan()] == [
        ("ingest", "shop.ingest", "classify", None, False),
        ("classify", "shop.classify", "out", None, True),
        ("out", "publish", None, None, False),
    ]
    assert pipeline.agent_of("out") is publish
    assert pipeline.gate_of("classify") is not None
    assert pipeline.gate_of("out") is None
    assert pipeline.gate_of("nothing") is None
    assert repr(pipeline) == "<pipeline shop: ingest → classify → out>"


def test_an_agent_may_be_named_by_its_name() -> None:
    made("shop.ingest")

    assert [step.agent for step in Pipeline("shop", ["shop.ingest"]).plan()] == ["shop.ingest"]


def test_a_pipeline_takes_what_its_first_agent_takes_and_gives_what_its_last_gives() -> None:
    @agent("a.first")
    def first(number: int) -> Text:
        return Text(text=str(number))

    @agent("a.last")
    def last(text: Text) -> list[str]:
        return [text.text]

    pipeline = Pipeline("shop", [first, last])

    assert pipeline.input.validate_json("7") == 7
    assert pipeline.output.validate_json('["x"]') == ["x"]


def test_a_nested_pipelines_steps_are_in_their_place_under_its_name() -> None:
    # given a pipeline in a pipeline in a pipeline, the middle one with another name
    innermost = Pipeline("innermost", [made("a"), made("b")])
    middle = Pipeline("middle", [made("c"), innermost])
    outer = Pipeline("outer", [Stage(middle, name="m"), made("d")])

    # then the names say where each belongs, and the sequence goes through
    assert [(step.name, step.next) for step in outer.plan()] == [
        ("m/c", "m/innermost/a"),
        ("m/innermost/a", "m/innermost/b"),
        ("m/innermost/b", "d"),
        ("d", None),
    ]
    assert outer.agent_of("m/innermost/b").name == "b"


def test_the_gate_behind_a_nested_pipeline_sends_the_run_back_to_its_first_step() -> None:
    # given gates behind a nested pipeline, behind one of its own stages, and behind the pipeline around both
    own, behind, around = Gate(passes), Gate(passes), Gate(passes)
    inner = Pipeline("inner", [Stage(made("a"), gate=own), made("b")])
    middle = Pipeline("middle", [made("c"), Stage(inner, gate=behind), made("d")])
    outer = Pipeline("outer", [Stage(middle, gate=around), made("e")])

    # then each begins again where what it judges begins
    assert {step.name: (step.start, step.gated) for step in outer.plan()} == {
        "middle/c": (None, False),
        "middle/inner/a": (None, True),
        "middle/inner/b": ("middle/inner/a", True),
        "middle/d": ("middle/c", True),
        "e": (None, False),
    }
    assert [outer.gate_of(name) for name in ("middle/inner/a", "middle/inner/b", "middle/d")] == [own, behind, around]


def test_a_gate_behind_a_nested_pipeline_of_one_step_sends_back_that_step() -> None:
    inner = Pipeline("inner", [made("a")])

    (step,) = Pipeline("outer", [Stage(inner, gate=Gate(passes))]).plan()

    assert (step.name, step.start) == ("inner/a", "inner/a")


# What is refused


def refusal(build: Callable[[], object], error: type[Exception] = InvalidFlow) -> str:
    """Return why a definition is refused; the message must be one line that names this file."""
    with pytest.raises(error) as refused:
        build()
    message = str(refused.value)
    assert f"{__file__}:" in message
    assert len(message.splitlines()) == 1
    return message


def test_an_agent_nobody_has_registered_is_an_error_that_names_the_file_and_those_there_are() -> None:
    made("shop.ingest")

    message = refusal(lambda: Pipeline("shop", ["shop.ingets"]), UnknownAgent)

    assert "there is no agent 'shop.ingets'" in message
    assert "known: shop.ingest" in message


def test_a_gate_may_fall_back_to_registered_agents_alone() -> None:
    ingest = made("shop.ingest")
    gate = Gate(passes, on_fail="fallback", fallback="shop.rules")

    message = refusal(lambda: Pipeline("shop", [Stage(ingest, gate=gate)]), UnknownAgent)

    assert "there is no agent 'shop.rules'" in message


def test_a_gate_knows_the_agent_it_falls_back_to_by_name() -> None:
    rules = made("shop.rules")

    assert Gate(passes, fallback="shop.rules").fallback_agent is rules
    assert Gate(passes, fallback=rules).fallback_agent is rules
    assert Gate(passes).fallback_agent is None


def test_two_stages_of_one_name_are_refused() -> None:
    first, second = made("a.classify"), made("b.classify")

    assert "two stages are named 'classify'" in refusal(lambda: Pipeline("shop", [first, second]))
    assert Pipeline("shop", [first, Stage(second, name="again")]).plan()[1].name == "again"


def test_the_same_agent_twice_needs_two_names() -> None:
    one = made("a.classify")

    assert "two stages are named 'classify'" in refusal(lambda: Pipeline("shop", [one, one]))


def test_a_pipeline_without_stages_is_refused() -> None:
    assert "at least one stage" in refusal(lambda: Pipeline("shop", []))


def test_a_pipeline_of_too_many_steps_is_refused() -> None:
    one = made("a")
    stages = [Stage(one, name=f"s{number}") for number in range(MAX_STAGES + 1)]

    assert "a pipeline has at most 1000" in refusal(lambda: Pipeline("shop", stages))


def test_a_function_that_is_no_agent_is_refused_with_the_remedy() -> None:
    def handle(text: Text) -> Text:
        return text

    assert "put @agent(...) on the function" in refusal(
        lambda: Pipeline("shop", [handle])  # type: ignore[list-item]  # what is wrong with it
    )


@pytest.mark.parametrize("name", ["a/b", "/"])
def test_a_stages_name_has_no_slash(name: str) -> None:
    one = made("a")
    inner = Pipeline("inner", [one])

    for stage in (Stage(one, name=name), Stage(inner, name=name)):
        assert "a stage's name has none of /" in refusal(partial(Pipeline, "shop", [stage]))


@pytest.mark.parametrize("name", ["", "Shop", "my shop", "shop/a", "9"])
def test_a_pipelines_name_is_one_that_fits(name: str) -> None:
    one = made("a")

    assert "a name is lower-case letters" in refusal(lambda: Pipeline(name, [one]))
    assert flows() == {}


def test_a_second_gate_behind_the_same_step_is_refused() -> None:
    inner = Pipeline("inner", [Stage(made("a"), gate=Gate(passes))])

    assert "has a gate already" in refusal(lambda: Pipeline("shop", [Stage(inner, gate=Gate(passes))]))


def test_two_flows_of_one_name_are_an_error_that_names_both_files(tmp_path: Path) -> None:
    # given a flow defined in another file
    one = made("a")
    other = tmp_path / "other.py"
    other.write_text("from orchestrator import Pipeline\nPipeline('shop', ['a'])\n")
    for _ in range(2):  # the second time is the same file imported again
        spec = importlib.util.spec_from_file_location("other", other)
        assert spec is not None
        assert spec.loader is not None
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    assert list(flows()) == ["shop"]

    # when one of its name is defined here
    message = refusal(lambda: Pipeline("shop", [one]), DuplicateName)

    # then both places are named
    assert f"{other}:2" in message


# Stages that fit together


class Given(BaseModel):
    """What comes out of the first."""

    text: str
    label: str = Field(default="", serialization_alias="kind")

    @computed_field  # type: ignore[prop-decorator]  # pydantic's own way to say it
    @property
    def length(self) -> int:
        """Of the text."""
        return len(self.text)


class NeedsText(BaseModel):
    """Fits."""

    text: str
    more: int = 0


class NeedsLength(BaseModel):
    """Fits a computed field."""

    length: int


class NeedsKind(BaseModel):
    """Fits the name that is written."""

    kind: str


class NeedsBody(BaseModel):
    """Fits by one of its other names."""

    body: str = Field(  # type: ignore[pydantic-alias]  # nobody calls it with its aliases
        validation_alias=AliasChoices("content", AliasPath("text", 0))
    )


class NeedsAlias(BaseModel):
    """Fits by its other name."""

    body: str = Field(alias="text")


class TakesAnything(BaseModel):
    """Says what it needs, yet is to be given anything."""

    model_config = ConfigDict(extra="allow")
    score: float


class Root(RootModel[dict[str, int]]):
    """Is what is in it."""


class Turns(BaseModel):
    """Makes what it needs of what it is given."""

    score: float

    @model_validator(mode="before")
    @classmethod
    def _turn(cls, value: object) -> object:
        return {"score": len(str(value))}


class NeedsScore(BaseModel):
    """Does not fit."""

    text: str
    score: float
    author: str


class Hides(BaseModel):
    """Has the score, yet does not write it."""

    text: str = ""
    author: str = ""
    score: float = Field(default=1.0, exclude=True)


class Writes(BaseModel):
    """Has a way of its own to write itself."""

    @model_serializer
    def _write(self) -> dict[str, object]:
        return {"text": "", "author": "", "score": 1.0}


class Overflows(BaseModel):
    """May give anything."""

    model_config = ConfigDict(extra="allow")


def chained(takes: object, gives: object = Given) -> Pipeline:
    def give(number: int) -> object:
        return number

    def take(value: object) -> int:
        return len(str(value))

    give.__annotations__["return"] = gives
    take.__annotations__["value"] = takes
    return Pipeline("shop", [agent("a.give")(give), agent("a.take")(take)])


@pytest.mark.parametrize(
    "takes",
    [
        *(NeedsText, NeedsLength, NeedsKind, NeedsBody, NeedsAlias),
        *(TakesAnything, Root, Turns, dict[str, int], NeedsScore | str),
    ],
)
def test_stages_that_may_fit_are_put_together(takes: object) -> None:
    assert len(chained(takes).plan()) == 2


@pytest.mark.parametrize("gives", [NeedsScore, Root, Writes, Overflows, dict[str, int], NeedsScore | None])
def test_an_output_that_may_have_what_is_needed_is_let_through(gives: object) -> None:
    assert len(chained(NeedsScore, gives).plan()) == 2


def test_a_stage_that_needs_what_the_one_before_does_not_give_is_refused() -> None:
    message = refusal(lambda: chained(NeedsScore))

    assert "'take' needs score, author, which 'give' does not give (Given → NeedsScore)" in message


@pytest.mark.parametrize(("takes", "gives"), [(str, Given), (int, Given), (NeedsText, str)])
def test_a_model_and_a_plain_value_do_not_fit(takes: type, gives: type) -> None:
    message = refusal(lambda: chained(takes, gives))

    assert f"'take' cannot take what 'give' gives ({gives.__name__} → {takes.__name__})" in message


def test_a_field_that_is_not_written_is_not_given() -> None:
    assert "'take' needs score, which 'give' does not give" in refusal(lambda: chained(NeedsScore, Hides))


# Gates


async def waits(_: object) -> bool:
    return False


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"on_fail": "explode"}, "on_fail must be one of revise, reject, fallback, human, not 'explode'"),
        ({"on_fail": "pass"}, "on_fail must be one of"),
        ({"then": "revise"}, "then must be one of pass, reject, fallback, human, not 'revise'"),
        ({"default": "pass"}, "default must be one of approve, reject, fallback, not 'pass'"),
        ({"check": "passes"}, "check must be a function"),
        ({"check": waits}, "check must be a plain `def`"),
        ({"max_revisions": -1}, "max_revisions must be 0 or more, not -1"),
        ({"timeout": 0}, "timeout must be"),
        ({"timeout": -5.0}, "timeout must be"),
        ({"timeout": float("nan")}, "timeout must be"),
        ({"timeout": float("inf")}, "timeout must be"),
        ({"on_fail": "fallback"}, "name the agent to fall back to"),
        ({"then": "fallback"}, "name the agent to fall back to"),
        ({"default": "fallback"}, "name the agent to fall back to"),
    ],
)
def test_a_gate_that_makes_no_sense_is_refused(options: dict[str, Any], why: str) -> None:
    assert why in refusal(lambda: Gate(**{"check": passes, **options}), InvalidGate)


def accepts(_: object) -> Decision:
    return Decision.ok()


def revises(output: object) -> Decision:
    return Decision.revise(f"shorter than {output}")


def rejects(_: object) -> Decision:
    return Decision.reject("never")


def falls_back(_: object) -> Decision:
    return Decision.fall_back("unsure")


def asks(_: object) -> Decision:
    return Decision.ask("fine?")


NO = "the gate's check said no"


@pytest.mark.parametrize(
    ("check", "options", "revision", "decision"),
    [
        (passes, {}, 0, Decision("pass")),
        (accepts, {}, 5, Decision("pass")),
        (fails, {}, 0, Decision("reject", NO)),
        (fails, {"on_fail": "human"}, 0, Decision("human", NO)),
        (fails, {"on_fail": "fallback", "fallback": "b"}, 0, Decision("fallback", NO)),
        (fails, {"on_fail": "revise"}, 0, Decision("revise", NO)),
        (fails, {"on_fail": "revise"}, 1, Decision("revise", NO)),
        (fails, {"on_fail": "revise"}, 2, Decision("reject", f"still not accepted after it was revised 2 times: {NO}")),
        (fails, {"on_fail": "revise", "max_revisions": 5}, 4, Decision("revise", NO)),
        (revises, {}, 0, Decision("revise", "shorter than 7")),
        (
            revises,
            {"max_revisions": 0},
            0,
            Decision("reject", "still not accepted after it was revised 0 times: shorter than 7"),
        ),
        (
            revises,
            {"max_revisions": 1, "then": "human"},
            1,
            Decision("human", "still not accepted after it was revised once: shorter than 7"),
        ),
        (
            revises,
            {"then": "pass"},
            2,
            Decision("pass", "still not accepted after it was revised 2 times: shorter than 7"),
        ),
        (
            revises,
            {"then": "fallback", "fallback": "b"},
            3,
            Decision("fallback", "still not accepted after it was revised 3 times: shorter than 7"),
        ),
        (rejects, {"on_fail": "human"}, 0, Decision("reject", "never")),
        (asks, {}, 0, Decision("human", "fine?")),
        (falls_back, {"fallback": "b"}, 0, Decision("fallback", "unsure")),
        (falls_back, {}, 0, Decision("reject", "unsure (and the gate names no fallback)")),
    ],
)
def test_a_gate_decides_by_its_check_and_its_limits(
    check: Callable[[object], Any], options: dict[str, Any], revision: int, decision: Decision
) -> None:
    assert Gate(check, **options).decide(7, sent_back=revision) == decision


@pytest.mark.parametrize("given", [None, "reject", 0, 1.0])
def test_a_check_that_answers_neither_yes_nor_no_does_not_decide(given: object) -> None:
    with pytest.raises(TypeError, match="must return True, False or a Decision"):
        Gate(lambda _: cast("bool", given)).decide(7, sent_back=0)


def test_a_decision_has_one_of_the_known_actions() -> None:
    with pytest.raises(ValueError, match="not 'explode'"):
        Decision(cast("Any", "explode"), "now")
