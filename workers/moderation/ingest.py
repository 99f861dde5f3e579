"""Stage 1: plain, normalised text of bounded size, and its language."""

from __future__ import annotations

from orchestrator import agent
from workers.moderation.language import detect
from workers.moderation.models import Document, Ingested
from workers.moderation.plaintext import normalise, plain

MAX_READ = 200_000  # characters of the input that are moderated; the verdict says so when there is more


@agent("moderation.ingest", timeout=30.0)
def ingest(document: Document) -> Ingested:
    """Strip the markup, normalise, bound the size, name the language."""
    text = normalise(plain(document.text[:MAX_READ], document.format))
    return Ingested(
        id=document.id,
        title=normalise(document.title).replace("\n", " "),
        source=document.source,
        out=document.out,
        text=text,
        language=document.language or detect(text),
        characters=len(document.text),
        truncated=len(document.text) > MAX_READ,
    )
