"""Specialist: the licences that files and their folder declare, judged by license-expression's list of all of them."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterator
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from orchestrator import agent
from workers.review.models import Files, Finding, Findings, Severity, Unchecked
from workers.review.tooling import load, message, result

PACKAGE: Final = "license-expression"
INVALID, UNKNOWN, NONE = "spdx-invalid", "spdx-unknown", "no-licence"
# Alone in a comment: a program that writes or reads such lines mentions them elsewhere.
_TAG: Final = re.compile(r"[^\w\n]*SPDX-License-Identifier:[ \t]*(\S.*)", re.IGNORECASE)
# The end of a comment of any language; no pattern, which would be tried again at each of a million hyphens.
_CLOSING: Final = "*/#-%;>}\"'."
MAX_EXPRESSION: Final = 1000  # characters; the parser's time and depth grow with them
_FILES: Final = re.compile(r"(?:un)?licen[cs]e(?:[._-].*)?|copying(?:[._-].*)?", re.IGNORECASE)
# What the list says of a licence, where its conditions reach beyond naming the authors.
_CONDITIONS: Final[dict[str, tuple[str, Severity]]] = {
    "Copyleft": ("copyleft", "info"),
    "Copyleft Limited": ("copyleft-limited", "info"),
    "Commercial": ("not-free", "low"),
    "Free Restricted": ("not-free", "low"),
    "Proprietary Free": ("not-free", "low"),
    "Source-available": ("not-free", "low"),
}


@agent("review.licence", timeout=60.0, deadline=300.0)
def licence(files: Files) -> Findings:
    """
    Look at the licence tags of files or, if they are the whole folder's, at what the folder declares.

    Raises:
        ToolMissing: license-expression is not installed here.
    """
    load("license_expression", PACKAGE)
    found: list[Finding] = []
    unchecked: list[Unchecked] = []
    if files.whole:
        found += _of_folder(Path(files.root), files.paths, unchecked)
        files = files.model_copy(update={"paths": ()})  # their tags are not read here
    else:
        for path in files.paths:
            try:
                text = Path(files.root, path).read_bytes().decode("utf-8-sig", "replace")
            except OSError as error:
                unchecked.append(Unchecked(path=path, reason=f"cannot be read: {error.strerror}"))
            else:
                found += _of_file(path, text)
    return result(PACKAGE, files, found, unchecked)


def _of_file(path: str, text: str) -> Iterator[Finding]:
    if "spdx-license-identifier" not in text.casefold():
        return
    for number, line in enumerate(text.split("\n"), start=1):
        tag = _TAG.match(line)
        if tag:
            yield from judged(_closed(tag[1]), path, number, tag.start(1) + 1)


def _closed(text: str) -> str:
    """Return a text without what closes the comment that it stands in."""
    end = len(text)
    while end and (text[end - 1] in _CLOSING or text[end - 1].isspace()):
        end -= 1
    return text[:end]


def judged(expression: str, path: str, line: int, column: int = 0) -> Iterator[Finding]:
    """Yield what is to be said of a licence expression."""

    def finding(rule: str, severity: Severity, text: str) -> Finding:
        return Finding(rule=rule, severity=severity, path=path, line=line, column=column, message=message(text))

    if len(expression) > MAX_EXPRESSION:
        yield finding(INVALID, "medium", f"the licence expression has more than {MAX_EXPRESSION:,} characters")
        return
    licensing, categories = _known()
    module = load("license_expression", PACKAGE)
    try:
        parsed = licensing.parse(expression)
        unknown = licensing.unknown_license_keys(parsed)
    except (module.ExpressionError, RecursionError):
        # What stands there is not told: a report is read by more people than the code.
        yield finding(INVALID, "medium", "the licence expression cannot be parsed")
        return
    if parsed is None:
        yield finding(INVALID, "medium", "the licence expression is empty")
    elif any(not key.startswith(("LicenseRef-", "DocumentRef-")) for key in unknown):
        yield finding(UNKNOWN, "medium", "the licence expression names one that is not on the SPDX list of licences")
    else:
        for key in sorted(set(licensing.license_keys(parsed))):
            if (category := categories.get(key)) in _CONDITIONS:
                rule, severity = _CONDITIONS[category]
                yield finding(rule, severity, f"{key} is listed as {category!r}: see that its conditions are met")


@cache
def _known() -> tuple[Any, dict[str, str]]:
    """Return the parser of expressions, and each licence's category."""
    module = load("license_expression", PACKAGE)
    index = module.get_license_index()
    return module.build_spdx_licensing(index), {one["spdx_license_key"]: one["category"] for one in index}


def _of_folder(root: Path, top: tuple[str, ...], unchecked: list[Unchecked]) -> Iterator[Finding]:
    declared = any(_FILES.fullmatch(name) for name in top) or (root / "LICENSES").is_dir()
    for name, read in _MANIFESTS.items():
        if name not in top:
            continue
        try:
            text = (root / name).read_text(encoding="utf-8")
            given = read(text)
        except OSError as error:
            unchecked.append(Unchecked(path=name, reason=f"cannot be read: {error.strerror}"))
            continue
        except (ValueError, RecursionError):
            unchecked.append(Unchecked(path=name, reason="cannot be parsed"))
            continue
        declared = declared or given is not None
        if isinstance(given, str):
            yield from judged(given, name, _line_of(text))
    for expression in _installed(root):
        declared = True
        if expression:
            yield from judged(expression, ".", 0)
    if not declared:
        text = "there is no licence file at the top of the folder, and nothing declares a licence"
        yield Finding(rule=NONE, severity="medium", path=".", message=text)


def _in_pyproject(text: str) -> object:
    read = tomllib.loads(text)
    found = _at(read, "project", "license")
    return _at(read, "tool", "poetry", "license") if found is None else found


def _in_cargo(text: str) -> object:
    read = tomllib.loads(text)
    found = _at(read, "package", "license")
    if found is None and (file := _at(read, "package", "license-file")):
        return [file]
    return found


def _in_package_json(text: str) -> object:
    return _at(json.loads(text), "license")


def _at(document: object, *keys: str) -> object:
    for key in keys:
        document = document.get(key) if isinstance(document, dict) else None
    return document


_MANIFESTS: Final[dict[str, Callable[[str], object]]] = {
    "Cargo.toml": _in_cargo,
    "package.json": _in_package_json,
    "pyproject.toml": _in_pyproject,
}
"""Files that declare a licence, and what reads it: an expression, something else, or None."""


def _line_of(text: str) -> int:
    lines = text.split("\n")
    return next((number for number, line in enumerate(lines, 1) if line.lstrip(' "').startswith("license")), 0)


def _installed(root: Path) -> Iterator[str]:
    """Yield what the distribution that installed a package declares: an expression, or "" for any other form."""
    if not (root / "__init__.py").is_file():
        return
    for distribution in metadata.distributions(path=[str(root.parent)]):
        if root.name in (distribution.read_text("top_level.txt") or "").split() or any(
            file.parts == (root.name, "__init__.py") for file in distribution.files or ()
        ):
            about = distribution.metadata
            expression = next(iter(about.get_all("License-Expression") or []), "")
            others = [one for name in ("License", "License-File", "Classifier") for one in about.get_all(name) or []]
            if expression or any(one.startswith("License ::") or "::" not in one for one in others):
                yield expression
