"""`celeriac demo`: a reference flow on real input, from nothing to a report."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import pkgutil
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Protocol, cast

import typer
from rich.console import Console, Group
from rich.live import Live

from orchestrator.agent import load_agents
from orchestrator.cli import session
from orchestrator.cli.board import Announcer, board
from orchestrator.cli.fleet import FLOWER, Options
from orchestrator.cli.help import examples
from orchestrator.cli.interrupts import Interrupts
from orchestrator.cli.options import command_app
from orchestrator.cli.output import AsJson, console, duration, print_json
from orchestrator.cli.plain import plain, visible
from orchestrator.cli.ports import any_free, is_free
from orchestrator.cli.progress import Bars, Batch, Lines
from orchestrator.cli.serving import DevelopmentServer
from orchestrator.cli.summary import Summary, summarise
from orchestrator.cli.wording import asked
from orchestrator.client import Client
from orchestrator.errors import InvalidInput, OrchestratorError

if TYPE_CHECKING:
    from orchestrator.cli.supervisor import Change
    from orchestrator.patterns.flow import Flow
    from orchestrator.settings import Settings

app = command_app()

PROGRAM: Final = "celeriac"
ROOM: Final = "workers"  # the package of the reference flows, beside the current folder
STALLED: Final = 120.0  # s without any progress after which it is given up
DEATHS: Final = 3  # of one pool in a row after which it is given up
NOUN: Final = "document"  # what a flow takes that does not say
SHOWN: Final = 5  # waiting runs listed in the closing text


class Demo(Protocol):
    """
    What a reference flow offers, as `DEMO` in `workers.<flow>`.

    One that takes something other than documents says so, as `noun`, and one whose results can be shown in a terminal
    has `shown`, which makes renderables of them. One that is asked something has `asked`, which takes the question too.
    The report is None where there is none.
    """

    flow: Flow
    inputs: Callable[[Path | None], Sequence[Any]]
    report: Callable[[Sequence[Any], Path], Path | None]


def _path(text: str) -> Path:
    # A shell's unset variable; as a path it would be the current folder.
    if not text.strip():
        msg = "is empty; name a file or a folder, `.` for the current one"
        raise typer.BadParameter(msg)
    return Path(text)


@app.command(
    "demo",
    epilog=examples(
        "celeriac demo",
        "celeriac demo moderation --input ~/Documents/notes",
        "celeriac demo review --input ~/src/project",
        "celeriac demo rota --input people.yaml",
        "celeriac demo research --input ~/Documents --question 'When does the lease end?'",
        "celeriac demo --keep",
        where="Without --input, moderation takes text found on this machine, review the current folder, rota the "
        "people of a ward, and research the documentation found here. The runs are kept for `celeriac up`.",
    ),
)
def demo(
    flow: Annotated[str, typer.Argument(metavar="[FLOW]", help="A reference flow, in workers/.")] = "moderation",
    *,
    path: Annotated[
        Path | None,
        typer.Option("--input", metavar="PATH", parser=_path, help="Take the input from here.", show_default=False),
    ] = None,
    question: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Ask this, of a flow that answers questions.", show_default=False),
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Stay up after the report, until Ctrl-C.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run a reference flow on real input, with live progress and a report."""
    out = console(stderr=as_json)
    settings = session.settings()
    found = find_demo(flow)
    show = Show(settings, flow, found, inputs(flow, found, path, question), out)
    with Interrupts() as interrupts, DevelopmentServer(settings, show.options, Deaths(out)) as server:
        show.submit(server)
        with show.display() as update:
            server.run(interrupts, update, lambda: show.is_over() and not (keep and show.closing()))
    if show.summary is None:
        out.print(f"interrupted; `{show.up}` goes on with what was submitted", markup=False)
        raise typer.Exit(130)
    if as_json:
        print_json(show.document())
    elif not keep:
        show.closing()
    failed = any(show.summary.outcomes.get(status) for status in ("failed", "cancelled"))
    raise typer.Exit(1 if failed else 0)


class Deaths(Announcer):
    """Tells of children that die; their coming and going is no news here."""

    def __call__(self, change: Change) -> None:
        """Tell a death."""
        if change.what in {"died", "killed"}:
            super().__call__(change)


