"""The supervisor of `celeriac up`, with small children and a clock that stands until it is moved."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from orchestrator import Settings
from orchestrator.cli import fleet
from orchestrator.cli.fleet import Options
from orchestrator.cli.supervisor import Change, Spec, Supervisor
from tests.command_line import CHECKOUT
from tests.servers import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

SLEEPS = "import time; print('up', flush=True); time.sleep(60)"
FAILS = "print('first'); print('second'); raise SystemExit(3)"
FINISHES = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (print("drained", flush=True), sys.exit(0)))
print("up", flush=True); time.sleep(60)
"""
STUBBORN = """
import signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGQUIT, lambda *_: (print("quit", flush=True), sys.exit(0)))
print("up", flush=True); time.sleep(60)
"""
IMMORTAL = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGQUIT, signal.SIG_IGN)
print("up", flush=True); time.sleep(60)
"""


class Clock:
    """Monotonic seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Scene:
    """A supervisor, its clock, and what it reported."""

    def __init__(self, logs: Path) -> None:
        self.logs = logs
        self.clock = Clock()
        self.changes: list[Change] = []
        self.supervisor: Supervisor

    def start(self, *specs: Spec, grace: float = 30.0) -> Supervisor:
        self.supervisor = Supervisor(
            specs,
            logs=self.logs,
            environment=os.environ,
            report=self.changes.append,
            grace=grace,
            clock=self.clock,
        )
        self.supervisor.start()
        return self.supervisor

    def process(self, number: int = 0) -> subprocess.Popen[bytes]:
        process = self.supervisor.children[number].process
        assert process is not None
        return process

    def wait_for(self, text: str, number: int = 0) -> None:
        log = self.supervisor.children[number].log
        wait_until(lambda: text in log.read_text(), 10.0, f"the child prints {text!r}")

    def told(self, what: str) -> list[Change]:
        return [change for change in self.changes if change.what == what]


def child(name: str, code: str, *, stage: int = 0) -> Spec:
    signals = (signal.SIGTERM, signal.SIGQUIT, signal.SIGKILL)
    return Spec(name=name, command=(sys.executable, "-c", code), stage=stage, signals=signals)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tmp_path)
    yield scene
    scene.supervisor.kill()


def test_dead_child_is_restarted_with_doubling_delays_up_to_thirty_seconds(scene: Scene) -> None:
    # given
    supervisor = scene.start(child("fails", FAILS))
    delays = []

    # when
    for _ in range(7):
        scene.process().wait()
        supervisor.tick()
        died = scene.clock.now
        while supervisor.children[0].state == "restarting":
            scene.clock.now += 0.5
            supervisor.tick()
        delays.append(scene.clock.now - died)

    # then
    assert delays == [1, 2, 4, 8, 16, 30, 30]
    assert supervisor.children[0].restarts == 7


def test_minute_of_health_makes_the_next_death_count_as_the_first(scene: Scene) -> None:
    # given
    supervisor = scene.start(child("fails", FAILS))
    supervisor.children[0].failures = 5

    # when
    scene.clock.now += 60.0
    scene.process().wait()
    supervisor.tick()

    # then
    assert "restarting in 1 s" in scene.told("died")[0].detail


def test_early_death_is_told_with_its_cause_and_last_log_lines(scene: Scene) -> None:
    # given
    supervisor = scene.start(child("fails", FAILS))

    # when
    scene.process().wait()
    supervisor.tick()

    # then
    (change,) = scene.told("died")
    assert change.name == "fails"
    assert "exit code 3" in change.detail
    assert "restarting in 1 s" in change.detail
    assert change.lines == ("first", "second")


def test_killed_child_is_told_by_the_signals_name_and_without_log_lines_when_it_had_worked(
    scene: Scene,
) -> None:
    # given
    supervisor = scene.start(child("sleeps", SLEEPS))
    scene.wait_for("up")
    scene.clock.now += 10.0

    # when
    scene.process().kill()
    scene.process().wait()
    supervisor.tick()

    # then
    (change,) = scene.told("died")
    assert "killed by SIGKILL after 10 s" in change.detail
    assert change.lines == ()


def test_drain_ends_the_stages_in_order_and_lets_a_child_finish(scene: Scene) -> None:
    # given
    supervisor = scene.start(child("flower", FINISHES, stage=1), child("worker", FINISHES))
    scene.wait_for("up", 0)
    scene.wait_for("up", 1)

    # when
    supervisor.drain()
    scene.process(1).wait()
    assert [waited.spec.name for waited in supervisor.waiting_for] == ["worker"]
    supervisor.tick()
    scene.process(0).wait()
    supervisor.tick()

    # then
    assert supervisor.finished
    assert [change.name for change in scene.told("stopped")] == ["worker", "flower"]
    assert "drained" in (scene.logs / "worker.log").read_text()


def test_drained_child_is_not_restarted(scene: Scene) -> None:
    # given
    supervisor = scene.start(child("fails", FAILS))
    scene.process().wait()
    supervisor.tick()

    # when
    supervisor.drain()
    scene.clock.now += 60.0
    supervisor.tick()

    # then
    assert supervisor.finished
    assert len(scene.told("started")) == 1


