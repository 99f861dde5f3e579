"""The same call as plain Celery tasks, with the retries that Celery offers; each has its own service."""

from __future__ import annotations

import os
from functools import cache
from typing import Final

import httpx2 as httpx
from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded

from benchmarks.outage.agents import ATTEMPTS, IDLE, LONGEST_PAUSE, TIMEOUT

_URL: Final = os.environ.get("BENCH_URL", "redis://127.0.0.1:6379/0")

plain = Celery("plain", set_as_current=False)
plain.conf.update(
    broker_url=_URL,
    result_backend=_URL,
    broker_connection_retry_on_startup=True,
    task_default_queue="plain",
)
RETRIES: Final = {
    "autoretry_for": (httpx.HTTPError, SoftTimeLimitExceeded),
    "retry_backoff": True,
    "max_retries": ATTEMPTS - 1,
    "soft_time_limit": TIMEOUT,
}


@cache
def client() -> httpx.Client:
    """Return this process's client. Its timeout is below the soft time limit, which else may end Celery's own retry."""
    return httpx.Client(timeout=IDLE, verify=False)


def _ask(text: str) -> dict[str, str]:
    response = client().get(os.environ["PROVIDER_PLAIN"])
    response.raise_for_status()
    return {"text": text, "said": response.text}


ASK: Final = "plain.ask"
ASK_SOON: Final = "plain.ask-soon"
"""With pauses up to 10 min, Celery's own limit, and up to what the guarded agent has."""

plain.task(_ask, name=ASK, **RETRIES)
plain.task(_ask, name=ASK_SOON, **RETRIES, retry_backoff_max=LONGEST_PAUSE)
