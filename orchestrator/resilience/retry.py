"""Which failures of an agent are tried again, how often, and when."""

from __future__ import annotations

import inspect
import logging
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from random import uniform
from typing import TYPE_CHECKING, Final

from orchestrator.errors import InvalidPolicy, RetryLater, definition_site
from orchestrator.resilience.options import is_number

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

logger = logging.getLogger(__name__)

LONGEST: Final = 366 * 86400.0
"""Seconds; as long as a run may take."""
MOST_ATTEMPTS: Final = 1000
MOST_DOUBLINGS: Final = 64
"""Beyond these the cap has been reached long since, and a float would overflow."""

TRANSIENT: Final = frozenset({408, 409, 425, 429})
FIRST_OF_THE_SERVER: Final = 500
WITH_RETRY_AFTER: Final = frozenset({429, 503, 529})
"""Statuses whose Retry-After says when to try again; 529 is Anthropic's for an overload."""
LONGEST_RETRY_AFTER: Final = 86400.0

DEEPEST: Final = 20
"""Causes and groups that are looked through; a chain of causes may lead back to itself."""
STATUSES: Final = range(300, 600)
"""Below, the answer had begun well: what broke it off in the midst of a stream is not in its status."""
STATUS_OF: Final = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
"""
What the services of Anthropic and OpenAI name an error in the midst of a stream, and the status that goes with it.

Source: docs.anthropic.com, "Errors".
"""
NUMBER: Final = re.compile(r"-?\d+(\.\d+)?", re.ASCII)

Errors = type[BaseException] | tuple[type[BaseException], ...]


@dataclass(frozen=True, kw_only=True)
class Retry:
    """
    When a failed attempt is followed by another; durations are seconds.

    Attributes:
        max_attempts: in all, the first one included.
        base: bounds the delay after the first attempt; doubled for each further one, up to `cap`.
        total: from when the step was first ready to the begin of its last attempt; None: no limit of its own.
        on: classes of errors that are tried again where they are transient; `never`: classes that never are.
        when: a predicate of the error that decides in place of `on` and of what is transient.
        budget: retries for each first attempt of the agent, in the whole fleet; None: as many as there are failures.
        floor: retries a second that the budget always allows.

    Raises:
        InvalidPolicy: a value does not fit; the message names the file.
    """

    max_attempts: int = 4
    base: float = 0.5
    cap: float = 30.0
    total: float | None = None
    on: Errors = (Exception,)
    never: Errors = ()
    when: Callable[[BaseException], bool] | None = None
    budget: float | None = 0.2
    floor: float = 1.0

    def __post_init__(self) -> None:
        _attempts(self.max_attempts)
        _seconds("base", self.base)
        _seconds("cap", self.cap)
        if self.base > self.cap:
            raise _invalid(f"base must not be above cap, {self.cap:g} s, but is {self.base:g} s")
        if self.total is not None:
            _seconds("total", self.total)
        _classes("on", self.on)
        _classes("never", self.never)
        _predicate(self.when)
        if self.budget is not None and not (is_number(self.budget) and 0 <= self.budget <= MOST_ATTEMPTS):
            raise _invalid(
                f"budget must be from 0 to {MOST_ATTEMPTS} retries per first attempt, not {self.budget!r:.40}"
            )
        if not (is_number(self.floor) and 0 < self.floor <= 1e6):  # noqa: PLR2004  more than Redis counts in a second
            raise _invalid(f"floor must be above 0 retries per second and at most a million, not {self.floor!r:.40}")

    def delay(self, attempt: int, random: Callable[[float, float], float] = uniform) -> float:
        """
        Return the wait before the next attempt: full jitter under a capped exponential.

        Args:
            attempt: attempts made so far; 1 after the first failure.
            random: draws from an interval.

        Returns:
            Seconds, from 0 to `min(cap, base * 2 ** (attempt - 1))`.

        Source: Brooker, "Exponential Backoff And Jitter", 2015.
        """
        return random(0.0, min(self.cap, self.base * 2.0 ** min(max(attempt - 1, 0), MOST_DOUBLINGS)))

    def retries(self, error: BaseException) -> bool:
        """
        Tell whether an error is one to try again after, attempts and time permitting.

        `never` wins, then `when` decides alone; else the error is one of `on`, and transient. A group is tried again
        where each of its errors is. `RetryLater` always is: the agent asks for it.
        """
        if isinstance(error, RetryLater):
            return True
        inside = list(_leaves(error))
        if any(isinstance(one, self.never) for one in (error, *inside)):
            return False
        if self.when is not None:
            return self._decides(self.when, error)
        wanted = isinstance(error, self.on)
        return all(
            isinstance(one, RetryLater) or ((wanted or isinstance(one, self.on)) and is_transient(one))
            for one in inside
        )

    @staticmethod
    def _decides(when: Callable[[BaseException], bool], error: BaseException) -> bool:
        try:
            return bool(when(error))
        except Exception:
            # The step has failed, and its reason is the agent's error, not the predicate's.
            logger.exception("the predicate `when` of a Retry raised; the error is not tried again")
            return False


def is_transient(error: BaseException) -> bool:
    """
    Tell whether the same call may succeed later.

    An error that carries an HTTP status is transient for 408, 409, 425, 429 and from 500 on; every other error is. A
    group is where each of its errors is.
    """
    for inner in _leaves(error):
        status = status_of(inner)
        if status is not None and status not in TRANSIENT and status < FIRST_OF_THE_SERVER:
            return False
    return True


