"""`celeriac agents` and `celeriac flows`: what this installation knows."""

from __future__ import annotations

from typing import Any

import typer

from orchestrator.agent import agents
from orchestrator.cli import session
from orchestrator.cli.help import examples
from orchestrator.cli.options import command_app
from orchestrator.cli.output import AsJson, duration, print_json, print_table
from orchestrator.patterns import flows

agents_app = command_app()
flows_app = command_app()

NOTHING = "none: name the modules that define them in CELERIAC_AGENTS, or run in the folder that holds them"


def type_name(kind: object) -> str:
    """Return a type as a person writes it."""
    return kind.__name__ if isinstance(kind, type) else str(kind)


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
            "where": agent.where,
        }
        for name, agent in agents().items()
    ]
    if as_json:
        print_json(found)
    elif found:
        print_table(
            ["AGENT", "INPUT", "OUTPUT", "TIMEOUT", "DEFINED IN"],
            [
                [
                    agent.name,
                    type_name(agent.input_type),
                    type_name(agent.output_type),
                    duration(agent.timeout),
                    agent.where,
                ]
                for agent in agents().values()
            ],
        )
    else:
        typer.echo(NOTHING)


@flows_app.command("flows", epilog=examples("celeriac flows", "celeriac flows --json"))
def list_flows(*, as_json: AsJson = False) -> None:
    """List the flows this installation knows, with their steps. `?` marks a step with a gate behind it."""
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
                    " → ".join(step.name + ("?" if step.gated else "") for step in flow.plan()),
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
        "steps": [{"name": step.name, "agent": step.agent, "gated": step.gated} for step in flow.plan()],
        "input": flow.input.json_schema(),
        "output": flow.output.json_schema(),
    }


def _title(schema: dict[str, Any]) -> str:
    """Return what a JSON schema calls its type."""
    return str(schema.get("title") or schema.get("type") or "any")
