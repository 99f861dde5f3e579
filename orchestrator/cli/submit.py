"""`celeriac submit`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError

from orchestrator.cli import session
from orchestrator.cli.help import examples
from orchestrator.cli.options import MAX_COST, MAX_TOKENS, Tag, Verbose, check_number, command_app, parse_tags
from orchestrator.cli.output import AsJson, console, print_json
from orchestrator.cli.presence import NO_WORKER, lacks_worker
from orchestrator.cli.reading import read_document, read_lines
from orchestrator.cli.watching import follow, telling_how_to_decide
from orchestrator.client import describe
from orchestrator.errors import InvalidInput, RunCancelled, RunFailed, UnknownFlow
from orchestrator.messages import Priority, RunState
from orchestrator.patterns import flows
from orchestrator.resilience.budget import Budget

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.client import Run
    from orchestrator.patterns.flow import Flow

app = command_app()


@app.command(
    "submit",
    epilog=examples(
        "celeriac submit moderation --input document.json",
        "celeriac submit moderation --input document.json --key ticket-481 --wait",
        'echo \'{"id": "a", "text": "Hello"}\' | celeriac submit moderation --input - --json',
        "celeriac submit moderation --input documents.jsonl --each --tag batch=monday",
        "celeriac submit moderation --input document.json --budget-tokens 20000",
        where="The same key and input give the same run, however often they are submitted.",
    ),
)
def submit(  # noqa: PLR0913  what can be said of a run
    flow: Annotated[str, typer.Argument(metavar="FLOW", help="The flow's name.", show_default=False)],
    *,
    source: Annotated[
        str, typer.Option("--input", metavar="FILE|-", help="A JSON file, or - for stdin.", show_default=False)
    ],
    each: Annotated[bool, typer.Option("--each", help="Submit a run for each line of JSON Lines.")] = False,
    key: Annotated[str | None, typer.Option(help="An idempotency key.", show_default=False)] = None,
    deadline: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="Time the run may take in all.", show_default="the setting run_deadline"),
    ] = None,
    priority: Annotated[Priority, typer.Option(help="Which runs go first.")] = "normal",
    tenant: Annotated[str, typer.Option(help="Whose run it is.")] = "default",
    tag: Tag = [],  # noqa: B006  typer copies it
    budget_tokens: Annotated[
        int | None,
        typer.Option(min=0, max=MAX_TOKENS, help="Tokens the run and its children may use.", show_default=False),
    ] = None,
    budget_cost: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=MAX_COST,
            help="Money they may use, in the unit your agents tell.",
            show_default=False,
        ),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the end and print the result as JSON.")] = False,
    timeout: Annotated[
        float | None,
        typer.Option(min=0.0, metavar="SECONDS", help="With --wait: give up after this time.", show_default=False),
    ] = None,
    verbose: Verbose = False,
    as_json: AsJson = False,
) -> None:
    """Submit a run of a flow; print its id, or with --wait its result."""
    if each and key is not None:
        raise typer.BadParameter("a key belongs to one run; it does not go with --each", param_hint="--key")
    tags = parse_tags(tag)
    budget = make_budget(budget_tokens, budget_cost)
    lines = read_lines(source) if each else [(1, read_document(source))]
    session.load()
    if flow not in flows():
        # Told before a server is looked for, or started.
        raise UnknownFlow(flow, ", ".join(flows()))
    if each:
        check_lines(flows()[flow], lines)
    client = session.patient_client()
    runs = client.submit_many(
        flow,
        [value for _, value in lines],
        keys=None if key is None else [key],
        deadline=deadline,
        priority=priority,
        tenant=tenant,
        tags=tags,
        budget=budget,
    )
    if lacks_worker(client.settings):
        typer.echo(NO_WORKER, err=True)
    if wait:
        ended = [_wait_for(run, timeout=timeout, quiet=as_json or each, verbose=verbose) for run in runs]
        _tell_results(runs, ended, each=each, as_json=as_json)
    elif as_json:
        print_json([{"id": run.id} for run in runs] if each else {"id": runs[0].id})
    else:
        for run in runs:
            typer.echo(run.id)


def make_budget(tokens: int | None, cost: float | None) -> Budget | None:
    """
    Return the budget of a run; None without limits.

    Raises:
        typer.BadParameter: an amount is none.
    """
    check_number("--budget-cost", cost)
    return None if tokens is None and cost is None else Budget(tokens=tokens, cost=cost)


def check_lines(flow: Flow, lines: Sequence[tuple[int, Any]]) -> None:
    """
    Check each input against the flow's type; the client does it as well, but knows no lines.

    Args:
        flow: the flow.
        lines: numbers and JSON data.

    Raises:
        InvalidInput: one does not fit; the message names its line.
    """
    for number, value in lines:
        try:
            flow.input.validate_python(value)
        except ValidationError as error:
            msg = f"line {number}: the input does not fit flow {flow.name!r}: {describe(error)}"
            raise InvalidInput(msg) from None


def _wait_for(run: Run, *, timeout: float | None, quiet: bool, verbose: bool) -> RunState:
    if not quiet:
        # To stderr: stdout gets the result alone.
        return follow(run, console(stderr=True), verbose=verbose, timeout=timeout)
    with telling_how_to_decide(run):
        for _ in run.watch(timeout):
            pass
    return run.state()


def _tell_results(runs: list[Run], ended: list[RunState], *, each: bool, as_json: bool) -> None:
    documents = [_document(run, state) for run, state in zip(runs, ended, strict=True)]
    failed = [state for state in ended if state.status != "completed"]
    if each:
        print_json(documents)
        raise typer.Exit(1 if failed else 0)
    if as_json:
        print_json(documents[0])
        raise typer.Exit(1 if failed else 0)
    for state in failed:
        kind = RunFailed if state.status == "failed" else RunCancelled
        raise kind(state.id, state.reason or "")
    print_json(documents[0]["result"])


def _document(run: Run, state: RunState) -> dict[str, Any]:
    return {
        "id": run.id,
        "status": state.status,
        "reason": state.reason,
        "degraded": state.degraded,
        "partial": state.partial,
        "result": run.value(state.output) if state.output else None,
    }
