"""Guards together: what one call takes is taken as a whole, and given back once."""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING, Final, cast

import pytest

from orchestrator.resilience.breaker import Breaker
from orchestrator.resilience.budget import Spend
from orchestrator.resilience.limit import Concurrency, RateLimit
from orchestrator.state import keys
from orchestrator.state.guards import Admitted, Need, Refused
from tests.servers import on_valkey
from tests.state.fleet import GRANT, Fleet, admitted, nothing_is_held, refused

if TYPE_CHECKING:
    from collections.abc import Iterable

    from redis import Redis

    from orchestrator.runtime.batching import BatchingRedis
    from orchestrator.state.guards import Outcome


def test_calls_under_way_are_limited_in_all_and_by_tenant(redis_client: Redis) -> None:
    # given at most three at a time, two of a tenant
    fleet = Fleet(redis_client, Concurrency(total=3, per_tenant=2).guard("model"))
    for member in ("a/1", "a/2"):
        admitted(fleet.ask(member, tenant="a"))

    # then a tenant's third is refused, another's first is not, and then nobody's
    assert refused(fleet.ask(tenant="a")).kind == "concurrency"
    admitted(fleet.ask("b/1", tenant="b"))
    refused(fleet.ask(tenant="c"))

    # when one ends, then there is room for one
    fleet.end("a/1")
    admitted(fleet.ask(tenant="c"))
    refused(fleet.ask(tenant="a"))


def test_what_a_dead_worker_holds_is_free_when_its_time_is_over(redis_client: Redis) -> None:
    # given a call whose worker died
    fleet = Fleet(redis_client, Concurrency(total=1).guard("model"))
    admitted(fleet.ask("dead/step", hold=5))
    refused(fleet.ask())

    # when its hold is over, then another has its place, and a late settling takes nothing from that
    fleet.clock.forward(5)
    admitted(fleet.ask("next/step"))
    assert fleet.end("dead/step") == []
    refused(fleet.ask())


def test_a_member_that_asks_again_holds_once_and_keeps_it_longer(redis_client: Redis) -> None:
    # given a call whose answer was lost
    fleet = Fleet(redis_client, Concurrency(total=2).guard("model"), RateLimit(requests=2).guard("model"))
    first = admitted(fleet.ask("a/step", hold=5))

    # when it asks again, later
    fleet.clock.forward(4)
    again = admitted(fleet.ask("a/step", hold=5))

    # then it is the same admission, there is room for one more and not two, and it lasts from the second asking
    assert again == first
    admitted(fleet.ask("b/step", hold=100))
    refused(fleet.ask("c/step"))
    fleet.clock.forward(4)
    fleet.store.waiting()
    assert redis_client.hget(keys.slots("model"), "total") == b"2"


def test_what_a_call_holds_is_kept_while_its_worker_says_so(redis_client: Redis) -> None:
    # given two calls that hold all places, one of them kept by its worker
    fleet = Fleet(redis_client, Concurrency(total=2).guard("model"))
    for member in ("kept/step", "left/step"):
        admitted(fleet.ask(member, hold=10, fence="1-x"))
    for _ in range(3):
        fleet.clock.forward(6)
        fleet.store.keep([("model", "kept/step", "1-x"), ("model", "left/step", "0-y")], hold_ms=10_000)

    # when others ask, then the place of the other one is free, and that one's is not
    admitted(fleet.ask("a/step"))
    refused(fleet.ask("b/step"))

    # when one is kept that is over, then it holds nothing
    fleet.end("kept/step", fence="1-x")
    fleet.store.keep([("model", "kept/step", "1-x"), ("nobody", "x/step", "1-x")], hold_ms=10_000)
    fleet.end("a/step")
    assert nothing_is_held(redis_client)


