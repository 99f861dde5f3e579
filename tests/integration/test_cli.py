"""The command line against a deployment: what it prints, how it ends, and what it says when it cannot."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.command_line import Shell
from tests.servers import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.fleet import Deployment

pytestmark = pytest.mark.integration


@pytest.fixture
def shell(deployment: Deployment, tmp_path: Path) -> Shell:
    """A folder to run commands in, against the deployment."""
    return Shell(tmp_path, deployment.env)


def document(text: str) -> str:
    return json.dumps({"text": text})


def submit_and_wait_until(deployment: Deployment, shell: Shell, status: str, flow: str, text: str) -> str:
    run_id = shell.run("submit", flow, "--input", "-", stdin=document(text)).out.strip()
    wait_until(lambda: deployment.client.get(run_id).status() == status, 15.0, f"the run is {status}")
    return run_id


def test_submit_prints_the_id_alone_and_the_run_can_be_found(deployment: Deployment, shell: Shell) -> None:
    # when
    result = shell.run("submit", "relay", "--input", "-", "--tag", "batch=a", "--tenant", "t", stdin=document("x"))

    # then
    assert result.code == 0
    run = deployment.client.get(result.out.strip())
    run.result(timeout=15)
    (listed,) = shell.run("runs", "list", "--tag", "batch=a", "--json").document
    assert listed["id"] == run.id
    assert listed["tenant"] == "t"
    assert listed["status"] == "completed"


def test_submit_from_a_file_waits_and_prints_the_result_alone_on_stdout(shell: Shell) -> None:
    # given
    (shell.folder / "document.json").write_text(document("hello"))

    # when
    result = shell.run("submit", "relay", "--input", "document.json", "--wait")

    # then
    assert result.code == 0
    assert result.document["text"] == "hello"
    assert "StepCompleted" in result.err


def test_submit_with_json_is_one_document(shell: Shell) -> None:
    # when
    result = shell.run("submit", "relay", "--input", "-", "--wait", "--json", stdin=document("hello"))

    # then
    assert set(result.document) == {"id", "status", "reason", "degraded", "partial", "result"}
    assert result.document["status"] == "completed"
    assert (result.document["degraded"], result.document["partial"]) == (False, False)
    assert result.err == ""


def test_failed_run_ends_the_wait_with_its_reason_and_one(shell: Shell) -> None:
    # when
    result = shell.run("submit", "raises", "--input", "-", "--wait", stdin=document("x"))

    # then
    assert result.code == 1
    assert result.out == ""
    assert "cannot work on 1 characters" in result.err.splitlines()[-1]
    assert "Traceback" not in result.err


def test_each_line_becomes_a_run(shell: Shell) -> None:
    # given
    lines = "\n".join(document(text) for text in "abc") + "\n"

    # when
    result = shell.run("submit", "relay", "--input", "-", "--each", "--wait", stdin=lines)

    # then
    assert [item["result"]["text"] for item in result.document] == ["a", "b", "c"]


def test_same_key_gives_the_same_run_and_another_input_is_refused(shell: Shell) -> None:
    # given
    first = shell.run("submit", "relay", "--input", "-", "--key", "k-cli", "--wait", "--json", stdin=document("x"))

    # when
    second = shell.run("submit", "relay", "--input", "-", "--key", "k-cli", "--json", stdin=document("x"))
    third = shell.run("submit", "relay", "--input", "-", "--key", "k-cli", stdin=document("y"))

    # then
    assert second.document["id"] == first.document["id"]
    third.assert_one_line("key 'k-cli' was used by run", first.document["id"], "use a new key")


def test_show_has_the_steps_and_the_result(shell: Shell) -> None:
    # given
    run_id = shell.run("submit", "relay", "--input", "-", "--wait", "--json", stdin=document("x")).document["id"]

    # when
    shown = shell.run("runs", "show", run_id, "--json").document
    text = shell.run("runs", "show", run_id)

    # then
    assert [step["status"] for step in shown["steps"]] == ["completed"] * 3
    assert shown["result"]["text"] == "x"
    assert '"text": "x"' in text.out
    assert "acme.first" in text.out


def test_events_are_the_runs_log(deployment: Deployment, shell: Shell) -> None:
    # given
    run_id = shell.run("submit", "relay", "--input", "-", "--wait", "--json", stdin=document("x")).document["id"]

    # when
    events = shell.run("runs", "events", run_id, "--json").document

    # then
    assert [event["id"] for event in events] == [event.id for event in deployment.client.get(run_id).events()]
    assert events[-1]["type"] == "RunCompleted"
    assert "RunCompleted" in shell.run("runs", "events", run_id).out


def test_watch_prints_a_line_per_event_and_ends_with_the_run(deployment: Deployment, shell: Shell) -> None:
    # given
    run = deployment.submit("held")
    deployment.wait_for_note(run, "started")
    watching = shell.start("runs", "watch", run.id)
    assert watching.stdout is not None
    seen = [watching.stdout.readline()]

    # when
    deployment.say(run)
    seen += watching.communicate()[0].splitlines()

    # then
    assert watching.returncode == 0
    assert "RunSubmitted" in seen[0]
    assert any("StepStarted" in line and "hold" in line for line in seen)
    assert "RunCompleted" in seen[-1]


def test_watch_as_json_is_a_line_per_event_and_a_failed_run_ends_it_with_one(shell: Shell) -> None:
    # given
    run_id = shell.run("submit", "raises", "--input", "-", stdin=document("x")).out.strip()

    # when
    result = shell.run("runs", "watch", run_id, "--json")

    # then
    events = [json.loads(line) for line in result.out.splitlines()]
    assert result.code == 1
    assert events[0]["type"] == "RunSubmitted"
    assert events[-1]["type"] == "RunFailed"


def test_watch_gives_up_after_its_timeout(deployment: Deployment, shell: Shell) -> None:
    # given
    run = deployment.submit("held")
    deployment.wait_for_note(run, "started")

    # when
    result = shell.run("runs", "watch", run.id, "--timeout", "0.5")

    # then
    assert result.code == 1
    assert result.err.startswith(f"error: run {run.id} has not ended after 0.5 s")
    deployment.say(run)
    run.result(timeout=15)


def test_cancel_ends_a_run_and_a_second_one_is_refused(deployment: Deployment, shell: Shell) -> None:
    # given
    run = deployment.submit("held")
    deployment.wait_for_note(run, "started")

    # when
    result = shell.run("runs", "cancel", run.id, "--reason", "no longer wanted", "--by", "ada", "--json")
    again = shell.run("runs", "cancel", run.id)

    # then
    assert result.document["status"] == "cancelled"
    assert result.document["reason"] == "no longer wanted"
    again.assert_one_line("it has ended already: cancelled")


def test_watch_that_times_out_at_a_gate_tells_how_to_decide(deployment: Deployment, shell: Shell) -> None:
    # given
    run_id = submit_and_wait_until(deployment, shell, "waiting", "essay", "ask")

    # when
    result = shell.run("runs", "watch", run_id, "--timeout", "0.3")

    # then
    assert result.code == 1
    assert f"  celeriac runs approve {run_id} --step writer" in result.err
    assert "it waits for a person" in result.err.splitlines()[-1]
    assert shell.run("runs", "reject", run_id).out == f"{run_id} rejected; it has ended as failed\n"


def test_long_name_of_a_refused_runs_flow_does_not_widen_the_list(deployment: Deployment, shell: Shell) -> None:
    # given
    run = deployment.client.start("x" * 200, {}, message_id="long-name", tenant="long")

    # when
    listed = shell.run("runs", "list", "--flow", "x" * 200)

    # then
    assert run.id in listed.out
    assert f"  {'x' * 39}…  " in listed.out


def test_waiting_run_tells_how_to_decide_and_approval_lets_it_pass(deployment: Deployment, shell: Shell) -> None:
    # given
    run_id = submit_and_wait_until(deployment, shell, "waiting", "essay", "ask")
    shown = shell.run("runs", "show", run_id)

    # when
    approved = shell.run("runs", "approve", run_id, "--by", "ada", "--note", "as it should be")

    # then
    assert "is this right?" in shown.out
    assert f"celeriac runs approve {run_id} --step writer" in shown.out
    assert approved.code == 0
    deployment.client.get(run_id).result(timeout=15)
    step = deployment.client.get(run_id).state().steps[0]
    assert step.decision is not None
    assert (step.decision.choice, step.decision.by, step.decision.note) == ("approve", "ada", "as it should be")


def test_rejection_fails_the_run_under_the_login_name(deployment: Deployment, shell: Shell) -> None:
    # given
    run_id = submit_and_wait_until(deployment, shell, "waiting", "essay", "ask")

    # when
    result = shell.run("runs", "reject", run_id, "--step", "writer", "--json", env={"LOGNAME": "grace"})

    # then
    assert result.document["status"] == "failed"
    assert result.document["steps"][0]["decision"]["by"] == "grace"


def test_decision_that_nobody_waits_for_is_refused(shell: Shell) -> None:
    # given
    run_id = shell.run("submit", "relay", "--input", "-", "--wait", "--json", stdin=document("x")).document["id"]

    # then
    shell.run("runs", "approve", run_id).assert_one_line("no step waits for a decision", "completed")
    shell.run("runs", "approve", run_id, "--step", "first").assert_one_line("step 'first' does not wait")


@pytest.mark.parametrize("command", ["show", "events", "watch", "cancel", "approve", "reject"])
def test_unknown_run_is_named(shell: Shell, command: str) -> None:
    shell.run("runs", command, "01nothing").assert_one_line("no run '01nothing'", "celeriac runs list")


def test_input_that_does_not_fit_names_the_field(shell: Shell) -> None:
    shell.run("submit", "relay", "--input", "-", stdin='{"text": 5}').assert_one_line("text", "string")


def test_payload_over_the_limit_is_refused_with_size_and_limit(shell: Shell) -> None:
    # given
    limits = {"CELERIAC_CLAIM_CHECK_BYTES": "1024", "CELERIAC_MAX_PAYLOAD_BYTES": "2048"}

    # when
    result = shell.run("submit", "relay", "--input", "-", stdin=document("x" * 3000), env=limits)

    # then
    result.assert_one_line("the limit is 2,048", "CELERIAC_MAX_PAYLOAD_BYTES")


def test_wrong_password_says_so_and_is_not_shown(deployment: Deployment, shell: Shell) -> None:
    # given
    deployment.redis.acl_setuser("ada", enabled=True, passwords=["+right"], keys=["*"], commands=["+@all"])
    url = deployment.server.url.replace("redis://", "redis://ada:wrongsecret@")

    # when
    result = shell.run("runs", "list", env={"CELERIAC_REDIS_URL": url})

    # then
    deployment.redis.acl_deluser("ada")
    result.assert_one_line("refuses the user name or password", "CELERIAC_REDIS_URL")
    assert "wrongsecret" not in result.err


def test_message_nobody_can_read_is_listed_with_its_reason(deployment: Deployment, shell: Shell) -> None:
    # given
    before = deployment.dead.count()
    deployment.broker.lpush("acme.first", b"\x00not a message")
    wait_until(lambda: deployment.dead.count() > before, 15.0, "the message is set aside")

    # when
    (letter,) = shell.run("dead", "list", "--limit", "1", "--json").document
    text = shell.run("dead", "list").out

    # then
    assert letter["queue"] == "acme.first"
    assert letter["reason"]
    assert "not a message" in letter["body"]
    assert "acme.first" in text
    assert "·not a message" in text


def test_worker_serves_the_agents_it_is_given(deployment: Deployment, shell: Shell) -> None:
    # given
    run = deployment.submit("only-parked")
    worker = shell.start("worker", "acme.parked", "--pool", "solo", "--json", "--", "--loglevel=WARNING")

    # when
    try:
        run.result(timeout=30)
    finally:
        worker.terminate()
        said, _ = worker.communicate(timeout=30)

    # then
    assert worker.returncode == 0
    assert "Traceback" not in said
    facts = json.loads(next(line for line in said.splitlines() if line.startswith("{")))
    assert (facts["queues"], facts["pool"]) == (["acme.parked"], "solo")
