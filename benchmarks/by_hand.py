"""The tools of the review flow as a person runs them, over a whole folder at once: what the flow must find too."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any, Final

from workers.review.complexity import THRESHOLD
from workers.review.ruff import OPTIONS

Found = Counter[tuple[str, str, str, int]]
"""How often a tool found a rule broken in a file and line: tool, rule, path below the folder, line."""

_VULTURE: Final = re.compile(
    r"(?P<path>.+?):(?P<line>\d+): (?:unused (?P<kind>\w+) '.*'|unreachable.*) \(\d+% confidence\)"
)
_TAG: Final = re.compile(r"\W*SPDX-License-Identifier: *(?P<expression>.*\w\)*)")


def by_hand(folder: Path) -> Found:
    """Run every tool over a folder."""
    folder = folder.resolve()
    found: Found = Counter()
    for one in json.loads(_run(folder, "ruff", *OPTIONS, ".")):
        path = Path(one["filename"]).relative_to(folder).as_posix()
        found["ruff", one["code"] or "invalid-syntax", path, one["location"]["row"]] += 1
    for one in json.loads(_run(folder, "bandit", "-q", "-r", ".", "-f", "json"))["results"]:
        found["bandit", one["test_id"], _tidy(one["filename"]), one["line_number"]] += 1
    for row in csv.reader(_run(folder, "lizard", "--csv", ".").splitlines()):
        if int(row[1]) > THRESHOLD:
            found["lizard", "cyclomatic-complexity", _tidy(row[6]), int(row[9])] += 1
    for line in _run(folder, "vulture", ".").splitlines():
        told = _VULTURE.fullmatch(line)
        if told is None:
            raise SystemExit(f"vulture says {line!r}")
        rule = f"unused-{told['kind']}" if told["kind"] else "unreachable-code"
        found["vulture", rule, _tidy(told["path"]), int(told["line"])] += 1
    secrets: dict[str, list[dict[str, Any]]] = json.loads(
        _run(folder, "detect_secrets", "scan", "-n", "--all-files", ".")
    )["results"]
    for path, kinds in secrets.items():
        for one in kinds:
            found["bc-detect-secrets", one["type"], _tidy(path), one["line_number"]] += 1
    return found + _licences(folder)


def reported(document: dict[str, Any]) -> Found:
    """Return what a report.json holds, duplicates included."""
    return Counter(
        (source["tool"], source["rule"], issue["path"], source["line"])
        for issue in document["issues"]
        for source in issue["sources"]
    )


def _licences(folder: Path) -> Found:
    """Return the tags that license-expression does not accept; it has no command of its own."""
    from license_expression import get_spdx_licensing  # noqa: PLC0415  once, and not at all where nothing is compared

    licensing = get_spdx_licensing()
    found: Found = Counter()
    for file in sorted(folder.rglob("*")):
        if not file.is_file():
            continue
        for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").split("\n"), start=1):
            told = _TAG.match(line)
            if told:
                info = licensing.validate(told["expression"])
                rule = "spdx-unknown" if info.errors and info.errors[0].startswith("Unknown") else "spdx-invalid"
                if info.errors:
                    found["license-expression", rule, file.relative_to(folder).as_posix(), number] += 1
    return found


def _run(folder: Path, module: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode not in {0, 1, 3}:  # 1: bandit and lizard have found something; 3: vulture has
        raise SystemExit(f"{module} ended with {done.returncode}: {done.stderr[-500:]}")
    return done.stdout


def _tidy(path: str) -> str:
    return path.removeprefix("./")
