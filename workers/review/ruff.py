"""Specialist: ruff, a linter, for errors and what is likely to be one."""

from __future__ import annotations

import json
import subprocess
from typing import Any, Final

from orchestrator import Context, agent
from workers.review.errors import ToolFailed
from workers.review.models import Files, Finding, Findings, Severity, Unchecked
from workers.review.tooling import load, message, result

TIMEOUT: Final = 60.0
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


@agent("review.ruff", timeout=TIMEOUT, deadline=300.0)
def ruff(ctx: Context, files: Files) -> Findings:
    """
    Lint Python files.

    Raises:
        ToolMissing: ruff is not installed here.
        ToolFailed: it ended without a result.
    """
    found: list[Finding] = []
    unchecked: list[Unchecked] = []
    for one in _run(files, min(TIMEOUT, ctx.remaining())):
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
                message=message(one["message"]),
            )
        )
    return result("ruff", files, found, unchecked)


def severity_of(rule: str) -> Severity:
    """Return how bad it is; ruff does not say."""
    return next((severity for start, severity in _SEVERITIES if rule.startswith(start)), "low")


def _run(files: Files, within: float) -> list[dict[str, Any]]:
    package = load("ruff", "ruff")
    try:
        done = subprocess.run(  # noqa: S603  ruff itself; names of files come after `--`
            [package.find_ruff_bin(), *OPTIONS, "--", *files.paths],
            cwd=files.root,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=within,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ToolFailed("ruff", f"not done within {within:.0f} s") from None
    except OSError as error:
        raise ToolFailed("ruff", str(error)) from None
    if done.returncode != 0:
        raise ToolFailed("ruff", message(done.stderr.decode(errors="replace"))[-300:] or f"exit {done.returncode}")
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found
