"""Somebody outside speaks in a conversation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.conversation.handle import MemoryTalk, Outbox, Talk, written
from orchestrator.errors import ConversationClosed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.conversation.handle import Members
    from orchestrator.state.conversations import Conversations
    from orchestrator.state.runs import Change


def say(
    flow: Members, store: Conversations, run_id: str, step: str, to: str | Sequence[str], body: object, *, by: str
) -> tuple[int, Change]:
    """
    Tell members something.

    Args:
        flow: the conversation as it is declared.
        store: where it is kept.
        run_id: the run.
        step: the conversation's.
        to: as of `ctx.send`.
        body: a model.
        by: who.

    Returns:
        The message's number, and what is to be published.

    Raises:
        InvalidInput: there is no such member, or it cannot be told this.
        ConversationClosed: it takes no message.
    """
    names, wide = Talk(flow, MemoryTalk({}), f"~{by}", Outbox()).reached(to, body)
    facts = {"kind": "tell", "to": names, "wide": wide, "type": type(body).__name__}
    what, more, change = store.say(run_id, step, by, facts, written(body))
    if what == "said":
        return int(more), change
    why = {"gone": "it is not open yet", "closed": "its run has ended", "full": "too much was said from outside"}.get(
        what, f"it has ended: {more}"
    )
    raise ConversationClosed(flow.name, why)
