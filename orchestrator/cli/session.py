"""What a command needs: the settings, the agents, Redis."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.agent import load_agents
from orchestrator.client import Client
from orchestrator.errors import InvalidSettings
from orchestrator.settings import get_settings
from orchestrator.state.connection import connect

if TYPE_CHECKING:
    from redis import Redis

    from orchestrator.settings import Settings


def settings() -> Settings:
    """
    Return the settings, with the current folder importable.

    Raises:
        InvalidSettings: a value does not fit.
    """
    here = str(Path.cwd())
    if here not in sys.path:
        # As `celery` does: a user's package in the current folder is found without being installed.
        sys.path.insert(0, here)
    return get_settings()


def load() -> Settings:
    """
    Return the settings, with the agents and flows they name imported.

    Raises:
        InvalidSettings: a value does not fit.
        DefinitionError: a module cannot be imported, or declares something wrongly.
    """
    found = settings()
    load_agents(found.agents)
    return found


def redis() -> Redis:
    """
    Return a client of the state's Redis that has answered once.

    Raises:
        redis.RedisError: it cannot be reached or refuses us; told at once, without the patience a worker has.
        InvalidSettings: redis-py cannot read its URL.
    """
    try:
        client = connect(settings(), retry=0)
    except ValueError as error:
        msg = f"redis_url: {error}; it is redis://[[user]:password@]host[:port][/database]"
        raise InvalidSettings(msg) from None
    client.ping()
    return client


def client() -> Client:
    """
    Return a client for one question and its answer.

    Raises:
        redis.RedisError: as of `redis`.
    """
    return Client(settings(), connection=redis())


def patient_client() -> Client:
    """
    Return a client that rides out a restart of Redis, for a command that waits.

    Raises:
        redis.RedisError: Redis cannot be reached now.
    """
    redis().close()
    return Client(settings())
