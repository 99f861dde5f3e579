"""What the synthesiser of the review flow makes of findings, and of what is missing."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pytest

from orchestrator import Outcome, Results
from orchestrator.testing import fake_context
from tests.planted import SOURCES, plant
from tests.unit.test_review_specialists import DOERS
from workers.review.documents import SHOWN
from workers.review.errors import ToolMissing
from workers.review.merge import matter, merge
from workers.review.models import Finding, Findings, Report, Request, Severity
from workers.review.plan import plan
from workers.review.report import report
from workers.review.sarif import plain
from workers.review.tooling import message
from workers.visible import code, escape

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.messages import MemberOutcome


def finding(rule: str, line: int = 1, *, path: str = "a.py", severity: Severity = "low", column: int = 0) -> Finding:
    """Return a finding in a.py."""
    return Finding(rule=rule, severity=severity, path=path, line=line, column=column, message=f"{rule} it is")


def outcomes(
    folder: Path, *, broken: str = "", status: MemberOutcome = "failed", reason: str = ""
) -> list[Outcome[Findings]]:
    """Do every assignment of a folder's plan, but those of one specialist."""
    return [
        Outcome[Findings](
            worker=str(one.to),
            status="ok" if one.to != broken else status,
            value=DOERS[str(one.to)](one.input) if one.to != broken else None,
            reason=reason if one.to == broken else "",
            label=one.label,
        )
        for one in plan(Request(path=str(folder))).assignments
    ]


def write(task: Request, done: list[Outcome[Findings]]) -> Report:
    """Let the synthesiser write a report."""
    return report(fake_context(), Results[Request, Findings](task=task, outcomes=tuple(done)))


def written(made: Report, form: str) -> str:
    """Return one of the files."""
    with open(made.written[form], encoding="utf-8") as file:  # noqa: PTH123  a path in words
        return file.read()


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (("ruff", "S101"), ("bandit", "B101"), True),
        (("ruff", "S101"), ("bandit", "B102"), False),
        (("ruff", "F401"), ("vulture", "unused-import"), True),
        (("ruff", "F841"), ("vulture", "unused-variable"), True),
        (("ruff", "C901"), ("lizard", "cyclomatic-complexity"), True),
        (("ruff", "S105"), ("bc-detect-secrets", "Secret Keyword"), True),
        (("bandit", "B107"), ("bc-detect-secrets", "Secret Keyword"), True),
        (("bandit", "S101"), ("bandit", "B101"), False),
        (("ruff", "B101"), ("bandit", "B101"), False),
    ],
)
def test_rules_of_two_tools_are_the_same_matter_or_not(
    one: tuple[str, str], other: tuple[str, str], *, same: bool
) -> None:
    assert (matter(*one) == matter(*other)) is same


def test_what_two_tools_find_in_one_place_is_one_issue_with_the_worse_severity() -> None:
    # when
    (issue,) = merge([("ruff", finding("S602", 7, column=12)), ("bandit", finding("B602", 7, severity="high"))])

    # then: bandit says more of it, and only ruff knows the column
    assert [(source.tool, source.rule) for source in issue.sources] == [("bandit", "B602"), ("ruff", "S602")]
    assert (issue.severity, issue.line, issue.column, issue.message) == ("high", 7, 12, "B602 it is")


def test_other_lines_files_and_matters_are_other_issues() -> None:
    found = [
        ("ruff", finding("S602", 7)),
        ("bandit", finding("B602", 8)),
        ("bandit", finding("B602", 7, path="b.py")),
        ("bandit", finding("B603", 7)),
    ]
    assert len(merge(found)) == 4


def test_two_findings_of_a_tool_in_a_line_are_two_issues() -> None:
    # given: import os, re
    found = [
        ("ruff", finding("F401", column=8)),
        ("ruff", finding("F401", column=12)),
        ("vulture", finding("unused-import")),
        ("vulture", finding("unused-import")),
    ]

    # when, then: each of both tools
    assert [[source.tool for source in issue.sources] for issue in merge(found)] == [["vulture", "ruff"]] * 2


