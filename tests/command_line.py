"""Running `celeriac` as a user does: in a process and a folder of its own, without the developer's settings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any, Final

from tests.forks import Fork

if TYPE_CHECKING:
    from collections.abc import Mapping

CHECKOUT: Final = Path(__file__).parents[1]
TIMEOUT: Final = 60.0
COMMAND: Final = (sys.executable, "-c", "from orchestrator.cli import main; main()")


@dataclass(frozen=True)
class Result:
    """What a command said and how it ended."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:  # noqa: ANN401  any JSON
        """Stdout as one JSON document."""
        return json.loads(self.out)

    def assert_one_line(self, *parts: str, code: int = 1) -> None:
        """Check that it failed with one line on stderr that says all of this, and no traceback."""
        assert self.code == code, self
        assert self.err.startswith("error: "), self
        assert self.err.count("\n") == 1, self
        assert "Traceback" not in self.err
        for part in parts:
            assert part in self.err, self


@dataclass(frozen=True)
class Shell:
    """
    A folder to run commands in.

    Attributes:
        folder: the current folder, with a `.celeriac/` of its own unless a Redis is named.
        env: more of the environment.
    """

    folder: Path
    env: Mapping[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """The whole environment of a command."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("CELERIAC_")}
        return {**inherited, "PYTHONPATH": str(CHECKOUT), **self.env}

    def run(self, *arguments: str, stdin: str | bytes = "", env: Mapping[str, str] | None = None) -> Result:
        """Run `celeriac` to its end, as a fork of `tests.forks`."""
        with TemporaryFile() as given, TemporaryFile() as out, TemporaryFile() as err:
            given.write(stdin.encode() if isinstance(stdin, str) else stdin)
            given.seek(0)
            whole = {**self.environment, **(env or {})}
            process = Fork("celeriac", arguments, env=whole, folder=self.folder, files=(given, out, err))
            try:
                code = process.wait(TIMEOUT)
            finally:
                process.kill()
            out.seek(0)
            err.seek(0)
            return Result(code, out.read().decode(), err.read().decode())

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start `celeriac`; its stdout and stderr are one pipe."""
        return subprocess.Popen(  # noqa: S603  our own interpreter
            [*COMMAND, *arguments],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            bufsize=1,
        )
