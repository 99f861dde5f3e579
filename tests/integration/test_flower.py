"""Flower with `config/flower.py`: a person finds a run, and every execution's outcome is what it says."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from ast import literal_eval
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import TYPE_CHECKING, Any, Final, Self, cast
from urllib.parse import quote, urlencode

import pytest
from celery import Celery

from orchestrator import Client, RunFailed, Settings
from tests.integration.fleet import CHECKOUT, FAST, USER_CODE, Worker
from tests.servers import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from orchestrator import Run
    from tests.integration.conftest import Make
    from tests.integration.fleet import Deployment, Pool
    from tests.servers import Kind

    Row = dict[str, Any]  # a task as Flower's API gives it

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("flower")]

START_TIMEOUT: Final = 30.0
EVENTS_TIMEOUT: Final = 10.0  # s for Flower to hear of what has happened
CONFIG: Final = CHECKOUT / "config" / "flower.py"
INPUT: Final = "only-for-the-agent"
SHORT: Final = 600  # characters; a reason has at most 500


@dataclass(frozen=True)
class Flower:
    """A running Flower."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    @classmethod
    def start(cls, env: Mapping[str, str], folder: Path, *options: str) -> Self:
        """Start it, and wait until it hears the workers."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = int(free.getsockname()[1])
        log = folder / f"flower-{port}.log"
        command = [sys.executable, "-m", "celery", "-A", "orchestrator.app", "flower", f"--conf={CONFIG}"]
        with log.open("wb") as output:
            process = subprocess.Popen(  # noqa: S603  our own command
                [*command, f"--port={port}", *options],
                cwd=folder,
                env={**env, "FLOWER_UNAUTHENTICATED_API": "true"},
                stdout=output,
                stderr=output,
            )
        flower = cls(process, port, log)
        try:
            wait_until(flower.hears, START_TIMEOUT, f"Flower hears a worker; its log is {log}")
        except BaseException:
            flower.stop()
            raise
        return flower

    def stop(self) -> None:
        """End it."""
        self.process.terminate()
        try:
            self.process.wait(10.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def hears(self) -> bool:
        """Whether an event of a worker has arrived."""
        assert self.process.poll() is None, f"Flower ended:\n{self.log.read_text()[-3000:]}"
        try:
            return bool(json.loads(self.page("/workers?json=1"))["data"])
        except ConnectionError:
            return False

    def page(self, path: str, form: Mapping[str, object] | None = None) -> str:
        """Return what it serves."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=10.0)
        try:
            if form is None:
                connection.request("GET", path)
            else:
                headers = {"Content-Type": "application/x-www-form-urlencoded"}
                connection.request("POST", path, urlencode(form), headers)
            response = connection.getresponse()
            text = response.read().decode()
            assert response.status == 200, f"{path}: {response.status} {text[:500]}"
            return text
        finally:
            connection.close()

    def search(self, query: str) -> list[Row]:
        """Return the tasks that fit, the first received first."""
        found = json.loads(self.page(f"/api/tasks?sort_by=received&search={quote(query)}"))
        return list(found.values())

    def rows(self, run: Run | str, states: Sequence[str]) -> list[Row]:
        """Return a run's executions once they are in these states; the first received first."""
        query = f"kwargs:run={run if isinstance(run, str) else run.id}"
        seen: list[str] = []

        def arrived() -> bool:
            seen[:] = [row["state"] for row in self.search(query)]
            return sorted(seen) == sorted(states)

        wait_until(arrived, EVENTS_TIMEOUT, f"{query} gives {states}")
        return self.search(query)

    def table(self, query: str) -> list[Row]:
        """Return the rows of the tasks page, as worded for people."""
        form = {
            "draw": 1,
            "start": 0,
            "length": 50,
            "search[value]": query,
            "order[0][column]": 0,
            "order[0][dir]": "asc",
            "columns[0][data]": "received",
        }
        return cast("list[Row]", json.loads(self.page("/tasks/datatable", form))["data"])


