"""A conversation in a member's hands: what it says there, asks and decides, and what it reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

from pydantic import BaseModel

from orchestrator.board.either import at_once, in_a_coroutine
from orchestrator.conversation.mail import Answer, Mail, Motion, Said
from orchestrator.errors import InvalidInput, NoReply
from orchestrator.messages import PeerState
from orchestrator.resilience.options import is_number

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

DEFAULT_WITHIN: Final = 60.0
LONGEST_WITHIN: Final = 366 * 86400.0
MAX_SAID: Final = 100
"""Things that a member may say in one turn."""
MAX_BODY: Final = 64 * 1024
MOST_LINES: Final = 1000


class Asked(BaseException):
    """
    The turn waits for a reply: it gives its worker back, and the handler is called again when the reply has come.

    Not an Exception, so that a handler's `except Exception` does not take it for a failure.
    """


class Members(Protocol):
    """A conversation as it is declared: who may be told what."""

    name: str

    def names(self) -> Sequence[str]:
        """Return the members' names."""

    def listeners(self, topic: str) -> Sequence[str]:
        """Return who listens to a topic; InvalidInput where there is none of this name."""

    def takes(self, member: str, kind: type[BaseModel]) -> bool:
        """Tell whether a member can be told this."""

    def takes_said(self, member: str) -> str:
        """Tell what a member can be told, in words."""

    def load_reply(self, member: str, kind: str, stored: bytes) -> object:
        """Return what a member replied."""

    def load(self, kind: str, stored: bytes) -> object:
        """Return a body as its model, where that is known by this name; else as JSON data."""

    def concludes(self, member: str) -> bool:
        """Tell whether a member's verdict ends the conversation."""

    def decides(self, kind: str) -> bool:
        """Tell whether a model, by its name, can be the decision."""

    def decides_said(self) -> str:
        """Tell what can be the decision, in words."""


class TalkPost(Protocol):
    """Where a conversation is kept; all but `call` block."""

    def answers(self, ask: int) -> Mapping[str, Mapping[str, Any]]:
        """Return what came of a question: of each member its reply's `y` and `body`, or `why` and `reason`."""

    def transcript(self, last: int) -> Sequence[tuple[int, Mapping[str, Any], bytes | None]]:
        """Return the last messages: each number, its facts, and its body."""

    def peers(self) -> tuple[Mapping[str, PeerState], Sequence[tuple[int, Mapping[str, Any], bytes | None]]]:
        """Return the members as they are, and the proposals, as `transcript` gives messages."""

    async def call(self, function: Callable[..., Any], /, *args: Any) -> Any:  # noqa: ANN401
        """Make a blocking call from a coroutine."""


class Outbox:
    """
    What an attempt has said so far: it leaves with the attempt's commit, and not at all where the attempt fails.

    Attributes:
        said: facts and body of each, as the scripts take them.
        asking: whether the attempt waits for a reply now.
    """

    def __init__(self) -> None:
        self.said: list[tuple[dict[str, Any], bytes]] = []
        self.asking = False

    def clear(self) -> None:
        """Forget it all."""
        self.said.clear()
        self.asking = False


