"""Each member of the research flow, called as a plain function: what it says to what it is told."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator import Agent, ConversationResult, InvalidInput, Mail, Resolution
from orchestrator.testing import FakeSaid, fake_context
from tests.researching import Heard, Line, citation, plant, question
from workers.research.critic import critic
from workers.research.errors import NoAnswer, NothingToRead
from workers.research.fact_checker import fact_checker
from workers.research.models import (
    MAX_PATH,
    MAX_QUOTE,
    MAX_TEXT,
    Answer,
    Assent,
    Check,
    Checked,
    Citation,
    Claim,
    Doubt,
    Gap,
    Point,
    Question,
    Report,
    Settled,
    Statement,
)
from workers.research.proposer import MOST_CLAIMS, proposer
from workers.research.publish import publish
from workers.research.scribe import ANSWERS, scribe

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic import BaseModel

    from orchestrator.messages import MailKind

BERTH = "A berth costs 20 crowns a night."
COST = "How much does a berth cost?"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return plant(tmp_path / "docs")


def claimed(folder: Path, path: str, first: int, text: str, *covers: str) -> Claim:
    return Claim(text=text, evidence=citation(folder, path, first), covers=covers)


def berth(folder: Path) -> Claim:
    return claimed(folder, "harbour.md", 6, BERTH, "berth", "cost")


def lease(folder: Path) -> Claim:
    return claimed(folder, "leases.md", 3, "The lease ends after 10 seconds.", "lease")


def point(claim: Claim, proposal: int) -> Point:
    return Point(proposal=proposal, text=claim.text, evidence=claim.evidence)


def agreed(*numbers: int) -> list[Line]:
    """The rulings of a jury that accepts."""
    return [assented(by, number) for number in numbers for by in ("fact_checker", "critic")]


def assented(by: str, number: int) -> Line:
    return Line("tell", by, Assent(claim=number, text="yes"))


def mail(kind: MailKind, body: BaseModel, *, number: int, re: int | None = None, sender: str = "proposer") -> Mail[Any]:
    return Mail(type=type(body).__name__, body=body, kind=kind, id=number, sender=sender, re=re)


def told(
    member: Agent[..., Any], lines: list[Line], given: Mail[Any], replies: dict[str, object] | None = None
) -> list[FakeSaid]:
    """Return what a member says."""
    talk = Heard(member.name.rpartition(".")[2], lines, replies)
    reply = member(fake_context(talk=talk), given)
    if asyncio.iscoroutine(reply):
        asyncio.run(reply)
    return [each for each in talk.said if each.kind != "ask"]


def only(said: list[FakeSaid]) -> FakeSaid:
    (one,) = said
    return one


# The proposer


def test_the_proposer_claims_what_the_best_evidence_says(folder: Path) -> None:
    asked = question(folder)
    said = told(proposer, [Line("open", "", asked)], mail("open", asked, number=1, sender=""))
    assert [each.kind for each in said] == ["propose"] * len(said)
    best = said[0]
    assert (best.body.text, best.body.evidence) == (BERTH, citation(folder, "harbour.md", 6))
    assert best.body.covers == ("berth", "cost")
    assert best.confidence is not None
    assert best.confidence > 0.8


def test_where_nothing_is_found_the_scribe_is_told_at_once(folder: Path) -> None:
    asked = question(folder, "zygomorphic?")
    said = told(proposer, [Line("open", "", asked)], mail("open", asked, number=1, sender=""))
    assert [(each.kind, each.to, each.body) for each in said] == [("tell", ("scribe",), Settled(claims=0))]


def test_a_folder_that_is_not_there_ends_the_argument_with_the_reason(folder: Path) -> None:
    asked = question(folder / "none")
    with pytest.raises(NothingToRead, match="No such file"):
        told(proposer, [Line("open", "", asked)], mail("open", asked, number=1, sender=""))


def test_a_refuted_claim_is_replaced_by_another_one_once(folder: Path) -> None:
    # given a claim that both have rejected
    doubt = Doubt(why="judgement", text="no")
    lines = [
        Line("open", "", question(folder, "What does a berth in the harbour cost a boat?")),
        Line("propose", "proposer", berth(folder)),
        Line("reject", "critic", doubt, 2),
        Line("reject", "fact_checker", doubt, 2),
    ]
    # when the first rejection is read, then other evidence takes its place
    other = only(told(proposer, lines, mail("reject", doubt, number=3, re=2, sender="critic")))
    assert (other.kind, other.body.instead) == ("propose", 2)
    assert not other.body.evidence.overlaps(berth(folder).evidence)
    # and when the second one is read, nothing more; only that all is settled, as long as nothing else is open
    assert only(told(proposer, lines, mail("reject", doubt, number=4, re=2, sender="fact_checker"))).body == Settled(
        claims=1
    )


def test_evidence_that_has_moved_is_cited_where_it_stands(folder: Path) -> None:
    moved = Statement(text=BERTH, evidence=citation(folder, "harbour.md", 6))
    was = moved.evidence.model_copy(update={"first": 5, "last": 5})
    doubt = Doubt(why="quotation", text="elsewhere", better=moved)
    lines = [
        Line("open", "", question(folder)),
        Line("propose", "proposer", Claim(text=BERTH, evidence=was)),
        Line("reject", "fact_checker", doubt, 2),
    ]
    said = only(told(proposer, lines, mail("reject", doubt, number=3, re=2, sender="fact_checker")))
    assert (said.body.evidence, said.body.text) == (moved.evidence, BERTH)


def test_the_scribe_is_told_once_when_the_last_ruling_is_read(folder: Path) -> None:
    # given two claims and all rulings about them
    lines = [
        Line("open", "", question(folder)),
        Line("propose", "proposer", berth(folder)),
        Line("propose", "proposer", lease(folder)),
        *agreed(2, 3),
    ]
    # then of the four messages only the last one leads on
    said = [
        told(proposer, lines, mail("tell", Assent(claim=2 if n < 6 else 3, text="yes"), number=n)) for n in range(4, 8)
    ]
    assert [len(each) for each in said] == [0, 0, 0, 1]
    assert said[3][0].body == Settled(claims=2)
    # and none while a ruling is missing
    assert told(proposer, lines[:-1], mail("tell", Assent(claim=3, text="yes"), number=6)) == []


def test_there_is_an_end_to_other_claims(folder: Path) -> None:
    doubt = Doubt(why="judgement", text="no")
    lines = [
        Line("open", "", question(folder)),
        *(Line("propose", "proposer", berth(folder)) for _ in range(MOST_CLAIMS)),
    ]
    for number in range(2, MOST_CLAIMS + 2):
        lines += [Line("reject", by, doubt, number) for by in ("critic", "fact_checker")]
    last = mail("reject", doubt, number=len(lines), re=MOST_CLAIMS + 1)
    assert only(told(proposer, lines, last)).body == Settled(claims=MOST_CLAIMS)


def test_a_gap_is_filled_with_what_speaks_of_it_or_the_scribe_is_told_that_nothing_does(folder: Path) -> None:
    asked = question(folder, "What does a berth cost fishing boats?")
    lines = [Line("open", "", asked), Line("propose", "proposer", berth(folder)), *agreed(2)]
    better = Statement(text="Fishing boats pay nothing.", evidence=citation(folder, "harbour.md", 7))
    gap = Gap(lacking=("fishing", "boats"), better=better)
    said = told(proposer, lines, mail("tell", gap, number=5, sender="scribe"))
    assert said[0].body.text == better.text
    assert {"fishing", "boats"} <= set(said[0].body.covers)
    nothing = Gap(lacking=("zygomorphic",))
    assert only(told(proposer, lines, mail("tell", nothing, number=5, sender="scribe"))).body == Settled(claims=1)


def test_the_proposer_objects_to_an_answer_that_leaves_out_what_stood(folder: Path) -> None:
    lines = [
        Line("open", "", question(folder)),
        Line("propose", "proposer", berth(folder)),
        Line("propose", "proposer", lease(folder)),
        *agreed(2, 3),
    ]
    whole = Answer(question=question(folder), text="", points=(point(berth(folder), 2), point(lease(folder), 3)))
    assert only(told(proposer, lines, mail("propose", whole, number=8, sender="scribe"))).kind == "accept"
    half = whole.model_copy(update={"points": whole.points[:1]})
    said = only(told(proposer, lines, mail("propose", half, number=8, sender="scribe")))
    assert (said.kind, said.body.why) == ("reject", "missing")
    assert "leases.md:3" in said.body.text


# The critic


def heard_by_critic(folder: Path, claim: Claim, *before: Claim, text: str = COST, checked: object = None) -> FakeSaid:
    """Return what the critic says of a claim that comes after others."""
    lines = [
        Line("open", "", question(folder, text)),
        *(Line("propose", "proposer", each) for each in (*before, claim)),
    ]
    looked = checked or fact_checked(folder, claim.evidence)
    return only(told(critic, lines, mail("propose", claim, number=len(lines)), {"fact_checker": looked}))


def fact_checked(folder: Path, cited: Citation) -> Checked:
    """Return what the fact-checker replies."""
    talk = Heard("fact_checker", [Line("open", "", question(folder))])
    reply = fact_checker(fake_context(talk=talk), mail("ask", Check(citation=cited), number=2, sender="critic"))
    assert isinstance(reply, Checked)
    return reply


def test_the_critic_accepts_a_claim_that_speaks_of_what_is_asked(folder: Path) -> None:
    said = heard_by_critic(folder, berth(folder))
    assert (said.kind, said.to, said.body.claim) == ("tell", ("proposer",), 2)
    assert "berth" in said.body.text


@pytest.mark.parametrize("why", ["deadline", "failed", "declined"])
def test_the_critic_goes_on_without_a_fact_checker(folder: Path, why: str) -> None:
    assert heard_by_critic(folder, berth(folder), checked=why).kind == "tell"


def test_the_critic_rejects_what_says_nothing_of_what_is_asked(folder: Path) -> None:
    said = heard_by_critic(folder, lease(folder))
    assert (said.kind, said.body.why, said.body.lacking) == ("reject", "missing", ("berth", "cost"))


def test_the_critic_rejects_what_was_said_before(folder: Path) -> None:
    (folder / "copy.md").write_text(f"# Copy\n\n- {BERTH}\n")
    again = claimed(folder, "copy.md", 3, BERTH)
    said = heard_by_critic(folder, again, berth(folder))
    assert (said.kind, said.body.why) == ("reject", "duplicate")
    assert "harbour.md:6" in said.body.text


def test_the_critic_rejects_a_quotation_that_ends_before_a_but(folder: Path) -> None:
    # given a claim whose next line takes back what it says
    said = heard_by_critic(folder, lease(folder), text="When does the lease of a worker end?")
    # then the doubt has the wider quotation and says what was left out
    assert (said.kind, said.body.why) == ("reject", "narrow")
    assert said.body.better.evidence == citation(folder, "leases.md", 3, 4)
    assert said.body.better.text.endswith("But a worker that is alive renews it every three seconds.")
    # and the wider one is accepted
    wider = Claim(text=said.body.better.text, evidence=said.body.better.evidence)
    assert heard_by_critic(folder, wider, text="When does the lease of a worker end?").kind == "tell"


def test_the_critic_brings_evidence_that_speaks_of_more(folder: Path) -> None:
    said = heard_by_critic(
        folder, claimed(folder, "harbour.md", 4, "Boats enter at high tide."), text="harbour berth crowns night"
    )
    assert (said.kind, said.body.why) == ("reject", "counter")
    assert said.body.better.evidence == citation(folder, "harbour.md", 6)


def test_the_critic_brings_evidence_that_denies_a_claim(folder: Path) -> None:
    (folder / "old.md").write_text("Old\n===\n\nA berth for fishing boats costs no crowns at all in this harbour.\n")
    (folder / "new.md").write_text("New\n===\n\nA berth for fishing boats costs crowns in this harbour.\n")
    claim = claimed(folder, "new.md", 4, "A berth for fishing boats costs crowns in this harbour.")
    said = heard_by_critic(folder, claim, text="Does a berth for fishing boats cost crowns?")
    assert (said.kind, said.body.why) == ("reject", "contradiction")
    assert "old.md:4" in said.body.text


def test_the_critic_wants_an_answer_to_speak_of_what_can_be_found(folder: Path) -> None:
    asked = question(folder, "What does a berth cost, and what do fishing boats pay?")
    lines = [Line("open", "", asked), Line("propose", "proposer", berth(folder)), *agreed(2)]
    answer = Answer(question=asked, text="", points=(point(berth(folder), 2),), lacking=("fishing", "boats", "pay"))
    said = only(told(critic, lines, mail("propose", answer, number=5, sender="scribe")))
    assert (said.kind, said.body.why) == ("reject", "missing")
    assert "fishing" in said.body.lacking
    assert said.body.better.evidence.path == "harbour.md"
    # what was brought up once is not again
    heard = [*lines, Line("propose", "scribe", answer), Line("reject", "critic", said.body, 5)]
    assert only(told(critic, heard, mail("propose", answer, number=7, sender="scribe"))).kind == "accept"
    # what cannot be found is not wanted
    answer = answer.model_copy(update={"lacking": ("zygomorphic",)})
    assert only(told(critic, lines, mail("propose", answer, number=5, sender="scribe"))).kind == "accept"


# The fact-checker


def ruled(folder: Path, body: Claim | Answer) -> FakeSaid:
    lines = [Line("open", "", question(folder))]
    return only(told(fact_checker, lines, mail("propose", body, number=2)))


def test_the_fact_checker_accepts_what_stands_there(folder: Path) -> None:
    said = ruled(folder, berth(folder))
    assert (said.kind, said.to, said.body.claim) == ("tell", ("proposer",), 2)


def test_the_fact_checker_says_what_stands_there_instead_and_where_it_is_now(folder: Path) -> None:
    # given a quotation whose document changes
    claim = berth(folder)
    text = (folder / "harbour.md").read_text()
    (folder / "harbour.md").write_text("A line.\n" + text)
    said = ruled(folder, claim)
    assert (said.kind, said.body.why) == ("reject", "quotation")
    assert "there stands nothing; it stands in harbour.md:7" in said.body.text
    assert said.body.better.evidence.first == 7
    # and one that is gone, with its document
    (folder / "harbour.md").write_text(text.replace("20 crowns", "30 crowns"))
    said = ruled(folder, claim)
    assert "30 crowns" in said.body.text
    assert said.body.better is None
    (folder / "harbour.md").unlink()
    assert "there stands nothing" in ruled(folder, claim).body.text


def test_the_fact_checker_reads_nothing_outside_of_the_folder(folder: Path) -> None:
    (folder.parent / "secret.md").write_text("secret\n")
    outside = Citation(path="../secret.md", first=1, last=1, quote="secret")
    assert fact_checked(folder, outside) == Checked(stands=False, found="")


def test_of_a_long_line_a_part_is_quoted_and_checked(folder: Path) -> None:
    # given a document whose paragraphs are a line each
    many = " ".join(f"Sentence number {number} speaks of ropes and sails." for number in range(60))
    late = "Every anchor weighs forty stone."
    (folder / "ships.md").write_text(f"# Ships\n\n{many} {late} But the small ones weigh ten. {many}\n")
    asked = question(folder, "How much does an anchor weigh?")
    # then a part of the line is quoted, and stands there
    made = told(proposer, [Line("open", "", asked)], mail("open", asked, number=1, sender=""))[0].body
    assert made.text.startswith(late)
    assert (made.evidence.first, made.evidence.quote) == (3, made.text)
    assert ruled(folder, made).kind == "tell"
    # and what follows in the same line is looked at
    short = made.model_copy(update={"text": late, "evidence": made.evidence.model_copy(update={"quote": late})})
    said = heard_by_critic(folder, short, text=asked.text)
    assert (said.kind, said.body.why) == ("reject", "narrow")
    assert said.body.better.text.endswith("But the small ones weigh ten.")
    wider = Claim(text=said.body.better.text, evidence=said.body.better.evidence)
    assert ruled(folder, wider).kind == "tell"
    # and where the line has moved it is found
    (folder / "ships.md").write_text("New.\n\n" + (folder / "ships.md").read_text())
    assert ruled(folder, short).body.better.evidence.first == 5


def test_numbers_that_no_quotation_has_are_made_up(folder: Path) -> None:
    (folder / "dear.md").write_text("It costs 1,000 crowns.\n")
    assert ruled(folder, claimed(folder, "dear.md", 1, "It costs 1000 crowns.")).kind == "tell"
    wrong = berth(folder).model_copy(update={"text": "A berth costs 25 crowns."})
    said = ruled(folder, wrong)
    assert (said.kind, said.body.why) == ("reject", "quotation")
    assert "25" in said.body.text


@pytest.mark.parametrize(
    ("text", "wrong"), [(f"{BERTH} [1]", None), (f"{BERTH} [2]", "[2]"), ("It costs 25 crowns. [1]", "25")]
)
def test_an_answer_cites_and_counts_only_what_is_there(folder: Path, text: str, wrong: str | None) -> None:
    said = ruled(folder, Answer(question=question(folder), text=text, points=(point(berth(folder), 2),)))
    assert said.kind == ("accept" if wrong is None else "reject")
    assert wrong is None or wrong in said.body.text


def test_a_point_that_does_not_stand_any_more_is_named(folder: Path) -> None:
    answer = Answer(question=question(folder), text="", points=(point(lease(folder), 3), point(berth(folder), 2)))
    (folder / "harbour.md").write_text("Closed.\n")
    said = ruled(folder, answer)
    assert (said.kind, said.body.about) == ("reject", 2)


def test_who_asks_is_told_what_is_around_a_quotation(folder: Path) -> None:
    checked = fact_checked(folder, citation(folder, "leases.md", 8))
    assert checked.stands
    assert checked.before.startswith("| What dies")
    assert checked.after == "| the broker | messages wait |"


def test_a_conversation_without_a_question_is_an_error() -> None:
    with pytest.raises(InvalidInput, match="nothing was asked"):
        told(fact_checker, [], mail("ask", Check(citation=Citation(path="a", first=1, last=1, quote="")), number=1))


# The scribe


def test_the_scribe_writes_what_stood_and_says_what_did_not(folder: Path) -> None:
    asked = question(folder, "What does a berth cost in winter?")
    lines = [
        Line("open", "", asked),
        Line("propose", "proposer", berth(folder)),
        Line("propose", "proposer", lease(folder)),
        *agreed(2),
        Line("reject", "critic", Doubt(why="missing", text="it says nothing of berths"), 3),
        assented("fact_checker", 3),
    ]
    said = only(told(scribe, lines, mail("tell", Settled(claims=2), number=8)))
    answer = said.body
    assert (said.kind, answer.text, answer.points) == ("propose", f"{BERTH} [1]", (point(berth(folder), 2),))
    assert [(each.place, each.by, each.why) for each in answer.refused] == [("leases.md:3", "critic", "missing")]
    assert answer.lacking == ("winter",)


def test_the_scribe_says_when_nothing_stood(folder: Path) -> None:
    answer = only(told(scribe, [Line("open", "", question(folder))], mail("tell", Settled(claims=0), number=2))).body
    assert (answer.text, answer.points, answer.lacking) == ("", (), ("berth", "cost"))


def test_an_answer_fits_into_a_message_however_long_its_claims_are() -> None:
    # given claims as long as they may be, of many bytes, and as many that did not stand
    asked = Question(text="what?" * 200, folders=tuple(f"/{'f' * 990}{number}" for number in range(8)))
    long = Citation(path="p" * MAX_PATH, first=1, last=8, quote="\U0001f980" * MAX_QUOTE)
    claims = [
        Line("propose", "proposer", Claim(text="\U0001f980" * MAX_TEXT, evidence=long)) for _ in range(MOST_CLAIMS)
    ]
    doubt = Doubt(why="missing", text="\U0001f980" * MAX_TEXT)
    refused = [Line("reject", "critic", doubt, number) for number in range(8, 12)]
    # then what the scribe says is not refused for its size
    lines = [Line("open", "", asked), *claims, *agreed(*range(2, 8)), *refused]
    answer = only(told(scribe, lines, mail("tell", Settled(claims=10), number=90))).body
    assert answer.points
    assert answer.text.endswith(f"[{len(answer.points)}]")


def answered(folder: Path, *doubts: Doubt, answers: int = 1) -> list[Line]:
    answer = Answer(question=question(folder), text="", points=(point(berth(folder), 2), point(lease(folder), 3)))
    return [
        Line("open", "", question(folder)),
        Line("propose", "proposer", berth(folder)),
        Line("propose", "proposer", lease(folder)),
        *agreed(2, 3),
        *(Line("propose", "scribe", answer) for _ in range(answers)),
        *(Line("reject", "critic", doubt, 7 + answers) for doubt in doubts),
    ]


def test_the_scribe_asks_for_what_its_answer_lacks(folder: Path) -> None:
    doubt = Doubt(why="missing", text="nothing of winter", lacking=("winter",))
    said = only(told(scribe, answered(folder, doubt), mail("reject", doubt, number=9, re=8, sender="critic")))
    assert (said.to, said.body) == (("proposer",), Gap(lacking=("winter",)))


def test_the_scribe_drops_a_point_that_does_not_stand(folder: Path) -> None:
    doubt = Doubt(why="quotation", text="gone", about=3)
    said = only(told(scribe, answered(folder, doubt), mail("reject", doubt, number=9, re=8, sender="fact_checker")))
    assert [each.proposal for each in said.body.points] == [2]


def test_the_scribe_passes_over_doubts_about_answers_that_it_gave_up_and_writes_few(folder: Path) -> None:
    doubt = Doubt(why="quotation", text="gone", about=3)
    given = mail("reject", doubt, number=10, re=8, sender="fact_checker")
    assert told(scribe, answered(folder, doubt, answers=2), given) == []
    assert told(scribe, answered(folder, answers=0), mail("tell", doubt, number=9, sender="~ann")) == []
    given = mail("reject", doubt, number=12, re=7 + ANSWERS, sender="fact_checker")
    assert told(scribe, answered(folder, doubt, answers=ANSWERS), given) == []


# What comes of it


def result(decision: Resolution | None) -> ConversationResult:
    return ConversationResult(
        outcome="quiet", decision=decision, turns=20, messages=21, dissent=("critic",), abstained=("proposer",)
    )


def decided(answer: BaseModel) -> Resolution:
    return Resolution(message=8, by="scribe", type=type(answer).__name__, body=answer.model_dump(mode="json"))


def test_the_report_is_written_and_says_who_dissents(folder: Path, tmp_path: Path) -> None:
    asked = Question(text=COST, folders=(str(folder),), out=str(tmp_path / "out"))
    answer = Answer(question=asked, text=f"{BERTH} [1]", points=(point(berth(folder), 2),))
    context = fake_context()
    report = publish(context, result(decided(answer)))
    assert (report.agreed, report.dissent) == (("fact_checker", "scribe"), ("critic",))
    assert set(report.written) == {"markdown", "json"}
    assert all(str(tmp_path / "out" / context.run_id) in each for each in report.written.values())
    assert isinstance(report, Report)


def test_a_conversation_without_an_answer_is_an_error_that_says_how_it_ended() -> None:
    with pytest.raises(NoAnswer, match="deadline, 600 s"):
        publish(fake_context(), ConversationResult(outcome="deadline", why="600 s"))


@pytest.mark.parametrize("text", ["", " ? ", "…"])
def test_an_empty_question_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is empty: ask something|at least 1 character"):
        Question(text=text, folders=("/docs",))


def test_folders_are_absolute() -> None:
    with pytest.raises(ValueError, match="must be an absolute path, not 'docs'"):
        Question(text="what?", folders=("/docs", "docs"))
