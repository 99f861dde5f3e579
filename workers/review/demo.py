"""What `celeriac demo review` needs of this flow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator import Hierarchy, InvalidInput
from workers.review.flow import review
from workers.review.models import Report, Request


@dataclass(frozen=True, kw_only=True)
class Demo:
    """
    A flow, where its inputs come from, and what is made of its results.

    Attributes:
        inputs: given a path or None, returns what to submit.
        report: given the results and a folder, returns the path of the file to open; None where there is none.
        noun: what one input is.
    """

    flow: Hierarchy
    inputs: Callable[[Path | None], Sequence[Request]]
    report: Callable[[Sequence[Report], Path], Path | None]
    noun: str


def demo_requests(path: Path | None = None) -> list[Request]:
    """
    Return the request to review a path, or without one the current folder.

    Raises:
        InvalidInput: there is no such path.
    """
    asked = Path.cwd() if path is None else path.expanduser().absolute()
    if not asked.exists():
        raise InvalidInput(f"{path}: there is no such file or folder; check the path")
    return [Request(path=str(asked))]


def demo_report(reports: Sequence[Report], _directory: Path) -> Path | None:
    """Return the report's Markdown file, which the synthesiser has written; None where no run ended well."""
    return Path(reports[0].written["markdown"]) if reports else None


DEMO = Demo(flow=review, inputs=demo_requests, report=demo_report, noun="review")
