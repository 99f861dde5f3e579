"""The log read back: every event the scripts write, and none that this version does not know."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import JsonValue, ValidationError

from orchestrator.messages import Event, RunState
from orchestrator.state.fold import UnknownEventError, fold

SCRIPTS = Path(__file__).parents[2] / "orchestrator" / "state" / "scripts"
RUN = "0" * 24
# An event's type is written out where it is emitted: `emit('StepLost', ...)`, `finish(..., 'RunFailed', ...)`.
EMITTED = re.compile(r"'((?:Run|Step|Effect|DeadLetter|Members|FanOut)[A-Z][A-Za-z]+)'")


def event(kind: str, at_ms: int = 1, /, **data: object) -> Event:
    return Event.model_validate({"id": f"{at_ms}-0", "type": kind, "version": 1, "at_ms": at_ms, "data": data})


SUBMITTED = event(
    "RunSubmitted",
    flow="flow",
    tenant="acme",
    priority="high",
    tags={"batch": "7"},
    deadline_ms=1000,
    retention_ms=500,
    steps=[{"name": "first", "agent": "a", "next": "second"}, {"name": "second", "agent": "b", "gated": True}],
)
STARTED = event("StepStarted", 2, step="first", attempt=1, begins=1, fence="1-n", worker="host:1")
COMPLETED = event("StepCompleted", 3, step="first", output="first@1")
WAITING = event(
    "StepWaiting", 4, step="second", output="second@1", waiting={"question": "?", "until_ms": 9, "default": "reject"}
)
CANCELLED = event("RunCancelled", 5, reason="enough", by="me")


def types_in_scripts() -> set[str]:
    sources = [re.sub(r"--[^\n]*", "", path.read_text()) for path in SCRIPTS.glob("*.lua")]
    return {kind for source in sources for kind in EMITTED.findall(source)}


def test_the_scripts_write_these_events() -> None:
    assert sorted(types_in_scripts()) == [
        "DeadLetterDropped",
        "EffectRecorded",
        "FanOutJoined",
        "MembersAdded",
        "MembersOpened",
        "RunCancelled",
        "RunCompleted",
        "RunFailed",
        "RunRedriven",
        "RunSubmitted",
        "RunUndoing",
        "StepAsked",
        "StepCompleted",
        "StepDecided",
        "StepDelayed",
        "StepDelegated",
        "StepFailed",
        "StepFellBack",
        "StepLate",
        "StepLost",
        "StepReady",
        "StepRedispatched",
        "StepRevised",
        "StepSpent",
        "StepStarted",
        "StepWaiting",
    ]


FACTS: dict[str, JsonValue] = {
    "step": "first",
    "attempt": 1,
    "begins": 1,
    "fence": "1-n",
    "worker": "w",
    "output": "o",
    "feedback": "shorter",
    "agent": "c",
    "input": "input",
    "reason": "why",
    "waiting": {"until_ms": 9, "default": "reject"},
    "decision": {"choice": "approve", "by": "me"},
    "dispatches": 2,
    "losses": 1,
    "tokens": 5,
    "due_ms": 9,
    "why": "busy",
    "status": "failed",
    "kind": "failed",
    "deadline_ms": 2000,
    "by": "me",
    "reset": ["first", "second"],
    "revised": ["first"],
    "fan": "second",
    "facts": {
        "size": 1,
        "failed": 0,
        "bad_weight": 0,
        "first": "a#1",
        "last": "a#1",
        "weight": 1000,
        "need": 1000,
        "share": True,
        "accept": False,
        "otherwise": "fail",
        "width": 1,
    },
    "verdict": "met",
    "late": 0,
    "id": 3,
    "said": 1,
}
MEMBER: JsonValue = {"a#1": {"status": "pending", "agent": "a", "fan": "second", "member": "a#1", "input": "a#1<"}}
UNDO: JsonValue = {"name": "first~undo", "agent": "u", "input": "first@1", "undoes": "first"}
DEAD = event("RunFailed", 2, reason="first: no", kind="failed", step="first")


def known(kind: str, version: int = 1) -> Event:
    """Return an event that has all the facts that any event has."""
    steps: dict[str, JsonValue] = {"RunUndoing": [UNDO], "MembersAdded": MEMBER}
    facts = FACTS | ({"steps": steps[kind]} if kind in steps else {})
    return Event(id="2-0", type=kind, version=version, at_ms=2, data=facts)


@pytest.mark.parametrize("kind", sorted(types_in_scripts() - {"RunSubmitted"}))
def test_every_event_that_a_script_writes_can_be_read_back(kind: str) -> None:
    delegated = [SUBMITTED, known("StepDelegated"), known("MembersAdded")]
    befores = {"DeadLetterDropped": [SUBMITTED, DEAD], "MembersOpened": delegated, "FanOutJoined": delegated}
    before = befores.get(kind, [SUBMITTED])

    assert fold(RUN, [*before, known(kind)]) != fold(RUN, before)


@pytest.mark.parametrize(("kind", "version"), [("StepTeleported", 1), ("StepStarted", 2), ("StepStarted", 0)])
def test_an_event_of_an_unknown_type_or_version_is_an_error_that_says_what_to_do(kind: str, version: int) -> None:
    with pytest.raises(UnknownEventError) as unknown:
        fold(RUN, [SUBMITTED, known(kind, version)])
    assert str(unknown.value) == f"event 2-0 is {kind} version {version}: upgrade celeriac to read this run"


def test_a_prefix_of_the_log_gives_the_run_as_it_was_then() -> None:
    # given a run that was begun, went on, waited and was cancelled
    log = [SUBMITTED, STARTED, COMPLETED, WAITING, CANCELLED]

    # when ever more of its log is read
    states = [fold(RUN, log[:length]) for length in range(1, len(log) + 1)]

    # then each is the run at that time
    assert [state.status for state in states] == ["queued", "running", "running", "waiting", "cancelled"]
    assert [tuple(step.status for step in state.steps) for state in states] == [
        ("ready", "pending"),
        ("running", "pending"),
        ("completed", "ready"),
        ("completed", "waiting"),
        ("completed", "cancelled"),
    ]
    assert (states[0].tenant, states[0].tags, states[0].created_ms) == ("acme", {"batch": "7"}, 1)
    assert (states[2].steps[1].input, states[2].steps[1].ready_ms) == ("first@1", 3)
    assert (states[4].reason, states[4].ended_ms, states[4].finished) == ("enough", 5, True)


def test_a_prefix_of_the_log_gives_a_run_that_is_undone_and_redriven_as_it_was_then() -> None:
    # given a run whose second step was delayed and failed, whose first was undone, and which was redriven
    delayed = event("StepDelayed", 5, step="second", attempt=1, due_ms=9, why="503", tokens=7)
    failed = event("StepFailed", 7, step="second", reason="503", tokens=7)
    undoing = event(
        "RunUndoing",
        7,
        status="failed",
        reason="second: 503",
        kind="failed",
        step="second",
        deadline_ms=99,
        steps=[UNDO],
    )
    undone = event("StepCompleted", 8, step="first~undo", output="first~undo@1")
    ended = event("RunFailed", 8, reason="second: 503", kind="failed", step="second")
    redriven = event(
        "RunRedriven",
        9,
        step="first",
        input="input",
        agent="a",
        deadline_ms=200,
        by="me",
        reset=["first", "second"],
        revised=["first"],
    )
    woken = event("StepReady", 6, step="second")
    dropped = event("DeadLetterDropped", 8, by="me")
    log = [SUBMITTED, STARTED, COMPLETED, delayed, woken, failed, undoing, undone, ended, dropped, redriven]

    # when ever more of its log is read
    states = [fold(RUN, log[:length]) for length in range(4, len(log) + 1)]

    # then each is the run at that time
    assert [state.status for state in states] == [*["running"] * 3, *["undoing"] * 2, *["failed"] * 2, "running"]
    assert [tuple(step.status for step in state.steps) for state in states] == [
        ("completed", "delayed"),
        ("completed", "ready"),
        ("completed", "failed"),
        ("completed", "failed", "ready"),
        *[("completed", "failed", "completed")] * 3,
        ("ready", "pending"),
    ]
    assert (states[0].steps[1].due_ms, states[0].steps[1].why, states[1].steps[1].due_ms) == (9, "503", None)
    assert states[3].ending is not None
    assert (states[3].ending.status, states[3].deadline_ms, states[4].steps[0].undone) == ("failed", 99, True)
    assert [state.failure is not None for state in states[5:]] == [True, False, False]
    assert (states[-1].tokens, states[-1].deadline_ms, states[-1].reason, states[-1].ending) == (7, 200, None, None)
    assert [step.revision for step in states[-1].steps] == [1, 0]


def test_a_projection_is_built_from_its_hash() -> None:
    # given a run's hash, with Lua's way to write an empty list
    fields = {
        "flow": "flow",
        "status": "running",
        "tenant": "acme",
        "priority": "high",
        "tags": "{}",
        "created_ms": "1",
        "deadline_ms": "1000",
        "retention_ms": "500",
        "order": '["first","second"]',
        "step:second": '{"agent":"b","status":"pending","gated":true}',
        "step:first": '{"agent":"a","status":"running","feedback":{},"next":"second","attempt":1}',
    }

    # when it is read
    state = RunState.from_hash(RUN, fields)

    # then the steps are in the flow's order
    assert [(step.name, step.status, step.feedback) for step in state.steps] == [
        ("first", "running", ()),
        ("second", "pending", ()),
    ]
    assert state.step("second") is state.steps[1]
    assert state.step("third") is None
    assert RunState.from_hash(RUN, fields | {"order": "{}"}).steps == ()


def test_a_projection_with_a_field_that_nobody_knows_is_refused() -> None:
    state = fold(RUN, [SUBMITTED])

    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        RunState.model_validate(state.model_dump() | {"mood": "good"})


def test_an_event_is_built_from_its_stream_entry() -> None:
    read = Event.from_stream("5-1", {"type": "StepLost", "v": "1", "at": "5", "data": '{"step":"first"}'})

    assert read == Event(id="5-1", type="StepLost", version=1, at_ms=5, data={"step": "first"})
    assert not read.ends_run
    assert CANCELLED.ends_run