def test_second_interrupt_sends_the_stronger_signal_at_once(scene: Scene) -> None:
    # given
    supervisor = scene.start(child("stubborn", STUBBORN))
    scene.wait_for("up")
    supervisor.drain()

    # when
    supervisor.hurry()
    scene.process().wait()
    supervisor.tick()

    # then
    assert supervisor.finished
    assert "quit" in (scene.logs / "stubborn.log").read_text()


def test_child_that_ignores_everything_is_killed_when_its_grace_is_over(scene: Scene) -> None:
    # given
    supervisor = scene.start(child("immortal", IMMORTAL), grace=30.0)
    scene.wait_for("up")
    supervisor.drain()

    # when
    for passed in (29.0, 1.0, 5.0):
        scene.clock.now += passed
        supervisor.tick()
    scene.process().wait()
    supervisor.tick()

    # then
    assert supervisor.finished
    assert [change.detail for change in scene.told("killed")] == [
        "still there, sending SIGQUIT",
        "still there, sending SIGKILL",
    ]


def test_one_previous_log_is_kept_and_restarts_continue_the_current_one(scene: Scene) -> None:
    # given
    (scene.logs / "fails.log").write_text("of yesterday\n")

    # when
    supervisor = scene.start(child("fails", FAILS))
    scene.process().wait()
    supervisor.tick()
    scene.clock.now += 1.0
    supervisor.tick()
    scene.process().wait()

    # then
    assert (scene.logs / "fails.log.1").read_text() == "of yesterday\n"
    assert (scene.logs / "fails.log").read_text() == "first\nsecond\n" * 2


def test_children_are_out_of_reach_of_the_terminals_ctrl_c(scene: Scene) -> None:
    # when
    scene.start(child("sleeps", SLEEPS))

    # then
    assert os.getpgid(scene.process().pid) != os.getpgrp()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends the children of a killed process")
def test_children_do_not_outlive_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    # given
    code = f"""
import os, sys
from pathlib import Path
from orchestrator.cli.supervisor import Spec, Supervisor
spec = Spec(name="sleeps", command=(sys.executable, "-c", {SLEEPS!r}))
s = Supervisor([spec], logs=Path({str(tmp_path)!r}), environment=os.environ, report=lambda change: None)
s.start()
print(s.children[0].pid, flush=True)
sys.stdin.read()
"""
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen(  # noqa: S603  our own interpreter
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root
    ) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        wait_until(lambda: "up" in (tmp_path / "sleeps.log").read_text(), 10.0, "the child is up")

        # when
        process.kill()

    # then
    wait_until(lambda: is_gone(pid), 5.0, "the child is gone")


def is_gone(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def test_a_worker_of_the_fleet_brings_neither_flower_nor_a_shell_along(tmp_path: Path) -> None:
    # given a worker that has said what options it has, so that it has read Celery's part of the command line
    code = (
        f"import sys\nfrom {fleet.WORKER} import run\n"
        "try:\n    run(['--help'])\nexcept SystemExit:\n"
        "    loaded = {name.partition('.')[0] for name in sys.modules}\n"
        "    raise SystemExit(', '.join(loaded & {'flower', 'tornado', 'prompt_toolkit', 'click_repl'}))\n"
    )
    done = subprocess.run(  # noqa: S603  our own interpreter
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(CHECKOUT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    # then what Celery's other commands need is not there
    assert done.stderr.strip() == ""
    assert "--concurrency" in done.stdout


def test_fleet_is_a_pool_per_agent_one_for_starts_and_flower_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fleet, "agents", lambda: dict.fromkeys(["fleet.one", "fleet.two"]))
    options = Options(concurrency=2, numbers={"fleet.two": 8}, flower_port=5599)

    # when
    found = {spec.name: spec for spec in fleet.specs(Settings(pool="threads"), options)}

    # then
    assert list(found) == ["fleet.one", "fleet.two", "orchestrator", "flower"]
    assert {"--queues=fleet.one", "--concurrency=2", "--pool=threads"} <= set(found["fleet.one"].command)
    assert "--concurrency=8" in found["fleet.two"].command
    assert "--port=5599" in found["flower"].command
    assert found["flower"].stage > found["fleet.one"].stage


def test_flower_takes_its_configuration_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "flower.py").touch()
    monkeypatch.chdir(tmp_path)

    # when
    found = fleet.specs(Settings(), Options(concurrency=1, flower_port=5599))

    # then
    assert "--conf=config/flower.py" in found[-1].command
    assert fleet.specs(Settings(), Options(concurrency=1, flower_port=None))[-1].name == "orchestrator"


def test_children_find_the_data_whatever_their_folder_is(tmp_path: Path) -> None:
    # when
    found = fleet.environment(tmp_path, ["acme.agents", "acme.more"])

    # then
    assert found["CELERIAC_DATA_DIR"] == str(tmp_path)
    assert found["CELERIAC_AGENTS"] == "acme.agents,acme.more"
