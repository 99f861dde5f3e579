"""A client of a real server; no worker runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from redis import ConnectionPool

from orchestrator import Client
from orchestrator.runtime.batching import BatchingRedis
from tests.servers import no_key_left_without_ttl_or_declaration
from tests.state import flows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from redis import Redis

    from orchestrator import Settings


@pytest.fixture
def client(settings: Settings, redis_client: Redis) -> Iterator[Client]:
    """A client whose leavings are looked at when the test is over."""
    client = Client(settings, connection=redis_client)
    yield client
    client.app.close()
    no_key_left_without_ttl_or_declaration(redis_client, queues=(*flows.QUEUES, *flows.OF_BOARDS))


@pytest.fixture
def asking(redis_url: str) -> Iterator[BatchingRedis]:
    """A client whose calls can go along with each other."""
    client = BatchingRedis(connection_pool=ConnectionPool.from_url(redis_url))
    yield client
    client.close()
    client.connection_pool.disconnect()
