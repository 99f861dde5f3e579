"""Specialist: passwords and keys that were left in files, by detect-secrets."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Final

from orchestrator import agent
from workers.review.models import Files, Finding, Findings, Unchecked
from workers.review.tooling import load, message, result

PACKAGE: Final = "bc-detect-secrets"
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
    found: list[Finding] = []
    unchecked: list[Unchecked] = []
    with _lock, settings.default_settings():
        for path in files.paths:
            file = Path(files.root, path)
            try:
                # It passes over such a file without a word.
                file.read_text(encoding="utf-8")
            except OSError as error:
                unchecked.append(Unchecked(path=path, reason=f"cannot be read: {error.strerror}"))
                continue
            except UnicodeDecodeError:
                unchecked.append(Unchecked(path=path, reason="not UTF-8"))
                continue
            secrets_of = collection(root=files.root)
            secrets_of.scan_file(path)
            # Neither the secret nor its hash: a report is read by more people than the code.
            found += [
                Finding(
                    rule=secret.type,
                    severity="high",
                    path=path,
                    line=secret.line_number,
                    message=message(f"looks like a secret: {secret.type}"),
                )
                for _, secret in secrets_of
            ]
    return result(PACKAGE, files, found, unchecked)
