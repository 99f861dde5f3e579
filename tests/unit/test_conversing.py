"""What a member is told of a message, where its conversation is itself told by a letter or a wake."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel

from orchestrator import Mail, Wake
from orchestrator.messages import Letter, StepState, Woken
from orchestrator.runtime.boarding import woken
from orchestrator.runtime.conversing import told
from orchestrator.state.runs import Begun


class Guests(BaseModel):
    """A task."""

    number: int


def given(name: str = "a#1", **step: Any) -> bytes:  # noqa: ANN401  fields of a step
    """Return what a step takes whose input is a task."""
    begun = Begun(
        run_id="r",
        step=StepState(name=name, agent="a", **step),
        fence="1-n",
        value=b'{"number":10}',
        draft=None,
        flow="f",
        tenant="t",
        tags={},
        priority="normal",
        budgets=(),
        remaining=1.0,
        useful=1.0,
        ttl_ms=1000,
    )
    return woken(told(begun)).value


OUTER = Letter(id=7, kind="tell", sender="cook", to=("team",), type="Guests")


def test_a_message_is_around_its_body() -> None:
    mail = Mail[Guests].model_validate_json(given(mail=OUTER))
    assert (mail.body, mail.kind, mail.id, mail.sender, mail.to) == (Guests(number=10), "tell", 7, "cook", ("team",))


def test_the_task_of_a_conversation_that_is_a_member_is_what_that_member_was_told() -> None:
    letter = Letter(id=1, kind="open", to=("x",), type=Mail[Guests].__name__, within=OUTER)
    mail = Mail[Mail[Guests]].model_validate_json(given(mail=letter))
    assert (mail.kind, mail.body.kind, mail.body.sender) == ("open", "tell", "cook")
    assert mail.body.body == Guests(number=10)


def test_the_task_of_a_conversation_that_is_a_source_is_its_wake() -> None:
    wake = Woken(source="team", number=2, changed=("week",))
    letter = Letter(id=1, kind="open", to=("x",), type=Wake[Guests].__name__, wake=wake)
    mail = Mail[Wake[Guests]].model_validate_json(given(mail=letter))
    assert (mail.body.number, mail.body.changed, mail.body.task) == (2, ("week",), Guests(number=10))


def test_the_task_of_a_blackboard_that_is_a_member_is_what_that_member_was_told() -> None:
    value = given("team#1/fill#1", board="team#1/board", source="fill", mail=OUTER, changed=("task",))
    wake = Wake[Mail[Guests]].model_validate_json(value)
    assert (wake.source, wake.number, wake.task.sender, wake.task.body.number) == ("fill", 1, "cook", 10)
    assert list(json.loads(value)) == ["task", "source", "number", "changed"]
