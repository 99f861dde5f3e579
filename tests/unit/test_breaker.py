"""What a breaker may be told."""

from __future__ import annotations

import math
from typing import Any

import pytest

from orchestrator.errors import InvalidPolicy
from orchestrator.resilience.breaker import Breaker
from orchestrator.state import keys


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"failures": 0}, "failures must be a whole number, 1 or more, not 0"),
        ({"minimum": 0}, "minimum must be a whole number, 1 or more, not 0"),
        ({"probes": 1.5}, "probes must be a whole number, 1 or more, not 1.5"),
        ({"closes": -1}, "closes must be a whole number, 1 or more, not -1"),
        ({"rate": 0.0}, "rate must be above 0 and at most 1, not 0.0"),
        ({"rate": 50}, "rate must be above 0 and at most 1, not 50"),
        ({"window": 0.01}, "window must be 0.1 s to a day, not 0.01"),
        ({"window": math.nan}, "window must be 0.1 s to a day, not nan"),
        ({"cooldown": 0.0}, "cooldown must be 0.01 s to a day, not 0.0"),
        ({"cooldown": math.inf}, "cooldown must be 0.01 s to a day, not inf"),
        ({"slow": 0.0}, "slow must be above 0 s and finite, not 0.0"),
        ({"failures": True}, "failures must be a whole number, 1 or more, not True"),
        ({"rate": "half"}, "rate must be above 0 and at most 1, not 'half'"),
        ({"window": "60"}, "window must be 0.1 s to a day, not '60'"),
        ({"cooldown": None}, "cooldown must be 0.01 s to a day, not None"),
        ({"slow": "2"}, "slow must be above 0 s and finite, not '2'"),
        ({"of": 5}, "of must be a name, not 5"),
        ({"of": ""}, "of must not be empty"),
        ({"when_open": "panic"}, "when_open must be one of auto, wait, fallback, fail, not 'panic'"),
    ],
)
def test_a_breaker_that_does_not_fit_says_where_and_why(options: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidPolicy) as raised:
        Breaker(**options)

    what, where, said = raised.value.args
    assert (what, said) == ("Breaker", why)
    assert where.startswith(__file__)


def test_a_breaker_is_of_the_agent_or_of_what_it_names() -> None:
    assert Breaker().guard("research").key == keys.breaker("research")
    named = Breaker(of="openai/gpt-4.1").guard("research")
    assert (named.name, named.key) == ("openai/gpt-4.1", keys.breaker("openai/gpt-4.1"))


def test_a_share_of_failures_takes_the_place_of_their_number() -> None:
    assert {"failures"} == {"failures", "rate", "minimum"} & Breaker().guard("a").numbers.keys()
    assert {"rate", "minimum"} == {"failures", "rate", "minimum"} & Breaker(rate=0.5).guard("a").numbers.keys()


@pytest.mark.parametrize(
    ("when_open", "fallback", "waits"),
    [
        ("auto", False, True),
        ("auto", True, False),
        ("wait", True, True),
        ("fallback", False, False),
        ("fail", False, False),
    ],
)
def test_an_open_breaker_lets_a_step_wait_as_it_was_told(when_open: Any, fallback: bool, waits: bool) -> None:  # noqa: ANN401, FBT001  rows of the table above
    assert Breaker(when_open=when_open).guard("a", fallback=fallback).waits is waits
