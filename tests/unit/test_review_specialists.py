"""Each specialist finds what was planted for it, and takes files that are hard to read."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from benchmarks.by_hand import by_hand
from orchestrator.testing import fake_context
from tests.command_line import CHECKOUT
from tests.planted import KEY, plant, plant_odd
from workers.review import tooling
from workers.review.bandit import bandit
from workers.review.complexity import complexity
from workers.review.dead_code import dead_code
from workers.review.errors import ToolFailed, ToolMissing
from workers.review.licence import licence
from workers.review.models import MAX_MESSAGE, Files, Finding, Findings, Request
from workers.review.plan import plan
from workers.review.ruff import ruff
from workers.review.secrets import secrets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MODULES = {
    "ruff": "ruff",
    "bandit": "bandit",
    "complexity": "lizard",
    "dead_code": "vulture",
    "licence": "license_expression",
    "secrets": "detect_secrets",
}
DOERS: dict[str, Callable[[Files], Findings]] = {
    "ruff": lambda files: ruff(fake_context(), files),
    "bandit": bandit,
    "complexity": complexity,
    "dead_code": dead_code,
    "licence": licence,
    "secrets": secrets,
}


def do_all(folder: Path) -> list[Findings]:
    """Do every assignment of a folder's plan here."""
    return [DOERS[str(one.to)](one.input) for one in plan(Request(path=str(folder))).assignments]


@pytest.mark.parametrize(
    ("specialist", "expected"),
    [
        (
            "ruff",
            [
                ("F401", "low", "shop/orders.py", 2, 8),
                ("S602", "low", "shop/orders.py", 7, 12),
                ("F821", "high", "shop/orders.py", 11, 12),
                ("C901", "low", "shop/prices.py", 4, 5),
            ],
        ),
        (
            "bandit",
            [("B404", "low", "shop/orders.py", 3, 1), ("B602", "high", "shop/orders.py", 7, 12)],
        ),
        ("complexity", [("cyclomatic-complexity", "low", "shop/prices.py", 4, 0)]),
        (
            "dead_code",
            [("unused-import", "low", "shop/orders.py", 2, 0), ("unused-function", "info", "shop/orders.py", 10, 0)],
        ),
        ("licence", [("spdx-unknown", "medium", "shop/__init__.py", 1, 28)]),
        ("secrets", [("AWS Access Key", "high", "config.ini", 2, 0)]),
    ],
)
def test_each_specialist_finds_what_was_planted_for_it(
    tmp_path: Path, specialist: str, expected: list[tuple[object, ...]]
) -> None:
    # given
    plant(tmp_path)
    paths: tuple[str, ...] = ("config.ini", "shop/__init__.py", "shop/orders.py", "shop/prices.py")
    if specialist not in {"licence", "secrets"}:
        paths = paths[1:]

    # when
    found = DOERS[specialist](Files(root=str(tmp_path), language="python", paths=paths))

    # then
    assert [(one.rule, one.severity, one.path, one.line, one.column) for one in found.findings] == expected
    assert found.unchecked == ()
    assert found.checked == paths
    assert found.version[0].isdigit()
    assert all(KEY not in one.message for one in found.findings)


def test_findings_equal_those_of_the_tools_by_hand(tmp_path: Path) -> None:
    # given
    plant(tmp_path)

    # when
    done = do_all(tmp_path)

    # then
    found = [(one.tool, each.rule, each.path, each.line) for one in done for each in one.findings]
    assert sorted(found) == sorted(by_hand(tmp_path).elements())
    assert {tool for tool, *_ in found} == {
        *("ruff", "bandit", "lizard", "vulture", "license-expression", "bc-detect-secrets")
    }


