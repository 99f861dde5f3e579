"""Fixtures for every test that needs a server; nothing is started before a test asks for it."""

from __future__ import annotations

import functools
import os
import signal
import sys
from typing import TYPE_CHECKING, cast

import pytest
from pydantic import SecretStr
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from orchestrator import Settings
from tests.servers import KINDS, Kind, Server, is_up, missing, no_key_left_without_ttl_or_declaration, start_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def pytest_configure() -> None:
    """
    Be interruptible, and what is started from here with it.

    A shell that runs something in the background has it ignore SIGINT, and so would every process that a test starts.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """
    Let pytest-xdist find the groups that it has put into the tests' ids.

    pytest-xdist 3.8 replaces `_nodeid`, and from 9.2 on pytest reads a test's id elsewhere: a group's tests went to
    whichever process was free, each of which then started the group's deployment.
    """
    for item in items:
        with_group = vars(item).get("_nodeid")
        if with_group and hasattr(item, "_id"):
            item._id = type(item._id).parse(with_group)  # noqa: SLF001  as pytest-xdist does to the other


@pytest.fixture(scope="session")
def servers() -> Iterator[dict[Kind, Server]]:
    """The servers of this session by kind, as tests have asked for them; stopped at its end."""
    started: dict[Kind, Server] = {}
    yield started
    for server in started.values():
        server.stop()


@pytest.fixture(scope="session")
def flush() -> Iterator[Callable[[Server], None]]:
    """Empty a server. Its connection stays for the tests to come: to make one takes longer than most tests."""
    clients: dict[str, Redis] = {}

    def flush(server: Server) -> None:
        if server.url not in clients:
            clients[server.url] = Redis.from_url(server.url, retry=Retry(NoBackoff(), 1))
        clients[server.url].flushall()

    yield flush
    for client in clients.values():
        client.close()


@pytest.fixture(params=KINDS)
def server(
    request: pytest.FixtureRequest,
    servers: dict[Kind, Server],
    flush: Callable[[Server], None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Server:
    """A running server with nothing in it: first Valkey, then Redis. `tests.servers.on_valkey` asks for the one."""
    kind = cast("Kind", request.param)
    if why := missing(kind):
        pytest.skip(why)
    if kind in servers and not is_up(servers[kind]):
        # A test that kills its server may leave the next one without.
        servers.pop(kind).stop()
    if kind not in servers:
        servers[kind] = start_server(kind, tmp_path_factory.mktemp(kind))
    flush(servers[kind])
    return servers[kind]


@pytest.fixture
def redis_url(server: Server) -> str:
    """The server's URL."""
    return server.url


@pytest.fixture
def redis_client(redis_url: str) -> Iterator[Redis]:
    """A client of the server; replies are bytes."""
    with Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture(scope="session")
def nothing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of settings with none in it."""
    file = tmp_path_factory.mktemp("config") / "settings.toml"
    file.touch()
    return file


@functools.cache
def settings_for(redis_url: str) -> Settings:
    """Settings with short times, which cannot be changed: made once for each server."""
    return Settings(
        redis_url=SecretStr(redis_url),
        shards=2,
        lease=2.0,
        sweep=0.3,
        dispatch_timeout=1.0,
        run_deadline=600.0,
        retention=600.0,
        redis_retry=5.0,
    )


@pytest.fixture
def settings(redis_url: str, nothing: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings for the server, with short times; what the developer's shell and folder set does not count."""
    for name in [name for name in os.environ if name.startswith("CELERIAC_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CELERIAC_CONFIG", str(nothing))
    return settings_for(redis_url)


@pytest.fixture
def no_key_left(redis_client: Redis) -> Iterator[None]:
    """Check after the test that each key left behind has a TTL or is declared permanent."""
    yield
    no_key_left_without_ttl_or_declaration(redis_client)


@pytest.fixture
def registries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Registers of agents and flows of the test's own, empty."""
    # By sys.modules: the package's attribute of that name is the decorator.
    monkeypatch.setattr(sys.modules["orchestrator.agent"], "_agents", {})
    monkeypatch.setattr(sys.modules["orchestrator.patterns.flow"], "_flows", {})
