"""
A summary made of the text's own sentences.

Sentences are ranked by how much of the text's vocabulary they carry, after Nenkova and Vanderwende, "The Impact of
Frequency on Summarization", 2005 (SumBasic), with the opening favoured: descriptions say first what they describe.
"""

from __future__ import annotations

import re
from collections import Counter

from workers.moderation.models import UNDETERMINED

MAX_SENTENCES = 3
MAX_CHARACTERS = 400
_CONSIDERED = 80  # sentences; what a text is about, it says by then
_SHORTEST, _LONGEST = 25, 320  # characters of a sentence worth quoting
_ENOUGH = 120  # characters of a beginning that stands in for a summary

_SENTENCE_ENDS = ".!?\u3002\uff01\uff1f"  # the last three are Chinese and Japanese
_PARAGRAPH = re.compile(r"\n\s*\n|\n(?=\s*(?:[-*•+]|\d+[.)]|>>>|\$) )")
_ADDRESS = re.compile(r"\s?\((?:https?|ftp)://[^)\s]*\)|(?:https?|ftp)://\S+")
_WORD = re.compile(r"[^\W\d_]{4,}")
_CODE = re.compile(r"[{}=<>|\\$#]|\w\(|\w_\w|::|>>>|--\w|^\W*import ")


def extract(text: str, language: str) -> str:
    """
    Quote the sentences that say most.

    Args:
        text: plain text.
        language: ISO 639 code, for where sentences end.

    Returns:
        Up to three sentences in their order, about 400 characters at most; the text's beginning if it has no
        sentences.
    """
    sentences = _sentences(text, language)
    if not sentences:
        return _beginning(text)
    frequency = Counter(word for sentence in sentences for word in set(_words(sentence)))
    scores = {
        index: sum(frequency[word] for word in words) / (len(words) + 4) * (1.0 + 2.0 / (index + 1))
        for index, words in enumerate(_words(sentence) for sentence in sentences)
    }
    chosen: list[int] = []
    for index in sorted(scores, key=lambda one: -scores[one]):
        length = sum(len(sentences[one]) + 1 for one in [*chosen, index])
        if len(chosen) < MAX_SENTENCES and (not chosen or length <= MAX_CHARACTERS):
            chosen.append(index)
    return _shorten(" ".join(sentences[index] for index in sorted(chosen)))


def _sentences(text: str, language: str) -> list[str]:
    # Imported on first use, as only this stage's workers need it. It has no types of its own.
    import sentencex  # type: ignore[import-untyped]  # noqa: PLC0415

    found: dict[str, None] = {}
    for paragraph in _PARAGRAPH.split(text):
        prose = " ".join(_ADDRESS.sub("", paragraph).split())
        if len(prose) < _SHORTEST or prose[-1] not in _SENTENCE_ENDS + ":)\"'”":
            continue
        for piece in sentencex.segment("en" if language == UNDETERMINED else language, prose):
            sentence = piece.strip(" -*•")
            if _SHORTEST <= len(sentence) <= _LONGEST and sentence[-1] in _SENTENCE_ENDS and not _CODE.search(sentence):
                found[sentence] = None
        if len(found) >= _CONSIDERED:
            break
    return list(found)[:_CONSIDERED]


def _beginning(text: str) -> str:
    beginning = ""
    for paragraph in _PARAGRAPH.split(_ADDRESS.sub("", text)):
        beginning = f"{beginning} {' '.join(paragraph.split())}".strip()
        if len(beginning) >= _ENOUGH:
            break
    return _shorten(beginning)


def _words(sentence: str) -> list[str]:
    return list(dict.fromkeys(_WORD.findall(sentence.casefold())))


def _shorten(text: str) -> str:
    if len(text) <= MAX_CHARACTERS:
        return text
    return text[: MAX_CHARACTERS - 1].rpartition(" ")[0].rstrip(" ,;:") + "…"
