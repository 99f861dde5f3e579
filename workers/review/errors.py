"""
The review flow's errors, each one line that says what to do next.

OrchestratorError
├── NothingToReview    the folder holds nothing that can be read
├── ToolMissing        a specialist's tool is not installed where it works
└── ToolFailed         a tool ended without a result
    └── ToolStopped    it had no time left, or a signal ended it: likely one file's doing
"""

from __future__ import annotations

from orchestrator import OrchestratorError


class NothingToReview(OrchestratorError):
    """There is nothing to review. `NothingToReview(path, why)`."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(path, why)

    def __str__(self) -> str:
        return f"{self.args[0]}: {self.args[1]}"


class ToolMissing(OrchestratorError):
    """A tool is not installed in the worker's environment. `ToolMissing(tool)`."""

    def __init__(self, tool: str) -> None:
        super().__init__(tool)

    def __str__(self) -> str:
        return (
            f"{self.args[0]} is not installed where this agent works; install the extra: pip install celeriac[review]"
        )


class ToolFailed(OrchestratorError):
    """A tool ended without a result. `ToolFailed(tool, why)`."""

    def __init__(self, tool: str, why: str) -> None:
        super().__init__(tool, why)

    def __str__(self) -> str:
        return f"{self.args[0]}: {self.args[1]}; run it by hand on the files that the report names"


class ToolStopped(ToolFailed):
    """A tool was ended before it had a result. `ToolStopped(tool, why)`."""
