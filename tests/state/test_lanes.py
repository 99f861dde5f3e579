"""A queue's lanes as the scripts see them: what a later step has begun says nothing about another lane."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from kombu import Connection, Queue

from orchestrator.broker import STEPS, lane_of, message_priority
from orchestrator.runtime.transport import Transport
from orchestrator.state import keys
from tests.state.flows import counting

if TYPE_CHECKING:
    from kombu import Message
    from redis import Redis

    from orchestrator import Client
    from orchestrator.messages import Priority
    from tests.servers import Server

NOTE = {"text": "one two"}


def submit(client: Client, tenant: str) -> str:
    # In one shard whatever the key: marks are a shard's.
    for number in range(1000):
        run = client.submit(counting, NOTE, tenant=tenant, key=f"{tenant}-{number}")
        if keys.shard_of(run.id) == keys.shards(client.settings.shards)[0]:
            return run.id
        run.cancel()
    raise AssertionError


def other_lane(tenant: str) -> str:
    return next(name for name in map(str, range(1000)) if lane_of(name) not in {0, lane_of(tenant)})


def same_lane(tenant: str) -> str:
    return next(name for name in map(str, range(1000)) if lane_of(name) == lane_of(tenant) and name != tenant)


def overdue(client: Client, redis: Redis, run_id: str) -> str:
    redis.zadd(keys.ready(keys.shard_of(run_id)), {keys.member(run_id, "count"): 1})
    (what,) = client.store.redispatch([(run_id, "count")], queue_is_empty=[False])
    return what


def begin_later(client: Client, redis: Redis, run_id: str) -> None:
    """Begin a step as one that became ready a second later than it did."""
    record = json.loads(redis.hget(keys.run(run_id), "step:count") or b"{}")
    redis.hset(keys.run(run_id), "step:count", json.dumps(record | {"ready_ms": record["ready_ms"] + 1000}))
    client.store.begin(run_id, "count", agent="state.count", nonce="n", worker="w")


def test_both_languages_put_a_tenant_in_the_same_lane(client: Client, redis_client: Redis) -> None:
    for tenant in ("default", "north", "Zürich", "東京", "a b|c", "x" * 200):
        run = client.submit(counting, NOTE, tenant=tenant)
        client.store.begin(run.id, "count", agent="state.count", nonce="n", worker="w")
        lane = lane_of(tenant)
        mark = f"state.count|normal|{lane}" if lane else "state.count|normal"
        assert redis_client.hexists(keys.marks(keys.shard_of(run.id)), mark), tenant


def test_a_later_step_of_another_lane_does_not_make_a_waiting_one_overdue(client: Client, redis_client: Redis) -> None:
    # given a step that waits behind others of its tenant
    waiting = submit(client, "north")
    # when a later one begins whose tenant has another lane, then this is no loss
    begin_later(client, redis_client, submit(client, other_lane("north")))
    assert overdue(client, redis_client, waiting) == "wait"
    # when one of its own lane does, then its message is gone
    begin_later(client, redis_client, submit(client, same_lane("north")))
    assert overdue(client, redis_client, waiting) == "publish"


def test_a_worker_takes_from_the_lanes_of_each_queue_in_turn(server: Server, redis_client: Redis) -> None:
    # given two queues, in one of which a tenant has much to do and two have little; one of these has something urgent
    texts = {"north": "nnnnn", "east": "ee", "west": "w"}
    assert len({lane_of(tenant) for tenant in texts}) == len(texts)
    taken: dict[str, list[str]] = {"one": [], "other": []}

    def take(body: str, message: Message) -> None:
        taken[message.delivery_info["routing_key"]].append(body)
        message.ack()

    options = {"priority_steps": STEPS}
    with Connection(server.url, transport=Transport, transport_options=options) as connection:
        queues = [Queue(name, routing_key=name) for name in taken]
        with connection.Producer() as producer, connection.channel() as channel:
            for tenant, texts_of in [*texts.items(), ("north", "N")]:
                priority: Priority = "high" if texts_of.isupper() else "normal"
                number = message_priority(server.url, priority, tenant)
                for queue in queues:
                    for text in texts_of:
                        producer.publish(
                            text, routing_key=queue.name, declare=[queue], priority=number, serializer="json"
                        )
            # when a worker takes one after the other, from whichever queue it looks at
            channel.basic_qos(0, 1, False)  # noqa: FBT003  kombu's signature
            with connection.Consumer(queues, callbacks=[take], channel=channel, accept=["json"]):
                while sum(map(len, taken.values())) < 2 * 9:
                    connection.drain_events(timeout=5)
    for name in taken:
        redis_client.delete(f"_kombu.binding.{name}")
    # then what is urgent comes first, and then the tenants take turns, in each queue by itself
    for order in taken.values():
        assert order[0] == "N"
        assert sorted(order[1:4]) == ["e", "n", "w"]
        assert sorted(order[4:6]) == ["e", "n"]
        assert order[6:] == ["n", "n", "n"]