class Talk:
    """
    A conversation, for one attempt of a member's turn.

    Args:
        flow: as it is declared.
        post: where it is kept.
        member: who speaks.
        outbox: takes what is said.
        said: how much of what this turn says has left before, with its questions; `asked`: those questions.
        mute: whether nothing can be said here: a gate may send the step back, or its output may be work for others.
    """

    def __init__(
        self,
        flow: Members,
        post: TalkPost,
        member: str,
        outbox: Outbox,
        *,
        said: int = 0,
        asked: Sequence[int] = (),
        mute: bool = False,
    ) -> None:
        self._flow, self._post, self.member, self._outbox = flow, post, member, outbox
        self._before, self._asked = said, list(asked)
        self._count, self._questions = 0, 0
        self._mute = mute

    # Saying

    def say(
        self,
        kind: str,
        to: Sequence[str] = (),
        body: object = None,
        *,
        wide: Sequence[str] = (),
        re: int | None = None,
        proposals: Sequence[int] | None = None,
        confidence: float | None = None,
        within: float | None = None,
        need: int | None = None,
    ) -> None:
        """Put something into the outbox, unless it has left it before."""
        if self._mute:
            msg = (
                "a step with a gate, or that gives work out, says nothing: let another step of the member's flow speak"
            )
            raise InvalidInput(msg)
        self._count += 1
        if self._count > MAX_SAID:
            msg = f"{self.member!r} says more than {MAX_SAID} things in a turn: send it a message to go on in another"
            raise InvalidInput(msg)
        if self._count <= self._before:
            return
        facts: dict[str, Any] = {"kind": kind, "to": list(to), **({"wide": list(wide)} if wide else {})}
        if body is not None:
            facts["type"] = type(body).__name__
        if confidence is not None:
            facts["confidence"] = _confidence(confidence)
        more = {"re": re, "proposals": proposals, "need": need}
        facts |= {name: value for name, value in more.items() if value is not None}
        if within is not None:
            facts["within_ms"] = max(1, round(within * 1000))
        self._outbox.said.append((facts, b"" if body is None else written(body)))

    def reached(self, to: str | Sequence[str], body: object) -> tuple[list[str], list[str]]:
        """
        Return who is meant, and those among them who are only if they are there: they were not named.

        Raises:
            InvalidInput: there is no such member or topic, or one cannot be told this.
        """
        kind = type(_model(body))
        named: list[str] = []
        grouped: list[str] = []
        for each in [to] if isinstance(to, str) else to:
            name: object = each
            if not isinstance(name, str) or not name:
                msg = f"a message goes to a member, '#topic', '*' for all others, or several of these, not {each!r:.80}"
                raise InvalidInput(msg)
            if each == "*" or each.startswith("#"):
                group = self._flow.names() if each == "*" else self._flow.listeners(each)
                grouped += [name for name in group if name != self.member and self._flow.takes(name, kind)]
            else:
                self._known(each, kind)
                named.append(each)
        wide = [name for name in dict.fromkeys(grouped) if name not in named]
        return [*dict.fromkeys(named), *wide], wide

    def _known(self, member: str, kind: type[BaseModel]) -> None:
        if member not in self._flow.names():
            msg = f"conversation {self._flow.name!r} has no member {member!r}; it has: {', '.join(self._flow.names())}"
            raise InvalidInput(msg)
        if not self._flow.takes(member, kind):
            takes = self._flow.takes_said(member)
            msg = f"member {member!r} cannot be told {kind.__name__}: it takes {takes}"
            raise InvalidInput(msg)

    def told_if_taken(self, member: str, body: object) -> list[str]:
        """Return the member where it can be told this, else nobody."""
        if body is None or member not in self._flow.names():
            return []
        return [member] if self._flow.takes(member, type(_model(body))) else []

    def conclude(self, body: object) -> None:
        """Give a verdict; see `Speaker.conclude`."""
        if not self._flow.concludes(self.member):
            msg = (
                f"a verdict of {self.member!r} does not end conversation {self._flow.name!r}: "
                f"add Concluded({self.member!r}) to its until"
            )
            raise InvalidInput(msg)
        self._can_be_decided(_model(body), "it is no verdict; conclude with what is")
        self.say("conclude", body=body)

    def supported(self, proposals: Iterable[object]) -> list[int]:
        """
        Return proposals that the member is for, by their numbers.

        Raises:
            InvalidInput: one is none, or cannot be the decision.
        """
        given = list(proposals)
        for each in given:
            if isinstance(each, Motion) or (isinstance(each, Mail) and each.kind == "propose"):
                self._can_be_decided(
                    each.body, "nobody can be for it. Say what you think of it by ctx.send, or reject it"
                )
        return numbers_of(given)

    def _can_be_decided(self, body: object, otherwise: str) -> None:
        kind = type(body).__name__
        if isinstance(body, BaseModel) and not self._flow.decides(kind):
            msg = f"conversation {self._flow.name!r} decides {self._flow.decides_said()}, not {kind}: {otherwise}"
            raise InvalidInput(msg)

    def invite(self, member: str, body: object) -> None:
        """Let a member join, with a message."""
        self._known(member, type(_model(body)))
        self.say("invite", [member], body)

    # Asking

    def ask(self, to: str, body: object, within: float) -> Any:  # noqa: ANN401  the reply, or an awaitable of it
        """Ask one member; see `Speaker.ask`."""
        named: object = to
        if not isinstance(named, str) or named == "*" or named.startswith("#"):
            msg = f"ask() takes one member's name, not {to!r:.80}; ask_all() asks several"
            raise InvalidInput(msg)
        return _run(self._ask(to, body, within))

    def ask_all(self, to: str | Sequence[str], body: object, within: float, need: int | None) -> Any:  # noqa: ANN401
        """Ask several members; see `Speaker.ask_all`."""
        return _run(self._ask_all(to, body, within, need))

    async def _ask(self, to: str, body: object, within: float) -> Any:  # noqa: ANN401  the member's output
        found = (await self._ask_all(to, body, within, None))[to]
        if found.why is not None:
            raise NoReply(to, found.why, found.reason)
        return found.body

    async def _ask_all(
        self, to: str | Sequence[str], body: object, within: float, need: int | None
    ) -> dict[str, Answer]:
        if not (is_number(within) and 0 < within <= LONGEST_WITHIN):
            msg = f"a reply is awaited for `within` seconds, above 0 and at most a year, not {within!r:.80}"
            raise InvalidInput(msg)
        least: object = need
        if least is not None and (isinstance(least, bool) or not isinstance(least, int) or least < 1):
            msg = f"need is a number of replies, 1 or more, not {need!r:.80}"
            raise InvalidInput(msg)
        names, wide = self.reached(to, body)
        self.say("ask", names, body, wide=wide, within=within, need=need)
        number = self._questions
        self._questions += 1
        if number < len(self._asked):
            answers = await self._post.call(self._post.answers, self._asked[number])
            return {name: self._answer(name, facts) for name, facts in answers.items()}
        self._outbox.asking = True
        raise Asked

    def _answer(self, member: str, facts: Mapping[str, Any]) -> Answer:
        if "body" in facts:
            return Answer(body=self._flow.load_reply(member, str(facts.get("y", "")), facts["body"]))
        # Without a reason it was not awaited any more: so many as were needed had replied.
        return Answer(why=facts.get("why", "enough"), reason=facts.get("reason", ""))

    # Reading

    def transcript(self, last: int) -> Any:  # noqa: ANN401  the lines, or an awaitable of them
        """Return the last lines; see `Speaker.transcript`."""
        given: object = last
        if isinstance(given, bool) or not isinstance(given, int) or not 1 <= given <= MOST_LINES:
            msg = f"last is a number of lines, 1 to {MOST_LINES}, not {last!r:.80}"
            raise InvalidInput(msg)
        return _run(self._transcript(last))

    async def _transcript(self, last: int) -> tuple[Said, ...]:
        found = await self._post.call(self._post.transcript, last)
        return tuple(line_of(self._flow, *each) for each in found)

    def motions(self) -> Any:  # noqa: ANN401  likewise
        """Return the proposals; see `Speaker.proposals`."""
        return _run(self._motions())

    async def _motions(self) -> tuple[Motion, ...]:
        peers, found = await self._post.call(self._post.peers)
        return tuple(_motion(self._flow, peers, *each) for each in found)

    def present(self) -> Any:  # noqa: ANN401  likewise
        """Return who is there; see `Speaker.members`."""
        return _run(self._present())

    async def _present(self) -> tuple[str, ...]:
        peers, _ = await self._post.call(self._post.peers)
        return tuple(name for name in self._flow.names() if name in peers and peers[name].present)


