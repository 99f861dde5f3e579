"""A hierarchy's specialists: whose an assignment is, and what it is as that one takes it."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from pydantic_core import PydanticSerializationError

from orchestrator.agent import LONGEST_NAME, Agent, agents, to_json
from orchestrator.errors import InvalidFlow, PayloadTooLarge, UnknownAgent, text_of
from orchestrator.patterns.delegation import Specialist, is_plain
from orchestrator.patterns.flow import flows

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from orchestrator.patterns.delegation import Assignment, Route
    from orchestrator.patterns.flow import Flow


class Refused(Exception):
    """An assignment cannot be done; with the reason."""


class Turns:
    """
    Whose turn it is, for each capability, in one plan.

    Args:
        seed: of the plan; plans begin at different specialists, or the first would get all the small ones.
    """

    def __init__(self, seed: str) -> None:
        self._seed = seed
        self._following: dict[str, int] = {}

    def take(self, capability: str, of: Sequence[str]) -> str:
        """Return the next of those that are capable."""
        at = self._following.get(capability)
        if at is None:
            at = zlib.crc32(f"{self._seed}/{capability}".encode())
        self._following[capability] = at + 1
        return of[at % len(of)]


class Specialists:
    """
    Who does a hierarchy's work, by name.

    Args:
        flow: the hierarchy's name; `where`: `file:line` of its definition.
        workers, router: as the hierarchy takes them.

    Raises:
        InvalidFlow: one of them cannot be a specialist.
        UnknownAgent: there is no agent or flow of a name.
    """

    def __init__(
        self,
        flow: str,
        where: str,
        workers: object,
        router: Route | None,
    ) -> None:
        self._flow, self._where, self._router = flow, where, router
        self._all: dict[str, Agent[Any, Any] | Flow] = {}
        self._sizes: dict[str, int] = {}
        self._named: dict[str, list[str]] = {}
        self._capable: dict[str, list[str]] = {}
        if router is not None and not is_plain(router):
            raise self._invalid(
                f"router must be a plain `def` of an assignment and the specialists' names, not {router!r:.80}"
            )
        if isinstance(workers, str | Mapping) or not isinstance(workers, Iterable):
            raise self._invalid(f"workers is a list of agents, flows or Specialists, not {workers!r:.80}")
        for worker in workers:
            self._add(worker if isinstance(worker, Specialist) else Specialist(worker))
        if not self._all:
            raise self._invalid("a hierarchy has at least one worker")

    @property
    def names(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(self._all)

    def __iter__(self) -> Iterator[tuple[str, Agent[Any, Any] | Flow]]:
        return iter(self._all.items())

    def get(self, name: str) -> Agent[Any, Any] | Flow | None:
        """Return the agent or the flow of this name, or None."""
        return self._all.get(name)

    def size(self, name: str) -> int:
        """Return how many steps an assignment to this one adds to the run; what its own bosses give out comes later."""
        return self._sizes.get(name, 1)

    def find(self, assignment: Assignment, turns: Turns) -> str:
        """
        Return whose an assignment is.

        Raises:
            Refused: nobody's.
        """
        name = assignment.to
        if name is not None and assignment.capability is not None:
            msg = (
                f"the assignment names a specialist, {name!r}, and a capability, {assignment.capability!r}; "
                "give one of the two"
            )
            raise Refused(msg)
        if name is None and assignment.capability is not None:
            capable = self._capable.get(assignment.capability)
            if not capable:
                known = ", ".join(sorted(self._capable)) or "none"
                msg = f"no specialist is capable of {assignment.capability!r} (known capabilities: {known})"
                raise Refused(msg)
            return turns.take(assignment.capability, capable)
        if name is None:
            name = self._ask_router(assignment)
        found = [name] if name in self._all else self._named.get(name, [])
        if not found:
            msg = f"there is no specialist {name!r} (known: {', '.join(self._all)})"
            raise Refused(msg)
        if len(found) > 1:
            msg = f"{name!r} is several specialists; name the one that is meant: {', '.join(found)}"
            raise Refused(msg)
        return found[0]

    def encode(self, name: str, given: object, *, max_bytes: float = math.inf) -> bytes:
        """
        Return what an assignment gives a specialist, JSON.

        Raises:
            Refused: it does not fit, or is larger than a value may be.
        """
        kind = self._all[name].input
        try:
            written = to_json(kind, kind.validate_python(given))
        except Exception as error:
            # Validators and serialisers are a user's code, and pydantic lets through what is no ValueError.
            if _time_is_over(error):
                raise
            msg = f"the input does not fit specialist {name!r}: {_why(error)}"
            raise Refused(msg) from error
        if len(written) > max_bytes:
            raise Refused(str(PayloadTooLarge(f"the input of specialist {name!r}", len(written), int(max_bytes))))
        return written

    def _ask_router(self, assignment: Assignment) -> str:
        if self._router is None:
            msg = "the assignment names neither a specialist (to=) nor a capability, and the hierarchy has no router"
            raise Refused(msg)
        try:
            found: object = self._router(assignment, self.names)
        except Exception as error:
            # A user's code: one assignment that it cannot place is no reason to lose the others.
            if _time_is_over(error):
                raise
            msg = f"the router raised {text_of(error)}"
            raise Refused(msg) from error
        if not isinstance(found, str):
            msg = f"the router must return a specialist's name, not {type(found).__name__}"
            raise Refused(msg)
        return found

    def _invalid(self, why: str) -> InvalidFlow:
        return InvalidFlow(self._flow, self._where, why)

    def _add(self, worker: Specialist) -> None:
        runs = worker.runs
        if isinstance(runs, str):
            known: Mapping[str, Any] = {**flows(), **agents()}
            if runs not in known:
                raise UnknownAgent(self._flow, self._where, runs, ", ".join(known))
            runs = known[runs]
        if not isinstance(runs, Agent) and not (hasattr(runs, "plan") and hasattr(runs, "inner")):
            raise self._invalid(f"{runs!r:.80} is neither an agent nor a flow; put @agent(...) on the function")
        label = self._label(worker.name, runs)
        if label in self._all:
            raise self._invalid(f"two specialists are named {label!r}; name one of them: Specialist(..., name=...)")
        self._all[label] = runs
        self._sizes[label] = 1 if isinstance(runs, Agent) else len(runs.plan())
        self._named.setdefault(runs.name, []).append(label)
        for capability in self._capabilities(label, worker.capabilities):
            self._capable.setdefault(capability, []).append(label)

    def _label(self, name: object, runs: Agent[Any, Any] | Flow) -> str:
        if name is None:
            name = runs.name.rpartition(".")[2] if isinstance(runs, Agent) else runs.name
        if not isinstance(name, str):
            raise self._invalid(f"a specialist's name is a text, not {name!r:.80}")
        if not name or set("/~#") & set(name):
            raise self._invalid(f"a specialist's name has none of / ~ # and is not empty: {name!r:.80}")
        if len(name) > LONGEST_NAME or not name.isprintable():
            raise self._invalid(
                f"a specialist's name has at most {LONGEST_NAME} printable characters, not {len(name)}: {name!a:.80}"
            )
        return name

    def _capabilities(self, label: str, given: object) -> set[str]:
        if isinstance(given, str):
            raise self._invalid(f"capabilities of {label!r} is a set of texts: write {{{given!r:.80}}}")
        tags = tuple(given) if isinstance(given, Iterable) else (given,)
        found = [tag for tag in tags if isinstance(tag, str) and tag]
        if len(found) < len(tags):
            raise self._invalid(f"capabilities of {label!r} is a set of texts, such as {{'legal'}}, not {given!r:.80}")
        return set(found)


def _time_is_over(error: Exception) -> bool:
    """Tell whether it is the boss's own time limit, which strikes wherever the boss happens to be."""
    from billiard.exceptions import SoftTimeLimitExceeded  # noqa: PLC0415  a command line should not wait for Celery's

    return isinstance(error, SoftTimeLimitExceeded)


def _why(error: Exception) -> str:
    if isinstance(error, PydanticSerializationError):
        return f"it cannot be written as JSON: {error}"
    if not isinstance(error, ValidationError):
        return text_of(error)
    try:
        found = error.errors(include_url=False, include_input=False, include_context=False)
    except Exception as unspeakable:  # noqa: BLE001  what a user's validator raised is asked for its text here
        return text_of(unspeakable)
    return "; ".join(f"{'.'.join(map(str, item['loc'])) or 'input'}: {item['msg']}" for item in found[:3])
