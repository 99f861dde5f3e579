"""What limits and budgets may be told."""

from __future__ import annotations

import subprocess
import sys
from decimal import Decimal
from typing import Any, cast

import pytest

from orchestrator.errors import InvalidPolicy
from orchestrator.resilience.breaker import Breaker, CircuitBreaker
from orchestrator.resilience.budget import Budget, Spend
from orchestrator.resilience.limit import Concurrency, RateLimit, RateLimiter
from orchestrator.state import keys

LADDER = "ladder takes each of cheaper, cached, partial, stop once"


@pytest.mark.parametrize(
    ("policy", "options", "why"),
    [
        (RateLimit, {}, "give requests, tokens or both"),
        (RateLimit, {"requests": 0}, "requests must be a whole number, 1 or more, not 0"),
        (RateLimit, {"tokens": 1.5}, "tokens must be a whole number, 1 or more, not 1.5"),
        (RateLimit, {"requests": 1, "per": 0.01}, "per must be 0.1 s to 31 days, not 0.01"),
        (RateLimit, {"requests": 1, "of": ""}, "of must not be empty"),
        (Concurrency, {}, "give total, per_tenant or both"),
        (Concurrency, {"total": 0}, "total must be a whole number, 1 or more, not 0"),
        (Concurrency, {"total": 1, "of": ""}, "of must not be empty"),
        (RateLimit, {"requests": True}, "requests must be a whole number, 1 or more, not True"),
        (RateLimit, {"requests": 1, "per": "x"}, "per must be 0.1 s to 31 days, not 'x'"),
        (RateLimit, {"requests": 1, "of": 5}, "of must be a name, not 5"),
        (Concurrency, {"per_tenant": "2"}, "per_tenant must be a whole number, 1 or more, not '2'"),
        (Concurrency, {"total": 1, "of": ["x"]}, "of must be a name, not ['x']"),
        (Budget, {"cost": "5"}, "cost must be 0 or more and finite, an int or a float, not '5'"),
        (Budget, {"tokens": True}, "tokens must be 0 or more and finite, an int or a float, not True"),
        (Budget, {"tokens": 1, "ladder": "stop"}, "ladder takes a tuple of rungs, not 'stop'"),
        (Budget, {"tokens": 1, "ladder": 5}, "ladder takes a tuple of rungs, not 5"),
        (Spend, {"cost": Decimal(5)}, "cost must be 0 or more and finite, an int or a float, not Decimal('5')"),
        (Spend, {"tokens": 10**19}, "tokens must be at most 1,000,000,000,000,000"),
        (Budget, {"cost": 1e10}, "cost must be at most 1,000,000,000"),
        (Budget, {}, "give tokens, cost or both"),
        (Budget, {"tokens": -1}, "tokens must be 0 or more and finite, not -1"),
        (Budget, {"cost": float("inf")}, "cost must be 0 or more and finite, not inf"),
        (Budget, {"tokens": 1, "ladder": ("stop", "beg")}, f"{LADDER}, not ('stop', 'beg')"),
        (Budget, {"tokens": 1, "ladder": ("stop", "stop")}, f"{LADDER}, not ('stop', 'stop')"),
        (Spend, {"tokens": -1}, "tokens must be 0 or more and finite, not -1"),
        (Spend, {"tokens": 0.5}, "tokens must be a whole number, not 0.5"),
        (Spend, {"cost": float("nan")}, "cost must be 0 or more and finite, not nan"),
    ],
)  # fmt: skip
def test_a_limit_that_does_not_fit_says_where_and_why(policy: Any, options: dict[str, Any], why: str) -> None:  # noqa: ANN401  any of them
    with pytest.raises(InvalidPolicy) as raised:
        policy(**options)

    what, where, said = raised.value.args
    assert (what, said) == (policy.__name__, why)
    assert where.startswith(__file__)


def test_what_is_no_policy_or_no_amount_is_refused_outside_of_agents_too() -> None:
    client: Any = None  # nothing of it is asked
    with pytest.raises(InvalidPolicy, match=r"test_limit.py:\d+\): policy takes RateLimit\(...\), not 5"):
        RateLimiter(client, "x", cast("Any", 5))
    with pytest.raises(InvalidPolicy, match=r"test_limit.py:\d+\): policy takes Breaker\(...\), not RateLimit"):
        CircuitBreaker(client, "x", cast("Any", RateLimit(requests=1)))
    with pytest.raises(InvalidPolicy, match=r"test_limit.py:\d+\): hold must be above 0 s and finite, not '1'"):
        CircuitBreaker(client, "x", Breaker(), hold=cast("Any", "1"))


def test_limits_of_the_same_name_and_time_share_their_state() -> None:
    assert RateLimit(requests=1, per=0.5).guard("a").key == keys.rate("a", 500)
    assert RateLimit(requests=1, of="x").guard("a").key == RateLimit(tokens=9, of="x").guard("b").key
    assert RateLimit(requests=1, per=1.0, of="x").guard("a").key != RateLimit(requests=1, of="x").guard("a").key
    assert Concurrency(total=1, of="x").guard("a").key == Concurrency(per_tenant=1, of="x").guard("b").key


def test_a_guard_says_all_that_a_script_needs() -> None:
    assert RateLimit(requests=3, per=1.5, of="x").guard("a").parts() == (
        *("rate", "x", keys.rate("x", 1500), True),
        *(1500, 3, False),
    )
    # what no script can count to is as good as no limit
    assert Concurrency(total=10**30).guard("a").parts()[-2:] == (2**63 - 1, False)


def test_what_was_spent_adds_up() -> None:
    assert Spend(tokens=1, cost=0.5) + Spend(tokens=2) == Spend(tokens=3, cost=0.5)
    assert not Spend()
    assert Spend(cost=0.1)


def test_declaring_policies_does_not_pay_for_redis() -> None:
    code = (
        "import sys, orchestrator.resilience.breaker, orchestrator.resilience.limit, orchestrator.resilience.budget;"
        "sys.exit('redis' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0  # noqa: S603  ourselves
