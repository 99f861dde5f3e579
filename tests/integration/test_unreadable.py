"""Messages that nobody can read are set aside with their reason; no worker ends, and what is beside them runs."""

from __future__ import annotations

import base64
import json
import re
from typing import TYPE_CHECKING, Any, Final, cast

import pytest

from tests.servers import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.integration.fleet import Deployment, Pool
    from tests.servers import Kind

pytestmark = pytest.mark.integration

QUEUE: Final = "acme.first"
GOOD: Final = 50
NOBODY: Final = "0" * 24
KOMBUS_OWN: Final = re.compile(r"unreadable: (?!JSONDecodeError|UnicodeDecodeError|RecursionError)")
"""A reason that tells where kombu stumbled, not what is wrong."""

Message = dict[str, Any]  # a message as kombu writes it, and as nobody should


def encode(body: object) -> str:
    return base64.b64encode(json.dumps(body).encode()).decode()


def good(number: int) -> Message:
    """Return a message as kombu writes it, for a step that does not exist."""
    return {
        "body": encode([[], {"run": NOBODY, "step": "first"}, {}]),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {
            "lang": "py",
            "task": QUEUE,
            "id": f"odd-{number}",
            "root_id": f"odd-{number}",
            "parent_id": None,
            "argsrepr": "()",
            "kwargsrepr": "{}",
            "origin": "test",
        },
        "properties": {
            "correlation_id": f"odd-{number}",
            "reply_to": "",
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": QUEUE},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": f"tag-{number}",
        },
    }


def without(part: str) -> Callable[[Message], Message]:
    return lambda message: {name: value for name, value in message.items() if name != part}


def having(**parts: object) -> Callable[[Message], Message]:
    return lambda message: message | {name.replace("_", "-"): value for name, value in parts.items()}


def headed(**headers: object) -> Callable[[Message], Message]:
    return lambda message: message | {"headers": message["headers"] | headers}


def with_properties(**properties: object) -> Callable[[Message], Message]:
    return lambda message: message | {"properties": message["properties"] | properties}


def bodied(body: object) -> Callable[[Message], Message]:
    return having(body=encode(body))


def deep(levels: int) -> str:
    return base64.b64encode(b"[" * levels + b"]" * levels).decode()


RAW: Final[dict[str, bytes]] = {
    "not JSON": b"hello",
    "nothing": b"",
    "null bytes": b"\x00" * 64,
    "not UTF-8": b"\xff\xfe{}",
    "half a message": json.dumps(good(0)).encode()[:200],
    "JSON, a list": b"[1, 2, 3]",
    "JSON, a number": b"42",
    "JSON, a text": b'"hello"',
    "JSON, null": b"null",
    "JSON, an empty object": b"{}",
    "JSON, nested too deep": b"[" * 100_000 + b"]" * 100_000,
}
"""What is no message at all."""

SHAPES: Final[dict[str, Callable[[Message], Message]]] = {
    "without headers": without("headers"),
    "without properties": without("properties"),
    "without a body": without("body"),
    "without a content type": without("content-type"),
    "headers that are a list": having(headers=[1]),
    "headers that are null": having(headers=None),
    "properties that are a text": having(properties="x"),
    "without a delivery tag": lambda message: (
        message | {"properties": {"body_encoding": "base64", "delivery_info": message["properties"]["delivery_info"]}}
    ),
    "a delivery tag that is a list": with_properties(delivery_tag=[1]),
    "delivery info that is a number": with_properties(delivery_info=5),
    "an unknown body encoding": with_properties(body_encoding="rot13"),
    "a body that is not base64": having(body="!!!not-base64!!!"),
    "a body that is not JSON": having(body=base64.b64encode(b"hello").decode()),
    "a body that is a number": having(body=7),
    "an empty body": having(body=""),
    "a body of null bytes": having(body=base64.b64encode(b"\x00" * 32).decode()),
    "a body nested too deep": having(body=deep(100_000)),
    "a body that is an object": bodied({"run": NOBODY}),
    "a body of one part": bodied([[]]),
    "a body of null": bodied(None),
    "args that are a text": bodied(["x", {}, {}]),
    "args that are a number": bodied([5, {}, {}]),
    "kwargs that are a list": bodied([[], [1, 2], {}]),
    "kwargs that are null": bodied([[], None, {}]),
    "an embed that is a list": bodied([[], {"run": NOBODY, "step": "first"}, [1]]),
    "a chain that is no chain": bodied([[], {"run": NOBODY, "step": "first"}, {"chain": 5}]),
    "pickle": having(content_type="application/x-python-serialize"),
    "an unknown content type": having(content_type="application/x-nonsense"),
    "an unknown compression": headed(compression="application/x-nonsense"),
    "an unknown task": headed(task="acme.nobody"),
    "a task that is a list": headed(task=["acme.first"]),
    "a task that is null": headed(task=None),
    "an id that is a list": headed(id=[1]),
    "an id that is null": headed(id=None),
    "an ETA that is no time": headed(eta="tomorrow"),
    "an expiry that is no time": headed(expires="never"),
    "a time limit that is a text": headed(timelimit="long"),
    "retries that are a text": headed(retries="many"),
    "an agent's message with arguments": bodied([["x"], {}, {}]),
    "an agent's message without run and step": bodied([[], {}, {}]),
    "a run id that is none": bodied([[], {"run": "../etc", "step": "first"}, {}]),
    "a run id of null bytes": bodied([[], {"run": "\x00" * 24, "step": "first"}, {}]),
    "a run id that is a number": bodied([[], {"run": 5, "step": "first"}, {}]),
    "a step that is an object": bodied([[], {"run": NOBODY, "step": {}}, {}]),
    "more than run and step": bodied([[], {"run": NOBODY, "step": "first", "payload": "x" * 200_000}, {}]),
    "protocol 1": lambda message: (
        message
        | {"headers": {}, "body": encode({"task": QUEUE, "id": "odd", "args": [], "kwargs": {"run": 1, "step": 2}})}
    ),
    "protocol 1, an unknown task": lambda message: (
        message | {"headers": {}, "body": encode({"task": "acme.nobody", "id": "odd", "args": [], "kwargs": {}})}
    ),
}
"""What is nearly a message."""

