"""Imports point one way, whatever the reason for the import: types, laziness and string names count too."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = "orchestrator"
TOP = ""  # the room of orchestrator/__init__.py

RANKS = {
    "errors": 0,
    "settings": 0,
    "messages": 0,
    "state": 1,
    "broker": 2,
    "resilience": 2,
    "board": 3,
    "conversation": 3,
    "agent": 3,
    "patterns": 4,
    "client": 5,
    "runtime": 6,
    "app": 7,
    "cli": 8,
}


def _below(rank: int) -> frozenset[str]:
    return frozenset(room for room, its_rank in RANKS.items() if its_rank < rank)


# A room imports lower ranks and itself. What departs from the ranks is written out.
MAY_IMPORT = {room: _below(rank) for room, rank in RANKS.items()} | {
    "settings": frozenset({"errors"}),
    "messages": frozenset({"errors"}),
    "agent": _below(1) | {"board", "conversation", "resilience"},
    "conversation": _below(3) | {"board"},
    "observability": _below(2),
    "app": _below(7) | {"observability"},
    "testing": _below(6),
    "cli": _below(8) | {TOP},
    TOP: _below(8) | {"testing"},
}


class Imported(NamedTuple):
    """One imported name; `name` is empty for `import module`."""

    line: int
    module: str
    name: str


def _imports(tree: ast.AST, package: tuple[str, ...]) -> Iterator[Imported]:
    for node in ast.walk(tree):
        match node:
            case ast.Import():
                for alias in node.names:
                    yield Imported(node.lineno, alias.name, "")
            case ast.ImportFrom():
                parents = package[: len(package) - node.level + 1] if node.level else ()
                module = ".".join([*parents, *([node.module] if node.module else [])])
                for alias in node.names:
                    yield Imported(node.lineno, module, alias.name)
            case ast.Call(
                func=ast.Name(id="import_module" | "__import__") | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(module)), *_],
            ):
                yield Imported(node.lineno, module, "")
            case _:
                pass


def _room_of(imported: Imported) -> str | None:
    """Return the room an import reaches, or None if it is not one of ours."""
    first, _, rest = imported.module.partition(".")
    if first != PACKAGE:
        return None
    if rest:
        return rest.partition(".")[0]
    return imported.name if imported.name in MAY_IMPORT else TOP


def _public_names(root: Path) -> frozenset[str]:
    for node in ast.parse((root / PACKAGE / "__init__.py").read_text()).body:
        match node:
            case ast.Assign(targets=[ast.Name(id="__all__")], value=value):
                return frozenset(ast.literal_eval(value))
            case _:
                pass
    return frozenset()


def _offences_in_package(root: Path) -> Iterator[str]:
    for path in sorted((root / PACKAGE).rglob("*.py")):
        inner = path.relative_to(root / PACKAGE).parts
        room = inner[0].removesuffix(".py").replace("__init__", TOP)
        where = path.relative_to(root).as_posix()
        if room not in MAY_IMPORT:
            yield f"{where}:1: the room {room!r} has no rank; give it one in {Path(__file__).name}"
            continue
        for imported in _imports(ast.parse(path.read_text()), (PACKAGE, *inner[:-1])):
            target = _room_of(imported)
            if target not in {None, room} and target not in MAY_IMPORT[room]:
                yield f"{where}:{imported.line}: {room or PACKAGE} may not import {target or PACKAGE}"


def _offences_in_workers(root: Path) -> Iterator[str]:
    public = _public_names(root)
    for path in sorted((root / "workers").rglob("*.py")):
        where = path.relative_to(root)
        package = where.parts[:-1]
        for line, module, name in _imports(ast.parse(path.read_text()), package):
            if module.partition(".")[0] == PACKAGE and not (module == PACKAGE and name in public):
                yield f"{where.as_posix()}:{line}: workers may import public names of {PACKAGE} only"


def find_offences(root: Path) -> list[str]:
    """Return one line `file:line: what` for each import below `root` that points the wrong way."""
    return [*_offences_in_package(root), *_offences_in_workers(root)]


def test_every_import_points_one_way() -> None:
    # given the package and the reference agents as they are
    assert (ROOT / PACKAGE / "__init__.py").is_file()

    # when every module's imports are walked
    offences = find_offences(ROOT)

    # then none points upwards or sideways
    assert not offences, "\n".join(["", *offences])


@pytest.mark.parametrize(
    ("path", "source", "offence"),
    [
        ("state/runs.py", "import orchestrator.client", "1: state may not import client"),
        (
            "state/runs.py",
            "import redis\n\nfrom orchestrator.agent import Agent",
            "3: state may not import agent",
        ),
        ("agent.py", "from orchestrator.state.keys import run_key", "1: agent may not import state"),
        ("agent.py", "from .patterns import Pipeline", "1: agent may not import patterns"),
        ("runtime/deep/a.py", "from ...app import app", "1: runtime may not import app"),
        ("client.py", "from orchestrator.runtime import step", "1: client may not import runtime"),
        ("client.py", "from orchestrator import Run", "1: client may not import orchestrator"),
        ("errors.py", "import orchestrator.settings as s", "1: errors may not import settings"),
        ("messages.py", "def f():\n    import orchestrator.settings", "2: messages may not import settings"),
        ("app.py", "from orchestrator.cli import main", "1: app may not import cli"),
        ("__init__.py", "from orchestrator import cli", "1: orchestrator may not import cli"),
        ("client.py", "from orchestrator import observability", "1: client may not import observability"),
        (
            "observability/logs.py",
            "from orchestrator.patterns import flows",
            "1: observability may not import patterns",
        ),
        ("testing.py", "from orchestrator.app import app", "1: testing may not import app"),
        (
            "patterns/pipeline.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from orchestrator.client import Run",
            "3: patterns may not import client",
        ),
        (
            "resilience/retry.py",
            "import importlib\nimportlib.import_module('orchestrator.app')",
            "2: resilience may not import app",
        ),
        ("extras/a.py", "", "1: the room 'extras' has no rank; give it one in test_imports.py"),
    ],
)
def test_a_planted_import_upwards_is_found_with_its_file_and_line(
    tmp_path: Path, path: str, source: str, offence: str
) -> None:
    # given a package with one import that points the wrong way
    planted = tmp_path / PACKAGE / path
    planted.parent.mkdir(parents=True)
    (tmp_path / PACKAGE / "__init__.py").write_text("")
    planted.write_text(source)

    # when the checker walks it
    offences = find_offences(tmp_path)

    # then it names the file, the line and the rooms
    assert offences == [f"{PACKAGE}/{path}:{offence}"]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("cli/runs.py", "from orchestrator import Client\nfrom orchestrator.state.embedded import start"),
        ("app.py", "from orchestrator.observability import logs\nfrom .client import Client"),
        (
            "state/runs.py",
            "from . import keys\nfrom .keys import run_key\nfrom orchestrator.messages import Event",
        ),
        ("testing.py", "from orchestrator import agent, client\nimport orchestrator_contrib"),
        ("observability/logs.py", "from orchestrator.state import runs"),
    ],
)
def test_imports_downwards_and_within_a_room_are_allowed(tmp_path: Path, path: str, source: str) -> None:
    # given a package whose imports point downwards, into their own room, or out of the package
    module = tmp_path / PACKAGE / path
    module.parent.mkdir(parents=True)
    (tmp_path / PACKAGE / "__init__.py").write_text("from orchestrator.client import Client\nimport orchestrator.app")
    module.write_text(source)

    # when the checker walks it, then it finds nothing
    assert find_offences(tmp_path) == []


def test_workers_see_public_names_only(tmp_path: Path) -> None:
    # given an application with one allowed import and five ways round the public names
    (tmp_path / PACKAGE).mkdir()
    (tmp_path / PACKAGE / "__init__.py").write_text("__all__ = ['agent', 'Context']")
    (tmp_path / "workers" / "shop").mkdir(parents=True)
    (tmp_path / "workers" / "shop" / "a.py").write_text(
        "from orchestrator import Context, agent\n"
        "from . import b\n"
        "from orchestrator import client\n"
        "from orchestrator.agent import Agent\n"
        "import orchestrator\n"
        "import orchestrator.state as s\n"
        "from orchestrator import *\n"
    )

    # when the checker walks it
    offences = find_offences(tmp_path)

    # then each of the five is reported
    assert offences == [
        f"workers/shop/a.py:{line}: workers may import public names of orchestrator only" for line in range(3, 8)
    ]
