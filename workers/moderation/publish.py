"""Stage 5: the final record, and its file where the producer asked for one."""

from __future__ import annotations

import os
import re
import threading
from hashlib import blake2s
from pathlib import Path

from orchestrator import Context, agent
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


def write_atomically(file: Path, text: str) -> None:
    """
    Write a file whole or not at all: a worker killed here leaves the old file or none, never half of one.

    Raises:
        OSError: the folder cannot be made or written to.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    # Hidden, beside its target (a rename is atomic within a file system) and different for every writer.
    temporary = file.with_name(f".{file.name}.{os.getpid()}-{threading.get_ident()}")
    try:
        with temporary.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
