"""`celeriac dead`: runs that failed for good, and messages nobody could read."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer
from rich.text import Text

from orchestrator.agent import agents
from orchestrator.cli import session
from orchestrator.cli.assignments import failed_assignments, missed
from orchestrator.cli.help import examples
from orchestrator.cli.options import check_agents, command_app, login_name
from orchestrator.cli.output import AsJson, clock_time, console, print_json, print_table
from orchestrator.cli.plain import plain, visible
from orchestrator.cli.presence import NO_WORKER, lacks_worker
from orchestrator.cli.reading import read_document
from orchestrator.cli.wording import spent
from orchestrator.client import UNSET
from orchestrator.errors import InvalidInput, OrchestratorError
from orchestrator.messages import DeadLetter
from orchestrator.state.dead import DeadLetters, Unreadable, is_message_id
from orchestrator.state.fan_outs import FanOuts
from orchestrator.state.keys import is_run_id
from orchestrator.state.listing import UnreadableRun

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from orchestrator.cli.assignments import FailedAssignment
    from orchestrator.client import Client, Run
    from orchestrator.messages import RunState, StepState

app = command_app(group=True)

EXCERPT: Final = 60  # characters of a body in the list; `show` has all that is kept
REASON: Final = 100  # of a run's reason, which may name an assignment and its error
MOST_TOLD: Final = 5  # failed assignments told one by one; with --json all are
MOST: Final = 10_000  # taken by one --all

Kind = Literal["runs", "messages"]
Id = Annotated[str, typer.Argument(metavar="ID", help="A run's id, or a message's.", show_default=False)]
Ids = Annotated[
    list[str] | None, typer.Argument(metavar="[ID]...", help="Ids of runs and messages.", show_default=False)
]
All = Annotated[bool, typer.Option("--all", help="All runs, or all messages with --kind messages.")]
Of = Annotated[Kind | None, typer.Option("--kind", help="Only these.", show_default=False)]
Flow = Annotated[str | None, typer.Option(help="Only runs of this flow.", show_default=False)]
Agent = Annotated[
    str | None, typer.Option(help="Only what this agent failed on, or was sent to it.", show_default=False)
]
By = Annotated[str, typer.Option(help="Who does it.", show_default="your login name", default_factory=login_name)]
Yes = Annotated[bool, typer.Option("--yes", help="With --all: do not ask.")]


@app.callback(
    epilog=examples(
        "celeriac dead list",
        "celeriac dead show 01m827j9mx48nx7rdn7rf906",
        "celeriac dead redrive --all --agent moderation.classify",
    )
)
def _group() -> None:
    """List, show, redrive and drop runs that failed for good, and messages nobody could read."""


@app.command(
    "list",
    epilog=examples(
        "celeriac dead list", "celeriac dead list --agent moderation.classify", "celeriac dead list --limit 5 --json"
    ),
)
def list_letters(
    *,
    agent: Agent = None,
    flow: Flow = None,
    kind: Of = None,
    limit: Annotated[int, typer.Option(min=1, max=MOST, help="At most so many, the newest first.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List runs that failed for good and messages nobody could read, the newest first."""
    found = find(session.client(), kind=kind, flow=flow, agent=agent, limit=limit)
    runs = [letter for letter in found if isinstance(letter, DeadLetter | UnreadableRun)]
    messages = [letter for letter in found if isinstance(letter, Unreadable)]
    if as_json:
        print_json([document(letter) for letter in found])
        return
    if runs:
        print_table(
            ["RUN", "AT", "KIND", "FLOW", "STEP", "AGENT", "ATTEMPTS", "REASON"],
            [_listed(letter) for letter in runs],
        )
    if runs and messages:
        typer.echo()
    if messages:
        print_table(
            ["MESSAGE", "AT", "QUEUE", "REASON", "BODY"],
            [
                [letter.id, clock_time(letter.at_ms), letter.queue, letter.reason, _excerpt(visible(letter.body))]
                for letter in messages
            ],
        )
    if not found:
        typer.echo("none")


def _listed(letter: DeadLetter | UnreadableRun) -> list[str]:
    reason = _excerpt(plain(letter.reason), REASON)
    if isinstance(letter, UnreadableRun):
        return [letter.id, clock_time(letter.at_ms), "unreadable", letter.flow, "", "", "", reason]
    where = [letter.step or "", letter.agent or "", str(letter.attempts or "")]
    return [letter.run_id, clock_time(letter.at_ms), letter.kind, letter.flow, *where, reason]


