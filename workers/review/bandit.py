"""Specialist: bandit, which knows calls and settings that open a hole."""

from __future__ import annotations

import ast
import json
import tokenize
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Final

from orchestrator import agent
from workers.review.apart import run_python, spread
from workers.review.models import Files, Finding, Findings, Severity, Unchecked
from workers.review.scanning import Issue, Scanned, scan
from workers.review.tooling import load, message, parsing, result

# It puts a chain of strings together anew for each of them and looks for SQL in the whole, and compares each call with
# each import: 3 kB took it 20 s, 48 kB two minutes. Files that may be such are read by a process that can be ended.
LARGE: Final = 64 * 1024  # bytes of a file
OPERATORS: Final = 50  # of a statement
CHARACTERS: Final = 4_000  # of a statement's strings
WITHIN: Final = 60.0  # s for all such files of an assignment
SCANNING: Final = Path(__file__).with_name("scanning.py")
BIDIRECTIONAL: Final = "B613"  # it counts characters, and from 1; all others count bytes of UTF-8, and from 0
_SEVERITIES: Final[dict[str, Severity]] = {"HIGH": "high", "MEDIUM": "medium", "LOW": "low"}
# Bandit's own texts quote what stands in the code, here most likely a secret.
QUOTING: Final = {
    "B103": "a file or folder is given permissions that are too wide",
    "B105": "possible hardcoded password in a string",
    "B106": "possible hardcoded password as an argument",
    "B107": "possible hardcoded password as a function's default",
}


@agent("review.bandit", timeout=120.0, deadline=300.0)
def bandit(files: Files) -> Findings:
    """
    Look for security problems in Python files.

    Raises:
        ToolMissing: bandit is not installed here.
        ToolFailed: it ended without a result.
    """
    load("bandit.core.manager", "bandit")
    # The tests of bandit's plugins share state too: two scans at once end some files with an error.
    with parsing:
        slow = [path for path in files.paths if _is_slow(Path(files.root, path))]
        # To start bandit takes as long as reading twenty files.
        scanned = [scan(files.root, [path for path in files.paths if path not in slow])]
    results, unchecked = spread(slow, partial(_by_a_process, files.root), WITHIN)
    found: list[Finding] = []
    lines = cache(_lines)
    for one in [*scanned, *results]:
        found += [
            Finding(
                rule=issue["rule"],
                severity=_SEVERITIES.get(issue["severity"], "info"),
                path=issue["path"],
                line=issue["line"],
                column=_column(issue, partial(lines, f"{files.root}/{issue['path']}")),
                message=QUOTING.get(issue["rule"]) or message(issue["text"]),
            )
            for issue in one["issues"]
        ]
        unchecked += [Unchecked(path=path, reason=message(reason)) for path, reason in one["skipped"]]
    return result("bandit", files, found, unchecked)


def _by_a_process(root: str, paths: Sequence[str], within: float) -> Scanned:
    scanned: Scanned = json.loads(run_python("bandit", [str(SCANNING), root, *paths], root=root, within=within))
    return scanned


def _is_slow(file: Path) -> bool:
    """Tell whether bandit may take more than a few seconds for a file."""
    try:
        content = file.read_bytes()
        if len(content) > LARGE:
            return True
        tree = ast.parse(content)
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return False  # bandit cannot read it either, and says why
    statements = [tree.body]
    while statements:
        for statement in statements.pop():
            operators = characters = 0
            nodes: list[ast.AST] = [statement]
            while nodes:
                for node in ast.iter_child_nodes(nodes.pop()):
                    if isinstance(node, ast.stmt):
                        statements.append([node])
                        continue
                    operators += isinstance(node, ast.BinOp)
                    if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
                        characters += len(node.value)
                    nodes.append(node)
            if operators > OPERATORS or characters > CHARACTERS:
                return True
    return False


def _column(issue: Issue, lines: Callable[[], Sequence[str]]) -> int:
    """Return the column in characters; 0 where it is not known."""
    if issue["rule"] == BIDIRECTIONAL:
        return issue["offset"]
    # The offset is the node's, the line may be an argument's further down.
    if issue["offset"] < 0 or issue["first"] != issue["line"]:
        return 0
    line = "".join(lines()[issue["line"] - 1 : issue["line"]]).encode()
    return len(line[: issue["offset"]].decode(errors="replace")) + 1 if issue["offset"] <= len(line) else 0


def _lines(name: str) -> Sequence[str]:
    """Return a file's lines as Python counts them."""
    try:
        with tokenize.open(name) as stream:
            return stream.read().split("\n")
    except (OSError, SyntaxError, ValueError, LookupError):  # it has changed since bandit has read it
        return ()
