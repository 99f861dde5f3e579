"""`celeriac runs`: list, show, watch, cancel and decide."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Final, get_args

import typer
from rich.text import Text

from orchestrator.cli import boards, session, transcripts
from orchestrator.cli.help import examples
from orchestrator.cli.options import RunId, Verbose, command_app, login_name, parse_tags
from orchestrator.cli.output import AsJson, clock_time, coloured, console, print_json, print_table
from orchestrator.cli.plain import plain
from orchestrator.cli.presence import NO_WORKER, lacks_worker
from orchestrator.cli.results import result_lines
from orchestrator.cli.steps import INDENT, rows
from orchestrator.cli.watching import follow
from orchestrator.cli.wording import (
    WITHOUT_RESULT,
    amount,
    current_step,
    details,
    how_to_go_on,
    outcome,
    spent,
    standing,
    step_of,
    took,
)
from orchestrator.errors import RunUnreadable
from orchestrator.messages import RunState, RunStatus
from orchestrator.state.listing import UnreadableRun

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

app = command_app(group=True)

MAX_FLOW: Final = 40  # characters of a flow's name in the list: of a refused run it is whatever was sent
MAX_CHILDREN: Final = 20  # told one by one unless all are asked for
MAX_NOTE: Final = 60  # characters of a reason in the list; `show` has all of it


Step = Annotated[
    str | None, typer.Option(help="The step to decide; the one that waits unless given.", show_default=False)
]
By = Annotated[str, typer.Option(help="Who decides.", show_default="your login name", default_factory=login_name)]
Note = Annotated[str, typer.Option(help="Why; kept in the run's log.", show_default=False)]
Limit = Annotated[int, typer.Option(min=1, max=10_000, help="At most so many, the newest first.")]


@app.callback(
    epilog=examples(
        "celeriac runs list --status waiting",
        "celeriac runs show 01m827j9mx48nx7rdn7rf906",
        "celeriac runs approve 01m827j9mx48nx7rdn7rf906 --note 'harmless quotation'",
    )
)
def _group() -> None:
    """List, show, watch, cancel and decide runs."""


@app.command(
    "list",
    epilog=examples(
        "celeriac runs list",
        "celeriac runs list --status waiting --flow moderation",
        "celeriac runs list --tag batch=monday --limit 500 --json",
    ),
)
def list_runs(
    *,
    status: Annotated[RunStatus | None, typer.Option(help="Only these.", show_default=False)] = None,
    flow: Annotated[str | None, typer.Option(help="Only runs of this flow.", show_default=False)] = None,
    tenant: Annotated[str | None, typer.Option(help="Only runs of this tenant.", show_default=False)] = None,
    tag: Annotated[
        str | None, typer.Option(metavar="NAME=TEXT", help="Only runs with this tag.", show_default=False)
    ] = None,
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """List runs, the newest first."""
    wanted = next(iter(parse_tags([tag]).items())) if tag is not None else None
    statuses = [status] if status else list(get_args(RunStatus))
    found = session.client().lists.runs(statuses, flow=flow, tenant=tenant, tag=wanted, limit=limit)
    if as_json:
        print_json([_summary(state) for state in found])
    elif found:
        print_table(
            ["RUN", "FLOW", "STATUS", "AT", "SUBMITTED", "TOOK", ""],
            [_listed(state) for state in found],
        )
    else:
        typer.echo("none")


def _listed(state: RunState | UnreadableRun) -> list[str | Text]:
    flow, submitted = _short(state.flow, MAX_FLOW), clock_time(state.created_ms)
    if isinstance(state, UnreadableRun):
        return [state.id, flow, coloured("unreadable"), "", submitted, "", _short(state.reason, MAX_NOTE)]
    note = _short(standing(state), MAX_NOTE)
    return [state.id, flow, coloured(state.status), current_step(state), submitted, took(state), note]


def _summary(state: RunState | UnreadableRun) -> dict[str, Any]:
    """Return a run of a list for programs; what its assignments used, or lack, is null: they are not read."""
    if isinstance(state, UnreadableRun):
        return {**asdict(state), "unreadable": True}
    unread = {"degraded": state.degraded or None, "tokens": None, "cost": None} if state.fans else {}
    return document(state) | unread | {"unreadable": False}


@app.command(
    "show",
    epilog=examples(
        "celeriac runs show 01m827j9mx48nx7rdn7rf906", "celeriac runs show 01m827j9mx48nx7rdn7rf906 --json | jq .result"
    ),
)
def show(
    run_id: RunId,
    *,
    everything: Annotated[
        bool,
        typer.Option("--all", help="Every assignment of a fan-out, every child and all of the result, however many."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show a run: steps, children, open questions, result."""
    run = session.client().get(run_id)
    state = run.state()
    below = run.descendants()
    result = run.value(state.output) if state.output else None
    if as_json:
        print_json(document(state) | _family(state, below) | {"result": result})
        return
    out = console()
    out.print(Text.assemble((state.id, "bold"), f"  {plain(state.flow)}  ", coloured(state.status), f"  {took(state)}"))
    out.print(_facts(state, below), markup=False)
    if state.steps:
        _show_steps(state, everything=everything)
    _show_children(state, below, everything=everything)
    if state.degraded and state.status not in WITHOUT_RESULT:
        what = "ends with a part of the flow's output" if state.partial else _lacks(state)
        out.print(f"degraded: it {what}", markup=False)
    if state.ending is not None:
        out.print(plain(f"ends as {state.ending.status} once it is undone: {state.ending.reason or ''}"), markup=False)
    if state.reason:
        out.print(plain(f"reason: {state.reason}"), markup=False)
    if state.failure is not None:
        out.print(f"dead letter: celeriac dead show {state.id}", markup=False)
    for text in how_to_go_on(state):
        out.print(text, markup=False)
    if state.status == "completed":
        out.print("result:")
        for text in result_lines(result, state.id, whole=everything or not out.is_terminal):
            out.print(text, markup=False)


