"""
Measure functions with lizard, in a process of its own: `python measuring.py THRESHOLD PATH…`.

Its patterns take a time that grows with the square of some files' lengths, and with the power of others'. It imports
nothing of this package, so that it runs wherever the tool does. On stdout, in JSON, a list of `Measured`.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any, Final, TypedDict

_QUOTE: Final = re.compile("[\"'`]")


class Function(TypedDict):
    """`name`: empty where it may be a string of the code."""

    name: str
    number: int
    line: int


class Measured(TypedDict):
    """A file. `reasons`: why it was not read, or not all of it."""

    path: str
    reasons: list[str]
    functions: list[Function]


def measured(path: str, threshold: int) -> Measured:
    """Measure a file."""
    try:
        lizard, reader = importlib.import_module("lizard"), importlib.import_module("lizard_ext.auto_open")
        text: str = reader.auto_read(path)
        reasons: list[str] = []
        read_to_its_end: list[bool] = []

        def heeded(tokens: Iterator[Any], reader: Any) -> Iterator[Any]:  # noqa: ANN401  lizard has no types
            for token in tokens:
                comment = reader.get_comment_from_token(token) or ""
                if "GENERATED CODE" in comment:
                    reasons.append("a comment, GENERATED CODE, ends lizard's reading")
                if comment.strip().startswith("#lizard forgive"):
                    reasons.append("a comment, lizard forgives, has lizard pass over a function")
                yield token

        def watch(tokens: Iterator[Any], _reader: object) -> Iterator[Any]:
            yield from tokens
            read_to_its_end.append(True)

        # Before the one that heeds comments, and takes them away.
        preprocessing, *others = lizard.get_extensions([])
        analyze = lizard.FileAnalyzer([preprocessing, heeded, *others, watch])
        functions = analyze.analyze_source_code(path, text).function_list
    except OSError as error:
        return Measured(path=path, reasons=[f"cannot be read: {error.strerror}"], functions=[])
    except ImportError:
        raise
    except Exception as error:  # noqa: BLE001  its readers are tolerant, yet not of everything
        # Without its text, which may quote what it could not read.
        return Measured(path=path, reasons=[f"lizard: {type(error).__name__}"], functions=[])
    if not read_to_its_end:
        # It writes "[skip]" to stderr and returns what it had so far.
        return Measured(path=path, reasons=["lizard: nested too deeply"], functions=[])
    hard = [function for function in functions if function.cyclomatic_complexity > threshold]
    # What stands between any two quotation marks, once for all functions: a file may have thousands.
    strings = frozenset(_QUOTE.split(text.casefold())) if hard else frozenset()
    return Measured(
        path=path,
        reasons=list(dict.fromkeys(reasons)),
        functions=[
            Function(
                name=one.name if _is_name(one.name.casefold(), strings) else "",
                number=one.cyclomatic_complexity,
                line=one.start_line,
            )
            for one in hard
        ],
    )


def _is_name(name: str, strings: frozenset[str]) -> bool:
    """
    Tell whether a name is one, and not a string: in some languages `it("…")` or `["…"]: function` is a function.

    Args:
        name, strings: case folded; lizard may have changed the first letter.
    """
    return not _QUOTE.search(name) and name not in strings


def main(arguments: Sequence[str]) -> None:
    """Measure the files that the arguments name."""
    threshold, *paths = arguments
    json.dump([measured(path, int(threshold)) for path in paths], sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1:])
