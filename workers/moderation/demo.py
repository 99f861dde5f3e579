"""What `celeriac demo moderation` needs of this flow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator import Pipeline
from workers.moderation.flow import moderation
from workers.moderation.inputs import load_documents
from workers.moderation.installed import installed_descriptions
from workers.moderation.models import Document, Published
from workers.moderation.report import write_report


@dataclass(frozen=True, kw_only=True)
class Demo:
    """
    A flow, where its inputs come from, and what is made of its results.

    Attributes:
        inputs: given a path or None, returns what to submit.
        report: given the results and a folder, writes a report and returns the path of the file to open.
    """

    flow: Pipeline
    inputs: Callable[[Path | None], Sequence[Document]]
    report: Callable[[Sequence[Published], Path], Path]


def demo_documents(path: Path | None = None) -> list[Document]:
    """
    Return the documents at a path, or without one what is found on this machine: 100 or more.

    Raises:
        InvalidInput: there is nothing usable at the path.
    """
    return installed_descriptions() if path is None else load_documents(path)


def demo_report(records: Sequence[Published], directory: Path) -> Path:
    """Write the report of a demo; returns the HTML file."""
    return write_report(records, directory)


DEMO = Demo(flow=moderation, inputs=demo_documents, report=demo_report)
