"""Read the input of runs: a JSON document, or JSON Lines."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NoReturn

from orchestrator.errors import InvalidInput

STDIN = "-"


def read_document(source: str) -> Any:  # noqa: ANN401  any JSON
    """
    Return the JSON document of a file, or of stdin for `-`.

    Raises:
        InvalidInput: it cannot be read, or is not one JSON document; the message names line and column.
    """
    text = _read(source)
    try:
        return _parse(text)
    except json.JSONDecodeError as error:
        hint = ""
        if error.msg == "Extra data" and _are_lines(text):
            hint = "; it looks like one document a line: submit a run for each with --each"
        msg = f"{_name(source)} is not valid JSON: line {error.lineno}, column {error.colno}: {error.msg}{hint}"
        raise InvalidInput(msg) from None


def read_lines(source: str) -> list[tuple[int, Any]]:
    """
    Return the JSON documents of a file with one a line, with the lines' numbers from 1; empty lines are skipped.

    Raises:
        InvalidInput: as of `read_document`, or there is no line.
    """
    found = []
    for number, line in enumerate(_lines(_read(source)), start=1):
        if not line.strip():
            continue
        try:
            found.append((number, _parse(line)))
        except json.JSONDecodeError as error:
            msg = f"{_name(source)} is not valid JSON Lines: line {number}, column {error.colno}: {error.msg}"
            raise InvalidInput(msg) from None
        except InvalidInput as error:
            msg = f"line {number}: {error}"
            raise InvalidInput(msg) from None
    if not found:
        msg = f"{_name(source)} holds no line; give one JSON document a line"
        raise InvalidInput(msg)
    return found


def _lines(text: str) -> list[str]:
    # Not splitlines(): it also splits at characters that JSON allows within a text, such as U+2028.
    return text.split("\n")


def _name(source: str) -> str:
    return "stdin" if source == STDIN else source


def _read(source: str) -> str:
    try:
        content = sys.stdin.buffer.read() if source == STDIN else Path(source).read_bytes()
    except OSError as error:
        msg = f"cannot read {source}: {error.strerror}; give an existing file, or - for stdin"
        raise InvalidInput(msg) from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        msg = f"{_name(source)} is not UTF-8 text: byte {error.start}: {error.reason}; convert it first"
        raise InvalidInput(msg) from None


def _parse(text: str) -> Any:  # noqa: ANN401  any JSON
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise json.JSONDecodeError("nested too deeply", text, 0) from None


def _refuse_constant(name: str) -> NoReturn:
    # Python reads and writes NaN and Infinity; no other JSON reader does.
    msg = f"{name} is not JSON; use null or a text"
    raise InvalidInput(msg)


def _are_lines(text: str) -> bool:
    try:
        return all(_parse(line) is not None for line in _lines(text) if line.strip())
    except (json.JSONDecodeError, InvalidInput):
        return False