REFUSED: Final[dict[str, Callable[[Message], Message]]] = {
    "a run that does not exist": having(),
    "a step that does not exist": bodied([[], {"run": NOBODY, "step": "x" * 10_000}, {}]),
    "an unknown content encoding, which nobody needs": having(content_encoding="klingon"),
}
"""What is a message, for nothing: refused and shown in Flower, and nothing is kept."""


def odd_messages() -> dict[str, bytes]:
    shaped = {
        name: json.dumps(shape(good(number))).encode() for number, (name, shape) in enumerate(SHAPES.items(), start=1)
    }
    return RAW | shaped


@pytest.mark.parametrize(("kind", "pool"), [("valkey", "prefork"), ("redis7", "asyncio")])
def test_unreadable_messages_are_set_aside_with_a_reason_and_all_others_run(
    make: Callable[..., Deployment], kind: Kind, pool: Pool
) -> None:
    # given good runs in the queue, and between them what no decoder can read
    deployment = make(kind)
    key = deployment.queue_key(QUEUE)
    odd = odd_messages()
    runs = deployment.client.submit_many("relay", [{"text": str(number)} for number in range(GOOD)])
    messages = deployment.messages(QUEUE)
    assert len(messages) == GOOD
    for number, raw in enumerate(odd.values()):
        # redis-py's annotation knows texts alone; the server takes any bytes.
        deployment.broker.linsert(key, "BEFORE", messages[number % GOOD].decode(), cast("str", raw))
    for number, shape in enumerate(REFUSED.values(), start=1000):
        deployment.broker.lpush(key, json.dumps(shape(good(number))))
    # when a worker takes them
    worker = deployment.start_worker(pool=pool).wait_until_ready()
    children = [child.pid for child in worker.children()]
    # then the good ones complete
    for number, run in enumerate(runs):
        assert run.result(timeout=30).text == str(number)
    # and each of the others is set aside with its reason
    wait_until(lambda: not deployment.waiting_messages(), 15, "no message is left")
    kept = deployment.dead.list(limit=1000)
    assert all(letter.reason and letter.queue == QUEUE for letter in kept), kept
    assert len(kept) == len(odd), missing_from(odd, [letter.body for letter in kept])
    # of which a person can understand that it is not the shape of a message, and which part
    reasons = [letter.reason for letter in kept]
    assert [reason for reason in reasons if KOMBUS_OWN.match(reason)] == []
    assert "misshapen: its property 'delivery_tag' is missing" in reasons
    # and it is the same worker with the same children, on its first connection
    assert worker.running
    assert [child.pid for child in worker.children()] == children
    assert worker.text().count(" ready.") == 1
    assert "Connection to broker lost" not in worker.text()
    assert not deployment.broker.hlen("unacked")
    assert not deployment.broker.zcard("unacked_index")


def missing_from(odd: dict[str, bytes], kept: list[str]) -> str:
    """Name, as well as that can be told, what was not set aside, or twice."""
    named = {name: raw.decode(errors="replace") for name, raw in odd.items()}
    return f"{len(kept)} kept of {len(odd)}: {sorted(kept)} of {named}"[:20_000]


def test_one_odd_message_alone_disturbs_nobody(deployment: Deployment) -> None:
    before = deployment.dead.count()
    deployment.broker.lpush(QUEUE, b"not a message")
    wait_until(lambda: deployment.dead.count() == before + 1, 15, "it is set aside")
    assert deployment.submit("relay").result(timeout=15).steps == 3