@app.command(
    "events",
    epilog=examples(
        "celeriac runs events 01m827j9mx48nx7rdn7rf906", "celeriac runs events 01m827j9mx48nx7rdn7rf906 --json"
    ),
)
def events(run_id: RunId, *, as_json: AsJson = False) -> None:
    """Show a run's log: every event, the oldest first."""
    found = session.client().get(run_id).events()
    if as_json:
        print_json([event.model_dump(mode="json") for event in found])
        return
    print_table(
        ["N", "ID", "AT", "EVENT", "STEP", ""],
        [
            [str(number), event.id, clock_time(event.at_ms), event.type, step_of(event), details(event)]
            for number, event in enumerate(found, 1)
        ],
    )


app.command(
    "board",
    epilog=examples(
        "celeriac runs board 01m827j9mx48nx7rdn7rf906",
        "celeriac runs board 01m827j9mx48nx7rdn7rf906 --at 40",
        "celeriac runs board 01m827j9mx48nx7rdn7rf906 --since 40 --at 60",
        "celeriac runs board 01m827j9mx48nx7rdn7rf906 --json | jq .entries.plan.value",
        where="Events have the numbers that `celeriac runs events` shows.",
    ),
)(boards.board)


app.command(
    "transcript",
    epilog=examples(
        "celeriac runs transcript 01m827j9mx48nx7rdn7rf906",
        "celeriac runs transcript 01m827j9mx48nx7rdn7rf906 --follow",
        "celeriac runs transcript 01m827j9mx48nx7rdn7rf906 --markdown > debate.md",
        "celeriac runs transcript 01m827j9mx48nx7rdn7rf906 --json | jq '.[] | select(.kind == \"propose\")'",
    ),
)(transcripts.transcript)


@app.command(
    "watch",
    epilog=examples(
        "celeriac runs watch 01m827j9mx48nx7rdn7rf906",
        "celeriac runs watch 01m827j9mx48nx7rdn7rf906 --json | jq .type",
        where="Exits with 0 when the run completes, with 1 when it fails or is cancelled.",
    ),
)
def watch(
    run_id: RunId,
    *,
    timeout: Annotated[
        float | None, typer.Option(min=0.0, metavar="SECONDS", help="Give up after this time.", show_default=False)
    ] = None,
    verbose: Verbose = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print each event as a line of JSON.")] = False,
) -> None:
    """
    Watch a run's stages until it ends.

    Live on a terminal, a line per event otherwise; the assignments of a large fan-out are counted.
    """
    client = session.patient_client()
    run = client.get(run_id)
    if not run.state().finished and lacks_worker(client.settings):
        typer.echo(NO_WORKER, err=True)
    state = follow(run, console(), as_json=as_json, verbose=verbose, timeout=timeout)
    raise typer.Exit(0 if state.status == "completed" else 1)


@app.command(
    "cancel",
    epilog=examples(
        "celeriac runs cancel 01m827j9mx48nx7rdn7rf906",
        "celeriac runs cancel 01m827j9mx48nx7rdn7rf906 --reason 'submitted twice'",
    ),
)
def cancel(
    run_id: RunId,
    *,
    reason: Annotated[str, typer.Option(help="Why; kept in the run's log.", show_default=False)] = "",
    by: By,
    as_json: AsJson = False,
) -> None:
    """Cancel a run that has not ended."""
    run = session.client().get(run_id)
    run.cancel(reason, by=by)
    try:
        state = run.state()
    except RunUnreadable as error:
        why = str(error.args[1])
        if as_json:
            print_json({"id": run.id, "status": run.status(), "unreadable": True, "reason": why})
        else:
            typer.echo(plain(f"{run.id} cancelled; it cannot be read: {why}"))
        return
    _tell(state, "cancelled", as_json=as_json)


@app.command(
    "approve",
    epilog=examples(
        "celeriac runs approve 01m827j9mx48nx7rdn7rf906",
        "celeriac runs approve 01m827j9mx48nx7rdn7rf906 --step classify --by ada --note 'harmless quotation'",
    ),
)
def approve(run_id: RunId, *, step: Step = None, by: By, note: Note = "", as_json: AsJson = False) -> None:
    """Let the output of a step that waits for a person pass."""
    run = session.client().get(run_id)
    run.approve(step, by=by, note=note)
    _tell(run.state(), "approved", as_json=as_json)