class Show:
    """
    One demo, from its inputs to its report.

    Args:
        settings: of this process.
        name: of the flow; its module is `workers.<name>`.
        demo: what that module offers.
        given: the inputs.
        out: where to show it.

    Attributes:
        summary: once every run has ended or waits for a person.
    """

    def __init__(self, settings: Settings, name: str, demo: Demo, given: Sequence[Any], out: Console) -> None:
        self.began = time.monotonic()
        self.settings = settings
        self.flow = demo.flow
        self.noun: str = getattr(demo, "noun", NOUN)
        self.tag = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
        self.out = out
        self.summary: Summary | None = None
        self.report: Path | None = None
        self._demo = demo
        self._inputs = list(given)
        self._told = False
        self._shown: list[Any] = []
        host = settings.flower_host
        self.options = Options(
            flower_port=settings.flower_port if is_free(host, settings.flower_port) else any_free(host),
            grace=10.0,
            modules=(f"{ROOM}.{name}",),
        )
        self.batch: Batch
        self.server: DevelopmentServer

    @property
    def up(self) -> str:
        """What to type for a development server that serves this flow."""
        return f"{agents_prefix(self.settings.agents, self.options.modules)}{program_name()} up"

    @property
    def flower(self) -> str | None:
        """Where Flower is; None if it does not run."""
        running = any(child.spec.name == FLOWER and child.restarts == 0 for child in self.server.supervisor.children)
        return self.server.flower_url if running else None

    def submit(self, server: DevelopmentServer) -> None:
        """Submit a run for each input."""
        self.server = server
        client = Client(self.settings)
        runs = client.submit_many(self.flow, self._inputs, tags={"demo": self.tag})
        self.batch = Batch(client, [run.id for run in runs], [step.name for step in self.flow.plan()])
        what = f"{counted(len(runs), self.noun)} for flow {self.flow.name}"
        self.out.print(f"{what}, tagged demo={self.tag}; Flower {server.flower_url}", markup=False)

    @contextlib.contextmanager
    def display(self) -> Iterator[Callable[[], None]]:
        """Show the progress; gives what is to be called at each tick."""
        if not self.out.is_terminal:
            yield Lines(self.batch, self.out).update
            return
        bars = Bars(self.batch, self.out)
        with Live(
            console=self.out, get_renderable=lambda: Group(bars.progress, board(self.server)), refresh_per_second=4
        ):
            yield bars.update

    def is_over(self) -> bool:
        """
        Look at the runs; once they are done, write the report.

        Raises:
            OrchestratorError: it will never be over.
        """
        if self.summary is not None:
            return True
        self.batch.look()
        if self.batch.settled:
            states = [self.batch.states[run_id] for run_id in self.batch.ids]
            results = self._results()
            self.report = self._demo.report(results, self.server.data_dir / "demo" / self.tag)
            shown = getattr(self._demo, "shown", None)
            self._shown = [] if shown is None else list(shown(results))
            self.summary = summarise(states)
            return True
        logs = self.server.data_dir / "logs"
        for child in self.server.supervisor.children:
            if child.failures >= DEATHS:
                msg = f"{child.spec.name} keeps dying; its log says why: {child.log}"
                raise OrchestratorError(msg)
        if time.monotonic() - self.batch.moved > STALLED:
            msg = f"nothing has moved for {STALLED:g} s; look at the logs in {logs}, and at `celeriac runs list`"
            raise OrchestratorError(msg)
        return False

    def _results(self) -> list[Any]:
        store = self.batch.client.store
        results = []
        for state in self.batch.states.values():
            value = store.value(state.id, state.output) if state.output else None
            if value is not None:
                results.append(self.flow.output.validate_json(value))
        return results

    def document(self) -> dict[str, Any]:
        """Return what it came to, for programs."""
        summary = asdict(cast("Summary", self.summary))
        reasons = Counter(state.reason or "" for state in self.batch.states.values() if state.status == "failed")
        waiting = [
            {"run": state.id, "step": step.name, "question": question.question}
            for state in self.batch.states.values()
            for step, question in asked(state)
        ]
        return {
            "flow": self.flow.name,
            "tag": self.tag,
            "documents": len(self.batch.ids),
            "noun": self.noun,
            **summary,
            "total_seconds": round(time.monotonic() - self.began, 3),
            "report": None if self.report is None else str(self.report),
            "flower": self.flower,
            "failures": dict(reasons.most_common()),
            "waiting": waiting,
        }

    def closing(self) -> bool:
        """Tell what it came to and what to type next, once; returns True."""
        if not self._told:
            self._told = True
            for each in self._shown:
                self.out.print()
                self.out.print(each)
            for line in closing_lines(
                self.document(), f"http://{self.settings.flower_host}:{self.settings.flower_port}", self.up
            ):
                self.out.print(visible(line), markup=False)
        return True