@pytest.fixture(scope="module")
def flower(shared: Callable[[Kind, Pool], Deployment]) -> Iterator[Flower]:
    """Flower on the deployment that the tests here share."""
    deployment = shared("valkey", "prefork")
    started = Flower.start(deployment.env, deployment.folder)
    yield started
    started.stop()


def send(deployment: Deployment, agent: str, run: str, step: str) -> None:
    """Publish one more message for a step."""
    kwargs = {"run": run, "step": step}
    deployment.client.app.send_task(agent, kwargs=kwargs, queue=agent, shadow=f"held/{step}", ignore_result=True)


def test_a_run_is_found_by_its_id_and_its_rows_name_flow_and_step(deployment: Deployment, flower: Flower) -> None:
    # given a run with a secret input
    run = deployment.submit("relay", INPUT)
    run.result(timeout=15)
    # when a person searches for its id
    rows = flower.rows(run, ["SUCCESS"] * 3)
    # then there is a row for each step, in order, that says where the run went on
    assert [row["name"] for row in rows] == ["relay/first", "relay/second", "relay/third"]
    assert [literal_eval(row["kwargs"]) for row in rows] == [
        {"run": run.id, "step": step} for step in ("first", "second", "third")
    ]
    assert [row["result"] for row in rows] == [
        "'completed → second'",
        "'completed → third'",
        "'completed, the run is done'",
    ]
    # and the free text search finds the same
    assert {row["uuid"] for row in flower.search(run.id)} == {row["uuid"] for row in rows}


def test_all_rows_of_a_run_have_one_root_whose_page_exists(deployment: Deployment, flower: Flower) -> None:
    run = deployment.submit("essay", "revise 1")
    run.result(timeout=15)
    rows = flower.rows(run, ["RETRY", "SUCCESS", "SUCCESS"])
    assert {row["root"] for row in rows} == {run.id}
    assert json.loads(flower.page(f"/api/task/info/{run.id}"))["name"] == "essay/writer"
    for row in rows[1:]:
        assert flower.page(f"/task/{row['parent']}")


def test_arguments_and_results_are_short_and_hold_no_payload(deployment: Deployment, flower: Flower) -> None:
    runs = [deployment.submit(flow, INPUT * 5000) for flow in ("relay", "raises", "misfits")]
    for run in runs:
        list(run.watch(timeout=15))
    rows = flower.rows(runs[0], ["SUCCESS"] * 3)
    for run in runs[1:]:
        rows += flower.rows(run, ["SUCCESS", "FAILURE"])
    for row in rows:
        assert row["args"] == "()"
        assert len(row["kwargs"]) < 100
        assert len(row["result"]) < SHORT
    assert INPUT not in json.dumps(rows)


def test_a_start_from_elsewhere_shows_no_payload(deployment: Deployment, flower: Flower) -> None:
    # given a producer with nothing but Celery
    with Celery(broker=deployment.env["CELERIAC_BROKER_URL"], set_as_current=False) as producer:
        sent = producer.send_task(
            "orchestrator.start",
            kwargs={"flow": "relay", "input": {"text": INPUT}, "tags": {"batch": "elsewhere"}},
            queue="orchestrator",
            ignore_result=True,
        )
    # when the run it asks for is done
    wait_until(
        lambda: any(row["state"] == "SUCCESS" for row in flower.search(sent.id)), EVENTS_TIMEOUT, "the start is done"
    )
    (row,) = flower.search(sent.id)
    deployment.client.get(literal_eval(row["result"])).result(timeout=15)
    # then Flower shows which run it became, and nothing of the input
    assert INPUT not in json.dumps(row)
    assert "relay" in row["kwargs"]


def test_a_failure_shows_its_reason_and_is_found_by_it(deployment: Deployment, flower: Flower) -> None:
    run = deployment.submit("raises")
    with pytest.raises(RunFailed):
        run.result(timeout=15)
    failed = flower.rows(run, ["SUCCESS", "FAILURE"])[-1]
    assert "ValueError: cannot work on 1 characters" in failed["result"]
    found = flower.search(f'state:FAILURE result:"cannot work on" kwargs:run={run.id}')
    assert [row["uuid"] for row in found] == [failed["uuid"]]


