"""The pages that repeat what the code says do so."""

from __future__ import annotations

import re

import orchestrator
from orchestrator.broker import START_QUEUE
from orchestrator.runtime.outcomes import StepAgain, StepClosed, StepSuperseded
from orchestrator.state import fold, keys
from tests.docs.generate import REFERENCE, SETTINGS, reference_page, settings_page
from tests.docs.pages import ROOT

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
    page = (ROOT / "docs" / "how-it-works.md").read_text(encoding="utf-8")
    told = re.findall(r"^\| `((?:Run|Step|Effect)\w+)` \|", page, re.MULTILINE)
    assert sorted(told) == sorted(fold._HANDLERS)  # noqa: SLF001  the one list of all events there is


def test_the_table_of_keys_names_each_key() -> None:
    # given a key of each kind, with the shard and the run's id as the page writes them
    run_id = "0" * 22 + "07"
    shard = keys.shard_of(run_id)
    of_runs = [*keys.of_run(run_id), keys.blob(run_id, "<name>"), keys.idempotency(run_id, "tenant", "key")]
    patterns = {
        re.sub(r"(?<=:key:)\w+", "<digest>", re.sub(r"(?<=:runs:)\w+", "<status>", key))
        .replace(run_id, "<id>")
        .replace(shard, "{sNN}")
        for key in of_runs
    }
    # then the page has them all
    page = (ROOT / "docs" / "how-it-works.md").read_text(encoding="utf-8")
    missing = [pattern for pattern in {*patterns, keys.CARETAKER, keys.UNREADABLE} if f"| `{pattern}` |" not in page]
    assert missing == []


def test_the_states_that_flower_shows_are_those_the_code_sends() -> None:
    page = (ROOT / "docs" / "inspect-in-flower.md").read_text(encoding="utf-8")
    state_of = {"task-retried": "RETRY", "task-rejected": "REJECTED", "task-revoked": "REVOKED"}
    for outcome in (StepAgain, StepClosed, StepSuperseded):
        assert f"| `{state_of[outcome.event]}` |" in page
    assert f"`{START_QUEUE}.start`" in page
