"""What the command line says of runs: in one line, without what would move a terminal's cursor."""

from __future__ import annotations

import io
import json
import re
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, cast, get_args

import pytest
import typer
from rich.console import Console
from rich.text import Text

from orchestrator.cli import breakers, demo, entry, output, runs, session
from orchestrator.cli.board import Announcer
from orchestrator.cli.demo import agents_prefix, counted
from orchestrator.cli.failures import explain
from orchestrator.cli.folding import line
from orchestrator.cli.output import clock_time
from orchestrator.cli.plain import plain
from orchestrator.cli.progress import progress_by_specialist, progress_by_stage
from orchestrator.cli.results import result_lines
from orchestrator.cli.steps import rows
from orchestrator.cli.supervisor import Change
from orchestrator.cli.watching import View, telling_how_to_decide
from orchestrator.cli.wording import current_step, details, how_to_go_on, outcome, remark, spent, standing, took
from orchestrator.errors import InvalidInput, OrchestratorError, RunFailed
from orchestrator.messages import Decided, Event, FailureKind, RunState, RunStatus, StepState, StepStatus, Waiting
from orchestrator.state.guards import BreakerState
from tests.docs.tables import table

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.client import Run

NASTY: Final = "first\nsecond\x1b[31m"
TAME: Final = "first second·[31m"
LONG_AGO: Final = 1_753_950_000_000  # ms; another day, whenever the tests run


def run_state(status: str, **more: object) -> RunState:
    return RunState.model_validate(
        {"id": "01abc", "flow": "f", "status": status, "tenant": "t", "priority": "normal", "tags": {}}
        | {"created_ms": 1_000, "deadline_ms": 9_000, "retention_ms": 1, **more}
    )


def step(name: str = "check", status: str = "waiting", **more: object) -> StepState:
    return StepState.model_validate({"name": name, "agent": f"acme.{name}", "status": status, **more})


def event(kind: str, **data: object) -> Event:
    return Event.model_validate({"id": "1-0", "type": kind, "version": 1, "at_ms": 1_000, "data": data})


def asks(question: str) -> Waiting:
    return Waiting(question=question, until_ms=9_000, default="reject")


class WaitingRun:
    """A run as `watch` leaves it behind when the time is over."""

    def __init__(self, state: RunState) -> None:
        self._state = state

    def state(self) -> RunState:
        return self._state


# Text of others


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (NASTY, TAME),
        ("a\u202eb", "a·b"),
        ("\x9b2J", "·2J"),
        ("\ud800", "·"),
        ("a\u2028b\tc", "a b c"),
        ("naïve → ok", "naïve → ok"),
    ],
)
def test_text_becomes_one_line_without_control_characters(text: str, shown: str) -> None:
    assert plain(text) == shown


@pytest.mark.parametrize(
    "say",
    [
        lambda: details(event("StepWaiting", waiting={"question": NASTY})),
        lambda: details(event("StepDecided", decision={"choice": "approve", "by": "ada", "note": NASTY})),
        lambda: line(event("StepFailed", step="check", reason=NASTY)),
        lambda: remark(step(waiting=asks(NASTY))),
        lambda: remark(step(decision=Decided(choice="approve", by="ada", note=NASTY, at_ms=1))),
        lambda: remark(step(status="failed", reason=NASTY)),
        lambda: remark(step(status="delayed", due_ms=1, why=NASTY)),
        lambda: standing(run_state("running", steps=(step(status="delayed", due_ms=1, why=NASTY),))),
        lambda: standing(run_state("failed", reason=NASTY)),
        lambda: details(event("StepDelayed", due_ms=1, why=NASTY)),
        lambda: details(event("StepCompleted", reason=NASTY)),
        lambda: details(event("RunUndoing", status="failed", reason=NASTY, steps=[{"undoes": "pay"}])),
        lambda: details(event("RunRedriven", step="pay", agent="acme.pay", input="input", by=NASTY)),
        lambda: details(event("DeadLetterDropped", by=NASTY)),
        lambda: explain(RunFailed("01abc", NASTY)),
        lambda: "\n".join(demo.closing_lines(nasty_document(), "http://127.0.0.1:5555", "celeriac up")[5:6]),
    ],
)
def test_what_an_agent_says_cannot_move_the_cursor(say: Callable[[], str]) -> None:
    # when
    said = say()

    # then
    assert TAME in said
    assert "\x1b" not in said
    assert "\n" not in said


