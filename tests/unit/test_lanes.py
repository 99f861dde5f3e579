"""Where a tenant's messages go in a queue, and in which order a worker looks for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from kombu import Connection

from orchestrator.broker import FOREIGN, LANES, STEPS, lane_of, message_priority
from orchestrator.runtime.transport import IN_TURN, Channel, Transport

if TYPE_CHECKING:
    from orchestrator.messages import Priority

REDIS = "redis://localhost:6379/0"


@pytest.fixture
def channel() -> Channel:
    """A channel that asks nothing of a server."""
    connection = Connection(REDIS, transport=Transport, transport_options={"priority_steps": STEPS})
    made = Channel.__new__(Channel)
    made.connection, made.priority_steps = connection.transport, list(STEPS)
    return made


@pytest.mark.parametrize(("priority", "number"), [("high", 0), ("normal", 3), ("low", 6)])
def test_runs_of_no_tenant_have_the_lists_that_kombu_has(priority: Priority, number: int) -> None:
    assert message_priority(REDIS, priority, "default") == number


def test_a_tenant_has_one_lane_for_each_priority_and_tenants_are_spread_over_all_but_the_first() -> None:
    # given many tenants, whatever their names
    tenants = [f"{name}{number}" for name in ("tenant-", "Zürich ", "", "東京") for number in range(100)]
    for tenant in tenants:
        numbers = [message_priority(REDIS, priority, tenant) for priority in ("high", "normal", "low")]
        # then the priority is the number's last digit, the lane what stands before it
        assert [number % 10 for number in numbers] == [0, 3, 6]
        assert {number // 10 for number in numbers} == {lane_of(tenant)}
    assert {lane_of(tenant) for tenant in tenants} == set(range(1, LANES))


def test_rabbitmq_has_no_lanes() -> None:
    assert message_priority("amqp://localhost", "normal", "north") == message_priority("amqp://x", "normal", "default")


def test_whichever_lane_is_first_priorities_come_before_lanes_and_no_list_is_left_out() -> None:
    for first in range(LANES):
        numbers = [number for orders in IN_TURN for number in orders[first]]
        assert sorted([*numbers, FOREIGN]) == list(STEPS)
        assert [number % 10 for number in numbers] == sorted(number % 10 for number in numbers)
        assert [number // 10 for number in numbers] == 3 * [(first + at) % LANES for at in range(LANES)]


def test_messages_of_foreign_clients_are_in_the_lists_where_kombu_puts_them(channel: Channel) -> None:
    def list_of(priority: int) -> str:
        kombu: Any = channel  # its way into a queue has no types
        number = kombu._get_message_priority({"properties": {"priority": priority}})  # noqa: SLF001  the same
        return str(kombu._q_for_pri("q", number))  # noqa: SLF001  the same

    lists = [list_of(number) for number in (0, 1, 3, 5, 6, 8, 9)]
    assert lists == ["q", "q", *["q\x06\x163"] * 2, *["q\x06\x166"] * 2, "q\x06\x169"]
    assert list_of(153) == "q\x06\x16153"
