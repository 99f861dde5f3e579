"""Plain text out of HTML, Markdown and reStructuredText, and the normal form all text is brought to."""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from html.parser import HTMLParser
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from markdown_it import MarkdownIt

    from workers.moderation.models import Format

_BLOCK = re.compile(
    "address|article|aside|blockquote|br|dd|details|div|dl|dt|figcaption|figure|footer|form|h[1-6r]|header|li|main|nav"
    "|ol|option|p|pre|section|summary|table|td|th|tr|ul"
)
_SET_APART = re.compile("h[1-6]|ol|p|pre|table|ul")
_UNSEEN = frozenset({"script", "style", "template", "noscript", "title"})
_LINKS = ("http://", "https://", "ftp://", "mailto:")

# Zero-width and directional characters split words for a matcher but not for a reader; controls have no place.
_INVISIBLE = re.compile(
    r"[\u00ad\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\x00-\x08\x0b\x0e-\x1f\x7f-\x9f]"
)
_LINE_ENDS = re.compile(r"\r\n?|[\x0c\u0085\u2028\u2029]")
_SPACES = re.compile(r"[^\S\n]+")
_AROUND_LINE_END = re.compile(r" ?\n ?")
_EMPTY_LINES = re.compile(r"\n{3,}")


def normalise(text: str) -> str:
    """
    Bring text to one form: Unicode NFC, no invisible characters, single spaces, at most one empty line.

    NFC and not NFKC: what is published should read as it was written. The rules fold further for themselves.
    """
    text = _LINE_ENDS.sub("\n", text)
    text = unicodedata.normalize("NFC", _INVISIBLE.sub("", text))
    text = _AROUND_LINE_END.sub("\n", _SPACES.sub(" ", text))
    return _EMPTY_LINES.sub("\n\n", text).strip()


def plain(text: str, form: Format) -> str:
    """
    Take the markup out of a text.

    Code, the text of images and the targets of links stay: what a reader can see or follow is moderated.
    """
    if form == "html":
        return _from_html(text)
    if form == "markdown":
        return _from_html(_markdown().render(text))
    if form == "rst":
        return _from_rst(text)
    return text


@cache
def _markdown() -> MarkdownIt:
    # Imported on first use: every worker imports every agent, but only ingest parses Markdown.
    from markdown_it import MarkdownIt  # noqa: PLC0415

    return MarkdownIt("commonmark").enable("table")


class _TextOf(HTMLParser):
    """Collects what a reader sees. Never fails: HTMLParser takes broken markup as it comes."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._unseen: str | None = None
        self._link: tuple[str, int] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._unseen:
            return
        if tag in _UNSEEN:
            self._unseen = tag
        elif _BLOCK.fullmatch(tag):
            self.parts.append("\n\n" if _SET_APART.fullmatch(tag) else "\n")
        elif tag == "a":
            self._link = (dict(attrs).get("href") or "", len(self.parts))
        elif tag == "img":
            self.parts.append(f" {dict(attrs).get('alt') or ''} ")

    def handle_endtag(self, tag: str) -> None:
        if tag == self._unseen:
            self._unseen = None
        elif _BLOCK.fullmatch(tag):
            self.parts.append("\n")
        elif tag == "a" and self._link:
            target, start = self._link
            self._link = None
            shown = "".join(self.parts[start:]).strip()
            bare = target.removeprefix("mailto:")
            if target.startswith(_LINKS) and bare.rstrip("/") not in shown:
                self.parts.append(f" ({bare})")

    def handle_data(self, data: str) -> None:
        if not self._unseen:
            self.parts.append(data)


def _from_html(text: str) -> str:
    parser = _TextOf()
    parser.feed(text)
    parser.close()
    return "".join(parser.parts)


# reStructuredText is read by a few patterns. Docutils would build a whole document tree, executes directives
# such as `include` unless told not to, and takes some hundred times as long.
_RST = (
    (re.compile(r"^\.\. \|[^|\n]+\| [\w-]+:: .*(?:\n[ \t]+:.*)*", re.MULTILINE), ""),  # substitution
    (re.compile(r"^[ \t]*\.\. (?:image|figure):: .*", re.MULTILINE), ""),
    (re.compile(r"^[ \t]*\.\. [\w:-]+:: ?(.*)", re.MULTILINE), r"\1"),  # a directive's argument is read
    (re.compile(r"^[ \t]*\.\. _[^:\n]+: *(\S*)", re.MULTILINE), r"\1"),  # the target of a link
    (re.compile(r"^[ \t]+:(?:alt|target|width|height|align|scale|class|name|caption): ?.*", re.MULTILINE), ""),
    (re.compile(r"^[ \t]*([=\-~^\"'#*+`:._])\1{2,}[ \t]*$", re.MULTILINE), ""),  # the line below a heading
    (re.compile(r"^[ \t]*=+(?: +=+)+[ \t]*$", re.MULTILINE), ""),  # the border of a table
    (re.compile(r"^[ \t]*:(\w[^:\n]*):(?=\s)", re.MULTILINE), r"\1:"),  # a field of a list
    (re.compile(r"`([^`<\n]+)\s<([^>\n]+)>`__?"), r"\1 (\2)"),
    (re.compile(r":[a-z][\w:+-]*:`~?([^`\n]+)`"), r"\1"),
    (re.compile(r"``([^`\n]+)``"), r"\1"),
    (re.compile(r"`([^`\n]+)`(?:__?)?"), r"\1"),
    (re.compile(r"\|([\w .-]+)\|(?:__?)?"), r"\1"),
    (re.compile(r"\*\*([^*\n]+)\*\*"), r"\1"),
    (re.compile(r"(?<![\w*])\*([^*\s][^*\n]*)\*(?![\w*])"), r"\1"),
    (re.compile(r"(?<![\w`])([A-Za-z][\w.-]*[A-Za-z0-9])__?(?![\w`])"), r"\1"),  # a reference: Celery_
    (re.compile(r"::[ \t]*$", re.MULTILINE), ":"),
)


def _from_rst(text: str) -> str:
    for pattern, replacement in _RST:
        text = pattern.sub(replacement, text)
    return text
