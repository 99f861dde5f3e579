"""Which errors are tried again, after how long, and what a server's Retry-After says."""

from __future__ import annotations

import asyncio
import email.message
import io
import json
import math
import statistics
import urllib.error
from dataclasses import fields
from random import Random
from typing import TYPE_CHECKING, Any

import httpx2
import openai
import pytest
import yarl
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy
from pydantic import TypeAdapter, ValidationError

from orchestrator.errors import InvalidPolicy, RetryLater
from orchestrator.resilience.idle import IdleTimeout
from orchestrator.resilience.retry import Retry, is_transient, retry_after, status_of
from tests.docs.tables import table

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PAGE = "retry-and-timeouts.md"
REQUEST = httpx2.Request("POST", "https://api.example/v1/chat")
SENT = "Sun, 06 Nov 1994 08:49:37 GMT"


def httpx_error(status: int, headers: Mapping[str, str] | None = None) -> Exception:
    response = httpx2.Response(status, headers=dict(headers or {}), request=REQUEST)
    return httpx2.HTTPStatusError("no", request=REQUEST, response=response)


def openai_error(status: int, headers: Mapping[str, str] | None = None) -> Exception:
    """Return what the client of OpenAI raises for such an answer, once it does not try again by itself."""
    transport = httpx2.MockTransport(lambda _: httpx2.Response(status, headers=dict(headers or {}), json={}))
    with (
        httpx2.Client(transport=transport) as http,
        openai.OpenAI(api_key="k", base_url="https://api.example/v1", max_retries=0, http_client=http) as client,
        pytest.raises(openai.APIStatusError) as caught,
    ):
        client.models.list()
    return caught.value


def requests_error(status: int, headers: Mapping[str, str] | None = None) -> Exception:
    requests = pytest.importorskip("requests")
    response = requests.Response()  # false in a condition, where its status is an error's
    response.status_code = status
    response.headers.update(headers or {})
    error: Exception = requests.HTTPError("no", response=response)
    return error


def urllib_error(status: int, headers: Mapping[str, str] | None = None) -> Exception:
    message = email.message.Message()
    for name, value in (headers or {}).items():
        message[name] = value
    return urllib.error.HTTPError("https://api.example", status, "no", message, io.BytesIO())


class AiohttpError(Exception):
    """The shape of aiohttp's ClientResponseError, and of errors of clients made from OpenAPI descriptions."""

    def __init__(self, status: int, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status)
        self.status = status
        self.headers = dict(headers or {})


def aiohttp_error(status: int, headers: Mapping[str, str] | None = None) -> Exception:
    import aiohttp  # noqa: PLC0415  as of Anthropic's

    url = yarl.URL("https://api.example/v1/chat")
    given = CIMultiDictProxy(CIMultiDict(headers or {}))
    request = aiohttp.RequestInfo(url, "POST", CIMultiDictProxy(CIMultiDict()), url)
    return aiohttp.ClientResponseError(request, (), status=status, message="no", headers=given)


def anthropic_error(status: int, headers: Mapping[str, str] | None = None) -> Exception:
    """Return what the client of Anthropic raises for such an answer, once it does not try again by itself."""
    return asked_of_anthropic(httpx2.Response(status, headers=dict(headers or {}), json={}))


def broken_stream_of_anthropic(kind: str) -> Exception:
    """Return what it raises for an `error` event in a stream that had begun well."""
    told = json.dumps({"type": "error", "error": {"type": kind, "message": "no"}})
    return asked_of_anthropic(
        httpx2.Response(200, headers={"Content-Type": "text/event-stream"}, text=f"event: error\ndata: {told}\n\n")
    )


def asked_of_anthropic(response: httpx2.Response) -> Exception:
    import anthropic  # noqa: PLC0415  a second, in each process that needs it

    transport = httpx2.MockTransport(lambda _: response)
    messages: Any = [{"role": "user", "content": "x"}]
    with (
        httpx2.Client(transport=transport) as http,
        anthropic.Anthropic(api_key="k", max_retries=0, http_client=http) as client,
        pytest.raises(anthropic.APIStatusError) as caught,
    ):
        list(client.messages.create(model="m", max_tokens=5, messages=messages, stream=True))
    return caught.value


ONE_PROCESS = pytest.mark.xdist_group("anthropic")
CLIENTS = pytest.mark.parametrize(
    "make",
    [
        httpx_error,
        openai_error,
        pytest.param(anthropic_error, marks=ONE_PROCESS),
        requests_error,
        urllib_error,
        pytest.param(aiohttp_error, marks=ONE_PROCESS),
        AiohttpError,
    ],
)


