"""Redaction: what must go, what must stay, and that doing it twice changes nothing."""

import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from workers.moderation.models import Ingested
from workers.moderation.redact import redact, redact_text

# Keys are put together here so that no scanner takes this file for a leak.
GITHUB_TOKEN = "gh" + "p_" + "a1B2" * 9
AWS_KEY = "AK" + "IA" + "IOSFODNN7EXAMPLE"
PRIVATE_KEY = (
    "-----BEGIN RSA PRIVATE" + " KEY-----\nMIIBOgIBAAJBAKj34GkxFhD90vcNLYLInFEX\n-----END RSA PRIVATE KEY-----"
)
JWT = "ey" + "JhbGciOiJIUzI1NiJ9.ey" + "JzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("write to jane.doe+list@mail.acme.io.", "write to [EMAIL]."),
        ("<mailto:o'brien@acme.co.uk>", "<mailto:o'[EMAIL]>"),
        ("Jürgen: jürgen@müller.de", "Jürgen: [EMAIL]"),
        ("jane [at] acme [dot] io, please", "[EMAIL], please"),
        ("jane (at) acme.io", "[EMAIL]"),
        ("call +44 20 8366 1177 today", "call [PHONE] today"),
        ("(650) 253-2222 or 510-748-8230", "[PHONE] or [PHONE]"),
        ("Phone: 6502532222", "Phone: [PHONE]"),
        ("IBAN DE89 3704 0044 0532 0130 00 THANKS", "IBAN [IBAN] THANKS"),
        ("pay to GB82WEST12345698765432", "pay to [IBAN]"),
        ("card 4111 1111 1111 1111, exp", "card [CARD], exp"),
        ("378282246310005", "[CARD]"),
        ("SSN 536-90-4399", "SSN [SSN]"),
        ("from 93.184.216.34 port 80", "from [IP] port 80"),
        ("server 192.168.17.42:8080", "server [IP]:8080"),
        ("ping 8.8.8.8 first", "ping [IP] first"),
        ("at 2a02:8071:b83:1e00:9c5e:41ff:fe5c:1 now", "at [IP] now"),
        ("postgres://admin:hunter2@db/prod", "postgres://[CREDENTIALS]@db/prod"),
        ("https://0123456789abcdef0123@sentry/1", "https://[CREDENTIALS]@sentry/1"),
        (f"token {GITHUB_TOKEN}!", "token [SECRET]!"),
        (f"key={AWS_KEY}", "key=[SECRET]"),
        (f"a\n{PRIVATE_KEY}\nb", "a\n[SECRET]\nb"),
        (f"Bearer {JWT}", "Bearer [SECRET]"),
        ("https://a.test/x?api_key=8f14e45fceea167a&y=1", "https://a.test/x?[SECRET]&y=1"),
    ],
)
def test_personal_data_becomes_a_placeholder(text: str, redacted: str) -> None:
    # Given text with something personal or secret in it
    # When it is redacted
    # Then only that is replaced, by its kind
    assert redact_text(text, "en")[0] == redacted


@pytest.mark.parametrize(
    "text",
    [
        "Python 3.11.4, version 1.2.3.4 and v10.0.40.219",
        "requires foo==4.0.99.1, bar>=1.26.0.post1",
        "1.4.77.2 (2024-03-01)\nfixed",
        "package-93.1.2.3.tar.gz",
        "2.9.0.1 was the last",
        "listens on 127.0.0.1:8000 or 0.0.0.0 or [::1]:80",
        "netmask 255.255.255.0",
        "std::vector<abc::def> at 12:30:45",
        "sha256 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "0.1234567890123456789 and 3.141592653589793",
        "timestamp 1700000000000000, id 4929123412341230",
        "virtual memory 8186245120 bytes, pid 6472179712",
        "2024-10-15 to 2025-01-31, pages 100-200",
        "ISBN 978-3-16-148410-0",
        "1.0.0+20231114123456",
        "uuid 123e4567-e89b-12d3-a456-426614174000",
        "amqp://guest@localhost//",
        "as defined in Clause 252.227-7013 (c) (1)",
        "git@github.com:celery/celery.git and ssh://git@host/x",
        "@pytest.fixture\n@app.task",
        "uses: actions/checkout@v4.1.0",
        "https://medium.com/@someone/post-123456",
        "sk-learn-contrib-something-long-and-more",
        "https://a.test/?token=x",
        "look at this [at] the end",
        "+1 for that; 100+ tests; C++17",
    ],
)
def test_versions_dates_hashes_and_code_are_left_alone(text: str) -> None:
    # Given what package descriptions are full of
    # When it is redacted
    redacted, counts = redact_text(text, "en")

    # Then nothing happens
    assert redacted == text
    assert counts == {}


def test_a_national_number_is_read_by_the_language_of_its_text() -> None:
    # Given a German number without a country code
    text = "Telefon: 030 901820"

    # When the text is German, and when it is English
    # Then it is a number in the first only
    assert redact_text(text, "de")[0] == "Telefon: [PHONE]"
    assert redact_text(text, "en")[0] == text


def test_counts_say_how_many_of_each_kind_were_there() -> None:
    # Given a document with personal data in title, source and text
    document = Ingested(
        id="a",
        title="By a@b.org",
        source="https://u:p@host/x",
        text="c@d.org, e@f.org and +44 20 8366 1177",
        language="en",
        characters=40,
    )

    # When it is redacted
    redacted = redact(document)

    # Then each field is clean and the counts add up
    assert redacted.title == "By [EMAIL]"
    assert redacted.source == "https://[CREDENTIALS]@host/x"
    assert redacted.redactions == {"CREDENTIALS": 1, "EMAIL": 3, "PHONE": 1}


PIECES = st.sampled_from(
    [
        "a@b.co", "@", ".", " ", "://", ":", "u:p", "93.184.216.34", "1.2.3.4", "ip ", "host ", "4111111111111111",
        "+442083661177", "(650) 253-2222", "tel ", "DE89370400440532013000", "536-90-4399", "2a02:8071::b83:1", "-",
        "[EMAIL]", "[", "]", "x", "7", "\n", "/", "?token=", "abcdef1", GITHUB_TOKEN, "(at)", "[at]", "=",
    ]
)  # fmt: skip


@given(st.lists(PIECES, max_size=12).map("".join) | st.text(max_size=80))
@example("a@b.co@c.org")
@example("93.184.216.34 1.2.3.4")
@example("https://u:a@b.co@host")
def test_redacting_twice_is_redacting_once(text: str) -> None:
    # Given any text, also one glued together from what the detectors look for
    once, _ = redact_text(text, "en")

    # When what is left is redacted again
    twice, found = redact_text(once, "en")

    # Then there is nothing more to find
    assert twice == once
    assert found == {}


LABEL = st.text(string.ascii_lowercase + string.digits, min_size=1, max_size=12)


@given(
    before=st.text(max_size=40),
    local=st.text(string.ascii_letters + string.digits + "._+-", min_size=1, max_size=20),
    domain=st.lists(LABEL, min_size=1, max_size=3).map(".".join),
    top=st.text(string.ascii_lowercase, min_size=2, max_size=8),
    after=st.sampled_from(["", " ", ".", ",", ">", ")", ";", "\n", "?subject=x"]),
)
def test_an_address_planted_anywhere_does_not_leak(
    *, before: str, local: str, domain: str, top: str, after: str
) -> None:
    # Given an e-mail address somewhere in a text
    address = f"x{local}@{domain}.{top}"

    # When it is redacted
    redacted, counts = redact_text(f"{before} {address}{after}", "en")

    # Then the address is gone
    assert address not in redacted
    assert counts
