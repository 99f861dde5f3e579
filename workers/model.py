"""
One question to a language model behind an OpenAI-compatible endpoint, and a validated answer.

OrchestratorError
├── ClientMissing        the package that asks it is not installed
├── ModelUnavailable     the endpoint did not answer, or refused
└── InvalidAnswer        the model answered with something that does not fit
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakKeyDictionary

from pydantic import BaseModel, ValidationError

from orchestrator import Breaker, OrchestratorError, Retry, Settings, get_settings

if TYPE_CHECKING:
    from openai import AsyncOpenAI

DEFAULT_URL = "https://api.openai.com/v1"
MAX_RETRIES = 2  # of one call, by the client, with backoff and jitter, on connection errors, 408, 409, 429 and 5xx
"""For agents that go on without an answer; those that wait for one have a `retry`, which holds no worker."""
MAX_ANSWER = 2_000  # tokens, a reasoning model's thoughts included

Answer = TypeVar("Answer", bound=BaseModel)

# A client's connections belong to the event loop they were opened on; it goes when its loop does.
_clients: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[int, AsyncOpenAI]] = WeakKeyDictionary()


class ClientMissing(OrchestratorError):
    """A model is configured, and what asks it is not installed. `ClientMissing(model, package)`."""

    def __init__(self, model: str, package: str) -> None:
        super().__init__(model, package)

    def __str__(self) -> str:
        model, package = self.args
        return (
            f"model {model} cannot be asked without the package {package!r}: install it where the worker runs, as "
            "'celeriac[moderation]' and 'celeriac[research]' do, or unset CELERIAC_MODEL"
        )


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


RETRY = Retry(max_attempts=4, base=1.0, cap=30.0, never=ClientMissing)
BREAKER = Breaker(of="model")
"""What agents that wait for an answer are declared with; one breaker for them all."""


def decider() -> str | None:
    """Return how a model's decisions are signed, `model:NAME`, or None when no model is configured."""
    model = get_settings().model
    return f"model:{model}" if model else None


async def ask(
    answer: type[Answer],
    *,
    instructions: str,
    text: str,
    schema: dict[str, object],
    within: float,
    retries: int = MAX_RETRIES,
) -> tuple[Answer, int]:
    """
    Ask the configured model.

    Args:
        answer: what the answer must be.
        instructions: what to do with the text; goes into the system message.
        text: data, in a message of its own.
        schema: JSON schema the server is told to constrain the answer by; at least as narrow as `answer`.
        within: seconds for the whole call, retries included.
        retries: by the client, while the worker waits; 0 where the agent has a `retry`.

    Returns:
        The answer, and how many tokens were used in all; 0 where the server does not say.

    Raises:
        ClientMissing: the package `openai` is not installed.
        ModelUnavailable: the endpoint did not answer in time, or refused.
        InvalidAnswer: the answer is not what was asked for.
    """
    settings = get_settings()
    model, url = str(settings.model), settings.model_url or DEFAULT_URL
    try:
        from openai import OpenAIError  # noqa: PLC0415  0.5 s and 35 MB, for those who configured a model
    except ModuleNotFoundError as error:
        if error.name != "openai":
            raise  # its own installation is broken: that says more
        raise ClientMissing(model, error.name) from None
    try:
        async with asyncio.timeout(within):
            completion = await _client(settings, url, retries).chat.completions.create(
                model=model,
                messages=[{"role": "system", "content": instructions}, {"role": "user", "content": text}],
                response_format={
                    "type": "json_schema",
                    "json_schema": {"name": answer.__name__.lower(), "schema": schema, "strict": True},
                },
                max_completion_tokens=MAX_ANSWER,
            )
    except TimeoutError:
        raise ModelUnavailable(model, url, f"no answer within {within:.0f} s") from None
    except OpenAIError as error:
        raise ModelUnavailable(model, url, " ".join(str(error).split())[:300]) from error
    choice = completion.choices[0] if completion.choices else None
    content = choice.message.content if choice else None
    if choice is None or not content:
        raise InvalidAnswer(model, "it is empty", getattr(choice and choice.message, "refusal", None) or "")
    if choice.finish_reason == "length":
        raise InvalidAnswer(model, f"it is longer than {MAX_ANSWER} tokens", content)
    try:
        usage = completion.usage
        return answer.model_validate_json(content), usage.total_tokens if usage else 0
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InvalidAnswer(model, f"{where}: {first['msg']}" if where else first["msg"], content) from None


def _client(settings: Settings, url: str, retries: int) -> AsyncOpenAI:
    clients = _clients.setdefault(asyncio.get_running_loop(), {})
    if retries not in clients:
        from openai import AsyncOpenAI  # noqa: PLC0415

        # Address and key are always given: the client would otherwise read OPENAI_* from the environment, and
        # settings are read in one place. A local server needs no key, but the client insists on one.
        key = settings.model_key.get_secret_value() if settings.model_key else "none"
        clients[retries] = AsyncOpenAI(base_url=url, api_key=key, timeout=settings.model_timeout, max_retries=retries)
    return clients[retries]
