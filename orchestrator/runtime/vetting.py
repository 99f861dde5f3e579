"""Whether a message has the shape that Celery takes for granted: what trips it deep in its pool ends a worker."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Final

TEXT: Final = frozenset({"lang", "task", "root_id", "parent_id", "group", "shadow", "argsrepr", "kwargsrepr", "origin"})
NUMBERS: Final = frozenset({"retries", "group_index", "replaced_task_nesting"})
SIGNATURES: Final = ("callbacks", "errbacks", "chain")
TIME_LIMITS: Final = 2
BODY_PARTS: Final = 3


def misshape(raw: bytes) -> str | None:
    """
    Return what is wrong with the shape of a message that kombu could not read, or None where that is not its shape.

    Args:
        raw: as it was in the queue.
    """
    try:
        message = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    if not isinstance(message, dict):
        return "it is no object"
    properties = message.get("properties")
    if not isinstance(properties, dict):
        return "its properties are no object" if "properties" in message else "it has no properties"
    return (
        _of_properties(properties)
        or _of_task(message.get("headers"))
        or _of_encoding(message.get("body"), properties.get("body_encoding"))
    )


def _of_properties(properties: dict[str, object]) -> str | None:
    if not isinstance(properties.get("delivery_tag"), str):
        said = "is no text" if "delivery_tag" in properties else "is missing"
        return f"its property 'delivery_tag' {said}"
    if not isinstance(properties.get("delivery_info"), dict | None):
        return "its property 'delivery_info' is no object"
    return None


def _of_task(headers: object) -> str | None:
    if not isinstance(headers, dict | None):
        return "its headers are no object"
    if headers and not isinstance(headers.get("task"), str | None):
        return "its header 'task' is no text"
    return None


def _of_encoding(body: object, encoding: object) -> str | None:
    if not isinstance(body, str | None):
        return "its body is no text"
    if encoding not in {None, "base64"}:
        return f"its body is encoded as {encoding!r:.40}, and only base64 is known"
    try:
        base64.b64decode(body or "")
    except (binascii.Error, ValueError):
        return "its body is no base64" if encoding else None
    return None


def defect(headers: object, body: object) -> str | None:
    """
    Return why Celery cannot execute a message of protocol 2, or None.

    Args:
        headers: as they arrived.
        body: as it was decoded.
    """
    if not isinstance(headers, dict):
        return "its headers are no object"
    return _of_headers(headers) or _of_body(body)


def _of_headers(headers: dict[object, object]) -> str | None:
    if not isinstance(headers.get("id"), str):
        return "its header 'id' is no text"
    for name, value in headers.items():
        if value is None:
            continue
        if name in TEXT and not isinstance(value, str):
            return f"its header {name!r} is no text"
        if name in NUMBERS and not isinstance(value, int):
            return f"its header {name!r} is no whole number"
        if name == "timelimit" and not _is_time_limits(value):
            return "its header 'timelimit' is no pair of seconds"
        if name in {"stamps", "headers"} and not isinstance(value, dict):
            return f"its header {name!r} is no object"
    return None


def _is_time_limits(value: object) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == TIME_LIMITS
        and all(limit is None or isinstance(limit, int | float) for limit in value)
    )


def _of_body(body: object) -> str | None:
    if not isinstance(body, list | tuple) or len(body) != BODY_PARTS:
        return "its body is no list of arguments, keyword arguments and what follows"
    args, kwargs, follows = body
    if not isinstance(args, list | tuple):
        return "its arguments are no list"
    if not isinstance(kwargs, dict):
        return "its keyword arguments are no object"
    if follows is None:
        return None
    if not isinstance(follows, dict) or not isinstance(follows.get("chord"), dict | None):
        return "what follows it is no object"
    wrong = [name for name in SIGNATURES if not _is_tasks(follows.get(name))]
    return f"its {wrong[0]!r} is no list of tasks" if wrong else None


def _is_tasks(value: object) -> bool:
    return value is None or (isinstance(value, list) and all(isinstance(one, dict) for one in value))
