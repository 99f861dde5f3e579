"""Specialist: passwords and keys that were left in files, by detect-secrets."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any, Final

from orchestrator import agent
from workers.review.apart import run_python
from workers.review.errors import ToolFailed
from workers.review.models import Files, Finding, Findings, Unchecked
from workers.review.tooling import load, message, result

PACKAGE: Final = "bc-detect-secrets"
# It passes over files with such names without a word; asked here, to say so, and for the path below the folder alone.
BY_NAME: Final = {
    "is_lock_file": "a lock file, which detect-secrets passes over",
    "is_non_text_file": "of a kind that detect-secrets passes over",
    "is_swagger_file": "of Swagger, which detect-secrets passes over",
}
# Its patterns take a time that grows with the square of a line's length: 0.1 s for 1,000 characters, seconds for 5,000,
# half an hour for what it takes at most. They hold the interpreter, and with it the leases of all other steps.
LONG: Final = 1000  # characters of a line; a file with longer ones is read by a process that can be ended
WITHIN: Final = 60.0  # s for all such files of an assignment
# Its settings and plugins are the process's, and a plugin changes its pattern while it reads a file.
_lock: Final = threading.Lock()


@agent("review.secrets", timeout=120.0, deadline=300.0)
def secrets(files: Files) -> Findings:
    """
    Look for secrets in text files. Nothing is sent anywhere to see whether a secret works.

    Raises:
        ToolMissing: detect-secrets is not installed here.
    """
    collection = load("detect_secrets.core.secrets_collection", PACKAGE).SecretsCollection
    settings = load("detect_secrets.settings", PACKAGE)
    heuristic = load("detect_secrets.filters.heuristic", PACKAGE)
    longest = load("detect_secrets.core.scan", PACKAGE).MAX_LINE_LENGTH
    found: list[Finding] = []
    slow: list[str] = []
    unchecked: list[Unchecked] = []
    with _lock, settings.default_settings() as current:
        current.disable_filters(*(f"{heuristic.__name__}.{name}" for name in BY_NAME))
        for path in files.paths:
            passed_over = next((why for name, why in BY_NAME.items() if getattr(heuristic, name)(path)), "")
            if passed_over:
                unchecked.append(Unchecked(path=path, reason=passed_over))
                continue
            try:
                # What cannot be decoded and lines that are too long, it passes over without a word as well.
                text = Path(files.root, path).read_text(encoding="utf-8")
            except OSError as error:
                unchecked.append(Unchecked(path=path, reason=f"cannot be read: {error.strerror}"))
                continue
            except UnicodeDecodeError:
                unchecked.append(Unchecked(path=path, reason="not UTF-8"))
                continue
            length = max(len(line.strip()) for line in text.split("\n"))
            if length > longest:
                unchecked.append(Unchecked(path=path, reason=f"lines of more than {longest:,} characters"))
            if length > LONG:
                slow.append(path)
                continue
            secrets_of = collection(root=files.root)
            secrets_of.scan_file(path)
            found += [_finding(path, secret.type, secret.line_number) for _, secret in secrets_of]
    until = time.monotonic() + WITHIN
    for index, path in enumerate(slow):
        try:
            found += _by_a_process(files.root, path, (until - time.monotonic()) / (len(slow) - index))
        except ToolFailed:
            reason = f"detect-secrets has no result for its lines of over {LONG:,} characters within {WITHIN:.0f} s"
            unchecked.append(Unchecked(path=path, reason=reason))
    return result(PACKAGE, files, found, unchecked)


def _by_a_process(root: str, path: str, within: float) -> list[Finding]:
    arguments = ["detect_secrets", "scan", "--no-verify", "--all-files", f"./{path}"]
    done = run_python("detect-secrets", arguments, root=root, within=within)
    secrets_of: dict[str, list[dict[str, Any]]] = json.loads(done)["results"]
    return [_finding(path, one["type"], one["line_number"]) for found in secrets_of.values() for one in found]


def _finding(path: str, kind: str, line: int) -> Finding:
    # Neither the secret nor its hash: a report is read by more people than the code.
    return Finding(rule=kind, severity="high", path=path, line=line, message=message(f"looks like a secret: {kind}"))