@app.command(
    "reject",
    epilog=examples("celeriac runs reject 01m827j9mx48nx7rdn7rf906 --note 'advertisement'"),
)
def reject(run_id: RunId, *, step: Step = None, by: By, note: Note = "", as_json: AsJson = False) -> None:
    """Fail a run at the step that waits for a person."""
    run = session.client().get(run_id)
    run.reject(step, by=by, note=note)
    _tell(run.state(), "rejected", as_json=as_json)


def _tell(state: RunState, what: str, *, as_json: bool) -> None:
    if as_json:
        print_json(document(state))
    else:
        typer.echo(outcome(state, what))


def document(state: RunState) -> dict[str, Any]:
    """Return a run for programs: its projection, whether it is degraded, and what it has used."""
    return state.model_dump(mode="json") | {
        "degraded": state.degraded,
        "tokens": state.tokens,
        "cost": state.cost,
    }


def _show_steps(state: RunState, *, everything: bool) -> None:
    use = bool(state.tokens or state.cost)  # most agents tell of none
    print_table(
        ["STAGE", "AGENT", "STATUS", "ATTEMPT", "TOOK", *(["USED"] if use else []), ""],
        [
            [
                row.name,
                row.agent,
                coloured(row.status),
                row.attempt,
                row.took,
                *([row.used] if use else []),
                row.remark,
            ]
            for row in rows(state, everything=everything)
        ],
    )


def _family(state: RunState, below: Sequence[RunState]) -> dict[str, Any]:
    """Return a run's children for programs, with theirs, and what it has used together with them."""
    told = ("id", "parent", "flow", "status", "reason")
    return {
        "children": [
            {**{name: getattr(one, name) for name in told}, "tokens": one.tokens, "cost": one.cost} for one in below
        ],
        "tokens_with_children": state.tokens + sum(one.tokens for one in below),
        "cost_with_children": state.cost + sum(one.cost for one in below),
    }


def _show_children(state: RunState, below: Sequence[RunState], *, everything: bool) -> None:
    if not below:
        return
    by_parent: dict[str, list[RunState]] = {}
    for one in below:
        by_parent.setdefault(one.parent or "", []).append(one)

    def listed(parent: str, depth: int) -> Iterator[tuple[int, RunState]]:
        for one in by_parent.get(parent, ()):
            yield depth, one
            yield from listed(one.id, depth + 1)

    found = list(listed(state.id, 0))
    shown = found if everything else found[:MAX_CHILDREN]
    use = any(one.tokens or one.cost for one in below)
    typer.echo()
    print_table(
        ["CHILD", "FLOW", "STATUS", "AT", "TOOK", *(["USED"] if use else []), ""],
        [
            [
                INDENT * depth + one.id,
                _short(one.flow, MAX_FLOW),
                coloured(one.status),
                current_step(one),
                took(one),
                *([spent(one.tokens, one.cost)] if use else []),
                _short(standing(one), MAX_NOTE),
            ]
            for depth, one in shown
        ],
    )
    if len(shown) < len(found):
        typer.echo(f"and {len(found) - len(shown)} more: celeriac runs show {state.id} --all")
    typer.echo()


def _lacks(state: RunState) -> str:
    """Return what is less than it should be in a degraded run's result."""
    fallback = any(step.degraded for step in state.steps)
    missing = any(fan.degraded for fan in state.fans.values())
    said = [
        "holds what a fallback gave" if fallback else "",
        "lacks what some assignments should give" if missing else "",
    ]
    return " and ".join(part for part in said if part)


def _facts(state: RunState, below: Sequence[RunState]) -> str:
    tags = " ".join(f"{name}={text}" for name, text in state.tags.items())
    parts = [
        f"submitted {clock_time(state.created_ms)}",
        f"tenant {state.tenant}",
        f"priority {state.priority}",
        f"key {state.key}" if state.key else "",
        f"tags {tags}" if tags else "",
        f"child of {state.parent}" if state.parent else "",
        _use(state, below),
    ]
    return plain(", ".join(part for part in parts if part))


def _use(state: RunState, below: Sequence[RunState]) -> str:
    tokens, cost = sum(one.tokens for one in below), sum(one.cost for one in below)
    used, theirs = spent(state.tokens + tokens, state.cost + cost), spent(tokens, cost)
    by = f" ({theirs} by its children)" if theirs else ""
    if state.budget is None:
        return f"used {used}{by}" if used else ""
    limits = [
        "" if state.budget.tokens is None else f"{state.budget.tokens:,} tokens",
        "" if state.budget.cost is None else f"cost {amount(state.budget.cost)}",
    ]
    return f"used {used or 'nothing'} of {' and '.join(limit for limit in limits if limit)}{by}"


def _short(text: str, limit: int) -> str:
    shown = plain(text)
    return shown if len(shown) <= limit else f"{shown[: limit - 1]}…"
