"""A member: writes the answer from the claims that stood."""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel

from orchestrator import Context, Mail, agent
from workers.research import prose
from workers.research.argument import LINES, Argument, read
from workers.research.index import terms
from workers.research.models import Answer, Doubt, Gap, Point, Refused, Settled

ANSWERS: Final = 4
"""Proposed at most; who does not agree with the last one dissents."""
MOST_REFUSED: Final = 10
SHORT: Final = 300  # characters of a claim that did not stand, and of the reason
MOST_BYTES: Final = 56 * 1024
"""Of an answer as JSON: a message takes 64 KiB."""


@agent("research.scribe", timeout=prose.TIMEOUT + 60)
async def scribe(ctx: Context, mail: Mail[Settled | Doubt]) -> None:
    """Propose an answer once all claims are settled, and another one where it was rejected for a reason."""
    argument = read(await ctx.transcript(last=LINES))
    body = mail.body
    if len(argument.answers) >= ANSWERS:
        return
    if isinstance(body, Doubt):
        # A doubt about an answer that was given up is settled; one about none comes from outside.
        if mail.re is None or mail.re != max(argument.answers, default=None):
            return
        if body.lacking:
            ctx.send("proposer", Gap(lacking=body.lacking, better=body.better))
            return
    # Prose that says what no claim says is not mended by more of it.
    faithful = not (isinstance(body, Doubt) and body.why == "quotation" and body.about is None)
    ctx.propose(await write(ctx, argument, faithful=faithful))


async def write(ctx: Context, argument: Argument, *, faithful: bool) -> Answer:
    """
    Return the answer that the argument leads to.

    Args:
        argument: what was said.
        faithful: whether a model, if there is one, may write it.
    """
    question = argument.question
    points = tuple(
        Point(proposal=number, text=claim.text, evidence=claim.evidence) for number, claim in argument.sound().items()
    )
    # Their text is there twice; what is refused has the room that is left.
    while len(points) > 1 and _bytes(question) + sum(2 * _bytes(point) for point in points) > MOST_BYTES:
        points = points[:-1]
    text, by = await prose.answer(ctx, question.text, points) if faithful else (prose.extract(points), prose.EXTRACT)
    covers = {word for number in argument.sound() for word in argument.claims[number].covers}
    made = Answer(
        question=question,
        text=text,
        points=points,
        refused=_refused(argument),
        lacking=tuple(word for word in terms(question.text) if word not in covers),
        written_by=by,
    )
    while made.refused and _bytes(made) > MOST_BYTES:
        made = made.model_copy(update={"refused": made.refused[:-1]})
    return made


def _bytes(what: BaseModel) -> int:
    return len(what.model_dump_json().encode())


def _refused(argument: Argument) -> tuple[Refused, ...]:
    found = []
    for number, claim in argument.claims.items():
        ruling = next(iter(argument.doubts(number)), None)
        if ruling is not None and isinstance(ruling.body, Doubt):
            text, place, reason = claim.text[:SHORT], claim.evidence.place, ruling.body.text[:SHORT]
            found.append(Refused(text=text, place=place, by=ruling.by, why=ruling.body.why, reason=reason))
    return tuple(found[:MOST_REFUSED])
