"""
The store of guards: breakers, rate limits, concurrency and budgets, one state for the whole fleet.

All that one call needs is checked and taken together by one script, or nothing is. Importing this needs no redis-py.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, Protocol, cast

from orchestrator.state import keys
from orchestrator.state.packing import pack

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from redis import Redis
    from redis.client import Pipeline

    from orchestrator.messages import Priority
    from orchestrator.state.packing import Packable

GuardKind = Literal["breaker", "rate", "concurrency"]
RefusedKind = Literal["breaker", "rate", "concurrency", "budget", "gate", "turn"]
Outcome = Literal["ok", "failed", "neutral"]
Forced = Literal["open", "closed", "auto"]

GRANT_MS: Final = 10_000
GRANTS: Final = 500
GRANTS_ON_SETTLE: Final = 16
GRANTED: Final = b"\xa1g"  # how such a member's record begins
"""What one settled call lets go on in the same round trip; the caretaker does the rest."""

QUEUES: Final = keys.guard_queue("")
"""What the key of each agent's queue begins with."""

CLASSES: Final[Mapping[Priority, int]] = {"high": 0, "normal": 1, "low": 2}
FORGOTTEN_MS: Final = 2 * 86_400_000
"""How long a breaker is kept that was left to itself again and is not called."""

KEEP_BATCH: Final = 200
"""Calls that are kept in one script, so that none keeps Redis long."""

NUMBERS: Final[Mapping[GuardKind, tuple[str, ...]]] = {
    "breaker": ("window", "cooldown", "probes", "closes", "failures", "rate", "minimum", "slow"),
    "rate": ("per", "requests", "tokens"),
    "concurrency": ("total", "per_tenant"),
}
"""What a guard of a kind may have, in the order in which the scripts read it."""

Hold = tuple[str, str, str]
"""What a call holds: agent, member, fence."""

MOST: Final = 10**15
"""Tokens, or millionths of money, that one call can count for; Redis' integers hold thousands of that."""

LARGEST: Final = 2**63 - 1
"""As good as no limit."""

BUCKETS: Final = 10
MICRO: Final = 1_000_000


@dataclass(frozen=True)
class Guard:
    """
    One thing that must let a call through: what a policy makes for an agent.

    Attributes:
        name: the agent's, or that of what it depends on; `key`: where its state is.
        waits: whether a call that it refuses may wait for its turn; else it is refused at once, also out of the queue.
        numbers: its limits; durations in ms.
    """

    kind: GuardKind
    name: str
    key: str
    waits: bool = True
    numbers: Mapping[str, float] = field(default_factory=dict, hash=False)

    def parts(self) -> tuple[Packable, ...]:
        """Return it as the scripts read it, in the order of `_guards.lua`."""
        numbers = (min(self.numbers.get(name, False), LARGEST) for name in NUMBERS[self.kind])
        return self.kind, self.name, self.key, self.waits, *numbers


@dataclass(frozen=True, kw_only=True)
class Need:
    """What a call is expected to use, or has used; `cost` in the user's unit of money."""

    tokens: int = 0
    cost: float = 0.0


NOTHING: Final = Need()


@dataclass(frozen=True)
class Admitted:
    """
    A call may be made, and holds what it needs until it is settled.

    Attributes:
        at_ms: when, by Redis's clock; of a repeated call, when it was first admitted.
        probe: whether it tries out for a half-open breaker.
        waited: seconds that it was in the queue.
    """

    at_ms: int
    probe: bool = False
    waited: float = 0.0


@dataclass(frozen=True)
class Refused:
    """
    A call may not be made now; nothing was taken.

    Attributes:
        kind: what refused it; `turn`: others were there before it.
        name: of the guard, the budget or, where it is not its turn, the agent.
        retry_ms: the best guess when it may be asked for again; -1: never.
        queued: whether it waits for its turn, which `grant` will give it.
    """

    kind: RefusedKind
    name: str
    retry_ms: int
    queued: bool = False


