"""What the research flow reads of a folder, how it is cut into passages, and what of a passage is quoted."""

from __future__ import annotations

import os
import sqlite3
from typing import TYPE_CHECKING

import pytest

from tests.researching import HARBOUR, LEASES, plant
from workers.research import folder as reading
from workers.research import index as searching
from workers.research.errors import NoFullText, NothingToRead
from workers.research.folder import find, labels, read_lines, take_stock
from workers.research.index import Index, index_of, terms
from workers.research.passages import passages
from workers.research.quoting import plain, sentences, statement

if TYPE_CHECKING:
    from pathlib import Path


def names(*folders: Path) -> list[str]:
    return [document.path for document in take_stock([str(folder) for folder in folders]).documents]


def built(*folders: Path) -> Index:
    return Index(take_stock([str(folder) for folder in folders]))


# The folder


def test_documents_are_found_below_a_folder_and_nothing_else(tmp_path: Path) -> None:
    # given documents, and much that is none
    plant(tmp_path / "b")
    for name in ("README", "LICENSE.txt", "notes.rst", "code.py", "data.json", "top_level.txt", ".hidden.md", "page.1"):
        (tmp_path / name).write_text("some words")
    for name in (".git", "node_modules", "__pycache__"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.md").write_text("some words")
    # then documents are found by their names, in order
    assert names(tmp_path) == ["LICENSE.txt", "README", "notes.rst", "b/harbour.md", "b/leases.md"]


def test_links_are_not_followed_out_of_the_folder(tmp_path: Path) -> None:
    # given a folder with links to what is beside it
    inside = plant(tmp_path / "inside")
    (tmp_path / "secret.md").write_text("secret")
    plant(tmp_path / "outside")
    (inside / "link.md").symlink_to(tmp_path / "secret.md")
    (inside / "folder").symlink_to(tmp_path / "outside")
    # then they are not read, nor found by a path that somebody makes up
    assert names(inside) == ["harbour.md", "leases.md"]
    for path in ("link.md", "folder/leases.md", "../secret.md", "./leases.md", "", "/etc/passwd", "a\0.md", "none.md"):
        assert find([str(inside)], path) is None, path
    assert find([str(inside)], "leases.md") == inside / "leases.md"


def test_a_document_that_became_a_link_is_not_read(tmp_path: Path) -> None:
    plant(tmp_path)
    (tmp_path / "leases.md").unlink()
    (tmp_path / "leases.md").symlink_to("/etc/hostname")
    assert read_lines(tmp_path / "leases.md") is None


def test_a_pipe_holds_nobody_up(tmp_path: Path) -> None:
    plant(tmp_path)
    os.mkfifo(tmp_path / "pipe.md")
    assert names(tmp_path) == ["harbour.md", "leases.md"]
    assert read_lines(tmp_path / "pipe.md") in ([], None)


def test_what_is_large_or_no_text_is_left_out(tmp_path: Path) -> None:
    plant(tmp_path)
    (tmp_path / "large.md").write_text("word " * 300_000)
    (tmp_path / "binary.md").write_bytes(b"harbour \0 harbour")
    (tmp_path / "latin.md").write_bytes("größe harbour".encode("latin-1"))
    hits = built(tmp_path).search(["harbour"])
    assert {hit.passage.path for hit in hits} == {"harbour.md", "leases.md"}


@pytest.mark.parametrize(("limit", "value"), [("MAX_FILES", 1), ("MAX_TOTAL", 300)])
def test_too_many_documents_are_refused_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    plant(tmp_path)
    monkeypatch.setattr(reading, limit, value)
    with pytest.raises(NothingToRead, match="ask about a part of it"):
        take_stock([str(tmp_path)])


def test_a_folder_that_is_not_there_or_has_nothing_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(NothingToRead, match="No such file or directory where the workers are"):
        take_stock([str(tmp_path / "none")])
    with pytest.raises(NothingToRead, match="null"):
        take_stock([f"{tmp_path}/a\0b"])
    (tmp_path / "code.py").touch()
    with pytest.raises(NothingToRead, match="there is no document"):
        take_stock([str(tmp_path)])
    (tmp_path / "empty.md").touch()
    with pytest.raises(NothingToRead, match="no text that can be read"):
        built(tmp_path)


def test_paths_in_several_folders_tell_which_one_and_lead_back(tmp_path: Path) -> None:
    # given folders of the same name, one in another, and a single file
    one, other = plant(tmp_path / "one" / "docs"), plant(tmp_path / "two" / "docs")
    folders = [str(one), str(other)]
    assert labels(folders) == ["docs/", "docs-2/"]
    assert find(folders, "docs-2/leases.md") == other / "leases.md"
    assert names(one, other) == ["docs/harbour.md", "docs/leases.md", "docs-2/harbour.md", "docs-2/leases.md"]
    # then what is in both is read once, and a file may be asked about like a folder
    assert names(tmp_path / "one", one) == ["one/docs/harbour.md", "one/docs/leases.md"]
    assert names(one / "leases.md") == ["leases.md"]
    assert find([str(one / "leases.md")], "leases.md") == one / "leases.md"


def test_lines_are_counted_as_an_editor_counts_them(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_bytes("\ufeffone\r\ntwo\u2028still two\x0bstill two\rthree\n".encode())
    assert read_lines(tmp_path / "a.md") == ["one", "two\u2028still two\x0bstill two", "three"]


# Passages


def test_passages_have_their_lines_and_the_headings_above_them() -> None:
    found = list(passages("leases.md", LEASES.split("\n")))
    assert [(each.first, each.last, each.heading) for each in found] == [
        (3, 4, "Leases"),
        (6, 9, "Leases"),
        (11, 11, "Leases"),
    ]
    assert all(each.text == "\n".join(LEASES.split("\n")[each.first - 1 : each.last]) for each in found)
    found = list(passages("harbour.md", HARBOUR.split("\n")))
    assert [(each.first, each.heading) for each in found] == [(4, "The Harbour"), (6, "The Harbour")]


def test_what_leads_to_a_list_goes_with_it_and_examples_are_told_from_prose() -> None:
    text = "# A\n\nIt is one of:\n\n- red\n- blue\n\n```sh\n# no heading\nmake it\n```\n\n## B\n\nEnd:"
    found = list(passages("a.md", text.split("\n")))
    assert [(each.first, each.last, each.heading, each.code) for each in found] == [
        (3, 6, "A", False),
        (8, 10, "A", True),
        (15, 15, "A > B", False),
    ]


def test_the_fields_of_a_package_are_passed_over() -> None:
    text = "Name: berth\nLicense: MIT\n\n# Berths\n\nIt assigns berths."
    assert [each.first for each in passages("berth-1.0.dist-info/METADATA", text.split("\n"))] == [6]
    assert [each.first for each in passages("notes.md", text.split("\n"))] == [1, 6]


def test_a_long_list_is_cut_at_its_items_and_no_line_is_lost() -> None:
    lines = [f"- item {number} {'word ' * 20}\n  goes on" for number in range(30)]
    text = "\n".join(lines).split("\n")
    found = list(passages("a.md", text))
    assert len(found) > 3
    assert [line for each in found for line in each.text.split("\n")] == text
    assert all(each.text.startswith("- item") for each in found)


# Search


def test_words_are_found_by_their_stems_and_what_a_question_is_about_counts(tmp_path: Path) -> None:
    index = built(plant(tmp_path))
    assert terms("What does a berth cost, and what?") == ["berth", "cost"]
    assert terms("What is it?") == ["what", "is", "it"]
    best = index.search(terms("What do berths cost?"))[0]
    assert (best.passage.path, best.passage.first, best.covers) == ("harbour.md", 6, frozenset({"berths", "cost"}))
    assert index.covers("the costs of a berth", ["cost", "berths", "boat"]) == {"cost", "berths"}
    assert index.search(terms("zygomorphic")) == index.search([]) == []


def test_nothing_in_a_question_is_an_operator_of_the_search(tmp_path: Path) -> None:
    index = built(plant(tmp_path))
    for text in (
        'berth" OR "x',
        "NEAR(berth boat)",
        "path:berth*",
        "berth AND NOT berth",
        "berth^",
        "'; DROP TABLE berth",
    ):
        assert index.search(terms(text))[0].passage.path == "harbour.md", text
    assert index.covers('a "quoted" berth', ['"quoted"', "berth"]) == {'"quoted"', "berth"}


def test_an_index_does_not_grow_while_it_is_searched(tmp_path: Path) -> None:
    index = built(plant(tmp_path))

    def pages() -> int:
        count: int = index._db.execute("PRAGMA page_count").fetchone()[0]  # noqa: SLF001  its size
        return count

    before = pages()
    for number in range(2000):
        index.covers(f"berth {number} {'word' * number}", ["berth"])
    assert pages() <= before + 1


def test_words_that_nobody_writes_are_passed_over(tmp_path: Path) -> None:
    assert terms(f"berth {'x' * 101}") == ["berth"]
    assert built(plant(tmp_path)).search(terms("word " * 200)) == []


def test_an_index_is_built_once_for_a_state_of_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # given an index
    monkeypatch.setattr(searching, "FRESH", 0.0)
    folders = (str(plant(tmp_path)),)
    first = index_of(folders)
    # when nothing has changed, then it is the same one
    assert index_of(folders) is first
    # when a document changes, appears or goes, then it is another one
    (tmp_path / "new.md").write_text("A lighthouse stands there.")
    second = index_of(folders)
    assert second.search(["lighthouse"])
    assert not first.search(["lighthouse"])
    (tmp_path / "new.md").unlink()
    assert not index_of(folders).search(["lighthouse"])


def test_few_indexes_are_kept(tmp_path: Path) -> None:
    for number in range(4):
        index_of((str(plant(tmp_path / str(number))),))
    assert len(searching._built) <= searching.KEPT  # noqa: SLF001  what is bounded


def test_an_sqlite_that_cannot_search_is_an_error_that_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Old(sqlite3.Connection):
        def execute(self, sql: str, *args: object) -> sqlite3.Cursor:
            if "fts5" in sql:
                raise sqlite3.OperationalError("no such module: fts5")
            return super().execute(sql, *args)  # type: ignore[arg-type]  # as it came

    monkeypatch.setattr("workers.research.index.sqlite3.connect", lambda *_, **__: Old(":memory:"))
    with pytest.raises(NoFullText, match="built without FTS5"):
        built(plant(tmp_path))


# Quotations


def test_the_sentence_the_row_or_the_item_that_says_most_is_quoted_in_whole_lines(tmp_path: Path) -> None:
    index = built(plant(tmp_path))

    def quoted(text: str) -> tuple[str, str]:
        asked = terms(text)
        found = statement(index, index.search(asked)[0], index.weights(asked))
        assert found is not None
        return found.evidence.place, found.text

    assert quoted("When does the lease end?") == ("leases.md:3", "The lease ends after 10 seconds.")
    assert quoted("What if the broker dies?") == ("leases.md:9", "the broker — messages wait")
    assert quoted("What does a berth cost a night?") == ("harbour.md:6", "A berth costs 20 crowns a night.")


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("- **Take** the [other page](a.md#b) with `ctx.*`", "Take the other page with `ctx.*`"),
        ("| `a \\| b` | one of them |", "`a | b` — one of them"),
        ("1. An *item*\n   of two lines", "An item of two lines"),
        ("> quoted __text__ and snake_case_names", "quoted text and snake_case_names"),
    ],
)
def test_marks_are_not_read(text: str, read: str) -> None:
    assert plain(text) == read


def test_sentences_are_told_apart() -> None:
    assert sentences("It is 1.5 s. See e.g. this one! `Now` that?\nYes.") == [
        "It is 1.5 s.",
        "See e.g. this one!",
        "`Now` that?",
        "Yes.",
    ]