def test_two_kinds_of_secret_in_a_line_are_one_secret() -> None:
    found = [
        ("bc-detect-secrets", finding("Secret Keyword")),
        ("bc-detect-secrets", finding("Hex High Entropy String")),
    ]
    assert len(merge(found)) == 1


def test_the_worst_comes_first_then_the_rare_then_by_place() -> None:
    # given
    found = [
        *(("bandit", finding("B101", line, path="a.py")) for line in range(1, 6)),
        ("bandit", finding("B110", 9, path="z.py")),
        ("ruff", finding("F821", 3, path="z.py", severity="high")),
        ("vulture", finding("unused-function", 1, path="a.py", severity="info")),
        ("ruff", finding("B904", 2, path="b.py", severity="medium")),
        ("ruff", finding("B904", 1, path="b.py", severity="medium")),
    ]

    # when
    for seed in range(5):
        random.Random(seed).shuffle(found)  # noqa: S311  the same each time
        issues = merge(found)

        # then: in whatever order they came
        assert [(issue.sources[0].rule, issue.line) for issue in issues] == [
            ("F821", 3),
            ("B904", 1),
            ("B904", 2),
            ("B110", 9),
            *(("B101", line) for line in range(1, 6)),
            ("unused-function", 1),
        ]


def test_a_whole_review_is_written_in_three_formats_and_is_the_same_each_time(tmp_path: Path) -> None:
    # given
    folder = plant(tmp_path / "folder")
    task = Request(path=str(folder), out=str(tmp_path / "out"))
    done = outcomes(folder)

    # when
    made = write(task, done)
    before = {form: written(made, form) for form in made.written}
    again = write(task, done[::-1])

    # then
    assert again == made
    assert {form: written(made, form) for form in made.written} == before
    assert made.unchecked == ()
    assert (made.files, made.assignments, made.total) == (len(SOURCES), len(done), len(made.issues))
    assert made.duplicates == 3  # B602 and S602, the unused import, the complexity
    assert made.severities == {"high": 3, "medium": 1, "low": 5, "info": 1}
    assert sum(made.severities.values()) == made.total
    assert sum(made.tools.values()) == made.total + made.duplicates
    document = json.loads(before["json"])
    assert len(document["issues"]) == made.total
    assert document["unchecked"] == []
    assert "Every file was checked by each specialist" in before["markdown"]
    assert "| `shop/orders.py:7` | " in before["markdown"]


@pytest.mark.parametrize("status", ["failed", "late"])
def test_a_specialist_without_result_leaves_a_report_that_says_what_was_not_checked(
    tmp_path: Path, status: MemberOutcome
) -> None:
    # given
    folder = plant(tmp_path / "folder")
    done = outcomes(folder, broken="bandit", status=status, reason=str(ToolMissing("bandit")))

    # when
    made = write(Request(path=str(folder), out=str(tmp_path / "out")), done)

    # then: all the others' findings, and the files that bandit has not seen
    (gap,) = made.unchecked
    assert gap.specialist == "bandit"
    assert gap.count == 3
    assert gap.paths == ("shop/__init__.py", "shop/orders.py", "shop/prices.py")
    assert gap.reason.startswith(f"1 of 1 assignments without a result: {status}: bandit is not installed")
    assert "bandit" not in made.tools
    assert made.total > 0
    assert "- **bandit**, 3 files, " in written(made, "markdown")
    assert json.loads(written(made, "json"))["unchecked"][0]["specialist"] == "bandit"
    coverage = json.loads(written(made, "sarif"))["runs"][-1]["invocations"][0]
    assert coverage["executionSuccessful"] is False
    assert coverage["toolExecutionNotifications"][0]["message"]["text"].startswith("bandit: 3 files not checked: ")


