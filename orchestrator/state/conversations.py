"""The store of conversations: members with their mailboxes, and what was said."""

from __future__ import annotations

import json
import secrets
from typing import TYPE_CHECKING, Any, cast

from orchestrator.messages import CLOSED, ConversationState, PeerState
from orchestrator.state import keys
from orchestrator.state.reading import milliseconds
from orchestrator.state.runs import NOTHING_SPENT, Change, changed
from orchestrator.state.text import bounded

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from redis import Redis

    from orchestrator.messages import StepState
    from orchestrator.state.runs import Begun, RunStore, Spent

Line = tuple[int, "Mapping[str, Any]", "bytes | None"]
"""A message: its number; its facts, as _talk.lua names them; its body, JSON."""


class Conversations:
    """
    Conversations in Redis.

    Args:
        store: of the runs they belong to.
    """

    def __init__(self, store: RunStore) -> None:
        self._store, self._scripts = store, store.scripts
        self._client: Redis = store.client
        self._dispatch_ms = milliseconds(store.settings.dispatch_timeout)

    def load(self, run_id: str, step: str) -> ConversationState | None:
        """Return a conversation as it stands, in one consistent look; None: it has not been opened."""
        fields, over = self._store.beside(keys.talk(run_id, step), run_id, step)
        found = _conversation(step, fields)
        if found is None or found.status == "ended" or not over:
            return found
        # No script goes through the conversations of a run that ends, of which there may be many.
        peers = {name: peer.model_copy(update={"turn": None, "waits": ()}) for name, peer in found.peers.items()}
        return found.model_copy(update={**CLOSED, "peers": peers})

    def speak(
        self,
        begun: Begun,
        value: bytes,
        *,
        asks: bool,
        said: Sequence[tuple[Mapping[str, object], bytes]],
        says: str = "",
        reason: str = "",
        spent: Spent = NOTHING_SPENT,
    ) -> Change:
        """
        Commit a step of a member with what it has said, or let it wait for a reply, in one round trip.

        Args:
            begun: the attempt.
            value: its output, JSON; where it asks, nothing.
            asks: whether the last thing said is a question whose reply it waits for.
            said: facts and body of each thing.
            says: the name of the output's model.
            reason: where the output is a degraded one.
            spent: what the attempt has used.

        Returns:
            joins, next or asked; late: recorded, and the conversation had ended; stale or closed: nothing was written.

        Raises:
            PayloadTooLarge: the output is over the maximum.
        """
        self._store.payloads.check(f"the output of {begun.step.name!r}", value)
        name = f"{begun.step.name}@{begun.step.begins}"
        stored = value
        if not is_a_judges(begun.step):  # whose ruling the script reads
            stored = self._store.payloads.put(begun.run_id, f"{name}-{begun.fence}", value, ttl_ms=begun.ttl_ms)
        reply = self._scripts.speak(
            begun.run_id,
            begun.step.name,
            fence=begun.fence,
            name=name,
            value=stored,
            verdict="ask" if asks else "complete",
            reason=bounded(reason),
            dispatch_ms=self._dispatch_ms,
            tokens=spent[0],
            cost=spent[1],
            says=says,
            said=[part for facts, body in said for part in (json.dumps(facts), body)],
        )
        change = changed(reply)
        if change.what in {"stale", "closed"}:
            self._store.payloads.drop(begun.run_id, stored)
        return change

    def say(self, run_id: str, step: str, by: str, facts: Mapping[str, object], body: bytes) -> tuple[str, str, Change]:
        """
        Say something from outside, once however often the call is sent.

        Returns:
            said, with the message's number; ended, with the outcome; gone, closed or full; and what is to be published.
        """
        what, more, *ready = self._scripts.talk_say(
            run_id,
            step,
            by=by,
            said=json.dumps(facts),
            body=body,
            dispatch_ms=self._dispatch_ms,
            nonce=secrets.token_hex(8),
        )
        return what.decode(), more.decode(), changed([b"said", b"", *ready])

    def answers(self, run_id: str, step: str, ask: int) -> dict[str, dict[str, Any]]:
        """
        Return what came of a question: of each member its reply, `y` and `body`, or `why` there is none.

        Raises:
            WrongState: a reply's claim check leads nowhere.
        """
        found = cast("bytes | None", self._client.hget(keys.talk(run_id, step), f"a:{ask}"))
        answers: dict[str, dict[str, Any]] = {}
        given = json.loads(found)["of"] if found else {}
        for name, answer in (given or {}).items():
            answers[name] = dict(answer) if answer else {}
        bodies = self._bodies(run_id, [str(answer["b"]) for answer in answers.values() if "b" in answer])
        for answer in answers.values():
            if "b" in answer:
                answer["body"] = self._store.payloads.get(run_id, bodies[answer["b"]])
        return answers

    def transcript(self, run_id: str, step: str, last: int) -> list[Line]:
        """Return the last messages, oldest first, in three round trips."""
        sums = cast("bytes | None", self._client.hget(keys.talk(run_id, step), "#sums"))
        messages = json.loads(sums)["messages"] if sums else 0
        return self.lines(run_id, step, range(max(1, messages - last + 1), messages + 1))

    def lines(self, run_id: str, step: str, numbers: Sequence[int]) -> list[Line]:
        """Return messages by their numbers, those that are there."""
        if not numbers:
            return []
        found = cast(
            "list[bytes | None]", self._client.hmget(keys.talk(run_id, step), [f"m:{number}" for number in numbers])
        )
        facts = {number: json.loads(text) for number, text in zip(numbers, found, strict=True) if text is not None}
        bodies = self._bodies(run_id, [each["b"] for each in facts.values() if "b" in each])
        return [
            (number, each, self._store.payloads.get(run_id, bodies[each["b"]]) if "b" in each else None)
            for number, each in facts.items()
        ]

    def peers(self, run_id: str, step: str) -> tuple[dict[str, PeerState], list[Line]]:
        """Return the members as they are, and the proposals, in three round trips."""
        found = cast("dict[bytes, bytes]", self._client.hgetall(keys.talk(run_id, step)))
        state = _conversation(step, {name.decode(): value for name, value in found.items()})
        return (dict(state.peers), self.lines(run_id, step, state.proposals)) if state else ({}, [])

    def _bodies(self, run_id: str, names: Sequence[str]) -> dict[str, bytes]:
        if not names:
            return {}
        found = cast("list[bytes | None]", self._client.hmget(keys.data(run_id), list(names)))
        return {name: value or b"null" for name, value in zip(names, found, strict=True)}


