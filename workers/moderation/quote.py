"""A summary of the document's own sentences, for where no model is configured or it is away."""

from __future__ import annotations

from orchestrator import agent
from workers.moderation.extract import extract
from workers.moderation.models import Classified, Summarised


@agent("moderation.quote", timeout=30.0)
def quote(document: Classified) -> Summarised:
    """Quote the sentences of a document that say most, unless the verdict keeps it from being published."""
    return quoted(document)


def quoted(document: Classified) -> Summarised:
    """Summarise a document by its own sentences; one that is not published has no summary."""
    if not has_summary(document):
        return summarised(document, "", "")
    return summarised(document, extract(document.text, document.language), "extract")


def has_summary(document: Classified) -> bool:
    """Tell whether there is something of a document to be summarised."""
    return document.verdict.action != "block" and bool(document.text)


def summarised(document: Classified, summary: str, by: str) -> Summarised:
    """Put a summary on a document."""
    return Summarised.model_validate(document.model_dump() | {"summary": summary, "summarised_by": by})
