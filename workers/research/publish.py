"""Behind the conversation: the answer for people and for programs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from orchestrator import Context, ConversationResult, agent, get_settings
from workers.files import write_atomically
from workers.research.argument import MEMBERS
from workers.research.errors import NoAnswer
from workers.research.models import Answer, Report
from workers.research.page import as_json, as_markdown

_FORMATS: Final[dict[str, tuple[str, Callable[[Report], str]]]] = {
    "markdown": ("answer.md", as_markdown),
    "json": ("answer.json", as_json),
}


@agent("research.publish", timeout=60.0)
def publish(ctx: Context, result: ConversationResult) -> Report:
    """
    Write down what the conversation has come to.

    Raises:
        NoAnswer: it ended before there was one.
        OSError: the folder cannot be written to.
    """
    if result.decision is None:
        raise NoAnswer(result.outcome, result.why or "nobody had anything more to say")
    answer: Answer = result.decision.get(Answer)
    others = {*result.dissent, *result.abstained}
    # In a folder of the run's own: files of two runs shall not mix.
    out = Path(answer.question.out or get_settings().data_dir.resolve() / "research") / ctx.run_id
    report = Report(
        answer=answer,
        outcome=result.outcome,
        why=result.why,
        agreed=tuple(name for name in MEMBERS if name not in others),
        dissent=result.dissent,
        abstained=result.abstained,
        turns=result.turns,
        messages=result.messages,
        written={form: str(out / name) for form, (name, _) in _FORMATS.items()},
    )
    for form, (_, render) in _FORMATS.items():
        write_atomically(Path(report.written[form]), render(report))
    return report
