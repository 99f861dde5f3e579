"""What stands on the board: the request, a week each, the audit, and how often sources have tried."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from orchestrator import Item
from workers.rota.models import Week

REQUEST: Final = "request"
AUDIT: Final = "audit"
WEEKS: Final = "week.*"


def name_of(number: int) -> str:
    """Return the name of a week's entry."""
    return f"week.{number}"


def weeks_on(board: Mapping[str, Item[Any]]) -> list[Week]:
    """Return the weeks among entries, in their order."""
    weeks = [item.value for name, item in board.items() if name.startswith("week.")]
    return sorted(weeks, key=lambda week: week.number)
