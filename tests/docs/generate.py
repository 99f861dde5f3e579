"""
Write the pages that repeat what the code says: `python -m tests.docs.generate`.

`docs/settings.md` comes from the settings model and `config/settings.toml`, `docs/reference.md` from the docstrings of
the public names. A test compares both with what this makes of the code as it is.
"""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING, Any, Final, get_args

import typer
from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel

import orchestrator
from orchestrator import Settings, testing
from orchestrator.agent import Policies
from orchestrator.board.conditions import Field
from orchestrator.board.handle import Lock, Snapshot
from orchestrator.cli.entry import app
from orchestrator.conversation.ends import End
from orchestrator.conversation.mail import Contested
from orchestrator.conversation.transcript import Line
from orchestrator.messages import (
    BoardOutcome,
    DeadLetter,
    FailureKind,
    MemberOutcome,
    Otherwise,
    Priority,
    RunStatus,
    StepStatus,
)
from orchestrator.patterns.gate import Action, Default, OnFail, Then
from orchestrator.resilience.breaker import WhenOpen
from orchestrator.resilience.budget import LadderRung
from orchestrator.state.guards import BreakerState, BudgetState, Guards
from tests.docs.pages import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

SETTINGS: Final = ROOT / "docs" / "settings.md"
REFERENCE: Final = ROOT / "docs" / "reference.md"
WIDTH: Final = 100

GROUPS: Final = {
    "Agents": ("agent", "Agent", "Context"),
    "Policies": ("Retry", "Breaker", "RateLimit", "Concurrency", "Cached", "Constant", "Spend", "Budget"),
    "Flows": ("Pipeline", "Stage", "Gate", "Decision"),
    "Hierarchies": ("Hierarchy", "Specialist", "Join", "Plan", "Assignment", "Results", "Outcome"),
    "Blackboards": (
        "Blackboard",
        "Source",
        "Wake",
        "BoardResult",
        "Board",
        "Item",
        "Entry",
        "Count",
        "Condition",
        "Limits",
        "Reject",
        "LastWriter",
        "HighestConfidence",
        "Merge",
        "Arbiter",
        "Proposal",
    ),
    "Conversations": (
        "Conversation",
        "Peer",
        "Mail",
        "Answer",
        "Said",
        "Motion",
        "Returned",
        "Consensus",
        "MaxTurns",
        "Deadline",
        "Silence",
        "Concluded",
        "Spent",
        "ConversationLimits",
        "Vote",
        "RankedVote",
        "PriorityOrder",
        "Judge",
        "Dispute",
        "Ruling",
        "ConversationResult",
        "Resolution",
        "ContractNet",
        "Announcement",
        "Award",
        "Contract",
    ),
    "Runs": ("Client", "Run", "RunState", "StepState", "Event"),
    "Settings": ("Settings", "get_settings"),
    "Errors": (
        "OrchestratorError",
        "InvalidInput",
        "UnknownFlow",
        "PayloadTooLarge",
        "KeyConflict",
        "RunNotFound",
        "RunFailed",
        "RunCancelled",
        "AgentFailed",
        "RetryLater",
        "BoardError",
        "WriteConflict",
        "NoReply",
    ),
}
GIVEN: Final = (Snapshot, Lock, Field, End, Contested, Line, DeadLetter, Guards, BreakerState, BudgetState)
"""What methods of public names give, and need not be imported."""

