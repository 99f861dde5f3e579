"""What Hypothesis chooses from: plans, what an attempt comes to, which step a rule is about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from hypothesis import strategies as st

from orchestrator.messages import PlanStep
from tests.state.reference import Ask, Later

if TYPE_CHECKING:
    from orchestrator.state.runs import Begun

HOUR_MS: Final = 3_600_000
MAX_STEPS: Final = 5
FALLBACK: Final = "fallback"


@st.composite
def plans(draw: st.DrawFn) -> tuple[PlanStep, ...]:
    """
    Plans of 1 to 5 steps.

    A gate may send the run back to an earlier step, as those of nested pipelines do; a step may be undone by another
    agent, and have an hour to be done in.
    """
    names = [f"step-{number}" for number in range(draw(st.integers(1, MAX_STEPS)))]
    back = [draw(st.none() | st.sampled_from(names[:number])) if number else None for number in range(len(names))]
    following = [*names[1:], None]
    return tuple(
        PlanStep(
            name=name,
            agent=f"agent-{name}",
            next=after,
            start=start,
            gated=True,
            undo=draw(st.sampled_from([None, f"undoes-{name}", f"undoes-{name}"])),
            within_ms=draw(st.sampled_from([None, HOUR_MS, HOUR_MS])),
        )
        for name, after, start in zip(names, following, back, strict=True)
    )


TOKENS: Final = st.integers(0, 3)
ASKS: Final = st.one_of(
    *[st.builds(Ask, st.just("complete"), tokens=TOKENS)] * 5,  # else runs seldom get to their second step
    st.builds(Ask, st.just("complete"), reason=st.just("the last good output"), tokens=TOKENS),
    st.builds(Ask, st.just("revise"), feedback=st.sampled_from(["shorter", 'übel "quoted"\n']), tokens=TOKENS),
    st.builds(Ask, st.just("fallback"), agent=st.just(FALLBACK)),
    st.builds(Ask, st.just("wait"), default=st.sampled_from(["approve", "reject"]), wait_over=st.booleans()),
    st.builds(
        Ask,
        st.just("wait"),
        agent=st.just(FALLBACK),
        default=st.sampled_from(["approve", "reject", "fallback"]),
        wait_over=st.booleans(),
        tokens=TOKENS,
    ),
)
LATERS: Final = st.builds(Later, due=st.booleans(), counts=st.booleans(), tokens=TOKENS) | st.just(
    Later(due=False, counts=True, too_late=True)
)
# Which step a rule is about: 0 to 4 that one, above the one whose turn it is.
PICKS: Final = st.integers(0, 2 * MAX_STEPS)
# What ends a run is seldom done, else none lives long.
SELDOM: Final = st.integers(0, 3).map(lambda number: number == 0)


@dataclass(frozen=True)
class Attempt:
    """An execution that was allowed to start, with what it will hand in, however often it does."""

    begun: Begun
    value: bytes
    ask: Ask

    @property
    def key(self) -> tuple[str, str, str]:
        """Where it belongs, and its fence."""
        return self.begun.run_id, self.begun.step.name, self.begun.fence


def details(ask: Ask) -> dict[str, object]:
    """Return what commit.lua is to know beside the verdict."""
    match ask.verdict:
        case "complete" | "partial":
            return {"reason": ask.reason} if ask.reason else {}
        case "revise":
            return {"feedback": ask.feedback}
        case "fallback":
            return {"agent": ask.agent, "reason": "why"}
    fallback = {"fallback": ask.agent} if ask.agent else {}
    return {"question": "?", "timeout_ms": 0 if ask.wait_over else HOUR_MS, "default": ask.default, **fallback}
