"""
The research flow's errors, each one line that says what to do next.

OrchestratorError
├── NothingToRead    there is no such folder, or no document in it
├── NoAnswer         the conversation ended before there was one
└── NoFullText       the worker's SQLite cannot search
"""

from __future__ import annotations

from orchestrator import OrchestratorError


class NothingToRead(OrchestratorError):
    """There is nothing to look for an answer in. `NothingToRead(path, why)`."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(path, why)

    def __str__(self) -> str:
        return f"{self.args[0]}: {self.args[1]}"


class NoAnswer(OrchestratorError):
    """The conversation ended before an answer was proposed. `NoAnswer(outcome, why)`."""

    def __init__(self, outcome: str, why: str) -> None:
        super().__init__(outcome, why)

    def __str__(self) -> str:
        return (
            f"no answer was proposed before the end: {self.args[0]}, {self.args[1]}; the run's transcript says what "
            "was claimed; see that each of the members' queues has a worker"
        )


class NoFullText(OrchestratorError):
    """The SQLite that Python uses has no full-text search. `NoFullText(version)`."""

    def __init__(self, version: str) -> None:
        super().__init__(version)

    def __str__(self) -> str:
        return f"SQLite {self.args[0]} was built without FTS5; use a Python whose sqlite3 has it, as Debian's"