INTERNAL: Final = {  # public to our other modules, of no use to a user
    "Agent.constant",
    "Agent.expects",
    "Agent.fallback_agents",
    "Agent.guards",
    "Agent.is_guarded",
    "Breaker.guard",
    "Cached.digest",
    "Blackboard.agent_of",
    "Blackboard.check",
    "Blackboard.dump",
    "Blackboard.gate_of",
    "Blackboard.inner",
    "Blackboard.is_watched",
    "Blackboard.load",
    "Blackboard.plan",
    "Blackboard.rule_of",
    "Blackboard.rules",
    "Blackboard.type_of",
    "Client.blackboard",
    "Client.conversation",
    "Conversation.agent_of",
    "Conversation.concludes",
    "Conversation.gate_of",
    "Conversation.inner",
    "Conversation.listeners",
    "Conversation.load",
    "Conversation.load_reply",
    "Conversation.names",
    "Conversation.plan",
    "Conversation.rules",
    "Conversation.taken_by",
    "Conversation.takes",
    "Conversation.takes_said",
    "End.as_rule",
    "End.leaves",
    "Client.check_deadline",
    "Condition.as_rule",
    "Condition.names",
    "Lock.give_up",
    "Lock.take",
    "WriteConflict.of",
    "Concurrency.guard",
    "Guards.admit",
    "Guards.ahead",
    "Guards.forget",
    "Guards.grant",
    "Guards.keep",
    "Guards.last_good",
    "Guards.is_granted",
    "Guards.settle",
    "Guards.settlement",
    "Guards.waiting",
    "Guards.withdraw",
    "RateLimit.guard",
    "Client.carry_on",
    "Client.start",
    "Gate.fallback_agent",
    "Hierarchy.agent_of",
    "Hierarchy.gate_of",
    "Hierarchy.inner",
    "Hierarchy.members",
    "Hierarchy.plan",
    "Hierarchy.terms",
    "Pipeline.agent_of",
    "Pipeline.inner",
    "Pipeline.gate_of",
    "Pipeline.plan",
    "RunState.from_hash",
    "Event.from_stream",
    "Settings.model_config",
    "Settings.settings_customise_sources",
}
LITERALS: Final = {  # explained under the group that uses them
    "Flows": {"Action": Action, "OnFail": OnFail, "Then": Then, "Default": Default},
    "Blackboards": {"BoardOutcome": BoardOutcome},
    "Hierarchies": {"Otherwise": Otherwise, "MemberOutcome": MemberOutcome},
    "Policies": {"WhenOpen": WhenOpen, "LadderRung": LadderRung},
    "Runs": {"RunStatus": RunStatus, "StepStatus": StepStatus, "Priority": Priority, "FailureKind": FailureKind},
}
CONSTRUCTED: Final = {
    "Client",
    "Gate",
    "Pipeline",
    "Stage",
    "Hierarchy",
    "Specialist",
    "Join",
    "Blackboard",
    "Source",
    "Entry",
    "Count",
    "Limits",
    "Merge",
    "Arbiter",
    *GROUPS["Policies"],
}  # others are made for the user
SECTION: Final = re.compile(r"(Args|Attributes|Returns|Raises|Source):")
INLINE: Final = {"Returns", "Source"}
ENTRY: Final = re.compile(r"([\w., ]+): (.*)")


class _Raw:
    """Text that `inspect` prints as it is."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def main() -> None:
    """Write the pages."""
    SETTINGS.write_text(settings_page(), encoding="utf-8")
    REFERENCE.write_text(reference_page(), encoding="utf-8")


def settings_page() -> str:
    """Return the page of the settings."""
    rows: list[str] = []
    comments: list[str] = []
    for line in (ROOT / "config" / "settings.toml").read_text(encoding="utf-8").splitlines():
        if heading := re.fullmatch(r"# --- (.+) ---", line):
            rows += ["", f"## {heading[1]}", "", "| Setting | Default | Range | What it is |", "|---|---|---|---|"]
        elif named := re.match(r"(?:# )?([a-z_]+) = ", line):
            rows.append(_setting(named[1], " ".join(comments)))
        elif line.startswith("# "):
            comments.append(line.removeprefix("# "))
            continue
        comments = []
    return "\n".join([*_SETTINGS_HEAD.splitlines(), *rows, ""])


_SETTINGS_HEAD: Final = """# Settings

Written by `python -m tests.docs.generate` from `orchestrator/settings.py` and `config/settings.toml`.

A setting is looked for in the environment as `CELERIAC_<NAME>` (`CELERIAC_REDIS_URL` for `redis_url`), then in the TOML
file that `CELERIAC_CONFIG` names or else in `config/settings.toml` below the current folder, then there is its default.
Durations are seconds, sizes are bytes. A list in the environment is separated by commas. An unknown name in the file,
or a value that does not fit, is an error that names it.

