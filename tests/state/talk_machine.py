"""
A Hypothesis state machine over conversations: members that say anything, in turns that end, fail, are lost, come late.

After each step the store is what its log folds to, and what the reference says; whatever was said is in one place.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from orchestrator.conversation.ends import Concluded, Consensus, Deadline, End, MaxTurns
from orchestrator.messages import PeerRules, PlanStep, ResolveRules
from orchestrator.state import keys
from orchestrator.state.runs import Begun, Refused, RunStore
from tests.state.talk_reference import Member, Reference, Terms
from tests.state.talking import TALK, Seen, Stage, peer, resolve, rules, submit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.state.talking import Said

NAMES: Final = ("m0", "m1", "m2", "m3")
FLOW: Final = ("x", "y")
UNTIL: Final[tuple[End | None, ...]] = (
    None,
    None,
    MaxTurns(6),
    Consensus(0.6),
    Consensus(1.0) | MaxTurns(10),
    Concluded("m0") & Concluded("m1") | MaxTurns(12),
    Consensus(0.5) & MaxTurns(4) | Deadline(3600.0),
    (Concluded("m1") | Consensus(2 / 3)) & MaxTurns(2),
)
TIES: Final = ("earliest", "latest", "confidence", "none")
RESOLVE: Final[st.SearchStrategy[Any]] = st.one_of(
    st.none(),
    st.builds(
        dict,
        by=st.sampled_from(["vote", "vote", "ranked", "ranked"]),
        ties=st.sampled_from(TIES),
        weighted=st.booleans(),
        need=st.sampled_from([0, 0, 500]),
    ),
    st.just({"by": "confidence"}),
    st.just({"by": "order", "order": ["m2", "m0"]}),
    st.just({"by": "judge"}),
)
JUDGE: Final = (PlanStep(name="read", agent="judge", next="rule"), PlanStep(name="rule", agent="judge"))
PICK: Final = st.integers(0, 9)
CONDITIONS: Final = st.one_of(st.none(), st.none(), st.integers(1, 5))


class Drawn(NamedTuple):
    """A member, as it is drawn."""

    weight: int
    present: bool
    joins: int | None
    leaves: int | None
    flow: bool


class Speech(NamedTuple):
    """Something to be said: members and proposals are places in a list, which are looked up when it is said."""

    kind: str
    to: list[int]
    wide: bool
    about: list[int]
    sure: float | None
    need: int | None


MEMBERS: Final = st.lists(
    st.builds(
        Drawn,
        st.sampled_from([1, 1, 2, 0]),
        st.sampled_from([True, True, False]),
        CONDITIONS,
        CONDITIONS,
        st.booleans(),
    ),
    min_size=2,
    max_size=4,
)
KINDS: Final = ("tell", "tell", "propose", "propose", "accept", "reject", "vote", "invite", "leave", "conclude")
SPEECH: Final = st.builds(
    Speech,
    st.sampled_from(KINDS),
    st.lists(st.integers(0, 3), min_size=1, max_size=3, unique=True),
    st.booleans(),
    st.lists(PICK, max_size=3, unique=True),
    st.sampled_from([None, 0.2, 0.8]),
    st.sampled_from([None, None, 1, 2]),
)
SPEECHES: Final = st.lists(SPEECH, min_size=1, max_size=3)
REALLY: Final = st.sampled_from([True, False, False, False])


class Sent(NamedTuple):
    """A call that was made, so that it can be made again."""

    begun: Begun
    said: list[Said]
    value: bytes
    what: str


class Conversing(RuleBasedStateMachine):
    """
    The machine, with one conversation.

    Args:
        store: of the run.
    """

    def __init__(self, store: RunStore) -> None:
        super().__init__()
        self.store = store
        self.talk: Stage | None = None
        self.begun: dict[str, Begun] = {}
        self.stale: list[Begun] = []
        self.sent: list[Sent] = []
        self.number = self.outsiders = 0
        self.cancelled, self.ruled = False, ""

    @initialize(
        drawn=MEMBERS,
        until=st.sampled_from(UNTIL),
        how=RESOLVE,
        otherwise=st.sampled_from(["fail", "degrade", "degrade"]),
        limits=st.tuples(st.sampled_from([30, 30, 8]), st.integers(1, 4), st.integers(3, 9), st.integers(1, 4)),
        turns_drawn=st.lists(st.tuples(PICK, SPEECHES), max_size=4),
    )
    def open(
        self,
        drawn: list[Drawn],
        until: End | None,
        how: dict[str, Any] | None,
        otherwise: str,
        limits: tuple[int, int, int, int],
        turns_drawn: list[tuple[int, list[Speech]]],
    ) -> None:
        """Open it; the first member is there."""
        members = [
            Member(
                name,
                each.weight,
                present=each.present or not place,
                joins=each.joins,
                leaves=each.leaves,
                steps=FLOW if each.flow else ("",),
            )
            for place, (name, each) in enumerate(zip(NAMES, drawn, strict=False))
        ]
        names = [each.name for each in members]
        if until is not None and any(leaf[0] == "verdict" and leaf[1] not in names for leaf in until.leaves()):
            until = None
        if how and "order" in how:
            how = {**how, "order": [name for name in how["order"] if name in names]}
        turns, mail, hops, volleys = limits
        decides = mail == 1
        self.of = Terms(
            None if until is None else until.as_rule(), how, otherwise, turns, mail, hops, volleys, decides=decides
        )
        of = rules(
            *(_rules(each) for each in members),
            until=until,
            resolve=_resolve(how),
            decides=("Word",) if decides else (),
            otherwise=otherwise,
            max_turns=turns,
            max_mail=mail,
            max_hops=hops,
            max_volleys=volleys,
        )
        self.reference = Reference(members, self.of)
        self.talk = Stage(self.store, submit(self.store, of))
        self.go_on(turns_drawn)

    def teardown(self) -> None:
        """Let nothing stay."""
        if self.talk is not None:
            self.store.cancel(self.talk.run, reason="", by="")

    # Who does something

    @property
    def stage(self) -> Stage:
        """The conversation."""
        assert self.talk is not None
        return self.talk

    @property
    def open_still(self) -> bool:
        """Whether members may do something."""
        return self.talk is not None and not self.reference.outcome and not self.cancelled

    def _of(self, busy: str, place: int) -> Member | None:
        able = [each for each in self.reference.members.values() if each.busy == busy]
        return able[place % len(able)] if able and self.open_still else None

    def _begin(self, member: Member) -> Begun:
        self.number += 1
        begun = self.store.begin(self.stage.run, member.step, agent=member.name, nonce=f"n{self.number}", worker="w")
        assert isinstance(begun, Begun), (member.step, begun)
        if member.at == 0:
            letter, message = begun.step.mail, self.reference.messages[member.about - 1]
            assert letter is not None
            found = (letter.id, letter.kind, letter.sender, letter.hops, letter.volley, letter.re, list(letter.to))
            sent = (member.about, message.kind, message.sender, message.hops, message.volley, message.re, message.to)
            assert found == sent
        assert (begun.step.said, list(begun.step.asked)) == (member.said, member.asked)
        for asked in member.asked:
            answers = self.stage.talks.answers(self.stage.run, TALK, asked)
            told = {name: "reply" if "body" in each else each.get("why", "") for name, each in answers.items()}
            assert told == self.reference.questions[asked]
        member.busy = "running"
        self.begun[member.step] = begun
        return begun

    def _running(self, place: int) -> Member | None:
        member = self._of("running", place)
        if member is None:
            member = self._of("ready", place)
            if member is not None:
                self._begin(member)
        return member

    def _said(self, speech: Speech, by: str) -> Said:
        names = list(self.reference.members)
        to = list(dict.fromkeys(names[place % len(names)] for place in speech.to))
        # Of those it goes to, all but the first one drawn are meant only if they are there.
        facts: dict[str, object] = {"kind": speech.kind, "to": to, "wide": to[1:] if speech.wide else []}
        proposals = [self._proposal(place) for place in speech.about]
        if speech.kind in {"tell", "propose", "ask"} and speech.wide:
            others = [name for name in names if name != by]
            facts |= {"to": [*to[:1], *(name for name in others if name not in to[:1])]}
            facts["wide"] = [name for name in others if name not in to[:1] or speech.kind != "tell"]
        elif speech.kind == "invite":
            facts |= {"to": to[:1], "wide": []}
        elif speech.kind in {"accept", "reject"}:
            about = proposals[0] if proposals else self._proposal(0)
            author = self.reference.messages[about - 1].sender if about <= len(self.reference.messages) else ""
            told = [author] if author in names and speech.wide else []
            facts |= {"re": about, "to": told, "wide": []}
        elif speech.kind in {"vote", "leave", "conclude"}:
            facts |= {"to": [], "wide": []}
        if speech.kind == "vote":
            facts["proposals"] = list(dict.fromkeys(proposals))
        if speech.kind == "ask":
            facts["within_ms"] = 3_600_000
            if speech.need is not None:
                facts["need"] = speech.need
        if speech.kind in {"propose", "accept", "vote"} and speech.sure is not None:
            facts["confidence"] = speech.sure
        if speech.kind in {"vote", "leave"}:
            return facts, b""
        other = speech.kind in {"propose", "conclude"} and any(place > 6 for place in speech.about)
        return {**facts, "type": "Note" if other else "Word"}, b'{"w":%d}' % len(self.reference.messages)

    def _proposal(self, place: int) -> int:
        made = self.reference.proposals
        return made[place % len(made)] if made and place < 8 else place + 1

    # Members

    @precondition(lambda self: self.open_still)
    @rule(place=PICK)
    def begin(self, place: int) -> None:
        """A worker takes a turn."""
        if member := self._of("ready", place):
            self._begin(member)

    @precondition(lambda self: self.open_still)
    @rule(place=PICK, speeches=SPEECHES, replies=st.booleans())
    def speak(self, place: int, speeches: list[Speech], replies: bool) -> None:  # noqa: FBT001  drawn
        """A step of a turn is done."""
        if member := self._running(place):
            said = [self._said(each, member.name) for each in speeches]
            self._speak(member, said, b'{"r":1}' if replies else b"null")

    @precondition(lambda self: self.open_still)
    @rule(place=PICK, speeches=SPEECHES, question=SPEECH)
    def ask(self, place: int, speeches: list[Speech], question: Speech) -> None:
        """A step asks."""
        if member := self._running(place):
            said = [self._said(each, member.name) for each in [*speeches[:2], question._replace(kind="ask")]]
            self._speak(member, said, b"null")

    @precondition(lambda self: self.open_still)
    @rule(turns=st.lists(st.tuples(PICK, SPEECHES), min_size=2, max_size=6))
    def go_on(self, turns: list[tuple[int, list[Speech]]]) -> None:
        """Several turns, one after the other, so that all else meets conversations of every age."""
        for place, speeches in turns:
            self.speak(place, speeches, replies=True)

    @precondition(lambda self: self.open_still)
    @rule(place=PICK, question=SPEECH, replies=st.lists(st.booleans(), max_size=3))
    def ask_and_reply(self, place: int, question: Speech, replies: list[bool]) -> None:
        """A step asks all others that it may, and some of those who are at a question reply, or decline."""
        if member := self._running(place):
            others = question._replace(kind="ask", to=[0, 1, 2, 3], wide=True)
            self._speak(member, [self._said(others, member.name)], b"null")
        for each in replies:
            at = [one for one in self.reference.members.values() if one.busy in {"ready", "running"}]
            able = [one for one in at if self.reference.messages[one.about - 1].kind == "ask"]
            if able and self.open_still:
                if able[0].busy == "ready":
                    self._begin(able[0])
                self._speak(able[0], [], b'{"r":1}' if each else b"null")

    def _speak(self, member: Member, said: list[Said], value: bytes) -> None:
        begun = self.begun.pop(member.step)
        change = self.stage.speak(begun, *said, value=value, says="Reply")
        last = member.at + 1 == len(member.steps)
        self.reference.speak(member, said, replies=value != b"null")
        asks = bool(said) and said[-1][0]["kind"] == "ask"
        assert change.what == ("asked" if asks else "joins" if last else "next")
        self.sent.append(Sent(begun, said, value, change.what))

    @precondition(lambda self: self.open_still)
    @rule(place=PICK, really=REALLY)
    def fail(self, place: int, really: bool) -> None:  # noqa: FBT001  drawn
        """A step fails for good."""
        if really and (member := self._running(place)):
            begun = self.begun.pop(member.step)
            self.reference.fail(member)
            assert self.store.fail(begun, "planted").what in {"failed", "undoing"}

    @precondition(lambda self: self.open_still)
    @rule(place=PICK, begins=st.booleans())
    def lose(self, place: int, begins: bool) -> None:  # noqa: FBT001  drawn
        """An attempt is lost, and begins again."""
        if member := self._running(place):
            lost = self.begun.pop(member.step)
            self.stale.append(lost)
            self.store.postpone(lost, 0, "lost")
            deadline = time.monotonic() + 5
            while self.store.wake([(self.stage.run, member.step)]) != ["ready"]:
                assert time.monotonic() < deadline
            member.busy = "ready"
            if begins:
                self._begin(member)
                self.speak_too_late(-1, [])

    @precondition(lambda self: self.open_still)
    @rule(place=PICK)
    def lose_its_lease(self, place: int) -> None:
        """A worker dies: the caretaker takes its step back."""
        member = self._of("running", place)
        if member is None or self.stage.store.load(self.stage.run).step(member.step).losses:  # type: ignore[union-attr]
            return  # a second loss waits
        self.stale.append(self.begun.pop(member.step))
        entry = keys.member(self.stage.run, member.step)
        self.store.client.zadd(keys.leases(keys.shard_of(self.stage.run)), {entry: 1})
        assert self.store.lost(self.stage.run, member.step).what == "ready"
        member.busy = "ready"

    @precondition(lambda self: self.open_still)
    @rule(place=PICK)
    def expire(self, place: int) -> None:
        """A question's time is over."""
        if member := self._of("waiting", place):
            assert self.store.wake([(self.stage.run, member.step)]) == ["early"]
            assert self.store.wake([(self.stage.run, member.step)], turn=True) == ["ready"]
            self.reference.expire(member)

    # What comes twice, or late

    @rule(place=PICK)
    def speak_again(self, place: int) -> None:
        """The reply to a call is lost, and it is made again: nothing changes."""
        if self.sent:
            sent = self.sent[-1 - place % min(3, len(self.sent))]
            before = self._looked()
            what = self.stage.speak(sent.begun, *sent.said, value=sent.value, says="Reply").what
            assert what in ({sent.what, "stale", "closed"} if sent.what == "asked" else {sent.what})
            assert self._looked() == before

    @rule(place=PICK, speeches=SPEECHES)
    def speak_too_late(self, place: int, speeches: list[Speech]) -> None:
        """An attempt that was lost speaks all the same: it is refused, or at most recorded when all is over."""
        if self.stale and self.talk is not None:
            begun = self.stale[place % len(self.stale)]
            before, talked = self._looked(), self.stage.talks.load(self.stage.run, TALK)
            said = [self._said(each, begun.step.name.partition("#")[0]) for each in speeches]
            what = self.stage.speak(begun, *said, value=b"9").what
            assert what in {"stale", "closed", *(["late"] if self.reference.outcome else [])}
            assert self.stage.talks.load(self.stage.run, TALK) == talked
            assert what == "late" or self._looked() == before

    @precondition(lambda self: self.talk is not None and bool(self.reference.outcome))
    @rule(place=PICK, speeches=SPEECHES)
    def speak_after_the_end(self, place: int, speeches: list[Speech]) -> None:
        """What was under way at the end is recorded, but of a cancelled run, and says nothing."""
        if self.begun and not self.reference.judging:
            begun = list(self.begun.values())[place % len(self.begun)]
            before = self.stage.talks.load(self.stage.run, TALK)
            said = [self._said(each, begun.step.name.partition("#")[0]) for each in speeches]
            assert self.stage.speak(begun, *said, value=b"9").what == ("closed" if self.cancelled else "late")
            assert self.stage.talks.load(self.stage.run, TALK) == before

    @rule(place=PICK)
    def deliver(self, place: int) -> None:
        """A message of a step comes once more: it does not begin twice."""
        if self.talk is None:
            return
        steps = [step for step in self.store.load(self.stage.run).steps if step.name != TALK and step.status != "ready"]
        if steps:
            step = steps[place % len(steps)]
            begun = self.store.begin(self.stage.run, step.name, agent=step.agent, nonce="again", worker="w")
            assert isinstance(begun, Refused), step

    # From outside

    @rule(speech=SPEECH)
    def outside(self, speech: Speech) -> None:
        """Somebody says something."""
        if self.talk is None:
            return
        facts, body = self._said(speech._replace(kind="tell", wide=False), "~ann")
        self.number += 1
        # twice, as where the first reply is lost
        said = [
            self.store.scripts.talk_say(
                self.stage.run,
                TALK,
                by="ann",
                said=json.dumps(facts),
                body=body,
                dispatch_ms=1000,
                nonce=f"{self.number}",
            )[:2]
            for _ in range(2)
        ]
        assert said[0] == said[1]
        if self.open_still:
            if said[0] == [b"full", b""]:
                assert self.outsiders == self.of.turns
                return
            assert said[0] == [b"said", b"%d" % (len(self.reference.messages) + 1)]
            self.outsiders += 1
            self.reference.outside((facts, body))
        else:
            assert said[0][0] in {b"ended", b"closed"}

    @precondition(lambda self: self.open_still)
    @rule(really=st.sampled_from([False] * 30 + [True]))
    def cancel(self, really: bool) -> None:  # noqa: FBT001  drawn
        """The run is cancelled."""
        if really:
            self.store.cancel(self.stage.run, reason="enough", by="me")
            self.cancelled = True

    @rule()
    def ring(self) -> None:
        """A timer rings for nothing."""
        if self.talk is not None:
            assert self.stage.ring() == ("early" if self.open_still else "closed")

    @precondition(lambda self: self.talk is not None and self.reference.judging and not self.ruled)
    @rule(place=PICK, fails=st.booleans())
    def judge(self, place: int, fails: bool) -> None:  # noqa: FBT001  drawn
        """The judge decides, or cannot."""
        self.stage.turn("judge#1/read", value=b"1")
        if fails:
            self.store.fail(self.stage.begin("judge#1/rule"), "planted")
            self.ruled = "failed"
        else:
            chosen = self._proposal(place)
            self.stage.turn("judge#1/rule", value=b'{"proposal":%d,"why":"so"}' % chosen)
            self.ruled = str(chosen) if chosen in self.reference.proposals else "none"

    # What must hold

    def _looked(self) -> tuple[object, ...]:
        run = self.stage.run
        return self.store.load(run), self.stage.talks.load(run, TALK), self.store.client.xlen(keys.events(run))

    @invariant()
    def all_holds(self) -> None:
        """The run and the conversation are what their log folds to, and all that follows holds of them."""
        if self.talk is None:
            return
        seen = self.stage.seen()
        self._it_is_as_the_reference_says(seen)
        self._what_members_are_at_is_as_the_reference_says(seen)
        self._each_message_is_in_one_place(seen)
        self._nobody_waits_in_a_circle(seen)
        self._its_end_is_as_the_reference_says(seen)

    def _it_is_as_the_reference_says(self, seen: Seen) -> None:
        """The conversation is what the reference says."""
        now, reference = seen.talk, self.reference
        assert (now.messages, now.turns, list(now.proposals)) == (
            len(reference.messages),
            reference.turns,
            reference.proposals,
        )
        outcome = None if reference.judging and not self.ruled else reference.outcome or None
        assert now.outcome == (outcome or ("closed" if self.cancelled else None))
        for name, member in reference.members.items():
            found = now.peers[name]
            assert (found.present, found.turns, list(found.mail), list(found.stance), found.confidence) == (
                member.present,
                member.number,
                member.mail,
                member.stance,
                member.sure,
            ), name
            if not self.cancelled:
                assert found.turn == (member.entry if member.busy else None), name
                assert list(found.waits) == reference.waits(member), name

    def _what_members_are_at_is_as_the_reference_says(self, seen: Seen) -> None:
        """Each is at one turn at most, and what brings it on is there."""
        at_work = {step.name: step.status for step in seen.run.steps if step.status in {"ready", "running", "delayed"}}
        at_work.pop(TALK, None)
        shard = keys.shard_of(self.stage.run)
        indexes = {"ready": keys.ready(shard), "leases": keys.leases(shard), "timers": keys.timers(shard)}
        pipe = self.store.client.pipeline(transaction=False)
        for key in indexes.values():
            pipe.zrange(key, 0, -1)
        pipe.hget(keys.talk(self.stage.run, TALK), "#sums")
        *entries, stored = pipe.execute()
        left = {
            entry.decode(): index
            for index, found in zip(indexes, entries, strict=True)
            for entry in found
            if entry.decode().startswith(f"{self.stage.run}/")
        }
        left.pop(keys.member(self.stage.run, f"//{TALK}"), None) if self.open_still else None
        if not self.open_still and not (self.reference.judging and not self.ruled and not self.cancelled):
            assert (at_work, left) == ({}, {})
            return
        if self.reference.judging:
            return
        members = self.reference.members.values()
        words = {"ready": ("ready", "ready"), "running": ("running", "leases"), "waiting": ("delayed", "timers")}
        assert at_work == {each.step: words[each.busy][0] for each in members if each.busy}
        assert left == {keys.member(self.stage.run, each.step): words[each.busy][1] for each in members if each.busy}
        assert json.loads(stored)["busy"] == sum(bool(each.busy) for each in members)

    @staticmethod
    def _each_message_is_in_one_place(seen: Seen) -> None:
        """Told by the log: for each whom it was for, a message waits, was taken by one turn, or went back."""
        found = places(seen)
        assert [place for place in found.items() if len(place[1]) != 1] == []

    def _nobody_waits_in_a_circle(self, seen: Seen) -> None:
        """Those who wait for each other can go on."""
        if not self.open_still:
            return
        waits = {name: set(each.waits) for name, each in seen.talk.peers.items()}
        while free := {name for name, others in waits.items() if not others & set(waits)}:
            waits = {name: others for name, others in waits.items() if name not in free}
        assert waits == {}

    def _its_end_is_as_the_reference_says(self, seen: Seen) -> None:
        """What is decided, and how, is what the members' words come to."""
        if not self.reference.outcome or self.cancelled:
            return
        if self.reference.judging and not self.ruled:
            return
        reference, state = self.reference, seen.run
        decided, tie = reference.decision()
        if reference.judging:
            decided, tie = (int(self.ruled) if self.ruled.isdigit() else None), False
        lacks = bool(self.of.resolve) and decided is None
        if reference.outcome == "failed" or (lacks and self.of.otherwise == "fail"):
            assert state.status == "failed"
            return
        step = state.step(TALK)
        assert step is not None
        assert step.degraded == (reference.degraded or lacks)
        result = self.stage.result
        assert ((result["decision"] or {}).get("message"), result["tie"]) == (decided, tie), result["how"]
        assert result["outcome"] == reference.outcome
        assert result["dissent"] == reference.dissent(decided)
        assert result["abstained"] == reference.abstained()
        by = self.of.resolve["by"] if self.of.resolve else ""
        if by != "ranked" or reference.outcome in {"verdict", "consensus"}:
            weighted = reference.outcome in {"verdict", "consensus"} or reference.judging or self._weighted
            votes, _ = reference.votes(weighted=weighted)
            assert {int(number): has for number, has in result["votes"].items()} == votes

    @property
    def _weighted(self) -> bool:
        return bool((self.of.resolve or {}).get("weighted", True))