@pytest.mark.parametrize(
    ("flow", "text", "states", "reasons"),
    [
        ("essay", "revise 2", ["RETRY", "RETRY", "SUCCESS", "SUCCESS"], ["writer runs again", "writer runs again"]),
        ("essay-fallback", "fallback", ["RETRY", "SUCCESS", "SUCCESS"], ["falls back to acme.rules"]),
        ("essay", "reject", ["FAILURE"], ["rejected by its gate: against the policy"]),
        ("essay", "raise", ["FAILURE"], ["its gate raised RuntimeError: the judge is out"]),
        ("overruns", "x", ["FAILURE"], ["timed out after 0.3 s"]),
        ("overruns-sync", "x", ["FAILURE"], ["timed out after 1 s"]),
    ],
)
def test_what_a_gate_or_a_timeout_does_is_the_rows_state_with_the_reason(
    deployment: Deployment, flower: Flower, flow: str, text: str, states: list[str], reasons: list[str]
) -> None:
    run = deployment.submit(flow, text)
    list(run.watch(timeout=15))
    rows = flower.rows(run, states)
    assert [row["state"] for row in rows] == states
    for row, reason in zip(rows, reasons, strict=False):
        assert reason in row["result"]


def test_a_degraded_output_says_so_and_is_counted(deployment: Deployment, flower: Flower) -> None:
    # given a run in which another agent stands in
    run = deployment.submit("essay-fallback", "fallback")
    run.result(timeout=15)
    assert run.state().degraded
    # then that execution's result says so, and no other's
    results = [row["result"].strip("'") for row in flower.rows(run, ["RETRY", "SUCCESS", "SUCCESS"])]
    assert [result.startswith("degraded") for result in results] == [False, True, False]

    # and the metrics count it
    def counted() -> bool:
        lines = [line for line in flower.page("/metrics").splitlines() if 'type="task-degraded"' in line]
        return any(line.startswith("flower_events_total") and "essay-fallback/writer" in line for line in lines)

    wait_until(counted, EVENTS_TIMEOUT, "it is counted")


def test_a_step_that_waits_for_a_person_is_done_and_says_so(deployment: Deployment, flower: Flower) -> None:
    run = deployment.submit("essay", "ask")
    rows = flower.rows(run, ["SUCCESS"])
    assert rows[0]["result"] == "'waiting for a person'"
    run.approve(by="ann")
    run.result(timeout=15)
    assert [row["name"] for row in flower.rows(run, ["SUCCESS"] * 2)] == ["essay/writer", "essay/editor"]


def test_a_cancelled_run_leaves_a_revoked_row(deployment: Deployment, flower: Flower) -> None:
    run = deployment.submit("held")
    deployment.wait_for_note(run, "started")
    run.cancel("not needed", by="ann")
    rows = flower.rows(run, ["SUCCESS", "REVOKED"])
    assert rows[-1]["name"] == "held/hold"
    assert "the run has ended" in rows[-1]["result"]


def test_duplicate_and_early_messages_are_rejected_with_the_reason(deployment: Deployment, flower: Flower) -> None:
    # given a run in its second step
    run = deployment.submit("held")
    deployment.wait_for_note(run, "started")
    # when messages come for a step that is done, one that runs, one that is not ready, and for no run at all
    send(deployment, "acme.first", run.id, "first")
    send(deployment, "acme.hold", run.id, "hold")
    send(deployment, "acme.second", run.id, "after")
    rejected = flower.rows(run, ["SUCCESS", "STARTED", "REJECTED", "REJECTED", "REJECTED"])[2:]
    nowhere = "0" * 22 + "00"
    send(deployment, "acme.first", nowhere, "first")
    rejected += flower.rows(nowhere, ["REJECTED"])
    # then each is rejected, and the run is none the worse
    assert {(row["name"], row["result"]) for row in rejected} == {
        ("held/first", "the step is done already"),
        ("held/hold", "another execution holds the step's lease"),
        ("held/after", "the step is not ready yet"),
        ("held/first", "there is no such run or step"),
    }
    deployment.say(run)
    run.result(timeout=15)


