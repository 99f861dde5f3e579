"""Where Redis is, and one client per process for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit, urlunsplit

from redis import Redis
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import BusyLoadingError, OutOfMemoryError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from orchestrator.state import embedded

if TYPE_CHECKING:
    from orchestrator.settings import Settings

CONNECT_TIMEOUT: Final = 5.0
SOCKET_TIMEOUT: Final = 15.0
MAX_CONNECTIONS: Final = 10_000  # a pool of threads has one under way each; redis-py's 100 would fail the 101st
RETRY_BASE: Final = 0.05
RETRY_CAP: Final = 2.0


def redis_url(settings: Settings) -> str:
    """Return the URL of the state's Redis: the configured one, or the embedded server's, started if need be."""
    return settings.redis_url.get_secret_value() if settings.redis_url else embedded.url(settings)


def without_password(url: str) -> str:
    """Return a URL that can be shown."""
    parts = urlsplit(url)
    if "@" not in parts.netloc:
        return url
    return urlunsplit(parts._replace(netloc="***@" + parts.netloc.rpartition("@")[2]))


def connect(settings: Settings, kind: type[Redis] = Redis, *, retry: float | None = None) -> Redis:
    """
    Make a client of the state's Redis; replies are bytes.

    Every script may be sent twice: submit, begin, commit and fail answer the same again, the others find their work
    done. So a lost connection or a full server is tried again here, with backoff and jitter, instead of failing a step
    because Redis restarted.

    Args:
        settings: where Redis is.
        kind: of client.
        retry: about how long to try, in seconds; the setting `redis_retry` unless given. 0: once.
    """
    patience = settings.redis_retry if retry is None else retry
    # Half of the cap is the mean wait under jitter; the first few waits are shorter and do not count.
    retries = int(patience / (RETRY_CAP / 2)) + (4 if patience else 0)
    url = redis_url(settings)
    tcp = {} if url.startswith("unix://") else {"socket_keepalive": True}
    return kind.from_url(
        url,
        socket_connect_timeout=CONNECT_TIMEOUT,
        socket_timeout=SOCKET_TIMEOUT,
        health_check_interval=30,
        retry=Retry(
            ExponentialWithJitterBackoff(base=RETRY_BASE, cap=RETRY_CAP),
            retries,
            supported_errors=(RedisConnectionError, RedisTimeoutError, BusyLoadingError, OutOfMemoryError),
        ),
        client_name="celeriac",
        max_connections=MAX_CONNECTIONS,
        **tcp,
    )
