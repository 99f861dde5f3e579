"""Each specialist finds what was planted for it, and takes files that are hard to read."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from detect_secrets.settings import default_settings, get_filters

from benchmarks.by_hand import by_hand
from orchestrator.testing import fake_context
from tests.command_line import CHECKOUT
from tests.planted import BRANCHES, KEY, SOURCES, plant, plant_odd, plant_secrets
from tests.servers import wait_until
from workers.review import tooling
from workers.review.bandit import QUOTING as QUOTED_BY_BANDIT
from workers.review.bandit import bandit
from workers.review.complexity import complexity
from workers.review.dead_code import dead_code
from workers.review.errors import ToolFailed, ToolMissing
from workers.review.licence import licence
from workers.review.models import MAX_MESSAGE, Files, Finding, Findings, Request
from workers.review.plan import plan
from workers.review.ruff import QUOTING as QUOTED_BY_RUFF
from workers.review.ruff import ruff
from workers.review.secrets import BY_NAME, secrets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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


@pytest.mark.parametrize("encoding", ["rot13", "hex", "idna", "undefined"])
def test_a_file_in_an_encoding_that_is_none_of_text_is_named_and_the_others_checked(
    tmp_path: Path, encoding: str
) -> None:
    # given
    plant(tmp_path)
    (tmp_path / "odd.py").write_text(
        f"# -*- coding: {encoding} -*-\nx = '\\udcff..\\x'\n{'é' * 99}\n", encoding="utf-8"
    )
    files = Files(root=str(tmp_path), language="python", paths=("odd.py", "shop/orders.py"))

    for name in ("bandit", "dead_code"):
        # when
        found = DOERS[name](files)

        # then
        assert [one.path for one in found.unchecked] == ["odd.py"], name
        assert found.checked == ("shop/orders.py",), name
        assert {one.path for one in found.findings} == {"shop/orders.py"}, name


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


@pytest.mark.parametrize("others", [("shop/orders.py", "shop/prices.py"), ()])
def test_a_file_that_ends_ruff_is_named_and_the_others_of_its_batch_checked(
    tmp_path: Path, others: tuple[str, ...]
) -> None:
    # given: a chain that is too long for its stack
    plant(tmp_path)
    (tmp_path / "chain.py").write_text(f"x = a{'.b' * 30_000}\n")

    # when
    found = DOERS["ruff"](Files(root=str(tmp_path), language="python", paths=("chain.py", *others)))

    # then
    assert [(one.path, one.reason) for one in found.unchecked] == [("chain.py", "ruff: ended by SIGABRT")]
    assert found.checked == others
    assert {one.path for one in found.findings} == set(others)


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
    assert tooling.message("two\n lines\udcff\x1b\u202e") == r"two lines\udcff\x1b\u202e"
    assert len(tooling.message("x" * 5000)) == MAX_MESSAGE


def test_no_specialist_quotes_a_secret(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    # given
    plant_secrets(tmp_path)

    # when
    done = do_all(tmp_path)

    # then: neither what goes to Redis nor the worker's log
    for one in done:
        assert KEY.casefold() not in one.model_dump_json().casefold(), one.tool
    assert KEY not in "".join(capfd.readouterr())
    # and: the tools have seen each of those places
    rules = {each.rule for one in done for each in one.findings}
    assert {*QUOTED_BY_BANDIT, *QUOTED_BY_RUFF} <= rules
    assert {"invalid-syntax", "F821", "F405", "spdx-unknown", "spdx-invalid", "cyclomatic-complexity"} <= rules
    assert sum(each.rule == "cyclomatic-complexity" for one in done for each in one.findings) == 2
    assert {each.path for one in done for each in one.unchecked} >= {"Cargo.toml"}


PASSED_OVER = ("poetry.lock", "package-lock.json", "go.sum", "api/swagger-ui.html", "logo.svg", "site.css", "x.mo")


def test_files_that_detect_secrets_passes_over_are_told_as_not_checked(tmp_path: Path) -> None:
    # given: a folder whose own name is one that it passes over
    folder = plant(tmp_path / "swagger.lock")
    (folder / "api").mkdir()
    for name in PASSED_OVER:
        (folder / name).write_text(f"key = {KEY}\n")
    (folder / "long.txt").write_text(f"key = {KEY}\n{'x ' * 60_000}{KEY}\n")
    paths = ("config.ini", "long.txt", *PASSED_OVER)

    # when
    found = secrets(Files(root=str(folder), language="text", paths=paths))

    # then
    reasons = {one.path: one.reason for one in found.unchecked}
    assert set(reasons) == {*PASSED_OVER, "long.txt"}
    assert reasons["poetry.lock"] == "a lock file, which detect-secrets passes over"
    assert reasons["logo.svg"] == "of a kind that detect-secrets passes over"
    assert reasons["api/swagger-ui.html"] == "of Swagger, which detect-secrets passes over"
    assert reasons["long.txt"] == "lines of more than 100,000 characters"
    assert found.checked == ("config.ini",)
    assert [(one.path, one.line) for one in found.findings] == [("config.ini", 2), ("long.txt", 1)]


def test_every_filter_of_detect_secrets_for_names_is_known() -> None:
    # given: those of its default filters that look at nothing but a file's name
    with default_settings():
        by_name = {path.path.rpartition(".")[2] for path in get_filters() if path.injectable_variables == {"filename"}}

    # then: what another version adds is not passed over in silence
    assert by_name == {*BY_NAME, "is_invalid_file"}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1"])
def test_columns_count_characters(tmp_path: Path, encoding: str) -> None:
    # given: two bytes of UTF-8 for each é; a call over several lines, whose option is in the third
    text = (
        "# -*- coding: latin-1 -*-\n"
        "é = 'éééé'; import pickle\n"
        "subprocess.call(\n"
        "    'é',\n"
        "    shell=True)\n"
        "é = 'éé'; assert é\n"
    )
    (tmp_path / "a.py").write_bytes(text.replace("latin-1", encoding.removesuffix("-sig")).encode(encoding))
    (tmp_path / "b.txt").write_bytes("/* SPDX-License-Identifier: Mine */ é\n".encode(encoding))

    # when
    found = bandit(Files(root=str(tmp_path), language="python", paths=("a.py",)))
    (tag,) = licence(Files(root=str(tmp_path), language="text", paths=("b.txt",))).findings

    # then: none where bandit tells the column of another line
    assert [(one.rule, one.line, one.column) for one in found.findings] == [
        ("B403", 2, 13),
        ("B607", 3, 1),
        ("B602", 5, 0),
        ("B101", 6, 11),
    ]
    assert (tag.line, tag.column) == (1, 29)


def test_the_column_of_a_character_that_turns_text_around_is_its_own(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("é = 'ééé\u202e'\n", encoding="utf-8")
    (one,) = bandit(Files(root=str(tmp_path), language="python", paths=("a.py",))).findings
    assert (one.rule, one.line, one.column) == ("B613", 1, 9)


def test_a_line_that_takes_too_long_leaves_its_file_unchecked_and_the_worker_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given: half an hour of work for the tool's patterns, and another file with a long line
    monkeypatch.setattr("workers.review.secrets.WITHIN", 5.0)
    (tmp_path / "hostile.txt").write_text("password" * 12_000)
    (tmp_path / "bundle.json").write_text(f'{{"key": "{KEY}", "rest": "{"x " * 2000}"}}\n')
    (tmp_path / "short.txt").write_text(f"key = {KEY}\n")
    # and: what the tool would import, if it were started there as `python -m`
    for module in ("detect_secrets", "requests", "json"):
        (tmp_path / f"{module}.py").write_text("open('was-run', 'w').close()\n")

    # when
    found = secrets(Files(root=str(tmp_path), language="text", paths=("bundle.json", "hostile.txt", "short.txt")))

    # then
    assert [(one.path, one.line, one.rule) for one in found.findings] == [
        ("bundle.json", 1, "AWS Access Key"),
        ("short.txt", 1, "AWS Access Key"),
    ]
    (one,) = found.unchecked
    assert one.path == "hostile.txt"
    assert one.reason == "detect-secrets has no result for its lines of over 1,000 characters within 5 s"
    assert found.checked == ("bundle.json", "short.txt")
    assert not (tmp_path / "was-run").exists()


HOSTILE = {
    # Of what begins and does not end, lizard tries every part: with the square of the length, and with its power.
    "square.py": '"\\' * 60_000,
    "power.py": '"""' + r"\a" * 40,
    "power.java": f"class A {{ List<? {'extends' * 60}-> a; }}\n",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_that_takes_lizard_too_long_is_named_and_the_worker_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    # given
    monkeypatch.setattr("workers.review.complexity.WITHIN", 6.0)
    plant(tmp_path)
    (tmp_path / name).write_text(HOSTILE[name])
    # and: what the tool would import, if it were started there as `python -m`
    for module in ("lizard", "json", "pathspec"):
        (tmp_path / f"{module}.py").write_text("open('was-run', 'w').close()\n")
    paths = (name, "shop/orders.py", "shop/prices.py")
    found: list[Findings] = []
    one = threading.Thread(target=lambda: found.append(complexity(Files(root=str(tmp_path), language="", paths=paths))))

    # when
    one.start()
    longest = 0.0
    while one.is_alive():
        before = time.monotonic()
        one.join(0.01)
        longest = max(longest, time.monotonic() - before)

    # then
    assert longest < 2.0
    assert [(each.path, each.reason[:16]) for each in found[0].unchecked] == [(name, "lizard: not done")]
    assert found[0].checked == paths[1:]
    assert [each.path for each in found[0].findings] == ["shop/prices.py"]
    assert not (tmp_path / "was-run").exists()


