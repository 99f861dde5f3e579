"""The moderation flow's error: one line that says what to do next."""

from __future__ import annotations

from orchestrator import OrchestratorError


class InvalidPolicy(OrchestratorError):
    """The policy file cannot be used. `InvalidPolicy(path, why)`."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(path, why)

    def __str__(self) -> str:
        return f"policy {self.args[0]}: {self.args[1]}"
