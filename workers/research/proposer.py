"""A member: looks for evidence, claims what it says, and looks for other evidence where a claim is refuted."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from orchestrator import Context, Mail, agent
from workers.research import prose
from workers.research.argument import LINES, Argument, read
from workers.research.evidence import Evidence, gather, in_place_of
from workers.research.models import MAX_TEXT, Answer, Assent, Claim, Doubt, Gap, Question, Settled

CLAIMS: Final = 3
"""Made at once."""
MOST_CLAIMS: Final = 10
"""In all, those that were refuted among them."""


@agent("research.proposer", timeout=prose.TIMEOUT + 60)
async def proposer(ctx: Context, mail: Mail[Question | Doubt | Assent | Gap | Answer]) -> None:
    """
    Make claims about a question, and others for those that were rejected; say when all is settled.

    Raises:
        NothingToRead: there is no document where the question says.
        NoFullText: the worker's SQLite cannot search.
    """
    body = mail.body
    if isinstance(body, Question):
        found = await asyncio.to_thread(gather, body, (), CLAIMS)
        if not await _claim(ctx, body, found):
            ctx.send("scribe", Settled(claims=0))
        return
    argument = read(await ctx.transcript(last=LINES))
    if isinstance(body, Answer):
        doubt = left_out(argument, body)
        if doubt is None:
            ctx.accept(mail)
        else:
            ctx.reject(mail, doubt)
    elif isinstance(body, Gap):
        if not await _fill(ctx, argument, body):
            ctx.send("scribe", Settled(claims=len(argument.claims)))
    elif (about := body.claim if isinstance(body, Assent) else mail.re) is not None and about in argument.claims:
        retracted = isinstance(body, Doubt) and await _retract(ctx, argument, about, mail.id, body)
        # Each of these messages is looked at once, in order: the last one of them finds everything said.
        if not retracted and argument.last_word() == mail.id:
            ctx.send("scribe", Settled(claims=len(argument.claims)))


async def _retract(ctx: Context, argument: Argument, refuted: int, by: int, doubt: Doubt) -> bool:
    """Make another claim in the place of one that was rejected, by which message; tell whether there is one."""
    # One takes its place, however many have rejected it.
    if argument.doubts(refuted)[0].id != by or len(argument.claims) >= MOST_CLAIMS:
        return False
    found = await asyncio.to_thread(in_place_of, argument.question, list(argument.claims.values()), doubt)
    return found is not None and await _claim(ctx, argument.question, [found], instead=refuted)


async def _fill(ctx: Context, argument: Argument, gap: Gap) -> bool:
    """Make a claim about what an answer lacks; tell whether there is one."""
    cited = [claim.evidence for claim in argument.claims.values()]
    room = min(1, MOST_CLAIMS - len(cited))
    found = await asyncio.to_thread(gather, argument.question, cited, room, about=gap.lacking, first=gap.better)
    return await _claim(ctx, argument.question, found)


async def _claim(ctx: Context, question: Question, found: Sequence[Evidence], instead: int | None = None) -> bool:
    made = await prose.claims(ctx, question.text, [each.statement for each in found]) if found else []
    for each in made:
        of = next(one for one in found if one.statement.evidence == each.evidence)
        claim = Claim(text=each.text, evidence=each.evidence, covers=of.covers, instead=instead)
        ctx.propose(claim, confidence=of.sure)
    return bool(made)


def left_out(argument: Argument, answer: Answer) -> Doubt | None:
    """Return what an answer leaves out of what stood, if anything; what was found wrong since has no place in it."""
    told = {point.proposal for point in answer.points}
    missing = [claim.evidence.place for number, claim in argument.sound().items() if number not in told]
    text = f"it leaves out what stood: {', '.join(missing)}"[:MAX_TEXT]
    return Doubt(why="missing", text=text) if missing else None
