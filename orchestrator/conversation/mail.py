"""What members of a conversation say to each other, as they are given it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, JsonValue, field_validator

from orchestrator.messages import MailKind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import ValidationInfo, ValidatorFunctionWrapHandler

    from orchestrator.messages import NoReplyWhy

Body = TypeVar("Body")


class Mail(BaseModel, Generic[Body]):
    """
    What a member takes: a message.

    The type of its body is one model or several, `Mail[Claim | Doubt]`: what the member can be told.

    Attributes:
        type: the name of the body's model; before the body, which is read by it.
        body: what was said.
        kind: open: the task; tell; ask: what the member returns is the reply; propose, accept, reject, vote;
            invite: the member joins with it; returned: a message that could not be delivered.
        id: its number in the conversation; `re`: of the proposal it is about, or of the message that was returned.
        sender: a member's name; empty where it comes from nobody, `~ann` where somebody outside spoke.
        to: to whom it was sent.
        hops: how many messages it follows from.
    """

    model_config = ConfigDict(frozen=True)

    type: str = ""
    body: Body
    kind: MailKind = "tell"
    id: int = 0
    sender: str = ""
    to: tuple[str, ...] = ()
    re: int | None = None
    hops: int = 0

    @field_validator("body", mode="wrap")
    @classmethod
    def _by_its_type(cls, given: Any, validate: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:  # noqa: ANN401
        # Two models may have the same fields: the name says which one it was.
        for kind in models_of(_body_of(cls)):
            if kind.__name__ == info.data.get("type") and isinstance(given, dict):
                return kind.model_validate(given)
        return validate(given)


def _body_of(mail: type[BaseModel]) -> object:
    return (mail.__pydantic_generic_metadata__["args"] or (None,))[0]


def body_of(kind: object) -> object:
    """Return what a `Mail[...]` may hold; None where it does not say."""
    return _body_of(kind) if isinstance(kind, type) and issubclass(kind, Mail) else None


def models_of(kind: object) -> tuple[type[BaseModel], ...]:
    """Return the models that a type is, or is a choice of; `None` in it is none."""
    parts = get_args(kind) or (kind,)
    return tuple(part for part in parts if isinstance(part, type) and issubclass(part, BaseModel))


class Returned(BaseModel):
    """
    A message that could not be delivered.

    Members whose mail may be one are told so; of others it is in the transcript alone.

    Attributes:
        message: its number; `kind`: what it was; `to`: who did not get it.
        why: absent: it is not there now; full: its mailbox is; left: it has left before its turn; failed: it failed
            at it; proposal: there is none of that number.
        reason: in words, where there is more to say.
    """

    model_config = ConfigDict(frozen=True)

    message: int
    kind: str
    to: str
    why: str
    reason: str = ""


@dataclass(frozen=True)
class Answer:
    """
    What came of asking one member.

    Attributes:
        body: its reply, or None where there is none: `why` says so, `reason` in words.
    """

    body: Any = None
    why: NoReplyWhy | None = None
    reason: str = ""


@dataclass(frozen=True)
class Said:
    """
    A line of a conversation.

    Attributes:
        body: the model, where the conversation knows it by its name; else JSON data; None where there is none.
        at_ms: when.
    """

    id: int
    kind: str
    sender: str
    to: tuple[str, ...]
    type: str
    body: Any
    re: int | None
    at_ms: int


@dataclass(frozen=True)
class Motion:
    """
    A proposal, and who is for it now.

    Attributes:
        id: its message's number; `by`: whose it is; `body`: as of `Said`.
        supporters: those whose first choice it is; `confidence`: how sure each of them is, where it said so.
    """

    id: int
    by: str
    body: Any
    supporters: tuple[str, ...] = ()
    confidence: Mapping[str, float] | None = None


class Contested(BaseModel):
    """
    A proposal, as a judge is given it.

    Attributes:
        id: its message's number; `by`: whose it is; `type`: its body's model; `body`: JSON data.
        supporters: those whose first choice it is.
    """

    model_config = ConfigDict(frozen=True)

    id: int
    by: str
    type: str
    body: JsonValue
    supporters: tuple[str, ...] = ()


class Dispute(BaseModel):
    """
    What a judge takes.

    Attributes:
        why: how the conversation has ended.
        proposals: in the order in which they were made.
    """

    model_config = ConfigDict(frozen=True)

    why: str
    proposals: tuple[Contested, ...]


class Ruling(BaseModel):
    """
    What a judge gives.

    Attributes:
        proposal: the number of the one that is to be, or None: none of them.
        why: in words.
    """

    model_config = ConfigDict(frozen=True)

    proposal: int | None
    why: str = ""
