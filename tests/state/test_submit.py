"""Submitting runs to a real server: what is created and enqueued, and what is refused before it is."""

from __future__ import annotations

import base64
import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, cast

import pytest
from pydantic import SecretStr

from orchestrator import Client, InvalidInput, KeyConflict, PayloadTooLarge, RunNotFound, UnknownFlow
from orchestrator.broker import STEPS
from orchestrator.errors import WrongState
from orchestrator.state import keys
from tests.servers import on_valkey, wait_until
from tests.state import flows
from tests.state.flows import Note, aliasing, begetting, counting, loosely, summing
from tests.state.invariants import look, problems

if TYPE_CHECKING:
    from collections.abc import Mapping

    from redis import Redis

    from orchestrator import Settings
    from orchestrator.messages import Priority

NOTE = {"text": "one two three"}
SEPARATOR = "\x06\x16"


def messages(redis: Redis, queue: str) -> list[dict[str, Any]]:
    """Return the messages of a queue, of every priority and lane, as kombu stores them."""
    found: list[bytes] = []
    for name in (f"{queue}{SEPARATOR}{number}" if number else queue for number in STEPS):
        found += cast("list[bytes]", redis.lrange(name, 0, -1))
    return [json.loads(raw) for raw in found]


def body(message: Mapping[str, Any]) -> list[Any]:
    """Return a message's arguments: positional, by name, and what follows in the chain."""
    return cast("list[Any]", json.loads(base64.b64decode(message["body"])))


def keys_of_runs(redis: Redis) -> list[str]:
    return sorted(key.decode() for key in redis.scan_iter() if not key.startswith(b"_kombu.binding"))


def test_a_submitted_run_is_queued_with_its_first_step_ready_and_one_message_under_way(
    client: Client, redis_client: Redis
) -> None:
    # when a run is submitted
    run = client.submit(counting, Note(text="a b"), tags={"batch": "7"}, tenant="acme", priority="low", deadline=60.0)

    # then its state says so
    state = run.state()
    assert (state.flow, state.status, state.tenant, state.priority) == ("counting", "queued", "acme", "low")
    assert (state.tags, state.key, state.deadline_ms - state.created_ms) == ({"batch": "7"}, None, 60_000)
    assert [(step.name, step.agent, step.status) for step in state.steps] == [
        ("count", "state.count", "ready"),
        ("answer", "state.answer", "pending"),
    ]
    assert run.value("input") == {"text": "a b", "number": 0}
    assert problems(look(client.store, run.id)) == []
    # and the message names the run and the step, the chain what follows
    (message,) = messages(redis_client, "state.count")
    _, kwargs, embedded = body(message)
    assert kwargs == {"run": run.id, "step": "count"}
    assert [link["kwargs"] for link in embedded["chain"]] == [{"run": run.id, "step": "answer"}]
    assert message["headers"]["id"] == message["headers"]["root_id"] == run.id
    assert message["headers"]["task"] == "state.count"


@pytest.mark.parametrize(("priority", "queue"), [("high", ""), ("normal", f"{SEPARATOR}3"), ("low", f"{SEPARATOR}6")])
def test_a_more_urgent_run_goes_to_the_queue_that_is_looked_at_first(
    client: Client,
    redis_client: Redis,
    priority: Priority,
    queue: str,
) -> None:
    client.submit(counting, NOTE, priority=priority)

    assert redis_client.llen(f"state.count{queue}") == 1


def test_the_size_of_a_message_does_not_depend_on_the_input(client: Client, redis_client: Redis) -> None:
    # given a small input, one of 200 KiB, and one that goes behind a claim check
    for size in (10, 200 * 1024, 2 * 1024 * 1024):
        # when it is submitted
        client.submit(counting, {"text": "x" * size})

    # then the messages are equally long, and short
    sizes = {len(raw) for raw in cast("list[bytes]", redis_client.lrange(f"state.count{SEPARATOR}3", 0, -1))}
    assert len(sizes) == 1
    assert max(sizes) < 8 * 1024


