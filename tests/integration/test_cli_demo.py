"""`celeriac demo` from nothing to a report, with a small reference flow of our own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from orchestrator.cli.ports import any_free
from orchestrator.settings import Settings
from orchestrator.state import embedded
from tests.command_line import Shell

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.integration

MODULE: Final = """
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from orchestrator import Decision, Gate, Pipeline, Stage, agent

class Note(BaseModel):
    text: str

@agent("letters.shout")
def shout(note: Note) -> Note:
    if note.text == "bad":
        raise ValueError("cannot shout this")
    return Note(text=note.text.upper())

def sure(note: Note) -> Decision:
    return Decision.ask("really?") if note.text == "UNSURE" else Decision.ok()

letters = Pipeline("letters", [Stage(shout, gate=Gate(sure))])

class DEMO:
    flow = letters

    @staticmethod
    def inputs(path):
        return [Note(text=line) for line in (path or Path("letters.txt")).read_text().split()]

    @staticmethod
    def report(results, folder):
        if not results:
            return None
        folder.mkdir(parents=True)
        (folder / "report.txt").write_text(" ".join(sorted(note.text for note in results)))
        return folder / "report.txt"
"""


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """A checkout in small: a reference flow and its input; the default port of Flower is taken."""
    room = tmp_path / "workers" / "letters"
    room.mkdir(parents=True)
    (tmp_path / "workers" / "__init__.py").touch()
    (room / "__init__.py").write_text(MODULE)
    (tmp_path / "letters.txt").write_text("a b unsure c")
    env = {"CELERIAC_FLOWER_PORT": str(any_free("127.0.0.1")), "CELERIAC_CONCURRENCY": "1", "PYTHONWARNINGS": "ignore"}
    return Shell(tmp_path, env)


def test_demo_runs_everything_and_ends_by_itself_with_a_report(shell: Shell) -> None:
    # when
    result = shell.run("demo", "letters")

    # then
    assert result.code == 0, result
    assert "shout 3/4" in result.out
    assert "4 documents: 3 completed, 1 wait for a person" in result.out
    (report,) = (shell.folder / ".celeriac" / "demo").glob("*/report.txt")
    assert f"report  {report}" in result.out
    assert report.read_text() == "A B C"
    assert embedded.find(Settings(data_dir=shell.folder / ".celeriac")) is None

    assert "CELERIAC_AGENTS=workers.letters celeriac up  " in result.out

    # when: what the closing text says is typed
    (command,) = [line.strip() for line in result.out.splitlines() if "celeriac runs approve" in line]
    approved = shell.run(*command.split("'")[0].split()[1:], "fine")

    # then
    assert approved.code == 0, approved


def test_demo_with_failed_runs_ends_with_one_and_their_reasons(shell: Shell) -> None:
    # given
    (shell.folder / "other.txt").write_text("a bad")

    # when
    result = shell.run("demo", "letters", "--input", "other.txt", "--json")

    # then
    assert result.code == 1, result
    assert result.document["outcomes"] == {"completed": 1, "failed": 1}
    (reason,) = result.document["failures"]
    assert "cannot shout this" in reason
    assert "shout 1/2 (1 failed)" in result.err
    assert result.document["report"].endswith("report.txt")
    assert result.document["waiting"] == []


def test_demo_of_which_no_run_ends_well_names_no_report(shell: Shell) -> None:
    # given
    (shell.folder / "other.txt").write_text("bad")

    # when
    result = shell.run("demo", "letters", "--input", "other.txt")

    # then
    assert result.code == 1, result
    assert "report  none: no run has made one" in result.out
    assert "cannot shout this" in result.out