def test_an_execution_whose_process_was_killed_fails_by_name_and_the_next_one_succeeds(make: Make) -> None:
    # given a run whose step is in execution
    deployment = make()
    deployment.start_worker().wait_until_ready()
    flower = Flower.start(deployment.env, deployment.folder)
    try:
        run = deployment.submit("held")
        deployment.wait_for_note(run, "started")
        # when the process that executes it is killed
        os.kill(int(deployment.notes(run, "started")[0].split()[0]), signal.SIGKILL)
        deployment.wait_for_note(run, "started", count=2)
        deployment.say(run)
        run.result(timeout=15)
        # then the first row says so, and the second is the one that counts
        rows = flower.rows(run, ["SUCCESS", "FAILURE", "SUCCESS", "SUCCESS", "SUCCESS"])
        assert [row["name"] for row in rows[1:3]] == ["held/hold", "held/hold"]
        assert "WorkerLostError: Worker exited prematurely: signal 9 (SIGKILL)" in rows[1]["result"]
        assert rows[2]["root"] == run.id
    finally:
        flower.stop()


def test_the_pages_show_what_the_configuration_asks_for(deployment: Deployment, flower: Flower) -> None:
    # given a failed run
    run = deployment.submit("raises")
    list(run.watch(timeout=15))
    failed = flower.rows(run, ["SUCCESS", "FAILURE"])[-1]
    # then the tasks page has columns for it, and words it shortly
    page = flower.page("/tasks")
    columns = [part.split('"')[0] for part in page.split('data-column="')[1:]]
    assert columns == ["name", "uuid", "state", "kwargs", "result", "received", "runtime", "worker"]
    table = flower.table(f"kwargs:run={run.id}")
    assert [(row["name"], row["kwargs"], row["result"]) for row in table] == [
        ("raises/first", f"run={run.id}", "completed → raiser"),
        ("raises/raiser", f"run={run.id}", "ValueError: cannot work on 1 characters"),
    ]
    # and the others answer, without buttons that nobody may press
    assert "cannot work on 1 characters" in flower.page(f"/task/{failed['uuid']}")
    assert "Terminate" not in flower.page(f"/task/{failed['uuid']}")
    assert "Shut down" not in flower.page(f"/worker/{failed['worker']}")
    wait_until(lambda: "acme.hold" in flower.page("/broker"), EVENTS_TIMEOUT, "the broker page lists the queues")


def test_flower_works_on_the_embedded_servers_socket(tmp_path: Path) -> None:
    # given a folder without a configured Redis
    settings = Settings(data_dir=tmp_path / "data", agents=("tests.integration.acme.flows",), **cast("Any", FAST))
    env = {name: value for name, value in os.environ.items() if not name.startswith("CELERIAC_")} | {
        "CELERIAC_DATA_DIR": str(settings.data_dir),
        "CELERIAC_AGENTS": "acme.flows",
        "ACME_FLOOR": str(tmp_path),
        "PYTHONPATH": f"{USER_CODE}{os.pathsep}{CHECKOUT}",
        "PYTHONWARNINGS": "ignore",
        **{f"CELERIAC_{name.upper()}": str(value) for name, value in FAST.items()},
    }
    client = Client(settings)
    queues = "acme.first,acme.second,acme.third"
    worker = Worker(["-Q", queues, "-P", "solo"], env, tmp_path, tmp_path / "worker.log")
    try:
        worker.wait_until_ready()
        flower = Flower.start(env, tmp_path)
        try:
            # when a run is done
            run = client.submit("relay", {"text": "x"})
            run.result(timeout=15)
            # then Flower shows it, and the queues
            assert len(flower.rows(run, ["SUCCESS"] * 3)) == 3
            wait_until(
                lambda: "acme.first" in flower.page("/broker"), EVENTS_TIMEOUT, "the broker page lists the queues"
            )
        finally:
            flower.stop()
    finally:
        worker.stop()
        client.app.close()
        client.store.client.close()
