"""A fleet whose calls are guarded, with a clock that the test moves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from orchestrator.state import keys
from orchestrator.state.guards import Admitted, Guard, Guards, Need, Refused

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redis import Redis

    from orchestrator.messages import Priority
    from orchestrator.state.guards import Outcome

START: Final = 1_795_000_000_000
HOLD: Final = 60.0
GRANT: Final = 10.0


class Clock:
    """Milliseconds, moved by the test."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> int:
        return self.now

    def forward(self, seconds: float) -> None:
        self.now += round(seconds * 1000)


class Fleet:
    """An agent's calls, with a number for each that is not named. Agents of one fleet share a clock."""

    def __init__(self, client: Redis, *guards: Guard, agent: str = "model", clock: Clock | None = None) -> None:
        self.clock = clock or Clock()
        self.store = Guards(client, clock_ms=self.clock)
        self.guards = guards
        self.agent = agent
        self.made = 0

    def ask(
        self,
        member: str | None = None,
        *,
        wait: bool = False,
        tenant: str = "acme",
        priority: Priority = "normal",
        tokens: int = 0,
        cost: float = 0.0,
        budgets: Sequence[str] = (),
        hold: float = HOLD,
        fence: str = "",
    ) -> Admitted | Refused:
        self.made += 1
        return self.store.admit(
            self.agent,
            member or f"run{self.made:04d}/step",
            self.guards,
            tenant=tenant,
            priority=priority,
            need=Need(tokens=tokens, cost=cost),
            hold_ms=round(hold * 1000),
            wait=wait,
            budgets=budgets,
            fence=fence,
        )

    def ask_ahead(
        self,
        member: str,
        *,
        tenant: str = "acme",
        tokens: int = 0,
        cost: float = 0.0,
        budgets: Sequence[str] = (),
        hold: float = HOLD,
        fence: str = "1-n",
    ) -> Admitted | Refused | None:
        """Ask for an attempt that is not begun; the client is one whose calls can go along with others."""
        ahead = self.store.ahead(
            self.agent,
            member,
            self.guards,
            tenant=tenant,
            priority="normal",
            need=Need(tokens=tokens, cost=cost),
            hold_ms=round(hold * 1000),
            budgets=budgets,
            fence=fence,
        )
        ahead.go_along()
        self.store.client.ping()
        return ahead.answer()

    def end(
        self,
        member: str,
        outcome: Outcome = "ok",
        *,
        took: float = 0.0,
        used: Need | None = None,
        closed: float = 0.0,
        fence: str = "",
    ) -> list[str]:
        return self.store.settle(
            self.agent,
            member,
            self.guards,
            outcome=outcome,
            took_ms=round(took * 1000),
            used=used,
            closed_ms=round(closed * 1000),
            fence=fence,
        )

    def grant(self) -> list[str]:
        return self.store.grant(self.agent)


def refused(found: Admitted | Refused) -> Refused:
    assert isinstance(found, Refused), found
    return found


def admitted(found: Admitted | Refused) -> Admitted:
    assert isinstance(found, Admitted), found
    return found


def nothing_is_held(client: Redis) -> bool:
    slots = list(client.scan_iter(f"{keys.GUARDS}:slots:*"))
    queues = list(client.scan_iter(f"{keys.GUARDS}:queue:*")) + list(client.scan_iter(f"{keys.GUARDS}:turns:*"))
    return not (client.exists(keys.GUARD_MEMBERS, keys.GUARD_HOLDS, keys.GUARD_WAITING) or slots or queues)
