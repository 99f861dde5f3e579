"""
A deployment as an operator has it, in small: a server, workers that are `celery worker` processes, a producer's client.

Every process started here is ended here, by its id.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Self, cast

import psutil
from pydantic import SecretStr
from redis import Redis

from orchestrator import Client, Settings
from orchestrator.agent import load_agents
from orchestrator.broker import STEPS
from orchestrator.cli.fleet import CUSTOM_POOL
from orchestrator.state.dead import DeadLetters
from tests.forks import Fork
from tests.servers import Kind, start_server, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from orchestrator import Run
    from tests.servers import Server

Pool = Literal["asyncio", "prefork", "threads", "solo"]

USER_CODE: Final = Path(__file__).parent  # the folder that holds acme
CHECKOUT: Final = USER_CODE.parents[1]
FAST: Final = {"lease": 1.0, "sweep": 0.2, "dispatch_timeout": 0.5, "cancel_grace": 1.0, "shards": 2}
INTERPRETER: Final = (sys.executable, "-m", "celery")
"""A program for workers that are to be started as anybody starts them, see `tests.forks`."""
START_TIMEOUT: Final = 30.0
STOP_TIMEOUT: Final = 15.0
LOG_LINES: Final = 60
PRIORITIES: Final = ("", *(f"\x06\x16{step}" for step in STEPS if step))  # a queue's list for each priority and lane

QUEUES: Final = (
    "orchestrator",
    "acme.first",
    "acme.second",
    "acme.third",
    "acme.hold",
    "acme.hold-sync",
    "acme.slow",
    "acme.raiser",
    "acme.liar",
    "acme.exact",
    "acme.late",
    "acme.late-sync",
    "acme.poison",
    "acme.writer",
    "acme.rules",
    "acme.editor",
    "acme.prepare",
    "acme.effect",
    "acme.effect-sync",
    "acme.labour",
    "acme.careful",
    "acme.careful-sync",
    "acme.boss",
    "acme.sum",
)
"""All of acme's but `acme.parked`."""