def test_files_that_are_hard_to_read_are_named_and_the_others_checked(tmp_path: Path) -> None:
    # given
    plant_odd(tmp_path)

    # when
    done = do_all(tmp_path)

    # then
    unchecked = {(one.tool, each.path) for one in done for each in one.unchecked}
    assert unchecked == {
        ("ruff", "latin.py"),
        *(("bandit", f"{name}.py") for name in ("broken", "coding", "deep", "late_zero", "latin", "long")),
        *(("vulture", f"{name}.py") for name in ("broken", "coding", "deep", "late_zero", "latin", "long")),
        ("bc-detect-secrets", "latin.py"),
    }
    asserted = {each.path for one in done for each in one.findings if each.rule == "B101"}
    assert asserted == {"-rf.py", "a name with 'quotes' & ü.py", "bom.py", "crlf.py", "fine.py"}
    broken = {each.path for one in done for each in one.findings if each.rule == "invalid-syntax"}
    assert broken == {"broken.py", "late_zero.py"}
    for one in done:
        assert not set(one.checked) & {each.path for each in one.unchecked}


def test_a_file_that_went_away_is_named(tmp_path: Path) -> None:
    # given
    plant(tmp_path)
    files = Files(root=str(tmp_path), language="python", paths=("gone.py", "shop/orders.py"))

    for name, do in DOERS.items():
        # when
        found = do(files)

        # then
        assert [one.path for one in found.unchecked] == ["gone.py"], name
        assert found.checked == ("shop/orders.py",), name


@pytest.mark.parametrize(("specialist", "module"), MODULES.items())
def test_a_tool_that_is_not_installed_is_an_error_that_says_how_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, specialist: str, module: str
) -> None:
    # given
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)

    # when
    with pytest.raises(ToolMissing, match=r"pip install celeriac\[review\]"):
        DOERS[specialist](Files(root=str(plant(tmp_path)), language="python", paths=("shop/orders.py",)))


def test_ruff_that_ends_badly_is_an_error_with_what_it_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # given
    monkeypatch.setattr("workers.review.ruff.OPTIONS", ("check", "--no-such-option"))

    # when
    with pytest.raises(ToolFailed, match="no-such-option"):
        DOERS["ruff"](Files(root=str(plant(tmp_path)), language="python", paths=("shop/orders.py",)))


def test_a_worker_imports_no_tool_before_it_works() -> None:
    # when: in a fresh process
    code = f"import sys, workers.review; print(sorted(set(sys.modules) & {set(MODULES.values())!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=True)  # noqa: S603  our own code

    # then
    assert done.stdout.strip() == "[]"


@pytest.mark.usefixtures("quick_turns")
@pytest.mark.parametrize("specialist", [name for name in MODULES if name != "dead_code"])
def test_specialists_work_in_threads_beside_each_other(tmp_path: Path, specialist: str) -> None:
    # given
    plant(tmp_path)
    paths = ("config.ini", "shop/__init__.py", "shop/orders.py", "shop/prices.py")
    files = Files(root=str(tmp_path), language="python", paths=paths if specialist == "secrets" else paths[1:])
    expected = DOERS[specialist](files)
    found: list[Findings] = []

    # when
    threads = [threading.Thread(target=lambda: found.append(DOERS[specialist](files))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    # then
    assert found == [expected] * 6


@pytest.fixture
def quick_turns() -> Iterator[None]:
    """Let threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_more_findings_than_a_file_may_have_are_cut_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    # given
    monkeypatch.setattr(tooling, "MAX_FINDINGS", 2)
    files = Files(root="/nowhere", language="python", paths=("a.py", "b.py"))
    found = [
        Finding(rule="F1", severity="low", path=path, line=line, message="x")
        for path, lines in (("a.py", (3, 1, 2)), ("b.py", (1,)))
        for line in lines
    ]

    # when
    result = tooling.result("ruff", files, found)

    # then
    assert [(one.path, one.line) for one in result.findings] == [("a.py", 1), ("a.py", 2), ("b.py", 1)]
    assert [one.path for one in result.unchecked] == ["a.py"]
    assert "more than 2 findings" in result.unchecked[0].reason
    assert result.checked == files.paths


def test_a_message_is_one_bounded_line() -> None:
    assert tooling.message("two\n lines\udcff") == "two lines\\udcff"
    assert len(tooling.message("x" * 5000)) == MAX_MESSAGE
