"""The development server: one command serves a user's own flow, survives deaths, drains, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import threading
import urllib.request
from typing import TYPE_CHECKING, Final

import psutil
import pytest

from orchestrator.cli.ports import any_free
from orchestrator.settings import Settings
from orchestrator.state import embedded
from tests.command_line import Shell
from tests.servers import wait_until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.integration

MODULE: Final = """
import time
from pathlib import Path

from pydantic import BaseModel

from orchestrator import Context, Pipeline, agent

class Note(BaseModel):
    text: str

@agent("letters.shout")
def shout(ctx: Context, note: Note) -> Note:
    Path("started").touch()
    while note.text == "slow" and not Path("go").exists():
        time.sleep(0.02)
    return Note(text=note.text.upper())

letters = Pipeline("letters", [shout])
"""
NOTE: Final = '{"text": "hello"}'


class Up:
    """A running `celeriac up` and what it has said so far."""

    def __init__(self, shell: Shell, *arguments: str) -> None:
        self.shell = shell
        self.process: subprocess.Popen[str] = shell.start("up", "--concurrency", "1", *arguments)
        self.said: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as stream:
            for line in stream:
                self.said.append(line)

    @property
    def text(self) -> str:
        return "".join(self.said)

    def wait_for(self, what: str, *, times: int = 1, timeout: float = 40.0) -> None:
        def is_there() -> bool:
            assert self.process.poll() is None or self.text.count(what) >= times, self.text
            return self.text.count(what) >= times

        wait_until(is_there, timeout, f"up says {what!r} {times} times")

    def wait_until_ready(self) -> None:
        for name in ("letters.shout", "orchestrator"):
            self.wait_for(f"ready    {name}\n")

    def family(self) -> list[psutil.Process]:
        """Every process it has started, however deep; the embedded server is in the family as well."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def end(self) -> int:
        """Wait for its end and return its exit code."""
        code = self.process.wait(timeout=40.0)
        self._reader.join()
        return code


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """A user's folder: a module with a flow, no Redis."""
    (tmp_path / "letters.py").write_text(MODULE)
    quick = {"CELERIAC_LEASE": "1", "CELERIAC_SWEEP": "0.2", "CELERIAC_SHARDS": "2"}
    return Shell(tmp_path, {"CELERIAC_AGENTS": "letters", "PYTHONWARNINGS": "ignore", **quick})


@pytest.fixture
def up(shell: Shell) -> Iterator[Callable[..., Up]]:
    """Start `celeriac up`; ended with all of its family whatever happens."""
    started: list[Up] = []

    def start(*arguments: str) -> Up:
        started.append(Up(shell, *arguments))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            family = one.family()
            one.process.kill()
            one.process.wait()
            gone_within(10.0, family)


