"""Every error of ours: its message, and that it survives the way from one process to another."""

from __future__ import annotations

import inspect
import json
import pickle
from typing import TYPE_CHECKING

import pytest

from orchestrator import errors
from orchestrator.errors import OrchestratorError

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLES: dict[type[OrchestratorError], tuple[object, ...]] = {
    errors.InvalidSettings: ("lease: Input should be greater than 0",),
    errors.DuplicateName: ("agent", "shop.price", "/a.py:1", "/b.py:2"),
    errors.InvalidAgent: ("shop.price", "/a.py:1", "annotate the output"),
    errors.InvalidFlow: ("shop", "/a.py:1", "a pipeline has at least one stage"),
    errors.UnknownAgent: ("shop", "/a.py:1", "shop.prise", "shop.price"),
    errors.AgentsNotFound: ("acme.agents", "ModuleNotFoundError: No module named 'acme'"),
    errors.InvalidInput: ("priority must be high, normal or low",),
    errors.UnknownFlow: ("nothing", "moderation"),
    errors.PayloadTooLarge: ("the input", 20_000_000, 16_777_216),
    errors.TooManySteps: (12_000, 4_000, 15_000),
    errors.KeyConflict: ("ticket-1", "0" * 24),
    errors.RunNotFound: ("0" * 24,),
    errors.RunUnreadable: ("0" * 24, "steps.0.status: Input should be 'ready'"),
    errors.LeaseLost: ("0" * 24, "classify"),
    errors.WriteConflict: ("rota", "week.1: it has changed since it was read"),
    errors.BoardFull: ("rota", "week.1"),
    errors.NoReply: ("critic", "deadline", ""),
    errors.ConversationClosed: ("debate", "it has ended: quiet"),
    errors.BoardClosed: ("rota", "it has ended: goal"),
    errors.LockTimeout: ("rota", "week.1, week.2", 30),
    errors.LockLost: ("week.1",),
    errors.WrongState: ("0" * 24, "no step waits"),
    errors.InvalidGate: ("/a.py:1", "max_revisions must be 0 or more, not -1"),
    errors.InvalidPolicy: ("Retry", "/a.py:1", "max_attempts must be 1 or more, not 0"),
    errors.RetryLater: (2.5, "the file is not there yet"),
    errors.CircuitOpen: ("openai/gpt-4.1", 2.5),
    errors.LimitReached: ("openai/gpt-4.1", 1_000_000),
    errors.RunFailed: ("0" * 24, "classify: ValueError: no"),
    errors.RunCancelled: ("0" * 24, "not needed"),
    errors.AgentFailed: ("classify", "ValueError: no"),
    errors.EmbeddedServerError: ("the server did not start",),
}
ABSTRACT = {errors.BoardError, errors.DefinitionError, errors.StateError}


def concrete(of: type[OrchestratorError] = OrchestratorError) -> Iterator[type[OrchestratorError]]:
    """Give the errors that this project defines and raises."""
    for kind in of.__subclasses__():
        if kind.__module__ == errors.__name__ and kind not in ABSTRACT:
            yield kind
        yield from concrete(kind)


def test_every_error_has_an_example_here() -> None:
    assert set(concrete()) == set(EXAMPLES)


@pytest.mark.parametrize("kind", EXAMPLES)
def test_an_error_is_the_same_after_pickle_and_after_json(kind: type[OrchestratorError]) -> None:
    # given an error
    error = kind(*EXAMPLES[kind])

    # when it is pickled, or rebuilt from its arguments as Celery's JSON results do
    copies = [pickle.loads(pickle.dumps(error)), kind(*json.loads(json.dumps(error.args)))]  # noqa: S301  our own

    # then it is what it was
    for copy in copies:
        assert type(copy) is kind
        assert copy.args == error.args == EXAMPLES[kind]
        assert str(copy) == str(error)


@pytest.mark.parametrize("kind", EXAMPLES)
def test_an_error_says_in_one_line_what_it_is_about(kind: type[OrchestratorError]) -> None:
    message = str(kind(*EXAMPLES[kind]))

    assert len(message.splitlines()) == 1
    for argument in EXAMPLES[kind]:
        told = f"{argument:,}" if isinstance(argument, int) else str(argument)
        assert told in message


def test_the_tree_at_the_top_of_the_module_names_every_error() -> None:
    drawn = inspect.getdoc(errors) or ""

    assert [kind.__name__ for kind in {*EXAMPLES, *ABSTRACT} if f" {kind.__name__}" not in drawn] == []


def test_a_run_cancelled_without_a_reason_says_so() -> None:
    assert str(errors.RunCancelled("r", "")) == "run r was cancelled: no reason was given"