def test_a_pause_holds_an_agent_without_a_gate_until_it_is_over(redis_client: Redis) -> None:
    # given an agent that was told to pause, when it is told a shorter pause, and a longer one
    store = Fleet(redis_client).store
    assert store.pause_of("model").left() == 0.0
    left = []
    for pause_ms in (40_000, 20_000, 60_000):
        store.pause("model", pause_ms)
        left.append(store.pause_of("model").left())
    # then the longest counts, for this agent alone, and leaves nothing behind
    assert [round(seconds / 10) for seconds in left] == [4, 4, 6]
    assert store.pause_of("other").left() == 0.0
    assert redis_client.pttl(keys.pause("model")) > 0


def test_a_second_settling_changes_nothing(redis_client: Redis) -> None:
    # given two calls under way, and a breaker that opens at two failures
    fleet = Fleet(redis_client, Concurrency(total=2).guard("model"), Breaker(failures=2).guard("model"))
    for member in ("a/step", "b/step"):
        admitted(fleet.ask(member))

    # when one is settled twice, and one that never was there
    for member in ("a/step", "a/step", "nobody/step"):
        fleet.end(member, "failed")

    # then one failure counts, and one place is free
    assert [found.failures for found in fleet.store.breakers()] == [1]
    admitted(fleet.ask())
    refused(fleet.ask())


def test_a_lost_attempt_that_comes_back_gives_nothing_back_that_the_next_one_holds(redis_client: Redis) -> None:
    # given a step whose attempt was lost, and begun again elsewhere
    fleet = Fleet(redis_client, Concurrency(total=1).guard("model"), Breaker(failures=1).guard("model"))
    admitted(fleet.ask("a/step", fence="1-x"))
    fleet.store.forget("model", "a/step", fence="1-x")
    admitted(fleet.ask("a/step", fence="2-y"))

    # when the first asks again, fails, and is lost once more, then the place and the judgement are not its own
    assert refused(fleet.ask("a/step", fence="1-x")).kind == "turn"
    fleet.end("a/step", "failed", fence="1-x")
    fleet.store.forget("model", "a/step", fence="1-x")
    assert refused(fleet.ask("b/step")).kind == "concurrency"
    assert fleet.store.breakers() == []

    # when the second ends, then they are
    fleet.end("a/step", "failed", fence="2-y")
    assert [breaker.state for breaker in fleet.store.breakers()] == ["open"]
    assert nothing_is_held(redis_client)


@pytest.mark.parametrize("now", ["waits", "holds"])
def test_an_attempt_that_comes_late_is_not_let_through_beside_the_next_one(redis_client: Redis, now: str) -> None:
    # given a step that was begun once more before its first attempt came to ask
    fleet = Fleet(redis_client, Concurrency(total=2).guard("model"))
    for other in ("a/step", "b/step") if now == "waits" else ():
        admitted(fleet.ask(other))
    fleet.ask("c/step", fence="2-x", wait=True)

    # when that asks now, then it is refused, and changes nothing
    found = refused(fleet.ask("c/step", fence="1-x", wait=True))
    assert (found.kind, found.queued) == ("turn", False)
    fleet.store.forget("model", "c/step", fence="1-x")
    fleet.end("c/step", fence="2-x")
    for other in ("a/step", "b/step") if now == "waits" else ():
        assert fleet.end(other) == (["c/step"] if other == "a/step" else [])


def test_what_was_granted_to_an_earlier_attempt_is_given_back_where_the_next_one_is_lost(redis_client: Redis) -> None:
    # given a step that waited and has its turn, was begun once more, and lost before it asked
    fleet = Fleet(redis_client, Concurrency(total=1).guard("model"))
    admitted(fleet.ask("a/step"))
    fleet.ask("b/step", fence="1-x", wait=True)
    assert fleet.end("a/step") == ["b/step"]

    # when that is over, then the place is free
    fleet.store.forget("model", "b/step", fence="2-y")
    admitted(fleet.ask("c/step"))