@app.command(
    "show",
    epilog=examples(
        "celeriac dead show 01m827j9mx48nx7rdn7rf906",
        "celeriac dead show 01m827j9mx48nx7rdn7rf906 --json | jq .input > input.json",
        "celeriac dead show 1753950000000-0",
    ),
)
def show(letter_id: Id, *, as_json: AsJson = False) -> None:
    """Show a run with its input, attempts and errors, or a message with its body, and what can be done."""
    client = session.client()
    if is_message(letter_id):
        message = DeadLetters(client.store.client).get(letter_id)
        if as_json:
            print_json(document(message))
        else:
            _show_message(message)
        return
    run = client.get(letter_id)
    letter = run.dead_letter()
    state = run.state()
    step = state.step(letter.step or letter.goes_on_at or "")
    value = None if step is None else _taken(client, run, state, step)
    if as_json:
        failed = failed_assignments(state, letter.step or "") if missed(state, letter.step) else []
        print_json(document(letter) | {"input": value, "assignments": [asdict(one) for one in failed]})
    else:
        _show_run(letter, state, value)


@app.command(
    "redrive",
    epilog=examples(
        "celeriac dead redrive 01m827j9mx48nx7rdn7rf906",
        "celeriac dead redrive 01m827j9mx48nx7rdn7rf906 --input corrected.json",
        "celeriac dead redrive 01m827j9mx48nx7rdn7rf906 --step classify --to moderation.rules",
        "celeriac dead redrive --all --agent moderation.classify --yes",
        where="What a run has done stays done: it goes on from the first step that is not done or was undone, unless "
        "--step names another.",
    ),
)
def redrive(  # noqa: PLR0913  what can be changed about a run
    ids: Ids = None,
    *,
    everything: All = False,
    agent: Agent = None,
    flow: Flow = None,
    kind: Of = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--input", metavar="FILE|-", help="Another input for the step; of one run alone.", show_default=False
        ),
    ] = None,
    to: Annotated[
        str | None, typer.Option(metavar="AGENT", help="Who is to take the step instead.", show_default=False)
    ] = None,
    step: Annotated[
        str | None, typer.Option(help="From which step on.", show_default="the first not done, or undone")
    ] = None,
    deadline: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="Time it may take from now.", show_default="the setting run_deadline"),
    ] = None,
    by: By,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Let failed runs go on, as they are or changed; put messages back into their queues."""
    changes = {"--input": source, "--to": to, "--step": step, "--deadline": deadline}
    check_choice(ids, everything=everything, agent=agent, flow=flow, kind=kind)
    _check_changes(changes, ids or [], kind)
    value = UNSET if source is None else read_document(source)
    if to is not None:
        session.load()
        check_agents([to], list(agents()))
    client = session.client()
    client.check_deadline(deadline)
    chosen = ids or _all(client, "redrive", kind=kind, flow=flow, agent=agent, yes=yes)
    messages = DeadLetters(client.store.client)

    # Connected when it is first used: runs do not need it.
    with client.app.connection_for_write() as broker:

        def send(letter_id: str) -> None:
            if is_message(letter_id):
                messages.redrive(letter_id, broker)
            else:
                client.get(letter_id).redrive(step, input=value, agent=to, deadline=deadline, by=by)

        failed = _each(chosen, send, "redriven", as_json=as_json)
    if failed < len(chosen) and lacks_worker(client.settings):
        typer.echo(NO_WORKER, err=True)
    raise typer.Exit(1 if failed else 0)


@app.command(
    "drop",
    epilog=examples(
        "celeriac dead drop 01m827j9mx48nx7rdn7rf906",
        "celeriac dead drop --all --flow moderation",
        "celeriac dead drop --all --kind messages --yes",
        where="A run that is dropped is still a failed run, and is kept as long as any other.",
    ),
)
def drop(
    ids: Ids = None,
    *,
    everything: All = False,
    agent: Agent = None,
    flow: Flow = None,
    kind: Of = None,
    by: By,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Give runs and messages up: they are not listed here any more."""
    check_choice(ids, everything=everything, agent=agent, flow=flow, kind=kind)
    client = session.client()
    chosen = ids or _all(client, "drop", kind=kind, flow=flow, agent=agent, yes=yes)
    messages = DeadLetters(client.store.client)

    def give_up(letter_id: str) -> None:
        if is_message(letter_id):
            messages.drop(letter_id)
        else:
            client.get(letter_id).drop(by=by)

    raise typer.Exit(1 if _each(chosen, give_up, "dropped", as_json=as_json) else 0)


