"""Steps executed by the workers' own code in this process, on a real server: what goes in and out of an agent."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

import celery._state
import pytest
from celery import Celery

from orchestrator import AgentFailed, RunFailed
from orchestrator.broker import celery_config
from orchestrator.runtime import process
from orchestrator.runtime.tasks import register_tasks
from orchestrator.state import keys
from tests.state.flows import Aliased, aliasing, begetting, counting, loosely
from tests.state.invariants import look, problems

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from redis import Redis

    from orchestrator import Client, Settings
    from orchestrator.client import Run


@pytest.fixture
def deliver(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Run, str], Any]]:
    """Deliver a step to its agent's task and return what it returns; what it raises is raised."""
    # Celery announces tasks to every app that is finalised later in the process; here each test has its own.
    monkeypatch.setattr(celery._state, "_on_app_finalizers", set(celery._state._on_app_finalizers))  # noqa: SLF001
    app = Celery("test", set_as_current=False)
    app.conf.update(celery_config(settings))
    register_tasks(app)
    worker = process.WorkerProcess(settings)
    monkeypatch.setattr(process, "_processes", {os.getpid(): worker})

    def deliver(run: Run, step: str) -> Any:  # noqa: ANN401  a task's result
        found = run.state().step(step)
        assert found is not None
        return app.tasks[found.agent].apply(kwargs={"run": run.id, "step": step}, throw=True).result

    yield deliver
    worker.store.client.close()
    app.close()


@pytest.mark.parametrize("value", [{"body": "b", "tag": "t"}, Aliased(body="b", tag="t")])
def test_a_model_with_aliases_is_in_an_agent_and_in_the_result_what_it_was_outside(
    client: Client, deliver: Callable[[Run, str], Any], value: object
) -> None:
    # given an input whose fields are called otherwise outside
    run = client.submit(aliasing, value)

    # when its agent has passed it on
    deliver(run, "aliased")

    # then nothing of it is lost
    assert run.result(timeout=1.0) == Aliased(body="b", tag="t")


@pytest.mark.parametrize("value", ["'\udcff'", object()])
def test_an_output_that_cannot_be_written_fails_its_step_with_the_reason(
    client: Client, deliver: Callable[[Run, str], Any], monkeypatch: pytest.MonkeyPatch, value: object
) -> None:
    # given an agent that returns what is no JSON
    agent = loosely.agent_of("loose")
    monkeypatch.setattr(agent, "function", lambda _: {"anything": value})
    run = client.submit(loosely, {"anything": 1})

    # when its step is executed
    with pytest.raises(AgentFailed):
        deliver(run, "loose")

    # then the run tells why
    with pytest.raises(RunFailed, match=r"agent 'state\.loose' returned what cannot be written as JSON"):
        run.result(timeout=1.0)
    assert problems(look(client.store, run.id)) == []


def test_an_input_whose_claim_check_leads_nowhere_fails_its_step_with_the_reason(
    client: Client, deliver: Callable[[Run, str], Any], redis_client: Redis
) -> None:
    # given a run whose large input was evicted
    run = client.submit(counting, {"text": "x" * (client.settings.claim_check_bytes + 1)})
    redis_client.delete(keys.blob(run.id, "input"))

    # when its first step is executed
    with pytest.raises(AgentFailed, match="noeviction"):
        deliver(run, "count")

    # then the run tells why, instead of trying until its attempts are used up
    with pytest.raises(RunFailed, match="noeviction"):
        run.result(timeout=1.0)


@pytest.mark.parametrize("raised", [ValueError("no file '\udcff'"), ValueError("two\nlines"), ValueError("x" * 9000)])
def test_whatever_a_handler_raises_is_its_runs_reason_in_one_short_line(
    client: Client, deliver: Callable[[Run, str], Any], monkeypatch: pytest.MonkeyPatch, raised: Exception
) -> None:
    # given an agent that raises
    def fail(_: object) -> object:
        raise raised

    monkeypatch.setattr(counting.agent_of("count"), "function", fail)
    # pytest-xdist cannot carry what is captured of this from one process to the other.
    monkeypatch.setattr(logging.getLogger("orchestrator.runtime.step"), "disabled", True)
    run = client.submit(counting, {"text": "x"})

    # when its step is executed
    with pytest.raises(AgentFailed) as failed:
        deliver(run, "count")

    # then run and task tell why
    reason = run.state().reason or ""
    assert reason.startswith("count: ValueError: ")
    for text in (reason, str(failed.value)):
        assert len(text) < 600
        assert len(text.splitlines()) == 1
        text.encode()


@pytest.mark.parametrize(("given", "within"), [("", 30.0), ("200", 200.0)])
def test_a_child_has_the_time_of_the_step_that_starts_it(
    client: Client, deliver: Callable[[Run, str], Any], given: str, within: float
) -> None:
    # given an agent with a deadline, in a run that has more time
    run = client.submit(begetting, {"text": given})
    # when it starts another run
    deliver(run, "begets")
    # then that one has the time that is left of the step's, or what it is given
    child = client.get(run.result(timeout=1.0)).state()
    assert within - 5 < (child.deadline_ms - child.created_ms) / 1000 <= within


def test_the_tasks_of_a_workers_app_are_no_producers(monkeypatch: pytest.MonkeyPatch) -> None:
    # given an app with the agents' tasks
    monkeypatch.setattr(celery._state, "_on_app_finalizers", set(celery._state._on_app_finalizers))  # noqa: SLF001
    register_tasks(Celery("worker", set_as_current=False))

    # when a producer in the same process makes an app of its own, then it has none of them
    assert "state.count" not in Celery("producer", set_as_current=False).tasks