def test_an_attempt_takes_its_own_where_the_lost_one_still_holds_something(redis_client: Redis) -> None:
    # given a step whose lost attempt nobody has made give back what it holds
    fleet = Fleet(redis_client, Concurrency(total=1).guard("model"), RateLimit(requests=3).guard("model"))
    admitted(fleet.ask("a/step", fence="1-x"))

    # when the next attempt asks, then there is one place taken, and two requests
    admitted(fleet.ask("a/step", fence="2-y"))
    assert redis_client.hget(keys.slots("model"), "total") == b"1"
    assert redis_client.hget(keys.rate("model", 60_000), "requests") == b"2"
    fleet.end("a/step", fence="2-y")
    assert nothing_is_held(redis_client)


def test_a_call_of_any_size_holds_nothing_for_good(redis_client: Redis) -> None:
    # given a call that needs and uses more than Redis can count
    fleet = Fleet(redis_client, Concurrency(total=1).guard("model"))
    fleet.store.set_budget("run:r", cost=1.0, ttl_ms=60_000)
    admitted(fleet.ask("a/step", tokens=10**19, budgets=["run:r"]))
    fleet.end("a/step", used=Need(tokens=10**30))

    # then its place is free for others
    admitted(fleet.ask("b/step"))
    fleet.end("b/step")
    assert nothing_is_held(redis_client)


def test_a_member_that_is_forgotten_leaves_nothing(redis_client: Redis) -> None:
    # given one call under way, one that has its turn and one that waits
    fleet = Fleet(redis_client, Concurrency(total=2).guard("model"))
    admitted(fleet.ask("runs/step"))
    admitted(fleet.ask("gone/step"))
    for member in ("granted/step", "waits/step", "last/step"):
        assert refused(fleet.ask(member, wait=True)).queued
    assert fleet.end("gone/step") == ["granted/step"]

    # when they are forgotten, then each place goes to the next, and in the end nothing is left
    assert fleet.store.forget("model", "granted/step") == ["waits/step"]
    assert fleet.store.forget("model", "last/step") == []
    assert fleet.store.forget("model", "waits/step") == []
    assert fleet.store.forget("model", "runs/step") == []
    assert fleet.store.forget("model", "nobody/step") == []
    assert nothing_is_held(redis_client)


def test_the_last_good_output_is_kept_for_its_time_with_its_age(redis_client: Redis) -> None:
    # given a call whose output is kept, though nothing guards it
    fleet = Fleet(redis_client)
    fleet.store.settle("model", "a/step", (), outcome="ok", good=("digest", b'{"a": 1}', 60_000))
    fleet.clock.forward(2.5)

    # then it is there, with its age, for that agent and input
    assert fleet.store.last_good("model", "digest") == (b'{"a": 1}', 2.5)
    assert fleet.store.last_good("model", "other") is None
    assert 0 < redis_client.pttl(keys.good("model", "digest")) <= 60_000


OUTCOMES: Final[list[Outcome]] = ["ok", "ok", "ok", "ok", "ok", "ok", "failed", "neutral"]
PERMANENT: Final = {
    keys.GUARD_MEMBERS,
    keys.GUARD_HOLDS,
    keys.GUARD_WAITING,
    keys.GUARD_BREAKERS,
    keys.GUARD_BUDGETS,
    keys.guard_queue("model"),
    keys.guard_turns("model"),
    keys.slots("model"),
    keys.budget("tenant:acme"),
    keys.breaker("forced"),
}