def is_a_judges(step: StepState) -> bool:
    """Tell whether a step of a conversation is its judge's: no member is called so."""
    path = (step.talk or "").rpartition("/")[0]
    inside = step.name[len(path) + 1 :] if path else step.name
    return inside.startswith("judge#")


def _conversation(step: str, fields: Mapping[str, bytes]) -> ConversationState | None:
    if not fields:
        return None
    sums = json.loads(fields["#sums"])
    ended = fields["#state"] == b"ended"
    return ConversationState(
        step=step,
        status=cast("Any", fields["#state"].decode()),
        messages=sums["messages"],
        turns=sums["turns"],
        proposals=tuple(sums["proposals"] or ()),
        outcome=cast("Any", fields["#outcome"].decode()) if ended and "#outcome" in fields else None,
        why=fields.get("#why", b"").decode() if ended else "",
        peers={
            name: _peer(json.loads(fields[f"p:{name}"]), name, fields) for name in json.loads(fields["#rules"])["names"]
        },
    )


def _peer(facts: Mapping[str, Any], name: str, fields: Mapping[str, bytes]) -> PeerState:
    return PeerState(
        present=facts["present"],
        turns=facts["n"],
        turn=facts.get("turn"),
        waits=tuple(facts.get("waits") or ()),
        mail=tuple(int(fields[f"b:{name}:{number}"]) for number in range(facts["head"], facts["tail"])),
        stance=tuple(facts.get("stance") or ()),
        confidence=facts.get("c"),
    )