class Worker:
    """
    A `celery worker` in a process group of its own.

    Args:
        arguments: after `celery -A orchestrator.app worker`.
        env: the whole environment.
        folder: where it runs; `log`: where its output goes.
        program: what to run in place of this interpreter's celery; unless given, the worker is a fork of `tests.forks`.
    """

    def __init__(
        self, arguments: Sequence[str], env: Mapping[str, str], folder: Path, log: Path, program: Sequence[str] = ()
    ) -> None:
        self.log = log
        self._like = (arguments, env, folder, log, program)
        self.process: subprocess.Popen[bytes] | Fork
        command = [
            *("-A", "orchestrator.app", "worker", "--loglevel=INFO", "--without-gossip", "--without-mingle"),
            *arguments,
        ]
        with log.open("ab") as output, Path(os.devnull).open("rb") as nothing:
            self._from = output.tell()
            if program:
                self.process = subprocess.Popen(  # noqa: S603  our own command
                    [*program, *command],
                    cwd=folder,
                    env=dict(env),
                    stdin=nothing,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
            else:
                self.process = Fork("celery", command, env=env, folder=folder, files=(nothing, output, output))

    def again(self) -> Worker:
        """Start another like it."""
        return Worker(*self._like)

    @property
    def pid(self) -> int:
        """The parent process's id."""
        return self.process.pid

    def text(self) -> str:
        """What this process has logged."""
        with self.log.open("rb") as file:
            file.seek(self._from)
            return file.read().decode(errors="replace")

    def wait_until_ready(self) -> Self:
        """Wait until it consumes."""
        wait_until(self._ready, START_TIMEOUT, f"the worker whose log is {self.log} is ready")
        return self

    def _ready(self) -> bool:
        assert self.process.poll() is None, f"the worker ended with {self.process.returncode}:\n{self.text()[-3000:]}"
        return " ready." in self.text()

    @property
    def running(self) -> bool:
        """Whether the parent process runs."""
        return self.process.poll() is None

    def children(self) -> list[psutil.Process]:
        """Return the pool's processes; none where it has threads."""
        try:
            return psutil.Process(self.pid).children()
        except psutil.NoSuchProcess:
            return []

    def kill_parent(self) -> None:
        """End the parent by SIGKILL: the kernel ends its children, as they have asked it to."""
        self.process.kill()
        self.process.wait()

    def kill(self) -> None:
        """End it by SIGKILL, and what is left of its process group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        """End it as an operator does, and what does not react within 15 s by SIGKILL."""
        if self.running:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_TIMEOUT)
        self.kill()


class Supervisor:
    """
    Starts again what has died, as compose, Kubernetes or `celeriac up` do.

    Args:
        deployment: whose workers, all those it has when this begins.

    Attributes:
        restarts: how often it has.
    """

    def __init__(self, deployment: Deployment) -> None:
        self.restarts = 0
        self._workers = deployment.workers
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="supervisor", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stopped.wait(0.05):
            for number, worker in enumerate(self._workers):
                if not worker.running:
                    worker.kill()
                    self._workers[number] = worker.again()
                    self.restarts += 1


class Deployment:
    """
    A server with an empty database, a client, and the workers that tests start.

    Args:
        kind: of server; `folder`: for everything the deployment writes.
        settings: what differs from FAST.
        own_broker: messages go through another database than the state's.
        agents: the modules that workers load.
        path: folders that workers import from, beside the user's.
        config: the server's directives; `env`: more of the workers' environment.
        program: what the workers run; see `Worker`.
    """

    def __init__(
        self,
        kind: Kind,
        folder: Path,
        *,
        settings: Mapping[str, object] | None = None,
        own_broker: bool = False,
        agents: Sequence[str] = ("acme.flows",),
        path: Sequence[Path] = (),
        config: Mapping[str, str] | None = None,
        env: Mapping[str, str] | None = None,
        program: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        self.program = program
        self.config = config
        self.server: Server = start_server(kind, folder / "server", config=config)
        self.floor, self.ledger = folder / "floor", folder / "ledger"
        self.floor.mkdir()
        self.ledger.mkdir()
        self.workers: list[Worker] = []
        self.own_broker = own_broker
        broker_url = f"{self.server.url[:-1]}1" if own_broker else self.server.url
        chosen: dict[str, Any] = dict(FAST if settings is None else settings)  # any setting, by name
        self.settings = Settings(
            redis_url=SecretStr(self.server.url),
            broker_url=SecretStr(broker_url),
            agents=("tests.integration.acme.flows",),
            **chosen,
        )
        self.env = {name: value for name, value in os.environ.items() if not name.startswith("CELERIAC_")} | {
            "CELERIAC_REDIS_URL": self.server.url,
            "CELERIAC_BROKER_URL": broker_url,
            "CELERIAC_AGENTS": ",".join(agents),
            "ACME_FLOOR": str(self.floor),
            "ACME_LEDGER": str(self.ledger),
            "PYTHONPATH": os.pathsep.join(str(part) for part in (USER_CODE, *path)),
            "PYTHONWARNINGS": "ignore",
            **CUSTOM_POOL,
            **{f"CELERIAC_{name.upper()}": str(value) for name, value in chosen.items()},
            **(env or {}),
        }
        load_agents(self.settings.agents)
        self.client = Client(self.settings)
        self.redis = Redis.from_url(self.server.url)
        self.broker = Redis.from_url(broker_url)
        self.dead = DeadLetters(self.redis)
        self.checked: set[str] = set()

    # Workers

    def start_worker(self, *, queues: Iterable[str] = QUEUES, pool: Pool = "prefork", concurrency: int = 2) -> Worker:
        """Start a worker; it may not be ready yet."""
        name = "custom" if pool == "asyncio" else pool
        arguments = ["-Q", ",".join(queues), "-P", name, "-c", str(concurrency), "-n", f"w{len(self.workers)}@%h"]
        # A file each: the last lines of one must not hide what another said.
        log = self.folder / f"worker-{len(self.workers)}.log"
        worker = Worker(arguments, self.env, self.folder, log, self.program)
        self.workers.append(worker)
        return worker

    def kill_workers(self) -> None:
        """End all workers at once."""
        for worker in self.workers:
            worker.kill()
        self.workers.clear()

    # Runs

    def submit(self, flow: str, text: str = "x", **options: Any) -> Run:  # noqa: ANN401  as of Client.submit
        """Submit a document."""
        return self.client.submit(flow, {"text": text}, **options)

    def say(self, run: Run | None = None, word: str = "go") -> None:
        """Tell a run's agents, or all, to go on."""
        (self.floor / f"{run.id if run else 'all'}.{word}").touch()

    def notes(self, run: Run, what: str) -> list[str]:
        """Return the notes that a run's agents left: `pid seconds`."""
        path = self.floor / f"{run.id}.{what}"
        return path.read_text().splitlines() if path.exists() else []

    def wait_for_note(self, run: Run, what: str, *, count: int = 1, timeout: float = 15.0) -> None:
        """Wait until an agent has left its note so often."""
        wait_until(lambda: len(self.notes(run, what)) >= count, timeout, f"{run.id} notes {what!r} {count} times")

    # Messages

    @staticmethod
    def queue_key(queue: str) -> str:
        """Return the Redis list of a queue's messages of normal priority."""
        return f"{queue}\x06\x163"

    def messages(self, queue: str) -> list[bytes]:
        """Return what is in a queue, raw."""
        # In one round trip: there are 49 lists.
        pipe = self.broker.pipeline(transaction=False)
        for priority in PRIORITIES:
            pipe.lrange(f"{queue}{priority}", 0, -1)
        return [message for found in pipe.execute() for message in found]

    def waiting_messages(self) -> int:
        """Return how many messages are in a queue or taken and not acknowledged."""
        # Of the thousand lists that all queues have, those with something in them are there.
        lists = cast("Iterable[bytes]", self.broker.scan_iter(count=10_000, _type="list"))
        pipe = self.broker.pipeline(transaction=False)
        for name in lists:
            if name.decode().partition("\x06\x16")[0] in QUEUES:
                pipe.llen(name)
        pipe.hlen("unacked")
        return sum(pipe.execute())

    def has_effects(self, count: int) -> bool:
        """Whether so many effects have been made."""
        return sum(1 for _ in self.ledger.iterdir()) >= count

    def kill_server(self) -> None:
        """End the server by SIGKILL."""
        self.server.process.kill()
        self.server.stop()

    def restart_server(self) -> None:
        """Start the server again where it was, with the data it had."""
        self.server = start_server(self.server.kind, self.server.folder, port=self.server.port, config=self.config)

    def close(self) -> None:
        """End everything. Nothing is asked of the workers any more, so that they need not be asked to finish."""
        self.kill_workers()
        self.client.app.close()
        self.client.store.client.close()
        self.redis.close()
        self.broker.close()
        self.server.stop()

    def last_log(self) -> str:
        """Return the ends of the workers' logs."""
        logs = [path.read_text(errors="replace") for path in sorted(self.folder.glob("worker-*.log"))]
        return "\n\n".join("\n".join(log.splitlines()[-LOG_LINES:]) for log in logs)