class Life:
    """Members that come, wait, die, are forgotten and settle in any order; and what must hold of them all the time."""

    RATE, PER, TOTAL, PER_TENANT, PROBES = 8, 1.0, 6, 3, 2

    def __init__(self, client: Redis, seed: int) -> None:
        self.chance = random.Random(seed)  # noqa: S311  repeatable
        self.fleet = Fleet(
            client,
            Breaker(failures=4, window=2.0, cooldown=0.7, probes=self.PROBES, closes=2).guard("model"),
            RateLimit(requests=self.RATE, tokens=200, per=self.PER).guard("model"),
            Concurrency(total=self.TOTAL, per_tenant=self.PER_TENANT).guard("model"),
        )
        self.fleet.store.set_budget("tenant:acme", tokens=10**6, per_ms=3000)
        self.fleet.store.force("forced", "closed")
        self.calls: list[int] = []
        self.under_way: dict[str, tuple[str, bool, int]] = {}
        self.tenants: dict[str, str] = {}

    def come(self, member: str) -> None:
        tenant = self.tenants.setdefault(member, self.chance.choice(["acme", "b", "c"]))
        tokens = self.chance.choice([0, 5, 60])
        answer = self.fleet.ask(member, wait=True, tenant=tenant, tokens=tokens, hold=2, budgets=["tenant:acme"])
        if isinstance(answer, Refused):
            assert answer.queued
        else:
            self.calls.append(answer.at_ms)
            self.under_way[member] = (tenant, answer.probe, self.fleet.clock.now + 2000)

    def foresee(self, member: str) -> list[str]:
        """Ask for an attempt that is not begun after all, and tell whose turn it is then."""
        found = self.fleet.ask_ahead(member, tenant="b", tokens=5, hold=2, budgets=["tenant:acme"])
        assert isinstance(found, Admitted) or (found is None) == (member in self.tenants)
        return self.fleet.store.withdraw("model", member, "1-n")

    def leave(self) -> str:
        member = self.chance.choice(sorted(self.under_way))
        del self.under_way[member]
        return member

    def go_on(self, step: int) -> None:
        self.fleet.clock.forward(self.chance.choice([0, 0.003, 0.02, 0.1]))
        what = self.chance.random()
        granted: list[str] = []
        if what < 0.2:
            self.come(f"m{step:04d}/s")
        elif what < 0.5:
            granted = [member for member in self.fleet.grant() if self.chance.random() < 0.95]
        elif what < 0.6:
            granted = self.foresee(self.chance.choice([f"f{step:04d}/s", *self.under_way]))
        elif what < 0.9 and self.under_way:
            outcome: Outcome = self.chance.choice(OUTCOMES)
            granted = self.fleet.end(self.leave(), outcome, used=Spend(tokens=9))
        elif self.under_way:
            granted = self.fleet.store.forget("model", self.leave())
        for member in granted:
            self.come(member)

    def check(self) -> None:
        now = self.fleet.clock.now
        self.under_way = {member: call for member, call in self.under_way.items() if call[2] > now}
        tenants = Counter(tenant for tenant, _, _ in self.under_way.values())
        assert tenants.total() <= self.TOTAL
        assert max(tenants.values(), default=0) <= self.PER_TENANT
        assert sum(probe for _, probe, _ in self.under_way.values()) <= self.PROBES


@on_valkey
@pytest.mark.parametrize("seed", range(4))
def test_whatever_happens_no_limit_is_passed_and_in_the_end_nothing_is_held(asking: BatchingRedis, seed: int) -> None:
    # given an agent with all guards, when its members do what they like
    life = Life(asking, seed)
    for step in range(1500):
        life.go_on(step)
        # then there are never more under way than may be
        life.check()

    # and never more calls in a window than the limit
    calls = life.calls
    assert len(calls) > 100
    assert all(later - first >= life.PER * 1000 for first, later in zip(calls, calls[life.RATE :], strict=False))
    # and every key has a time to live or is declared to have none
    names = {key.decode() for key in cast("Iterable[bytes]", asking.scan_iter(count=1000))}
    assert {name for name in names if asking.ttl(name) == -1} <= PERMANENT

    # when nobody comes any more, then in the end nothing is held
    for _ in range(1000):
        if nothing_is_held(asking):
            break
        life.fleet.clock.forward(GRANT + 1)
        for agent, priority in life.fleet.store.waiting():
            life.fleet.store.grant(agent, priority)
    assert nothing_is_held(asking)
    assert asking.hget(keys.breaker("model"), "probes") is None
