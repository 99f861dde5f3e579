"""What a member of a conversation does there, as methods of its context."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator.conversation.handle import DEFAULT_WITHIN, numbers_of
from orchestrator.conversation.mail import Mail

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.conversation.handle import Talk
    from orchestrator.conversation.mail import Motion


class Speaker:
    """
    The part of a context that speaks in a conversation.

    What is said leaves with the step's output, all of it or, where the attempt fails, nothing: it is called and not
    awaited.
    What asks or reads goes to Redis: it is awaited in an async agent, and called in a sync one.
    """

    def _talk_here(self) -> Talk:
        """Return the conversation; InvalidInput where the step is no member's."""
        raise NotImplementedError

    def send(self, to: str | Sequence[str], body: object) -> None:
        """
        Tell a member something; several; `"#topic"`, those who listen to it; or `"*"`, all others.

        Of a topic or of all others it reaches those who are there and can be told this.

        Raises:
            InvalidInput: there is no such member or topic, or one that was named cannot be told this.
        """
        talk = self._talk_here()
        names, wide = talk.reached(to, body)
        talk.say("tell", names, body, wide=wide)

    def broadcast(self, body: object) -> None:
        """Tell all others who are there and can be told this."""
        self.send("*", body)

    def ask(self, to: str, body: object, *, within: float = DEFAULT_WITHIN) -> Any:  # noqa: ANN401  the reply, or an awaitable of it
        """
        Ask a member, and return its reply: what its handler returns.

        No worker waits: the step is given back, and the handler is called again from its beginning when the reply has
        come. Then `ask` returns it, and what was said before is not said again. So what comes before a question is done
        twice, unless it is recorded by `ctx.once`; and the same questions must be asked in the same order.

        Args:
            to: a member's name.
            body: a model.
            within: seconds for which the reply is awaited.

        Raises:
            NoReply: there is none; `why` says why not.
            InvalidInput: there is no such member, or it cannot be asked this.
        """
        return self._talk_here().ask(to, body, within)

    def ask_all(
        self, to: str | Sequence[str], body: object, *, within: float = DEFAULT_WITHIN, need: int | None = None
    ) -> Any:  # noqa: ANN401  the answers, or an awaitable of them
        """
        Ask several members at once, and return what came of it, an `Answer` by each one's name.

        Args:
            to: as of `send`.
            body: a model.
            within: seconds for which replies are awaited.
            need: after how many replies no other is awaited; unless given, all are.

        Raises:
            InvalidInput: as of `send`.
        """
        return self._talk_here().ask_all(to, body, within, need)

    def propose(self, body: object, *, to: str | Sequence[str] = "*", confidence: float | None = None) -> None:
        """
        Make a proposal. Who makes it is for it, until it says otherwise.

        Args:
            body: a model.
            to: who is told; as of `send`.
            confidence: how sure, 0 to 1.

        Raises:
            InvalidInput: as of `send`.
        """
        talk = self._talk_here()
        names, wide = talk.reached(to, body)
        talk.say("propose", names, body, wide=wide, confidence=confidence)

    def accept(
        self, proposal: Mail[Any] | Motion | int, body: object = None, *, confidence: float | None = None
    ) -> None:
        """
        Be for a proposal, and for no other: the last thing a member says about proposals is where it stands.

        Args:
            proposal: the mail it came with, one of `proposals()`, or its number.
            body: told to whoever made it, where it can be told this; unless given, nobody is told.
            confidence: how sure, 0 to 1.

        Raises:
            InvalidInput: it is none, or cannot be the decision, as the conversation's `decides` has it. Where only its
                number is given, that is found out when the turn ends, and what was said goes back.
        """
        self._stand("accept", proposal, body, confidence)

    def reject(self, proposal: Mail[Any] | Motion | int, body: object = None) -> None:
        """Be against a proposal; arguments as of `accept`."""
        self._stand("reject", proposal, body, None)

    def _stand(self, kind: str, proposal: object, body: object, confidence: float | None) -> None:
        talk = self._talk_here()
        (number,) = talk.supported([proposal]) if kind == "accept" else numbers_of([proposal])
        by = proposal.sender if isinstance(proposal, Mail) else getattr(proposal, "by", "")
        talk.say(kind, talk.told_if_taken(by, body), body, re=number, confidence=confidence)

    def vote(self, *proposals: Mail[Any] | Motion | int, confidence: float | None = None) -> None:
        """
        Be for these proposals, the best one first; for none of them where none is given.

        Args:
            proposals: as of `accept`.
            confidence: how sure of the first one, 0 to 1.

        Raises:
            InvalidInput: as of `accept`.
        """
        talk = self._talk_here()
        talk.say("vote", proposals=talk.supported(proposals), confidence=confidence)

    def conclude(self, body: object) -> None:
        """
        Give the verdict that ends the conversation, where its `until` has `Concluded` of this member.

        Raises:
            InvalidInput: it has not, or the body is no model, or none that can be the decision.
        """
        self._talk_here().conclude(body)

    def invite(self, member: str, body: object) -> None:
        """
        Let a member join that is not there yet, or has left, and tell it something.

        Raises:
            InvalidInput: there is no such member, or it cannot be told this.
        """
        self._talk_here().invite(member, body)

    def leave(self) -> None:
        """Leave the conversation with this turn; what is still in the mailbox goes back to whom it came from."""
        self._talk_here().say("leave")

    def transcript(self, *, last: int = 100) -> Any:  # noqa: ANN401  lines of `Said`, or an awaitable of them
        """Return what was said, the last lines, oldest first; of this turn nothing is among them yet."""
        return self._talk_here().transcript(last)

    def proposals(self) -> Any:  # noqa: ANN401  `Motion`s, or an awaitable of them
        """Return the proposals that were made, oldest first, and who is for each."""
        return self._talk_here().motions()

    def members(self) -> Any:  # noqa: ANN401  names, or an awaitable of them
        """Return the names of those who are there."""
        return self._talk_here().present()