def is_message(letter_id: str) -> bool:
    """
    Tell a message's id from a run's.

    Raises:
        InvalidInput: it is neither.
    """
    if is_message_id(letter_id):
        return True
    if is_run_id(letter_id):
        return False
    msg = f"{letter_id!r} is no id of a run (24 characters) or a message (1753950000000-0): see `celeriac dead list`"
    raise InvalidInput(msg)


def find(
    client: Client, *, kind: Kind | None, flow: str | None, agent: str | None, limit: int
) -> list[DeadLetter | UnreadableRun | Unreadable]:
    """Return the newest runs and messages that fit, newest first, at most `limit`."""
    found: list[DeadLetter | UnreadableRun | Unreadable] = []
    if kind != "messages":
        found += client.lists.dead(limit=limit, flow=flow, agent=agent)
    # A message has no flow; a queue has the name of its agent.
    if kind != "runs" and flow is None:
        messages = DeadLetters(client.store.client).list(limit if agent is None else MOST)
        found += [message for message in messages if agent in {None, message.queue}]
    return sorted(found, key=lambda letter: letter.at_ms, reverse=True)[:limit]


def document(letter: DeadLetter | UnreadableRun | Unreadable) -> dict[str, Any]:
    """Return a run or a message for programs: both have `id`, `kind`, `at_ms` and `reason`."""
    if not isinstance(letter, DeadLetter):
        return {"id": letter.id, "kind": "unreadable", **asdict(letter)}
    return {"id": letter.run_id, **letter.model_dump(mode="json", exclude={"run_id"})}


def check_choice(
    ids: Sequence[str] | None, *, everything: bool, agent: str | None, flow: str | None, kind: Kind | None
) -> None:
    """
    Refuse a choice that is none.

    Raises:
        typer.BadParameter: neither ids nor --all, both, or a filter of what is named already.
        InvalidInput: an id is none.
    """
    if bool(ids) == everything:
        msg = "give ids, or --all"
        raise typer.BadParameter(msg)
    if ids and (agent or flow or kind):
        msg = "--agent, --flow and --kind choose among --all; they do not go with ids"
        raise typer.BadParameter(msg)
    if flow and kind == "messages":
        msg = "a message has no flow"
        raise typer.BadParameter(msg, param_hint="--flow")
    for letter_id in ids or ():
        is_message(letter_id)


def _check_changes(changes: Mapping[str, object], ids: Sequence[str], kind: Kind | None) -> None:
    given = [option for option, value in changes.items() if value is not None]
    if given and (kind == "messages" or any(is_message(letter_id) for letter_id in ids)):
        msg = f"a message is sent again as it was; {', '.join(given)} is for runs"
        raise typer.BadParameter(msg)
    if changes["--input"] is not None and len(ids) != 1:
        msg = "an input belongs to one run: give its id"
        raise typer.BadParameter(msg, param_hint="--input")


def _all(client: Client, what: str, *, kind: Kind | None, flow: str | None, agent: str | None, yes: bool) -> list[str]:
    """Return the ids of all that fit, once somebody has agreed."""
    # Runs unless messages are asked for: one cannot be told from the other when --all is typed in a hurry.
    found = find(client, kind=kind or "runs", flow=flow, agent=agent, limit=MOST)
    ids = [letter.run_id if isinstance(letter, DeadLetter) else letter.id for letter in found]
    if not ids:
        typer.echo("there is none", err=True)
        return []
    noun = (kind or "runs") if len(ids) > 1 else (kind or "runs").removesuffix("s")
    counted = f"{len(ids):,} {noun}"
    if len(ids) == MOST:
        typer.echo(f"these are the newest {MOST:,}; call it again for what is left", err=True)
    if yes:
        return ids
    if not sys.stdin.isatty():
        msg = f"this would {what} {counted}: add --yes, nobody can be asked here"
        raise InvalidInput(msg)
    if not typer.confirm(f"{what} {counted}?", err=True):
        typer.echo("nothing was done", err=True)
        raise typer.Exit(1)
    return ids


def _each(ids: Sequence[str], act: Callable[[str], None], done: str, *, as_json: bool) -> int:
    """Do it to each, tell each outcome, and return how many were refused: one must not stop the others."""
    outcomes, refused = [], 0
    for letter_id in ids:
        why = None
        try:
            act(letter_id)
        except OrchestratorError as error:
            why = plain(str(error))
            refused += 1
        if as_json:
            outcomes.append({"id": letter_id, "outcome": "refused" if why else done, "why": why})
        else:
            typer.echo(f"error: {why}" if why else f"{letter_id} {done}", err=why is not None)
    if as_json:
        print_json(outcomes)
    return refused


