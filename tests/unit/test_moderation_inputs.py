"""Documents from folders, files and this machine; what is wrong is named with its place."""

import json
from pathlib import Path

import pytest

from orchestrator import InvalidInput
from workers.moderation import DEMO, moderation
from workers.moderation.inputs import load_documents
from workers.moderation.installed import installed_descriptions


def test_a_folder_gives_its_text_files_in_order_with_their_formats(tmp_path: Path) -> None:
    # Given a folder with files of several kinds, one in a sub-folder, one hidden
    for name in ("b.md", "a.txt", "sub/c.html", "sub/d.rst", "e.pdf", ".hidden/f.txt"):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"text of {name}")

    # When it is loaded
    documents = load_documents(tmp_path)

    # Then the readable ones are there, by name
    assert [(one.id, one.format) for one in documents] == [
        ("a.txt", "text"),
        ("b.md", "markdown"),
        ("sub/c.html", "html"),
        ("sub/d.rst", "rst"),
    ]
    assert documents[0].text == "text of a.txt"
    assert documents[0].source == str(tmp_path / "a.txt")


def test_a_jsonl_file_gives_a_document_a_line(tmp_path: Path) -> None:
    # Given lines with and without the optional fields, one empty, one with more than we know
    file = tmp_path / "in.jsonl"
    lines = [{"text": "one"}, {"text": "two", "id": 7, "title": "T", "format": "markdown", "language": "en", "x": 1}]
    file.write_text("\ufeff" + "\n\n".join(json.dumps(line) for line in lines) + "\n")

    # When it is loaded for an output folder
    first, second = load_documents(file, out=tmp_path / "out")

    # Then ids default to line numbers, sources to the place
    assert (first.id, first.source, first.out) == ("1", f"{file}:1", str(tmp_path / "out"))
    assert (second.id, second.title, second.format, second.language) == ("7", "T", "markdown", "en")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "a"}\n{"text": \n', "in.jsonl:2: Invalid JSON: EOF while parsing"),
        ('{"text": "a"}\n["b"]\n', "in.jsonl:2: "),
        ('{"title": "a"}\n', "in.jsonl:1: text: Field required"),
        ('{"text": 5}\n', "in.jsonl:1: text: Input should be a valid string"),
        ('{"text": "a", "format": "pdf"}\n', "in.jsonl:1: format: Input should be 'text', 'markdown'"),
        ('{"text": "a", "id": ""}\n', "in.jsonl:1: id: String should have at least 1 character"),
        ('{"text": "a", "id": "x"}\n{"text": "b", "id": "x"}\n', "in.jsonl:2: the id 'x' was there before"),
        ("\n\n", "in.jsonl: it is empty; it takes one JSON object a line"),
    ],
)
def test_a_bad_line_is_named_with_file_and_number(tmp_path: Path, content: str, message: str) -> None:
    # Given a JSONL file with a mistake
    file = tmp_path / "in.jsonl"
    file.write_text(content)

    # When it is loaded
    with pytest.raises(InvalidInput) as raised:
        load_documents(file)

    # Then one line says where and what
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_file_in_another_encoding_is_named_with_the_remedy(tmp_path: Path) -> None:
    # Given a Latin-1 text file and a Latin-1 JSONL file
    text, lines = tmp_path / "a.txt", tmp_path / "b.jsonl"
    text.write_bytes("Größe".encode("latin-1"))
    lines.write_bytes('{"text": "Größe"}\n'.encode("latin-1"))

    # When they are loaded
    # Then the error says what to do
    with pytest.raises(InvalidInput, match=r"a\.txt: not UTF-8 at byte 2; convert it"):
        load_documents(text)
    with pytest.raises(InvalidInput, match=r"b\.jsonl: not UTF-8 .*; convert it"):
        load_documents(lines)


def test_a_path_with_nothing_to_read_is_refused(tmp_path: Path) -> None:
    # Given an empty folder, a file of an unknown kind, and a path where nothing is
    (tmp_path / "x.pdf").write_text("x")
    (tmp_path / "empty").mkdir()

    # When they are loaded
    # Then each error names the path and what would be right
    with pytest.raises(InvalidInput, match=r"empty: no \.txt, \.md"):
        load_documents(tmp_path / "empty")
    with pytest.raises(InvalidInput, match=r"x\.pdf: give a folder, a \.jsonl file or one of"):
        load_documents(tmp_path / "x.pdf")
    with pytest.raises(InvalidInput, match="there is no such file or folder; check the path"):
        load_documents(tmp_path / "absent")


def test_an_unreadable_folder_entry_does_not_pass_silently(tmp_path: Path) -> None:
    # Given a file of the right kind that is too large
    file = tmp_path / "a.txt"
    with file.open("wb") as sparse:
        sparse.truncate(9_000_000)

    # When its folder is loaded
    # Then the size and the limit are named
    with pytest.raises(InvalidInput, match=r"a\.txt: 9,000,000 bytes, the limit is 8,000,000"):
        load_documents(tmp_path)


def test_this_machine_has_a_hundred_texts_to_moderate() -> None:
    # Given whatever is installed here
    # When its descriptions are collected
    documents = installed_descriptions(limit=100)

    # Then there are as many as asked for, different, with real text, this environment's packages among them
    assert len(documents) == 100
    assert len({document.id for document in documents}) == 100
    assert all(len(document.text) >= 80 for document in documents)
    assert any(document.id.startswith("pydantic-") for document in documents)


def test_where_no_packages_are_found_documentation_fills_up(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given an environment without any package
    monkeypatch.setattr("sys.path", [])
    monkeypatch.setattr("workers.moderation.installed._other_site_packages", list)

    # When descriptions are collected
    documents = installed_descriptions(limit=20)

    # Then Python's own wheels and the system's documentation stand in
    assert documents
    assert all(document.source for document in documents)


def test_the_demo_knows_the_flow_its_inputs_and_its_report(tmp_path: Path) -> None:
    # Given a folder with one document
    (tmp_path / "a.txt").write_text("Hello.")

    # When the demo is asked for its inputs
    documents = DEMO.inputs(tmp_path)

    # Then they are what the flow takes
    assert DEMO.flow is moderation
    assert [document.text for document in documents] == ["Hello."]
    assert DEMO.report([], tmp_path / "report").is_file()
