"""What a conversation is declared with, what its members say, and what is refused before anything is sent."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel

from orchestrator import (
    Announcement,
    Award,
    Concluded,
    Consensus,
    Context,
    ContractNet,
    Conversation,
    ConversationLimits,
    Deadline,
    Dispute,
    HighestConfidence,
    InvalidInput,
    Judge,
    Mail,
    MaxTurns,
    NoReply,
    Peer,
    PriorityOrder,
    RankedVote,
    Returned,
    Ruling,
    Silence,
    Spent,
    Vote,
    agent,
)
from orchestrator.conversation.transcript import Line, spoken
from orchestrator.errors import DefinitionError
from orchestrator.testing import Told, fake_context, fake_talk

if TYPE_CHECKING:
    from collections.abc import Iterator


class Task(BaseModel):
    """What is talked about."""

    text: str = ""


class Claim(BaseModel):
    """What is said to be so."""

    text: str


class Doubt(BaseModel):
    """Why it may not be."""

    text: str


@agent("unit-talk.author")
def author(ctx: Context, mail: Mail[Task | Doubt | Returned]) -> None:
    ctx.propose(Claim(text=mail.body.text if isinstance(mail.body, Task) else "?"), confidence=0.5)


@agent("unit-talk.critic")
async def critic(ctx: Context, mail: Mail[Claim]) -> Doubt | None:
    if mail.kind == "ask":
        return Doubt(text=mail.body.text)
    ctx.accept(mail)
    return None


@agent("unit-talk.judge")
def judge(dispute: Dispute) -> Ruling:
    return Ruling(proposal=dispute.proposals[0].id)


@agent("unit-talk.plain")
def plain(task: Task) -> Task:
    return task


@agent("unit-talk.number")
def number(mail: Mail[Task]) -> int:
    return len(mail.body.text)


@pytest.fixture(autouse=True)
def _forgets_flows() -> Iterator[None]:
    """Each test declares the same flow at another place."""
    from orchestrator.patterns import flow  # noqa: PLC0415  the register

    before = dict(flow._flows)  # noqa: SLF001  it has no way to forget, and needs none
    yield
    flow._flows.clear()  # noqa: SLF001  likewise
    flow._flows.update(before)  # noqa: SLF001  likewise


def conversation(**options: Any) -> Conversation:  # noqa: ANN401  any of Conversation's
    return Conversation("unit-talk", **{"task": Task, "members": [author, critic], **options})


# Declaring


def test_a_conversation_is_one_step_whose_rules_say_how_it_goes_on() -> None:
    made = conversation(
        members=[author, Peer(critic, name="doubter", weight=2.0, topics=["#claims"])],
        until=Consensus(0.5) | MaxTurns(4) & Silence(2.0),
        resolve=Vote(need=0.5),
    )

    (step,) = made.plan()

    assert step.converses is not None
    rules = step.converses
    assert [(each.name, each.votes, each.greeted, each.returns) for each in rules.members] == [
        ("author", 1000, True, True),
        ("doubter", 2000, False, False),
    ]
    assert rules.opening == ("author",)
    assert rules.until == ["any", ["consensus", 500.0], ["all", ["turns", 4], ["silence", 2000]]]
    assert (rules.waits, rules.moves) == (True, False)
    assert rules.resolve is not None
    assert (rules.resolve.by, rules.resolve.need, rules.resolve.ties) == ("vote", 500, "earliest")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"task": str}, "task takes the pydantic model"),
        ({"members": []}, "at least one"),
        ({"members": "author"}, "members takes a list"),
        ({"members": [author] * 101}, "at most 100"),
        ({"members": [author, author]}, "two members are named 'author'"),
        ({"members": [plain]}, r"takes Mail\[\.\.\.\]"),
        ({"members": [author, number]}, "a reply is a pydantic model"),
        ({"members": [author, "unit-talk.nobody"]}, "unit-talk.nobody"),
        ({"members": [author, object()]}, "neither an agent nor a flow"),
        ({"members": [Peer(author, name="judge")]}, "and not 'judge'"),
        ({"members": [Peer(author, name="Author")]}, "lower-case letters"),
        ({"members": [Peer(author, weight=-1.0)]}, "weight must be 0 to 1000"),
        ({"members": [Peer(author, topics=["claims"])]}, "a topic is called like '#claims'"),
        ({"members": [Peer(author, present="yes")]}, "present is True or False"),  # type: ignore[arg-type]  # on purpose
        ({"members": [Peer(author, joins=3)]}, "joins takes a condition"),  # type: ignore[arg-type]  # likewise
        ({"opening": "nobody"}, "opening names 'nobody', which is no member; members: author, critic"),
        ({"opening": "critic"}, "opening names 'critic', which cannot be told Task: .*takes Claim"),
        ({"opening": []}, "opening takes the name"),
        ({"members": [Peer(author, present=False)]}, "which is not there at the beginning"),
        ({"until": 12}, "until takes what ends it"),
        ({"until": Concluded("nobody")}, "names no member"),
        ({"resolve": "vote"}, "resolve is one of"),
        ({"resolve": PriorityOrder(["nobody"])}, "which is no member"),
        ({"resolve": Judge(plain)}, "takes a Dispute and gives a Ruling"),
        ({"decides": []}, r"such as \[Answer\], not \[\]"),
        ({"decides": Claim}, "decides takes the models"),
        ({"decides": ["Claim"]}, "decides takes the models"),
        (
            {"decides": [Claim, Ruling]},
            "names Ruling, which no member can be told: .* author Task, Doubt, Returned, critic",
        ),
        ({"otherwise": "hope"}, "otherwise is 'fail' or 'degrade'"),
        ({"limits": 3}, "limits takes ConversationLimits"),
    ],
)
def test_what_does_not_fit_together_is_refused_where_it_is_declared(options: dict[str, Any], why: str) -> None:
    with pytest.raises(DefinitionError, match=why) as refused:
        conversation(**options)

    assert __file__ in str(refused.value) or "unit-talk.nobody" in str(refused.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Consensus(0),
        lambda: Consensus(1.5),
        lambda: Consensus(True),  # noqa: FBT003  on purpose
        lambda: MaxTurns(0),
        lambda: MaxTurns(1.5),  # type: ignore[arg-type]  # likewise
        lambda: Deadline(0),
        lambda: Deadline(float("nan")),
        lambda: Silence(-1.0),
        lambda: Concluded(""),
        Spent,
        lambda: Spent(tokens=0),
        lambda: Vote(need=1.0),
        lambda: Vote(ties="first"),  # type: ignore[arg-type]  # likewise
        lambda: RankedVote(ties="first"),  # type: ignore[arg-type]  # likewise
        lambda: PriorityOrder([]),
        lambda: PriorityOrder("author"),
        lambda: ConversationLimits(turns=0),
        lambda: ConversationLimits(mail=10**9),
    ],
)
def test_a_condition_or_rule_that_cannot_be_is_refused_with_its_place(make: Any) -> None:  # noqa: ANN401  a function
    with pytest.raises(DefinitionError) as refused:
        make()

    assert __file__ in str(refused.value)


def test_ends_are_combined_and_not_decided_in_python() -> None:
    assert (MaxTurns(1) | MaxTurns(2) | MaxTurns(3)).as_rule() == ["any", ["turns", 1], ["turns", 2], ["turns", 3]]
    with pytest.raises(TypeError, match=r"with & and \|"):
        bool(MaxTurns(1))
    with pytest.raises(TypeError, match="combined with another"):
        MaxTurns(1) | 3  # type: ignore[operator]  # on purpose


def test_two_models_of_one_name_are_refused_as_mail_tells_them_apart_by_it() -> None:
    @agent("unit-talk.other")
    def other(mail: Mail[Other]) -> None: ...

    with pytest.raises(DefinitionError, match="two models are called 'Claim'"):
        conversation(members=[author, critic, other])


class Other(BaseModel):
    """Called as another is."""


Other.__name__ = "Claim"


def test_every_rule_is_one() -> None:
    for rule in (Vote(), RankedVote(), HighestConfidence(), PriorityOrder(["critic"]), Judge(judge)):
        assert conversation(resolve=rule).rules.resolve is not None


def test_what_one_alone_decides_need_not_be_told_to_anybody() -> None:
    for more in ({"until": Concluded("critic")}, {"resolve": Judge(judge)}, {"resolve": PriorityOrder(["critic"])}):
        assert conversation(decides=[Ruling], **more).rules.decides == ("Ruling",)
    assert conversation().rules.decides == ()


def test_nobody_is_for_what_cannot_be_decided() -> None:
    # given a conversation that decides on doubts alone, and somebody who has made a claim
    made = conversation(decides=[Doubt], until=Concluded("critic"))
    told: list[Told] = [("", Task()), ("propose", "author", Doubt(text="d")), ("propose", "author", Claim(text="c"))]
    talk = fake_talk(made, member="critic", said=told)
    ctx = fake_context(talk=talk)
    claim = Mail(kind="propose", id=3, sender="author", body=Claim(text="c"))

    # then it is no proposal, and to be for it, or to conclude with another, is an error at once
    assert [(motion.id, motion.supporters) for motion in ctx.proposals()] == [(2, ("author",))]
    with pytest.raises(InvalidInput, match="decides Doubt, not Claim: nobody can be for it"):
        ctx.accept(claim)
    with pytest.raises(InvalidInput, match="decides Doubt, not Claim: nobody can be for it"):
        ctx.vote(2, claim)
    with pytest.raises(InvalidInput, match="decides Doubt, not Claim: it is no verdict"):
        ctx.conclude(Claim(text="c"))
    ctx.reject(claim, Doubt(text="d"))
    ctx.vote(*ctx.proposals())
    ctx.conclude(Doubt(text="d"))
    assert [(each.kind, each.re, each.proposals) for each in talk.said] == [
        ("reject", 3, ()),
        ("vote", None, (2,)),
        ("conclude", None, ()),
    ]


def test_a_contract_net_wants_contractors_that_take_both_messages() -> None:
    @agent("unit-talk.contractor")
    def contractor(mail: Mail[Announcement[Task]]) -> Claim | None: ...

    with pytest.raises(DefinitionError, match=r"takes Mail\[Announcement\[Task\] \| Award\[Task, Claim\]\]"):
        ContractNet(
            "unit-net", task=Task, bid=Claim, report=Doubt, contractors=[contractor], rank=lambda bid: len(bid.text)
        )
    with pytest.raises(DefinitionError, match="bids_within must be seconds"):
        ContractNet("unit-net", task=Task, bid=Claim, report=Doubt, contractors=[], rank=lambda _: 0.0, bids_within=0)
    assert Award[Task, Claim](task=Task(), bid=Claim(text="1")).bid.text == "1"


# Mail


def test_mail_is_read_by_the_name_of_its_model_where_two_have_the_same_fields() -> None:
    read = Mail[Claim | Doubt].model_validate_json('{"type": "Doubt", "body": {"text": "why?"}}')

    assert read.body == Doubt(text="why?")


# Saying


def test_what_is_said_goes_where_it_says_with_what_it_needs() -> None:
    made = conversation(members=[author, critic, Peer(critic, name="second", topics=["#claims"])])
    talk = fake_talk(made, member="author")
    ctx = fake_context(talk=talk)

    ctx.send("critic", Claim(text="a"))
    ctx.send(["critic", "#claims"], Claim(text="b"))
    ctx.broadcast(Claim(text="c"))
    ctx.propose(Claim(text="d"), confidence=0.25)
    ctx.accept(Mail(kind="propose", id=7, sender="critic", body=Claim(text="")), Doubt(text="e"))
    ctx.reject(7)
    ctx.vote(7, 8, confidence=1)
    ctx.leave()

    assert [(each.kind, each.to, each.re, each.proposals, each.confidence) for each in talk.said] == [
        ("tell", ("critic",), None, (), None),
        ("tell", ("critic", "second"), None, (), None),
        ("tell", ("critic", "second"), None, (), None),
        ("propose", ("critic", "second"), None, (), 0.25),
        ("accept", (), 7, (), None),  # its proposer cannot be told a Doubt
        ("reject", (), 7, (), None),
        ("vote", (), None, (7, 8), 1),
        ("leave", (), None, (), None),
    ]


@pytest.mark.parametrize(
    ("say", "why"),
    [
        (lambda ctx: ctx.send("nobody", Claim(text="")), "no member 'nobody'; it has: author, critic"),
        (lambda ctx: ctx.send("critic", Doubt(text="")), "'critic' cannot be told Doubt: it takes Claim"),
        (lambda ctx: ctx.send("critic", "text"), "a pydantic model"),
        (lambda ctx: ctx.send("critic", Claim(text="x" * 70_000)), "a message may have 65536 bytes"),
        (lambda ctx: ctx.send("#claims", Claim(text="")), "no topic '#claims'; topics: none"),
        (lambda ctx: ctx.send(3, Claim(text="")), "."),
        (lambda ctx: ctx.accept("first"), "which proposal"),
        (lambda ctx: ctx.propose(Claim(text=""), confidence=2), "from 0 to 1"),
        (lambda ctx: ctx.conclude(Claim(text="")), r"add Concluded\('author'\) to its until"),
        (lambda ctx: ctx.invite("critic", Task()), "cannot be told Task"),
        (lambda ctx: ctx.ask("*", Claim(text="")), "ask_all"),
        (lambda ctx: ctx.ask("critic", Claim(text=""), within=0), "above 0"),
        (lambda ctx: ctx.ask_all("*", Claim(text=""), need=0), "1 or more"),
        (lambda ctx: ctx.transcript(last=0), "1 to 1000"),
        (lambda ctx: [ctx.send("critic", Claim(text="")) for _ in range(101)], "more than 100 things"),
    ],
)
def test_what_cannot_be_said_is_an_error_at_once(say: Any, why: str) -> None:  # noqa: ANN401  a function
    talk = fake_talk(conversation(), member="author")

    with pytest.raises((InvalidInput, TypeError), match=why):
        say(fake_context(talk=talk))


def test_only_members_of_a_conversation_speak() -> None:
    with pytest.raises(InvalidInput, match="is no conversation's"):
        fake_context().send("critic", Claim(text=""))


def test_who_asks_gets_the_reply_or_the_reason() -> None:
    made = conversation()

    async def asks(replies: dict[str, object]) -> object:
        ctx = fake_context(talk=fake_talk(made, member="author", replies=replies))
        return await ctx.ask("critic", Claim(text="true?"))

    assert asyncio.run(asks({"critic": Doubt(text="no")})) == Doubt(text="no")
    with pytest.raises(NoReply, match=r"did not reply in time \(deadline\)"):
        asyncio.run(asks({"critic": "deadline"}))
    # and a sync agent calls it
    ctx = fake_context(talk=fake_talk(made, member="author", replies={"critic": Doubt(text="no")}))
    assert ctx.ask_all(["critic"], Claim(text="true?"))["critic"].body == Doubt(text="no")


def test_the_transcript_gives_models() -> None:
    talk = fake_talk(conversation(), member="critic", said=[("", Task(text="t")), ("author", Claim(text="c"))])

    said = fake_context(talk=talk).transcript()
    argued: list[Told] = [("", Task()), ("propose", "author", Claim(text="c")), ("accept", "critic", 2)]
    ctx = fake_context(talk=fake_talk(conversation(), member="critic", said=argued))

    assert [(line.kind, line.sender, line.body) for line in said] == [
        ("open", "", Task(text="t")),
        ("tell", "author", Claim(text="c")),
    ]
    assert [(line.kind, line.sender, line.re) for line in ctx.transcript()][1:] == [
        ("propose", "author", None),
        ("accept", "critic", 2),
    ]
    assert [(motion.id, motion.by, motion.supporters) for motion in ctx.proposals()] == [
        (2, "author", ("author", "critic"))
    ]


def test_a_member_is_a_plain_function() -> None:
    made = conversation()
    talk = fake_talk(made, member="author")

    author(fake_context(talk=talk), Mail(body=Task(text="hello")))

    assert [(each.kind, each.body) for each in talk.said] == [("propose", Claim(text="hello"))]


# The transcript in words


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"kind": "open", "to": ("a", "b"), "body": {"text": "go"}}, ("the task, to a, b", "go")),
        ({"kind": "tell", "who": "a", "to": ("b",), "type": "N", "body": {"n": 1}}, ("a to b", "N(n: 1)")),
        (
            {"kind": "tell", "who": "a", "to": ("b",), "type": "N", "body": {"n": 1, "text": "so", "long": "x" * 70}},
            ("a to b", f"so (n: 1, long: {'x' * 59}…)"),
        ),
        ({"kind": "tell", "who": "~ann", "to": ("b",), "body": None}, ("ann to b", "")),
        ({"kind": "vote", "who": "a", "proposals": (3, 2)}, ("a votes", "#3, then #2")),
        ({"kind": "vote", "who": "a"}, ("a votes", "for none")),
        ({"kind": "unanswered", "who": "b", "re": 4, "note": "no reply"}, ("b does not answer #4", "no reply")),
        ({"kind": "cycle", "re": 4, "note": "b waits for a"}, ("#4 would close a circle", "b waits for a")),
    ],
)
def test_a_line_of_the_transcript_reads_like_a_play(line: dict[str, Any], words: tuple[str, str]) -> None:
    assert spoken(Line(at_ms=0, event="0-0", talk="talk", **line)) == words