def _taken(client: Client, run: Run, state: RunState, step: StepState) -> Any:  # noqa: ANN401  JSON data
    """Return what a step takes where it is redriven: of one that joins a fan-out, what has come of that so far."""
    taken, fan = step.took or step.input, state.fans.get(step.name)
    if fan is None or fan.task is None or taken not in {None, f"fan:{step.name}"}:
        return None if taken is None else run.value(taken)
    task = client.store.value(run.id, fan.task)
    return None if task is None else json.loads(FanOuts(client.store).results(run.id, fan, task, last=True))


def _show_run(letter: DeadLetter, state: RunState, value: object) -> None:
    out = console()
    out.print(Text.assemble((letter.run_id, "bold"), f"  {plain(letter.flow)}  ", (letter.kind, "red")))
    used = spent(letter.tokens or 0, letter.cost or 0)
    when = f"failed {clock_time(letter.at_ms)}, kept until {clock_time(letter.expires_ms)}"
    out.print(plain(f"{when}, tenant {letter.tenant}, log position {letter.event_id}"), markup=False)
    fan = missed(state, letter.step)
    if letter.step:
        done = _attempts(letter.attempts) if fan is None else f"{fan.good} of {fan.size} assignments done"
        out.print(plain(f"step {letter.step}, agent {letter.agent}, {done}"), markup=False)
    if used:
        out.print(f"used {used}", markup=False)
    out.print(plain(f"reason: {letter.reason}"), markup=False)
    told, more = list(letter.errors), ""
    if fan is not None and letter.step:
        failed = failed_assignments(state, letter.step)
        told = [_of_assignment(one) for one in failed[:MOST_TOLD]]
        if len(failed) > MOST_TOLD:
            more = f"  and {len(failed) - MOST_TOLD} more: celeriac runs show {letter.run_id} --all"
    for number, error in enumerate(told, start=1):
        out.print(f"  {number}. {plain(error)}", markup=False)
    if more:
        out.print(more, markup=False)
    out.print("input:")
    # JSON escapes the newlines within texts, so those that are left are its own.
    for text in json.dumps(value, indent=2, ensure_ascii=False).split("\n"):
        out.print(visible(text), markup=False)
    for text in _how_to_redrive(letter):
        out.print(plain(text), markup=False)
    out.print(f"give it up with: celeriac dead drop {letter.run_id}", markup=False)


def _attempts(number: int) -> str:
    return f"{number} attempt{'' if number == 1 else 's'}"


def _of_assignment(one: FailedAssignment) -> str:
    label = f" ({one.label})" if one.label else ""
    attempts = f", {_attempts(one.attempts)}" if one.attempts else ""
    return f"{one.name}{label}, agent {one.agent}{attempts}: {one.reason}"


def _how_to_redrive(letter: DeadLetter) -> list[str]:
    command, where = f"celeriac dead redrive {letter.run_id}", letter.goes_on_at
    if letter.step is None or where is None or where == letter.step:
        at = f"it goes on at step {where}: " if letter.step is None and where else ""
        return [f"{at}redrive it with: {command} [--input FILE] [--to AGENT] [--step STEP]"]
    # An input without a step would be taken for one of the step that is shown, where the run does not go on.
    return [
        f"it goes on at step {where}, which is not done or was undone: redrive it with: {command}",
        f"with another input or agent for {where}: {command} --step {where} [--input FILE] [--to AGENT]",
    ]


def _show_message(message: Unreadable) -> None:
    out = console()
    out.print(Text.assemble((message.id, "bold"), f"  {plain(message.queue)}  ", ("unreadable", "red")))
    out.print(f"set aside {clock_time(message.at_ms)}", markup=False)
    out.print(plain(f"reason: {message.reason}"), markup=False)
    out.print("body:")
    for text in message.body.split("\n"):
        out.print(visible(text), markup=False)
    if message.hindrance is None:
        out.print(f"redrive it with: celeriac dead redrive {message.id}", markup=False)
    else:
        out.print(f"it cannot be sent again: {message.hindrance}", markup=False)
    out.print(f"give it up with: celeriac dead drop {message.id}", markup=False)


def _excerpt(text: str, limit: int = EXCERPT) -> str:
    return f"{text[:limit]}…" if len(text) > limit else text