def nasty_document() -> dict[str, object]:
    times = dict.fromkeys(("seconds", "per_second", "p50", "p95", "total_seconds"), 1.0)
    return {
        "documents": 1,
        "noun": "document",
        "outcomes": {"failed": 1},
        "report": "r",
        "flower": None,
        "tag": "t",
        "failures": {NASTY: 1},
        "waiting": [],
        **times,
    }


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("everything", [True, False])
def test_a_result_of_thousands_of_entries_is_cut_off_on_a_terminal_alone(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    terminal: bool,  # noqa: FBT001  drawn
    everything: bool,  # noqa: FBT001  likewise
) -> None:
    # given a run with a large result, of which an entry is long, too
    result = {"first": "x" * 2000} | {f"entry.{number}": {"n": number} for number in range(5_000)}
    state = run_state("completed", output="o")
    run = SimpleNamespace(state=lambda: state, descendants=list, value=lambda _: result)
    monkeypatch.setattr(session, "client", lambda: SimpleNamespace(get=lambda _: run))
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")

    # when it is shown
    runs.show(state.id, everything=everything)
    shown = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    text = shown.partition("result:\n")[2]

    # then it is whole, or a screen of it with what gives the rest
    if everything or not terminal:
        assert json.loads(text) == result
        return
    *lines, last = text.splitlines()
    assert len(lines) == 60
    assert lines[1] == f'  "first": "{"x" * 987}…'
    assert last == "… 14,943 more lines, and a line is cut off: celeriac runs show 01abc --all, or --json for programs"


def test_a_small_result_is_shown_whole_on_a_terminal() -> None:
    assert list(result_lines({"a": [1]}, "01abc", whole=False)) == ["{", '  "a": [', "    1", "  ]", "}"]


def test_cells_of_a_table_on_a_pipe_stay_in_their_row(capsys: pytest.CaptureFixture[str]) -> None:
    # when
    output.print_table(["A", "B"], [[NASTY, Text(NASTY)]])

    # then
    assert capsys.readouterr().out.splitlines()[1:] == [f"{TAME}  {TAME}"]


def test_cells_of_a_table_on_a_terminal_are_no_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    # given
    out = Console(file=io.StringIO(), width=120, force_terminal=True)
    monkeypatch.setattr(output, "console", lambda: out)

    # when
    output.print_table(["A"], [[f"[red]{NASTY}"]])

    # then
    assert f"[red]{TAME}" in shown_on(out)


def test_view_and_news_of_children_are_tame() -> None:
    # given
    out = Console(file=io.StringIO(), width=120, force_terminal=True)
    steps = (step(waiting=asks(NASTY)),)

    # when
    out.print(View(run_state("failed", reason=NASTY, flow=NASTY, steps=steps)).render())
    Announcer(out)(Change(name="pool", what="died", detail="exit code 1", lines=("said \x1b[31m",)))

    # then
    shown = shown_on(out)
    assert shown.count(TAME) == 3
    assert "| said ·[31m" in shown


def shown_on(out: Console) -> str:
    """Return what is seen, without rich's own colours; those of an agent would have stayed."""
    return re.sub(r"\x1b\[[0-9;]*m", "", cast("io.StringIO", out.file).getvalue())


# What waits, and what became of it


def test_timeout_at_a_gate_tells_how_to_decide(capsys: pytest.CaptureFixture[str]) -> None:
    # given
    run = cast("Run", WaitingRun(run_state("waiting", steps=(step(waiting=asks("really?")),))))
    over = TimeoutError("run 01abc has not ended after 1 s; it goes on: watch it again")

    # when
    with pytest.raises(TimeoutError, match="after 1 s: it waits for a person"), telling_how_to_decide(run):
        raise over

    # then
    said = capsys.readouterr().err
    assert "check waits until" in said
    assert "celeriac runs approve 01abc --step check" in said
    assert "celeriac runs reject 01abc --step check" in said


def test_timeout_of_a_run_at_work_is_told_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    # given
    run = cast("Run", WaitingRun(run_state("running", steps=(step(status="running"),))))
    over = TimeoutError("run 01abc has not ended after 1 s; it goes on: watch it again")

    # when
    with pytest.raises(TimeoutError, match="watch it again"), telling_how_to_decide(run):
        raise over

    # then
    assert capsys.readouterr().err == ""


def test_run_that_waits_for_nobody_has_nothing_to_decide() -> None:
    assert how_to_go_on(run_state("running", steps=(step(status="running"),))) == []


@pytest.mark.parametrize(
    ("status", "wanted", "said"),
    [
        ("cancelled", "cancelled", "01abc cancelled"),
        ("failed", "rejected", "01abc rejected; it has ended as failed"),
        ("running", "approved", "01abc approved; it goes on"),
        ("completed", "approved", "01abc approved; it has completed"),
        ("undoing", "cancelled", "01abc cancelled; it is being undone"),
    ],
)
def test_outcome_of_a_decision_is_a_sentence(status: str, wanted: str, said: str) -> None:
    assert outcome(run_state(status), wanted) == said


