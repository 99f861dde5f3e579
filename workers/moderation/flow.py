"""The flow: ingest → redact → classify → (unsure: a person) → summarise → publish."""

from __future__ import annotations

from orchestrator import Decision, Gate, Pipeline, Stage
from workers.moderation.classify import classify
from workers.moderation.ingest import ingest
from workers.moderation.models import Classified
from workers.moderation.policy import policy
from workers.moderation.publish import publish
from workers.moderation.redact import redact
from workers.moderation.rules import rules
from workers.moderation.summarise import summarise

ANSWER_WITHIN = 24 * 3600.0  # s a person has before the rules decide


def confident(document: Classified) -> Decision:
    """Let a sure verdict pass and ask a person about the rest: approving lets the verdict stand as it is."""
    verdict = document.verdict
    if policy().is_sure(verdict.action, verdict.confidence):
        return Decision.ok()
    why = f" ({verdict.reasons[0][:120]})" if verdict.reasons else ""
    return Decision.ask(
        f"{(document.title or document.id)[:80].rstrip('. ')}: {verdict.category} → {verdict.action}, "
        f"confidence {verdict.confidence:.2f}{why}; approve to let this stand, reject to drop the document"
    )


moderation = Pipeline(
    "moderation",
    [
        ingest,
        redact,
        Stage(
            classify,
            gate=Gate(confident, on_fail="human", timeout=ANSWER_WITHIN, default="fallback", fallback=rules),
        ),
        summarise,
        publish,
    ],
)
