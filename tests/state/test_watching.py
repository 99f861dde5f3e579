"""Watching a run with a large fan-out from the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.command_line import Shell
from tests.servers import on_valkey
from tests.state.test_fan_outs import give, one, store, submit, work

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.state.runs import RunStore

__all__ = ["store"]
MEMBERS = 100


@pytest.fixture
def shell(tmp_path: Path, redis_url: str) -> Shell:
    """A folder to run commands in."""
    return Shell(tmp_path, {"CELERIAC_REDIS_URL": redis_url, "CELERIAC_SHARDS": "2"})


@on_valkey
def test_watching_a_large_fan_out_on_a_pipe_is_a_few_lines_unless_all_are_asked_for(
    store: RunStore, shell: Shell
) -> None:
    # given a run that has ended
    run = submit(store)
    names = [f"work#{number}" for number in range(1, MEMBERS + 1)]
    give(store, run, *(one(name, value=b"1", specialist="work") for name in names))
    work(store, run, *names, "join")

    # when
    watched, verbose = (shell.run("runs", "watch", run, *options) for options in ([], ["--verbose"]))

    # then
    assert (watched.code, verbose.code) == (0, 0)
    told = [line.split()[1] for line in watched.out.splitlines()]
    assert [kind for kind in told if kind != "progress"] == [
        *("RunSubmitted", "StepStarted", "StepDelegated"),
        *("FanOutJoined", "StepStarted", "StepCompleted", "RunCompleted"),
    ]
    assert len(told) < 12
    assert verbose.out.count(" StepCompleted ") == MEMBERS + 1
    assert verbose.out.count("\n") == len(store.events(run))
