"""
What counts as personal or secret in a text, and where it is.

Patterns only propose; check digits, number plans and address rules decide, so that versions, dates and hashes are
left alone. Where a mistake cannot be avoided it is the cautious one: an address that is none is masked too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from workers.moderation.network import ip_addresses

Span = tuple[int, int]


@dataclass(frozen=True)
class Detector:
    """Finds one kind of datum: `find(text, language)` yields the spans to replace, in order, apart."""

    kind: str
    find: Callable[[str, str], Iterator[Span]]


# The published forms of well-known keys. A general search for random-looking strings would take hashes and
# identifiers too; a package description is full of them.
# Each has a literal that must be there: looking for that first makes a text without secrets almost free.
_SECRETS = tuple(
    (literal, re.compile(pattern))
    for literal, pattern in (
        (
            "PRIVATE KEY-----",
            (
                r"-----BEGIN [A-Z ]{0,20}PRIVATE KEY-----"
                r"(?:[^-]{0,10000}-----END [A-Z ]{0,20}PRIVATE KEY-----|(?:\s*[A-Za-z0-9+/=]{16,})+)"
            ),
        ),
        ("AKIA", r"\bAKIA[A-Z2-7]{16}\b"),  # Amazon Web Services
        ("ASIA", r"\bASIA[A-Z2-7]{16}\b"),
        ("gh", r"\bgh[pousr]_[A-Za-z0-9]{36,255}\b"),  # GitHub
        ("github_pat_", r"\bgithub_pat_\w{22,255}"),
        ("glpat-", r"\bglpat-[\w-]{20,255}"),  # GitLab
        ("xox", r"\bxox[abeoprs]-[A-Za-z0-9-]{10,255}"),  # Slack
        ("AIza", r"\bAIza[\w-]{35}(?![\w-])"),  # Google
        ("k_", r"\b[rs]k_(?:live|test)_[A-Za-z0-9]{16,255}\b"),  # Stripe
        ("sk-", r"(?<![\w-])sk-(?=[\w-]{0,60}\d)[\w-]{20,255}"),  # OpenAI, Anthropic, OpenRouter
        ("pypi-", r"\bpypi-[\w-]{50,1000}"),
        ("npm_", r"\bnpm_[A-Za-z0-9]{36}\b"),
        ("hf_", r"\bhf_[A-Za-z0-9]{30,60}\b"),  # Hugging Face
        ("eyJ", r"\beyJ[\w-]{10,2000}\.eyJ[\w-]{10,4000}\.[\w-]{5,1000}"),  # JSON Web Token
        (
            "=",
            r"(?<=[?&])(?:api_?key|access_token|auth_token|token|password|passwd|secret|signature|sig)=[^\s&\[\])>\"']{6,500}",
        ),
    )
)
# user:password@ in an address, or a key alone; a user's name alone is not a secret.
_CREDENTIALS = re.compile(
    r"(?<=://)(?:[^\s/@?#<>\"'\[\]:]{0,128}:[^\s/@?#<>\"'\[\]]{1,256}|(?=[A-Za-z_-]{0,60}\d)[\w-]{16,256})(?=@)"
)

_LOCAL = r"\w.!#$%&*+=?^{|}~-"
_EMAIL = re.compile(
    rf"""
      (?<![{_LOCAL}])(?!(?:git|hg|svn)@[\w.-]+[:/])          # git@host:path is a repository
      [{_LOCAL}]+@(?:\w[\w-]{{0,62}}\.){{1,8}}[^\W\d_]{{2,24}}(?![\w-])
    | (?<![\w.+-])[\w.+-]{{1,64}}\s{{0,3}}[\[({{]\s?at\s?[\])}}]\s{{0,3}}   # name [at] host [dot] org
      [\w-]{{1,63}}(?:\s{{0,3}}(?:[\[({{]\s?dot\s?[\])}}]|\.)\s{{0,3}}[\w-]{{1,63}}){{1,6}}
    """,
    re.VERBOSE | re.IGNORECASE,
)
_IBAN = re.compile(r"(?<![A-Z0-9])[A-Z]{2}\d{2}(?:[ -]?[A-Z0-9]){11,30}(?![A-Z0-9])")
_SHORTEST_IBAN = 15  # Norway's
_CARD = re.compile(r"(?<![\w.+-])(?:\d[ -]?){12,18}\d(?![\w-]|\.\d)")
_CARD_ISSUER = re.compile(
    r"4\d{12}(?:\d{3}){0,2}|(?:5[1-5]|2[2-7])\d{14}|3[47]\d{13}|3(?:0[0-5]|[689]\d)\d{11}|35\d{14}|6(?:011|4|5|2)\d{12,15}"
)
_SSN = re.compile(r"(?<![\w.-])\d{3}-\d{2}-\d{4}(?![\w-]|\.\d)")

# National numbers are read as those of the country where most of a language's texts come from.
_REGIONS = {"de": "DE", "es": "ES", "fr": "FR", "it": "IT", "ja": "JP", "nl": "NL", "pl": "PL", "pt": "BR", "zh": "CN"}
_NORTH_AMERICAN = re.compile(r"(?:1[ .-])?(?:\(\d{3}\) ?\d{3}[ .-]?|\d{3}([.-])\d{3}\1?|\d{3} \d{3}[ -])\d{4}")
_PHONE_CUE = re.compile(
    r"(?<!\[)\b(?:tel|phone|telefon|téléphone|call|fax|mobile?|handy|whatsapp|sms)\b\W{0,4}\w{0,8}\W{0,4}\Z",
    re.IGNORECASE,
)
_PHONE_LEAST = re.compile(r"\d[\d\s().-]{5,}\d")


def _spans(pattern: re.Pattern[str]) -> Callable[[str, str], Iterator[Span]]:
    def find(text: str, _language: str) -> Iterator[Span]:
        for match in pattern.finditer(text):
            yield match.span()

    return find


def _secrets(text: str, _language: str) -> Iterator[Span]:
    end = 0
    for span in sorted(m.span() for literal, pattern in _SECRETS if literal in text for m in pattern.finditer(text)):
        if span[0] >= end:  # two forms may overlap: a token in an address
            yield span
            end = span[1]


def _emails(text: str, _language: str) -> Iterator[Span]:
    if "@" in text or "at" in text.casefold():
        yield from _spans(_EMAIL)(text, _language)


def _ibans(text: str, _language: str) -> Iterator[Span]:
    for match in _IBAN.finditer(text):
        # The pattern runs on into capitals that follow; the check digits tell where the number ends.
        for end in range(match.end(), match.start() + _SHORTEST_IBAN - 1, -1):
            if _is_iban(text[match.start() : end]) and not text[end : end + 1].isalnum():
                yield match.start(), end
                break


def _is_iban(text: str) -> bool:
    # Imported on first use, like every library here: most documents hold nothing that looks like one.
    from stdnum import iban  # noqa: PLC0415

    return bool(iban.is_valid(text))


def _cards(text: str, _language: str) -> Iterator[Span]:
    for match in _CARD.finditer(text):
        digits = re.sub(r"\D", "", match.group())
        if _CARD_ISSUER.fullmatch(digits):
            from stdnum import luhn  # noqa: PLC0415

            if luhn.is_valid(digits):
                yield match.span()


def _social_security(text: str, _language: str) -> Iterator[Span]:
    for match in _SSN.finditer(text):
        from stdnum.us import ssn  # noqa: PLC0415

        if ssn.is_valid(match.group()):
            yield match.span()


def _phones(text: str, language: str) -> Iterator[Span]:
    if not _PHONE_LEAST.search(text):
        return
    from phonenumbers import Leniency, PhoneNumberMatcher  # noqa: PLC0415

    region = _REGIONS.get(language, "US")
    for match in PhoneNumberMatcher(text, region, leniency=Leniency.VALID):
        before = text[max(0, match.start - 30) : match.start]
        if match.raw_string.startswith("+"):
            told = not before[-1:].isalnum() and before[-1:] != "."  # 1.0+20231114 is a version
        else:
            grouped = region == "US" and _NORTH_AMERICAN.fullmatch(match.raw_string)
            told = bool(grouped or _PHONE_CUE.search(before))
        if told:
            yield match.start, match.end


# In this order: what one has replaced, the next no longer sees. An e-mail's password-like address goes before
# the e-mail, a number with check digits before one that may be a telephone.
DETECTORS = (
    Detector("SECRET", _secrets),
    Detector("CREDENTIALS", _spans(_CREDENTIALS)),
    Detector("EMAIL", _emails),
    Detector("IBAN", _ibans),
    Detector("CARD", _cards),
    Detector("SSN", _social_security),
    Detector("IP", ip_addresses),
    Detector("PHONE", _phones),
)