class Overloaded(Exception):
    """What Anthropic's client raises for an `error` event of a stream: it carries the status that came first."""

    status_code = 200

    def __init__(self, kind: object = None) -> None:
        self.body = {"type": "error", "error": {"type": kind, "message": "no"}}


def broken_stream(kind: str) -> Exception:
    """Return what OpenAI's client raises for an error in a stream."""
    return openai.APIError("no", REQUEST, body={"type": kind, "message": "no", "code": None})


class DatabaseError(Exception):
    """Has a code that is no HTTP status."""

    code = 404


class Secretive(Exception):
    """Raises where it is asked for what it has not got, as httpx's errors do."""

    @property
    def response(self) -> object:
        msg = "there is none"
        raise RuntimeError(msg)


def invalid_output() -> ValidationError:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(int).validate_python("x")
    return caught.value


def wrapped(error: BaseException, inner: BaseException) -> BaseException:
    error.__cause__ = inner
    return error


# The rows of the page: what an attempt ended with, and whether another follows by default.
TRIED_AGAIN: dict[str, tuple[str, list[BaseException]]] = {
    "HTTP 408, 409, 425, 429": ("yes", [httpx_error(status) for status in (408, 409, 425, 429)]),
    "HTTP 500 and above": ("yes", [httpx_error(status) for status in (500, 502, 503, 504, 529, 599)]),
    "any other HTTP status from 300 on": (
        "no",
        [httpx_error(status) for status in (302, 400, 401, 403, 404, 413, 422, 451)],
    ),
    "an error in the midst of a stream that had begun with HTTP 200": ("yes", [httpx_error(200), Overloaded()]),
    "such an error that says what it is, as `invalid_request_error`": (
        "as the HTTP status that goes with that",
        [Overloaded("overloaded_error"), Overloaded("invalid_request_error")],
    ),
    "no connection, or a broken one": (
        "yes",
        [
            ConnectionResetError(),
            httpx2.ConnectError("refused", request=REQUEST),
            openai.APIConnectionError(request=REQUEST),
        ],
    ),
    "`timeout` or `idle` ran out": ("yes", [TimeoutError(), IdleTimeout(5.0), openai.APITimeoutError(REQUEST)]),
    "an output that does not fit": ("yes", [invalid_output()]),
    "any other exception": ("yes", [ValueError("no"), KeyError("k"), DatabaseError(), Secretive(), RuntimeError()]),
    "an exception raised `from` one with an HTTP status": (
        "as that one",
        [wrapped(RuntimeError(), httpx_error(503)), wrapped(RuntimeError(), httpx_error(400))],
    ),
    "an exception group": (
        "where each of its exceptions would be",
        [
            ExceptionGroup("g", [httpx_error(503), ValueError()]),
            ExceptionGroup("g", [httpx_error(503), ExceptionGroup("h", [httpx_error(400)])]),
        ],
    ),
    "`sys.exit`, a cancellation, no `Exception`": (
        "no",
        [SystemExit(1), asyncio.CancelledError(), BaseExceptionGroup("g", [SystemExit(1), ValueError()])],
    ),
    "`RetryLater`": ("yes", [RetryLater(3.0)]),
}


@pytest.mark.parametrize("row", TRIED_AGAIN)
def test_what_is_tried_again_by_default_is_what_the_table_says(row: str) -> None:
    # given what the row is about
    answer, errors = TRIED_AGAIN[row]

    # when a retry without options is asked
    said = [Retry().retries(error) for error in errors]

    # then it says what the page does; where it depends, the examples are one for yes and one for no
    assert said == [answer == "yes"] * len(errors) if answer in {"yes", "no"} else said == [True, False]


def test_the_table_of_what_is_tried_again_has_these_rows_and_no_other() -> None:
    assert table(PAGE, "What an attempt ended with") == [[row, answer] for row, (answer, _) in TRIED_AGAIN.items()]


def test_the_table_of_options_tells_each_with_its_default() -> None:
    written = {name.strip("`"): default.strip("`") for name, default, _ in table(PAGE, "Option of `Retry`")}
    given = {field.name: field.default for field in fields(Retry)}
    assert written == {
        name: "(Exception,)" if default == (Exception,) else str(default) for name, default in given.items()
    }


