"""The deterministic verdict: weighed evidence against the policy's scores, the same on every run."""

from __future__ import annotations

from orchestrator import agent
from workers.moderation.models import NO_CATEGORY, UNDETERMINED, Classified, Redacted, Verdict
from workers.moderation.policy import Category, Policy, fold, policy

UNREADABLE = 0.5  # confidence in finding nothing where the rules cannot read, or could not read everything
_SEVERITY = {"allow": 0, "label": 1, "review": 2, "block": 3}


@agent("moderation.rules", timeout=30.0)
def rules(document: Redacted) -> Classified:
    """
    Decide by rules where nobody else did: a person who did not answer, a model that is away.

    Where the rules are unsure as well, the policy's `unanswered` says what happens: asking again would not end.
    """
    verdict = judge(document, policy())
    if not policy().is_sure(verdict.action, verdict.confidence):
        held = f"nobody else decided and the rules are unsure: {policy().unanswered}"
        verdict = verdict.model_copy(update={"action": policy().unanswered, "reasons": (*verdict.reasons, held)[-5:]})
    return classified(document, verdict.model_copy(update={"degraded": True}))


def classified(document: Redacted, verdict: Verdict) -> Classified:
    """Put a verdict on a document."""
    return Classified.model_validate(document.model_dump() | {"verdict": verdict})


def judge(document: Redacted, against: Policy) -> Verdict:
    """
    Weigh the evidence in a document.

    Args:
        document: title and text are read.
        against: the policy.

    Returns:
        The most severe category that was reached, the best supported among equals; `none` if none was.
    """
    folded = fold(f"{document.title}\n{document.text}")
    weighed = [(category, category.evidence(folded, document.redactions)) for category in against.category]
    ratios = {category.id: sum(found.values()) / category.score for category, found in weighed}

    def rank(item: tuple[Category, dict[str, float]]) -> tuple[int, float]:
        return _SEVERITY[item[0].action], ratios[item[0].id]

    reached = [item for item in weighed if ratios[item[0].id] >= 1.0]
    if reached:
        category, found = max(reached, key=rank)
        ratio = ratios[category.id]
        action, confidence = against.action_of(category.id), ratio / (ratio + 0.5)
        identifier, reasons = category.id, [f"{text} ({weight:g})" for text, weight in found.items()]
    else:
        action, confidence, identifier, reasons = against.action_of(NO_CATEGORY), 1.0, NO_CATEGORY, []

    if action in {"allow", "label"}:
        doubts = _doubts(document, against, weighed, ratios)
        confidence = min([confidence, *doubts.values()])
        reasons = [*doubts, *reasons]
    return Verdict(
        category=identifier,
        action=action,
        confidence=round(confidence, 2),
        reasons=tuple(reasons[:4]),
        decided_by="rules",
    )


def _doubts(
    document: Redacted,
    against: Policy,
    weighed: list[tuple[Category, dict[str, float]]],
    ratios: dict[str, float],
) -> dict[str, float]:
    """Return why letting the document through may be wrong, with the confidence each reason leaves."""
    doubts = {}
    if document.language not in {*against.languages, UNDETERMINED}:
        doubts[f"the rules do not read {document.language!r}"] = UNREADABLE
    if document.truncated:
        doubts[f"only the beginning of {document.characters:,} characters was read"] = UNREADABLE
    for category, found in weighed:
        if category.action != "label" and found and ratios[category.id] < 1.0:
            near = f"close to {category.id}: {', '.join(list(found)[:3])}"
            doubts[near] = 1.0 - ratios[category.id] / 2.0
    return dict(sorted(doubts.items(), key=lambda item: item[1]))
