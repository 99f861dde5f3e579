"""Stage 5: the final record, and its file where the producer asked for one."""

from __future__ import annotations

import re
from hashlib import blake2s
from pathlib import Path

from orchestrator import Context, agent
from workers.files import write_atomically
from workers.moderation.models import Action, Published, Summarised, Verdict


@agent("moderation.publish", timeout=30.0)
def publish(ctx: Context, document: Summarised) -> Published:
    """Build the record; write it to the document's `out` folder if it names one."""
    verdict = document.verdict
    file = None if document.out is None else Path(document.out) / file_name(document.id, ctx.idempotency_key)
    record = Published.model_validate(
        document.model_dump(exclude={"verdict", "out"})
        | verdict.model_dump()
        | {"action": final_action(verdict), "file": file and str(file)}
    )
    if file is not None:
        write_atomically(file, record.model_dump_json(indent=2) + "\n")
    return record


def final_action(verdict: Verdict) -> Action:
    """
    Return what becomes of the document.

    A verdict to review gets here only when a person let it pass: the rules, which stand in for one, never leave
    it at that. So it is published with its label.
    """
    return "label" if verdict.action == "review" else verdict.action


def file_name(document_id: str, idempotency_key: str) -> str:
    """Name the record's file: the same for each attempt of a run's step, different for each run."""
    readable = re.sub(r"[^\w.-]+", "-", document_id).strip("-.")[:80] or "document"
    return f"{readable}.{blake2s(idempotency_key.encode(), digest_size=6).hexdigest()}.json"
