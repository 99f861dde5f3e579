"""The report of the research flow: what a person reads, and what a program does."""

from __future__ import annotations

import json

from rich.console import Console

from workers.research.models import Answer, Citation, Point, Question, Refused, Report
from workers.research.page import NOTHING, as_json, as_markdown, shown

HOSTILE = "![x](http://evil.example) <script> \x1b[31m `code` ``` [1]"


def report(*points: Point, text: str = "", **more: object) -> Report:
    asked = Question(text="What of *this*?", folders=("/docs",))
    answer = Answer(question=asked, text=text, points=points, lacking=("winter",))
    fields = {
        "outcome": "consensus",
        "why": "",
        "agreed": (),
        "dissent": (),
        "abstained": (),
        "turns": 1,
        "messages": 2,
    }
    return Report.model_validate({"answer": answer, "written": {}, **fields, **more})


def cited(quote: str) -> Point:
    evidence = Citation(path="a`b.md", first=3, last=4, quote=quote)
    return Point(proposal=2, text="It is so.", evidence=evidence)


def test_citations_lead_to_file_and_line() -> None:
    page = as_markdown(report(cited("one\ntwo"), text="It is so. [1]"))
    assert "It is so. [1]" in page
    assert r"1. `a\x60b.md:3-4`" in page
    assert "    ```text\n    one\n    two\n    ```" in page
    assert "Nothing was found about “winter”." in page


def test_what_documents_say_does_nothing_to_who_reads_the_report() -> None:
    # given a document that would be more than text
    made = report(cited(HOSTILE), text=f"{HOSTILE} [1]")
    page = as_markdown(made)
    # then in the text every mark is escaped, and the quotation is fenced by more ticks than it has
    line = next(line for line in page.splitlines() if line.startswith("\\!") or "evil" in line)
    assert r"\[x\](http\://evil.example) \<script\>" in line
    assert "    ````text" in page
    assert "\x1b" not in page
    # and neither on a terminal
    console = Console(width=200, record=True, file=None, force_terminal=False, quiet=True)
    console.print(shown(made))
    assert "\x1b" not in console.export_text(styles=False)


def test_how_it_was_reached_is_told() -> None:
    assert "All agree." in as_markdown(report())
    made = report(outcome="quiet", dissent=("critic",), abstained=("proposer",))
    assert "By vote, at the end: quiet. For another: critic. For none: proposer." in as_markdown(made)
    assert NOTHING in as_markdown(made)


def test_what_did_not_stand_is_told_with_its_reason() -> None:
    made = report()
    refused = Refused(text="It is not.", place="a.md:1", by="critic", why="narrow", reason="it leaves out *this*")
    made = made.model_copy(update={"answer": made.answer.model_copy(update={"refused": (refused,)})})
    assert r"- It is not. (`a.md:1`): critic, narrow: it leaves out \*this\*" in as_markdown(made)


def test_a_program_gets_everything_with_a_version() -> None:
    document = json.loads(as_json(report(cited("one"))))
    assert document["version"] == 1
    assert document["answer"]["points"][0]["evidence"]["first"] == 3
