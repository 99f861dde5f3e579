"""Specialist: ruff, a linter, for errors and what is likely to be one."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Sequence
from functools import cache, partial
from itertools import chain
from pathlib import Path
from typing import Any, Final

from orchestrator import Context, agent
from workers.review.apart import run, spread
from workers.review.models import Files, Finding, Findings, Severity, Unchecked
from workers.review.tooling import load, message, result

WITHIN: Final = 60.0  # s for all files of an assignment
# What is wrong or dangerous; how code looks is its owners' affair, and `--isolated` keeps their configuration out.
OPTIONS: Final = (
    *("check", "--isolated", "--no-cache", "--exit-zero", "--output-format", "json"),
    *("--target-version", "py313", "--select", "E9,F,B,S,C90,PLE"),
)
UNREADABLE: Final = "E902"
SYNTAX: Final = "invalid-syntax"
_SEVERITIES: Final[tuple[tuple[str, Severity], ...]] = (
    # By the beginning of the rule, the first that fits.
    (SYNTAX, "high"),
    ("E9", "high"),
    ("F82", "high"),  # names that are not defined
    ("F7", "high"),  # statements where they cannot be
    ("PLE", "high"),
    ("F", "low"),
    ("B", "medium"),
    ("S", "low"),  # bandit, which finds the same, knows better
    ("C", "low"),
)
# Ruff's own texts of these quote what stands in a string, which may be a secret, or what such a string is assigned to.
QUOTING: Final = {
    "B033": "set with the same item twice",
    "B035": "dictionary comprehension with the same key each time",
    "F504": "`%`-format string with unused named arguments",
    "F505": "`%`-format string without an argument for a placeholder",
    "F522": "`.format` call with unused named arguments",
    "F524": "`.format` call without an argument for a placeholder",
    "F601": "dictionary literal with the same key twice",
    "F722": "syntax error in a forward annotation",
    "F822": "`__all__` with a name that is not defined",
    "PLE1132": "keyword argument that is given twice",
    "S105": "possible hardcoded password in a string",
    "S106": "possible hardcoded password as an argument",
    "S107": "possible hardcoded password as a function's default",
    "S108": "probable insecure usage of a temporary file or directory",
}
# Names, which may stand in a string as well: an annotation in quotes.
_NAMELESS: Final = {
    "F405": "a name in a string may be undefined, or defined by a star import",
    "F821": "undefined name in a string",
}
_NAME: Final = re.compile(r"`(\w+)`")


@agent("review.ruff", timeout=120.0, deadline=300.0)
def ruff(ctx: Context, files: Files) -> Findings:
    """
    Lint Python files.

    Raises:
        ToolMissing: ruff is not installed here.
        ToolFailed: it ended without a result.
    """
    found: list[Finding] = []
    names = cache(partial(_names, files.root))
    # A file whose code is a long chain, or nested deeply, overflows its stack.
    results, unchecked = spread(files.paths, partial(_run, files.root), min(WITHIN, ctx.remaining()))
    for one in chain.from_iterable(results):
        # The name is absolute, whatever it was given.
        path = one["filename"].removeprefix(f"{files.root}/")
        rule = one["code"] or SYNTAX
        if rule == UNREADABLE:
            unchecked.append(Unchecked(path=path, reason=message(one["message"])))
            continue
        where = one["location"] or {"row": 0, "column": 0}
        found.append(
            Finding(
                rule=rule,
                severity=severity_of(rule),
                path=path,
                line=where["row"],
                column=where["column"],
                message=message(_text(rule, one["message"], partial(names, path))),
            )
        )
    return result("ruff", files, found, unchecked)


def severity_of(rule: str) -> Severity:
    """Return how bad it is; ruff does not say."""
    return next((severity for start, severity in _SEVERITIES if rule.startswith(start)), "low")


def _text(rule: str, text: str, names: Callable[[], frozenset[str]]) -> str:
    """Return a message without what the code has in quotes."""
    if rule in QUOTING:
        return QUOTING[rule]
    if rule in _NAMELESS and not ((named := _NAME.search(text)) and named[1] in names()):
        return _NAMELESS[rule]
    parts = text.split("`")
    quoted = next((index for index in range(1, len(parts), 2) if "'" in parts[index] or '"' in parts[index]), None)
    # Up to the last one: the string may hold such marks itself.
    return text if quoted is None else f"{'`'.join(parts[:quoted])}`…`{parts[-1] if len(parts) > quoted + 1 else ''}"


def _names(root: str, path: str) -> frozenset[str]:
    """Return the names that are used in a file's code; none of them where it cannot be parsed."""
    try:
        tree = ast.parse(Path(root, path).read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return frozenset()
    return frozenset(node.id for node in ast.walk(tree) if isinstance(node, ast.Name))


def _run(root: str, paths: Sequence[str], within: float) -> list[dict[str, Any]]:
    command = [load("ruff", "ruff").find_ruff_bin(), *OPTIONS, "--", *paths]
    found: list[dict[str, Any]] = json.loads(run("ruff", command, root=root, within=within))
    return found
