"""Budgets of runs, their parents and tenants."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.resilience.budget import Spend
from orchestrator.resilience.limit import Concurrency
from orchestrator.state import keys
from orchestrator.state.guards import Refused
from tests.state.fleet import Fleet, admitted, nothing_is_held, refused

if TYPE_CHECKING:
    from redis import Redis


def test_a_budget_and_those_above_it_must_all_have_room(redis_client: Redis) -> None:
    # given a run, its parent and a tenant
    fleet = Fleet(redis_client)
    fleet.store.set_budget("run:parent", tokens=100, ttl_ms=60_000)
    fleet.store.set_budget("run:child", tokens=1000, cost=0.5, ttl_ms=60_000)
    family = ["run:child", "run:parent", "tenant:acme"]

    # when a call takes what the parent has left, then nothing more of it is to be had, by anyone
    admitted(fleet.ask("a/step", tokens=80, cost=0.2, budgets=family))
    assert fleet.ask(tokens=21, budgets=family, wait=True) == Refused("budget", "run:parent", -1)
    admitted(fleet.ask("b/step", tokens=20, budgets=family))
    assert refused(fleet.ask(tokens=1, budgets=family)).name == "run:parent"
    assert fleet.ask(cost=0.31, budgets=family) == Refused("budget", "run:child", -1)

    # then what costs nothing is still let through
    admitted(fleet.ask(tokens=0, budgets=family))

    # when they end and say what they used, then the rest is back, and what was used beyond the estimate counts
    fleet.end("a/step", used=Spend(tokens=30, cost=0.1))
    fleet.end("b/step", used=Spend(tokens=60))
    parent, child = (fleet.store.budget(name) for name in family[:2])
    assert parent is not None
    assert child is not None
    assert (parent.used_tokens, child.used_tokens, child.used_cost) == (90, 90, 0.1)
    assert fleet.store.budget("tenant:acme") is None


def test_a_reservation_counts_where_nobody_says_what_was_used(redis_client: Redis) -> None:
    # given calls with a budget: one ends without a word, one is lost, one is forgotten
    fleet = Fleet(redis_client)
    fleet.store.set_budget("run:r", tokens=100, ttl_ms=600_000)
    for member in ("a/step", "b/step", "c/step"):
        admitted(fleet.ask(member, tokens=10, budgets=["run:r"], hold=5))
    fleet.end("a/step")
    fleet.store.forget("model", "b/step")
    fleet.clock.forward(5)
    fleet.store.waiting()

    # then all are counted
    found = fleet.store.budget("run:r")
    assert found is not None
    assert found.used_tokens == 30


def test_a_tenant_s_budget_renews_and_those_who_wait_for_that_go_on(redis_client: Redis) -> None:
    # given a tenant's budget for an hour, used up after ten minutes
    fleet = Fleet(redis_client, Concurrency(total=10).guard("model"))
    fleet.store.set_budget("tenant:acme", tokens=100, per_ms=3_600_000)
    fleet.clock.forward(600)
    admitted(fleet.ask("a/step", tokens=100, budgets=["tenant:acme"], hold=7200))

    # then one that waits is told when it renews; one that needs more than there is at all does not wait
    waits = fleet.ask("b/step", tokens=10, budgets=["tenant:acme"], wait=True)
    assert waits == Refused("budget", "tenant:acme", 3_000_000, queued=True)
    assert fleet.ask(tokens=101, budgets=["tenant:acme"], wait=True) == Refused("budget", "tenant:acme", -1)
    # and another tenant's goes on
    assert refused(fleet.ask("c/step", tenant="other", wait=True)).kind == "turn"
    assert fleet.grant() == ["c/step"]
    admitted(fleet.ask("c/step", tenant="other"))

    # when the hour is over
    fleet.clock.forward(3000)
    assert fleet.grant() == ["b/step"]
    # then what comes back of the old period adds nothing to the new one, and what was used too much is counted
    fleet.end("a/step", used=Spend(tokens=40))
    found = fleet.store.budget("tenant:acme")
    assert found is not None
    assert (found.used_tokens, found.per, found.renews_in) == (10, 3600.0, 3600.0)


def test_one_that_waits_when_a_budget_that_does_not_renew_runs_out_is_woken_to_learn_it(redis_client: Redis) -> None:
    # given two of a run, one of which waits for a place
    fleet = Fleet(redis_client, Concurrency(total=1).guard("model"))
    fleet.store.set_budget("run:r", tokens=10, ttl_ms=60_000)
    admitted(fleet.ask("a/step", tokens=5, budgets=["run:r"]))
    assert refused(fleet.ask("b/step", tokens=5, budgets=["run:r"], wait=True)).queued

    # when the first uses everything
    assert fleet.end("a/step", used=Spend(tokens=10)) == ["b/step"]

    # then the second is told so
    assert fleet.ask("b/step", tokens=5, budgets=["run:r"], wait=True) == Refused("budget", "run:r", -1)
    assert nothing_is_held(redis_client)


def test_budgets_are_set_changed_listed_and_dropped(redis_client: Redis) -> None:
    # given two tenants' budgets and a run's
    fleet = Fleet(redis_client)
    fleet.store.set_budget("tenant:b", cost=1.5)
    fleet.store.set_budget("tenant:a", tokens=10, per_ms=60_000)
    fleet.store.set_budget("run:r", tokens=10, ttl_ms=60_000)
    admitted(fleet.ask("x/step", tokens=4, cost=0.25, budgets=["tenant:a", "tenant:b"]))

    # when one is changed, then what was used of it stays used
    fleet.store.set_budget("tenant:a", tokens=20, per_ms=60_000)
    found = [(one.name, one.tokens, one.cost, one.used_tokens, one.used_cost) for one in fleet.store.budgets()]
    assert found == [("tenant:a", 20, None, 4, 0.25), ("tenant:b", None, 1.5, 4, 0.25)]

    # when one is dropped, then it is gone, and what is settled later does not bring it back
    assert fleet.store.drop_budget("tenant:a")
    assert not fleet.store.drop_budget("tenant:a")
    fleet.end("x/step", used=Spend(tokens=9))
    assert [one.name for one in fleet.store.budgets()] == ["tenant:b"]
    assert not redis_client.exists(keys.budget("tenant:a"))


def test_a_child_does_not_shorten_the_time_that_its_parent_s_budget_is_kept(redis_client: Redis) -> None:
    fleet = Fleet(redis_client)
    fleet.store.set_budget("run:parent", tokens=100, ttl_ms=600_000)
    # when a child that is kept for a shorter time sets what is in the parent's state once more
    fleet.store.set_budget("run:parent", tokens=100, ttl_ms=1_000)
    # then it stays
    assert redis_client.pttl(keys.budget("run:parent")) > 500_000
