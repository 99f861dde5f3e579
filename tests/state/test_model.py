"""The log is the truth: whatever happens in whatever order, a run, its log and its indexes agree."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import hypothesis
import pytest
from hypothesis.stateful import run_state_machine_as_test

from orchestrator.state.runs import RunStore
from tests.state.machine import LIMITS, Runs

if TYPE_CHECKING:
    from redis import Redis

    from orchestrator import Settings
    from tests.servers import Server


@pytest.mark.parametrize("times", [1, pytest.param(10, marks=pytest.mark.chaos)])
@pytest.mark.timeout(600)  # where it fails, the shortest example is worth waiting for
def test_a_run_agrees_with_its_log_whatever_arrives_in_whatever_order(
    server: Server, redis_client: Redis, settings: Settings, times: int
) -> None:
    # given a store of runs
    store = RunStore(redis_client, settings.model_copy(update=LIMITS))

    # when everything that can happen does, in orders that Hypothesis chooses, then nothing that must hold is broken
    run_state_machine_as_test(
        cast("type[Runs]", lambda: Runs(store)),  # documented as a class or a function that makes a machine
        settings=hypothesis.settings(
            max_examples=times * (60 if server.kind == "valkey" else 10),
            stateful_step_count=40,
            deadline=None,
            print_blob=True,
            report_multiple_bugs=False,
        ),
    )
