"""Values beside the run's state, and those behind a claim check."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from orchestrator.errors import PayloadTooLarge, WrongState
from orchestrator.state import keys
from orchestrator.state.payload import Payloads

if TYPE_CHECKING:
    from redis import Redis

LIMIT = 1000
RUN = keys.new_run_id(8)


@pytest.fixture
def payloads(redis_client: Redis) -> Payloads:
    return Payloads(redis_client, claim_bytes=LIMIT, max_bytes=10 * LIMIT)


@pytest.mark.parametrize("size", [2, LIMIT - 1, LIMIT])
def test_a_value_up_to_the_limit_is_stored_as_it_is(payloads: Payloads, redis_client: Redis, size: int) -> None:
    value = json.dumps("x" * (size - 2)).encode()

    assert payloads.put(RUN, "input", value, ttl_ms=1000) == value
    assert payloads.get(RUN, value) == value
    assert redis_client.dbsize() == 0


def test_a_value_over_the_limit_is_stored_compressed_under_a_key_of_its_own_that_expires(
    payloads: Payloads, redis_client: Redis
) -> None:
    # given a value one byte over the limit
    value = json.dumps("x" * (LIMIT - 1)).encode()

    # when it is put away
    stored = payloads.put(RUN, "step@1-1-abc", value, ttl_ms=60_000)

    # then the claim check is short, no JSON, and leads back to the value
    blob = keys.blob(RUN, "step@1-1-abc")
    assert stored == b"\x01step@1-1-abc"
    assert redis_client.strlen(blob) < 100
    assert 0 < redis_client.pttl(blob) <= 60_000
    assert payloads.get(RUN, stored) == value


def test_a_value_over_the_maximum_is_refused_with_both_sizes(payloads: Payloads) -> None:
    payloads.check("the input", b"x" * 10 * LIMIT)

    with pytest.raises(PayloadTooLarge) as refused:
        payloads.check("the output of 'classify'", b"x" * (10 * LIMIT + 1))
    assert str(refused.value).startswith("the output of 'classify' is 10,001 bytes, the limit is 10,000; ")


def test_a_claim_check_that_leads_nowhere_says_why_that_may_be(payloads: Payloads) -> None:
    with pytest.raises(WrongState, match="has expired or was evicted; Redis must run with noeviction"):
        payloads.get(RUN, b"\x01gone")


def test_what_is_dropped_is_gone_and_a_value_that_is_no_claim_check_is_left_alone(
    payloads: Payloads, redis_client: Redis
) -> None:
    stored = payloads.put(RUN, "input", b"1" * (LIMIT + 1), ttl_ms=60_000)

    payloads.drop(RUN, b"1")
    assert redis_client.dbsize() == 1

    payloads.drop(RUN, stored)
    assert redis_client.dbsize() == 0
