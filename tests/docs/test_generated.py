"""The pages that repeat what the code says do so."""

from __future__ import annotations

import re
from typing import get_args

import pytest

import orchestrator
from orchestrator.broker import START_QUEUE
from orchestrator.messages import RunStatus, StepStatus
from orchestrator.runtime.outcomes import StepAgain, StepClosed, StepSuperseded
from orchestrator.state import fold, keys
from tests.docs.generate import REFERENCE, SETTINGS, reference_page, settings_page
from tests.docs.pages import ROOT
from tests.docs.tables import table

WRITE_AGAIN = "run `.venv/bin/python -m tests.docs.generate`"


def test_the_reference_is_what_the_docstrings_say() -> None:
    assert REFERENCE.read_text(encoding="utf-8") == reference_page(), WRITE_AGAIN


def test_the_settings_page_is_what_the_model_and_the_file_say() -> None:
    assert SETTINGS.read_text(encoding="utf-8") == settings_page(), WRITE_AGAIN


def test_every_public_name_has_a_docstring_of_its_own() -> None:
    public = {name: getattr(orchestrator, name) for name in orchestrator.__all__}
    # A class without one shows its parent's.
    own = {
        name: vars(thing).get("__doc__") if isinstance(thing, type) else thing.__doc__ for name, thing in public.items()
    }
    assert [name for name, text in own.items() if not text] == []


def test_the_table_of_events_names_each_event_and_no_other() -> None:
    told = [row[0].strip("`") for row in table("how-it-works.md", "Event")]
    assert sorted(told) == sorted(fold._HANDLERS)  # noqa: SLF001  the one list of all events there is


def test_the_table_of_scripts_names_each_script_and_no_other() -> None:
    told = [row[0].strip("`") for row in table("how-it-works.md", "Script")]
    scripts = (ROOT / "orchestrator" / "state" / "scripts").glob("[a-z]*.lua")
    assert sorted(told) == sorted(path.stem for path in scripts)


@pytest.mark.parametrize(("heading", "statuses"), [("A step is", StepStatus), ("A run is", RunStatus)])
def test_the_tables_of_states_name_each_state(heading: str, statuses: object) -> None:
    told = [row[0].strip("`") for row in table("how-it-works.md", heading)]
    assert sorted(told) == sorted(get_args(statuses))


def test_the_table_of_keys_names_each_key_and_no_other() -> None:
    # given a key of each kind, with the shard and the run's id as the page writes them
    run_id = "0" * 22 + "07"
    shard = keys.shard_of(run_id)
    of_runs = [
        *keys.of_run(run_id),
        keys.blob(run_id, "<name>"),
        keys.board(run_id, "<step>"),
        keys.talk(run_id, "<step>"),
    ]
    of_runs.append(keys.idempotency(run_id, "tenant", "key"))
    patterns = {
        re.sub(r"(?<=:key:)\w+", "<digest>", re.sub(r"(?<=:runs:)\w+", "<status>", key))
        .replace(run_id, "<id>")
        .replace(shard, "{sNN}")
        for key in of_runs
    }
    of_guards = {
        *(keys.GUARD_MEMBERS, keys.GUARD_HOLDS, keys.GUARD_WAITING, keys.GUARD_BREAKERS, keys.GUARD_BUDGETS),
        *(key("<agent>") for key in (keys.guard_queue, keys.guard_turns, keys.retry_budget, keys.pause)),
        *(key("<name>") for key in (keys.breaker, keys.slots, keys.budget)),
        keys.rate("<name>", 1000).replace("1000", "<ms>"),
        keys.good("<agent>", "<digest>"),
    }
    # then the page has them all
    told = {row[0].strip("`") for row in table("how-it-works.md", "Key")}
    assert told == {*patterns, *of_guards, keys.CARETAKER, keys.UNREADABLE}


def test_the_states_that_flower_shows_are_those_the_code_sends() -> None:
    page = (ROOT / "docs" / "inspect-in-flower.md").read_text(encoding="utf-8")
    state_of = {"task-retried": "RETRY", "task-rejected": "REJECTED", "task-revoked": "REVOKED"}
    for outcome in (StepAgain, StepClosed, StepSuperseded):
        assert f"| `{state_of[outcome.event]}` |" in page
    assert f"`{START_QUEUE}.start`" in page
