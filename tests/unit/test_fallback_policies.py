"""What stands in for an agent's output: the options of `Cached` and `Constant`."""

from __future__ import annotations

import math

import pytest

from orchestrator.errors import InvalidPolicy
from orchestrator.resilience.fallback import Cached, Constant


def test_a_cached_output_is_an_hour_old_at_most_and_of_the_same_input() -> None:
    assert Cached() == Cached(max_age=3600.0, same_input=True)


def test_outputs_of_one_input_are_kept_under_one_name() -> None:
    # given two inputs
    first, second = b'{"text":"a"}', b'{"text":"b"}'

    # then each has a name of its own, the same in every process
    assert Cached().digest(first) == Cached(max_age=1.0).digest(bytes(first))
    assert Cached().digest(first) != Cached().digest(second)


def test_where_any_input_will_do_all_outputs_are_kept_under_one_name() -> None:
    rung = Cached(same_input=False)
    assert rung.digest(b"a") == rung.digest(b"b")
    assert rung.digest(b"a") != Cached().digest(b"a")


@pytest.mark.parametrize("value", [None, 0, "text", {"a": [1]}, [], ("a", 1)])
def test_a_constant_is_any_value(value: object) -> None:
    assert Constant(value).value is value


def test_rungs_are_equal_where_their_options_are() -> None:
    assert Constant({"a": 1}) == Constant({"a": 1})
    assert Constant(1) != Constant(2)
    assert Cached(60.0) != Cached(60.0, same_input=False)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"max_age": 0}, "max_age must be above 0 s and at most a year, not 0"),
        ({"max_age": -1.0}, "max_age must be above 0 s and at most a year, not -1.0"),
        ({"max_age": math.nan}, "max_age must be above 0 s and at most a year, not nan"),
        ({"max_age": math.inf}, "max_age must be above 0 s and at most a year, not inf"),
        ({"max_age": True}, "max_age must be above 0 s and at most a year, not True"),
        ({"max_age": None}, "max_age must be above 0 s and at most a year, not None"),
        ({"same_input": "no"}, "same_input must be True or False, not 'no'"),
    ],
)
def test_an_option_that_does_not_fit_is_an_error_that_names_the_line(options: dict[str, object], why: str) -> None:
    with pytest.raises(InvalidPolicy) as caught:
        Cached(**options)  # type: ignore[arg-type]  # what a user may write
    what, where, said = caught.value.args
    assert (what, said) == ("Cached", why)
    assert where.startswith(f"{__file__}:")
