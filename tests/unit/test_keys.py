"""Run ids and the keys that are made of them."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
from redis.crc import key_slot

from orchestrator.state import keys


def clock(monkeypatch: pytest.MonkeyPatch, milliseconds: int) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: milliseconds * 1_000_000)


def test_ids_sort_by_the_time_they_were_made(monkeypatch: pytest.MonkeyPatch) -> None:
    # given ids made at times that differ in every digit, up to the year 2500
    times = [0, 1, 31, 32, 1023, 1024, 10**9, 1_795_000_000_000, 1_795_000_000_001, 16_725_225_600_000]
    made = []
    for now in times:
        clock(monkeypatch, now)
        made.append(keys.new_run_id(256))

    # then their order is that of the times
    assert all(before < after for before, after in pairwise(made))


def test_ids_made_at_the_same_time_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch, 1_795_000_000_000)

    assert len({keys.new_run_id(8) for _ in range(1000)}) == 1000


@pytest.mark.parametrize("count", [1, 2, 8, 100, 256])
def test_the_last_two_digits_of_an_id_are_its_shard(count: int) -> None:
    # given ids for a number of shards
    made = [keys.new_run_id(count) for _ in range(2000)]

    # then each is on one of them, and none is left out
    assert {keys.shard_of(run_id) for run_id in made} <= set(keys.shards(count))
    assert len({run_id[-2:] for run_id in made}) > count * 0.9
    assert all(keys.is_run_id(run_id) for run_id in made)


def test_an_idempotency_key_decides_the_shard() -> None:
    # given ids made under keys, when they are made again
    first, second = ([keys.new_run_id(8, f"k{n}", "acme")[-2:] for n in range(50)] for _ in range(2))

    # then each key stays on its shard, and the keys are spread
    assert first == second
    assert len(set(first)) > 4


def test_a_child_is_on_its_parents_shard_whatever_its_key() -> None:
    parent = keys.new_run_id(256)

    assert {keys.new_run_id(256, key, "acme", parent)[-2:] for key in (None, "k1", "k2")} == {parent[-2:]}


def test_every_key_of_a_run_is_in_one_hash_slot() -> None:
    for run_id in (keys.new_run_id(256) for _ in range(100)):
        all_of_it = [
            *keys.of_run(run_id),
            keys.blob(run_id, "input"),
            keys.blob(run_id, "inner/step@1-1-abc"),
            keys.idempotency(run_id, "acme", "a key with } and { in it"),
        ]
        assert len({key_slot(key.encode()) for key in all_of_it}) == 1
        assert len(set(all_of_it)) == len(all_of_it)


def test_two_submissions_with_one_key_meet_at_one_record() -> None:
    first, second = (keys.new_run_id(256, "k", "acme") for _ in range(2))

    assert keys.idempotency(first, "acme", "k") == keys.idempotency(second, "acme", "k")


def test_no_two_tenants_share_a_record() -> None:
    run_id = keys.new_run_id(1)
    pairs = [
        ("a", "bc"),
        ("ab", "c"),
        ("", "abc"),
        ("a", "1:bc"),
        ("a\0", "bc"),
        ("a", "\0bc"),
        ("1", ":a"),
        ("", "1:a"),
    ]

    assert len({keys.idempotency(run_id, tenant, key) for tenant, key in pairs}) == len(pairs)


def test_shards_are_spread_over_the_slots_of_a_cluster() -> None:
    assert len({key_slot(keys.ready(shard).encode()) for shard in keys.shards(256)}) > 250


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "0" * 23,
        "0" * 25,
        "0" * 22 + "0g",
        "0" * 22 + "0G",
        "l" * 22 + "00",
        "O" + "0" * 23,
        "{s00}" + "0" * 19,
    ],
)
def test_what_is_no_run_id_is_told_from_one(text: str) -> None:
    assert not keys.is_run_id(text)
    assert keys.is_run_id("0" * 24)


def test_an_index_entry_gives_back_the_run_and_the_step() -> None:
    run_id = keys.new_run_id(8)

    assert keys.split_member(keys.member(run_id, "inner/step")) == (run_id, "inner/step")
    assert keys.split_member(run_id) == (run_id, None)
    # the time by which a step must be done, and the end of a run's children
    assert keys.split_member(keys.member(run_id, "/inner/step")) == (run_id, "/inner/step")
    assert keys.split_member(keys.member(run_id, "/")) == (run_id, "/")