The file of this repository sets `agents` to the reference flow; every other line in it is commented out."""


def _setting(name: str, meaning: str) -> str:
    field = Settings.model_fields[name]
    bounds = {Ge: "≥", Gt: ">", Le: "≤", Lt: "<"}
    limits = [f"{bounds[type(item)]} {_number(item)}" for item in field.metadata if type(item) in bounds]
    choices = re.search(r"Literal\[(.+)\]", str(field.annotation))
    allowed = f"`{choices[1].replace(chr(39), '').replace(', ', '`, `')}`" if choices else ", ".join(limits)
    default = field.default
    shown = "" if default is None else "empty" if default == () else f"`{_plain(default)}`"
    return f"| `{name}` | {shown} | {allowed} | {meaning} |"


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return (
        f"{value:g}"
        if isinstance(value, float) and value < 1e5
        else f"{value:.0f}"
        if isinstance(value, float)
        else str(value)
    )


def _number(bound: Ge | Gt | Le | Lt) -> str:
    (value,) = vars(bound).values() if hasattr(bound, "__dict__") else (getattr(bound, bound.__slots__[0]),)
    return _plain(value)


def reference_page() -> str:
    """Return the page of the public names."""
    grouped = [name for names in GROUPS.values() for name in names]
    if sorted(grouped) != sorted(orchestrator.__all__):
        msg = f"GROUPS and orchestrator.__all__ differ in {set(grouped) ^ set(orchestrator.__all__)}"
        raise ValueError(msg)
    parts = [_REFERENCE_HEAD]
    for title, names in GROUPS.items():
        parts.append(f"## {title}")
        parts += [f"`{kind}` is one of {_choices(values)}." for kind, values in LITERALS.get(title, {}).items()]
        for name in names:
            parts += _errors(name) if title == "Errors" else _public(name, getattr(orchestrator, name))
            if name == "agent":
                parts += ["### Policies", _doc(Policies)]
    parts.append("## What these give")
    for kind in GIVEN:
        parts += _public(kind.__name__, kind)
    parts += [
        "## For your tests",
        *_public("fake_context", testing.fake_context),
        *_public("fake_board", testing.fake_board),
        "## Command line",
        *_command_line(),
    ]
    return "\n\n".join(parts) + "\n"


_REFERENCE_HEAD: Final = """# Reference

