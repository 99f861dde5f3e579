"""A user's package in a folder of its own, run from the built wheel, out of reach of this checkout."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
from typing import TYPE_CHECKING

import pytest

from tests.integration.fleet import CHECKOUT, QUEUES, USER_CODE, Worker

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.integration.fleet import Deployment

pytestmark = pytest.mark.integration

WHERE = """
import importlib.util, json, orchestrator
print(json.dumps([orchestrator.__file__, [n for n in ("workers", "tests", "config", "benchmarks")
                                          if importlib.util.find_spec(n)]]))
"""
PRODUCE = """
from acme.flows import relay
from orchestrator import Client
print(Client().submit(relay, {"text": "from afar"}).result(timeout=20).model_dump_json())
"""


def output(*command: object, **options: object) -> str:
    """Run a command; return what it printed."""
    done = subprocess.run(  # type: ignore[call-overload]  # noqa: S603  our own command; options are passed on
        [str(part) for part in command], check=False, capture_output=True, text=True, timeout=60, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return str(done.stdout)


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """The interpreter of a fresh environment with the wheel, and our dependencies but not our checkout in reach."""
    wheels = tmp_path / "wheels"
    output(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", wheels, cwd=CHECKOUT)
    (wheel,) = wheels.iterdir()
    environment = tmp_path / "environment"
    output(sys.executable, "-m", "venv", "--without-pip", environment)
    made = environment / "bin" / "python"
    output(sys.executable, "-m", "pip", "-q", "--python", made, "install", "--no-deps", "--no-index", wheel)
    # A line in a .pth file adds a folder without reading the .pth files in it, such as the checkout's own.
    packages = output(made, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    (environment.joinpath(packages) / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return made


def test_a_users_package_runs_from_the_wheel_outside_the_checkout(
    make: Callable[..., Deployment], python: Path, tmp_path: Path
) -> None:
    # given a user's folder with their package, and an environment with the wheel
    home = tmp_path / "home"
    shutil.copytree(USER_CODE / "acme", home / "acme", ignore=shutil.ignore_patterns("__pycache__"))
    deployment = make()
    env = {name: value for name, value in deployment.env.items() if name != "PYTHONPATH"}
    where, strangers = json.loads(output(python, "-c", WHERE, cwd=home, env=env))
    assert where.startswith(str(python.parents[1]))
    assert strangers == []
    # when a worker runs there and a producer submits from there
    arguments = ["-Q", ",".join(QUEUES), "-c", "1"]
    worker = Worker(arguments, env, home, deployment.folder / "worker-0.log", [str(python), "-m", "celery"])
    deployment.workers.append(worker)
    worker.wait_until_ready()
    result = json.loads(output(python, "-c", PRODUCE, cwd=home, env=env))
    # then the run completes
    assert result == {"text": "from afar", "steps": 3, "tenant": "default", "tags": {}}
    # and the command is there
    listed = output(python.with_name("celeriac"), "runs", "list", "--json", cwd=home, env=env)
    assert "relay" in listed