def test_a_large_input_is_kept_compressed_behind_a_claim_check(client: Client, redis_client: Redis) -> None:
    # given an input over the limit
    text = "x" * (client.settings.claim_check_bytes + 1)

    # when it is submitted
    run = client.submit(counting, {"text": text})

    # then the run holds a reference, and the value is smaller under a key of its own that expires
    stored = cast("bytes", redis_client.hget(keys.data(run.id), "input"))
    blob = keys.blob(run.id, "input")
    assert len(stored) < 100
    assert redis_client.strlen(blob) < len(text) / 10
    assert redis_client.pttl(blob) > client.settings.run_deadline * 1000
    assert run.value("input")["text"] == text


# Idempotency keys


def test_the_same_key_and_input_give_the_same_run(client: Client, redis_client: Redis) -> None:
    # given a run with a key
    first = client.submit(counting, NOTE, key="ticket-1")

    # when the same is submitted again, in another form
    second = client.submit("counting", Note.model_validate(NOTE), key="ticket-1")

    # then it is that run, enqueued once
    assert second.id == first.id
    assert first.state().key == "ticket-1"
    assert len(messages(redis_client, "state.count")) == 1


def test_the_same_key_with_another_input_or_flow_is_refused_with_the_run_it_belongs_to(client: Client) -> None:
    # given a run with a key
    first = client.submit(counting, NOTE, key="k")

    # when the key comes with another input, or another flow, then the error names key and run
    for flow, value in ((counting, {"text": "else"}), (loosely, {"anything": NOTE})):
        with pytest.raises(KeyConflict) as conflict:
            client.submit(flow, value, key="k")
        assert conflict.value.args == ("k", first.id)
    assert [state.id for state in client.list_runs()] == [first.id]


def test_a_key_is_its_tenants_own(client: Client) -> None:
    # given tenants and keys of which some run together to the same text
    pairs = [("a", "k"), ("b", "k"), ("a\0b", "c"), ("a", "b\0c")]

    # when each submits the same
    runs = {client.submit(counting, NOTE, tenant=tenant, key=key).id for tenant, key in pairs}

    # then each has a run
    assert len(runs) == len(pairs)


def test_thirty_two_concurrent_submissions_with_one_key_give_one_run(settings: Settings, redis_client: Redis) -> None:
    # given 32 producers
    clients = [Client(settings) for _ in range(32)]

    # when they submit the same at the same time
    with ThreadPoolExecutor(len(clients)) as pool:
        runs = {run.id for run in pool.map(lambda one: one.submit(counting, NOTE, key="one"), clients)}

    # then there is one run, and one message
    assert len(runs) == 1
    assert [state.id for state in clients[0].list_runs()] == list(runs)
    assert len(messages(redis_client, "state.count")) == 1
    for one in clients:
        one.app.close()
        one.store.client.close()


def test_a_large_input_submitted_again_leaves_no_second_copy(client: Client, redis_client: Redis) -> None:
    # given a run with a large input and a key
    large = {"text": "x" * (client.settings.claim_check_bytes + 1)}
    client.submit(counting, large, key="k")

    # when it is submitted again, and another one under its key
    client.submit(counting, large, key="k")
    with pytest.raises(KeyConflict):
        client.submit(counting, {**large, "number": 1}, key="k")

    # then there is one copy
    assert len([key for key in keys_of_runs(redis_client) if ":blob:" in key]) == 1


