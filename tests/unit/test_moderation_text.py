"""Ingest: markup goes, what a reader sees stays; one normal form; the language where it can be told."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from workers.moderation.ingest import MAX_READ, ingest
from workers.moderation.language import detect
from workers.moderation.models import Document
from workers.moderation.plaintext import normalise, plain


def test_markup_is_taken_out_of_html_and_hidden_parts_with_it() -> None:
    # Given a page with a script, a style, an entity and block elements
    page = (
        "<html><head><title>t</title><style>p {}</style></head><body><h1>Cats &amp; dogs</h1>"
        "<p>One</p><p>Two<br>Three</p><script>alert('x')</script></body></html>"
    )

    # When it is made plain
    text = normalise(plain(page, "html"))

    # Then only what a reader sees is left, in lines of its own
    assert text == "Cats & dogs\n\nOne\n\nTwo\nThree"


@pytest.mark.parametrize("page", ["<p", "<<<>>>", "</p></div>", "<a href=", "<!-- open", "&#xfffffff;", "<p>a<b>c</p>"])
def test_broken_html_is_taken_as_it_comes(page: str) -> None:
    # Given markup that no browser would write
    # When it is made plain
    text = plain(page, "html")

    # Then there is no error, and no tag left
    assert "<p>" not in text


def test_the_target_of_a_link_is_kept_because_it_is_moderated_too() -> None:
    # Given a link that hides where it leads, one that does not, and one within the page
    page = '<a href="https://bad.test/x">click</a> <a href="https://b.test/">https://b.test</a> <a href="#top">up</a>'

    # When it is made plain
    text = plain(page, "html")

    # Then the hidden target is written out, and nothing is said twice
    assert text == "click (https://bad.test/x) https://b.test up"


def test_markdown_keeps_code_and_loses_its_signs() -> None:
    # Given Markdown with emphasis, a list, code and HTML within
    source = "# Title\n\nSome *very* **bold** `code()`.\n\n- one\n- two\n\n```py\nx = 1\n```\n\n<b>html</b>\n"

    # When it is made plain
    text = normalise(plain(source, "markdown"))

    # Then the text reads without the signs
    assert text == "Title\n\nSome very bold code().\n\none\n\ntwo\n\nx = 1\n\nhtml"


def test_restructuredtext_keeps_the_prose_and_loses_roles_underlines_and_images() -> None:
    # Given reStructuredText as package descriptions have it
    source = (
        "Title\n=====\n\n.. image:: https://img.test/a.svg\n    :target: https://ci.test\n\n"
        "Uses :class:`~a.Thing`, ``code`` and `docs <https://d.test>`_ of Celery_.\n\nExample::\n\n    x = 1\n"
    )

    # When it is made plain
    text = normalise(plain(source, "rst"))

    # Then the prose is left
    assert text == "Title\n\nUses a.Thing, code and docs (https://d.test) of Celery.\n\nExample:\n\nx = 1"


@given(st.text())
def test_normalising_twice_is_normalising_once(text: str) -> None:
    # Given any text
    # When it is normalised
    once = normalise(text)

    # Then it is in Unicode's composed form and normalising changes nothing more
    assert normalise(once) == once
    assert unicodedata.is_normalized("NFC", once)


def test_characters_nobody_sees_cannot_split_a_word() -> None:
    # Given a word with a zero-width space, a soft hyphen and a control character
    # When it is normalised
    # Then it is the word
    assert normalise("ca\u200bsi\u00adn\x00o\ufeff") == "casino"


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("This library parses configuration files and checks their types.", "en"),
        ("Diese Bibliothek liest Konfigurationsdateien und prüft ihre Typen.", "de"),
        ("Cette bibliothèque lit des fichiers de configuration et vérifie leurs types.", "fr"),
        ("このライブラリは設定ファイルを読み込み、型を検査します。", "ja"),
        ("pip install foo==1.2", "und"),
        ("https://example.org/en/a-long-address/of-english-words/and/more", "und"),
        ("", "und"),
    ],
)
def test_the_language_is_told_from_prose_alone(text: str, language: str) -> None:
    # Given prose, or something that is none
    # When its language is detected
    # Then it is named, or said to be undetermined
    assert detect(text) == language


def test_ingest_keeps_the_language_the_producer_knows() -> None:
    # Given a document whose producer says what language it is in
    document = Document(id="a", text="This looks like English to anyone who reads it.", language="nl")

    # When it is ingested
    # Then the producer is believed
    assert ingest(document).language == "nl"


def test_ingest_bounds_the_text_and_says_so() -> None:
    # Given a document longer than moderation reads
    document = Document(id="a", text="word " * MAX_READ)

    # When it is ingested
    ingested = ingest(document)

    # Then the text is cut, marked, and its real length kept
    assert len(ingested.text) <= MAX_READ
    assert ingested.truncated
    assert ingested.characters == 5 * MAX_READ


def test_an_output_folder_must_be_absolute() -> None:
    # Given a folder relative to wherever the producer happens to be
    # When a document names it
    # Then it is refused: the worker is elsewhere
    with pytest.raises(ValidationError, match="must be an absolute path"):
        Document(id="a", text="x", out="results")