def _run(steps: Any) -> Any:  # noqa: ANN401  a coroutine, and what it gives
    return steps if in_a_coroutine() else at_once(steps)


def _model(body: object) -> BaseModel:
    if not isinstance(body, BaseModel):
        msg = f"what is said is a pydantic model, not {body!r:.80}"
        raise InvalidInput(msg)
    return body


def written(body: object) -> bytes:
    """
    Return a body as JSON.

    Raises:
        InvalidInput: it is no model, or too large.
    """
    text = _model(body).model_dump_json().encode()
    if len(text) > MAX_BODY:
        msg = (
            f"a message may have {MAX_BODY} bytes, and this {type(body).__name__} has {len(text)}: "
            "say where it is to be found"
        )
        raise InvalidInput(msg)
    return text


def _confidence(given: object) -> float:
    if not (is_number(given) and 0 <= given <= 1):
        msg = f"confidence is a number from 0 to 1, not {given!r:.80}"
        raise InvalidInput(msg)
    return float(given)


def line_of(flow: Members, number: int, facts: Mapping[str, Any], body: bytes | None) -> Said:
    """Return a message as a line of the transcript."""
    kind = str(facts.get("y") or "")
    return Said(
        id=number,
        kind=facts["k"],
        sender=facts["f"],
        to=tuple(facts["t"] or ()),
        type=kind,
        body=None if body is None else flow.load(kind, body),
        re=facts.get("r"),
        at_ms=facts["a"],
    )