@dataclass(frozen=True, kw_only=True)
class BreakerState:
    """
    A breaker as it is now.

    Attributes:
        state: as it acts, forced or not.
        calls, failures: in the window.
        probes: under way.
        since: seconds in this state.
        retry_in: seconds until it lets a probe through; 0.0 where it does not wait for that.
    """

    name: str
    state: Literal["closed", "open", "half-open"]
    forced: bool
    calls: int
    failures: int
    probes: int
    since: float
    retry_in: float


@dataclass(frozen=True, kw_only=True)
class BudgetState:
    """
    A budget and what was spent of it, reservations included; None: no limit.

    `per` is the seconds after which it renews, `renews_in` those left.
    """

    name: str
    tokens: int | None
    cost: float | None
    used_tokens: int
    used_cost: float
    per: float | None = None
    renews_in: float | None = None


class _Script(Protocol):
    sha: str

    def __call__(
        self,
        keys: Sequence[str],
        args: Sequence[str | bytes | float],
        client: Redis | Pipeline | None = None,
    ) -> object: ...


class _Along(Protocol):
    def end(self) -> object | None: ...


class _Passenger:
    """A call that may go along with another in one round trip."""

    def __init__(self, client: Redis, *command: str | bytes | float) -> None:
        self._client, self._command = client, command
        self._along: _Along | None = None

    def go_along(self) -> None:
        """Let it go with the next call of this thread or greenlet, if the client can do that."""
        along: Callable[..., _Along] | None = getattr(self._client, "along", None)
        if along is not None:
            self._along = along(*self._command)

    def _reply(self) -> object | None:
        """Return its reply, once; None where there is none: it did not go, or nobody knows."""
        along, self._along = self._along, None
        return None if along is None else along.end()


class Settlement(_Passenger):
    """What a call gives back, and how it went; not told yet."""

    def __init__(
        self, client: Redis, script: _Script, agent: str, keys: Sequence[str], args: Sequence[str | bytes | float]
    ) -> None:
        super().__init__(client, "EVALSHA", script.sha, len(keys), *keys, *args)
        self._script, self._agent, self._keys, self._args = script, agent, keys, args

    def tell(self) -> list[str]:
        """Tell it if that was not done; returns as `Guards.settle`."""
        reply = self._reply()
        # Without a reply it may have been told all the same; a second time changes nothing.
        return _turns(self._agent, self._script(self._keys, self._args) if reply is None else reply)


class Ahead(_Passenger):
    """
    What an attempt asks of its guards before it is begun: see `Guards.ahead`.

    Attributes:
        took: after `answer`: whether something was taken for it, or it queues; also where nobody knows.
    """

    took = False

    def answer(self) -> Admitted | Refused | None:
        """Return the guards' answer, once; None: there is none, `admit` will give one."""
        self.took = self._along is not None
        reply = cast("list[bytes] | None", self._reply())
        if reply is None:
            return None
        found = None if reply[0] == b"unsaid" else _answer(reply)
        self.took = found.queued if isinstance(found, Refused) else found is not None
        return found


class Pause(_Passenger):
    """Whether an agent without rate limit and breaker is to make no calls for a time; not asked yet."""

    def __init__(self, client: Redis, agent: str) -> None:
        self._key = keys.pause(agent)
        super().__init__(client, "PTTL", self._key)

    def left(self) -> float:
        """Return the seconds that are left of it; 0.0: there is none. Asks if that was not done."""
        reply = self._reply()
        left_ms = cast("int", self._client.pttl(self._key) if reply is None else reply)
        return max(0, left_ms) / 1000


def _answer(reply: Sequence[bytes]) -> Admitted | Refused:
    if reply[0] == b"admitted":
        return Admitted(int(reply[1]), probe=int(reply[2]) == 1, waited=int(reply[3]) / 1000)
    _, kind, name, retry_ms, queued = reply
    return Refused(cast("RefusedKind", kind.decode()), name.decode(), int(retry_ms), queued=int(queued) == 1)


def _micro(cost: float) -> int:
    return round(cost * MICRO)


def _turns(agent: str, reply: object) -> list[str]:
    return [member.decode()[len(agent) + 1 :] for member in cast("list[bytes]", reply)]


