"""
Conversations against a model: whatever members say, in whatever order turns begin, end, fail, are lost or come late.

And the model against faults: lines of the scripts gone wrong, each of which it must find.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

import hypothesis
import pytest
from hypothesis.stateful import run_state_machine_as_test
from redis.exceptions import ResponseError

from orchestrator.state import scripts
from orchestrator.state.runs import RunStore
from tests.servers import no_key_left_without_ttl_or_declaration, on_valkey
from tests.state.talk_machine import Conversing

if TYPE_CHECKING:
    from redis import Redis

    from orchestrator import Settings
    from tests.servers import Server


@pytest.mark.parametrize("times", [1, pytest.param(10, marks=pytest.mark.chaos)])
@pytest.mark.timeout(900)  # where it fails, the shortest example is worth waiting for
def test_whatever_is_said_in_a_conversation_it_is_as_its_documentation_says(
    server: Server, redis_client: Redis, settings: Settings, times: int
) -> None:
    # given a store of runs
    store = RunStore(redis_client, settings.model_copy(update={"max_attempts": 1000}))

    # when members speak in orders that Hypothesis chooses, then the reference is right
    run_state_machine_as_test(
        cast("type[Conversing]", lambda: Conversing(store)),  # documented as a class or a function that makes one
        settings=hypothesis.settings(
            max_examples=times * (60 if server.kind == "valkey" else 10),
            stateful_step_count=30,
            deadline=None,
            print_blob=True,
            report_multiple_bugs=False,
        ),
    )

    # and of all these runs nothing stays
    no_key_left_without_ttl_or_declaration(redis_client)


SEEDS: Final = {
    "votes[first] = (votes[first] or 0) + weight": 4,
    "then env.v = mail.volley + 1 end": 8,
    "said.kind == 'propose' or said.kind == 'vote' or #about > 0": 2,
    "if said.kind == 'propose' and not decidable(T, said.type) then return end": 3,
    "if each ~= said.re then left": 1,
    "      answer(T, mail.id, name, {m = id": 3,
    "said.kind == 'conclude' and decidable(T, said.type) then": 17,
    "above.degraded, above.reason = true": 1,
    "elseif first and id and first ~= id then dissent": 0,
    "      close_member(p.turn)\n": 0,
    "or rec.fence ~= fence then\n  if asks": 10,
    "local first = rec.member == step and rec or load(rec.member)": 4,
    "local field = 'b:' .. name .. ':' .. p.head": 18,
    "if p.tail - p.head >= T.rules.max_mail": 11,
    "  p.waits, p.ask = nil, nil\nend": 10,
    "p.present, p.leaving, p.stance, p.c, T.stanced = false, nil, nil, nil, true": 19,
    "p.head = p.head + 1\n    give_back": 18,
    "redis.call('HSET', T.key, 'n:' .. ARGV[2], ARGV[6] .. ' ' .. id)": 1,
}
"""Those with which a fault takes few examples; with others it may take hundreds."""


@on_valkey
@pytest.mark.parametrize(
    ("script", "line", "instead"),
    [
        # what is said
        ("speak", "first.mail, step)", "nil, step)"),
        ("speak", "or rec.fence ~= fence then\n  if asks", "then\n  if asks"),
        ("speak", "local first = rec.member == step and rec or load(rec.member)", "local first = rec"),
        ("speak", "for number = 1, asks and count - 1 or count do", "for number = 1, count do"),
        ("speak", "rec.said or 0) + count", "rec.said or 0) + count - 1"),
        # the mailboxes
        ("speak", "p.tail = p.tail + 1", "p.tail = p.tail + 2"),
        ("speak", "local field = 'b:' .. name .. ':' .. p.head", "local field = 'b:' .. name .. ':' .. (p.tail - 1)"),
        ("speak", "if not p.turn and p.head == p.tail and", "if p.head == p.tail and"),
        ("speak", "if p.tail - p.head >= T.rules.max_mail", "if p.tail - p.head > T.rules.max_mail"),
        ("speak", "  next_turn(T, name)", ""),
        ("speak", "h = mail and mail.hops + 1 or 0", "h = mail and mail.hops or 0"),
        ("speak", "then env.v = mail.volley + 1 end", "then env.v = mail.volley end"),
        ("speak", "if not wide[name] or p and p.present then to[#to + 1] = name end", "to[#to + 1] = name"),
        # questions
        ("speak", "      answer(T, mail.id, name, {m = id", "      answer(T, 0, name, {m = id"),
        ("speak", "asked.left = result, asked.left - 1", "asked.left = result, asked.left"),
        ("wake", "  p.waits, p.ask = nil, nil\nend", "end"),
        # who is there
        ("speak", "p.present, p.leaving, p.stance, p.c, T.stanced = false, nil, nil, nil, true", "p.present = false"),
        ("speak", "p.head = p.head + 1\n    give_back", "give_back"),
        # the end
        ("speak", "sums.done + 1", "sums.done"),
        ("speak", "sums.busy, sums.done = sums.busy - 1", "sums.busy, sums.done = sums.busy"),
        ("speak", "      close_member(p.turn)\n", ""),
        ("fail", "above.degraded, above.reason = true", "above.degraded, above.reason = nil"),
        # the decision
        ("speak", "if said.kind == 'propose' and not decidable(T, said.type) then return end", ""),
        ("speak", "said.kind == 'conclude' and decidable(T, said.type) then", "said.kind == 'conclude' then"),
        (
            "speak",
            "said.kind == 'propose' or said.kind == 'vote' or #about > 0",
            "said.kind == 'propose' or #about > 0",
        ),
        ("speak", "if each ~= said.re then left", "if each then left"),
        ("speak", "votes[first] = (votes[first] or 0) + weight", "votes[first] = weight"),
        ("speak", "elseif first and id and first ~= id then dissent", "elseif first and id then dissent"),
        ("talk_say", "redis.call('HSET', T.key, 'n:' .. ARGV[2], ARGV[6] .. ' ' .. id)", ""),
    ],
)
def test_a_fault_planted_in_a_script_is_found_by_the_model(
    redis_client: Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch, script: str, line: str, instead: str
) -> None:
    # given the scripts with one line gone wrong
    sound = scripts.source

    def source(name: str) -> str:
        text = sound(name)
        assert name != script or line in text
        return text.replace(line, instead)

    monkeypatch.setattr(scripts, "source", source)
    store = RunStore(redis_client, settings.model_copy(update={"max_attempts": 1000}))

    # when the machine runs, then it finds it
    machine = hypothesis.seed(SEEDS.get(line, 0))(lambda: Conversing(store))
    with pytest.raises((AssertionError, KeyError, ValueError, ResponseError)):
        run_state_machine_as_test(
            cast("type[Conversing]", machine),
            settings=hypothesis.settings(
                max_examples=1000,  # it stops at the first that fails
                stateful_step_count=30,
                deadline=None,
                database=None,
                phases=[hypothesis.Phase.generate],
                report_multiple_bugs=False,
            ),
        )