def test_a_file_that_takes_bandit_too_long_is_named_and_the_others_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given: two minutes of work for it; and what it reads by a process, yet in time
    monkeypatch.setattr("workers.review.bandit.WITHIN", 8.0)
    plant(tmp_path)
    chain = "'+'".join(["insert into " * 50] * 80)
    (tmp_path / "hostile.py").write_text(f"x = '{chain}'\n")
    (tmp_path / "long.py").write_text(f"def long():\n    x = '{'x' * 5000}'\n    é = 'é'; assert é\n", encoding="utf-8")
    (tmp_path / "bandit.py").write_text("open('was-run', 'w').close()\n")
    paths = ("hostile.py", "long.py", "shop/orders.py")

    # when
    found = bandit(Files(root=str(tmp_path), language="python", paths=paths))

    # then
    assert [(one.path, one.reason[:16]) for one in found.unchecked] == [("hostile.py", "bandit: not done")]
    assert found.checked == paths[1:]
    assert [(one.rule, one.path, one.line, one.column) for one in found.findings] == [
        ("B101", "long.py", 3, 14),
        ("B404", "shop/orders.py", 3, 1),
        ("B602", "shop/orders.py", 7, 12),
    ]
    assert not (tmp_path / "was-run").exists()


def test_a_file_with_which_a_test_of_bandits_fails_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    # given: a chain of strings that is longer than its recursion may be deep
    plant(tmp_path)
    (tmp_path / "chain.py").write_text("x = '" + "a' + '" * 700 + "'\n")

    # when
    found = bandit(Files(root=str(tmp_path), language="python", paths=("chain.py", "shop/orders.py")))

    # then
    assert [(one.path, one.reason) for one in found.unchecked] == [("chain.py", "exception while scanning file")]
    assert found.checked == ("shop/orders.py",)
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize(
    ("comment", "reason"),
    [
        ("this is not GENERATED CODE at all", "a comment, GENERATED CODE, ends lizard's reading"),
        ("lizard forgives", "a comment, lizard forgives, has lizard pass over a function"),
        ("lizard forgive global", "a comment, lizard forgives, has lizard pass over a function"),
    ],
)
def test_a_file_whose_comments_lizard_heeds_is_named(tmp_path: Path, comment: str, reason: str) -> None:
    # given: such a comment in Python and in JavaScript; and as a string, which it does not heed
    function = f"def price(value):\n{BRANCHES}"
    (tmp_path / "a.py").write_text(f"#{comment}\n{function}")
    (tmp_path / "b.js").write_text(f"/*#{comment} */\n{SOURCES['web/cart.js']}")
    (tmp_path / "c.py").write_text(f"x = '#{comment}'\n{function}")

    # when
    found = complexity(Files(root=str(tmp_path), language="", paths=("a.py", "b.js", "c.py")))

    # then
    assert [(one.path, one.reason) for one in found.unchecked] == [("a.py", reason), ("b.js", reason)]
    assert found.checked == ("c.py",)
    assert "c.py" in {one.path for one in found.findings}


def test_what_a_killed_worker_leaves_behind_ends_by_itself(tmp_path: Path) -> None:
    # given: a tool that holds its interpreter, and the process that has started it
    (tmp_path / "tool.py").write_text(
        "import os, re\nopen('pid.new', 'w').write(str(os.getpid()))\nos.rename('pid.new', 'pid')\n"
        "re.match('(a|aa)+$', 'a' * 99 + 'b')\n"
    )
    code = (
        f"from workers.review.apart import run_python; run_python('x', ['tool.py'], root={str(tmp_path)!r}, within=3)"
    )
    worker = subprocess.Popen([sys.executable, "-c", code], cwd=CHECKOUT)  # noqa: S603  our own code
    wait_until((tmp_path / "pid").exists, 20, "the tool has started")
    pid = int((tmp_path / "pid").read_text())

    # when
    worker.kill()
    worker.wait()

    # then
    wait_until(lambda: is_gone(pid), 20, "the tool has ended")


def is_gone(pid: int) -> bool:
    """Tell whether a process has ended; where nobody asks for how, it stays as a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
