"""
The moderation flow's errors, each one line that says what to do next.

OrchestratorError
├── InvalidPolicy        the policy file cannot be used
├── ModelUnavailable     the endpoint did not answer, or refused
└── InvalidAnswer        the model answered with something that does not fit
"""

from __future__ import annotations

from orchestrator import OrchestratorError


class InvalidPolicy(OrchestratorError):
    """The policy file cannot be used. `InvalidPolicy(path, why)`."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(path, why)

    def __str__(self) -> str:
        return f"policy {self.args[0]}: {self.args[1]}"


class ModelUnavailable(OrchestratorError):
    """The model's endpoint did not answer, or refused. `ModelUnavailable(model, url, why)`."""

    def __init__(self, model: str, url: str, why: str) -> None:
        super().__init__(model, url, why)

    def __str__(self) -> str:
        model, url, why = self.args
        return f"model {model} at {url}: {why}; check CELERIAC_MODEL, CELERIAC_MODEL_URL and CELERIAC_MODEL_KEY"


class InvalidAnswer(OrchestratorError):
    """The model's answer does not fit what was asked for. `InvalidAnswer(model, why, answer)`."""

    def __init__(self, model: str, why: str, answer: str) -> None:
        super().__init__(model, why, answer)

    def __str__(self) -> str:
        model, why, answer = self.args
        return (
            f"model {model} gave an answer that does not fit: {why}; it began {answer[:80]!r}; "
            "use a model or server that honours response_format json_schema"
        )
