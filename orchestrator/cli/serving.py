"""The development server: what runs in it, how it is started, and how it ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Self

from orchestrator.agent import agents
from orchestrator.broker import producer_app
from orchestrator.cli import session
from orchestrator.cli.fleet import FLOWER, Options, environment, specs
from orchestrator.cli.gauges import Gauges
from orchestrator.cli.options import NO_AGENT, check_agents
from orchestrator.cli.ports import answers, is_free
from orchestrator.cli.presence import LOCK, server_of
from orchestrator.cli.supervisor import Change, Child, Supervisor
from orchestrator.errors import InvalidInput, InvalidSettings
from orchestrator.state import embedded
from orchestrator.state.connection import redis_url, without_password
from orchestrator.state.data_dir import open_lock, prepare_data_dir, try_lock

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.cli.interrupts import Interrupts
    from orchestrator.settings import Settings

TICK: Final = 0.2  # s
GLANCE: Final = 0.1  # s; who only looks whether a server runs holds its lock for less


class DevelopmentServer:
    """
    State, a worker pool per agent, and Flower, as children of this process.

    Enter it to start everything; it is stopped when left. Between the two, call `tick` or `run`.

    Args:
        settings: with their agents loaded.
        options: how to run it.
        report: called with each change of a child.

    Raises:
        InvalidSettings: there is no agent.
        InvalidInput: an option names an unknown agent, another development server uses the folder, or Flower's
            port is taken; nothing was started.
        EmbeddedServerError: the embedded server did not start.
    """

    def __init__(self, settings: Settings, options: Options, report: Callable[[Change], None]) -> None:
        self.settings = settings
        self.options = options
        check_agents(list(options.numbers), list(agents()))
        if not agents():
            raise InvalidSettings(NO_AGENT)
        # Before the port: that of a second server in the same folder is taken by the first one's Flower.
        if (holder := server_of(settings.data_dir.resolve())) is not None:
            raise _occupied(settings.data_dir.resolve(), holder)
        if options.flower_port is not None and not is_free(settings.flower_host, options.flower_port):
            msg = (
                f"port {options.flower_port} on {settings.flower_host} is taken; end what listens there, choose "
                "another with --flower-port or CELERIAC_FLOWER_PORT, or leave Flower out with --no-flower"
            )
            raise InvalidInput(msg)
        self.data_dir = prepare_data_dir(settings)
        self.supervisor = Supervisor(
            specs(settings, options),
            logs=self.data_dir / "logs",
            environment=environment(self.data_dir, options.modules),
            report=report,
            grace=options.grace,
        )
        self.gauges: Gauges | None = None
        self.state_url = ""  # where the state is, to be shown; known once everything is started
        self._flower_pid: int | None = None  # of the Flower that has answered
        self._embedded: embedded.Embedded | None = None
        self._state_answers = True
        self._report = report
        self._exit = contextlib.ExitStack()

    @property
    def flower_url(self) -> str | None:
        """Where Flower is, if it runs."""
        port = self.options.flower_port
        return None if port is None else f"http://{self.settings.flower_host}:{port}"

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self._claim(stack)
            if self.settings.redis_url is None:
                self._embedded = stack.enter_context(embedded.ensure(self.settings, hold=True))
            session.redis().close()
            self.state_url = without_password(redis_url(self.settings))
            (self.data_dir / "logs").mkdir(mode=0o700, exist_ok=True)
            stack.callback(self.supervisor.kill)
            self.supervisor.start()
            queues = [child.spec.name for child in self.supervisor.children if child.spec.name != FLOWER]
            self.gauges = Gauges(producer_app(self.settings), queues)
            stack.callback(self.gauges.stop)
            self.gauges.start()
            self._exit = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    def _claim(self, stack: contextlib.ExitStack) -> None:
        # Two would rotate each other's logs, and their workers would have the same names.
        lock = self.data_dir / LOCK
        descriptor = open_lock(lock)
        stack.callback(os.close, descriptor)
        until = time.monotonic() + GLANCE
        while not try_lock(descriptor, fcntl.LOCK_EX):
            if time.monotonic() > until:
                raise _occupied(self.data_dir, lock.read_text())
            time.sleep(GLANCE / 10)
        os.truncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())

    def run(
        self,
        interrupts: Interrupts,
        show: Callable[[], None],
        until: Callable[[], bool] = lambda: False,
    ) -> None:
        """
        Keep the children running until there is an interrupt, or `until` says so; then drain them.

        Args:
            interrupts: the first drains, each further one hurries.
            show: called several times a second.
            until: asked several times a second.
        """
        handled = 0
        while not self.supervisor.finished:
            if interrupts.count > handled:
                handled += 1
                if self.supervisor.draining:
                    self.supervisor.hurry()
                else:
                    self.supervisor.drain()
            elif not self.supervisor.draining and until():
                self.supervisor.drain()
            self.supervisor.tick()
            self._look_after_state()
            show()
            interrupts.wait(TICK)

    def _look_after_state(self) -> None:
        """Tell when the embedded server dies and is back; its keeper starts it again, and we a lost keeper."""
        if self._embedded is None or self.supervisor.draining:
            return
        answers_now = self._embedded.answers()
        if answers_now != self._state_answers:
            self._state_answers = answers_now
            detail = "the embedded server answers again" if answers_now else "the embedded server is being restarted"
            self._report(Change(name="state", what="started" if answers_now else "died", detail=detail))
        if not answers_now and not self._embedded.is_kept():
            # Both were killed. The lock that makes us an owner is still ours; the new one is for the new keeper.
            self._exit.enter_context(embedded.ensure(self.settings, hold=True))

    def state_of(self, child: Child) -> str:
        """Return a child's state; "starting" until its worker has been heard of."""
        if child.state != "running" or self.gauges is None:
            return child.state
        if child.spec.name == FLOWER:
            port = self.options.flower_port
            if port is not None and self._flower_pid != child.pid and answers(self.settings.flower_host, port):
                self._flower_pid = child.pid
            return "running" if self._flower_pid == child.pid else "starting"
        return "running" if self.gauges.pid(child.spec.name) == child.pid else "starting"


def _occupied(data_dir: Path, holder: str) -> InvalidInput:
    return InvalidInput(
        f"a development server runs in {data_dir} already (process {holder or 'unknown'}); "
        "use it, end it, or set CELERIAC_DATA_DIR to another folder"
    )
