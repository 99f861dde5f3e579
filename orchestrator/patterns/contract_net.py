"""The contract-net protocol: work goes to whoever bids best, and to the next best where that one fails."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from pydantic import BaseModel, ConfigDict

from orchestrator.agent import Agent, Context, agent
from orchestrator.conversation.ends import Concluded
from orchestrator.conversation.handle import LONGEST_WITHIN
from orchestrator.conversation.mail import Mail, models_of
from orchestrator.errors import InvalidFlow, NoReply, definition_site
from orchestrator.patterns.conversation import Conversation, ConversationLimits, Peer
from orchestrator.resilience.options import is_number

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from orchestrator.messages import Otherwise

TaskT = TypeVar("TaskT", bound=BaseModel)
BidT = TypeVar("BidT", bound=BaseModel)
ReportT = TypeVar("ReportT", bound=BaseModel)
MANAGER: Final = "manager"


class Announcement(BaseModel, Generic[TaskT]):
    """
    What contractors are asked first: who wants to do this? A bid is the reply, None no bid.

    Attributes:
        task: what is to be done.
    """

    model_config = ConfigDict(frozen=True)

    task: TaskT


class Award(BaseModel, Generic[TaskT, BidT]):
    """
    What the contractor is asked whose bid is the best: do it. A report is the reply; None: it cannot, after all.

    Attributes:
        task: what is to be done; `bid`: what it has bid.
    """

    model_config = ConfigDict(frozen=True)

    task: TaskT
    bid: BidT


class Contract(BaseModel, Generic[BidT, ReportT]):
    """
    How it was done; the body of the decision.

    Attributes:
        contractor: who has done it; None: nobody.
        bid: what it had bid; `report`: what it says.
        failed: those who were awarded it before, and why each did not do it.
    """

    model_config = ConfigDict(frozen=True)

    contractor: str | None
    bid: BidT | None
    report: ReportT | None
    failed: tuple[str, ...] = ()


class NobodyDidIt(Exception):
    """No contractor has bid, or all who did have failed."""


class ContractNet(Conversation):
    """
    A conversation that follows the contract-net protocol: announcement, bids, award, report.

    Its manager is an agent of its own, `<name>.manager`, on a queue of that name. It asks all contractors for bids,
    awards the task to the best, and where that contractor fails, declines or is silent, to the next best. Nobody waits
    in a worker meanwhile. The decision's body is a `Contract`.

    Args:
        name: unique in the deployment; lower-case letters, digits and _ . -
        task: the model of what is to be done; `bid`, `report`: of what contractors reply.
        contractors: agents, flows or Peers that take `Mail[Announcement[task] | Award[task, bid]]`.
        rank: what a bid costs: the lowest wins, at a draw the contractor that is named first. A pure function.
        bids_within: seconds for which bids are awaited; `work_within`: for which a report is.
        otherwise: what follows where nobody did it: `fail`, or `degrade`: a contract without a contractor.
        limits: as of `Conversation`.

    Raises:
        InvalidFlow: the parts do not fit together; the message names the file.

    Source: R. G. Smith, "The Contract Net Protocol", IEEE Transactions on Computers C-29 (12), 1980.
    """

    def __init__(
        self,
        name: str,
        *,
        task: type[TaskT],
        bid: type[BidT],
        report: type[ReportT],
        contractors: Sequence[Agent[Any, Any] | Peer | str],
        rank: Callable[[BidT], float],
        bids_within: float = 60.0,
        work_within: float = 600.0,
        otherwise: Otherwise = "fail",
        limits: ConversationLimits | None = None,
    ) -> None:
        where = definition_site()
        why = _amiss(
            {"task": task, "bid": bid, "report": report}, {"bids_within": bids_within, "work_within": work_within}, rank
        )
        if why:
            raise InvalidFlow(name, where, why)
        announcement, award = Announcement[task], Award[task, bid]  # type: ignore[valid-type]  # models made at run time
        contract = Contract[bid, report]  # type: ignore[valid-type]  # likewise
        self.contract = contract

        async def manager(ctx: Context, mail: Any) -> None:  # noqa: ANN401  Mail of the task
            answers = await ctx.ask_all("*", announcement(task=mail.body), within=bids_within)
            bids = {each: answer.body for each, answer in answers.items() if isinstance(answer.body, bid)}
            failed: list[str] = []
            for each in sorted(bids, key=lambda contractor: rank(bids[contractor])):
                try:
                    done = await ctx.ask(each, award(task=mail.body, bid=bids[each]), within=work_within)
                except NoReply as error:
                    failed.append(f"{each}: {error.why}{f', {error.reason}' if error.reason else ''}")
                else:
                    ctx.conclude(contract(contractor=each, bid=bids[each], report=done, failed=tuple(failed)))
                    return
            if otherwise == "fail":
                raise NobodyDidIt("; ".join(failed) or f"none of {len(answers)} contractors has bid")
            ctx.conclude(contract(contractor=None, bid=None, report=None, failed=tuple(failed)))

        manager.__defined_at__ = where  # type: ignore[attr-defined]  # where its user finds it, not here
        manager.__annotations__ = {"ctx": Context, "mail": Mail[task], "return": None}  # type: ignore[valid-type]  # likewise
        managing = agent(f"{name}.{MANAGER}")(manager)
        super().__init__(
            name,
            task=task,
            members=[Peer(managing, name=MANAGER, weight=0), *contractors],
            until=Concluded(MANAGER),
            otherwise="fail",
            limits=limits,
        )
        for member in self.names()[1:]:
            taken = set(models_of(self.taken_by(member)))
            if not {announcement, award} <= taken:
                raise self._invalid(
                    f"contractor {member!r} takes Mail[Announcement[{task.__name__}] | "
                    f"Award[{task.__name__}, {bid.__name__}]], both of them"
                )


def _amiss(models: Mapping[str, object], times: Mapping[str, object], rank: object) -> str:
    """Return why it cannot be declared so; empty where nothing speaks against it."""
    for what, kind in models.items():
        if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
            return f"{what} takes a pydantic model, not {kind!r:.80}"
    for what, seconds in times.items():
        if not (is_number(seconds) and 0 < seconds <= LONGEST_WITHIN):
            return f"{what} must be seconds, above 0 and at most a year, not {seconds!r:.80}"
    return "" if callable(rank) else f"rank takes a function of a bid that gives a number, not {rank!r:.80}"
