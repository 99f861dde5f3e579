"""Messages that were set aside: found by their ids, dropped, or put back into their queue as they were."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Final, cast

import pytest
from kombu import Connection

from orchestrator.errors import InvalidInput
from orchestrator.state import keys
from orchestrator.state.dead import CUT, MAX_BODY, NO_MESSAGE, DeadLetters, is_message_id
from tests.docs.tables import table

if TYPE_CHECKING:
    from redis import Redis

QUEUE: Final = "acme.first"
NOBODY: Final = "1753950000000-0"


def envelope(**parts: object) -> bytes:
    """Return a message as kombu writes it, apart from some of its parts."""
    whole = {"body": "W10=", "headers": {"task": QUEUE, "id": "a"}, "properties": {"priority": 3, "delivery_tag": "t"}}
    return json.dumps(whole | parts).encode()


def set_aside(letters: DeadLetters, body: bytes) -> str:
    letters.add(queue=QUEUE, reason="misshapen", body=body)
    return letters.list(1)[0].id


def queued(client: Redis, priority: str = "\x06\x163") -> list[bytes]:
    return cast("list[bytes]", client.lrange(f"{QUEUE}{priority}", 0, -1))


def test_message_is_found_by_its_id(redis_client: Redis) -> None:
    letters = DeadLetters(redis_client)
    first, second = set_aside(letters, b"one"), set_aside(letters, b"two")

    found = letters.get(first)

    assert (found.id, found.queue, found.reason, found.body) == (first, QUEUE, "misshapen", "one")
    assert [letter.id for letter in letters.list()] == [second, first]


def test_message_goes_back_into_its_queue_as_it_was_behind_what_is_there(redis_client: Redis, redis_url: str) -> None:
    # given a message of normal priority, and one that waits already
    letters = DeadLetters(redis_client)
    body = envelope()
    message_id = set_aside(letters, body)
    redis_client.lpush(f"{QUEUE}\x06\x163", b"earlier")

    # when
    with Connection(redis_url) as broker:
        letters.redrive(message_id, broker)

    # then: workers take from the right
    assert queued(redis_client) == [body, b"earlier"]
    assert letters.count() == 0


def test_message_that_names_no_priority_goes_back_to_the_first(redis_client: Redis, redis_url: str) -> None:
    letters = DeadLetters(redis_client)
    message_id = set_aside(letters, envelope(properties={}))

    with Connection(redis_url) as broker:
        letters.redrive(message_id, broker)

    assert len(queued(redis_client, "")) == 1


@pytest.mark.parametrize(
    ("body", "why"),
    [
        pytest.param(envelope(body="x" * MAX_BODY), CUT, id="cut"),
        pytest.param(b"hello", NO_MESSAGE, id="not JSON"),
        pytest.param(b"[" * 60_000, NO_MESSAGE, id="nested too deep"),
        pytest.param(b'[[], {"run": "r", "step": "s"}, {}]', NO_MESSAGE, id="arguments alone"),
        pytest.param(b'{"args": [], "run": 5}', NO_MESSAGE, id="what an agent's task was called with"),
        pytest.param(envelope(headers=None), NO_MESSAGE, id="without headers"),
        pytest.param(envelope(properties="x"), NO_MESSAGE, id="properties that are a text"),
    ],
)
def test_what_is_not_kept_whole_can_only_be_dropped(redis_client: Redis, redis_url: str, body: bytes, why: str) -> None:
    # given
    letters = DeadLetters(redis_client)
    message_id = set_aside(letters, body)
    assert letters.get(message_id).hindrance == why

    # when
    with Connection(redis_url) as broker, pytest.raises(InvalidInput, match="it can only be dropped"):
        letters.redrive(message_id, broker)

    # then it is kept until that is done
    assert letters.count() == 1
    assert not queued(redis_client)
    letters.drop(message_id)
    assert letters.count() == 0


REDRIVEN = table("dead-letters.md", "The message")


@pytest.mark.parametrize(("message", "wanted"), REDRIVEN, ids=[row[0] for row in REDRIVEN])
def test_the_table_of_what_can_be_redriven(redis_client: Redis, redis_url: str, message: str, wanted: str) -> None:
    # given
    whole, body, url = envelope(), b"", redis_url
    match message:
        case "kept whole, as Celery had written it":
            body = whole
        case "longer than 64 KiB, of which only the beginning is kept":
            body = envelope(body="x" * MAX_BODY)
        case "of which only the arguments are kept, or that is none of Celery's":
            body = b'[[], {"run": "r", "step": "s"}, {}]'
        case "on a broker other than Redis":
            body, url = whole, "memory://"
    letters = DeadLetters(redis_client)
    message_id = set_aside(letters, body)
    # when
    with Connection(url) as broker, contextlib.suppress(InvalidInput):
        letters.redrive(message_id, broker)
    # then
    assert queued(redis_client) == ([whole] if wanted == "yes" else [])


def test_a_broker_that_is_not_redis_is_refused_and_the_message_kept(redis_client: Redis) -> None:
    letters = DeadLetters(redis_client)
    message_id = set_aside(letters, envelope())

    with Connection("memory://") as broker, pytest.raises(InvalidInput, match="on a Redis broker alone"):
        letters.redrive(message_id, broker)

    assert letters.count() == 1


@pytest.mark.parametrize("message_id", [NOBODY, "x", "", "-", "+", "$", "1-2-3", f"{'9' * 25}-0"])
def test_id_of_no_message_is_told(redis_client: Redis, redis_url: str, message_id: str) -> None:
    letters = DeadLetters(redis_client)
    set_aside(letters, envelope())

    with Connection(redis_url) as broker:
        for call in (letters.get, letters.drop, lambda given: letters.redrive(given, broker)):
            with pytest.raises(InvalidInput, match="there is no message"):
                call(message_id)


def test_ids_of_runs_and_messages_have_different_shapes() -> None:
    assert is_message_id(NOBODY)
    assert not is_message_id("01m827j9mx48nx7rdn7rf906")
    assert not keys.is_run_id(NOBODY)
