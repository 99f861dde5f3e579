"""`celeriac agents` and `celeriac flows`: what this installation knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import typer

from orchestrator.agent import agents
from orchestrator.cli import session
from orchestrator.cli.help import examples
from orchestrator.cli.options import command_app
from orchestrator.cli.output import AsJson, duration, print_json, print_table
from orchestrator.patterns import flows

if TYPE_CHECKING:
    from orchestrator.agent import Agent
    from orchestrator.messages import PlanStep

agents_app = command_app()
flows_app = command_app()

UNITS: Final = {1.0: "s", 60.0: "min", 3600.0: "h", 86400.0: "d"}
NOTHING = "none: name the modules that define them in CELERIAC_AGENTS, or run in the folder that holds them"


def type_name(kind: object) -> str:
    """Return a type as a person writes it."""
    return kind.__name__ if isinstance(kind, type) else str(kind)


def guards_of(agent: Agent[Any, Any]) -> list[str]:
    """Return an agent's policies beside its timeout, a few words each."""
    said = [f"{name} {duration(limit)}" for name in ("idle", "deadline") if (limit := getattr(agent, name)) is not None]
    if agent.retry is not None:
        said.append(f"retry {agent.retry.max_attempts}")
    said += [f"breaker{_of(breaker.of)}" for breaker in agent.breakers]
    for rate in agent.rates:
        said += [
            f"{limit:,} {name}{_per(rate.per)}{_of(rate.of)}"
            for name, limit in (("requests", rate.requests), ("tokens", rate.tokens))
            if limit is not None
        ]
    if agent.concurrency is not None:
        limits = ((agent.concurrency.total, "at a time"), (agent.concurrency.per_tenant, "per tenant"))
        said += [f"{limit:,} {name}{_of(agent.concurrency.of)}" for limit, name in limits if limit is not None]
    if agent.fallback:
        said.append(f"fallback {len(agent.fallback)}")
    return said


def _of(name: str | None) -> str:
    return f" of {name}" if name else ""


def _per(seconds: float) -> str:
    return f"/{UNITS[seconds]}" if seconds in UNITS else f"/{seconds:g} s"


@agents_app.command(
    "agents",
    epilog=examples("celeriac agents", "CELERIAC_AGENTS=acme.agents celeriac agents --json"),
)
def list_agents(*, as_json: AsJson = False) -> None:
    """List the agents this installation knows. An agent's name is also its queue and its Celery task."""
    session.load()
    found = [
        {
            "name": name,
            "queue": name,
            "timeout": agent.timeout,
            "input": type_name(agent.input_type),
            "output": type_name(agent.output_type),
            "async": agent.is_async,
            "guards": guards_of(agent),
            "where": agent.where,
        }
        for name, agent in agents().items()
    ]
    if as_json:
        print_json(found)
    elif found:
        print_table(
            ["AGENT", "INPUT", "OUTPUT", "TIMEOUT", "GUARDS", "DEFINED IN"],
            [
                [
                    agent.name,
                    type_name(agent.input_type),
                    type_name(agent.output_type),
                    duration(agent.timeout),
                    ", ".join(guards_of(agent)),
                    agent.where,
                ]
                for agent in agents().values()
            ],
        )
    else:
        typer.echo(NOTHING)


@flows_app.command("flows", epilog=examples("celeriac flows", "celeriac flows --json"))
def list_flows(*, as_json: AsJson = False) -> None:
    """List the flows this installation knows, with their steps. `?` marks a gate, brackets have sources or members."""
    session.load()
    found = flows()
    if as_json:
        print_json([_describe(flow) for flow in found.values()])
    elif found:
        print_table(
            ["FLOW", "INPUT", "STEPS", "DEFINED IN"],
            [
                [
                    name,
                    _title(flow.input.json_schema()),
                    " → ".join(map(_said, flow.plan())),
                    flow.where,
                ]
                for name, flow in found.items()
            ],
        )
    else:
        typer.echo(NOTHING)


def _describe(flow: Any) -> dict[str, object]:  # noqa: ANN401
    return {
        "name": flow.name,
        "where": flow.where,
        "steps": [
            {"name": step.name, "agent": step.agent, "gated": step.gated, "sources": _sources(step)}
            for step in flow.plan()
        ],
        "input": flow.input.json_schema(),
        "output": flow.output.json_schema(),
    }


def _said(step: PlanStep) -> str:
    sources = ", ".join(_sources(step))
    return step.name + ("?" if step.gated else "") + (f" ({sources})" if sources else "")


def _sources(step: PlanStep) -> list[str]:
    members = [] if step.converses is None else [peer.name for peer in step.converses.members]
    return members if step.rules is None else [source.name for source in step.rules.sources]


def _title(schema: dict[str, Any]) -> str:
    """Return what a JSON schema calls its type."""
    return str(schema.get("title") or schema.get("type") or "any")
