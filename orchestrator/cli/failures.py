"""What went wrong, in one line that says what to do next."""

from __future__ import annotations

from typing import Final

from orchestrator.cli.plain import plain
from orchestrator.errors import OrchestratorError

_PASSWORD_WORDS: Final = ("WRONGPASS", "NOAUTH", "invalid username-password", "AUTH", "uthentication")


def explain(error: Exception) -> str:
    """Return one line about any error, with the remedy where there is one; without passwords and tracebacks."""
    if isinstance(error, OrchestratorError):
        return plain(str(error))
    # By name: an error of redis-py or kombu cannot come from a process that never imported them, and importing
    # them only to compare would slow down every other error.
    kinds = {f"{kind.__module__.split('.')[0]}.{kind.__name__}" for kind in type(error).__mro__}
    text = plain(str(error))
    if "redis.RedisError" in kinds:
        return _of_redis(kinds, text)
    if "kombu.OperationalError" in kinds:
        return f"the broker cannot be reached: {text}; start it, or correct CELERIAC_BROKER_URL"
    if isinstance(error, TimeoutError):
        return text or "it took too long; try again with a longer --timeout"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}; correct the path or its permissions"
    return f"unexpected {type(error).__name__}: {text}; run it again with --debug to see where, and report it"


def wants_traceback() -> bool:
    """Whether the settings ask for tracebacks."""
    from orchestrator.settings import get_settings  # noqa: PLC0415  too slow for `--help`, and may itself fail

    try:
        return get_settings().debug
    except OrchestratorError:
        return False


def _of_redis(kinds: set[str], text: str) -> str:
    where = f"Redis at {_address()}"
    if "redis.AuthenticationError" in kinds or any(word in text for word in _PASSWORD_WORDS):
        return f"{where} refuses the user name or password; correct them in CELERIAC_REDIS_URL"
    if "redis.NoPermissionError" in kinds:
        return f"{where} does not permit this user what is needed ({text}); extend its ACL"
    if kinds & {"redis.ConnectionError", "redis.TimeoutError", "redis.BusyLoadingError"}:
        return f"{where} cannot be reached ({text}); start it, or correct CELERIAC_REDIS_URL"
    if "redis.OutOfMemoryError" in kinds or text.startswith("OOM"):
        return f"{where} is full; give it more memory (maxmemory), or lower CELERIAC_RETENTION"
    return f"{where} refuses: {text}"


def _address() -> str:
    """Return the server's URL without its password."""
    from orchestrator.settings import get_settings  # noqa: PLC0415  as above
    from orchestrator.state.connection import without_password  # noqa: PLC0415

    try:
        settings = get_settings()
    except OrchestratorError:
        return "the configured URL"
    if settings.redis_url is None:
        return f"{settings.data_dir} (the embedded server)"
    return without_password(settings.redis_url.get_secret_value())