def _breaker(name: str, fields: Sequence[bytes], now: int) -> BreakerState:
    stored = {field.decode(): value.decode() for field, value in zip(fields[::2], fields[1::2], strict=True)}
    forced, state = stored.get("forced"), stored.get("state", "closed")
    until = int(stored.get("until", 0)) if state == "open" else 0
    if state == "open" and not forced and until <= now:
        state = "half-open"  # written down by the first probe
    index = now * BUCKETS // int(stored.get("window", 1))
    buckets = [
        [int(part) for part in value.split(":")] for field, value in stored.items() if field.startswith("bucket")
    ]
    return BreakerState(
        name=name,
        state=cast('Literal["closed", "open", "half-open"]', forced or state),
        forced=forced is not None,
        calls=sum(calls for at, calls, _ in buckets if index - BUCKETS < at <= index),
        failures=sum(failures for at, _, failures in buckets if index - BUCKETS < at <= index),
        probes=int(stored.get("probes", 0)),
        since=max(0.0, (now - int(stored.get("since", now))) / 1000),
        retry_in=0.0 if forced else max(0.0, (max(until, int(stored.get("gate", 0))) - now) / 1000),
    )


def _budget(name: str, fields: Mapping[bytes, bytes], now: int) -> BudgetState:
    stored = {field.decode(): int(value) for field, value in fields.items()}
    per, cost = stored.get("per"), stored.get("cost")
    begun, left = divmod(now - stored["since"], per) if per else (0, 0)
    current = begun == stored.get("period", 0)
    return BudgetState(
        name=name,
        tokens=stored.get("tokens"),
        cost=None if cost is None else cost / MICRO,
        used_tokens=stored.get("used_tokens", 0) if current else 0,
        used_cost=stored.get("used_cost", 0) / MICRO if current else 0.0,
        per=per / 1000 if per else None,
        renews_in=(per - left) / 1000 if per else None,
    )


@dataclass(frozen=True)
class _Asked:
    """
    What is the same for all calls of an agent.

    Attributes:
        spec: as the scripts read it; `keys`: of admit, and of settle but for the last, `no_good` where nothing is kept.
    """

    guards: Sequence[Guard]
    spec: bytes
    keys: tuple[str, ...]
    no_good: str


