"""The commands of the documentation exist, with the options it shows, and its links lead somewhere."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Any, Final

import pytest
import typer
from celery.bin.celery import celery as celery_command
from flower.options import default_options

from orchestrator import Settings
from orchestrator.cli.entry import app
from tests.docs.pages import PAGES, ROOT, blocks, name

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ASSIGNMENT: Final = re.compile(r"[A-Z_]+=.*")
TARGET: Final = re.compile(r"^([a-z]+):", re.MULTILINE)
LINK: Final = re.compile(r"\]\((?!https?://)([^)#\s]+)?(?:#([^)\s]+))?\)")
HEADING: Final = re.compile(r"^#+ (.+)$", re.MULTILINE)
STOPS: Final = {"|", ">", "&&", ";", "&"}
OF_THE_SYSTEM: Final = frozenset(
    "cat cd curl docker echo export git kill pip python redis-cli redis-server".split()  # noqa: SIM905  easier to read
)

every_page = pytest.mark.parametrize("page", [pytest.param(page, id=name(page)) for page in PAGES])


def commands(page: Path) -> Iterator[tuple[str, list[str]]]:
    """Give the commands of a page: where one stands, and its words."""
    for block in blocks(page):
        if block.language != "sh":
            continue
        text = block.text.replace("\\\n", " ")
        for number, line in enumerate(text.splitlines(), start=block.line + 1):
            lexer = shlex.shlex(line, posix=True, punctuation_chars="|>&;")
            lexer.whitespace_split = True
            words: list[str] = []
            for word in [*lexer, ";"]:
                if word not in STOPS:
                    words.append(word)
                    continue
                if words:
                    yield f"{name(page)}, about line {number}", words
                words = []


def settle(words: list[str], where: str) -> list[str]:
    """Take the assignments in front off, and check that they are of settings."""
    while words and ASSIGNMENT.fullmatch(words[0]):
        variable = words.pop(0).split("=")[0]
        if variable.startswith("CELERIAC_"):
            known = {*(field.upper() for field in Settings.model_fields), "CONFIG"}
            assert variable.removeprefix("CELERIAC_") in known, f"{where}: there is no setting for {variable}"
    return words


@every_page
def test_the_commands_of_a_page_exist_with_their_options(page: Path) -> None:
    for where, given in commands(page):
        words = settle(list(given), where)
        program, arguments = (words[0].removeprefix(".venv/bin/"), words[1:]) if words else ("", [])
        if program == "export":
            settle(arguments, where)
        elif program == "celeriac":
            check_ours(arguments, where)
        elif program == "celery":
            check_celery(arguments, where)
        elif program == "make":
            assert set(arguments) <= set(TARGET.findall((ROOT / "Makefile").read_text())), where
        else:
            assert program in {*OF_THE_SYSTEM, ""}, f"{where}: what is {program!r}?"


@pytest.mark.parametrize(
    "typed", ["runs lost", "submit hello --input a.json --prio high", "runs show", "runs list --status new"]
)
def test_a_command_of_ours_that_is_wrong_is_found(typed: str) -> None:
    with pytest.raises(AssertionError):
        check_ours(typed.split(), "here")


@pytest.mark.parametrize(
    "typed", ["-A acme worker", "-A orchestrator.app worker --queue a", "-A orchestrator.app flower --prt=1"]
)
def test_a_command_of_celerys_that_is_wrong_is_found(typed: str) -> None:
    with pytest.raises(AssertionError):
        check_celery(typed.split(), "here")


def check_ours(arguments: list[str], where: str) -> None:
    """Parse a command of ours, as it would be when it is typed; it is not called."""
    command: Any = typer.main.get_command(app)  # of typer's own copy of click, which it does not export
    context = None
    rest = arguments[: arguments.index("--")] if "--" in arguments else arguments
    while rest != ["--help"]:
        try:
            context = command.make_context(command.name, list(rest), parent=context)
            if not hasattr(command, "resolve_command"):
                return
            _, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])  # noqa: SLF001  where click keeps what is left
        except Exception as error:
            msg = f"{where}: celeriac {shlex.join(arguments)}: {error}"
            raise AssertionError(msg) from error


def check_celery(arguments: list[str], where: str) -> None:
    """Check a command of Celery's: our app, and options that its subcommand knows."""
    assert arguments[:2] == ["-A", "orchestrator.app"], where
    subcommand, *options = arguments[2:]
    given = {option.split("=")[0] for option in options if option.startswith("-")}
    if subcommand == "flower":
        known = {f"--{option.replace('-', '_')}" for option in default_options}
        assert {option.replace("-", "_").replace("__", "--", 1) for option in given} <= known, where
        return
    found = {option for parameter in celery_command.commands[subcommand].params for option in parameter.opts}
    assert given <= found, f"{where}: {sorted(given - found)}"


@every_page
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    for path, anchor in LINK.findall(page.read_text(encoding="utf-8")):
        target = page.parent / path if path else page
        assert target.exists(), f"{name(page)} links to {path}"
        if anchor:
            headings = {slug(text) for text in HEADING.findall(target.read_text(encoding="utf-8"))}
            assert anchor in headings, f"{name(page)} links to {path}#{anchor}"


def slug(heading: str) -> str:
    """Return the anchor that GitHub gives a heading."""
    kept = re.sub(r"[^\w\- ]", "", heading.lower())
    return kept.replace(" ", "-")


def test_the_index_links_every_page() -> None:
    linked = {path for path, _ in LINK.findall((ROOT / "docs" / "index.md").read_text(encoding="utf-8"))}
    assert {page.name for page in PAGES if page.parent.name == "docs"} - {"index.md"} <= linked
