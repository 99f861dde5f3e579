"""`celeriac budgets`: what tenants may use of tokens and money."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from orchestrator.cli import session
from orchestrator.cli.help import examples
from orchestrator.cli.options import MAX_COST, MAX_TOKENS, check_number, command_app
from orchestrator.cli.output import AsJson, duration, print_json, print_table
from orchestrator.cli.plain import plain
from orchestrator.cli.wording import amount
from orchestrator.client import check_text
from orchestrator.errors import InvalidInput

if TYPE_CHECKING:
    from orchestrator.state.guards import BudgetState

app = command_app(group=True, default="list")

OF_TENANT: Final = "tenant:"
LONGEST: Final = 366 * 86400.0  # seconds; as long as a run may take
NONE: Final = "none: no tenant has a budget"

Tenant = Annotated[str, typer.Argument(metavar="TENANT", help="Whose budget it is.", show_default=False)]


@app.callback(
    epilog=examples(
        "celeriac budgets list",
        "celeriac budgets set acme --tokens 2000000 --per 86400",
        "celeriac budgets clear acme",
        where="Without a command it lists them. A run's own budget is set when it is submitted.",
    ),
)
def _group() -> None:
    """List, set and clear the budgets of tenants."""


@app.command("list", epilog=examples("celeriac budgets list", "celeriac budgets list --json"))
def list_budgets(*, as_json: AsJson = False) -> None:
    """List the budgets of tenants, with what is used and reserved of them."""
    found = [budget for budget in session.client().guards.budgets() if budget.name.startswith(OF_TENANT)]
    if as_json:
        print_json([_document(budget) for budget in found])
    elif found:
        print_table(
            ["TENANT", "TOKENS", "COST", "RENEWED"],
            [
                [
                    _tenant(budget),
                    share(f"{budget.used_tokens:,}", None if budget.tokens is None else f"{budget.tokens:,}"),
                    share(amount(budget.used_cost), None if budget.cost is None else amount(budget.cost)),
                    renewal(budget),
                ]
                for budget in found
            ],
        )
    else:
        typer.echo(NONE)


@app.command(
    "set",
    epilog=examples(
        "celeriac budgets set acme --tokens 2000000 --per 86400",
        "celeriac budgets set acme --cost 250 --json",
        where="What is used already stays used. A limit that is not given is lifted.",
    ),
)
def set_budget(
    tenant: Tenant,
    *,
    tokens: Annotated[
        int | None, typer.Option(min=0, max=MAX_TOKENS, help="Tokens it may use.", show_default=False)
    ] = None,
    cost: Annotated[
        float | None,
        typer.Option(min=0.0, max=MAX_COST, help="Money it may use, in the unit your agents tell.", show_default=False),
    ] = None,
    per: Annotated[
        float | None,
        typer.Option(
            min=1.0, max=LONGEST, metavar="SECONDS", help="Renew it after each such time.", show_default="never"
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Set the budget of a tenant: what all its runs may use together."""
    check_text("a tenant's name", tenant)
    if tokens is None and cost is None:
        msg = "give --tokens, --cost or both; `celeriac budgets clear` lifts all limits"
        raise typer.BadParameter(msg)
    check_number("--cost", cost)
    check_number("--per", per)
    guards = session.client().guards
    guards.set_budget(OF_TENANT + tenant, tokens, cost, None if per is None else round(per * 1000))
    budget = guards.budget(OF_TENANT + tenant)
    if as_json:
        print_json(None if budget is None else _document(budget))
    else:
        limits = [
            "" if tokens is None else f"{tokens:,} tokens",
            "" if cost is None else f"cost {amount(cost)}",
            "" if per is None else f"per {duration(per)}",
        ]
        typer.echo(plain(f"{tenant} may use {', '.join(limit for limit in limits if limit)}"))


@app.command("clear", epilog=examples("celeriac budgets clear acme", "celeriac budgets clear acme --json"))
def clear_budget(tenant: Tenant, *, as_json: AsJson = False) -> None:
    """Remove the budget of a tenant, and what is used of it: nothing limits its runs together then."""
    check_text("a tenant's name", tenant)
    if not session.client().guards.drop_budget(OF_TENANT + tenant):
        msg = f"tenant {tenant!r} has no budget; see `celeriac budgets list`"
        raise InvalidInput(msg)
    if as_json:
        print_json({"tenant": tenant, "cleared": True})
    else:
        typer.echo(plain(f"{tenant} has no budget any more"))


def share(used: str, limit: str | None) -> str:
    """Return what is used of a limit."""
    return used if limit is None else f"{used} of {limit}"


def renewal(budget: BudgetState) -> str:
    """Return how often a budget renews, and when it does next."""
    if budget.per is None or budget.renews_in is None:
        return "never"
    return f"every {duration(budget.per)}, next in {duration(budget.renews_in)}"


def _tenant(budget: BudgetState) -> str:
    return budget.name.removeprefix(OF_TENANT)


def _document(budget: BudgetState) -> dict[str, Any]:
    facts = asdict(budget)
    del facts["name"]
    return {"tenant": _tenant(budget), **facts}