@pytest.mark.parametrize("status", get_args(RunStatus))
def test_every_status_of_a_run_has_its_words(status: str) -> None:
    assert outcome(run_state(status), "nothing").startswith("01abc nothing; it ")


@pytest.mark.parametrize("status", [*get_args(RunStatus), *get_args(StepStatus), "open", "half-open", "closed"])
def test_every_status_has_its_colour(status: str) -> None:
    assert status in output.COLOURS


# What was delayed, degraded, undone, used


def test_delayed_step_tells_until_when_and_why_and_takes_no_time() -> None:
    # given
    delayed = step(status="delayed", due_ms=LONG_AGO, why="attempt 1 of 3: no", started_ms=LONG_AGO, attempt=1)
    state = run_state("running", steps=(step("first", "completed"), delayed))

    # then
    assert remark(delayed) == f"again at {clock_time(LONG_AGO)}: attempt 1 of 3: no"
    assert standing(state) == remark(delayed)
    assert current_step(state) == "check"
    assert took(delayed) == ""


@pytest.mark.parametrize(
    ("facts", "by"),
    [
        ({"reason": "a fixed output: ConnectionError: no"}, "(a fixed output)"),
        ({"reason": "the last good output, 3 s old: ConnectionError: no"}, "(the last good output)"),
        ({"reason": "the breaker is open", "instead_of": "acme.dear"}, "acme.check"),
    ],
)
def test_a_fallback_that_is_no_agent_is_told_in_the_place_of_the_one_that_failed(
    facts: dict[str, str], by: str
) -> None:
    (row,) = rows(run_state("completed", steps=[step(status="completed", degraded=True, **facts)]))
    assert (row.agent, row.remark) == (by, f"by the fallback; {facts['reason']}")


def test_result_that_a_fallback_gave_is_degraded_and_one_without_budget_partial() -> None:
    # given
    fallen = step(status="completed", degraded=True, reason="the breaker is open")

    # then
    assert remark(fallen) == "by the fallback; the breaker is open"
    assert standing(run_state("completed", steps=(fallen,))) == "degraded"
    assert standing(run_state("completed", partial=True)) == "partial"
    assert details(event("StepCompleted", reason="no budget", partial=True)) == "partial; no budget"
    assert details(event("RunCompleted", partial=True)) == "partial"


def test_run_that_is_being_undone_tells_how_it_ends() -> None:
    # given
    steps = (step("pay", "completed", undone=True), step("end", "failed"), step("pay~undo", "ready", undoes="pay"))
    state = run_state("undoing", steps=steps, ending={"status": "failed", "reason": "end: no"})

    # then
    assert standing(state) == "ends as failed; end: no"
    assert [remark(one) for one in steps] == ["undone", "", "undoes pay"]
    assert current_step(state) == "pay~undo"


@pytest.mark.parametrize(
    ("kind", "data", "said"),
    [
        ("StepLost", {"attempt": 1, "worker": "w"}, "attempt 1 on w stopped answering"),
        (
            "StepLost",
            {"attempt": 2, "worker": "w", "due_ms": LONG_AGO, "why": "lost 2 times"},
            f"attempt 2 on w stopped answering; delayed again at {clock_time(LONG_AGO)}: lost 2 times",
        ),
        (
            "RunUndoing",
            {"status": "cancelled", "steps": [{"undoes": "pay"}, {"undoes": "book"}]},
            "pay, book: cancelled",
        ),
        (
            "RunRedriven",
            {"agent": "acme.pay", "input": "book", "by": "ada"},
            "by acme.pay with book, asked for by ada",
        ),
        ("DeadLetterDropped", {}, "by nobody"),
    ],
)
def test_events_of_trouble_are_told_in_words(kind: str, data: dict[str, object], said: str) -> None:
    assert details(event(kind, **data)) == said


@pytest.mark.parametrize(
    ("tokens", "cost", "said"),
    [(0, 0.0, ""), (1200, 0.0, "1,200 tokens"), (0, 0.03, "cost 0.03"), (1, 12.0, "1 tokens, cost 12")],
)
def test_what_was_used_is_told_without_zeros(tokens: int, cost: float, said: str) -> None:
    assert spent(tokens, cost) == said


def test_the_table_of_dead_letters_has_every_kind() -> None:
    kinds = [row[0].strip("`") for row in table("dead-letters.md", "Kind")]
    assert kinds == [*get_args(FailureKind), "unreadable"]