def places(seen: Seen) -> Mapping[tuple[int, str], list[str]]:
    """Return where each message is, for each whom it was for."""
    found: dict[tuple[int, str], list[str]] = {}
    silent = {"reply"}
    for event in seen.events:
        data: dict[str, Any] = event.data
        if event.type == "MessageSent" and data["kind"] not in silent:
            found |= {(data["id"], name): [] for name in data.get("to") or ()}
        elif event.type == "TurnStarted":
            found[data["id"], data["peer"]].append(f"turn {data['number']}")
        elif event.type == "MessageReturned" and data["why"] == "proposal":
            found = {place: where for place, where in found.items() if place[0] != data["id"]}
        elif event.type == "MessageReturned" and data["why"] != "failed":
            found[data["id"], data["to"]].append(data["why"])
    for name, each in seen.talk.peers.items():
        for number in each.mail:
            found[number, name].append("mailbox")
    return found


def _rules(member: Member) -> PeerRules:
    steps: tuple[PlanStep, ...] = (PlanStep(name="", agent=member.name),)
    if member.steps == FLOW:
        steps = (PlanStep(name="x", agent=member.name, next="y"), PlanStep(name="y", agent=member.name))
    return peer(
        member.name,
        present=member.present,
        votes=1000 * member.weight,
        joins=None if member.joins is None else MaxTurns(member.joins),
        leaves=None if member.leaves is None else MaxTurns(member.leaves),
        steps=steps,
    )


def _resolve(how: Mapping[str, Any] | None) -> ResolveRules | None:
    if how is None:
        return None
    return resolve(**how, steps=JUDGE) if how["by"] == "judge" else resolve(**how)
