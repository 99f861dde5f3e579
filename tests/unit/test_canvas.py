"""What is left of a run, as a Celery chain."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

import pytest
from celery import Celery

from orchestrator.messages import RunState, StepState
from orchestrator.patterns.canvas import WINDOW, compile_canvas, publish

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from orchestrator.messages import Priority, RunStatus, StepStatus

RUN = "01m7zzzzzz" + "0" * 12 + "03"


@pytest.fixture
def app() -> Iterator[Celery]:
    """An app whose broker is in memory."""
    app = Celery("test", broker="memory://", set_as_current=False)
    yield app
    app.close()


def step(number: int, status: StepStatus, **facts: Any) -> StepState:  # noqa: ANN401  fields of a step
    return StepState(name=f"s{number}", agent=f"team.a{number}", status=status, **facts)


def sequence(*statuses: StepStatus) -> tuple[StepState, ...]:
    """Return steps of these statuses, each followed by the next."""
    last = len(statuses) - 1
    return tuple(
        step(number, status, next=f"s{number + 1}" if number < last else None, dispatches=1)
        for number, status in enumerate(statuses)
    )


def run(steps: Sequence[StepState], status: RunStatus = "running", priority: Priority = "normal") -> RunState:
    return RunState(
        id=RUN,
        flow="flow",
        status=status,
        tenant="default",
        priority=priority,
        tags={},
        created_ms=1,
        deadline_ms=2,
        retention_ms=3,
        steps=tuple(steps),
    )


def links(app: Celery, state: RunState) -> list[dict[str, Any]]:
    """Return the chain's links; a chain of one is its link."""
    (canvas,) = compile_canvas(app, state)
    return [dict(link) for link in canvas.kwargs["tasks"]] if canvas.task == "celery.chain" else [dict(canvas)]


@pytest.mark.parametrize(
    ("statuses", "left"),
    [
        (["ready"], ["s0"]),
        (["ready", "pending", "pending"], ["s0", "s1", "s2"]),
        (["completed", "ready", "pending"], ["s1", "s2"]),
        (["completed", "completed", "ready"], ["s2"]),
        (["ready", "completed", "pending"], ["s0", "s1", "s2"]),
    ],
)
def test_the_chain_is_the_step_that_is_ready_and_what_follows_it(
    app: Celery, statuses: list[StepStatus], left: list[str]
) -> None:
    assert [link["kwargs"]["step"] for link in links(app, run(sequence(*statuses)))] == left


@pytest.mark.parametrize(
    ("statuses", "status"),
    [
        (["running", "pending"], "running"),
        (["waiting", "pending"], "waiting"),
        (["delayed", "pending"], "running"),
        (["completed", "failed", "delayed"], "undoing"),
        (["completed", "completed"], "completed"),
        (["failed", "cancelled"], "failed"),
        (["cancelled", "cancelled"], "cancelled"),
        (["ready"], "cancelled"),
        ([], "failed"),
    ],
)
def test_where_no_step_is_ready_there_is_nothing_to_publish(
    app: Celery, statuses: list[StepStatus], status: RunStatus
) -> None:
    state = run(sequence(*statuses), status)

    assert compile_canvas(app, state) == []
    assert publish(app, state) is False


def test_of_a_run_that_is_being_undone_the_chain_is_what_undoes_it(app: Celery) -> None:
    # given a run whose second step failed, and what undoes two
    done = sequence("completed", "failed", "cancelled")
    undo = [
        StepState(name="s1~undo", agent="team.u1", status="ready", next="s0~undo", undoes="s1", dispatches=1),
        StepState(name="s0~undo", agent="team.u0", status="pending", undoes="s0"),
    ]

    # when what is left is compiled
    found = links(app, run([*done, *undo], "undoing"))

    # then
    assert [(link["task"], link["kwargs"]["step"]) for link in found] == [
        ("team.u1", "s1~undo"),
        ("team.u0", "s0~undo"),
    ]


def test_a_link_holds_the_run_and_the_step_and_nothing_else(app: Celery) -> None:
    # given a run whose steps have all that a step can have
    steps = sequence("ready", "pending")
    full = steps[0].model_copy(update={"feedback": ("x" * 1000,), "input": "input", "reason": "why", "attempt": 3})

    # when what is left is compiled
    first, second = links(app, run((full, steps[1])))

    # then each link is an immutable signature of its agent, on its agent's queue, named for people
    for link, number in ((first, 0), (second, 1)):
        assert link["task"] == f"team.a{number}"
        assert link["args"] == ()
        assert link["kwargs"] == {"run": RUN, "step": f"s{number}"}
        assert link["immutable"] is True
        assert link["options"]["queue"] == f"team.a{number}"
        assert link["options"]["shadow"] == f"flow/s{number}"


def test_the_first_message_of_a_run_that_nobody_has_begun_has_the_runs_id(app: Celery) -> None:
    # given a run as it was submitted, the same published again, and one that has begun
    steps = sequence("ready", "pending")
    again = (steps[0].model_copy(update={"dispatches": 2}), steps[1])

    # then the root that every later message names is a message that exists
    assert links(app, run(steps, "queued"))[0]["options"]["task_id"] == RUN
    assert links(app, run(again, "queued"))[0]["options"]["task_id"] == RUN
    assert links(app, run(steps, "running"))[0]["options"].get("task_id") != RUN
    assert links(app, run(steps, "queued"))[1]["options"].get("task_id") != RUN


