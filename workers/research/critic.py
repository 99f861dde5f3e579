"""A member: doubts claims and answers, for reasons that it can name."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Final

from orchestrator import Context, Mail, NoReply, agent
from workers.research import prose
from workers.research.argument import LINES, Argument, listed, read
from workers.research.checking import moved
from workers.research.evidence import covered, uncited, widened
from workers.research.index import Index, index_of, terms
from workers.research.models import (
    MAX_QUOTE,
    MAX_TEXT,
    Answer,
    Assent,
    Check,
    Checked,
    Citation,
    Claim,
    Doubt,
    Statement,
)
from workers.research.quoting import plain, sentences

WITHIN: Final = 30.0
"""Seconds for which the fact-checker is waited for; what it does not say is not known then."""
RELEVANT: Final = 0.2
"""The share of what is asked, by how telling its words are, that a claim must speak of."""
BETTER: Final = 0.25
"""How much more of it other evidence must speak of to count against a claim."""
LACKING: Final = 0.15
"""The share of it that an answer may lack though something can be found about it."""
TO_THE_POINT: Final = 0.5
"""The share of it that something must speak of to be wanted in an answer: one word, alone, is found anywhere."""
ALIKE: Final = 0.8
"""The share of words in common from which on two claims, or a claim and its denial, are about the same."""
FEW: Final = 4
"""Words of a claim, fewer than which are too few to be denied elsewhere."""

_WORDS: Final = re.compile(r"\w+")
# With what a sentence begins that takes back, or narrows, what the one before it says.
_TURNS: Final = re.compile(
    r"(?:but|however|except|unless|otherwise|yet|still|although|nevertheless|only if|not if|this does not)\b",
    re.IGNORECASE,
)
_DENIES: Final = re.compile(
    r"\b(?:not|no|never|none|nothing|nobody|neither|cannot|without)\b|n['\u2019]t\b", re.IGNORECASE
)


@agent("research.critic", timeout=prose.TIMEOUT + 60)
async def critic(ctx: Context, mail: Mail[Claim | Answer]) -> None:
    """Tell that a claim stands, accept an answer, or reject either with the reason."""
    body = mail.body
    if isinstance(body, Answer):
        argument = read(await ctx.transcript(last=LINES))
        doubt = await asyncio.to_thread(lacks, argument, body)
        if doubt is None:
            ctx.accept(mail)
        else:
            ctx.reject(mail, doubt)
        return
    # Asked before anything is read that may be another when the reply has come.
    checked = await _checked(ctx, body.evidence)
    argument = read(await ctx.transcript(last=LINES))
    doubt = await asyncio.to_thread(doubts, argument, mail.id, body, checked)
    if doubt is None:
        told = await prose.judgement(ctx, argument.question.text, body, checked)
        if told is not None and told.verdict == "reject":
            doubt = Doubt(why="judgement", text=told.reason)
    if doubt is None:
        text = f"it speaks of {listed(body.covers)}" if body.covers else "nothing speaks against it"
        ctx.send("proposer", Assent(claim=mail.id, text=text[:MAX_TEXT]))
    else:
        ctx.reject(mail, doubt)


async def _checked(ctx: Context, citation: Citation) -> Checked | None:
    try:
        reply = await ctx.ask("fact_checker", Check(citation=citation), within=WITHIN)
    except NoReply:
        return None  # it gives its own verdict when it can
    return reply if isinstance(reply, Checked) else None


def doubts(argument: Argument, number: int, claim: Claim, checked: Checked | None) -> Doubt | None:
    """
    Return what is wrong with a claim, the worst first; None where nothing is.

    Args:
        argument: what was said.
        number: of the claim's proposal.
        claim: in question.
        checked: what the fact-checker says of its evidence, if it was heard.
    """
    if checked is not None and not checked.stands:
        return Doubt(why="quotation", text=f"{claim.evidence.place} does not say so", better=moved(claim, checked))
    for other, made in argument.claims.items():
        if other < number and not argument.doubts(other) and _alike(made, claim):
            return Doubt(why="duplicate", text=f"it says what {made.evidence.place} says")
    index, words = index_of(argument.question.folders), terms(argument.question.text)
    weights = index.weights(words)
    total = sum(weights.values()) or 1.0
    has = covered(index, words, claim.evidence)
    share = sum(weights[word] for word in has) / total
    if share < RELEVANT:
        lacking = tuple(word for word in words if word not in has)
        return Doubt(why="missing", text=f"it says nothing of {listed(lacking)}"[:MAX_TEXT], lacking=lacking)
    return _narrow(claim, checked) or _against(index, argument, claim, words, has)


def _alike(one: Claim, other: Claim) -> bool:
    if one.evidence.overlaps(other.evidence):
        return True
    words, others = (set(_WORDS.findall(plain(each.evidence.quote).casefold())) for each in (one, other))
    return len(words & others) >= ALIKE * max(1, len(words | others))


def _narrow(claim: Claim, checked: Checked | None) -> Doubt | None:
    """Return a doubt where the next sentence takes back or narrows what is claimed, and is not quoted."""
    if checked is None or not checked.after:
        return None
    evidence, after = claim.evidence, checked.after.split("\n")
    said = " ".join(sentences(evidence.quote))
    parts = sentences(f"{evidence.quote}{'' if checked.within else chr(10)}{checked.after}")
    told = [place for place, part in enumerate(parts) if part in claim.text]
    if not told or told[-1] + 1 >= len(parts) or not _TURNS.match(parts[told[-1] + 1]) or parts[told[-1] + 1] in said:
        return None
    turn = parts[told[-1] + 1]
    text = f"it leaves out what follows: {turn}"[:MAX_TEXT]
    if checked.within:
        wider = evidence.model_copy(update={"quote": f"{evidence.quote}{checked.after}"[:MAX_QUOTE]})
        return Doubt(why="narrow", text=text, better=widened(claim, wider))
    for more in range(1, len(after) + 1):
        quote = "\n".join([evidence.quote, *after[:more]])
        if len(quote) > MAX_QUOTE:
            break
        if turn in " ".join(sentences(quote)):
            wider = evidence.model_copy(update={"last": evidence.last + more, "quote": quote})
            return Doubt(why="narrow", text=text, better=widened(claim, wider))
    return None


def _against(index: Index, argument: Argument, claim: Claim, words: Sequence[str], has: frozenset[str]) -> Doubt | None:
    """Return a doubt where other evidence speaks of more, or denies the claim and speaks of as much."""
    weights = index.weights(words)
    total = sum(weights.values()) or 1.0
    for other, found in uncited(index, words, [each.evidence for each in argument.claims.values()]):
        place = other.evidence.place
        gain = sum(weights[word] for word in found - has) / total
        if has < found and gain >= BETTER:
            text = f"{place} speaks of {listed(sorted(found - has))} as well"[:MAX_TEXT]
            return Doubt(why="counter", text=text, better=other)
        denial = _denial(index, claim.text, other.evidence.quote) if has <= found else None
        if denial is not None:
            return Doubt(why="contradiction", text=f"{place} says: {denial}"[:MAX_TEXT], better=other)
    return None


def _denial(index: Index, said: str, quote: str) -> str | None:
    """Return a sentence that denies what was said, or the other way round: nearly all its words, and one `not`."""
    words = [word for word in terms(said) if not _DENIES.fullmatch(word)]
    if len(words) < FEW:
        return None
    for sentence in sentences(quote):
        if bool(_DENIES.search(said)) == bool(_DENIES.search(sentence)):
            continue
        theirs = [word for word in terms(sentence) if not _DENIES.fullmatch(word)]
        # Of the same words, and of few others: else it is about something else as well, and denies that.
        if min(_share(index, sentence, words), _share(index, said, theirs)) >= ALIKE:
            return sentence
    return None


def _share(index: Index, text: str, words: Sequence[str]) -> float:
    return len(index.covers(text, words)) / max(1, len(words))


def lacks(argument: Argument, answer: Answer) -> Doubt | None:
    """Return what an answer lacks though something can be found about it; None where it lacks nothing of weight."""
    index, words = index_of(argument.question.folders), terms(argument.question.text)
    weights = index.weights(words)
    total = sum(weights.values())
    lacking = [word for word in words if word in answer.lacking]
    if sum(weights[word] for word in lacking) < LACKING * total:
        return None
    # What it has brought up before was claimed since, or was found to be of no help.
    cited = [claim.evidence for claim in argument.claims.values()] + argument.brought_up()
    best: tuple[float, list[str], Statement] | None = None
    for other, found in uncited(index, words, cited):
        gained = [word for word in lacking if word in found]
        worth = sum(weights[word] for word in gained)
        to_the_point = sum(weights[word] for word in found) >= TO_THE_POINT * total
        if gained and to_the_point and (best is None or worth > best[0]):
            best = worth, gained, other
    if best is None:
        return None
    _, gained, other = best
    text = f"it says nothing of {listed(gained)}, and {other.evidence.place} does"[:MAX_TEXT]
    return Doubt(why="missing", text=text, lacking=tuple(gained), better=other)