def test_with_no_result_at_all_there_is_still_a_report(tmp_path: Path) -> None:
    # given
    folder = plant(tmp_path / "folder")

    # when
    made = write(Request(path=str(folder), out=str(tmp_path / "out")), [])

    # then
    assert made.total == 0
    assert {gap.specialist for gap in made.unchecked} == set(DOERS)


def test_a_folder_that_is_gone_when_the_report_is_written_is_said(tmp_path: Path) -> None:
    # when
    made = write(Request(path=str(tmp_path / "gone"), out=str(tmp_path / "out")), [])

    # then
    (gap,) = made.unchecked
    assert gap.reason.startswith("gone while it was reviewed")
    assert "gone" in written(made, "markdown")


def test_two_runs_with_the_same_folder_for_reports_do_not_mix(tmp_path: Path) -> None:
    # given
    task = Request(path=str(plant(tmp_path / "folder")), out=str(tmp_path / "out"))
    done = Results[Request, Findings](task=task, outcomes=tuple(outcomes(tmp_path / "folder")))
    nothing = Results[Request, Findings](task=task, outcomes=())

    # when
    one = report(replace(fake_context(), run_id="one"), done)
    other = report(replace(fake_context(), run_id="other"), nothing)

    # then
    assert len(json.loads(written(one, "json"))["issues"]) == one.total > 0
    assert json.loads(written(other, "json"))["issues"] == []
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["one", "other"]


def test_without_a_folder_for_it_the_report_goes_to_the_data_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given
    monkeypatch.setattr("workers.review.report.get_settings", lambda: type("S", (), {"data_dir": tmp_path / "data"}))

    # when
    made = write(Request(path=str(plant(tmp_path / "folder"))), [])

    # then
    assert made.written["sarif"] == str(tmp_path / "data" / "review" / fake_context().run_id / "report.sarif")


def test_what_the_run_returns_is_bounded_and_the_files_have_all(tmp_path: Path) -> None:
    # given
    folder = plant(tmp_path / "folder")
    found = tuple(finding("F401", line) for line in range(1, 1001))
    one = Outcome[Findings](
        worker="ruff", status="ok", value=Findings(tool="ruff", version="1", checked=(), findings=found)
    )

    # when
    made = write(Request(path=str(folder), out=str(tmp_path / "out")), [one])

    # then
    assert made.total == 1000
    assert len(made.issues) == 100
    assert len(json.loads(written(made, "json"))["issues"]) == 1000
    assert written(made, "markdown").count("| `a.py:") == SHOWN
    assert f"{1000 - SHOWN} more issues in report.json" in written(made, "markdown")


def test_names_and_messages_cannot_break_the_markdown() -> None:
    assert escape("a|b\n# <b>*x*</b> `c` [d](e)") == r"a\|b \# \<b\>\*x\*\</b\> \`c\` \[d\](e)"
    assert escape("https://x.y www.x.y a@b.c $x$: y") == r"https\://x.y www\.x.y a\@b.c \$x\$: y"
    assert code("a|b `c` <d> [e](f) https://g \x1b\u202e") == r"`a\x7cb \x60c\x60 <d> [e](f) https://g \x1b\u202e`"


# A title for the terminal's window, its bell, a reversal of what follows, a separator of lines, one beyond 16 bits.
HOSTILE = "\x1b]0;own\x07\u202egnp\u2028\x7f\U000e0041{0} [x](y).py"


