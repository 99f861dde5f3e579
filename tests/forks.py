"""
Python processes that are there at once: forks of one that has imported what they would import first.

A worker takes 0.9 s of a core, and a command 0.5 s, before it does anything of its own, nearly all of it to import
Celery and us, and the tests start hundreds of both. So a test session has one more process, the press, which imports
these and then waits. It forks for each process that a test asks for; the fork goes on as the interpreter would: in a
session of its own, with its own arguments, environment, folder and files, into the `main` of the command.

What the interpreter reads at its start, such as a `sitecustomize`, what Celery reads when it is imported, and what is
imported without a need for it, cannot be seen this way. Workers that are about that are started as anybody starts them,
by `fleet.INTERPRETER`; so is the worker of the wheel, what demos and `celeriac up` start, and the pages' programs.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import warnings
import weakref
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, Literal

from orchestrator.cli.fleet import CUSTOM_POOL

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Command = Literal["celery", "celeriac"]

MAINS: Final[dict[Command, str]] = {"celery": "celery.__main__", "celeriac": "orchestrator.cli.entry"}
"""The modules whose `main` a fork calls."""

PRELOADED: Final = (
    *MAINS.values(),
    "celery.apps.worker",
    "celery.backends.redis",
    "celery.bin.celery",
    "celery.concurrency.prefork",
    "celery.worker.consumer",
    "kombu.transport.redis",
    "orchestrator.cli.runs",
    "orchestrator.runtime.caretaker",
    "orchestrator.runtime.celery_app",
    "orchestrator.runtime.tasks",
)
"""What workers or commands import; nothing that reads settings while it is imported, as `orchestrator.app` does."""

READ_BEFORE: Final = frozenset({"MP_LOG", "REMAP_SIGTERM"})
"""What Celery takes from the environment when it is imported: a fork comes too late for it."""

REQUEST_BYTES: Final = 1 << 20
CODE_BYTES: Final = 16


class Fork:
    """
    A process of the press: as much of `subprocess.Popen` as the tests use.

    Args:
        command: whose `main` it calls; `arguments`: what follows the command's name.
        env: its whole environment; `folder`: where it runs.
        files: its standard input, output and error.
    """

    def __init__(
        self,
        command: Command,
        arguments: Sequence[str],
        *,
        env: Mapping[str, str],
        folder: Path,
        files: tuple[IO[Any], IO[Any], IO[Any]],
    ) -> None:
        assert not READ_BEFORE & set(env), f"for {READ_BEFORE & set(env)} a new interpreter is needed"
        self.args = [command, *arguments]
        self.returncode: int | None = None
        self._lock = threading.Lock()  # a supervisor looks at it on a thread of its own
        self._end, told = os.pipe()
        weakref.finalize(self, os.close, self._end)
        request = {"command": command, "arguments": [*arguments], "env": {**env}, "folder": str(folder)}
        try:
            self.pid = _press().fork(request, [*(file.fileno() for file in files), told])
        finally:
            os.close(told)

    def poll(self) -> int | None:
        """Return its exit code, or None while it runs."""
        with self._lock:
            if self.returncode is None and select.select([self._end], [], [], 0)[0]:
                code = os.read(self._end, CODE_BYTES)
                assert code, "the press has ended before its fork"
                self.returncode = int(code)
            return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; return its exit code."""
        # What has been told is read by one of those who wait, and the pipe then ends for all others.
        select.select([self._end], [], [], timeout)
        code = self.poll()
        if code is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


class _Press:
    """The process that forks, as the tests see it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._line.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, REQUEST_BYTES)
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603  this file
                [sys.executable, __file__, str(theirs.fileno())],
                env={**os.environ, **CUSTOM_POOL},  # which Celery reads when it is imported
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )

    def fork(self, request: Mapping[str, object], files: Sequence[int]) -> int:
        """Ask for a process, which keeps the files; return its id."""
        with self._lock:
            socket.send_fds(self._line, [json.dumps(request).encode()], files)
            told = self._line.recv(CODE_BYTES)
        assert told, "the press has ended"
        return int(told)

    def close(self) -> None:
        """End it; its forks go on."""
        self._line.close()
        self._process.wait()


_lock = threading.Lock()
_presses: list[_Press] = []


def _press() -> _Press:
    with _lock:
        if not _presses:
            _presses.append(_Press())
            atexit.register(_presses[0].close)
        return _presses[0]


# In the press


def main(line: socket.socket) -> None:
    """Import, then fork for each request until nobody can ask any more."""
    base = [part for part in sys.path if part != str(Path(__file__).parent)]
    sys.path[:] = base
    for name in PRELOADED:
        importlib.import_module(name)
    gc.freeze()  # what is shared stays shared
    request = serve(line)
    become(request, base)
    importlib.import_module(MAINS[request["command"]]).main()


def serve(line: socket.socket) -> dict[str, Any]:
    """Fork for each request, and say when the forks end; return the request in the fork. The press exits here."""
    forks: dict[int, tuple[int, int]] = {}  # a process's id and where its end is told, by the descriptor that shows it
    while True:
        ready, _, _ = select.select([line.fileno(), *forks], [], [])
        for one in ready:
            if one in forks:
                pid, told = forks.pop(one)
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                with contextlib.suppress(BrokenPipeError):  # nobody waits for it any more
                    os.write(told, b"%d" % code)
                os.close(told)
                os.close(one)
                continue
            text, files, _, _ = socket.recv_fds(line, REQUEST_BYTES, 4)
            if not text:
                sys.exit()
            pid = os.fork()
            if not pid:
                os.setsid()
                # Said by the fork: whoever knows its id may count on its session.
                line.send(b"%d" % os.getpid())
                line.close()
                for descriptor in [files.pop(), *forks, *(told for _, told in forks.values())]:
                    os.close(descriptor)
                return {**json.loads(text), "files": files}
            forks[os.pidfd_open(pid)] = (pid, files.pop())
            for file in files:
                os.close(file)


def become(request: Mapping[str, Any], base: Sequence[str]) -> None:
    """Be as a new interpreter would be that was started so."""
    for number, file in enumerate(request["files"]):
        os.dup2(file, number)
        os.close(file)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["env"])
    folders = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
    sys.path[:] = ["", *folders, *base]
    sys.argv = [request["command"], *request["arguments"]]
    if os.environ.get("PYTHONWARNINGS") == "ignore":
        warnings.simplefilter("ignore")


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])))
