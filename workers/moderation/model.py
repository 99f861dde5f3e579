"""One question to a language model behind an OpenAI-compatible endpoint, and a validated answer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakKeyDictionary

from pydantic import BaseModel, ValidationError

from orchestrator import Settings, get_settings
from workers.moderation.errors import InvalidAnswer, ModelUnavailable

if TYPE_CHECKING:
    from openai import AsyncOpenAI

DEFAULT_URL = "https://api.openai.com/v1"
MAX_RETRIES = 2  # of one call, by the client, with backoff and jitter, on connection errors, 408, 409, 429 and 5xx
MAX_ANSWER = 2_000  # tokens, a reasoning model's thoughts included

Answer = TypeVar("Answer", bound=BaseModel)

# A client's connections belong to the event loop they were opened on; it goes when its loop does.
_clients: WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncOpenAI] = WeakKeyDictionary()


def decider() -> str | None:
    """Return how a model's decisions are signed, `model:NAME`, or None when no model is configured."""
    model = get_settings().model
    return f"model:{model}" if model else None


async def ask(
    answer: type[Answer], *, instructions: str, text: str, schema: dict[str, object], within: float
) -> Answer:
    """
    Ask the configured model.

    Args:
        answer: what the answer must be.
        instructions: what to do with the text; goes into the system message.
        text: data, in a message of its own.
        schema: JSON schema the server is told to constrain the answer by; at least as narrow as `answer`.
        within: seconds for the whole call, retries included.

    Raises:
        ModelUnavailable: the endpoint did not answer in time, or refused.
        InvalidAnswer: the answer is not what was asked for.
    """
    from openai import OpenAIError  # noqa: PLC0415  0.5 s and 35 MB, for those who configured a model

    settings = get_settings()
    model, url = str(settings.model), settings.model_url or DEFAULT_URL
    try:
        async with asyncio.timeout(within):
            completion = await _client(settings, url).chat.completions.create(
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
        return answer.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InvalidAnswer(model, f"{where}: {first['msg']}" if where else first["msg"], content) from None


def _client(settings: Settings, url: str) -> AsyncOpenAI:
    loop = asyncio.get_running_loop()
    if loop not in _clients:
        from openai import AsyncOpenAI  # noqa: PLC0415

        # Address and key are always given: the client would otherwise read OPENAI_* from the environment, and
        # settings are read in one place. A local server needs no key, but the client insists on one.
        key = settings.model_key.get_secret_value() if settings.model_key else "none"
        _clients[loop] = AsyncOpenAI(base_url=url, api_key=key, timeout=settings.model_timeout, max_retries=MAX_RETRIES)
    return _clients[loop]
