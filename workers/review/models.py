"""
What travels between the agents of the review flow.

Paths are relative to the reviewed folder, with `/`. Lines and columns count from 1; 0 where a finding has none.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator

Severity = Literal["high", "medium", "low", "info"]
SEVERITIES: Final[tuple[Severity, ...]] = get_args(Severity)
"""Worst first."""

MAX_PATTERNS: Final = 100
MAX_MESSAGE: Final = 500  # characters

Patterns = Annotated[tuple[Annotated[str, Field(max_length=500)], ...], Field(max_length=MAX_PATTERNS)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class Request(_Frozen):
    """
    What to review.

    Attributes:
        path: absolute path of a folder or a file, as the workers see it: they read the files themselves.
        include: patterns as of fnmatch for relative paths, of which one must match; none: every file.
        exclude: patterns of which none may match.
        out: absolute path of the folder for the reports, each in a folder with its run's id; None: `review` in the
            data folder. Whoever may submit may thereby read files and write reports wherever the workers may: give them
            a user of their own.
    """

    path: str = Field(min_length=1, max_length=4000)
    include: Patterns = ()
    exclude: Patterns = ()
    out: str | None = Field(default=None, max_length=4000)

    @field_validator("path", "out")
    @classmethod
    def _absolute(cls, value: str | None) -> str | None:
        # A worker's current folder is not the producer's.
        if value is not None and not Path(value).is_absolute():
            msg = f"must be an absolute path, not {value!r}"
            raise ValueError(msg)
        return value


class Files(_Frozen):
    """
    An assignment: files for one specialist.

    Attributes:
        root: absolute path of the reviewed folder.
        language: of all the files.
        whole: the unit is the folder, and these are all of its files that matter to the specialist.
    """

    root: str
    language: str
    paths: tuple[str, ...]
    whole: bool = False


class Finding(_Frozen):
    """
    One thing that one tool found.

    Attributes:
        rule: the tool's own name for it.
    """

    rule: str
    severity: Severity
    path: str
    line: int = Field(default=0, ge=0)
    column: int = Field(default=0, ge=0)
    message: str = Field(max_length=MAX_MESSAGE)


class Unchecked(_Frozen):
    """A file, or what else `path` says, that was not checked or not to its end."""

    path: str
    reason: str


class Findings(_Frozen):
    """
    What a specialist returns.

    Attributes:
        tool, version: what it used.
        checked: the files that the tool has read; with `whole`, the folder's.
        unchecked: those it could not read, and what was cut off.
    """

    tool: str
    version: str
    checked: tuple[str, ...]
    findings: tuple[Finding, ...] = ()
    unchecked: tuple[Unchecked, ...] = ()


class Source(_Frozen):
    """Who found something."""

    tool: str
    rule: str
    line: int
    column: int
    message: str


class Issue(_Frozen):
    """
    A place that needs a look, however many tools found it.

    Attributes:
        message: of the first source.
        sources: the findings it is made of, at least one; the tool that says most about the matter comes first.
    """

    severity: Severity
    path: str
    line: int
    column: int
    message: str
    sources: tuple[Source, ...]


class Gap(_Frozen):
    """
    Something that was not checked.

    Attributes:
        specialist: its name, or `all` for files that no specialist was given.
        paths: the first files, in order; `count`: how many there are in all.
    """

    specialist: str
    reason: str
    count: int
    paths: tuple[str, ...]


class Report(_Frozen):
    """
    The review.

    Attributes:
        files: that specialists were given; `assignments`: that were made of them.
        severities, tools: issues by severity, findings by tool.
        duplicates: findings that are in another one's issue.
        issues: the first of them; `total`: how many there are in the files.
        unchecked: what was not checked, and why; empty when everything was.
        written: the paths of the files, by format: `markdown`, `json`, `sarif`.
    """

    root: str
    files: int
    assignments: int
    total: int
    duplicates: int
    severities: dict[str, int]
    tools: dict[str, int]
    issues: tuple[Issue, ...]
    unchecked: tuple[Gap, ...]
    written: dict[str, str]