def find_demo(name: str) -> Demo:
    """
    Return what `workers.<name>` offers.

    Raises:
        InvalidInput: there is no such reference flow here.
        AgentsNotFound: its module cannot be imported.
    """
    if importlib.util.find_spec(ROOM) is None:
        msg = (
            "the reference flows are not here: there is no package `workers` in the current folder; "
            "clone the repository of celeriac and run `make demo` in it"
        )
        raise InvalidInput(msg)
    room = importlib.import_module(ROOM)
    known = sorted(module.name for module in pkgutil.iter_modules(room.__path__) if module.ispkg)
    if name not in known:
        msg = f"there is no reference flow {name!r} in {ROOM}/ (known: {', '.join(known) or 'none'})"
        raise InvalidInput(msg)
    load_agents([f"{ROOM}.{name}"])
    found = getattr(importlib.import_module(f"{ROOM}.{name}"), "DEMO", None)
    if found is None:
        msg = f"{ROOM}.{name} has no demo: it defines no DEMO with flow, inputs and report"
        raise InvalidInput(msg)
    return cast("Demo", found)


def inputs(name: str, demo: Demo, path: Path | None, question: str | None) -> Sequence[Any]:
    """
    Return what to submit.

    Args:
        name: of the flow.
        demo: what its module offers.
        path: where the inputs are; None: what the demo finds itself.
        question: what to ask; None: what the demo asks itself, if anything.

    Raises:
        InvalidInput: there is nothing usable, or the flow answers no questions.
    """
    if question is None:
        return demo.inputs(path)
    asked = getattr(demo, "asked", None)
    if asked is None:
        msg = f"reference flow {name!r} answers no questions; leave --question out"
        raise InvalidInput(msg)
    return cast("Sequence[Any]", asked(path, question))


def closing_lines(document: dict[str, Any], flower: str, up: str) -> list[str]:
    """
    Return the closing text.

    Args:
        document: of `Show.document`.
        flower: where `celeriac up` will have Flower.
        up: the command for it.
    """
    timing = f"{document['seconds']:.1f} s of work"
    if document["documents"] > 1:
        timing += (
            f", {document['per_second']:.1f} {document['noun']}s/s; from submit to end "
            f"{duration(document['p50'])} at p50, {duration(document['p95'])} at p95"
        )
    timing += f"; {document['total_seconds']:.1f} s in all"
    program = program_name()
    words = {"waiting": "wait for a person"}
    outcomes = ", ".join(f"{number} {words.get(status, status)}" for status, number in document["outcomes"].items())
    lines = [
        "",
        f"{counted(document['documents'], document['noun'])}: {outcomes}",
        timing,
        f"report  {document['report'] or 'none: no run has made one'}",
        f"Flower  {document['flower'] or 'died, see its log'} while this ran; {flower} with `celeriac up`",
    ]
    lines += [f"failed  {number}x  {plain(reason)}" for reason, number in list(document["failures"].items())[:SHOWN]]
    waiting = document["waiting"]
    if waiting:
        lines += ["", f"waiting for a person ({len(waiting)}):"]
        lines += [f"  {item['run']}  {plain(item['question'])}" for item in waiting[:SHOWN]]
        if len(waiting) > SHOWN:
            lines.append(f"  ... and {len(waiting) - SHOWN} more: {program} runs list --status waiting")
    lines += ["", "what to type next:"]
    if waiting:
        first = waiting[0]
        lines.append(f"  {program} runs approve {first['run']} --step {first['step']} --note 'looks fine'")
    lines += [
        f"  {program} runs list --tag demo={document['tag']}",
        f"  {up}                 # {'goes on with what waits' if waiting else 'serves the flow'}; Flower at {flower}",
    ]
    return lines


def counted(number: int, noun: str) -> str:
    """Return a number of things in words."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def agents_prefix(named: Sequence[str], modules: Sequence[str]) -> str:
    """Return what must stand before a command that serves these modules, where the settings name others."""
    missing = [module for module in modules if module not in named]
    return f"CELERIAC_AGENTS={','.join([*named, *missing])} " if missing else ""


def program_name() -> str:
    """Return what to type for this command: `.venv/bin/celeriac` where that is not on the search path."""
    typed = Path(sys.argv[0])
    if typed.name != PROGRAM or shutil.which(PROGRAM) == str(typed.absolute()):
        return PROGRAM
    with contextlib.suppress(ValueError):
        return str(typed.absolute().relative_to(Path.cwd()))
    return str(typed)
