"""Flows within conversations, and conversations within flows, on real workers: all are told what they have to know."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from orchestrator import ConversationResult
from orchestrator.state.fold import fold
from orchestrator.state.fold_conversation import conversations_of, fold_conversation
from tests.integration.checks import check_all
from tests.integration.fleet import FAST, USER_CODE, Deployment
from tests.integration.talks.nested import Found

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator import Run

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("talks")]

MODULE = "tests.integration.talks.nested"
QUEUES = [f"nested.{name}" for name in ("asker", "first", "second", "boss", "work", "join", "fill", "seer")]


@pytest.fixture
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A worker for all members; afterwards nothing is left of what they did."""
    made = Deployment(
        "valkey",
        tmp_path_factory.mktemp("nested"),
        settings=FAST | {"tick": 0.05},
        agents=(MODULE,),
        path=[USER_CODE.parents[1]],
    )
    made.client.settings = made.settings.model_copy(update={"agents": (MODULE,)})
    made.start_worker(queues=QUEUES, pool="asyncio", concurrency=8).wait_until_ready()
    yield made
    check_all(made)
    made.close()


def folds(deployment: Deployment, run: Run) -> None:
    events = list(run.events())
    assert fold(run.id, events) == run.state()
    for step in conversations_of(events):
        assert deployment.client.conversations.load(run.id, step) == fold_conversation(step, events)


def test_members_may_be_a_conversation_and_a_hierarchy_and_a_source_a_conversation(deployment: Deployment) -> None:
    # when a member asks a conversation, and a hierarchy
    run = deployment.client.submit("nested-around", {})
    result = run.result(timeout=30.0)

    # then each was told what it was asked, by whom, in all of its parts
    assert isinstance(result, ConversationResult)
    assert result.decision is not None
    assert result.decision.get(Found) == Found(number=100 * (5 + 1) + (6 + 1) + 6)
    folds(deployment, run)

    # and a conversation that is a source is woken for each change once
    run = deployment.client.submit("nested-board", {})
    assert run.result(timeout=30.0).outcome == "quiet"
    assert len([line for line in run.events() if line.type == "ConversationOpened"]) == 2
    folds(deployment, run)
