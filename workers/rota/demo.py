"""What `celeriac demo rota` needs of this flow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator import Pipeline
from workers.rota.flow import rota
from workers.rota.models import Plan, Request
from workers.rota.reading import WARD, load_instance

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True, kw_only=True)
class Demo:
    """
    A flow, where its inputs come from, and what is made of its results.

    Attributes:
        inputs: given a path or None, returns what to submit.
        report: given the results and a folder, returns the path of the file to open; None where there is none.
        shown: given the results, gives what to print of them.
        noun: what one input is.
    """

    flow: Pipeline
    inputs: Callable[[Path | None], Sequence[Request]]
    report: Callable[[Sequence[Plan], Path], Path | None]
    shown: Callable[[Sequence[Plan]], Iterator[RenderableType]]
    noun: str


def demo_requests(path: Path | None = None) -> list[Request]:
    """
    Return what to plan: what a file holds, or without one a hospital's ward.

    Raises:
        InvalidInput: the file cannot be read, or does not fit.
    """
    return [Request(instance=load_instance(WARD if path is None else path.expanduser()))]


def demo_report(plans: Sequence[Plan], _directory: Path) -> Path | None:
    """Return the page that the run has written; None where no run ended well."""
    return Path(plans[0].files["html"]) if plans else None


def demo_tables(plans: Sequence[Plan]) -> Iterator[RenderableType]:
    """Give each rota as a table."""
    tables = import_module("workers.rota.tables")
    for plan in plans:
        yield tables.table(plan)


DEMO = Demo(flow=rota, inputs=demo_requests, report=demo_report, shown=demo_tables, noun="rota")
