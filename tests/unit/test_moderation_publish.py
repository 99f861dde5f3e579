"""Summaries, the published record and its file, and the report."""

import asyncio
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.testing import fake_context
from workers.files import write_atomically
from workers.moderation.extract import MAX_CHARACTERS, extract
from workers.moderation.models import Classified, Published, Summarised, Verdict
from workers.moderation.publish import file_name, final_action, publish
from workers.moderation.report import write_report
from workers.moderation.summarise import summarise

TEXT = """Parcel

Parcel reads configuration files and checks the types of configuration values. It is small.

Installation

    pip install parcel

Configuration files are written in TOML, and configuration values are typed. See the documentation for more.

Parcel was written on a rainy day in autumn by somebody who should have been outside.
"""


@pytest.fixture
def _no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.moderation.summarise.decider", lambda: None)


def _verdict(action: str = "allow", *, degraded: bool = False) -> Verdict:
    return Verdict.model_validate(
        {"category": "none", "action": action, "confidence": 1.0, "decided_by": "rules", "degraded": degraded}
    )


def _summarised(**more: object) -> Summarised:
    fields = {
        "id": "docs/a b",
        "title": "A",
        "language": "en",
        "characters": 10,
        "truncated": False,
        "redactions": {"EMAIL": 1},
        "verdict": _verdict(),
        "summary": "Short.",
        "summarised_by": "extract",
    }
    return Summarised.model_validate(fields | more)


def _published(**more: object) -> Published:
    return publish(fake_context(step="publish"), _summarised()).model_copy(update=more)


def test_a_summary_quotes_whole_sentences_in_their_order() -> None:
    # Given a description with headings, code and sentences
    # When it is summarised by extraction
    summary = extract(TEXT, "en")

    # Then it starts with what the text starts with, and each sentence stands in the text
    assert summary.startswith("Parcel reads configuration files")
    assert "pip install" not in summary
    sentences = re.findall(r"[^.]+\.", summary)
    places = [TEXT.find(sentence.strip()) for sentence in sentences]
    assert places == sorted(places)
    assert min(places) >= 0


def test_a_text_without_sentences_is_summed_up_by_its_beginning() -> None:
    # Given a list of words
    # When it is summarised
    # Then its beginning stands in
    assert extract("parcel\n\nalpha beta (https://a.test/x)\n", "und") == "parcel alpha beta"


@given(st.text(max_size=2000))
def test_a_summary_is_never_longer_than_its_bound(text: str) -> None:
    # Given any text
    # When it is summarised
    # Then the summary fits
    assert len(extract(text, "und")) <= MAX_CHARACTERS


@pytest.mark.usefixtures("_no_model")
@pytest.mark.parametrize(("action", "by"), [("allow", "extract"), ("label", "extract"), ("block", "")])
def test_a_blocked_document_has_no_summary(action: str, by: str) -> None:
    # Given a document with a verdict
    document = Classified(
        id="a", text=TEXT, language="en", characters=len(TEXT), verdict=_verdict(action), redactions={}
    )

    # When it is summarised
    summarised = asyncio.run(summarise(fake_context(), document))

    # Then there is a summary only if it is published, and the text goes no further
    assert summarised.summarised_by == by
    assert bool(summarised.summary) == bool(by)
    assert "text" not in Summarised.model_fields


def test_publish_returns_the_record_and_writes_nothing_unless_asked() -> None:
    # Given a summarised document without an output folder
    # When it is published
    record = publish(fake_context(), _summarised())

    # Then the record has the verdict's facts and no file
    assert record.file is None
    assert (record.action, record.category, record.summary) == ("allow", "none", "Short.")
    assert record.redactions == {"EMAIL": 1}


def test_a_retry_overwrites_the_same_file_and_another_run_writes_another(tmp_path: Path) -> None:
    # Given a document with an output folder
    document = _summarised(out=str(tmp_path / "new"))

    # When the step runs twice, and once more in a later revision
    first = publish(fake_context(step="publish", attempt=1), document)
    second = publish(fake_context(step="publish", attempt=2), document)
    other = publish(fake_context(step="publish", revision=1), document)

    # Then the first two are one file, whole and readable, and nothing else is left behind
    assert first.file == second.file != other.file
    assert sorted(str(file) for file in (tmp_path / "new").iterdir()) == sorted([str(first.file), str(other.file)])
    assert json.loads(Path(str(first.file)).read_text()) == first.model_dump(mode="json")


@pytest.mark.parametrize("identifier", ["../../etc/passwd", "/abs", "a/b\\c", "...", "日本", "x" * 200, "a\nb\0"])
def test_an_id_cannot_lead_out_of_the_folder(identifier: str) -> None:
    # Given an id with everything a path could be made of
    # When its file is named
    name = file_name(identifier, "run:publish:0")

    # Then the name is one plain file's
    assert Path(name).name == name
    assert not name.startswith(".")
    assert len(name.encode()) <= 255


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    # Given a file, and a text that cannot be encoded
    file = tmp_path / "a.json"
    file.write_text("old")

    # When it is written
    with pytest.raises(UnicodeEncodeError):
        write_atomically(file, "new \ud800")

    # Then the old one stands alone
    assert list(tmp_path.iterdir()) == [file]
    assert file.read_text() == "old"


@pytest.mark.parametrize(("action", "final"), [("allow", "allow"), ("block", "block"), ("review", "label")])
def test_what_a_person_let_pass_is_published_with_its_label(action: str, final: str) -> None:
    # Given a verdict that reached the last stage
    # When it is published
    # Then nothing is left to review
    assert final_action(_verdict(action)) == final


class _Outline(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str | None] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in {"src", "href", "action", "srcset"}]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_report_escapes_whatever_a_document_says(tmp_path: Path) -> None:
    # Given a record whose every text is an attack on the page
    attack = "</td></table><script>alert(1)</script><img src=x onerror=alert(1)>\"'&$rows ${lead}"
    hostile = _published(
        id=attack, title=attack, source=attack, summary=attack, category=attack, reasons=(attack,), decided_by=attack,
        language=attack, redactions={attack: 1},
    )  # fmt: skip

    # When the report is written
    page = _Outline(write_report([hostile], tmp_path).read_text())
    plain = _Outline(write_report([_published()], tmp_path).read_text())

    # Then the attack is text: the page's own script is the only one, there is no image and nothing is fetched
    assert attack in page.text
    assert page.tags.count("script") == 1
    assert "img" not in page.tags
    assert page.tags.count("tr") == plain.tags.count("tr")
    assert page.addresses == []


def test_the_report_has_totals_and_puts_first_what_needs_attention(tmp_path: Path) -> None:
    # Given records of three kinds
    records = [
        _published(id="b", redactions={"EMAIL": 2, "IP": 1}),
        _published(id="a"),
        _published(id="c", action="block", category="spam", language="de", degraded=True),
    ]

    # When the report is written
    path = write_report(records, tmp_path / "report")

    # Then both files are there and agree
    data = json.loads((tmp_path / "report" / "report.json").read_text())
    assert [record["id"] for record in data["records"]] == ["c", "a", "b"]
    assert data["totals"]["action"] == {"allow": 2, "block": 1}
    assert data["totals"]["redactions"] == {"EMAIL": 4, "IP": 1}
    assert data["totals"]["language"] == {"en": 2, "de": 1}
    assert path == tmp_path / "report" / "report.html"
    assert "3 documents" in path.read_text()


def test_a_report_of_nothing_is_a_report(tmp_path: Path) -> None:
    # Given no records
    # When the report is written
    # Then it says that there are none
    assert "0 documents" in write_report([], tmp_path).read_text()
