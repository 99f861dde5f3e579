"""
Tools in processes of their own, which can be ended, and batches that one file spoils.

A tool that takes too long over a file holds the interpreter, and with it the leases of all other steps of the process.
"""

from __future__ import annotations

import math
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from workers.review.errors import ToolFailed, ToolStopped
from workers.review.models import Unchecked
from workers.review.tooling import message

T = TypeVar("T")

# What is left behind when a worker is killed ends by itself: no handler in Python would run while a pattern is matched.
START: Final = "import runpy, signal, sys; del sys.argv[0]; signal.alarm(int(sys.argv.pop(0))); "
TAIL: Final = 300  # characters of what a tool said


def run(tool: str, command: Sequence[str], *, root: str, within: float) -> bytes:
    """
    Run a tool in the reviewed folder and return what it writes.

    Args:
        tool: its name in errors.
        within: s.

    Raises:
        ToolStopped: it was not done in time, or was ended by a signal.
        ToolFailed: it cannot be started, or ended badly.
    """
    try:
        done = subprocess.run(  # noqa: S603  the caller's own command
            command, cwd=root, stdin=subprocess.DEVNULL, capture_output=True, timeout=max(within, 0.0), check=False
        )
    except subprocess.TimeoutExpired:
        raise ToolStopped(tool, f"not done within {within:.0f} s") from None
    except OSError as error:
        raise ToolFailed(tool, str(error)) from None
    if done.returncode < 0:
        raise ToolStopped(tool, f"ended by {_signal(-done.returncode)}")
    if done.returncode != 0:
        # Its warnings quote comments of the code.
        said = [line for line in done.stderr.decode(errors="replace").splitlines() if not line.startswith("warning")]
        raise ToolFailed(tool, message(" ".join(said))[-TAIL:] or f"exit {done.returncode}")
    return done.stdout


def run_python(tool: str, arguments: Sequence[str], *, root: str, within: float) -> bytes:
    """
    Run a tool that is a module or a file (`*.py`) of Python, the first of `arguments`, as `run` does.

    Raises:
        ToolStopped, ToolFailed: as `run`.
    """
    how = "run_path(path_name=" if arguments[0].endswith(".py") else "run_module(alter_sys=True, mod_name="
    code = f"{START}runpy.{how}sys.argv[0], run_name='__main__')"
    # Without `-P` Python would import what the reviewed folder has under the names of the tool's modules.
    command = [sys.executable, "-P", "-c", code, str(math.ceil(max(within, 0.0)) + 1), *arguments]
    return run(tool, command, root=root, within=within)


def spread(
    paths: Sequence[str], run_over: Callable[[Sequence[str], float], T], within: float
) -> tuple[list[T], list[Unchecked]]:
    """
    Run a tool over files at once and, where that ends without a result, over each alone.

    Args:
        run_over: returns what the tool finds in these files within so many seconds, or raises ToolFailed.
        within: s in all: half of it for all files at once, of the rest an equal share for each that is left.

    Returns:
        The results, and the files without one.

    Raises:
        ToolFailed: there is no result at all, and the tool has not been stopped: it is no file's doing.
    """
    until = time.monotonic() + within
    if len(paths) > 1:
        try:
            return [run_over(paths, within / 2)], []
        except ToolFailed:
            pass  # told below, of the file whose doing it is
    results: list[T] = []
    unchecked: list[Unchecked] = []
    failed: ToolFailed | None = None
    for index, path in enumerate(paths):
        try:
            results.append(run_over((path,), (until - time.monotonic()) / (len(paths) - index)))
        except ToolFailed as error:
            failed = error
            unchecked.append(Unchecked(path=path, reason=message(f"{error.args[0]}: {error.args[1]}")))
    if failed and not results and not isinstance(failed, ToolStopped):
        raise failed
    return results, unchecked


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # one of those without a name
        return f"signal {number}"