def gone_within(timeout: float, family: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(family, timeout=timeout)
    for process in alive:
        process.kill()
    assert not alive, f"still there: {alive}"


def settings_of(shell: Shell) -> Settings:
    return Settings(data_dir=shell.folder / ".celeriac")


def is_working(shell: Shell) -> bool:
    return (shell.folder / "started").exists()


def test_one_command_serves_a_flow_shows_flower_and_drains_on_ctrl_c(shell: Shell, up: Callable[..., Up]) -> None:
    # given
    port = any_free("127.0.0.1")
    server = up("--flower-port", str(port))
    server.wait_until_ready()
    server.wait_for("ready    flower\n")

    # when: another command finds the server, and work is done
    result = shell.run("submit", "letters", "--input", "-", "--wait", stdin=NOTE)

    # then
    assert result.document == {"text": "HELLO"}
    assert "no worker" not in result.err
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthcheck", timeout=10) as answer:
        assert answer.status == 200

    # when: a second development server is started in the same folder
    second = shell.run("up", "--flower-port", str(port))

    # then
    second.assert_one_line("runs in", f"(process {server.process.pid})", "CELERIAC_DATA_DIR")

    # when: Ctrl-C comes while a step is at work
    (shell.folder / "started").unlink()
    run_id = shell.run("submit", "letters", "--input", "-", stdin='{"text": "slow"}').out.strip()
    wait_until(lambda: is_working(shell), 15.0, "the step is at work")
    family = server.family()
    server.process.send_signal(signal.SIGINT)
    server.wait_for("draining letters.shout")
    (shell.folder / "go").touch()

    # then: the step is finished, everything has stopped, and the data are there
    assert server.end() == 0
    gone_within(5.0, family)
    assert embedded.find(settings_of(shell)) is None
    assert shell.run("runs", "show", run_id, "--json").document["result"] == {"text": "SLOW"}


def test_killed_worker_is_restarted_and_told_and_its_run_goes_on(shell: Shell, up: Callable[..., Up]) -> None:
    # given
    server = up("--no-flower")
    server.wait_until_ready()
    run_id = shell.run("submit", "letters", "--input", "-", stdin='{"text": "slow"}').out.strip()
    wait_until(lambda: is_working(shell), 15.0, "the step is at work")

    # when
    workers = [one for one in server.family() if "--queues=letters.shout" in one.cmdline()]
    (worker,) = [one for one in workers if one.ppid() == server.process.pid]
    worker.kill()
    server.wait_for("ready    letters.shout\n", times=2)
    (shell.folder / "go").touch()

    # then
    assert "killed by SIGKILL" in server.text
    assert "restarting in 1 s" in server.text
    result = shell.run("runs", "watch", run_id, "--timeout", "30")
    assert result.code == 0
    assert "RunCompleted" in result.out

    # when: the embedded server and its keeper are killed
    data_dir = shell.folder / ".celeriac"
    keeper = psutil.Process(int((data_dir / "keeper.lock").read_text()))
    killed = [keeper, *keeper.children()]
    for process in killed:
        process.kill()
    server.wait_for("started  state  the embedded server answers again")

    # then it is told, and nothing is lost
    assert "died     state  the embedded server is being restarted" in server.text
    assert shell.run("runs", "show", run_id, "--json").document["result"] == {"text": "SLOW"}
    assert shell.run("submit", "letters", "--input", "-", "--wait", "--timeout", "30", stdin=NOTE).code == 0

    # when: nobody needs anything any more, SIGTERM is as good as Ctrl-C
    server.process.terminate()

    # then
    assert server.end() == 0


def test_nothing_outlives_an_up_that_is_killed(shell: Shell, up: Callable[..., Up]) -> None:
    # given
    server = up("--no-flower", "--json")
    server.wait_for('"started"', times=2)
    family = server.family()
    keeper = int((shell.folder / ".celeriac" / "keeper.lock").read_text())
    assert keeper in {process.pid for process in family}

    # when
    os.kill(server.process.pid, signal.SIGKILL)

    # then
    server.end()
    gone_within(10.0, family)
    assert embedded.find(settings_of(shell)) is None
    events = [json.loads(line) for line in server.said]
    assert {event["name"] for event in events if event["event"] == "started"} == {"letters.shout", "orchestrator"}


def test_second_ctrl_c_ends_a_step_that_takes_too_long(shell: Shell, up: Callable[..., Up]) -> None:
    # given
    server = up("--no-flower")
    server.wait_until_ready()
    shell.run("submit", "letters", "--input", "-", stdin='{"text": "slow"}')
    wait_until(lambda: is_working(shell), 15.0, "the step is at work")
    server.process.send_signal(signal.SIGINT)
    server.wait_for("draining letters.shout")

    # when
    server.process.send_signal(signal.SIGINT)

    # then
    assert server.end() == 1
    assert "letters.shout  still there, sending SIGQUIT" in server.text


def test_worker_that_cannot_start_is_told_with_its_last_words(shell: Shell, up: Callable[..., Up]) -> None:
    # given: a module that only a worker cannot import
    (shell.folder / "letters.py").write_text(
        MODULE + "\nimport sys\nif 'worker' in sys.argv:\n    raise RuntimeError('no model here')\n"
    )

    # when
    server = up("--no-flower")
    server.wait_for("died")

    # then
    server.wait_for("no model here")
    server.process.send_signal(signal.SIGINT)
    assert server.end() == 0


def test_submit_says_where_no_worker_runs_and_nothing_where_one_does(shell: Shell) -> None:
    # when
    alone = shell.run("submit", "letters", "--input", "-", stdin=NOTE)
    waited = shell.run("runs", "watch", alone.out.strip(), "--timeout", "0.1")

    # then
    assert alone.code == 0
    assert alone.err == "no worker runs here: start `celeriac up` in another terminal\n"
    assert waited.err.startswith("no worker runs here")

    # when: the plain worker of the folder is there
    worker = shell.start("worker", "--pool", "solo")
    try:
        assert worker.stdout is not None
        for line in worker.stdout:
            if " ready." in line:
                break
        served = shell.run("submit", "letters", "--input", "-", stdin=NOTE)
    finally:
        worker.terminate()
        worker.communicate(timeout=30)

    # then
    assert served.code == 0
    assert served.err == ""
