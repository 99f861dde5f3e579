"""Keep child processes running: restart them with backoff, drain them in order, leave none behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

CHILD: Final = Path(__file__).with_name("child.py")
FIRST_DELAY: Final = 1.0  # s before the first restart; doubled for each further one
MAX_DELAY: Final = 30.0
HEALTHY: Final = 60.0  # s of life after which the next death counts as the first again
EARLY: Final = 10.0  # s; who dies sooner probably never worked, so its last words are shown
HURRY: Final = 5.0  # s between two signals once somebody is in a hurry
LAST_LINES: Final = 5
TAIL_BYTES: Final = 4096

State = Literal["running", "restarting", "draining", "stopped"]


@dataclass(frozen=True, kw_only=True)
class Spec:
    """
    A child to keep running.

    Attributes:
        name: unique; also its log file's name.
        command: absolute path of the program, and its arguments.
        stage: children drain in ascending stages, each after the one before has stopped.
        signals: sent in turn to end it. All but the last leave it time.
    """

    name: str
    command: tuple[str, ...]
    stage: int = 0
    signals: tuple[signal.Signals, ...] = (signal.SIGTERM, signal.SIGKILL)


@dataclass(frozen=True, kw_only=True)
class Change:
    """
    Something that happened to a child.

    Attributes:
        what: "started", "died", "draining", "killed" or "stopped".
        detail: in words; `lines`: the last lines of its log if it died early.
    """

    name: str
    what: str
    detail: str
    lines: tuple[str, ...] = ()


@dataclass(kw_only=True)
class Child:
    """A child's state. Times are seconds of the supervisor's clock."""

    spec: Spec
    log: Path
    state: State = "stopped"
    process: subprocess.Popen[bytes] | None = None
    restarts: int = 0
    failures: int = 0
    began: float = 0.0
    due: float = 0.0  # of the restart, or of the next signal
    level: int = 0  # signals sent so far
    mark: int = field(default=0, repr=False)  # where its log began

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        return self.process.pid if self.process is not None and self.state in {"running", "draining"} else None


class Supervisor:
    """
    Children that are kept running until they are drained.

    It has no thread: call `start`, then `tick` a few times a second until `finished`.

    Args:
        specs: the children.
        logs: existing folder for a log file each; one previous is kept.
        environment: of the children.
        report: called with each change.
        grace: seconds from a child's first signal to its second.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        specs: Sequence[Spec],
        *,
        logs: Path,
        environment: Mapping[str, str],
        report: Callable[[Change], None],
        grace: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.children = [Child(spec=spec, log=logs / f"{spec.name}.log") for spec in specs]
        self.draining = False
        self._environment = dict(environment)
        self._report = report
        self._grace = grace
        self._clock = clock

    @property
    def finished(self) -> bool:
        """Whether every child was drained."""
        return self.draining and all(child.state == "stopped" for child in self.children)

    @property
    def waiting_for(self) -> list[Child]:
        """The children that still have to stop, in the stage that drains now."""
        left = [child for child in self.children if child.state != "stopped"]
        stage = min((child.spec.stage for child in left), default=0)
        return [child for child in left if child.spec.stage == stage] if self.draining else []

    def start(self) -> None:
        """Start every child."""
        for child in self.children:
            if child.log.exists():
                child.log.replace(child.log.with_suffix(".log.1"))
            self._launch(child)

    def tick(self) -> None:
        """Notice what happened and do what is due. Cheap; never blocks."""
        for child in self.children:
            if child.process is not None and (code := child.process.poll()) is not None:
                self._ended(child, code)
            elif child.state == "running" and self._clock() - child.began >= HEALTHY:
                child.failures = 0
            if child.state == "restarting" and not self.draining and self._clock() >= child.due:
                child.restarts += 1
                self._launch(child)
        if self.draining:
            self._drain_stage()

    def drain(self) -> None:
        """Begin to end the children, the first stage first; what they do is finished. Twice is harmless."""
        self.draining = True
        for child in self.children:
            if child.state == "restarting":
                child.state = "stopped"
        self._drain_stage()

    def hurry(self) -> None:
        """End what drains with the next stronger signal, now."""
        self._grace = min(self._grace, HURRY)
        for child in self.waiting_for:
            child.due = self._clock()
        self.tick()

    def kill(self) -> None:
        """End every child at once. For a way out that has no time to drain."""
        self.draining = True
        for child in self.children:
            if child.process is not None:
                self._signal(child, signal.SIGKILL)
                child.process.wait()
                child.process = None
            child.state = "stopped"

    def _launch(self, child: Child) -> None:
        with child.log.open("ab") as log:
            child.mark = log.tell()
            child.process = subprocess.Popen(  # noqa: S603  commands of our own making
                [sys.executable, "-P", os.fspath(CHILD), str(os.getpid()), *child.spec.command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,  # a terminal's Ctrl-C must reach only the supervisor
            )
        child.state = "running"
        child.began = self._clock()
        again = f", restart {child.restarts}" if child.restarts else ""
        self._tell(child, "started", f"process {child.process.pid}{again}")

    def _ended(self, child: Child, code: int) -> None:
        lived = self._clock() - child.began
        child.process = None
        if self.draining:
            child.state = "stopped"
            self._tell(child, "stopped", f"after {max(0.0, lived):.0f} s")
            return
        child.failures = 1 if lived >= HEALTHY else child.failures + 1
        delay = min(FIRST_DELAY * 2 ** (child.failures - 1), MAX_DELAY)
        child.state, child.due = "restarting", self._clock() + delay
        lines = _last_lines(child.log, child.mark) if lived < EARLY else ()
        cause = f"exit code {code}" if code >= 0 else _signal_name(-code)
        detail = f"{cause} after {lived:.0f} s; restarting in {delay:g} s; log: {child.log}"
        self._tell(child, "died", detail, lines)

    def _drain_stage(self) -> None:
        for child in self.waiting_for:
            signals = child.spec.signals
            if child.process is None:
                child.state = "stopped"
            elif child.state != "draining":
                child.state, child.level = "draining", 1
                self._tell(child, "draining", f"finishing what it does, {self._grace:g} s at most")
                self._signal(child, signals[0])
                child.due = self._clock() + self._grace
            elif child.level < len(signals) and self._clock() >= child.due:
                chosen = signals[child.level]
                child.level += 1
                self._tell(child, "killed", f"still there, sending {chosen.name}")
                self._signal(child, chosen)
                child.due = self._clock() + HURRY

    def _signal(self, child: Child, chosen: signal.Signals) -> None:
        if child.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            if chosen is signal.SIGKILL:
                # A worker's own pool children are in its group and would stay.
                os.killpg(child.process.pid, chosen)
            else:
                child.process.send_signal(chosen)

    def _tell(self, child: Child, what: str, detail: str, lines: tuple[str, ...] = ()) -> None:
        self._report(Change(name=child.spec.name, what=what, detail=detail, lines=lines))


def _last_lines(log: Path, mark: int) -> tuple[str, ...]:
    """Return the last lines the child wrote, not those of its predecessors."""
    with log.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(mark, size - TAIL_BYTES))
        text = stream.read().decode(errors="replace")
    return tuple(line for line in text.splitlines() if line.strip())[-LAST_LINES:]


def _signal_name(number: int) -> str:
    try:
        return f"killed by {signal.Signals(number).name}"
    except ValueError:
        return f"killed by signal {number}"
