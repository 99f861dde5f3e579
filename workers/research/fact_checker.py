"""A member: looks into the files. What it says rests on them alone, not on the index and not on a model."""

from __future__ import annotations

import re
from typing import Final

from orchestrator import Context, Mail, agent
from workers.research.argument import LINES, read
from workers.research.checking import check, moved
from workers.research.models import MAX_TEXT, Answer, Assent, Check, Checked, Claim, Doubt, Question

SHOWN: Final = 300  # characters of what stands in a place instead

_NUMBER: Final = re.compile(r"\d+(?:[.,]\d+)*")
_MARK: Final = re.compile(r"\[(\d{1,3})\]")


@agent("research.fact_checker", timeout=60.0)
def fact_checker(ctx: Context, mail: Mail[Claim | Check | Answer]) -> Checked | None:
    """Tell, or accept, what stands in the files as it is quoted, reject what does not; tell who asks what is there."""
    question = read(ctx.transcript(last=LINES)).question
    body = mail.body
    if isinstance(body, Check):
        return check(question.folders, body.citation)
    doubt = _of_claim(question, body) if isinstance(body, Claim) else of_answer(question, body)
    if doubt is not None:
        ctx.reject(mail, doubt)
    elif isinstance(body, Claim):
        ctx.send("proposer", Assent(claim=mail.id, text=f"{body.evidence.place} says so"))
    else:
        ctx.accept(mail)
    return None


def _of_claim(question: Question, claim: Claim, about: int | None = None) -> Doubt | None:
    checked = check(question.folders, claim.evidence)
    place = claim.evidence.place
    if not checked.stands:
        found = " ".join(checked.found.split())[:SHOWN]
        text = f"{place} does not say so; there stands {found or 'nothing'}"
        if checked.moved is not None:
            text += f"; it stands in {checked.moved.place}"
        return Doubt(why="quotation", text=text[:MAX_TEXT], better=moved(claim, checked), about=about)
    made_up = _numbers(claim.text) - _numbers(claim.evidence.quote)
    if made_up:
        return Doubt(why="quotation", text=f"{place} has no {', '.join(sorted(made_up))}"[:MAX_TEXT], about=about)
    return None


def of_answer(question: Question, answer: Answer) -> Doubt | None:
    """Return what of an answer does not stand in the files, the first thing."""
    for point in answer.points:
        doubt = _of_claim(question, Claim(text=point.text, evidence=point.evidence), about=point.proposal)
        if doubt is not None:
            return doubt
    unknown = [mark for mark in _MARK.findall(answer.text) if not 1 <= int(mark) <= len(answer.points)]
    if unknown:
        return Doubt(why="quotation", text=f"it cites [{unknown[0]}], and there is none")
    said = _numbers(_MARK.sub("", answer.text))
    known = _numbers(question.text).union(*(_numbers(f"{one.text} {one.evidence.quote}") for one in answer.points))
    if said - known:
        text = f"nothing that it cites has {', '.join(sorted(said - known))}"
        return Doubt(why="quotation", text=text[:MAX_TEXT])
    return None


def _numbers(text: str) -> set[str]:
    # 1,000 is 1000.
    return {found.replace(",", "") for found in _NUMBER.findall(text)}
