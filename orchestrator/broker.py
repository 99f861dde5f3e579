"""How we use Celery: its configuration from our settings, and a bare app for producers."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from celery import Celery
from kombu.transport import TRANSPORT_ALIASES

from orchestrator.state import embedded

if TYPE_CHECKING:
    from orchestrator.messages import Priority
    from orchestrator.settings import Settings

START_TASK: Final = "orchestrator.start"
START_QUEUE: Final = "orchestrator"

# 0 is the most urgent on Redis, the least on RabbitMQ; kombu keeps a list for each of 0, 3, 6 and 9 on Redis.
REDIS_PRIORITY: Final[dict[Priority, int]] = {"high": 0, "normal": 3, "low": 6}
AMQP_PRIORITY: Final[dict[Priority, int]] = {"high": 9, "normal": 5, "low": 1}
FOREIGN: Final = 9
"""The number of kombu's last list, for messages that are none of ours."""

DEFAULT_TENANT: Final = "default"
LANES: Final = 16
"""Lists of a queue for each priority on Redis: tenants are spread over them, and workers take from them in turn."""
LANE: Final = 10
"""A lane's messages have the number of their priority and ten times that of the lane: 53 is normal in the sixth."""
STEPS: Final = tuple(
    sorted({number + LANE * lane for number in REDIS_PRIORITY.values() for lane in range(LANES)} | {FOREIGN})
)

VISIBILITY_TIMEOUT: Final = 60
CELERY_THREADS: Final = 16  # of a worker of the asyncio pool, that publish beside its sync agents


def broker_url(settings: Settings) -> str:
    """Return kombu's URL of the broker: the configured one, or the state's Redis."""
    if settings.broker_url:
        return _kombu(settings.broker_url.get_secret_value())
    if settings.redis_url:
        return _kombu(settings.redis_url.get_secret_value())
    return embedded.ensure(settings).broker_url


def _kombu(url: str) -> str:
    return f"redis+socket{url.removeprefix('unix')}" if url.startswith("unix://") else url


def message_priority(url: str, priority: Priority, tenant: str) -> int:
    """
    Return the number the broker at `url` takes for a priority.

    On Redis it is also the tenant's lane, so that one with thousands of messages in a queue is not before all others.
    """
    if not urlsplit(url).scheme.startswith("redis"):
        return AMQP_PRIORITY[priority]
    return REDIS_PRIORITY[priority] + LANE * lane_of(tenant)


@lru_cache(maxsize=1024)
def lane_of(tenant: str) -> int:
    """Return a tenant's lane, as `_lane.lua` does; the first is for runs of no tenant in particular."""
    if tenant == DEFAULT_TENANT:
        return 0
    digest = hashlib.sha1(tenant.encode(), usedforsecurity=False).hexdigest()
    return int(digest[:6], 16) % (LANES - 1) + 1


def celery_config(settings: Settings) -> dict[str, object]:
    """
    Return Celery's configuration.

    Messages are acknowledged when their execution starts: the run's state, not the broker, knows what is left to do, so
    a lost execution comes back by its lease within seconds, and no message is doubled by a visibility timeout.
    """
    url = broker_url(settings)
    state_url = _kombu(settings.redis_url.get_secret_value()) if settings.redis_url else url
    if not settings.redis_url and settings.broker_url:
        state_url = embedded.ensure(settings).broker_url
    # kombu's Redis transport with messages vetted before Celery sees them; every Redis URL form leads to it.
    TRANSPORT_ALIASES.update(dict.fromkeys(("redis", "rediss"), "orchestrator.runtime.transport:Transport"))
    return {
        "broker_url": url,
        "result_backend": state_url,
        "task_serializer": "json",
        "result_serializer": "json",
        "accept_content": ["json"],
        "result_accept_content": ["json"],
        "task_default_queue": START_QUEUE,
        "task_ignore_result": True,
        # The result of a task that has replaced itself by a group is this one's.
        "task_annotations": {"celery.accumulate": {"ignore_result": False}},
        "result_expires": 86400,
        "result_backend_always_retry": True,
        "worker_consumer": "orchestrator.runtime.consumer:Consumer",
        "worker_autoscaler": "orchestrator.runtime.autoscale:Autoscaler",
        "worker_prefetch_multiplier": 1,
        "worker_enable_prefetch_count_reduction": False,
        "worker_send_task_events": True,
        "worker_soft_shutdown_timeout": settings.soft_shutdown,
        "control_queue_expires": 300,
        # All threads of a worker draw on it, and its event loop's must never wait: kombu's 10 are too few. A connection
        # is made when it is first needed.
        "broker_pool_limit": 2 * (CELERY_THREADS + settings.sync_threads),
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_channel_error_retry": True,  # a full or read-only Redis refuses commands; no reason to exit
        "broker_transport_options": {
            "visibility_timeout": VISIBILITY_TIMEOUT,
            "unacked_restore_interval": 5,
            "unacked_restore_throttle": 1,
            "socket_keepalive": True,
            "client_name": "celeriac-broker",
            "priority_steps": STEPS,
        }
        if urlsplit(url).scheme.startswith("redis")
        else {},
    }


def producer_app(settings: Settings) -> Celery:
    """Return a Celery app that can publish; it has no tasks and does not become the process's current app."""
    app = Celery("celeriac", set_as_current=False)
    app.conf.update(celery_config(settings))
    return app