@pytest.mark.parametrize("make", [pytest.param(broken_stream_of_anthropic, marks=ONE_PROCESS), broken_stream])
@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("invalid_request_error", 400),
        ("authentication_error", 401),
        ("billing_error", 402),
        ("permission_error", 403),
        ("not_found_error", 404),
        ("request_too_large", 413),
        ("rate_limit_error", 429),
        ("api_error", 500),
        ("timeout_error", 504),
        ("overloaded_error", 529),
        ("something_else", None),
    ],
)
def test_what_broke_a_stream_off_counts_as_the_status_that_goes_with_its_name(
    make: Callable[[str], Exception], kind: str, status: int | None
) -> None:
    assert status_of(make(kind)) == status
    assert is_transient(make(kind)) == (status in {None, 429} or status >= 500)


def test_the_status_of_a_response_counts_before_the_name_of_its_error() -> None:
    error = httpx_error(503)
    error.body = {"error": {"type": "invalid_request_error"}}  # type: ignore[attr-defined]  # as a client adds it
    assert status_of(error) == 503


@CLIENTS
@pytest.mark.parametrize("status", [400, 401, 404, 408, 409, 425, 429, 500, 503])
def test_the_status_is_found_in_the_errors_of_every_client(make: Callable[[int], Exception], status: int) -> None:
    error = make(status)
    assert status_of(error) == status
    assert is_transient(error) == (status in {408, 409, 425, 429, 500, 503})


def test_the_nearest_status_counts() -> None:
    # given an error with a status that was raised from one with another
    error = wrapped(AiohttpError(503), httpx_error(400))
    assert status_of(error) == 503
    assert is_transient(error)


def test_a_code_that_is_no_status_is_none() -> None:
    errors: list[BaseException] = [DatabaseError(), Secretive(), SystemExit(404), AiohttpError(0), AiohttpError(1006)]
    assert [status_of(error) for error in errors] == [None] * len(errors)


def test_never_wins_over_everything_but_the_agents_own_wish() -> None:
    retry = Retry(never=(ValueError, ExceptionGroup), when=lambda _: True)
    assert not retry.retries(ValueError())
    assert not retry.retries(UnicodeError())
    assert not retry.retries(ExceptionGroup("g", [KeyError()]))
    assert not Retry(never=ValueError).retries(ExceptionGroup("g", [KeyError(), ValueError()]))
    assert retry.retries(KeyError())
    assert Retry(never=Exception).retries(RetryLater(1.0))


def test_a_predicate_decides_alone() -> None:
    # given a predicate beside classes that say the opposite
    retry = Retry(on=KeyError, when=lambda error: "again" in str(error))

    # then only it counts, for errors that are never transient too
    assert retry.retries(ValueError("again"))
    assert not retry.retries(KeyError("not"))
    assert Retry(when=lambda error: status_of(error) == 404).retries(httpx_error(404))


def test_a_predicate_that_raises_lets_the_error_be(caplog: pytest.LogCaptureFixture) -> None:
    def when(error: BaseException) -> bool:
        raise LookupError(str(error))

    assert not Retry(when=when).retries(ValueError("x"))
    assert "LookupError: x" in caplog.text


def test_classes_narrow_what_is_tried_again() -> None:
    retry = Retry(on=(ConnectionError, TimeoutError))
    assert retry.retries(ConnectionRefusedError())
    assert not retry.retries(ValueError())
    assert retry.retries(ExceptionGroup("g", [TimeoutError(), RetryLater(1.0)]))
    assert not retry.retries(ExceptionGroup("g", [TimeoutError(), ValueError()]))
    assert Retry(on=ExceptionGroup).retries(ExceptionGroup("g", [ValueError()]))
    assert not Retry(on=()).retries(ValueError())
    # A class does not make a call succeed that was refused for good.
    assert not Retry(on=httpx2.HTTPError).retries(httpx_error(404))


