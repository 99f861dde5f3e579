"""A conversation as it can be read: who said what to whom, and what came of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

from orchestrator.messages import CLOSES, WITH_ITS_RUN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from pydantic import JsonValue

    from orchestrator.messages import Event

SHORT: Final = 60
"""Characters of a field beside a body's text."""
NOT_DELIVERED: Final = {
    "absent": "it is not there",
    "full": "its mailbox is full",
    "left": "it has left",
    "failed": "it failed at it",
    "proposal": "there is no such proposal",
    "hops": "too many messages follow from one another",
    "volleys": "these two answer only each other",
}
UNANSWERED: Final = {
    "deadline": "no reply in time",
    "declined": "no reply",
    "failed": "it failed",
    "cycle": "they wait for each other",
    **{why: NOT_DELIVERED[why] for why in ("absent", "full", "left", "hops", "volleys")},
}


@dataclass(frozen=True)
class Line:
    """
    A line of the transcript.

    Attributes:
        at_ms: when; `event`: the event's id.
        talk: the conversation's step, of which a run may have several.
        kind: of a message: open, tell, ask, reply, propose, accept, reject, vote, conclude, invite; else unanswered,
            returned, joined, left, cycle, ping-pong, judging or ended.
        who: who says it, or whom it is about; empty: nobody; `~ann` for somebody outside.
        to: to whom; `number`: the message's; `re`: the one that it answers or is about; `proposals`: of a vote.
        type: the body's model; `body`: JSON data.
        note: what else there is to say, in words.
    """

    at_ms: int
    event: str
    talk: str
    kind: str
    who: str = ""
    to: tuple[str, ...] = ()
    number: int | None = None
    re: int | None = None
    proposals: tuple[int, ...] = ()
    type: str = ""
    body: JsonValue = None
    note: str = ""


def lines(
    events: Iterable[Event], values: Callable[[list[str]], Mapping[str, JsonValue]], talk: str | None = None
) -> Iterator[Line]:
    """
    Give the transcript of a run's conversations, line by line.

    Args:
        events: of the run, in the order of the log.
        values: gives bodies by their names.
        talk: a conversation's step; None: all of them.
    """
    opened: dict[str, None] = {}
    for event in events:
        tell = _TELL.get(event.type)
        where = str(event.data.get("talk", ""))
        if event.type == "ConversationOpened":
            opened[where] = None
        elif event.type == "ConversationEnded":
            opened.pop(where, None)
        elif event.type in CLOSES:
            reason = f": {event.data['reason']}" if event.data.get("reason") else ""
            for name in [name for name in opened if talk in {None, name}]:
                note = f"{WITH_ITS_RUN}{reason}"
                yield Line(at_ms=event.at_ms, event=event.id, talk=name, kind="ended", who="closed", note=note)
            opened.clear()
        if tell is None or (talk is not None and where != talk):
            continue
        data = cast("dict[str, Any]", event.data)
        named = str(data["value"]) if data.get("value") else ""
        body = values([named]).get(named) if named else None
        yield Line(at_ms=event.at_ms, event=event.id, talk=where, body=body, **tell(data))


def _message(data: Mapping[str, Any]) -> dict[str, Any]:
    sure = data.get("confidence")
    return {
        "kind": "returned-to" if data["kind"] == "returned" else data["kind"],
        "who": data.get("from", ""),
        "to": tuple(data.get("to") or ()),
        "number": data["id"],
        "re": data.get("re"),
        "proposals": tuple(data.get("proposals") or ()),
        "type": data.get("type") or "",
        "note": "" if sure is None else f"confidence {sure:g}",
    }


def _unanswered(data: Mapping[str, Any]) -> dict[str, Any]:
    why = UNANSWERED.get(data["why"], data["why"])
    note = f"{why}: {data['reason']}" if data.get("reason") else why
    return {"kind": "unanswered", "who": data["peer"], "re": data["id"], "note": note}


def _returned(data: Mapping[str, Any]) -> dict[str, Any]:
    why = NOT_DELIVERED.get(data["why"], data["why"])
    note = f"{why}: {data['reason']}" if data.get("reason") else why
    return {"kind": "returned", "who": data["to"], "re": data["id"], "note": note}


