"""The command line when things fail: dead letters, breakers, budgets, and what it says of runs in trouble."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from typing import TYPE_CHECKING, Any, cast

import pytest

from orchestrator import Budget, RunFailed
from orchestrator.errors import InvalidInput
from orchestrator.state import keys
from orchestrator.state.runs import Begun
from tests.command_line import COMMAND, TIMEOUT, Shell
from tests.docs.tables import table
from tests.integration.checks import check_all
from tests.integration.conftest import FAILED
from tests.integration.fleet import FAST, USER_CODE, Deployment
from tests.servers import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from orchestrator import Run

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("cli_resilience")]

SOON = 15.0
AGENTS = ("tests.integration.trouble.flows",)
QUEUES = (
    "orchestrator",
    *(f"trouble.{name}" for name in ("bare", "simple", "retried", "skips", "costly", "frugal", "turn")),
    *(f"trouble.{name}" for name in ("charge", "refund", "begin", "end", "look", "split", "join")),
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    made = Deployment(
        "valkey",
        tmp_path_factory.mktemp("cli"),
        settings=FAST | {"tick": 0.05, "cancel_grace": 0.3},
        own_broker=True,
        agents=AGENTS,
        path=[USER_CODE.parents[1]],
    )
    made.client.settings = made.settings.model_copy(update={"agents": AGENTS})
    made.start_worker(queues=QUEUES, pool="asyncio", concurrency=50).wait_until_ready()
    yield made
    made.close()


@pytest.fixture
def deployment(request: pytest.FixtureRequest, place: Deployment) -> Iterator[Deployment]:
    """A worker on which agents get into trouble; afterwards nothing is left of it, and no dead letter."""
    yield place
    if FAILED in request.node.stash:
        place.redis.flushall()
        place.checked.clear()
        return
    check_all(place)
    for letter in place.client.dead_letters():
        place.client.get(letter.run_id).drop()
    for message in place.dead.list():
        place.dead.drop(message.id)
    for key in [*place.redis.keys("{guards}:breaker*"), *place.redis.keys("{guards}:budget*")]:
        place.redis.delete(key)


@pytest.fixture
def shell(deployment: Deployment, tmp_path: Path) -> Shell:
    """A folder to run commands in, against the deployment."""
    return Shell(tmp_path, deployment.env)


def submit(deployment: Deployment, flow: str, *acts: str, **options: Any) -> Run:  # noqa: ANN401  as of Client.submit
    return deployment.client.submit(f"trouble-{flow}", {"acts": list(acts)}, **options)


def fails(deployment: Deployment, flow: str, *acts: str, **options: Any) -> Run:  # noqa: ANN401  as of Client.submit
    run = submit(deployment, flow, *acts, **options)
    with pytest.raises(RunFailed):
        run.result(timeout=SOON)
    return run


# Dead letters


def test_run_that_failed_for_good_is_listed_and_shown_with_its_input_errors_and_log_position(
    deployment: Deployment, shell: Shell
) -> None:
    # given
    run = fails(deployment, "retried", *["raise not today"] * 4)
    end = run.events()[-1]
    # when
    (listed,) = shell.run("dead", "list", "--json").document
    shown = shell.run("dead", "show", run.id, "--json").document
    table_, text = shell.run("dead", "list").out, shell.run("dead", "show", run.id).out
    # then
    assert (listed["id"], listed["kind"], listed["attempts"]) == (run.id, "failed", 4)
    assert {name: shown[name] for name in listed} == listed
    assert shown["input"]["acts"] == ["raise not today"] * 4
    assert (len(shown["errors"]), shown["event_id"]) == (4, end.id)
    assert table_.splitlines()[1].startswith(run.id)
    for part in ("step only, agent trouble.retried, 4 attempts", f"log position {end.id}", "4. StepFailed: ValueError"):
        assert part in text
    assert '"raise not today"' in text
    assert f"celeriac dead redrive {run.id}" in text
    assert f"celeriac dead show {run.id}" in shell.run("runs", "show", run.id).out


def test_run_is_redriven_as_it_was_and_listed_no_more(deployment: Deployment, shell: Shell) -> None:
    # given one whose trouble is over: the acts of its attempts are those of a new step
    run = fails(deployment, "saga", "fail", "never book")
    # when
    result = shell.run("dead", "redrive", run.id, "--step", "book", "--by", "ada", "--input", "-", stdin='{"by": "b"}')
    # then
    assert (result.code, result.out) == (0, f"{run.id} redriven\n")
    assert run.result(timeout=SOON).by == "pay"
    assert shell.run("dead", "list").out == "none\n"
    assert "asked for by ada" in shell.run("runs", "events", run.id).out


def test_run_is_redriven_with_another_input(deployment: Deployment, shell: Shell) -> None:
    run = fails(deployment, "bare", "raise")
    (shell.folder / "input.json").write_text('{"acts": ["ok"]}')
    assert shell.run("dead", "redrive", run.id, "--input", "input.json").code == 0
    assert run.result(timeout=SOON).acts == ["ok"]


def test_run_is_redriven_to_another_agent_with_another_deadline(deployment: Deployment, shell: Shell) -> None:
    run = fails(deployment, "bare", "raise")
    done = shell.run("dead", "redrive", run.id, "--to", "trouble.simple", "--deadline", "60", "--json").document
    assert done == [{"id": run.id, "outcome": "redriven", "why": None}]
    assert run.result(timeout=SOON).by == "simple"
    end = run.events()[-1]
    assert run.state().deadline_ms - end.at_ms <= 60_000


def test_what_is_given_for_the_step_that_failed_is_not_taken_by_one_that_was_undone(
    deployment: Deployment, shell: Shell
) -> None:
    # given a run that failed at its last step, with two before it undone
    run = fails(deployment, "saga", "fail")
    shown = shell.run("dead", "show", run.id, "--json").document
    text = shell.run("dead", "show", run.id).out
    assert (shown["step"], shown["goes_on_at"], shown["input"]["by"]) == ("end", "book", "pay")
    assert (
        f"it goes on at step book, which is not done or was undone: redrive it with: celeriac dead redrive {run.id}"
        in text
    )
    assert f"celeriac dead redrive {run.id} --step book [--input FILE] [--to AGENT]" in text
    assert "--step STEP" not in text
    # when somebody gives an input or an agent for it, then that is refused with both steps, and what to type
    for change in (["--input", "-"], ["--to", "trouble.end"]):
        result = shell.run("dead", "redrive", run.id, *change, stdin='{"by": "me", "acts": []}')
        result.assert_one_line("it failed at step 'end' and goes on at 'book', which was undone", "--step book")
    result = shell.run("dead", "redrive", run.id, "--step", "end", "--input", "-", stdin='{"by": "me", "acts": []}')
    result.assert_one_line("what was done at step 'book', before 'end', was undone and is done again first")
    assert len(deployment.notes(run, "did-book")) == 1
    # when it is given for the step that was undone, then all is done again
    given = ("--step", "book", "--input", "-")
    assert shell.run("dead", "redrive", run.id, *given, stdin='{"by": "me", "acts": []}').code == 0
    assert run.result(timeout=SOON).by == "pay"
    assert [len(deployment.notes(run, f"did-{step}")) for step in ("book", "pay")] == [2, 2]


def test_a_step_that_could_not_be_undone_is_not_offered_to_be_sent_again(deployment: Deployment, shell: Shell) -> None:
    # given a run of which not all is undone
    run = fails(deployment, "saga", "fail", "never pay")
    # when it is shown, then with what works
    text = shell.run("dead", "show", run.id).out
    assert "step pay~undo, agent trouble.refund" in text
    assert "it goes on at step book" in text
    assert "--step STEP" not in text
    result = shell.run("dead", "redrive", run.id, "--to", "trouble.simple")
    result.assert_one_line("it failed at step 'pay~undo' and goes on at 'book', which was undone", "--step book")
    shell.run("dead", "redrive", run.id, "--step", "pay~undo").assert_one_line("it has no step 'pay~undo'")


def test_what_is_refused_is_told_and_stops_no_other(deployment: Deployment, shell: Shell) -> None:
    # given
    done, dead = submit(deployment, "bare"), fails(deployment, "bare", "raise")
    done.result(timeout=SOON)
    # when
    result = shell.run("dead", "redrive", done.id, "0" * 24, dead.id, "--to", "trouble.simple")
    # then
    assert result.code == 1
    assert result.out == f"{dead.id} redriven\n"
    errors = result.err.splitlines()
    assert errors[0] == f"error: run {done.id}: it has not failed, it is completed"
    assert errors[1].startswith("error: there is no run")
    assert dead.result(timeout=SOON).by == "simple"


REFUSED = dict(table("dead-letters.md", "Refused is"))


@pytest.mark.parametrize("case", REFUSED)
def test_the_table_of_what_is_refused(deployment: Deployment, shell: Shell, case: str) -> None:
    # given a run that failed at its first of two steps, and has no input for the second
    run, options = fails(deployment, "partial", "raise"), [""]
    match case.partition(",")[0]:
        case "a run that has not failed":
            run, options = submit(deployment, "bare"), []
            run.result(timeout=SOON)
        case "a step that the run does not have":
            options = ["--step", "nothing"]
        case "a step that never got an input":
            options = ["--step", "second"]
        case "an input that the agent does not accept":
            options = ["--input", "-"]
        case "an agent that this installation does not know":
            options = ["--to", "nobody"]
        case "an input or an agent without `--step`":
            run, options = fails(deployment, "saga", "fail"), ["--to", "trouble.simple"]
        case "an agent for a blackboard or a conversation":
            run, options = fails(deployment, "board", "raise"), ["--to", "trouble.simple"]
        case "a step behind one that was undone":
            run, options = fails(deployment, "saga", "fail"), ["--step", "end"]
    # when
    result = shell.run("dead", "redrive", run.id, *options, stdin='{"acts": 5}')
    # then
    result.assert_one_line(REFUSED[case].strip("`"))


def test_the_input_of_a_synthesiser_is_shown_as_a_redrive_takes_it(deployment: Deployment, shell: Shell) -> None:
    # given a hierarchy whose synthesiser has failed, and one of whose assignments did
    for acts, note, status in ((["ok"], "fail", "ok"), (["raise"], "", "failed")):
        run = deployment.client.submit("trouble-team", {"acts": acts, "note": note})
        with pytest.raises(RunFailed):
            run.result(timeout=SOON)
        # when
        shown = shell.run("dead", "show", run.id, "--json").document["input"]
        # then it is what has come of the assignments
        assert (shown["task"]["acts"], [one["status"] for one in shown["outcomes"]]) == (acts, [status])
        # and what is put right in it is taken
        shown["task"]["note"] = ""
        shown["outcomes"][0] |= {"status": "ok", "value": {"by": "me", "attempt": 1}}
        result = shell.run("dead", "redrive", run.id, "--input", "-", stdin=json.dumps(shown))
        assert result.code == 0, result.err
        assert run.result(timeout=SOON).by == "me"


def test_the_input_of_a_blackboard_is_checked_as_that_of_an_agent_is(deployment: Deployment) -> None:
    # given a blackboard that has failed
    run = fails(deployment, "board", "raise")
    # when it is given another task, then one that fits
    with pytest.raises(InvalidInput, match="does not fit step 'board'"):
        run.redrive(input={"acts": 5})
    run.redrive(input={"acts": []})
    assert run.result(timeout=SOON).entries["found"]["by"] == "look"
    # and what both have used counts
    assert run.state().tokens == 20


def test_all_that_fit_are_redriven_once_somebody_has_agreed(deployment: Deployment, shell: Shell) -> None:
    # given
    bare = [fails(deployment, "bare", "raise") for _ in range(3)]
    other = fails(deployment, "saga", "fail")
    chosen = ("dead", "redrive", "--all", "--agent", "trouble.bare", "--to", "trouble.simple")
    # when nobody can be asked
    shell.run(*chosen).assert_one_line("this would redrive 3 runs", "add --yes")
    # or who is asked does not agree
    code, said = on_a_terminal(shell, *chosen, answer="n")
    # then nothing has happened
    assert (code, "redrive 3 runs? [y/N]" in said, "nothing was done" in said) == (1, True, True)
    assert {letter.run_id for letter in deployment.client.dead_letters()} == {other.id, *(run.id for run in bare)}
    # when somebody agrees
    code, said = on_a_terminal(shell, *chosen, answer="y")
    # then all that fit go on
    assert code == 0
    for run in bare:
        assert f"{run.id} redriven" in said
        assert run.result(timeout=SOON).by == "simple"
    assert [letter.run_id for letter in deployment.client.dead_letters()] == [other.id]


def on_a_terminal(shell: Shell, *arguments: str, answer: str) -> tuple[int, str]:
    """Run a command whose stdin is a terminal, and type an answer."""
    ours, theirs = pty.openpty()
    try:
        os.write(ours, f"{answer}\n".encode())
        done = subprocess.run(  # noqa: S603  our own interpreter
            [*COMMAND, *arguments],
            cwd=shell.folder,
            env=shell.environment,
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
    finally:
        os.close(ours)
        os.close(theirs)
    return done.returncode, done.stdout


def test_dropped_run_is_a_failed_run_and_no_dead_letter(deployment: Deployment, shell: Shell) -> None:
    # given
    one, other = fails(deployment, "bare", "raise"), fails(deployment, "bare", "raise")
    # when
    assert shell.run("dead", "drop", one.id).out == f"{one.id} dropped\n"
    assert shell.run("dead", "drop", "--all", "--flow", "trouble-bare", "--yes", "--json").document == [
        {"id": other.id, "outcome": "dropped", "why": None}
    ]
    # then
    assert deployment.client.dead_letters() == []
    assert {state["id"] for state in shell.run("runs", "list", "--status", "failed", "--json").document} >= {
        one.id,
        other.id,
    }
    shell.run("dead", "drop", one.id).assert_one_line("it is no dead letter")
    assert shell.run("dead", "drop", "--all", "--yes").code == 0


def test_filters_choose_among_runs_and_messages(deployment: Deployment, shell: Shell) -> None:
    # given
    bare, saga = fails(deployment, "bare", "raise"), fails(deployment, "saga", "fail")
    end = saga.events()[-1].at_ms
    wait_until(
        lambda: deployment.redis.time() > (end // 1000, end % 1000 * 1000 + 999),
        SOON,
        "it is later",
    )
    deployment.dead.add(queue="trouble.bare", reason="unreadable: no", body=b"\x1b[31mhello")
    (message,) = deployment.dead.list()

    def listed(*options: str) -> set[str]:
        return {letter["id"] for letter in shell.run("dead", "list", "--json", *options).document}

    # then
    assert listed() == {bare.id, saga.id, message.id}
    assert listed("--kind", "runs") == {bare.id, saga.id}
    assert listed("--kind", "messages") == {message.id}
    assert listed("--agent", "trouble.bare") == {bare.id, message.id}
    assert listed("--flow", "trouble-saga") == {saga.id}
    assert listed("--limit", "1") == {message.id}
    text = shell.run("dead", "list").out
    assert "·[31mhello" in text
    assert "\x1b" not in text


# Messages


def start_message(deployment: Deployment) -> bytes:
    """Return a message that starts a run, as kombu writes it."""
    kwargs = {"flow": "trouble-bare", "input": {"acts": ["ok"]}, "tags": {"by": "message"}}
    deployment.client.app.send_task("orchestrator.start", kwargs=kwargs, queue="nobody")
    (raw,) = deployment.messages("nobody")
    deployment.broker.delete("nobody")
    return raw


def test_message_that_was_set_aside_is_redriven_and_does_what_it_asks(deployment: Deployment, shell: Shell) -> None:
    # given
    deployment.dead.add(queue="orchestrator", reason="unreadable: out of memory", body=start_message(deployment))
    (message,) = deployment.dead.list()
    assert f"celeriac dead redrive {message.id}" in shell.run("dead", "show", message.id).out
    # when
    result = shell.run("dead", "redrive", message.id)
    # then
    assert (result.code, result.out) == (0, f"{message.id} redriven\n"), result
    wait_until(
        lambda: [run.status for run in deployment.client.list_runs(tag=("by", "message"))] == ["completed"],
        SOON,
        "its run has completed",
    )
    assert deployment.dead.count() == 0


def test_message_that_is_not_kept_whole_can_only_be_dropped(deployment: Deployment, shell: Shell) -> None:
    # given what a worker sets aside by itself
    deployment.broker.lpush("trouble.bare", b"not a message")
    wait_until(lambda: deployment.dead.count() == 1, SOON, "it is set aside")
    (message,) = deployment.dead.list()
    # then
    shell.run("dead", "redrive", message.id).assert_one_line("no whole message of Celery's", "it can only be dropped")
    assert "it cannot be sent again" in shell.run("dead", "show", message.id).out
    assert shell.run("dead", "drop", message.id).code == 0
    shell.run("dead", "show", message.id).assert_one_line("there is no message", "celeriac dead list")


# Breakers


def test_breaker_is_opened_closed_and_left_to_itself(deployment: Deployment, shell: Shell) -> None:
    # given one that nothing was called through yet
    assert shell.run("breakers").out.startswith("none")
    opened = shell.run("breakers", "open", "trouble.skips")
    assert "is the name right?" in opened.err
    assert opened.out == "trouble.skips is open; by hand, until `celeriac breakers auto trouble.skips`\n"
    # then its agent is not called
    run = submit(deployment, "skips")
    assert run.result(timeout=SOON).by == "simple"
    (listed,) = shell.run("breakers", "list", "--json").document
    assert (listed["name"], listed["state"], listed["forced"]) == ("trouble.skips", "open", True)
    # when it is closed
    closed = shell.run("breakers", "close", "trouble.skips", "--json")
    assert (closed.err, closed.document["state"]) == ("", "closed")
    # then it is, whatever fails
    for _ in range(3):
        submit(deployment, "skips", "raise").result(timeout=SOON)
    assert submit(deployment, "skips").result(timeout=SOON).by == "skips"
    # when it is left to itself
    assert shell.run("breakers", "auto", "trouble.skips").out == "trouble.skips is closed\n"
    text = shell.run("breakers").out.splitlines()
    assert text[0].split() == ["BREAKER", "STATE", "FOR", "CALLS", "FAILURES", "PROBES"]
    assert text[1].split()[:2] == ["trouble.skips", "closed"]


def test_breaker_nobody_knows_is_not_left_to_itself(shell: Shell) -> None:
    result = shell.run("breakers", "auto", "nobody", "--json")
    assert result.document is None
    assert "is the name right?" in result.err


def test_breaker_opened_by_a_wrong_name_is_doubted_and_can_be_taken_back(deployment: Deployment, shell: Shell) -> None:
    # given a breaker that was called, and open by hand
    submit(deployment, "skips").result(timeout=SOON)
    # when somebody mistypes it, then that is told, also to programs, with what there is and how to take it back
    result = shell.run("breakers", "open", "trouble.skip", "--json")
    assert "nothing was called through a breaker 'trouble.skip' yet (known: trouble.skips)" in result.err
    assert "celeriac breakers auto trouble.skip" in result.err
    assert (result.document["state"], result.document["known"]) == ("open", False)
    # when it is taken back, then it is not listed any more, and the other one is
    assert shell.run("breakers", "auto", "trouble.skip").out == "trouble.skip is half-open\n"
    taken = shell.run("breakers", "auto", "trouble.skip")
    assert (taken.out, taken.err) == ("trouble.skip is listed no more: nothing was called through it\n", "")
    assert [one["name"] for one in shell.run("breakers", "list", "--json").document] == ["trouble.skips"]
    assert not deployment.redis.exists(keys.breaker("trouble.skip"))
    # and one that was called stays listed
    shell.run("breakers", "open", "trouble.skips")
    for _ in range(2):
        assert shell.run("breakers", "auto", "trouble.skips", "--json").document["known"]


# Budgets


def test_budget_of_a_tenant_is_set_listed_and_cleared(deployment: Deployment, shell: Shell) -> None:
    # given
    assert shell.run("budgets").out.startswith("none")
    said = shell.run("budgets", "set", "poor", "--tokens", "150", "--cost", "2.50").out
    assert said == "poor may use 150 tokens, cost 2.5\n"
    # when a run uses some of it
    submit(deployment, "costly", "spend 110", tenant="poor").result(timeout=SOON)
    # then
    (listed,) = shell.run("budgets", "list", "--json").document
    assert (listed["tenant"], listed["tokens"], listed["used_tokens"], listed["cost"]) == ("poor", 150, 110, 2.5)
    assert "110 of 150" in shell.run("budgets", "list").out
    # and the next has not enough left
    refused = fails(deployment, "costly", tenant="poor")
    why = "the budget of tenant:poor has too little left: 40 of 150 tokens, and it needs 100"
    assert why in (refused.state().reason or "")
    # when it renews, and the limit of money is not given again
    renewed = shell.run("budgets", "set", "poor", "--tokens", "150", "--per", "3600", "--json").document
    assert (renewed["cost"], renewed["per"]) == (None, 3600.0)
    assert ", next in " in shell.run("budgets").out
    # then what was used stays used, and a run that needs more than is left waits
    late = submit(deployment, "costly", tenant="poor")
    wait_until(lambda: late.state().steps[0].status == "delayed", SOON, "it waits")
    # when there is no budget any more
    assert shell.run("budgets", "clear", "poor").out == "poor has no budget any more\n"
    # then it goes on
    assert late.result(timeout=SOON).by == "costly"
    shell.run("budgets", "clear", "poor").assert_one_line("tenant 'poor' has no budget")


def test_submit_takes_a_budget_and_the_run_tells_what_it_used_of_it(shell: Shell) -> None:
    # given
    order = json.dumps({"acts": ["spend 110"]})
    # when
    fits = shell.run(
        "submit", "trouble-costly", "--input", "-", "--budget-tokens", "500", "--wait", "--json", stdin=order
    )
    small = shell.run("submit", "trouble-costly", "--input", "-", "--budget-tokens", "50", "--wait", stdin=order)
    # then
    shown = shell.run("runs", "show", fits.document["id"])
    assert "used 110 tokens of 500 tokens" in shown.out
    assert "USED" in shown.out
    assert shell.run("runs", "show", fits.document["id"], "--json").document["tokens"] == 110
    assert small.code == 1
    assert "has too little left: 50 of 50 tokens, and it needs 100" in small.err.splitlines()[-1]


@pytest.fixture
def unserved(deployment: Deployment) -> Iterator[Deployment]:
    """The same; the messages of a queue that nobody serves here are taken away in the end."""
    yield deployment
    for key in deployment.broker.keys("trouble.parent*"):
        deployment.broker.delete(key)


def cancel_all(deployment: Deployment, run: Run) -> None:
    """Cancel a run with its children, and wait until the caretaker has seen that there is nothing left to end."""
    run.cancel()
    timers = keys.timers(keys.shard_of(run.id))
    wait_until(lambda: deployment.redis.zscore(timers, f"{run.id}//") is None, SOON, "the children have been ended")


def begun(deployment: Deployment, run: Run) -> Begun:
    """Begin the only step of a run whose queue nobody serves here."""
    found = deployment.client.store.begin(run.id, "only", agent="trouble.parent", nonce="n", worker="w")
    assert isinstance(found, Begun)
    return found


def test_run_tells_of_its_children_and_what_they_used(unserved: Deployment, shell: Shell) -> None:
    deployment = unserved
    # given a run with a budget and two children, one of which has a child too
    run = submit(deployment, "parent", budget=Budget(tokens=5000))
    child, other = submit(deployment, "parent", parent=run.id), submit(deployment, "parent", parent=run.id)
    work = begun(deployment, child)
    below = submit(deployment, "parent", parent=child.id)
    deployment.client.store.commit(begun(deployment, below), b"{}", spent=(20, 0.5))
    deployment.client.store.commit(work, b"{}", spent=(1000, 0.0))
    # when it is shown
    text = shell.run("runs", "show", run.id).out
    document = shell.run("runs", "show", run.id, "--json").document
    # then they are listed with their status, and what they used is part of what it used
    rows = [line.split() for line in text.splitlines()]
    assert [[row[0], row[2]] for row in rows if row and row[0] in {child.id, other.id, below.id}] == [
        [child.id, "completed"],
        [below.id, "completed"],
        [other.id, "queued"],
    ]
    assert "used 1,020 tokens, cost 0.5 of 5,000 tokens (1,020 tokens, cost 0.5 by its children)" in text
    assert [(one["id"], one["parent"], one["tokens"]) for one in document["children"]] == [
        (child.id, run.id, 1000),
        (other.id, run.id, 0),
        (below.id, child.id, 20),
    ]
    assert (document["tokens"], document["tokens_with_children"], document["cost_with_children"]) == (0, 1020, 0.5)
    # and one without children says nothing of them
    alone = shell.run("runs", "show", other.id)
    assert ("CHILD" in alone.out, shell.run("runs", "show", other.id, "--json").document["children"]) == (False, [])
    cancel_all(unserved, run)


def test_of_many_children_some_are_shown_unless_all_are_asked_for(unserved: Deployment, shell: Shell) -> None:
    run = submit(unserved, "parent")
    unserved.client.submit_many("trouble-parent", [{"acts": []}] * 25, parent=run.id)
    assert f"and 5 more: celeriac runs show {run.id} --all" in shell.run("runs", "show", run.id).out
    assert shell.run("runs", "show", run.id, "--all").out.count(" queued ") == 1 + 25
    cancel_all(unserved, run)


def test_run_that_ends_with_a_part_says_so(shell: Shell) -> None:
    # given
    order = json.dumps({"acts": []})
    # when
    submitted = shell.run(
        *("submit", "trouble-partial", "--input", "-", "--budget-tokens", "50", "--wait", "--json"), stdin=order
    )
    # then
    run_id = submitted.document["id"]
    page = shell.run("runs", "show", run_id).out
    assert "ends with a part" in page
    assert "has too little left" in page
    # and the stage that nothing ran of is not shown as done by a fallback
    assert "by the fallback" not in page.partition("second")[2].splitlines()[0]
    shown = shell.run("runs", "show", run_id, "--json").document
    assert (shown["partial"], shown["degraded"], shown["status"]) == (True, True, "completed")
    assert "partial" in next(line for line in shell.run("runs", "list").out.splitlines() if line.startswith(run_id))


# Runs in trouble


def test_delayed_step_is_shown_with_its_time_and_reason(deployment: Deployment, shell: Shell) -> None:
    # given
    run = submit(deployment, "bare", "later 60")
    wait_until(lambda: run.state().steps[0].status == "delayed", SOON, "it waits")
    # then
    line = next(line for line in shell.run("runs", "list").out.splitlines() if line.startswith(run.id))
    assert "again at " in line
    assert "not yet" in line
    shown = shell.run("runs", "show", run.id).out
    assert "delayed" in shown
    assert "not yet" in shown
    # and it can be cancelled
    assert shell.run("runs", "cancel", run.id).out == f"{run.id} cancelled\n"


def test_degraded_run_is_marked(deployment: Deployment, shell: Shell) -> None:
    # given
    deployment.client.guards.force("trouble.skips", "open")
    run = submit(deployment, "skips")
    run.result(timeout=SOON)
    # then
    deployment.client.guards.force("trouble.skips", "auto")
    assert "degraded" in next(line for line in shell.run("runs", "list").out.splitlines() if line.startswith(run.id))
    assert "holds what a fallback gave" in shell.run("runs", "show", run.id).out
    assert shell.run("runs", "show", run.id, "--json").document["degraded"] is True


def test_undone_steps_are_shown(deployment: Deployment, shell: Shell) -> None:
    # given
    run = fails(deployment, "saga", "fail")
    # then
    shown = shell.run("runs", "show", run.id).out
    rows = {row.split()[0]: row for row in shown.splitlines() if row.strip()}
    assert rows["pay"].endswith("undone")
    assert rows["pay~undo"].endswith("undoes pay")
    events = shell.run("runs", "events", run.id).out
    assert "pay, book: " in events
    assert cast("str", run.state().reason) in shown