# The rows of the page: the headers of a response, and the wait they ask for.
HEADERS: dict[str, tuple[str, Mapping[str, str]]] = {
    "`Retry-After: 30`": ("30 s", {"Retry-After": "30"}),
    "`Retry-After: 1.5`": ("1.5 s", {"Retry-After": "1.5"}),
    "`retry-after-ms: 1500`": ("1.5 s", {"retry-after-ms": "1500"}),
    "`retry-after-ms: 1500` and `Retry-After: 30`": ("1.5 s", {"retry-after-ms": "1500", "Retry-After": "30"}),
    "`Retry-After: Sun, 06 Nov 1994 08:50:37 GMT` and `Date: Sun, 06 Nov 1994 08:49:37 GMT`": (
        "60 s",
        {"Retry-After": "Sun, 06 Nov 1994 08:50:37 GMT", "Date": SENT},
    ),
    "a date before that of the response": ("0 s", {"Retry-After": "Sun, 06 Nov 1994 08:48:37 GMT", "Date": SENT}),
    "a date, and no `Date` to compare it to": ("nothing", {"Retry-After": "Sun, 06 Nov 1994 08:50:37 GMT"}),
    "`Retry-After: -5`": ("0 s", {"Retry-After": "-5"}),
    "`Retry-After: 1000000`": ("86,400 s", {"Retry-After": "1000000"}),
    "`Retry-After: soon`": ("nothing", {"Retry-After": "soon"}),
    "none": ("nothing", {"Content-Type": "text/plain"}),
}


def seconds_of(said: str) -> float | None:
    return None if said == "nothing" else float(said.removesuffix(" s").replace(",", ""))


@CLIENTS
@pytest.mark.parametrize("row", HEADERS)
def test_retry_after_is_what_the_table_says_with_every_client(
    make: Callable[[int, Mapping[str, str]], Exception], row: str
) -> None:
    # given an answer with these headers, as a client raises it
    said, headers = HEADERS[row]
    errors = [make(status, headers) for status in (429, 503)]

    # then the wait is what the page says
    assert [retry_after(error) for error in errors] == [seconds_of(said)] * 2


def test_the_table_of_headers_has_these_rows_and_no_other() -> None:
    assert table(PAGE, "The response's headers") == [[row, said] for row, (said, _) in HEADERS.items()]


@pytest.mark.parametrize(
    "date", ["Sunday, 06-Nov-94 08:50:37 GMT", "Sun Nov  6 08:50:37 1994", "Sun, 06 Nov 1994 09:50:37 +0100"]
)
def test_every_form_of_a_date_is_read(date: str) -> None:
    assert retry_after(httpx_error(503, {"retry-after": date, "date": SENT})) == 60.0


@pytest.mark.parametrize("status", [400, 401, 404, 408, 500, 502, 504])
def test_another_status_says_nothing_about_when(status: int) -> None:
    assert retry_after(httpx_error(status, {"Retry-After": "30"})) is None


def test_an_overload_says_when() -> None:
    assert retry_after(httpx_error(529, {"Retry-After": "30"})) == 30.0


def test_headers_without_a_status_say_when() -> None:
    class Limited(Exception):
        headers = {"Retry-After": "7"}  # noqa: RUF012  a stranger's class

    assert retry_after(Limited()) == 7.0


def test_retry_after_is_found_behind_an_error_of_the_agents_own() -> None:
    # given an error raised from a response's, at some distance
    error = wrapped(RuntimeError("no answer"), wrapped(LookupError(), openai_error(429, {"retry-after-ms": "250"})))
    assert retry_after(error) == 0.25


def test_the_longest_wait_of_a_group_counts() -> None:
    group = ExceptionGroup("g", [httpx_error(429, {"Retry-After": "3"}), httpx_error(503, {"Retry-After": "9"})])
    assert retry_after(group) == 9.0
    assert retry_after(ExceptionGroup("g", [ValueError()])) is None


def test_causes_that_lead_back_to_themselves_end() -> None:
    error = ValueError()
    wrapped(error, wrapped(KeyError(), error))
    assert retry_after(error) is None
    assert status_of(error) is None


@given(st.text(), st.text(), st.text())
def test_no_header_makes_it_raise_or_leave_its_bounds(milliseconds: str, wait: str, date: str) -> None:
    error = AiohttpError(429, {"retry-after-ms": milliseconds, "Retry-After": wait, "Date": date})
    found = retry_after(error)
    assert found is None or 0 <= found <= 86_400


@pytest.mark.parametrize(
    "wait", ["nan", "inf", "-inf", "1e3", "1_000", "١٢", "9" * 5000, "", " ", "Sun, 99 Nov 99999 08:49:37 GMT", "0x10"]
)
def test_nonsense_is_no_wait_or_the_longest(wait: str) -> None:
    found = retry_after(AiohttpError(429, {"Retry-After": wait, "Date": SENT}))
    assert found == (86_400 if wait.startswith("99") else None)