def test_no_file_of_a_report_holds_characters_that_are_not_to_be_seen(tmp_path: Path) -> None:
    # given: a name, and a tool that quotes it
    folder = plant(tmp_path / "folder")
    (folder / HOSTILE).write_text("def f(:\n")
    one = Finding(rule="F1", severity="low", path=HOSTILE, line=1, message=message(f"in {HOSTILE}"))
    done = [
        Outcome[Findings](
            worker="ruff",
            status="ok",
            value=Findings(tool="ruff", version="1", checked=(), findings=(one,)),
        ),
        Outcome[Findings](worker="bandit", status="failed", reason=f"\x1b[2J {HOSTILE}", label="x"),
    ]

    # when
    made = write(Request(path=str(folder), out=str(tmp_path / "out")), done)

    # then: every file can be shown as it is
    for form in made.written:
        text = written(made, form)
        assert text.replace("\n", "").isprintable(), form
        assert r"\u202egnp" in text, form
    # and: programs have the name as it is, and messages for people with escapes
    (issue,) = json.loads(written(made, "json"))["issues"]
    assert issue["path"] == HOSTILE
    assert issue["message"] == r"in \x1b]0;own\x07\u202egnp \x7f\U000e0041{0} [x](y).py"
    # and: a viewer of SARIF sees neither a placeholder nor a link
    log = json.loads(written(made, "sarif"))
    result = log["runs"][0]["results"][0]
    assert result["message"]["text"] == r"in \\x1b\]0;own\\x07\\u202egnp \\x7f\\U000e0041{{0}} \[x\](y).py"
    place = result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
    assert unquote(place) == HOSTILE
    assert place.isascii()


@pytest.mark.parametrize(
    ("text", "plain_text"),
    [
        ("`list[int]` is unused", "`list[int]` is unused"),
        ("{0} and {x}", "{{0}} and {{x}}"),
        ("[a](b)", r"\[a\](b)"),
        (r"[a\](b)", r"\[a\\\](b)"),
    ],
)
def test_a_message_in_sarif_is_plain_text(text: str, plain_text: str) -> None:
    assert plain(text) == plain_text


# What SARIF 2.1.0 asks of the objects that are written; its schema is in no package.
REQUIRED: dict[str, tuple[str, ...]] = {
    "log": ("version", "runs"),
    "run": ("tool",),
    "driver": ("name",),
    "result": ("message",),
    "invocation": ("executionSuccessful",),
}


def test_sarif_has_what_its_specification_asks_for(tmp_path: Path) -> None:
    # given
    folder = plant(tmp_path / "a folder")
    (folder / "a b#c.py").write_text("assert True\n")

    # when
    log = json.loads(written(write(Request(path=str(folder), out=str(tmp_path / "out")), outcomes(folder)), "sarif"))

    # then
    assert log["version"] == "2.1.0"
    assert all(key in log for key in REQUIRED["log"])
    names = [run["tool"]["driver"]["name"] for run in log["runs"]]
    assert names == [*sorted(names[:-1]), "celeriac-review"]
    uris = set()
    for run in log["runs"]:
        assert all(key in run for key in REQUIRED["run"])
        rules = [rule["id"] for rule in run["tool"]["driver"].get("rules", [])]
        assert len(rules) == len(set(rules))
        for result in run["results"]:
            check_result(result, rules)
            uris.add(result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"])
        for base in run.get("originalUriBaseIds", {}).values():
            assert base["uri"] == f"file://{str(folder).replace(' ', '%20')}/"
    assert "a%20b%23c.py" in uris
    assert log["runs"][-1]["invocations"] == [{"executionSuccessful": True, "toolExecutionNotifications": []}]
    also = [
        result["properties"]["alsoFoundBy"]
        for run in log["runs"]
        for result in run["results"]
        if "alsoFoundBy" in result["properties"]
    ]
    assert {one[0]["tool"] for one in also} == {"ruff"}


def check_result(result: dict[str, Any], rules: list[str]) -> None:
    """Check one result: a text, a level that there is, a rule of the tool, a place that counts from 1."""
    assert result["message"]["text"]
    assert result["level"] in {"none", "note", "warning", "error"}
    assert rules[result["ruleIndex"]] == result["ruleId"]
    (location,) = result["locations"]
    place = location["physicalLocation"]
    assert place["artifactLocation"]["uriBaseId"] == "SRCROOT"
    if "region" in place:
        assert place["region"]["startLine"] >= 1
        assert place["region"].get("startColumn", 1) >= 1
