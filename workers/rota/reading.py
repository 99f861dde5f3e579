"""Read what a rota is to be made for, from YAML or JSON."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from orchestrator import InvalidInput
from workers.rota.models import Instance

INSTANCES: Final = Path(__file__).with_name("instances")
WARD: Final = INSTANCES / "ward.yaml"
MAX_BYTES: Final = 5_000_000
TOLD: Final = 5
"""Faults that an error names."""


def load_instance(path: Path) -> Instance:
    """
    Read an instance.

    Args:
        path: a .yaml, .yml or .json file.

    Raises:
        InvalidInput: it cannot be read, or does not fit; the message names the file and the place.
    """
    if not path.is_file():
        raise InvalidInput(f"{path}: there is no such file; the ones that come along are in {INSTANCES}")
    if path.stat().st_size > MAX_BYTES:
        raise InvalidInput(f"{path}: it has more than {MAX_BYTES:,} bytes; plan fewer people at a time")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path}: it is no UTF-8 text: {error.reason} at byte {error.start}") from None
    data = _json(path, text) if path.suffix == ".json" else _yaml(path, text)
    if not isinstance(data, dict):
        raise InvalidInput(f"{path}: it must hold name, first, weeks, shifts, needs and people, not {data!r:.40}")
    try:
        return Instance.model_validate(data)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=False)
        lines = [f"{_place(data, fault['loc'])}{fault['msg'].removeprefix('Value error, ')}" for fault in faults[:TOLD]]
        if len(faults) > TOLD:
            lines.append(f"and {len(faults) - TOLD} more")
        raise InvalidInput(f"{path}: {'; '.join(lines)}") from None


def _place(data: Any, parts: tuple[int | str, ...]) -> str:  # noqa: ANN401  whatever the file holds
    """Say where in the file something is, by the ids that people gave where there are some."""
    said = ""
    for part in parts:
        try:
            data = data[part]
        except (LookupError, TypeError):
            data = None
        known = data.get("id") if isinstance(part, int) and isinstance(data, dict) else None
        said += f"[{known or part}]" if isinstance(part, int) else f"{'.' if said else ''}{part}"
    return f"{said}: " if said else ""


def _json(path: Path, text: str) -> object:
    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise InvalidInput(f"{path}: {twice!r} is there twice in one object")
        return found

    try:
        return json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise InvalidInput(f"{path}:{error.lineno}: no JSON: {error.msg} at column {error.colno}") from None
    except RecursionError:
        raise InvalidInput(f"{path}: it is nested too deeply") from None


def _yaml(path: Path, text: str) -> object:
    yaml, errors = import_module("ruamel.yaml"), import_module("ruamel.yaml.error")
    try:
        return yaml.YAML(typ="safe", pure=True).load(text)
    except errors.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise InvalidInput(f"{path}{line}: no YAML: {error.problem}") from None
    except (errors.YAMLError, ValueError) as error:
        raise InvalidInput(f"{path}: no YAML: {error}") from None
    except RecursionError:
        raise InvalidInput(f"{path}: it is nested too deeply") from None
