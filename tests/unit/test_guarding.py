"""What an attempt tells the guards at its end, by the table of the documentation."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any, Final, Unpack, cast

import pytest

from orchestrator import Breaker, Cached, Concurrency, RateLimit, Retry, RetryLater, Spend, agent
from orchestrator.agent import Policies
from orchestrator.errors import LeaseLost
from orchestrator.messages import RunBudget
from orchestrator.resilience.idle import IdleTimeout
from orchestrator.runtime import guarding
from orchestrator.runtime.attempt import Attempt, AttemptFailed, Judged
from orchestrator.runtime.guarding import Guarding
from orchestrator.state.guards import Admitted, BudgetState, Hold, Refused
from tests.docs.tables import table

NAME: Final = "guarding.model"


class StatusError(Exception):
    """What clients of HTTP raise."""

    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP {status}")
        self.status_code = status


class Recorder:
    """Guards that let everything through, and keep what is asked of them and what they are told."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.told: list[dict[str, Any]] = []
        self.needs: list[Spend] = []
        self.answer: Admitted | Refused = Admitted(0)
        self.left: BudgetState | None = None

    def set_budget(self, *_: object, **__: object) -> None:
        self.asked.append("budget")

    def admit(self, *_: object, need: Spend, **__: object) -> Admitted | Refused:
        self.asked.append("admit")
        self.needs.append(need)
        return self.answer

    def pause(self, *facts: object) -> None:
        self.asked.append(f"pause {facts}")

    def budget(self, _: str) -> BudgetState | None:
        return self.left

    def settlement(self, *_: object, **facts: Any) -> Recorded:  # noqa: ANN401  as Guards.settlement
        return Recorded(self, facts)


class Keeper:
    """Knows what is kept for a call."""

    def __init__(self) -> None:
        self.kept: set[Hold] = set()

    def keep(self, hold: Hold, *, longest: float) -> None:
        assert longest > 0
        self.kept.add(hold)

    def release(self, hold: Hold) -> None:
        self.kept.discard(hold)


class Recorded:
    """What the guards are told, when they are: along with another call, or at last."""

    def __init__(self, recorder: Recorder, facts: dict[str, Any]) -> None:
        self.recorder, self.facts = recorder, facts
        self.along = False

    def go_along(self) -> None:
        self.along = True

    def tell(self) -> list[str]:
        self.recorder.asked.append("along" if self.along else "settle")
        self.recorder.told.append(self.facts)
        return []


def caused_by(error: BaseException) -> AttemptFailed:
    failed = AttemptFailed(str(error))
    failed.__cause__ = error
    return failed


FAILED: Final = "a failure"
NOTHING: Final = "nothing"
COUNTS: Final[dict[str, tuple[str, list[Judged | BaseException]]]] = {
    "an output": (
        "a success, or a failure if it took longer than `slow`",
        [Judged(b"1"), Judged(b"1", "revise", {"feedback": "shorter"})],
    ),
    "an error that [would be tried again](retry-and-timeouts.md#what-is-tried-again)": (
        FAILED,
        [caused_by(error) for error in (ConnectionError("no"), StatusError(500), StatusError(408), ValueError("no"))],
    ),
    "its `timeout` or `idle`": (FAILED, [caused_by(TimeoutError()), caused_by(IdleTimeout(1.0))]),
    "HTTP 429": (NOTHING, [caused_by(StatusError(429))]),
    "an error that would not be tried again, such as HTTP 400": (NOTHING, [caused_by(StatusError(400))]),
    "`RetryLater`": (NOTHING, [caused_by(RetryLater(1.0))]),
    "a gate that rejects the output, an input that does not fit": (NOTHING, [AttemptFailed("rejected", final=True)]),
    "its run cancelled, its lease lost": (NOTHING, [LeaseLost("0" * 24, "step")]),
}
OUTCOMES: Final = {COUNTS["an output"][0]: "ok", FAILED: "failed", NOTHING: "neutral"}


def attempt(recorder: Recorder, *, budgets: int = 0, **policies: Unpack[Policies]) -> Attempt:
    """Return an attempt as far as its guards look at it."""

    @agent(NAME, **policies)
    def model(text: str) -> str:
        return text

    step = SimpleNamespace(name="step", agent=NAME, instead_of=None, rung=0, undoes=None)
    begun = SimpleNamespace(
        run_id="0" * 24, step=step, tenant="t", value=b"{}", priority="normal", ttl_ms=1, fence="1-n"
    )
    begun.budgets = tuple(RunBudget(run=str(number), tokens=1, ladder=("partial",)) for number in range(budgets))
    process = SimpleNamespace(guards=recorder, settings=SimpleNamespace(claim_check_bytes=1024, tick=0.2, lease=10.0))
    process.leases = Keeper()
    task = SimpleNamespace(app=None)
    parts = {"task": task, "process": process, "begun": begun, "until": float("inf")}
    return Attempt(agent=model, **cast("Any", parts))


def end(guarding: Guarding, how: Judged | BaseException) -> None:
    with guarding:
        if isinstance(how, Judged):
            guarding.succeeded(how)
        elif isinstance(how, AttemptFailed):
            guarding.failed(how)
        else:
            raise how