class Guards:
    """
    Guards in Redis.

    Args:
        client: replies as bytes.
        clock_ms: for tests; else Redis's own TIME, the only clock.
        grant_ms: how long a call that was given its turn has to take it.
    """

    def __init__(self, client: Redis, *, clock_ms: Callable[[], int] | None = None, grant_ms: int = GRANT_MS) -> None:
        # Importing an agent reads no files, and needs no redis-py.
        from redis.exceptions import NoScriptError  # noqa: PLC0415

        from orchestrator.state.scripts import source  # noqa: PLC0415

        def register(name: str) -> _Script:
            return cast("_Script", client.register_script(source(name)))

        self.client = client
        self._clock_ms = clock_ms
        self._grant_ms = grant_ms
        self._unknown: type[Exception] = NoScriptError
        self._known: dict[str, _Asked] = {}
        self._admit = register("admit")
        self._settle = register("settle")
        self._keep = register("keep")
        self._grant = register("grant")
        self._forget = register("forget")
        self._withdraw = register("withdraw")
        self._waiting = register("waiting")
        self._pause = register("pause")
        self._breakers = register("breakers")
        self._force = register("force")
        self._budget = register("budget")

    def admit(  # noqa: PLR0913  all by name; what is asked for, by whom, and for how long
        self,
        agent: str,
        member: str,
        guards: Sequence[Guard],
        *,
        tenant: str,
        priority: Priority = "normal",
        need: Need = NOTHING,
        hold_ms: int,
        wait: bool,
        known_ms: int = 0,
        budgets: Sequence[str] = (),
        fence: str = "",
    ) -> Admitted | Refused:
        """
        Take all that a call needs, or nothing, in one round trip.

        A member that holds it already is admitted again, and keeps it longer. A later attempt of it, by its fence,
        gives that back and takes its own; an earlier one is refused.

        Args:
            member: the run and step, `keys.member`.
            need: reserved; an amount of 0 is never refused by a budget.
            hold_ms: after this it is taken back from a call that was neither kept nor settled; 0: nothing is held, and
                there is nothing to settle (rates and budgets alone).
            known_ms: how long a call can be settled that has neither a place nor a probe, where that is longer.
            wait: queue where it is refused by what will pass.
            budgets: names; all must have room. One that was never set has no limit.
            fence: of the step's attempt, from `begin`; empty where there is no such thing.
        """
        if not hold_ms and any(guard.kind != "rate" for guard in guards):
            msg = "a breaker or a concurrency limit takes what must be settled: give hold_ms"
            raise ValueError(msg)
        asked = self._asked(agent, guards)
        args = (self._now(), f"{agent}/{member}", asked.spec, hold_ms, "1" if wait else "")
        needs = self._needs(tenant, priority, need, fence, known_ms, "", budgets)
        return _answer(cast("list[bytes]", self._call(self._admit, asked.keys, [*args, *needs])))

    def ahead(
        self,
        agent: str,
        member: str,
        guards: Sequence[Guard],
        *,
        tenant: str,
        priority: Priority,
        need: Need,
        hold_ms: int,
        budgets: Sequence[str],
        fence: str,
    ) -> Ahead:
        """
        Return what `admit` asks, with `wait`, for an attempt that is not begun yet: it can go along with its begin.

        Where that does not come about, or turns out to be another, `withdraw` it. Of a member that has or waits for
        something nothing is changed.
        """
        asked = self._asked(agent, guards)
        args = (self._now(), f"{agent}/{member}", asked.spec, hold_ms, "1")
        needs = self._needs(tenant, priority, need, fence, 0, "1", budgets)
        return Ahead(self.client, "EVALSHA", self._admit.sha, len(asked.keys), *asked.keys, *args, *needs)

    @staticmethod
    def _needs(
        tenant: str, priority: Priority, need: Need, fence: str, known_ms: int, ahead: str, budgets: Sequence[str]
    ) -> list[str | bytes | float]:
        needs: list[str | bytes | float] = [tenant, CLASSES[priority]]
        needs += min(need.tokens, MOST), min(_micro(need.cost), MOST), fence, known_ms, ahead
        for budget in budgets:
            needs += budget, keys.budget(budget)
        return needs

    def withdraw(self, agent: str, member: str, fence: str) -> list[str]:
        """
        Take back what was asked ahead for an attempt that is not made: as if it had never asked.

        Args:
            fence: that it asked with; what another attempt has stays.

        Returns:
            Members that may go on by what was freed: wake them, as of `settle`.
        """
        return self._leave(self._withdraw, agent, member, fence)

    def settle(
        self,
        agent: str,
        member: str,
        guards: Sequence[Guard],
        *,
        outcome: Outcome,
        took_ms: int = 0,
        used: Need | None = None,
        closed_ms: int = 0,
        good: tuple[str, bytes, int] | None = None,
        fence: str = "",
    ) -> list[str]:
        """
        Give back what a call holds and say how it went, in one round trip. A member that holds nothing changes nothing.

        Args: see `settlement`.

        Returns:
            Members that may go on by what was freed: wake them. None where another agent's wait for the same; they are
            left to `grant`.
        """
        return self.settlement(
            agent,
            member,
            guards,
            outcome=outcome,
            took_ms=took_ms,
            used=used,
            closed_ms=closed_ms,
            good=good,
            fence=fence,
        ).tell()

    def settlement(
        self,
        agent: str,
        member: str,
        guards: Sequence[Guard],
        *,
        outcome: Outcome,
        took_ms: int = 0,
        used: Need | None = None,
        closed_ms: int = 0,
        good: tuple[str, bytes, int] | None = None,
        fence: str = "",
    ) -> Settlement:
        """
        Return what `settle` tells.

        Args:
            outcome: `neutral` says nothing about what it depends on.
            used: what it used; None: not known, the reservation counts.
            closed_ms: how long from now nobody may call, as the provider said; kept also where nothing is held.
            good: digest of the input, the output, and how long it is kept (ms).
            fence: as of `admit`; what another attempt of the member holds stays with that.
        """
        digest, output, good_ms = good or ("", b"", 0)
        asked = self._asked(agent, guards)
        args: list[str | bytes | float] = [
            self._now(),
            f"{agent}/{member}",
            outcome,
            took_ms,
            "" if used is None else min(used.tokens, MOST),
            "" if used is None else min(_micro(used.cost), MOST),
            closed_ms,
            asked.spec if closed_ms > 0 else "",
            good_ms,
            output,
            self._grant_ms,
            GRANTS_ON_SETTLE,
            QUEUES,
            fence,
        ]
        script_keys = (*asked.keys, keys.good(agent, digest) if good_ms else asked.no_good)
        return Settlement(self.client, self._settle, agent, script_keys, args)

    def keep(self, held: Sequence[Hold], *, hold_ms: int) -> None:
        """Let calls under way hold what they hold until `hold_ms` from now, in one round trip."""
        pipe = self.client.pipeline(transaction=False)
        for start in range(0, len(held), KEEP_BATCH):
            parts = [
                part
                for agent, member, fence in held[start : start + KEEP_BATCH]
                for part in (f"{agent}/{member}", fence)
            ]
            self._keep(self._keys(), [self._now(), hold_ms, *parts], client=pipe)
        pipe.execute()

    def grant(self, agent: str, priority: Priority = "low") -> list[str]:
        """
        Return members that may go on now, in fair order; what they need is reserved for them for `grant_ms`.

        Args:
            priority: those of this one and of higher ones.
        """
        args = [self._now(), self._grant_ms, GRANTS, CLASSES[priority]]
        return _turns(agent, self._grant(self._keys(agent), args))

    def is_granted(self, agent: str, member: str) -> bool:
        """Tell whether a member was granted its turn, and has not come yet."""
        record = cast("bytes | None", self.client.hget(keys.GUARD_MEMBERS, f"{agent}/{member}"))
        return record is not None and record.startswith(GRANTED)

    def waiting(self) -> list[tuple[str, Priority]]:
        """
        Return the agents with members that wait, or were granted and did not come in time, and the priorities of these.

        As they are to be granted their turn: high priorities first, of all agents. Within one in random
        order: of agents that share a limit the first takes all the room there is, and each shall be it now and then.
        """
        found = cast("list[bytes | int]", self._waiting(self._keys(), [self._now(), QUEUES]))
        spans = list(zip(found[::3], found[1::3], found[2::3], strict=True))
        random.shuffle(spans)
        return [
            (cast("bytes", agent).decode(), priority)
            for priority, number in CLASSES.items()
            for agent, first, last in spans
            if cast("int", first) <= number <= cast("int", last)
        ]

    def forget(self, agent: str, member: str, *, fence: str = "") -> list[str]:
        """
        Let a member leave the queue and give back what it holds; what it used stays counted.

        Args:
            fence: of the attempt that is over: what a later one has stays. Empty: the step is over.

        Returns:
            Members that may go on by what was freed: wake them. None where another agent's wait for the same; they are
            left to `grant`.
        """
        return self._leave(self._forget, agent, member, fence)

    def _leave(self, script: _Script, agent: str, member: str, fence: str) -> list[str]:
        args = [self._now(), f"{agent}/{member}", self._grant_ms, GRANTS_ON_SETTLE, QUEUES, fence]
        return _turns(agent, script(self._keys(agent), args))

    def pause(self, agent: str, pause_ms: int) -> None:
        """Let nobody call for an agent that has no gate for so long; a longer pause stays."""
        self._pause([keys.pause(agent)], [pause_ms])

    def pause_of(self, agent: str) -> Pause:
        """Return the question whether an agent is to pause."""
        return Pause(self.client, agent)

    def last_good(self, agent: str, digest: str) -> tuple[bytes, float] | None:
        """Return an agent's last good output and its age in seconds."""
        pipe = self.client.pipeline(transaction=False)
        pipe.get(keys.good(agent, digest))
        pipe.time()
        stored, time = cast("tuple[bytes | None, tuple[int, int]]", pipe.execute())
        if stored is None:
            return None
        at_ms, _, output = stored.partition(b":")
        return output, max(0.0, (self._at(time) - int(at_ms)) / 1000)

    def breakers(self) -> list[BreakerState]:
        """Return all breakers by name, in two round trips."""
        pipe = self.client.pipeline(transaction=False)
        pipe.time()
        self._breakers([keys.GUARD_BREAKERS], [], client=pipe)
        time, found = cast("tuple[tuple[int, int], list[tuple[bytes, list[bytes]]]]", pipe.execute())
        now = self._at(time)
        return sorted((_breaker(name.decode(), fields, now) for name, fields in found), key=lambda state: state.name)

    def force(self, name: str, state: Forced) -> bool:
        """
        Open or close a breaker until `auto`: then one that was forced open tries a probe, one forced closed is closed.

        Returns:
            Whether there was a breaker of this name; an unknown one is forced all the same.
        """
        args = [self._now(), name, state, FORGOTTEN_MS]
        return self._force([keys.breaker(name), keys.GUARD_BREAKERS], args) == 1

    def set_budget(
        self,
        name: str,
        tokens: int | None = None,
        cost: float | None = None,
        per_ms: int | None = None,
        *,
        ttl_ms: int | None = None,
    ) -> None:
        """
        Set a budget's limits; what was spent stays spent.

        Args:
            name: `tenant:<name>` or `run:<id>`.
            tokens, cost: None: no limit.
            per_ms: it renews each time this has passed since it was first set.
            ttl_ms: it goes after this, or later if it was set for longer; without, it stays and is listed.
        """
        limits = [tokens, None if cost is None else _micro(cost), per_ms, ttl_ms]
        args = [self._now(), name, *("" if limit is None else limit for limit in limits)]
        self._budget([keys.budget(name), keys.GUARD_BUDGETS], args)

    def budget(self, name: str) -> BudgetState | None:
        """Return a budget."""
        return self._read([name])[0]

    def budgets(self) -> list[BudgetState]:
        """Return all budgets that do not expire, by name, in two round trips."""
        names = cast("set[bytes]", self.client.smembers(keys.GUARD_BUDGETS))
        return [found for found in self._read(sorted(name.decode() for name in names)) if found]

    def drop_budget(self, name: str) -> bool:
        """Remove a budget; returns whether it was there. What it was asked for has no limit then."""
        pipe = self.client.pipeline(transaction=True)
        pipe.delete(keys.budget(name))
        pipe.srem(keys.GUARD_BUDGETS, name)
        return bool(pipe.execute()[0])

    def _read(self, names: Sequence[str]) -> list[BudgetState | None]:
        pipe = self.client.pipeline(transaction=False)
        pipe.time()
        for name in names:
            pipe.hgetall(keys.budget(name))
        time, *found = pipe.execute()
        now = self._at(time)
        return [_budget(name, fields, now) if fields else None for name, fields in zip(names, found, strict=True)]

    def _asked(self, agent: str, guards: Sequence[Guard]) -> _Asked:
        """Return what is the same for all calls of an agent; made once."""
        known = self._known.get(agent)
        if known is None or known.guards is not guards:
            parts = (part for guard in guards for part in guard.parts())
            spec = pack((agent, keys.guard_queue(agent), keys.guard_turns(agent), *parts))
            known = self._known[agent] = _Asked(guards, spec, tuple(self._keys(agent)), keys.good(agent, ""))
        return known

    def _call(self, script: _Script, keys: Sequence[str], args: Sequence[str | bytes | float]) -> object:
        """Call a script by its name alone, as is right nearly always; redis-py looks at more for that."""
        try:
            reply: object = self.client.execute_command(  # type: ignore[no-untyped-call]
                "EVALSHA", script.sha, len(keys), *keys, *args
            )
        except self._unknown:
            return script(keys, args)
        return reply

    def _now(self) -> int | str:
        return "" if self._clock_ms is None else self._clock_ms()

    def _at(self, time: tuple[int, int]) -> int:
        return time[0] * 1000 + time[1] // 1000 if self._clock_ms is None else self._clock_ms()

    @staticmethod
    def _keys(agent: str | None = None) -> list[str]:
        fixed = [keys.GUARD_MEMBERS, keys.GUARD_HOLDS, keys.GUARD_WAITING, keys.GUARD_BREAKERS]
        return fixed if agent is None else [*fixed, keys.guard_queue(agent)]