def status_of(error: BaseException) -> int | None:
    """
    Return the HTTP status that an error carries, or the nearest of its causes; None where there is none.

    Known are `error.status_code` (the clients of OpenAI and Anthropic), `error.response.status_code` (httpx, requests),
    `error.status` (aiohttp) and `error.code` (urllib). What broke a stream off is found by its name in `error.body`.
    """
    return next((status for link in _causes(error) if (status := _status(link)) is not None), None)


def retry_after(error: BaseException) -> float | None:
    """
    Return how long the server asks to wait, from the headers of its response; never raises.

    `retry-after-ms` counts before `retry-after`, which is a number of seconds or a date. A date is taken relative to
    the `Date` of the same response, so that no clock of a worker counts; without one it says nothing. Only for 429,
    503 and 529, or where the status is not known. Of a group, the longest.

    Returns:
        Seconds, 0 to 86,400; None where nothing usable is said.
    """
    asked = [seconds for inner in _leaves(error) if (seconds := _nearest_wait(inner)) is not None]
    return max(asked, default=None)


def _nearest_wait(error: BaseException) -> float | None:
    for link in _causes(error):
        status = _status(link)
        if status is not None and status not in WITH_RETRY_AFTER:
            return None
        headers = _headers(link)
        seconds = _milliseconds(headers.get("retry-after-ms"))
        if seconds is None:
            seconds = _number_or_date(headers.get("retry-after"), headers.get("date"))
        if seconds is not None:
            return min(max(seconds, 0.0), LONGEST_RETRY_AFTER)
    return None


def _leaves(error: BaseException, depth: int = 0) -> Iterator[BaseException]:
    """Give the errors of a group, and of groups in it; any other error itself."""
    if not isinstance(error, BaseExceptionGroup) or depth == DEEPEST:
        yield error
        return
    for inner in error.exceptions:
        yield from _leaves(inner, depth + 1)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Give an error and what it was raised from, nearest first."""
    link: BaseException | None = error
    for _ in range(DEEPEST):
        if link is None:
            return
        yield link
        link = link.__cause__


def _status(error: BaseException) -> int | None:
    response = _attribute(error, "response")
    named = [_attribute(error, "status_code"), _attribute(response, "status_code")]
    if response is not None or _attribute(error, "headers") is not None:
        # `code` and `status` are numbers of another kind in the errors of a database or a process.
        named += [_attribute(error, "status"), _attribute(error, "code")]
    found = next((int(value) for value in named if isinstance(value, int) and value in STATUSES), None)
    return _named_status(error) if found is None else found


def _named_status(error: BaseException) -> int | None:
    body = _attribute(error, "body")
    inner = body.get("error", body) if isinstance(body, dict) else None
    name = inner.get("type") if isinstance(inner, dict) else None
    return STATUS_OF.get(name) if isinstance(name, str) else None


def _headers(error: BaseException) -> dict[str, str]:
    """Return the headers of the response that an error carries, with names in lower case."""
    response = _attribute(error, "response")
    for headers in (_attribute(response, "headers"), _attribute(error, "headers")):
        items = _attribute(headers, "items")
        try:
            found = {str(name).lower(): str(value) for name, value in items()} if callable(items) else {}
        except Exception:  # noqa: BLE001, S112  a foreign object of any shape: what cannot be read says nothing
            continue
        if found:
            return found
    return {}


def _attribute(thing: object, name: str) -> object:
    try:
        return getattr(thing, name, None)
    except Exception:  # noqa: BLE001  a property of a foreign class may raise: httpx's do where nothing is set
        return None


def _milliseconds(text: str | None) -> float | None:
    return float(text) / 1000 if text is not None and NUMBER.fullmatch(text := text.strip()) else None


def _number_or_date(text: str | None, sent: str | None) -> float | None:
    if text is None:
        return None
    if NUMBER.fullmatch(text := text.strip()):
        return float(text)
    if sent is None:
        return None
    try:
        return (_date(text) - _date(sent)).total_seconds()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None  # no date; the parser says so in several ways


def _date(text: str) -> datetime:
    date = parsedate_to_datetime(text)
    # An HTTP date without a zone, as asctime writes it, is UTC.
    return date if date.tzinfo is not None else date.replace(tzinfo=UTC)


def _invalid(why: str) -> InvalidPolicy:
    return InvalidPolicy("Retry", definition_site(), why)


def _attempts(value: object) -> None:
    if not (isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MOST_ATTEMPTS):
        raise _invalid(f"max_attempts must be a whole number from 1 to {MOST_ATTEMPTS}, not {value!r:.40}")


def _seconds(name: str, value: object) -> None:
    if not (is_number(value) and 0 < value <= LONGEST):
        raise _invalid(f"{name} must be above 0 s and at most a year, not {value!r:.40}")


def _predicate(value: object) -> None:
    if value is not None and (not callable(value) or inspect.iscoroutinefunction(value)):
        # A coroutine that nobody awaits is true, and would have everything tried again.
        raise _invalid("when must be a plain function of the error that returns a bool")


def _classes(name: str, value: object) -> None:
    for kind in value if isinstance(value, tuple) else (value,):
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            raise _invalid(f"{name} must be a class of errors, or a tuple of some, not {kind!r:.80}")