def test_a_chain_has_at_most_ten_links(app: Celery) -> None:
    # given runs of about as many steps, and of many more
    pending: list[StepStatus] = ["pending"]
    for length in (WINDOW - 1, WINDOW, WINDOW + 1, 200):
        state = run(sequence("ready", *pending * (length - 1)))

        # then a window of them is compiled
        assert len(links(app, state)) == min(length, WINDOW)


@pytest.mark.parametrize(("priority", "number"), [("high", 0), ("normal", 3), ("low", 6)])
def test_priorities_are_redis_numbers_on_redis(priority: Priority, number: int) -> None:
    with Celery("test", broker="redis://localhost:1/0", set_as_current=False) as app:
        state = run(sequence("ready", "pending"), priority=priority)
        assert {link["options"]["priority"] for link in links(app, state)} == {number}


@pytest.mark.parametrize(("priority", "number"), [("high", 9), ("normal", 5), ("low", 1)])
def test_priorities_are_the_other_way_round_on_rabbitmq(priority: Priority, number: int) -> None:
    with Celery("test", broker="amqp://localhost:1//", set_as_current=False) as app:
        state = run(sequence("ready", "pending"), priority=priority)
        assert {link["options"]["priority"] for link in links(app, state)} == {number}


def test_a_published_chain_is_one_message_below_eight_kilobytes(app: Celery) -> None:
    # given a run of a full window, with long names
    state = run(
        [
            step(number, "pending", next=f"s{number + 1}" if number < WINDOW - 1 else None).model_copy(
                update={"agent": f"a-team-with-a-long-name.and-its-agent-{number}"}
            )
            for number in range(WINDOW)
        ]
    )
    first = state.steps[0].model_copy(update={"status": "ready", "dispatches": 1})

    # when it is published
    assert publish(app, state.model_copy(update={"steps": (first, *state.steps[1:])})) is True

    # then one message is under way to the first agent, with the run as its root
    with app.connection_for_read() as connection:
        channel = connection.default_channel
        message = channel.basic_get(first.agent)
        assert message is not None
        assert channel.basic_get(first.agent) is None
    assert message.headers["root_id"] == RUN
    assert message.headers["task"] == first.agent
    size = len(message.body) + len(json.dumps(cast("dict[str, object]", message.headers)))
    assert size < 8 * 1024


def fan_out(count: int, status: StepStatus = "ready") -> RunState:
    """Return a run whose boss has given work to so many, and whose flow goes on behind them."""
    steps = [
        StepState(name="plan", agent="team.plan", status="completed", delegates=True, next="report"),
        StepState(name="report", agent="team.report", status="pending", joins=True, next="publish"),
        StepState(name="publish", agent="team.publish", status="pending"),
        *(
            StepState(name=f"work#{number}", agent="team.work", status=status, fan="report", member=f"work#{number}")
            for number in range(1, count + 1)
        ),
    ]
    return run(steps)


def test_the_members_that_are_ready_are_a_chord_and_what_joins_them_is_its_body(app: Celery) -> None:
    (canvas,) = compile_canvas(app, fan_out(3))
    assert canvas.task == "celery.chord"
    assert [dict(member)["kwargs"] for member in canvas.kwargs["header"]] == [
        {"run": RUN, "step": f"work#{number}"} for number in (1, 2, 3)
    ]
    body = dict(canvas.kwargs["body"])
    assert (body["task"], body["kwargs"], body["immutable"]) == ("team.report", {"run": RUN, "step": "report"}, True)


def test_the_name_that_flower_and_its_metrics_show_has_no_member_s_number(app: Celery) -> None:
    (canvas,) = compile_canvas(app, fan_out(2))
    assert {dict(member)["options"]["shadow"] for member in canvas.kwargs["header"]} == {"flow/work"}


def test_what_joins_a_fan_out_goes_on_as_a_chain_and_what_gives_work_out_stands_alone(app: Celery) -> None:
    # given a boss that is ready, and what joins its work
    plan, report, publish_, *_ = fan_out(0).steps
    boss = plan.model_copy(update={"status": "ready"})
    joins = report.model_copy(update={"status": "ready"})
    # then nobody knows yet what follows the boss
    assert [link["kwargs"]["step"] for link in links(app, run([boss, report, publish_]))] == ["plan"]
    assert [link["kwargs"]["step"] for link in links(app, run([plan, joins, publish_]))] == ["report", "publish"]


def test_members_of_several_fan_outs_are_several_chords(app: Celery) -> None:
    state = fan_out(2)
    inner = [
        StepState(name="team#3/report", agent="team.report", joins=True, fan="report", member="team#3/plan"),
        StepState(name="team#3/work#1", agent="team.work", status="ready", fan="team#3/report", member="team#3/work#1"),
    ]
    found = compile_canvas(app, state.model_copy(update={"steps": (*state.steps, *inner)}))
    assert [(len(one.kwargs["header"]), one.kwargs["body"]["kwargs"]["step"]) for one in found] == [
        (2, "report"),
        (1, "team#3/report"),
    ]


def test_a_member_s_message_holds_its_chord_s_body_and_stays_small(app: Celery) -> None:
    # when a fan-out is published
    assert publish(app, fan_out(50)) is True

    # then each member has a message of its own, with the group and the body that Celery's chords have
    with app.connection_for_read() as connection:
        messages = [connection.default_channel.basic_get("team.work") for _ in range(51)]
    assert messages.pop() is None
    for message in messages:
        assert message.headers["group"] == f"{RUN}:report"
        embed = json.loads(message.body)[2]
        assert embed["chord"]["kwargs"] == {"run": RUN, "step": "report"}
        assert len(message.body) + len(json.dumps(message.headers)) < 2048
