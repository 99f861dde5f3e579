"""Acme's flows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from orchestrator import Decision, Gate, Hierarchy, Join, Pipeline, Stage

from .agents import (
    boss,
    careful,
    careful_sync,
    editor,
    effect_async,
    effect_sync,
    exact,
    first,
    hold,
    hold_sync,
    labour,
    late,
    late_sync,
    liar,
    parked,
    poison,
    prepare,
    raiser,
    rules,
    second,
    slow,
    third,
    total,
    writer,
)

if TYPE_CHECKING:
    from orchestrator.messages import Otherwise

    from .documents import Draft

OTHERWISE: Final[tuple[Otherwise, ...]] = ("fail", "degrade")


def judge(draft: Draft) -> Decision | bool:
    """Decide what the draft's text says: `ok`, `no`, `revise N`, `reject`, `fallback`, `ask` or `raise`."""
    word, _, count = draft.text.partition(" ")
    if word == "revise" and draft.version >= int(count):
        return True
    match word:
        case "revise":
            return Decision.revise(f"not good enough: {draft.version}")
        case "reject":
            return Decision.reject("against the policy")
        case "fallback":
            return Decision.fall_back("too hard")
        case "ask":
            return Decision.ask("is this right?")
        case "raise":
            msg = "the judge is out"
            raise RuntimeError(msg)
        case _:
            return word == "ok"


relay = Pipeline("relay", [first, second, third])
held = Pipeline("held", [first, hold, Stage(second, name="after"), third])
held_sync = Pipeline("held-sync", [first, hold_sync, Stage(second, name="after"), third])
to_parked = Pipeline("to-parked", [first, parked, second])
only_parked = Pipeline("only-parked", [parked])
crawl = Pipeline("crawl", [slow])
long = Pipeline("long", [Stage(first, name=f"s{number:02}") for number in range(25)])

careful_flow = Pipeline("careful", [careful])
careful_sync_flow = Pipeline("careful-sync", [careful_sync])

raises = Pipeline("raises", [first, raiser, second])
lies = Pipeline("lies", [first, liar, second])
misfits = Pipeline("misfits", [first, exact, second])
poisoned = Pipeline("poisoned", [first, poison, second])
overruns = Pipeline("overruns", [late])
overruns_sync = Pipeline("overruns-sync", [late_sync])

essay = Pipeline("essay", [Stage(writer, gate=Gate(judge, max_revisions=2)), editor])
essay_revise = Pipeline("essay-revise", [Stage(writer, gate=Gate(judge, on_fail="revise", max_revisions=1)), editor])
essay_then_pass = Pipeline("essay-then-pass", [Stage(writer, gate=Gate(judge, max_revisions=1, then="pass")), editor])
essay_then_human = Pipeline(
    "essay-then-human", [Stage(writer, gate=Gate(judge, max_revisions=1, then="human")), editor]
)
essay_then_fallback = Pipeline(
    "essay-then-fallback",
    [Stage(writer, gate=Gate(judge, max_revisions=1, then="fallback", fallback=rules)), editor],
)
essay_fallback = Pipeline("essay-fallback", [Stage(writer, gate=Gate(judge, fallback="acme.rules")), editor])
impatient_reject = Pipeline("impatient-reject", [Stage(writer, gate=Gate(judge, timeout=0.4)), editor])
impatient_approve = Pipeline(
    "impatient-approve", [Stage(writer, gate=Gate(judge, timeout=0.4, default="approve")), editor]
)
impatient_fallback = Pipeline(
    "impatient-fallback", [Stage(writer, gate=Gate(judge, timeout=0.4, default="fallback", fallback=rules)), editor]
)

inner = Pipeline("inner", [prepare, writer])
nested = Pipeline("nested", [first, Stage(inner, gate=Gate(judge, max_revisions=2, fallback=rules)), editor])

effects = Pipeline(
    "effects", [Stage(effect_async, name="a"), Stage(effect_sync, name="b"), Stage(effect_async, name="c")]
)
labours = Pipeline("labours", [Stage(labour, name="a"), Stage(labour, name="b"), Stage(labour, name="c")])

labourers = Pipeline("labourers", [Stage(labour, name="x"), Stage(labour, name="y")])
SPECIALISTS: Final[list[Any]] = [effect_async, effect_sync, effects, labour, labourers, hold, raiser, poison, parked]


def crew_of(name: str, join: Join, *more: Hierarchy, width: int = 2) -> Hierarchy:
    """Return a hierarchy whose plan is its document's text: see `agents.assignments`."""
    workers = [*SPECIALISTS, *more]
    return Hierarchy(name, boss=boss, synthesize=total, workers=workers, join=join, width=width, max_rounds=3)


crew = crew_of("crew", Join())
tolerant = crew_of("tolerant-crew", Join(otherwise="degrade"))
crews = crew_of("crews", Join(otherwise="degrade"), crew, tolerant, width=8)
# Of four members. Those with a time are for a worker that is not there: it passes where that one is needed.
quorums = [
    crew_of(f"quorum-{need}-{otherwise}", Join(need=need, otherwise=otherwise), width=4)
    for need in (3, 4)
    for otherwise in OTHERWISE
]
timed_quorums = [
    crew_of(f"timed-quorum-{need}-{otherwise}", Join(need=need, otherwise=otherwise, deadline=within), width=4)
    for need, within in ((3, 120.0), (4, 3.0))
    for otherwise in OTHERWISE
]