@pytest.mark.parametrize(
    "headers", [None, 7, "Retry-After: 5", ["Retry-After"], {b"Retry-After": b"5"}, {"Retry-After": None}]
)
def test_headers_of_a_strange_kind_say_nothing(headers: object) -> None:
    error = AiohttpError(429)
    error.headers = headers  # type: ignore[assignment]  # what a stranger's class may hold
    assert retry_after(error) is None


def test_the_first_delays_are_bounded_by_a_doubling_base_and_then_by_the_cap() -> None:
    # given a generator that draws the highest, or the lowest
    retry = Retry(base=0.5, cap=30.0)

    # then the bounds double from the base up to the cap
    highest = [retry.delay(attempt, lambda _, high: high) for attempt in range(1, 10)]
    assert highest == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
    assert {retry.delay(attempt, lambda low, _: low) for attempt in range(1, 10)} == {0.0}
    assert retry.delay(10**9, lambda _, high: high) == 30.0


def test_delays_are_spread_over_their_whole_interval() -> None:
    # given many workers that failed at one moment
    draw = Random(7).uniform  # noqa: S311  repeatable, no secret
    delays = [Retry().delay(4, draw) for _ in range(10_000)]

    # then they come back evenly, not together: full jitter
    assert min(delays) >= 0
    assert max(delays) <= 4.0
    assert statistics.mean(delays) == pytest.approx(2.0, rel=0.05)
    assert statistics.pstdev(delays) == pytest.approx(4.0 / math.sqrt(12), rel=0.05)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"max_attempts": 0}, "max_attempts must be a whole number from 1 to 1000, not 0"),
        ({"max_attempts": 1001}, "max_attempts must be a whole number from 1 to 1000, not 1001"),
        ({"max_attempts": 2.0}, "max_attempts must be a whole number from 1 to 1000, not 2.0"),
        ({"max_attempts": True}, "max_attempts must be a whole number from 1 to 1000, not True"),
        ({"base": 0}, "base must be above 0 s and at most a year, not 0"),
        ({"base": math.nan}, "base must be above 0 s and at most a year, not nan"),
        ({"base": "1"}, "base must be above 0 s and at most a year, not '1'"),
        ({"base": 40.0}, "base must not be above cap, 30 s, but is 40 s"),
        ({"cap": math.inf}, "cap must be above 0 s and at most a year, not inf"),
        ({"total": -1.0}, "total must be above 0 s and at most a year, not -1.0"),
        ({"on": "ValueError"}, "on must be a class of errors, or a tuple of some, not 'ValueError'"),
        ({"on": (ValueError, int)}, "on must be a class of errors, or a tuple of some, not <class 'int'>"),
        ({"never": [ValueError]}, "never must be a class of errors, or a tuple of some, not [<class 'ValueError'>]"),
        ({"when": 7}, "when must be a plain function of the error that returns a bool"),
        ({"when": asyncio.sleep}, "when must be a plain function of the error that returns a bool"),
        ({"budget": -0.1}, "budget must be from 0 to 1000 retries per first attempt, not -0.1"),
        ({"budget": math.nan}, "budget must be from 0 to 1000 retries per first attempt, not nan"),
        ({"floor": 0.0}, "floor must be above 0 retries per second and at most a million, not 0.0"),
        ({"floor": None}, "floor must be above 0 retries per second and at most a million, not None"),
    ],
)
def test_an_option_that_does_not_fit_is_an_error_that_names_the_line(options: dict[str, object], why: str) -> None:
    with pytest.raises(InvalidPolicy) as caught:
        Retry(**options)  # type: ignore[arg-type]  # what a user may write
    assert caught.value.args[0] == "Retry"
    assert caught.value.args[1].startswith(f"{__file__}:")
    assert caught.value.args[2] == why
    # A worker's result is JSON: the error is rebuilt from its arguments.
    assert str(InvalidPolicy(*json.loads(json.dumps(caught.value.args)))) == str(caught.value)


def test_an_agents_wish_tells_its_reason_and_when() -> None:
    assert str(RetryLater(2.5, "no file yet")) == "no file yet; again in 2.5 s"
    assert str(RetryLater(1, ValueError("busy"))) == "ValueError: busy; again in 1 s"  # type: ignore[arg-type]  # as people do
    assert str(RetryLater(0)) == "asked to be tried again; again in 0 s"


@pytest.mark.parametrize("after", [-1.0, math.nan, math.inf, 1e300, 10**400])
def test_a_wish_for_no_time_at_all_is_an_error_of_the_agent(after: float) -> None:
    with pytest.raises(ValueError, match="RetryLater takes seconds from now on, at most a year, not"):
        RetryLater(after)
