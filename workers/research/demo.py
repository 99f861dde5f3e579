"""What `celeriac demo research` needs of this flow."""

from __future__ import annotations

import contextlib
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydantic import ValidationError

from orchestrator import InvalidInput, Pipeline
from workers.research.errors import NothingToRead
from workers.research.flow import research
from workers.research.folder import take_stock
from workers.research.models import Question, Report

if TYPE_CHECKING:
    from rich.console import RenderableType

QUESTION: Final = "What happens to a step that loses its worker again and again?"
DOCS: Final = Path(__file__).parents[2] / "docs"
SYSTEM: Final = Path("/usr/share/doc")


@dataclass(frozen=True, kw_only=True)
class Demo:
    """
    A flow, where its inputs come from, and what is made of its results.

    Attributes:
        inputs: given a path or None, returns what to submit; `asked`: given a question as well, or None.
        report: given the results and a folder, returns the path of the file to open; None where there is none.
        shown: given the results, gives what to print of them.
        noun: what one input is.
    """

    flow: Pipeline
    inputs: Callable[[Path | None], Sequence[Question]]
    asked: Callable[[Path | None, str | None], Sequence[Question]]
    report: Callable[[Sequence[Report], Path], Path | None]
    shown: Callable[[Sequence[Report]], Iterator[RenderableType]]
    noun: str


def demo_questions(path: Path | None = None, text: str | None = None) -> list[Question]:
    """
    Return a question to a folder; unless one is given, to the documentation here and that of what is installed.

    Raises:
        InvalidInput: there is no such path, nothing to read, or nothing is asked.
    """
    folders = found() if path is None else [path.expanduser().absolute()]
    for folder in folders:
        if not folder.exists():
            raise InvalidInput(f"{path}: there is no such file or folder; check the path")
    try:
        return [Question(text=QUESTION if text is None else text, folders=tuple(map(str, folders)))]
    except ValidationError as error:
        fault = error.errors(include_url=False, include_context=False)[0]
        raise InvalidInput(f"the question {fault['msg'].removeprefix('Value error, ')}") from None


def found() -> list[Path]:
    """Return folders with documents that are on this machine anyway."""
    installed = Path(sysconfig.get_path("purelib"))
    for folders in ([DOCS, installed], [DOCS], [installed], [SYSTEM]):
        # There may be none, or too many.
        with contextlib.suppress(NothingToRead):
            take_stock([str(folder) for folder in folders])
            return folders
    raise InvalidInput("no documents were found on this machine; name a folder with --input")


def demo_report(reports: Sequence[Report], _directory: Path) -> Path | None:
    """Return the Markdown file that the run has written; None where no run ended well."""
    return Path(reports[0].written["markdown"]) if reports else None


def demo_shown(reports: Sequence[Report]) -> Iterator[RenderableType]:
    """Give each answer with its sources."""
    page = import_module("workers.research.page")
    for report in reports:
        yield page.shown(report)


DEMO = Demo(
    flow=research,
    inputs=demo_questions,
    asked=demo_questions,
    report=demo_report,
    shown=demo_shown,
    noun="question",
)