def test_a_submission_sent_again_because_its_reply_was_lost_is_enqueued(
    client: Client, redis_client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a submission that the server has executed, though the producer never heard of it
    run_id = keys.new_run_id(client.settings.shards)
    monkeypatch.setattr(keys, "new_run_id", lambda *_: run_id)
    monkeypatch.setattr(Client, "_publish", lambda *_: None)
    client.submit(counting, NOTE)
    monkeypatch.undo()

    # when redis-py sends the same again
    monkeypatch.setattr(keys, "new_run_id", lambda *_: run_id)
    run = client.submit(counting, NOTE)

    # then its message is under way
    assert run.id == run_id
    assert len(messages(redis_client, "state.count")) == 1


# Many at once


def test_many_submitted_at_once_are_as_many_runs_in_their_order(client: Client, redis_client: Redis) -> None:
    # given more inputs than go in one batch, the last two the same
    inputs = [{"text": f"note {number}"} for number in range(250)]
    names = [f"k{number}" for number in range(250)]

    # when they are submitted with keys, and the first ones again
    runs = client.submit_many(counting, inputs, keys=names, tags={"batch": "x"})
    again = client.submit_many(counting, inputs[:3], keys=names[:3])

    # then each has its run
    assert [run.value("input")["text"] for run in runs[::50]] == [note["text"] for note in inputs[::50]]
    assert len({run.id for run in runs}) == 250
    assert [run.id for run in again] == [run.id for run in runs[:3]]
    assert len(messages(redis_client, "state.count")) == 250
    assert len(client.store.newest(["queued"], 1000)) == 250


def test_no_inputs_are_no_runs(client: Client) -> None:
    assert client.submit_many(counting, []) == []


def test_as_many_keys_as_inputs_are_asked_for(client: Client, redis_client: Redis) -> None:
    with pytest.raises(InvalidInput, match="1 keys for 2 inputs"):
        client.submit_many(counting, [NOTE, NOTE], keys=["k"])
    assert keys_of_runs(redis_client) == []


@pytest.mark.parametrize("bad", [{"wrong": 1}, {"text": "x" * 2000}])
def test_one_bad_input_among_many_creates_none(redis_client: Redis, settings: Settings, bad: object) -> None:
    # given a client with a small limit
    client = Client(settings.model_copy(update={"max_payload_bytes": 1024}), connection=redis_client)

    # when the last of many inputs does not fit, then nothing is created, however many come before it
    with pytest.raises(InvalidInput):
        client.submit_many(counting, [NOTE] * 150 + [bad])
    assert keys_of_runs(redis_client) == []


# What is refused


@on_valkey
@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"flow": "nothing"}, "there is no flow 'nothing' (known: "),
        ({"input": {"texts": "x"}}, "text: Field required"),
        ({"input": "just text"}, "does not fit flow 'counting'"),
        ({"input": None}, "does not fit flow 'counting'"),
        ({"input": {"text": "x", "number": "many"}}, "number: Input should be a valid integer"),
        ({"input": {"text": "SHOUTED"}}, "text: "),
        ({"input": {"text": "\ud800"}}, "does not fit flow 'counting'"),
        ({"flow": loosely, "input": {"anything": object()}}, "does not fit flow 'loosely'"),
        ({"flow": loosely, "input": {"anything": "\ud800"}}, "does not fit flow 'loosely'"),
        ({"flow": summing, "input": ["x"] * 9}, "0: Input should be a valid integer"),
        ({"priority": "urgent"}, "priority must be high, normal or low, not 'urgent'"),
        ({"priority": []}, "priority must be"),
        ({"priority": "x" * 5000}, "priority must be"),
        ({"deadline": 0}, "deadline must be seconds"),
        ({"deadline": -1.0}, "deadline must be seconds"),
        ({"deadline": float("nan")}, "deadline must be seconds"),
        ({"deadline": float("inf")}, "deadline must be seconds"),
        ({"deadline": 10**9}, "deadline must be seconds"),
        ({"deadline": "60" * 5000}, "deadline must be seconds"),
        ({"deadline": True}, "deadline must be seconds"),
        ({"tenant": ""}, "tenant must be a text"),
        ({"tenant": None}, "tenant must be a text"),
        ({"tenant": "x" * 257}, "tenant must be a text"),
        ({"tenant": "\ud800"}, "tenant must be a text"),
        ({"key": ""}, "key must be a text"),
        ({"key": 7}, "key must be a text"),
        ({"key": "x" * 257}, "key must be a text"),
        ({"key": "\ud800"}, "key must be a text"),
        ({"tags": ["a"]}, "tags must map names to texts"),
        ({"tags": "a"}, "tags must map names to texts"),
        ({"tags": {"a": 1}}, "tag 'a' must be a text"),
        ({"tags": {1: "a"}}, "a tag's name must be a text"),
        ({"tags": {"a": "x" * 257}}, "tag 'a' must be a text"),
        ({"tags": {"a": "\ud800"}}, "tag 'a' must be a text"),
        ({"tags": {f"t{number}": "x" for number in range(33)}}, "33 tags; a run has at most 32"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line_and_nothing_is_enqueued(
    client: Client, redis_client: Redis, options: dict[str, Any], says: str
) -> None:
    # when something is submitted that does not fit
    with pytest.raises(InvalidInput) as refused:
        client.submit(**{"flow": counting, "input": NOTE, **options})

    # then one line says what, and nothing has happened
    assert says in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1
    assert len(str(refused.value)) < 1000
    assert keys_of_runs(redis_client) == []


def test_an_unknown_flow_has_an_error_of_its_own(client: Client) -> None:
    with pytest.raises(UnknownFlow) as unknown:
        client.submit("nothing", NOTE)
    assert unknown.value.args[0] == "nothing"


def test_an_error_does_not_repeat_the_input(client: Client) -> None:
    with pytest.raises(InvalidInput) as refused:
        client.submit(counting, {"text": "fine", "number": "a secret"})
    assert "secret" not in str(refused.value)


def test_an_input_over_the_maximum_is_refused_with_its_size_and_the_limit(
    redis_client: Redis, settings: Settings
) -> None:
    # given a limit
    client = Client(
        settings.model_copy(update={"max_payload_bytes": 2048, "claim_check_bytes": 1024}), connection=redis_client
    )

    # when an input is larger
    with pytest.raises(PayloadTooLarge) as refused:
        client.submit(counting, {"text": "x" * 5000})

    # then both numbers are told, and nothing is stored
    assert "5,022 bytes, the limit is 2,048" in str(refused.value)
    assert keys_of_runs(redis_client) == []


# For producers that see no exception


def test_a_start_is_a_submission_and_its_message_the_key(client: Client, redis_client: Redis) -> None:
    # when a message asks for a run, and is delivered twice
    first, second = (client.start("counting", NOTE, message_id="m1", tenant="acme") for _ in range(2))

    # then there is one run
    assert first.id == second.id
    assert first.state().tenant == "acme"
    assert len(messages(redis_client, "state.count")) == 1


@on_valkey
@pytest.mark.parametrize(
    ("flow", "value", "options", "reason"),
    [
        ("nothing", NOTE, {}, "refused: there is no flow 'nothing'"),
        (7, NOTE, {}, "refused: flow must be the name of a flow, not int"),
        (None, None, {}, "refused: flow must be the name of a flow, not NoneType"),
        ("\ud800", NOTE, {}, "refused: there is no flow"),
        ("counting", "text", {}, "refused: the input does not fit flow 'counting'"),
        ("counting", NOTE, {"colour": "red"}, "refused: unknown arguments: colour"),
        ("counting", NOTE, {"\ud800": "red"}, "refused: unknown arguments: "),
        ("counting", NOTE, {"deadline": "soon"}, "refused: deadline must be seconds"),
        ("counting", NOTE, {"tags": ["a"]}, "refused: tags must map"),
        ("counting", NOTE, {"key": ["a"]}, "refused: key must be a text"),
        ("counting", NOTE, {"key": "\ud800"}, "refused: key must be a text"),
        ("counting", {"text": "x" * (17 * 1024 * 1024)}, {}, "refused: the input is 17,"),
    ],
)
def test_a_start_that_is_refused_is_recorded_as_a_failed_run_with_the_reason(
    client: Client, redis_client: Redis, flow: object, value: object, options: dict[str, object], reason: str
) -> None:
    # when a message asks for what does not fit, and is delivered twice
    run, again = (client.start(flow, value, message_id="m1", **options) for _ in range(2))

    # then one run tells why, has ended and expires
    state = run.state()
    assert (state.status, state.steps, again.id) == ("failed", (), run.id)
    assert (state.reason or "").startswith(reason)
    assert [event.type for event in run.events()] == ["RunSubmitted", "RunFailed"]
    assert problems(look(client.store, run.id)) == []
    assert messages(redis_client, "state.count") == []


def test_a_start_whose_key_is_taken_is_refused_and_leaves_the_key_alone(client: Client) -> None:
    # given a run under a key
    first = client.submit(counting, NOTE, key="k")

    # when a message wants the key for something else
    refused = client.start("counting", {"text": "else"}, message_id="m1", key="k")

    # then it is refused, and the key is the first's still
    assert refused.state().status == "failed"
    assert "was used by run" in (refused.state().reason or "")
    assert client.submit(counting, NOTE, key="k").id == first.id


# Time


def test_a_run_whose_deadline_passes_fails_and_starts_no_step(client: Client) -> None:
    # given a run with a deadline of a millisecond
    run = client.submit(counting, NOTE, deadline=0.001)

    # when it has passed and the caretaker looks
    wait_until(lambda: client.store.expire(run.id).what != "early", 5.0, "the run's deadline passes")

    # then the run has failed, and a late message finds it closed
    state = run.state()
    assert (state.status, state.reason) == ("failed", "the run's deadline passed before it was done")
    refused = client.store.begin(run.id, "count", agent="state.count", nonce="n", worker="w")
    assert getattr(refused, "why", "") == "closed"
    assert problems(look(client.store, run.id)) == []


def test_a_run_past_its_deadline_starts_no_step_even_before_anybody_has_noticed(client: Client) -> None:
    # given a run with a deadline of a millisecond
    run = client.submit(counting, NOTE, deadline=0.001)
    store = client.store

    # when it has passed
    wait_until(lambda: store.timers([keys.shard_of(run.id)]) == [(run.id, None)], 5.0, "the run's deadline passes")

    # then a step that is delivered does not begin, though the run has not been ended
    refused = store.begin(run.id, "count", agent="state.count", nonce="n", worker="w")
    assert (getattr(refused, "why", ""), run.status()) == ("closed", "queued")


def test_the_agents_that_submission_needs_are_registered_here() -> None:
    assert {step.agent for flow in (counting, aliasing, loosely, summing, begetting) for step in flow.plan()} == set(
        flows.QUEUES
    )


def test_a_key_whose_run_has_expired_is_free_again(client: Client, redis_client: Redis) -> None:
    # given a run that has ended, and is gone after its retention, long before its deadline
    first = client.submit("counting", {"text": "a"}, key="ticket")
    first.cancel()
    redis_client.delete(keys.run(first.id), keys.data(first.id), keys.events(first.id))
    # when the key comes again
    second = client.submit("counting", {"text": "a"}, key="ticket")
    # then it is new work and not a run that nobody can find
    assert second.id != first.id
    assert second.status() == "queued"
    assert client.submit("counting", {"text": "a"}, key="ticket").id == second.id


def test_a_run_is_stored_and_no_error_while_the_broker_is_away(
    settings: Settings, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    # given a broker that cannot be reached
    away = Client(settings.model_copy(update={"broker_url": SecretStr("redis://127.0.0.1:1/0")}))

    # when a run is submitted
    run = away.submit("counting", {"text": "a"}, key="ticket")

    # then it is stored, its step due for the caretaker, and the log says so; an error would make two runs of it
    assert client.get(run.id).status() == "queued"
    assert "stored, but not published yet" in caplog.text
    assert away.submit("counting", {"text": "a"}, key="ticket").id == run.id


# Children


def test_a_parent_that_does_not_exist_is_told_from_one_that_has_ended(client: Client, redis_client: Redis) -> None:
    # given a run that has ended, and an id that no run has
    ended = client.submit(counting, NOTE)
    ended.cancel()
    nobody = f"{'0' * 22}{ended.id[-2:]}"
    before = set(redis_client.keys())

    # when they are to be a run's parents, then both are refused, each for what it is
    with pytest.raises(RunNotFound, match=f"there is no run '{nobody}'"):
        client.submit(counting, NOTE, parent=nobody)
    with pytest.raises(WrongState, match=f"run {ended.id}: it has ended"):
        client.submit(counting, NOTE, parent=ended.id)
    assert set(redis_client.keys()) == before
