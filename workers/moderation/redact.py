"""Stage 2: personal data and secrets become typed placeholders such as `[EMAIL]`."""

from __future__ import annotations

from collections import Counter

from orchestrator import agent
from workers.moderation.detectors import DETECTORS, Detector
from workers.moderation.models import UNDETERMINED, Ingested, Redacted


@agent("moderation.redact", timeout=30.0)
def redact(document: Ingested) -> Redacted:
    """Redact text, title and source, and count what was found."""
    counts: Counter[str] = Counter()
    redacted = {}
    for field in ("title", "source", "text"):
        redacted[field], found = redact_text(getattr(document, field), document.language)
        counts.update(found)
    return Redacted.model_validate(document.model_dump() | redacted | {"redactions": dict(sorted(counts.items()))})


def redact_text(text: str, language: str = UNDETERMINED) -> tuple[str, dict[str, int]]:
    """
    Replace personal data and secrets.

    Args:
        text: normalised text.
        language: ISO 639 code; decides how telephone numbers without a country code are read.

    Returns:
        The text, and how many of each kind were replaced. Redacting the result again changes nothing.
    """
    counts: Counter[str] = Counter()
    # A replacement can uncover another: what stood next to it now stands next to a bracket. So every detector
    # looks until it has seen the final text. None matches a placeholder: each find leaves less to find, and this
    # ends.
    seen: dict[str, str] = {}
    while any(seen.get(detector.kind) != text for detector in DETECTORS):
        for detector in DETECTORS:
            if seen.get(detector.kind) != text:
                text, found = _replace(text, detector, language)
                if found:
                    counts[detector.kind] += found
                else:
                    seen[detector.kind] = text
    return text, dict(sorted(counts.items()))


def _replace(text: str, detector: Detector, language: str) -> tuple[str, int]:
    parts, position, found = [], 0, 0
    for start, end in detector.find(text, language):
        parts += [text[position:start], f"[{detector.kind}]"]
        position = end
        found += 1
    return ("".join([*parts, text[position:]]), found) if found else (text, 0)