def breaker(**facts: object) -> BreakerState:
    known: dict[str, Any] = {"name": "p", "state": "open", "forced": False, "calls": 9, "failures": 5, "probes": 0}
    return BreakerState(**known | {"since": 3.0, "retry_in": 0.0} | facts)


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"retry_in": 12.0}, "lets a call through in 12.0 s"),
        ({"forced": True}, "by hand, until `celeriac breakers auto p`"),
        ({"state": "closed"}, ""),
    ],
)
def test_breaker_tells_when_it_lets_a_call_through_or_who_holds_it(facts: dict[str, object], said: str) -> None:
    assert breakers.remark(breaker(**facts)) == said


# Errors


class Late(OrchestratorError):
    """An error whose text is complete, told after a run was stored."""

    def __str__(self) -> str:
        return f"run {self.args[0]} is stored but was not published: {self.args[1]}"


def test_error_after_a_run_was_stored_is_one_line_and_ends_with_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # given
    def fail(**_: object) -> None:
        raise Late("01abc", NASTY)

    monkeypatch.setattr(typer.main, "get_command", lambda _: SimpleNamespace(main=fail))
    monkeypatch.setattr(entry, "wants_traceback", lambda: False)

    # when
    with pytest.raises(SystemExit) as ended:
        entry.main(["submit"])

    # then
    assert ended.value.code == 1
    assert capsys.readouterr().err == f"error: run 01abc is stored but was not published: {TAME}\n"


def test_error_with_newlines_is_one_line() -> None:
    assert explain(InvalidInput(NASTY)) == TAME


# The demo


def test_bars_count_a_failed_run_for_the_stages_it_completed_alone() -> None:
    # given
    stages = ["a", "b", "c"]
    states = [
        run_state("completed", steps=tuple(step(name, "completed") for name in stages)),
        run_state("failed", steps=(step("a", "completed"), step("b", "failed"), step("c", "pending"))),
        run_state("cancelled", steps=(step("a", "cancelled"), step("b", "pending"), step("c", "pending"))),
        run_state("running", steps=(step("a", "completed"), step("b", "running"), step("c", "pending"))),
    ]

    # then: completed, and ended there
    assert progress_by_stage(states, stages) == {"a": (3, 1), "b": (1, 1), "c": (1, 0)}


def test_assignments_are_counted_by_specialist() -> None:
    # given
    ended = {"ok": "completed", "degraded": "completed", "failed": "failed", "late": "cancelled", None: "running"}
    members = tuple(
        step(f"{name}#{number}", status).model_copy(update={"specialist": name, "outcome": outcome})
        for name in ("ruff", "bandit")
        for number, (outcome, status) in enumerate(ended.items())
    )

    # when
    found = progress_by_specialist([run_state("running", steps=(step("plan", "completed"), *members))] * 2)

    # then: what is done, what failed or came late, all
    assert found == {"bandit": (4, 4, 10), "ruff": (4, 4, 10)}


def test_wakes_are_counted_by_source() -> None:
    # given a source that was woken four times, and a step of one that is a flow, which is no wake
    wakes = [
        step(f"fill#{number}", status).model_copy(update={"source": "fill", "board": "board"})
        for number, status in enumerate(("completed", "failed", "cancelled", "running"))
    ]
    inner = step("fill#1/b", "completed").model_copy(update={"board": "board"})

    # then
    assert progress_by_specialist([run_state("running", steps=(*wakes, inner))]) == {"fill": (1, 2, 4)}


def test_next_command_names_the_flows_module_unless_the_settings_do() -> None:
    assert agents_prefix((), ("workers.moderation",)) == "CELERIAC_AGENTS=workers.moderation "
    assert agents_prefix(("acme",), ("workers.moderation",)) == "CELERIAC_AGENTS=acme,workers.moderation "
    assert agents_prefix(("workers.moderation",), ("workers.moderation",)) == ""


def test_next_command_promises_to_go_on_only_where_something_waits() -> None:
    # given
    document = nasty_document()
    waiting = [{"run": "01abc", "step": "check", "question": NASTY}]

    # when
    nothing = demo.closing_lines(document, "http://f", "CELERIAC_AGENTS=workers.x celeriac up")
    something = demo.closing_lines({**document, "waiting": waiting}, "http://f", "celeriac up")

    # then
    assert "  CELERIAC_AGENTS=workers.x celeriac up " in nothing[-1]
    assert "waits" not in nothing[-1]
    assert "goes on with what waits" in something[-1]
    assert f"  01abc  {TAME}" in something


def test_one_document_is_singular() -> None:
    assert counted(1, "document") == "1 document"
    assert counted(0, "review") == "0 reviews"
