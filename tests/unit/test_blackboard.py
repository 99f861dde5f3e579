"""Blackboards as they are declared, the conditions on them, and their sources called without a server."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import BaseModel

from orchestrator import (
    Arbiter,
    Assignment,
    Blackboard,
    Context,
    Count,
    Entry,
    Hierarchy,
    HighestConfidence,
    Join,
    LastWriter,
    Limits,
    Merge,
    Pipeline,
    Plan,
    Results,
    Source,
    Stage,
    Wake,
    WriteConflict,
    agent,
)
from orchestrator.board.conditions import said
from orchestrator.errors import DefinitionError, InvalidFlow, InvalidInput, InvalidPolicy, UnknownAgent
from orchestrator.patterns.gate import Decision, Gate
from orchestrator.testing import fake_board, fake_context


class Work(BaseModel):
    """The task."""

    size: int = 1


class Part(BaseModel):
    """An entry."""

    text: str = ""
    done: bool = False


@agent("unit-board.fill")
async def fill(ctx: Context, wake: Wake[Work]) -> Part:
    """Write so many parts, and count them."""
    for number in range(wake.task.size):
        await ctx.board.write({f"part.{number}": Part(text=str(number))})
        await ctx.board.add("count")
    return Part()


@agent("unit-board.finish")
def finish(ctx: Context, wake: Wake[Work]) -> Part:
    """Finish what has changed."""
    with ctx.board.lock("count"):
        for name in wake.changed:
            ctx.board.edit(name, lambda part: part.model_copy(update={"done": True}))
    return Part()


@agent("unit-board.plain")
def plain(part: Part) -> Part:
    """Take no wake."""
    return part


GIVEN: dict[str, Any] = {
    "task": Work,
    "entries": {"part.*": Part, "count": int, "tags": list[str], "best": str},
    "sources": [fill, Source(finish, watch="part.*")],
}


def declare(name: str = "unit-board", **differently: Any) -> Blackboard:  # noqa: ANN401
    return Blackboard(name, **{**GIVEN, **differently})


def test_a_blackboard_is_a_flow_with_one_step_of_its_own() -> None:
    found = declare(goal=Entry("count").value >= 3)
    (step,) = found.plan()
    assert (step.name, found.sources, step.rules is not None) == ("board", ("fill", "finish"), True)
    assert found.input.validate_python({"size": 2}) == Work(size=2)


@agent("unit-board.inside")
def inside(wake: Wake[Wake[Work]]) -> Part:
    """Work on a board that is one's own task."""
    return Part(done=bool(wake.changed))


within = declare("unit-board-within", task=Wake[Work], sources=[inside])


@pytest.mark.parametrize(
    ("differently", "why"),
    [
        ({"entries": {}}, "entries takes the types of its entries by their names"),
        ({"entries": {"task": Part}}, "no entry can be called 'task'"),
        ({"entries": {"dispute.x": Part}}, "so begin those that are put to an arbiter"),
        ({"entries": {"a b": Part}}, "a pattern is an entry's name in which"),
        ({"sources": []}, "sources takes a list"),
        ({"sources": [plain]}, "source 'plain' takes Wake"),
        ({"sources": [fill, fill]}, "two sources are named 'fill'"),
        ({"sources": [within]}, "source 'unit-board-within' begins with a blackboard, which takes no wake"),
        ({"sources": [Source(fill, watch="nothing")]}, "watches 'nothing', which is no entry; entries: part"),
        ({"sources": [Source(fill, watch=())]}, "watches nothing"),
        ({"sources": [Source(fill, when=True)]}, "takes a condition, such as Entry"),  # type: ignore[arg-type]
        ({"sources": [Source(fill, priority=10_000)]}, "priority must be -1000 to 1000"),
        ({"goal": Entry("other").value == 1}, "goal asks for 'other', which is no entry"),
        ({"goal": "done"}, "goal takes a condition"),
        ({"width": 0}, "width must be 1 to 100"),
        ({"otherwise": "retry"}, "otherwise is 'fail' or 'degrade'"),
        ({"limits": 5}, "limits takes Limits"),
        ({"conflicts": {"count": "last"}}, "the rule of 'count' is one of Reject"),
        ({"conflicts": {"*": Arbiter(finish)}}, "has entries of several types to decide about"),
        ({"conflicts": {"other": Arbiter(finish)}}, "has no entry to decide about"),
    ],
)
def test_what_does_not_fit_is_said_with_what_would(differently: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidFlow, match=why):
        declare(**differently)


def test_an_agent_that_nobody_registered_is_named() -> None:
    with pytest.raises(UnknownAgent, match=r"there is no agent 'unit-board\.nobody'"):
        declare(sources=["unit-board.nobody"])