def _moved(kind: str) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    return lambda data: {"kind": kind, "who": data["peer"], "note": "" if data["why"] == "wish" else data["why"]}


def _cycle(data: Mapping[str, Any]) -> dict[str, Any]:
    peers = [*data["peers"][-1:], *data["peers"]]
    return {"kind": "cycle", "re": data["id"], "note": " waits for ".join(peers)}


def _ping_pong(data: Mapping[str, Any]) -> dict[str, Any]:
    pair = " and ".join(data["peers"])
    return {
        "kind": "ping-pong",
        "re": data["id"],
        "note": f"{pair} have answered only each other {data['volleys']} times",
    }


def _judging(data: Mapping[str, Any]) -> dict[str, Any]:
    return {"kind": "judging", "note": data["why"]}


def _ended(data: Mapping[str, Any]) -> dict[str, Any]:
    said = [data["why"]]
    if data.get("decision"):
        by = f", by {data['how']}" if data["outcome"] not in {"consensus", "verdict"} else ""
        said.append(f"decided: #{data['decision']}{by}")
    elif data.get("how"):
        said.append(f"no decision: {data['how']}")
    if data.get("tie"):
        said.append("a tie, settled by its rule")
    if data.get("dissent"):
        said.append(f"against it: {', '.join(data['dissent'])}")
    return {"kind": "ended", "who": data["outcome"], "note": "; ".join(said)}


_TELL: Final[Mapping[str, Callable[[Mapping[str, Any]], dict[str, Any]]]] = {
    "MessageSent": _message,
    "AskUnanswered": _unanswered,
    "MessageReturned": _returned,
    "MemberJoined": _moved("joined"),
    "MemberLeft": _moved("left"),
    "WaitCycleFound": _cycle,
    "PingPongFound": _ping_pong,
    "JudgeCalled": _judging,
    "ConversationEnded": _ended,
}


_SPOKEN: Final = {
    "open": "the task, to {to}",
    "tell": "{who} to {to}",
    "ask": "{who} asks {to}",
    "reply": "{who} replies to {to}",
    "propose": "{who} proposes",
    "accept": "{who} is for #{re}",
    "reject": "{who} is against #{re}",
    "vote": "{who} votes",
    "conclude": "{who} concludes",
    "invite": "{who} invites {to}",
    "returned-to": "returned to {to}",
    "unanswered": "{who} does not answer #{re}",
    "returned": "#{re} does not reach {who}",
    "joined": "{who} joins",
    "left": "{who} leaves",
    "cycle": "#{re} would close a circle",
    "ping-pong": "#{re} goes nowhere",
    "judging": "the judge is asked",
    "ended": "the end: {who}",
}


def spoken(line: Line) -> tuple[str, str]:
    """Return a line in words: what is done, such as `cook asks host`, and what is said."""
    who, to = line.who.removeprefix("~") or "nobody", ", ".join(line.to) or "nobody"
    done = _SPOKEN[line.kind].format(who=who, to=to, re=line.re)
    if line.kind == "vote":
        return done, ", then ".join(f"#{each}" for each in line.proposals) or "for none"
    if line.kind == "returned-to":
        return done, f"#{line.re}"
    if line.kind in _MESSAGES:
        return done, in_words(line.type, line.body)
    return done, line.note


_MESSAGES: Final = frozenset({"open", "tell", "ask", "reply", "propose", "accept", "reject", "conclude", "invite"})


def in_words(kind: str, body: JsonValue) -> str:
    """
    Return a body as a person reads it: its text as it is, and what it has beside that in short.

    Its text is the field `text`, or the only one; a body without is its model's name with its fields.
    """
    if body is None:
        return ""
    if not isinstance(body, dict):
        return json.dumps(body, ensure_ascii=False)
    text = next(iter(body.values())) if len(body) == 1 else body.get("text")
    if not isinstance(text, str):
        return f"{kind}({_fields(body)})"
    rest = _fields({name: each for name, each in body.items() if each is not text})
    return f"{text} ({rest})" if rest else text


def _fields(body: Mapping[str, JsonValue]) -> str:
    return ", ".join(f"{name}: {_short(each)}" for name, each in body.items() if each is not None)


def _short(value: JsonValue) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHORT else f"{text[: SHORT - 1]}…"