@pytest.mark.parametrize("row", COUNTS)
def test_a_breaker_counts_what_its_service_is_to_blame_for(row: str) -> None:
    counts, endings = COUNTS[row]
    for how in endings:
        # given an attempt that was let through, when it ends
        recorder = Recorder()
        with contextlib.suppress(LeaseLost):
            end(Guarding(attempt(recorder, breaker=Breaker()), "x"), how)
        # then the guards are told once how it went
        assert [told["outcome"] for told in recorder.told] == [OUTCOMES[counts]]


def test_the_page_tells_what_a_breaker_counts() -> None:
    assert table("breakers-and-limits.md", "An attempt ends with") == [[row, said] for row, (said, _) in COUNTS.items()]


@pytest.mark.parametrize(
    ("budgets", "policies", "trips"),
    [
        (0, Policies(retry=Retry(), fallback=["guarding.other"]), []),
        (0, Policies(estimate=10), ["admit", "along"]),
        (
            0,
            Policies(
                breaker=[Breaker(), Breaker(of="b")], rate=RateLimit(requests=1), concurrency=Concurrency(total=1)
            ),
            ["admit", "along"],
        ),
        (1, Policies(), ["budget", "admit", "along"]),
        (2, Policies(estimate=10), ["budget", "budget", "admit", "along"]),
        (0, Policies(fallback=[Cached()]), ["along"]),
    ],
)
def test_what_is_not_declared_costs_no_round_trip(budgets: int, policies: Policies, trips: list[str]) -> None:
    # given a step of an agent with these policies, in a run with so many budgets
    recorder = Recorder()
    guarding = Guarding(attempt(recorder, budgets=budgets, **policies), "x")
    # when it goes well
    assert guarding.admit() is None
    end(guarding, Judged(b"1"))
    # then the guards were asked so often
    assert recorder.asked == trips


@pytest.mark.parametrize(
    ("estimate", "need"),
    [
        (None, Spend(tokens=1, cost=0.000001)),
        (50, Spend(tokens=50, cost=0.000001)),
        (Spend(cost=0.5), Spend(tokens=1, cost=0.5)),
        (Spend(tokens=5, cost=0.5), Spend(tokens=5, cost=0.5)),
        (Spend(), Spend()),
    ],
)
def test_who_tells_one_amount_alone_still_needs_some_of_the_other_budget(
    estimate: int | Spend | None, need: Spend
) -> None:
    recorder = Recorder()
    Guarding(attempt(recorder, budgets=1, estimate=estimate), "x").admit()
    assert recorder.needs == [need]


@pytest.mark.parametrize("given", ["input", "input-0a1b2c3d"])
def test_what_somebody_gave_is_no_part_of_a_result(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # given a step on what a person gave, and a run that has no budget left for it
    recorder, failed = Recorder(), list[str]()
    recorder.answer = Refused("budget", "run:0", -1, queued=False)
    recorder.left = BudgetState(name="run:0", tokens=1, cost=0.5, used_tokens=1, used_cost=0.25)
    stopped = attempt(recorder, budgets=1)
    stopped.begun.step.__dict__.update(input=given, took=None)
    monkeypatch.setattr(guarding, "fail", lambda _, reason: failed.append(reason))
    # when it asks, then the run does not end with that as its output, and says what it lacks
    Guarding(stopped, "x").admit()
    assert failed == ["the budget of run:0 has too little left: 0 of 1 tokens, and it needs 1"]


@pytest.mark.parametrize(
    ("policies", "paused"),
    [
        (Policies(retry=Retry()), True),
        (Policies(retry=Retry(), concurrency=Concurrency(total=1)), True),
        (Policies(retry=Retry(), rate=RateLimit(requests=1)), False),
        (Policies(retry=Retry(), breaker=Breaker()), False),
        (Policies(), False),
    ],
)
def test_a_retry_after_closes_a_gate_also_where_no_guard_has_one(policies: Policies, paused: bool) -> None:  # noqa: FBT001  a row
    # given an attempt of an agent with these policies, when it is told to come back in 7 s
    recorder, error = Recorder(), StatusError(429)
    error.__dict__["headers"] = {"Retry-After": "7"}
    end(Guarding(attempt(recorder, **policies), "x"), caused_by(error))
    # then nobody calls until then: by the gate of its guards, or by one of its own
    assert (f"pause {(NAME, 7000)}" in recorder.asked) is paused


def test_what_an_attempt_holds_is_kept_until_it_ends_and_its_gate_has_judged() -> None:
    held = attempt(Recorder(), concurrency=Concurrency(total=1))
    keeper = cast("Keeper", held.process.leases)
    with Guarding(held, "x"):
        assert keeper.kept == {(NAME, f"{'0' * 24}/step", "1-n")}
    assert not keeper.kept


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (-5, "its estimate does not fit: tokens must be 0 or more and finite, not -5"),
        ("few", "its estimate does not fit: it gives a number of tokens or Spend(...), not 'few'"),
    ],
)
def test_an_estimate_that_gives_no_amount_fails_its_attempt_with_what_it_gave(given: Any, why: str) -> None:  # noqa: ANN401  whatever it gives
    with pytest.raises(AttemptFailed) as failed:
        Guarding(attempt(Recorder(), estimate=lambda _: given), "x")
    assert (failed.value.reason, failed.value.final) == (why, True)