Written by `python -m tests.docs.generate` from the docstrings. All names come from `orchestrator`, but for
`fake_context` and `fake_board`, which are in `orchestrator.testing`, and what [these give](#what-these-give):

```python not-run
from orchestrator import Client, Context, Decision, Gate, Pipeline, Stage, agent
```"""


def _choices(literal: object) -> str:
    return ", ".join(f"`{value}`" for value in get_args(literal))


def _errors(name: str) -> Iterator[str]:
    kind = getattr(orchestrator, name)
    parent = kind.__mro__[1].__name__
    yield f"### {name}"
    yield f"{_doc(kind)}\n\nA kind of `{parent}`."


def _public(name: str, thing: Any) -> Iterator[str]:  # noqa: ANN401  a function or a class
    yield f"### {name}"
    if not isinstance(thing, type):
        yield _code(_signature(name, thing))
        yield _doc(thing)
        return
    if name in CONSTRUCTED:
        yield _code(_signature(name, thing))
    yield _doc(thing)
    if issubclass(thing, BaseModel) and name != "Settings":
        yield _fields(thing)
    for member, value in _members(thing):
        if isinstance(value, property):
            yield f"#### {name}.{member}"
            yield _code(f"{member}: {_annotation(value.fget)}")
            yield _doc(value)
        else:
            yield f"#### {name}.{member}"
            yield _code(_signature(member, value))
            yield _doc(value)


def _members(kind: type) -> Iterator[tuple[str, Any]]:
    for member, value in vars(kind).items():
        if member.startswith("_") or f"{kind.__name__}.{member}" in INTERNAL:
            continue
        if isinstance(value, classmethod | staticmethod):
            yield member, value.__func__
        elif isinstance(value, property) or inspect.isfunction(value):
            yield member, value


def _fields(model: type[BaseModel]) -> str:
    declared: dict[str, str] = {}
    for kind in reversed(model.__mro__):
        declared |= {key: str(value) for key, value in vars(kind).get("__annotations__", {}).items()}
    rows = [f"| `{name}` | `{_type(declared[name])}` |" for name in model.model_fields]
    return "\n".join(["| Field | Type |", "|---|---|", *rows])


def _type(text: str) -> str:
    inner = re.fullmatch(r"Annotated\[(.+), [^,]+\]", text)
    return (inner[1] if inner else text).replace("|", "\\|")


def _signature(name: str, thing: Callable[..., Any]) -> str:
    found = inspect.signature(thing)
    parameters, starred = [], False
    for parameter in found.parameters.values():
        if parameter.name in {"self", "cls"} or parameter.name.startswith("_"):
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not starred:
            parameters.append("*")
            starred = True
        parameters.append(str(_readable(parameter)))
    gives = "" if isinstance(thing, type) else f" -> {found.return_annotation}"
    short = f"{name}({', '.join(parameters)}){gives}"
    if len(short) <= WIDTH:
        return short
    return "\n".join([f"{name}(", *(f"    {parameter}," for parameter in parameters), f"){gives}"])


def _readable(parameter: inspect.Parameter) -> inspect.Parameter:
    if parameter.default is not parameter.empty:
        parameter = parameter.replace(default=_Raw(_default(parameter.default)))
    if isinstance(parameter.annotation, str):
        return parameter.replace(annotation=_Raw(parameter.annotation))
    return parameter


def _default(value: object) -> str:
    """Return a default as it is written; one that is only told from what is given has no other name."""
    if isinstance(value, tuple) and value:
        return f"({', '.join(map(_default, value))}{',' * (len(value) == 1)})"
    shown = repr(value)
    return str(getattr(value, "__name__", "...")) if shown.startswith("<") else shown


def _annotation(function: Callable[..., Any] | None) -> str:
    return str(inspect.signature(function).return_annotation) if function else ""


def _code(text: str) -> str:
    return f"```python not-run\n{text}\n```"


def _doc(thing: object) -> str:
    text = inspect.getdoc(thing)
    if not text:
        msg = f"{thing!r} has no docstring"
        raise ValueError(msg)
    return "\n".join(_formatted(text.splitlines()))


def _formatted(lines: Iterable[str]) -> Iterator[str]:
    """Turn a docstring's sections into lists."""
    section = ""
    for line in lines:
        if found := SECTION.fullmatch(line):
            section = found[1]
            if section not in INLINE:
                yield f"{section}:"
                yield ""
        elif section and line and not line.startswith(" "):
            section = ""
            yield line
        elif section in INLINE:
            yield f"{section}: {line.strip()}" if line else ""
            section = ""
        elif section and (entry := ENTRY.fullmatch(line.removeprefix("    "))):
            names = ", ".join(f"`{one.strip()}`" for one in entry[1].split(","))
            yield f"- {names}: {entry[2]}"
        else:
            yield f"  {line.strip()}" if section and line else line.strip()


def _command_line() -> Iterator[str]:
    root: Any = typer.main.get_command(app)  # of typer's own copy of click
    rows = []
    for name, command in root.commands.items():
        subcommands = getattr(command, "commands", {})
        if not subcommands:
            rows.append((f"celeriac {name}", command))
        rows += [(f"celeriac {name} {inner}", found) for inner, found in subcommands.items()]
    yield "`--help` behind any of them tells its options. Every command that prints facts takes `--json`."
    table = [f"| `{words}` | {command.get_short_help_str(limit=200)} |" for words, command in rows]
    yield "\n".join(["| Command | What it does |", "|---|---|", *table])


if __name__ == "__main__":
    main()