def _motion(
    flow: Members, peers: Mapping[str, PeerState], number: int, facts: Mapping[str, Any], body: bytes | None
) -> Motion:
    line = line_of(flow, number, facts, body)
    of = [name for name, peer in peers.items() if peer.present and peer.stance[:1] == (number,)]
    sure = {name: value for name in of if (value := peers[name].confidence) is not None}
    return Motion(id=number, by=line.sender, body=line.body, supporters=tuple(of), confidence=sure)


def numbers_of(proposals: Iterable[object]) -> list[int]:
    """
    Return proposals by their numbers.

    Raises:
        InvalidInput: one is neither a number, nor a proposal that was received.
    """
    found = []
    for each in proposals:
        number: object = each
        if isinstance(each, Motion):
            number = each.id
        elif isinstance(each, Mail):
            number = each.id if each.kind == "propose" else each.re
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            msg = f"which proposal? Give the mail it came with, one of ctx.proposals(), or its number, not {each!r:.80}"
            raise InvalidInput(msg)
        found.append(number)
    return found


class MemoryTalk:
    """
    A conversation in memory, for tests: nobody is told anything, and questions are replied by what the test says.

    Args:
        replies: what each member replies, or the reason for which it does not, as of `Answer.why`.
        lines: what was said before.
        decides: whether a model, by its name, can be the decision; unless given, all can.
    """

    def __init__(
        self,
        replies: Mapping[str, object],
        lines: Sequence[tuple[int, Mapping[str, Any], bytes | None]] = (),
        decides: Callable[[str], bool] = lambda _: True,
    ) -> None:
        self.replies, self.lines, self._decides = dict(replies), list(lines), decides

    def answers(self, ask: int) -> Mapping[str, Mapping[str, Any]]:  # noqa: ARG002  the protocol's
        """Return what came of a question."""
        return {
            name: {"why": reply} if isinstance(reply, str) else {"y": type(reply).__name__, "body": written(reply)}
            for name, reply in self.replies.items()
        }

    def transcript(self, last: int) -> Sequence[tuple[int, Mapping[str, Any], bytes | None]]:
        """Return the last messages."""
        return self.lines[-last:]

    def peers(self) -> tuple[Mapping[str, PeerState], Sequence[tuple[int, Mapping[str, Any], bytes | None]]]:
        """Return those who stand for a proposal, by the last thing that each said of any, and the proposals."""
        stances: dict[str, int] = {}
        proposed = [line for line in self.lines if line[1]["k"] == "propose" and self._decides(line[1]["y"])]
        known = {number for number, _, _ in proposed}
        for number, facts, _ in self.lines:
            if facts["k"] in {"propose", "accept"} and (facts["r"] if facts["k"] == "accept" else number) in known:
                stances[facts["f"]] = number if facts["k"] == "propose" else facts["r"]
            elif facts["k"] == "reject" and stances.get(facts["f"]) == facts["r"]:
                del stances[facts["f"]]
        peers = {name: PeerState(stance=(number,)) for name, number in stances.items()}
        return peers, proposed

    async def call(self, function: Callable[..., Any], /, *args: Any) -> Any:  # noqa: ANN401  the protocol's
        """Make a call; nothing here blocks."""
        return function(*args)
