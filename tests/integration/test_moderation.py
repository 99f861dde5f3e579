"""The moderation flow in a real worker, with a language model that is away: what its steps do then."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

import pytest

from tests.endpoint import Endpoint, completion, serving
from tests.integration.checks import check_all
from tests.integration.fleet import CHECKOUT, FAST, Deployment
from workers.moderation import moderation

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.endpoint import Json

pytestmark = pytest.mark.integration

AGENTS: Final = ("workers.moderation",)
STAGES: Final = ("ingest", "redact", "classify", "rules", "summarise", "quote", "publish")
DOCUMENT: Final = {
    "id": "note",
    "text": "The tide tables of the harbour are printed each spring. Ask at the office for them.",
}
AWAY: Final[tuple[int, Json]] = (503, {"error": {"message": "overloaded"}})


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Deployment]:
    """A worker for all stages, whose model is `Endpoint`."""
    with serving(Endpoint) as url:
        env = {"CELERIAC_MODEL": "tiny", "CELERIAC_MODEL_URL": url}
        made = Deployment("valkey", tmp_path, settings=FAST, agents=AGENTS, path=(CHECKOUT,), env=env)
        made.client.settings = made.settings.model_copy(update={"agents": AGENTS})
        queues = tuple(f"moderation.{stage}" for stage in STAGES)
        made.start_worker(queues=queues, pool="asyncio", concurrency=8).wait_until_ready()
        yield made
        check_all(made)
        made.close()


def test_a_model_that_is_away_for_a_moment_is_asked_again(place: Deployment) -> None:
    # given a model that is overloaded twice
    sure = {"reasons": [], "category": "none", "confidence": 1.0}
    answers = [completion(json.dumps(sure)), completion(json.dumps({"summary": "Tide tables are at the office."}))]
    Endpoint.answers = [AWAY, AWAY, *((200, answer) for answer in answers)]
    # when a document is moderated
    run = place.client.submit(moderation, DOCUMENT)
    result = run.result(timeout=60)
    # then the model has judged and summarised it in the end, and no worker waited
    assert (result.decided_by, result.summarised_by) == ("model:tiny", "model:tiny")
    assert [event.type for event in run.events()].count("StepDelayed") == 2
    assert not run.state().degraded


def test_rules_and_quotations_stand_in_for_a_model_that_is_away_for_long(place: Deployment) -> None:
    # given a model that is overloaded, and stays so
    Endpoint.answers = [AWAY]
    # when a document is moderated
    run = place.client.submit(moderation, DOCUMENT)
    result = run.result(timeout=60)
    # then the rules have judged it, and its own sentences are its summary
    assert (result.decided_by, result.summarised_by) == ("rules", "extract")
    assert result.summary.startswith("The tide tables of the harbour")
    # and the run says why
    state = run.state()
    reasons = {step.name: step.reason or "" for step in state.steps if step.degraded}
    assert sorted(reasons) == ["classify", "summarise"]
    assert "overloaded" in reasons["classify"]
    # and once the breaker was open nobody asked in vain
    assert len(Endpoint.asked) <= 5
