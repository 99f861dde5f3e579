"""
A conversation as its documentation has it, in plain Python: what the scripts must come to, whatever is said in it.

It holds no Redis, no events and no time: those who wait are woken by who tests, and conditions of time never hold.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tests.state.talking import Said

NOBODY = ""


@dataclass(frozen=True)
class Terms:
    """
    How a conversation goes on and ends.

    Attributes:
        until: a condition: turns, consensus or verdict, or `all` or `any` of such; None: nothing.
        resolve: by, ties, need, weighted, order; None: nothing is decided.
        decides: whether only a Word can be the decision.
    """

    until: Sequence[Any] | None
    resolve: Mapping[str, Any] | None
    otherwise: str
    turns: int
    mail: int
    hops: int
    volleys: int
    decides: bool = False


@dataclass
class Message:
    """A message, as it was sent."""

    kind: str
    sender: str
    to: list[str]
    hops: int = 0
    volley: int = 0
    re: int | None = None


@dataclass
class Member:
    """
    A member.

    Attributes:
        steps: of its turn, by their names; `at`: which one; `busy`: what that is: ready, running, waiting, or nothing.
        about: the message that it has its turn with; `mail`: those that wait.
        asks: the question whose replies it waits for; `asked`: all that this step has, having said `said` things.
    """

    name: str
    weight: int = 1
    present: bool = True
    returns: bool = True
    joins: int | None = None
    leaves: int | None = None
    steps: tuple[str, ...] = ("",)
    number: int = 0
    at: int = 0
    busy: str = ""
    about: int = 0
    asks: int | None = None
    asked: list[int] = field(default_factory=list)
    said: int = 0
    leaving: bool = False
    came: bool = False
    went: bool = False
    mail: list[int] = field(default_factory=list)
    stance: list[int] = field(default_factory=list)
    sure: float | None = None

    @property
    def entry(self) -> str:
        """The first step of its turn."""
        return self._step(0)

    @property
    def step(self) -> str:
        """The step that it is at."""
        return self._step(self.at)

    def _step(self, at: int) -> str:
        inside = self.steps[at]
        return f"{self.name}#{self.number}" + (f"/{inside}" if inside else "")


class Reference:
    """The conversation."""

    def __init__(self, members: Sequence[Member], terms: Terms) -> None:
        self.members, self.terms = {each.name: each for each in members}, terms
        self.messages: list[Message] = []
        self.proposals: list[int] = []
        self.verdicts: dict[str, int] = {}
        self.questions: dict[int, dict[str, str]] = {}
        self.needs: dict[int, int] = {}
        self.turns = self.done = 0
        self.full = False
        self.outcome = ""
        self.judging, self.degraded = False, False
        first = members[0].name
        self._deliver(first, self._sent(Message("open", NOBODY, [first])))

    # What was said

    def _sent(self, message: Message) -> int:
        self.messages.append(message)
        return len(self.messages)

    def _begin_turn(self, member: Member, number: int) -> bool:
        if self.turns >= self.terms.turns:
            self.full = True
            return False
        self.turns += 1
        member.number, member.about = member.number + 1, number
        self._comes_to(member, 0)
        return True

    def _comes_to(self, member: Member, at: int) -> None:
        member.at, member.busy, member.asked, member.said = at, "ready", [], 0

    def _deliver(self, name: str, number: int) -> None:
        member = self.members[name]
        if member.busy or member.mail or self.full or not self._begin_turn(member, number):
            member.mail.append(number)

    def _next(self, member: Member) -> None:
        if (
            member.present
            and not member.busy
            and member.mail
            and not self.full
            and self._begin_turn(member, member.mail[0])
        ):
            del member.mail[0]

    def _returned(self, number: int, name: str, why: str) -> None:
        message = self.messages[number - 1]
        if message.kind == "ask":
            self._answer(number, name, why)
            return
        sender = self.members.get(message.sender)
        if message.kind != "returned" and why not in {"hops", "volleys"} and sender and sender.present:
            back = Message("returned", NOBODY, [sender.name], message.hops, 0, number)
            self._deliver(sender.name, self._sent(back))

    def _answer(self, number: int, name: str, what: str) -> None:
        question = self.questions[number]
        if question[name] or not self._awaited(number):
            return
        question[name] = what
        asker = self.members[self.messages[number - 1].sender]
        if asker.asks == number and not self._awaited(number):
            asker.asks, asker.busy = None, "ready"

    def _awaited(self, number: int) -> bool:
        question = self.questions[number]
        return not all(question.values()) and list(question.values()).count("reply") < self.needs[number]

    def waits(self, member: Member) -> list[str]:
        """Return for whose replies a member waits."""
        return [] if member.asks is None else [name for name, what in self.questions[member.asks].items() if not what]

    def _circle(self, name: str, goal: str, seen: frozenset[str] = frozenset()) -> bool:
        if name == goal:
            return True
        following = self.waits(self.members[name])
        return name not in seen and any(self._circle(each, goal, seen | {name}) for each in following)

    def say(self, sender: str, said: Said, about: int) -> None:  # noqa: C901  the documentation's cases
        """Say something, following from a message; 0: from none."""
        facts, _ = said
        kind, member = str(facts["kind"]), self.members.get(sender)
        if kind == "leave" and member is not None:
            member.leaving = True
            return
        letter = self.messages[about - 1] if about else None
        to = list(facts["to"])  # type: ignore[call-overload]  # they are names
        message = Message(kind, sender, to, letter.hops + 1 if letter else 0, 0, facts.get("re"))  # type: ignore[arg-type]
        named: list[int] = list(facts.get("proposals", ())) or ([message.re] if message.re else [])  # type: ignore[call-overload]
        if any(not self._is_proposed(each, kind) for each in named):
            self._returned(self._sent(message), NOBODY, "proposal")
            return
        wide: list[str] = list(facts["wide"])  # type: ignore[call-overload]  # they are names
        message.to = [name for name in to if name not in wide or self.members[name].present]
        if letter and len(to) == 1 and to[0] == letter.sender != sender:
            message.volley = letter.volley + 1
        number = self._sent(message)
        if member is not None:
            self._stands(member, kind, number, named, facts)
        if kind == "invite" and not self.members[to[0]].present:
            self.members[to[0]].present = True
            self.members[to[0]].leaving = False
        if kind == "ask" and member is not None:
            member.asked = [*member.asked, number]
            self.questions[number] = dict.fromkeys(message.to, "")
            self.needs[number] = int(facts.get("need", len(message.to)))  # type: ignore[call-overload]  # a number
            if self._awaited(number):
                member.asks = number
            else:
                member.busy = "ready"
        back = []
        for name in message.to:
            if why := self._why_not(message, name):
                back.append((name, why))
            else:
                self._deliver(name, number)
        for name, why in back:
            self._returned(number, name, why)

    def _is_proposed(self, number: int, kind: str) -> bool:
        """Tell whether something can be said of a proposal: of what cannot be the decision only that one rejects it."""
        if number in self.proposals:
            return True
        return kind == "reject" and number <= len(self.messages) and self.messages[number - 1].kind == "propose"

    def _why_not(self, message: Message, name: str) -> str:
        member = self.members[name]
        if not member.present:
            return "absent"
        if len(member.mail) >= self.terms.mail:
            return "full"
        if message.hops > self.terms.hops:
            return "hops"
        if message.volley > self.terms.volleys:
            return "volleys"
        return "cycle" if message.kind == "ask" and self._circle(name, message.sender) else ""

    def _stands(self, member: Member, kind: str, number: int, named: list[int], facts: Mapping[str, Any]) -> None:
        if self.terms.decides and facts.get("type", "Word") != "Word" and kind in {"conclude", "propose"}:
            return
        if kind == "reject" and not set(named) <= set(self.proposals):
            return
        if kind == "conclude":
            self.verdicts[member.name] = number
        if kind == "propose":
            self.proposals.append(number)
            member.stance = [number]
        elif kind in {"accept", "vote"}:
            member.stance = named
        elif kind == "reject":
            member.stance = [each for each in member.stance if each not in named]
        else:
            return
        member.sure = facts.get("confidence") if member.stance else None

    # What members do

    def speak(self, member: Member, said: Sequence[Said], *, replies: bool = False) -> None:
        """A member's step is done, or asks; `replies`: whether it gives something."""
        asks = bool(said) and said[-1][0]["kind"] == "ask"
        if asks:
            member.busy = "waiting"
            member.said += len(said)
        for each in said:
            self.say(member.name, each, member.about)
        if asks:
            pass
        elif member.at + 1 < len(member.steps):
            self._comes_to(member, member.at + 1)
        else:
            self._turn_ends(member, "reply" if replies else "declined")
        self._look()

    def fail(self, member: Member) -> None:
        """A member's step has failed for good."""
        self._turn_ends(member, "failed")
        self._look()

    def expire(self, member: Member) -> None:
        """Those who were asked had their time."""
        assert member.asks is not None
        question = self.questions[member.asks]
        question.update({name: "deadline" for name, what in question.items() if not what})
        member.asks, member.busy = None, "ready"

    def outside(self, said: Said) -> None:
        """Somebody who is no member says something."""
        self.say("~ann", said, 0)
        self._look()

    def _turn_ends(self, member: Member, how: str) -> None:
        number, letter = member.about, self.messages[member.about - 1]
        member.busy, member.asks = "", None
        self.done += 1
        if letter.kind == "ask":
            if how == "reply":
                self._sent(Message("reply", member.name, [letter.sender], letter.hops + 1, 0, number))
            self._answer(number, member.name, how)
        elif how == "failed":
            if self.terms.otherwise == "fail":
                self._end("failed")
                return
            self.degraded = True
            self._returned(number, member.name, "failed")
        if member.leaving:
            self._leaves(member)
        self._next(member)

    def _leaves(self, member: Member) -> None:
        if member.busy:
            member.leaving = True
            return
        member.present, member.leaving, member.stance, member.sure = False, False, [], None
        mail, member.mail = member.mail, []
        for number in mail:
            self._returned(number, member.name, "left")

    # How it ends

    def _look(self) -> None:
        if self.outcome:
            return
        for member in self.members.values():
            if (
                not (member.present or member.came or member.went)
                and member.joins is not None
                and self.done >= member.joins
            ):
                member.came = member.present = True
                self._deliver(member.name, self._sent(Message("open", NOBODY, [member.name])))
            elif (
                member.present
                and not (member.leaving or member.went)
                and member.leaves is not None
                and self.done >= member.leaves
            ):
                member.went = True
                self._leaves(member)
        parts = self._holds(self.terms.until) if self.terms.until else []
        if parts:
            kinds = [part[0] for part in parts]
            self._end(next((kind for kind in ("verdict", "consensus") if kind in kinds), kinds[0]))
        elif self.full:
            self._end("limit")
        elif not any(member.busy for member in self.members.values()):
            self._end("quiet")

    def _holds(self, condition: Sequence[Any]) -> list[Sequence[Any]]:
        kind, *rest = condition
        if kind in {"all", "any"}:
            found = [self._holds(each) for each in rest]
            return [part for each in found for part in each] if kind == "any" or all(found) else []
        found_by: dict[str, Callable[[], bool]] = {
            "turns": lambda: self.done >= rest[0],
            "consensus": lambda: self.consensus()[1] * 1000 >= Fraction(rest[0]) - Fraction(1, 1000),
            "verdict": lambda: rest[0] in self.verdicts,
            "deadline": lambda: False,
        }
        return [condition] if found_by[kind]() else []

    def consensus(self) -> tuple[int | None, Fraction]:
        """Return the proposal that most of the votes there are are for, and the share of them."""
        votes, total = self.votes(weighted=True)
        if not total or not votes:
            return None, Fraction(0)
        best = max(votes.values())
        return next(number for number in self.proposals if votes.get(number) == best), Fraction(best, total)

    def _end(self, outcome: str) -> None:
        self.outcome = outcome
        for member in self.members.values():
            member.busy, member.asks = "", None
        resolve = self.terms.resolve
        decides = outcome not in {"verdict", "consensus", "failed"}
        self.judging = bool(decides and resolve and resolve["by"] == "judge" and self.proposals)

    # How it is decided

    def voters(self) -> list[Member]:
        """Return those who are there and have a vote."""
        return [each for each in self.members.values() if each.present and each.weight]

    def votes(self, *, weighted: bool) -> tuple[dict[int, int], int]:
        """Return how much is for each proposal, and how much there is in all."""
        votes: dict[int, int] = {}
        for each in self.voters():
            for number in each.stance[:1]:
                votes[number] = votes.get(number, 0) + (each.weight if weighted else 1)
        return votes, sum(each.weight if weighted else 1 for each in self.voters())

    def decision(self) -> tuple[int | None, bool]:  # noqa: PLR0911  likewise
        """Return what is decided, and whether by the rule for ties; of a judge's nothing is told."""
        if self.outcome == "verdict":
            return self.verdicts[str(self._verdict())], False
        if self.outcome == "consensus":
            return self.consensus()[0], False
        resolve = self.terms.resolve
        if not resolve or not self.proposals:
            return None, False
        by, ties = resolve["by"], resolve.get("ties", "earliest")
        if by == "order":
            standing = (self.members[name] for name in resolve["order"])
            return next((each.stance[0] for each in standing if each.present and each.stance), None), False
        sure = self._sureness()
        if by == "confidence":
            best = [number for number in self.proposals if sure.get(number, -1.0) == max(sure.values(), default=0.0)]
            return _settled(best, ties, sure) if sure else (None, False)
        if by == "ranked":
            return self._run_off(ties, sure, weighted=resolve.get("weighted", True))
        votes, _ = self.votes(weighted=resolve.get("weighted", True))
        if not votes:
            return None, False
        most = max(votes.values())
        best = [number for number in self.proposals if votes.get(number) == most]
        if Fraction(most, sum(votes.values())) <= Fraction(resolve.get("need", 0), 1000):
            return None, len(best) > 1
        return _settled(best, ties, sure)

    def _verdict(self) -> str | None:
        parts = self._holds(self.terms.until or ())
        named = [part[1] for part in parts if part[0] == "verdict"]
        return max(named, key=lambda name: self.verdicts[name], default=None)

    def _sureness(self) -> dict[int, float]:
        sure: dict[int, float] = {}
        for each in self.voters():
            for number in each.stance[:1]:
                sure[number] = max(sure.get(number, 0.0), each.sure or 0.0)
        return sure

    def _run_off(self, ties: str, sure: dict[int, float], *, weighted: bool) -> tuple[int | None, bool]:
        left = list(self.proposals)
        while True:
            votes = dict.fromkeys(left, 0)
            for each in self.voters():
                for number in [one for one in each.stance if one in votes][:1]:
                    votes[number] += each.weight if weighted else 1
            if not sum(votes.values()):
                return None, False
            most, least = max(votes.values()), min(votes.values())
            best = [number for number in left if votes[number] == most]
            if 2 * most > sum(votes.values()) or best == left:
                return _settled(best, ties, sure)
            worst = [number for number in left if votes[number] == least]
            if ties == "latest":
                struck = worst[0]
            elif ties == "confidence":
                struck = min(reversed(worst), key=lambda number: sure.get(number, 0.0))
            else:
                struck = worst[-1]
            left.remove(struck)

    def dissent(self, decided: int | None) -> list[str]:
        """Return who is for another proposal."""
        return [each.name for each in self.voters() if decided and each.stance and each.stance[0] != decided]

    def abstained(self) -> list[str]:
        """Return who is for none."""
        return [each.name for each in self.voters() if self.proposals and not each.stance]


def _settled(best: list[int], ties: str, sure: Mapping[int, float]) -> tuple[int | None, bool]:
    if len(best) == 1:
        return best[0], False
    if ties == "none":
        return None, True
    if ties == "latest":
        return best[-1], True
    if ties == "confidence":
        return max(best, key=lambda number: sure.get(number, 0.0)), True
    return best[0], True
