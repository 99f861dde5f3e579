"""Who goes on when there is room: in order, fairly, and once."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

import pytest

from orchestrator.resilience.breaker import Breaker
from orchestrator.resilience.limit import Concurrency, RateLimit
from orchestrator.state.guards import GRANTS, Admitted, Refused
from tests.state.fleet import GRANT, HOLD, Clock, Fleet, admitted, nothing_is_held, refused

if TYPE_CHECKING:
    from redis import Redis

    from orchestrator.messages import Priority


def test_those_who_wait_go_in_order_of_priority_and_fairly_between_tenants(redis_client: Redis) -> None:
    # given many of one tenant, and after them few of two others, of the same priority; and some of others
    fleet = Fleet(redis_client, Concurrency(total=1).guard("model"))
    admitted(fleet.ask("first/step"))
    asked: list[tuple[str, Priority, int]] = [
        ("low", "low", 3),
        ("big", "normal", 1000),
        ("one", "normal", 10),
        ("two", "normal", 10),
        ("top", "high", 2),
    ]
    for tenant, priority, count in asked:
        for number in range(count):
            assert refused(fleet.ask(f"{tenant}-{number:04d}/s", tenant=tenant, priority=priority, wait=True)).queued

    # when each place is given on
    order: list[str] = []
    turn = fleet.end("first/step")
    while turn:
        order += turn
        admitted(fleet.ask(turn[0]))
        turn = fleet.end(turn[0])

    # then high come first and low last; between them the small tenants are done while the big one has as many
    assert len(order) == 1025
    assert [member[:3] for member in order[:2]] == ["top", "top"]
    assert [member[:3] for member in order[-3:]] == ["low", "low", "low"]
    assert Counter(member[:3] for member in order[2:32]) == {"big": 10, "one": 10, "two": 10}
    for at in range(2, 32, 3):
        assert {member[:3] for member in order[at : at + 3]} == {"big", "one", "two"}
    # and each tenant's own come as they asked
    by_tenant = defaultdict(list)
    for member in order:
        by_tenant[member[:3]].append(member)
    assert all(members == sorted(members) for members in by_tenant.values())
    assert nothing_is_held(redis_client)


def test_a_tenant_that_comes_late_does_not_wait_for_those_who_have_had_many_turns(redis_client: Redis) -> None:
    # given a tenant with a hundred, half of which have had their turn
    fleet = Fleet(redis_client, Concurrency(total=1).guard("model"))
    admitted(fleet.ask(turn := "first/step"))
    for number in range(100):
        fleet.ask(f"big-{number:03d}/s", tenant="big", wait=True)
    for _ in range(50):
        (following,) = fleet.end(turn)
        admitted(fleet.ask(turn := following))

    # when another comes, then it has its turn at once, and no more than its share from then on
    for number in range(5):
        fleet.ask(f"new-{number}/s", tenant="new", wait=True)
    order = []
    for _ in range(10):
        (following,) = fleet.end(turn)
        admitted(fleet.ask(turn := following))
        order.append(turn[:3])
    assert [Counter(order[at : at + 2]) for at in range(0, 10, 2)] == [{"big": 1, "new": 1}] * 5


def test_one_that_waits_keeps_its_place_and_nobody_passes_it(redis_client: Redis) -> None:
    # given one that waits, and asks again from time to time
    fleet = Fleet(redis_client, Concurrency(total=1).guard("model"))
    admitted(fleet.ask("runs/step"))
    for member in ("a/step", "b/step", "a/step"):
        assert refused(fleet.ask(member, wait=True)) == Refused("concurrency", "model", 1000, queued=True)

    # when there is room and the first has not been told yet
    fleet.clock.forward(HOLD)

    # then a newcomer waits behind it, one that does not wait is refused, the first itself goes on
    assert fleet.ask("c/step", wait=True) == Refused("turn", "model", 1000, queued=True)
    assert fleet.ask("d/step") == Refused("turn", "model", 1000, queued=False)
    found = admitted(fleet.ask("a/step", wait=True))
    assert found.waited == HOLD
    assert fleet.end("a/step") == ["b/step"]


def test_a_turn_is_reserved_and_taken_when_its_member_comes(redis_client: Redis) -> None:
    # given one place, and one that was given its turn
    fleet = Fleet(redis_client, Concurrency(total=1).guard("model"))
    admitted(fleet.ask("runs/step"))
    fleet.ask("a/step", wait=True)
    fleet.clock.forward(2)
    assert not fleet.store.is_granted("model", "a/step")
    assert fleet.end("runs/step") == ["a/step"]
    assert fleet.store.is_granted("model", "a/step")

    # then nobody else gets the place, nor is it granted again
    refused(fleet.ask("b/step", wait=True))
    assert fleet.grant() == []

    # when it comes, then it holds it as long as it asked for
    assert admitted(fleet.ask("a/step", hold=100)).waited == 2.0
    fleet.clock.forward(99)
    assert fleet.grant() == []


def test_a_turn_that_nobody_came_for_is_given_once_more_and_then_forgotten(redis_client: Redis) -> None:
    # given two that wait, and the first was given its turn
    fleet = Fleet(redis_client, Concurrency(total=1).guard("model"))
    admitted(fleet.ask("runs/step"))
    for member in ("a/step", "b/step"):
        fleet.ask(member, wait=True)
    assert fleet.end("runs/step") == ["a/step"]
    assert fleet.store.waiting() == [("model", "normal")]

    # when it does not come in time, then it has its turn again, before the other
    fleet.clock.forward(GRANT)
    assert fleet.grant() == ["a/step"]

    # when it does not come again, then it is the other's
    fleet.clock.forward(GRANT)
    assert fleet.store.waiting() == [("model", "normal")]
    assert fleet.grant() == ["b/step"]
    admitted(fleet.ask("b/step"))
    fleet.end("b/step")
    assert nothing_is_held(redis_client)


def test_the_last_turn_that_nobody_came_for_is_still_seen(redis_client: Redis) -> None:
    # given one that waited alone and has its turn
    fleet = Fleet(redis_client, Concurrency(total=1).guard("model"))
    admitted(fleet.ask("runs/step"))
    fleet.ask("a/step", wait=True)
    assert fleet.end("runs/step") == ["a/step"]
    assert fleet.store.waiting() == []

    # when it does not come, then its agent is among those with waiters
    fleet.clock.forward(GRANT)
    assert fleet.store.waiting() == [("model", "normal")]


def test_a_tenant_at_its_own_limit_does_not_hold_up_the_others(redis_client: Redis) -> None:
    # given a tenant at its limit with many that wait, and one of another tenant behind them
    fleet = Fleet(redis_client, Concurrency(total=3, per_tenant=1).guard("model"))
    admitted(fleet.ask("a/step", tenant="a"))
    admitted(fleet.ask("c/step", tenant="c"))
    admitted(fleet.ask("d/step", tenant="d"))
    for number in range(300):
        fleet.ask(f"a{number:03d}/step", tenant="a", wait=True)
    fleet.ask("b/step", tenant="b", wait=True)

    # when there is room, then it goes to the other tenant
    assert fleet.end("c/step") == ["b/step"]
    assert fleet.end("d/step") == []
    assert fleet.end("a/step") == ["a000/step"]


def test_more_of_a_tenant_at_its_limit_than_are_looked_at_in_a_round_do_not_hold_up_the_others(
    redis_client: Redis,
) -> None:
    # given a tenant at its limit with more that wait than one look passes over, and others behind them
    fleet = Fleet(redis_client, Concurrency(per_tenant=1).guard("model"))
    admitted(fleet.ask("a/step", tenant="a", priority="high"))
    for number in range(2 * GRANTS + 1):
        fleet.ask(f"a{number:04d}/step", tenant="a", priority="high", wait=True)
    for tenant in ("b", "c"):
        fleet.ask(f"{tenant}/step", tenant=tenant, wait=True)

    # when the caretaker looks, then they go on, and the first tenant's own too once there is room for it
    assert fleet.grant() == ["b/step", "c/step"]
    assert fleet.end("a/step") == ["a0000/step"]


def test_a_probe_is_granted_to_one_that_waits_and_its_success_lets_the_others_go(redis_client: Redis) -> None:
    # given an open breaker and twenty that wait
    fleet = Fleet(redis_client, Breaker(failures=1, cooldown=5.0).guard("model"))
    admitted(fleet.ask("first/step"))
    fleet.end("first/step", "failed")
    for number in range(20):
        assert refused(fleet.ask(f"w{number:02d}/step", wait=True)).queued
    assert fleet.grant() == []

    # when the cooldown is over, then one is let through
    fleet.clock.forward(5)
    assert fleet.grant() == ["w00/step"]
    assert fleet.grant() == []
    assert admitted(fleet.ask("w00/step")).probe

    # when it succeeds, then the others go on
    woken = fleet.end("w00/step") + fleet.grant()
    assert woken == [f"w{number:02d}/step" for number in range(1, 20)]


def test_a_breaker_that_lets_nobody_wait_sends_those_who_wait_to_their_fallback(redis_client: Redis) -> None:
    # given some that wait for a limit, of an agent with a fallback for an open breaker
    breaker = Breaker(failures=1, of="provider")
    fleet = Fleet(redis_client, breaker.guard("model", fallback=True), Concurrency(total=2).guard("model"))
    for member in ("a/step", "b/step"):
        admitted(fleet.ask(member))
    for member in ("c/step", "d/step"):
        assert refused(fleet.ask(member, wait=True)).queued

    # when the breaker opens
    woken = fleet.end("a/step", "failed")

    # then they are woken, hold nothing, and are told what keeps them from it
    assert woken == ["c/step", "d/step"]
    for member in woken:
        assert fleet.ask(member, wait=True) == Refused("breaker", "provider", 30_000, queued=False)
    fleet.end("b/step")
    assert nothing_is_held(redis_client)


def test_a_gate_that_closes_after_a_turn_was_given_holds_it_too_and_in_front(redis_client: Redis) -> None:
    # given one that has its turn, and one behind it
    fleet = Fleet(redis_client, RateLimit(requests=2, per=1.0).guard("model"))
    admitted(fleet.ask("one/step"))
    admitted(fleet.ask("two/step"))
    for member in ("a/step", "b/step"):
        fleet.ask(member, wait=True)
    fleet.clock.forward(1.005)
    assert fleet.grant() == ["a/step", "b/step"]

    # when a Retry-After comes before they do
    fleet.end("two/step", "neutral", closed=20)
    for member in ("b/step", "a/step"):
        assert fleet.ask(member, wait=True) == Refused("gate", "model", 20_000, queued=True)
    assert refused(fleet.ask("c/step", wait=True)).queued

    # then they go on when it is over, before who came later
    fleet.clock.forward(20)
    assert fleet.grant() == ["a/step", "b/step"]


def sharing(client: Redis, concurrency: Concurrency, rate: RateLimit) -> list[Fleet]:
    """Two agents under the same limits, and one clock."""
    clock = Clock()
    return [
        Fleet(client, concurrency.guard(agent), rate.guard(agent), agent=agent, clock=clock)
        for agent in ("first", "second")
    ]


@pytest.mark.parametrize(
    "rate",
    [
        pytest.param(RateLimit(requests=1000, per=1.0, of="y"), id="the places are what is scarce"),
        pytest.param(RateLimit(requests=1, per=0.1, of="y"), id="the rate is"),
    ],
)
def test_agents_that_share_limits_are_served_alike(redis_client: Redis, rate: RateLimit) -> None:
    # given two agents that share two places and a rate, the first has all there is, and 200 of each wait
    fleets = {fleet.agent: fleet for fleet in sharing(redis_client, Concurrency(total=2, of="x"), rate)}
    first = fleets["first"]
    under_way = [("first", run) for run in ("a/step", "b/step") if isinstance(first.ask(run), Admitted)]
    for number in range(200):
        for fleet in fleets.values():
            assert refused(fleet.ask(f"w{number:03d}/step", wait=True)).queued

    # when calls end one by one, and the caretaker looks after each, until half of all have had their turn
    served: Counter[str] = Counter()
    while served.total() < 200:
        granted = []
        if under_way:
            agent, member = under_way.pop(0)
            granted += [(agent, following) for following in fleets[agent].end(member)]
        first.clock.forward(0.11)
        for agent, _ in first.store.waiting():
            granted += [(agent, following) for following in fleets[agent].grant()]
        for agent, following in granted:
            admitted(fleets[agent].ask(following))
            served[agent] += 1
        under_way += granted

    # then neither had much more of it than the other
    assert 60 <= served["first"] <= 140, served


def test_what_is_freed_is_left_to_the_caretaker_where_another_agent_waits_for_the_same(redis_client: Redis) -> None:
    # given two agents that share two places, taken by the first, and one of each that waits
    first, second = sharing(redis_client, Concurrency(total=2, of="x"), RateLimit(requests=1000, of="y"))
    for member in ("a/step", "b/step"):
        admitted(first.ask(member))
    for fleet in (first, second):
        refused(fleet.ask("w/step", wait=True))
        refused(fleet.ask("v/step", wait=True))

    # when a call ends, or is forgotten, then nobody is called for what it frees
    assert first.end("a/step") == []
    assert first.store.forget("first", "b/step") == []

    # but there is room, for whoever is looked at first
    assert second.grant() == ["w/step", "v/step"]
    assert first.grant() == []

    # when the other agent has none left that waits, then an end calls the next at once
    for member in ("w/step", "v/step"):
        admitted(second.ask(member))
    second.end("w/step")
    assert first.grant() == ["w/step"]
    admitted(first.ask("w/step"))
    assert first.end("w/step") == ["v/step"]


def test_what_is_freed_goes_on_at_once_where_other_agents_wait_for_something_else(redis_client: Redis) -> None:
    # given two agents with limits of their own, one call of each under way and one that waits
    clock = Clock()
    mine, other = (
        Fleet(redis_client, Concurrency(total=1).guard(agent), agent=agent, clock=clock) for agent in ("mine", "other")
    )
    for fleet in (mine, other):
        admitted(fleet.ask("a/step"))
        refused(fleet.ask("w/step", wait=True))

    # then each gives its place on at once
    assert mine.end("a/step") == ["w/step"]
    assert other.store.forget("other", "a/step") == ["w/step"]


def test_each_agent_with_waiters_is_looked_at_first_now_and_then(redis_client: Redis) -> None:
    # given two agents with waiters
    for fleet in sharing(redis_client, Concurrency(total=1, of="x"), RateLimit(requests=1, of="y")):
        fleet.ask("a/step", wait=True)
        fleet.ask("b/step", wait=True)

    # when the caretaker looks often, then each comes first at some time, and both are always there
    looks = [fleet.store.waiting() for _ in range(100)]
    both = {("first", "normal"), ("second", "normal")}
    assert {look[0] for look in looks} == both
    assert all(sorted(look) == sorted(both) for look in looks)


def test_a_high_step_of_one_agent_goes_before_a_low_one_of_another_under_the_same_limit(redis_client: Redis) -> None:
    # given two agents that share a rate which is used up, and steps of every priority of each that wait
    rate = RateLimit(requests=2, per=1.0, of="y")
    fleets = {fleet.agent: fleet for fleet in sharing(redis_client, Concurrency(total=1000, of="x"), rate)}
    for number in range(2):
        admitted(fleets["first"].ask(f"{number}/step"))
    priorities: list[Priority] = ["low", "normal", "high"]
    for priority in priorities:
        for number in range(6):
            for fleet in fleets.values():
                assert refused(fleet.ask(f"{priority}-{number}/step", priority=priority, wait=True)).queued

    # when there is room for two after two, and the caretaker looks
    order: list[str] = []
    while looks := fleets["first"].store.waiting():
        fleets["first"].clock.forward(1.01)
        for agent, priority in looks:
            for member in fleets[agent].store.grant(agent, priority):
                admitted(fleets[agent].ask(member, priority=priority))
                order.append(member.partition("-")[0])

    # then all high ones go first, of both, and all low ones last
    assert order == ["high"] * 12 + ["normal"] * 12 + ["low"] * 12


def test_a_tenant_without_budget_does_not_hold_up_the_others_at_a_rate(redis_client: Redis) -> None:
    # given a tenant that has used up its day's budget elsewhere, and waits for more tokens than the rate has left
    fleet = Fleet(redis_client, RateLimit(tokens=1000, per=60.0).guard("model"))
    fleet.store.set_budget("tenant:poor", tokens=1000, per_ms=86_400_000)
    other = Fleet(redis_client, agent="other", clock=fleet.clock)
    admitted(other.ask("poor/0", tenant="poor", tokens=1000, budgets=["tenant:poor"]))
    admitted(fleet.ask("rich/0", tenant="rich", tokens=200))
    refused(fleet.ask("poor/1", tenant="poor", tokens=900, budgets=["tenant:poor"], wait=True))
    # when another tenant asks for what the rate does let through
    fleet.ask("rich/1", tenant="rich", tokens=200, wait=True)
    # then its turn comes
    fleet.clock.forward(1)
    assert "rich/1" in fleet.grant() or isinstance(fleet.ask("rich/1", tenant="rich", tokens=200), Admitted)