@pytest.mark.parametrize(
    "make",
    [
        lambda: Limits(wakes=0),
        lambda: Limits(time=-1.0),
        lambda: Merge(None),  # type: ignore[arg-type]
        lambda: Entry("task"),
        lambda: Entry("a b"),
        lambda: Entry("a").field(),
        lambda: Entry("a").field("b/c"),
        lambda: Entry("a").value < True,
        lambda: Entry("a").value == [1],
        lambda: Entry("a").value == float("inf"),
        lambda: Count("a") >= 1.5,
    ],
)
def test_a_policy_that_does_not_fit_is_refused_where_it_is_made(make: Any) -> None:  # noqa: ANN401
    with pytest.raises(InvalidPolicy):
        make()


def test_conditions_are_put_together_and_read_like_this() -> None:
    found = (Entry("a") & (Entry("b").field("x", "y") > 2)) | ~Entry("c").after("d") & (Count("e.*") == 0)
    assert said(found.as_rule()) == "((a & b.x.y > 2) | (~c after d & count(e.*) == 0))"
    assert found.names() == ("a", "b", "c", "d", "e.*")
    with pytest.raises(TypeError, match="put comparisons into brackets"):
        Entry("a") & 2  # type: ignore[operator]
    with pytest.raises(TypeError, match="combine them with"):
        bool(Entry("a"))


def test_a_gate_behind_a_blackboard_is_refused_with_what_to_do() -> None:
    gate: Gate = Gate(lambda result: Decision("pass"))  # noqa: ARG005
    with pytest.raises(DefinitionError, match="put an agent with the gate behind it"):
        Pipeline("unit-board-gated", [Stage(declare(), gate=gate)])


@agent("unit-board.plan")
def plan(work: Work) -> Plan:
    """Give it to the board."""
    return Plan([Assignment(to="unit-board-member", input=work)])


@agent("unit-board.sum")
def total(results: Results[Work, Any]) -> Part:
    """Tell how many there were."""
    return Part(text=str(len(results.values)))


def test_a_join_that_asks_for_acceptance_takes_no_blackboard_alone() -> None:
    member = declare("unit-board-member")
    Hierarchy("unit-board-team", boss=plan, workers=[member], synthesize=total)
    with pytest.raises(InvalidFlow, match="is a blackboard, whose result accept cannot judge"):
        Hierarchy("unit-board-team-2", boss=plan, workers=[member], synthesize=total, join=Join(accept=bool))


# Sources, called


def test_sources_are_called_on_a_board_in_memory() -> None:
    board = fake_board(declare())
    asyncio.run(fill(fake_context(board=board), Wake(task=Work(size=2))))
    assert {name: item.value for name, item in board.read().items()} == {
        "count": 2,
        "part.0": Part(text="0"),
        "part.1": Part(text="1"),
    }
    finish(fake_context(board=board), Wake(task=Work(), changed=("part.1",)))
    assert [board.get(name).value.done for name in ("part.0", "part.1")] == [False, True]


def test_a_source_without_a_board_is_told_so() -> None:
    with pytest.raises(InvalidInput, match=r"is no blackboard's: .* a specialist is given what it needs"):
        finish(fake_context(), Wake(task=Work()))


def test_rules_decide_in_memory_as_they_do_in_redis() -> None:
    flow = declare(
        conflicts={
            "count": LastWriter(),
            "best": HighestConfidence(),
            "tags": Merge(lambda there, mine: [*there, *mine]),
            "part.*": Arbiter(finish, name="judge"),
        }
    )
    board = fake_board(flow, {"count": 1, "best": "a", "tags": ["x"], "part.1": Part(text="a")})
    assert board.write({"count": 5}) == 1
    with pytest.raises(WriteConflict, match="best: it is held with no less confidence"):
        board.write({"best": "b"}, confidence=0.0)
    board.write({"best": "b"}, confidence=0.5)
    board.write({"tags": ["y"]})
    board.write({"part.1": Part(text="b")})
    snapshot = board.read()
    assert (snapshot.value("count"), snapshot.value("best"), snapshot.value("tags")) == (5, "b", ["x", "y"])
    (proposal,) = snapshot.value("dispute.part.1")
    assert (proposal.value, proposal.author, snapshot.value("part.1")) == (Part(text="b"), "test", Part(text="a"))


def test_a_write_rests_on_what_was_read_and_on_what_it_names() -> None:
    board = fake_board(declare(), {"count": 1, "best": "a"})
    with pytest.raises(WriteConflict) as caught:
        board.write({"best": "b"})
    assert caught.value.current["best"].value == "a"
    assert caught.value.why == {"best": "conflict"}
    board.get("best")
    with pytest.raises(WriteConflict, match="count: it has changed"):
        board.write({"best": "b"}, unchanged=["count"])
    board.read("*")
    assert board.write({"best": "b"}, unchanged=["count"]) == 1
    assert board.merge("part.7", {"text": "new"}) == Part(text="new")
    assert board.merge("part.7", {"done": True}) == Part(text="new", done=True)
