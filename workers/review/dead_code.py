"""Specialist: code that nothing uses, by vulture, over all Python files at once."""

from __future__ import annotations

import tokenize
from pathlib import Path
from typing import Any, Final

from orchestrator import agent
from workers.review.models import Files, Finding, Findings, Unchecked
from workers.review.tooling import load, message, parsing, result

SURE: Final = 90  # per cent; below, a name may be used in a way that cannot be seen


@agent("review.dead_code", timeout=600.0, deadline=900.0)
def dead_code(files: Files) -> Findings:
    """
    Look for what is defined and not used.

    Raises:
        ToolMissing: vulture is not installed here.
    """
    vulture = load("vulture", "vulture")
    scanner = vulture.Vulture()
    # It would write lines of the code to the worker's log; for a syntax error it sets its exit code as well.
    scanner._log = lambda *_, **__: None  # noqa: SLF001  there is no option for it
    fine = scanner.exit_code
    unchecked: list[Unchecked] = []
    for path in files.paths:
        file = Path(files.root, path)
        try:
            with tokenize.open(file) as stream:
                text = stream.read()
            with parsing:
                scanner.scan(text, filename=file)
        except OSError as error:
            unchecked.append(Unchecked(path=path, reason=f"cannot be read: {error.strerror}"))
        except (SyntaxError, ValueError, LookupError):  # for an encoding that there is not, or that is none of text
            unchecked.append(Unchecked(path=path, reason="cannot be decoded"))
        except (RecursionError, MemoryError):
            unchecked.append(Unchecked(path=path, reason="nested too deeply"))
        if scanner.exit_code != fine:
            unchecked.append(Unchecked(path=path, reason="syntax error"))
            scanner.exit_code = fine
    scanner.scavenge([])  # what it knows of the libraries that were imported: names that those use
    root = Path(files.root)
    return result("vulture", files, [_finding(root, item) for item in scanner.get_unused_code()], unchecked)


def _finding(root: Path, item: Any) -> Finding:  # noqa: ANN401  vulture does not export the type
    return Finding(
        rule=f"unused-{item.typ}" if item.typ != "unreachable_code" else "unreachable-code",
        severity="low" if item.confidence >= SURE else "info",
        path=Path(item.filename).relative_to(root).as_posix(),
        line=item.first_lineno,
        message=message(f"{item.message} ({item.confidence} % sure)"),
    )
