"""Shared state that agents refine together: they are woken by what changes on it, and never talk to each other."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError
from pydantic_core import PydanticSerializationError

from orchestrator.agent import NAME, Agent, from_json, to_json
from orchestrator.board.conditions import DEEPEST, NAMED, TASK, Condition, depth, is_entry, matches, pattern_of
from orchestrator.board.rules import DISPUTE, RULES, Arbiter, Merge, Reject, Rule
from orchestrator.errors import InvalidFlow, InvalidInput, InvalidPolicy, definition_site
from orchestrator.messages import MAX_STEPS, BoardOutcome, BoardRules, Otherwise, PlanStep, SourceRules
from orchestrator.patterns.fits import misfit
from orchestrator.patterns.flow import found, register
from orchestrator.resilience.options import is_number

if TYPE_CHECKING:
    from orchestrator.patterns.flow import Flow
    from orchestrator.patterns.gate import Gate

Task = TypeVar("Task")
Value = TypeVar("Value")
STEP: Final = "board"
"""The one step of the flow: it is done when the board has ended."""
MAX_SOURCES: Final = 100
MAX_PRIORITY: Final = 1000
MAX_WAKES: Final = 10_000
MAX_WRITES: Final = 1_000_000
MAX_ENTRIES: Final = 10_000
MAX_ENTRY_BYTES: Final = 1024 * 1024
MAX_BYTES: Final = 64 * 1024 * 1024
LONGEST: Final = 366 * 86400.0


class _Known(NamedTuple):
    """What is known of an entry by its name: its type, its rule, whether a source or a condition asks for it."""

    kind: TypeAdapter[Any]
    rule: Rule
    watched: bool


class Wake(BaseModel, Generic[Task]):
    """
    What a source takes: that it is to look at the board, and why.

    Attributes:
        task: what the blackboard took.
        changed: what has changed since the source last looked: names of entries, and `task` when the board is new; at
            most 1,000, whatever more there is.
        source: its name; `number`: how often it has been woken, this time included.
    """

    model_config = ConfigDict(frozen=True)

    task: Task
    changed: tuple[str, ...] = ()
    source: str = ""
    number: int = 1


class Proposal(BaseModel, Generic[Value]):
    """
    What somebody wanted to write to an entry that has an arbiter, resting on an older version.

    Attributes:
        value: of the entry's type.
        author: the source, or who; `confidence`: how sure, 0 to 1, where that was told.
    """

    model_config = ConfigDict(frozen=True)

    value: Value
    author: str = ""
    confidence: float | None = None


class BoardResult(BaseModel):
    """
    What a blackboard gives.

    Attributes:
        outcome: goal: it was reached; quiet: nothing was left to be looked at; limit: of wakes, writes or time.
        why: the outcome in words.
        entries: what stands there, by name, as JSON data.
        writes, wakes: how many there were.
        fault: where it is degraded as a source has failed for good: the first such step, and why.
    """

    model_config = ConfigDict(frozen=True)

    outcome: BoardOutcome
    why: str = ""
    entries: dict[str, JsonValue] = Field(default_factory=dict)
    writes: int = 0
    wakes: int = 0
    fault: str = ""

    def get(self, name: str, kind: type[Value]) -> Value | None:
        """
        Return what an entry holds, or None where there is none.

        Raises:
            pydantic.ValidationError: it is none of this type.
        """
        return None if name not in self.entries else TypeAdapter(kind).validate_python(self.entries[name])


@dataclass(frozen=True)
class Source:
    """
    An agent, or a flow, that works on a blackboard.

    Attributes:
        runs: the agent, its name, or a flow; it takes a `Wake`.
        watch: the entries whose changes it is woken by, or patterns of them, in which `*` stands for any characters;
            `task` is the opening of the board. Unless given, everything.
        when: what must hold as well; where it does not when an entry changes, the source is woken once it does.
        priority: where not all can be at work at a time, those of a higher one are woken first.
        own: whether it is woken by what it writes itself.
        name: unique on the board; the last part of the agent's unless given.
    """

    runs: Agent[Any, Any] | Flow | str
    watch: str | Sequence[str] = "*"
    when: Condition | None = None
    priority: int = 0
    own: bool = False
    name: str | None = None


@dataclass(frozen=True, kw_only=True)
class Limits:
    """
    What a blackboard may come to.

    At the first three it ends; a write that goes over one of the others is refused.

    Attributes:
        wakes: of all sources; `writes`; `time`: seconds from its opening.
        entries: at a time; `entry_bytes`: of JSON in each of them; `bytes`: in all of them.
    """

    wakes: int = 1000
    writes: int = 10_000
    time: float | None = None
    entries: int = 1000
    entry_bytes: int = 64 * 1024
    bytes: int = 4 * 1024 * 1024

    def __post_init__(self) -> None:
        where = definition_site()
        most = {
            "wakes": MAX_WAKES,
            "writes": MAX_WRITES,
            "entries": MAX_ENTRIES,
            "entry_bytes": MAX_ENTRY_BYTES,
            "bytes": MAX_BYTES,
        }
        for name, limit in most.items():
            given = getattr(self, name)
            if isinstance(given, bool) or not isinstance(given, int) or not 1 <= given <= limit:
                why = f"{name} must be 1 to {limit}, a whole number, not {given!r:.80}"
                raise InvalidPolicy("Limits", where, why)
        if self.time is not None and not (is_number(self.time) and 0 < self.time <= LONGEST):
            why = f"time must be seconds, above 0 and at most a year, not {self.time!r:.80}"
            raise InvalidPolicy("Limits", where, why)


class Blackboard:
    """
    A board, and the sources that work on it.

    Its input is the task. Sources are woken by what changes, each on its own queue, and at most one wake of each is
    under way at a time. The board ends when its goal is reached, when nothing is left to be looked at, or at a limit;
    it gives a `BoardResult`.

    Args:
        name: unique in the deployment.
        task: the type of the flow's input.
        entries: the types of the entries, by their names or patterns of them; the first that fits counts.
        sources: agents, flows, names of agents, or Sources of these.
        goal: the condition that ends the board; unless given, it is done when nothing is left to be looked at.
        conflicts: what happens where two writes rest on the same version of an entry, by name or pattern; the first
            that fits counts. Unless given, the later one is refused.
        otherwise: what follows where the goal is not reached, or a source fails for good: `fail`, or `degrade`: it goes
            on without it, and what the board gives is marked as degraded.
        width: sources at work at a time; unless given, all.
        limits: what it may come to.

    Raises:
        InvalidFlow: the parts do not fit together; the message names the file.
        UnknownAgent: there is no agent of a name.
    """

    def __init__(
        self,
        name: str,
        *,
        task: Any,  # noqa: ANN401  a type, as pydantic takes them
        entries: Mapping[str, Any],
        sources: Sequence[Agent[Any, Any] | Flow | Source | str],
        goal: Condition | None = None,
        conflicts: Mapping[str, Rule] | None = None,
        otherwise: Otherwise = "fail",
        width: int | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.name = name
        self.where = definition_site()
        self.input = self._adapter("task", task)
        self.output: TypeAdapter[Any] = TypeAdapter(BoardResult)
        self.limits = Limits() if limits is None else limits
        self._check(entries, sources, conflicts)
        self._known_entries: dict[str, _Known] = {}
        self._conflicts = {self._pattern(pattern): rule for pattern, rule in (conflicts or {}).items()}
        arbiters = {pattern: rule for pattern, rule in self._conflicts.items() if isinstance(rule, Arbiter)}
        kinds = {self._pattern(pattern): self._adapter(pattern, kind) for pattern, kind in entries.items()}
        self._types = {**self._disputes(arbiters, entries), **kinds}
        self._inner: dict[str, Flow] = {}
        listed = [each if isinstance(each, Source) else Source(each) for each in sources]
        listed += [Source(each.runs, watch=f"{DISPUTE}{on}", name=each.name) for on, each in arbiters.items()]
        rules = [self._source(each, task) for each in listed]
        names = [each.name for each in rules]
        for each in names:
            if names.count(each) > 1:
                raise self._invalid(f"two sources are named {each!r}; name one of them: Source(..., name=...)")
        self._goal(goal)
        conditions = [each for each in (goal, *(each.when for each in listed)) if each is not None]
        asked = tuple(dict.fromkeys(name for each in conditions for name in each.names()))
        self._watched_patterns = {*asked, *(pattern for each in rules for pattern in each.watch)}
        self._number("width", MAX_SOURCES if width is None else width, MAX_SOURCES)
        if otherwise not in ("fail", "degrade"):
            raise self._invalid(f"otherwise is 'fail' or 'degrade', not {otherwise!r:.80}")
        self._rules = BoardRules(
            sources=tuple(rules),
            goal=None if goal is None else goal.as_rule(),
            asked=asked,
            otherwise=otherwise,
            width=len(rules) if width is None else width,
            max_wakes=self.limits.wakes,
            max_writes=self.limits.writes,
            within_ms=None if self.limits.time is None else max(1, round(self.limits.time * 1000)),
            max_entries=self.limits.entries,
            max_bytes=self.limits.entry_bytes,
            max_total=self.limits.bytes,
            max_steps=MAX_STEPS,
        )

        def board(task: object) -> object:  # noqa: ARG001  it has the types that a flow around it asks for
            raise InvalidInput(f"blackboard {name!r} is worked on by its sources: submit it")

        board.__annotations__ = {"task": task, "return": BoardResult}
        register(self)
        # What a flow around it asks for its types; nobody serves its queue, as nothing is ever put there.
        self._stands_for: Agent[Any, Any] = Agent(name, board)

    def __repr__(self) -> str:
        return f"<blackboard {self.name}: {', '.join(self.sources)}>"

    @property
    def sources(self) -> tuple[str, ...]:
        """The sources' names."""
        return tuple(each.name for each in self._rules.sources)

    @property
    def rules(self) -> BoardRules:
        """How it goes on and ends, as the state keeps it."""
        return self._rules

    def plan(self) -> tuple[PlanStep, ...]:
        """Return the board's own step; its sources' come as they are woken."""
        return (PlanStep(name=STEP, agent=self.name, rules=self._rules),)

    def agent_of(self, step: str) -> Agent[Any, Any]:  # noqa: ARG002  the protocol's
        """Return what has the types of the board; it cannot be called."""
        return self._stands_for

    def gate_of(self, step: str) -> Gate | None:  # noqa: ARG002  the protocol's
        """Return None: a board has no gates; a flow that is a source may have its own."""
        return None

    def inner(self, name: str) -> Flow | None:
        """Return the flow that a source is, or None."""
        return self._inner.get(name)

    def type_of(self, entry: str) -> TypeAdapter[Any]:
        """
        Return an entry's type.

        Raises:
            InvalidInput: no entry of this board has such a name.
        """
        return self._known(entry)[0]

    def _known(self, entry: str) -> _Known:
        known = self._known_entries.get(entry)
        return self._look_up(entry) if known is None else known

    def _look_up(self, entry: str) -> _Known:
        if not is_entry(entry):
            msg = f"an entry's name {NAMED}, not {entry!r:.80}"
            raise InvalidInput(msg)
        kind = next((kind for pattern, kind in self._types.items() if matches(pattern, entry)), None)
        if kind is None:
            msg = f"blackboard {self.name!r} has no entry {entry!r}; it has: {', '.join(self._types)}"
            raise InvalidInput(msg)
        rules = (rule for pattern, rule in self._conflicts.items() if matches(pattern, entry))
        rule = Reject() if entry.startswith(DISPUTE) else next(rules, Reject())
        watched = any(matches(pattern, entry) for pattern in self._watched_patterns)
        if len(self._known_entries) >= MAX_ENTRIES:  # names are made up as one goes; what is lost is looked up again
            self._known_entries.clear()
        self._known_entries[entry] = known = _Known(kind, rule, watched)
        return known

    def check(self, entry: str, value: object) -> Any:  # noqa: ANN401  the entry's type
        """
        Return a value as the type of its entry.

        Raises:
            InvalidInput: it does not fit, or there is no such entry.
        """
        try:
            return self.type_of(entry).validate_python(value)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            msg = f"what is written to entry {entry!r} does not fit: {f'{where}: ' if where else ''}{first['msg']}"
            raise InvalidInput(msg) from None

    def written(self, entry: str, value: object) -> bytes:
        """
        Return a value as JSON of the type of its entry.

        Raises:
            InvalidInput: it does not fit, or there is no such entry.
        """
        return self.dump(entry, self.check(entry, value))

    def load(self, entry: str, stored: JsonValue) -> Any:  # noqa: ANN401  the entry's type
        """
        Return what is stored of an entry as its type.

        Raises:
            InvalidInput: it does not fit: another version of the flow has written it.
        """
        try:
            return from_json(self.type_of(entry), json.dumps(stored).encode())
        except ValidationError as error:
            msg = f"what stands in entry {entry!r} does not fit its type, which may be another version's: {error}"
            raise InvalidInput(msg) from None

    def dump(self, entry: str, value: object) -> bytes:
        """
        Return a value of an entry's type as JSON.

        Raises:
            InvalidInput: it holds what JSON has not; nobody could read it again.
        """
        kind = self.type_of(entry)
        try:
            written = to_json(kind, value)
            if b"null" in written:  # which NaN and infinity become
                from_json(kind, written)
        except PydanticSerializationError as error:
            msg = f"what is written to entry {entry!r} has no JSON: {error}"
            raise InvalidInput(msg) from None
        except ValidationError:
            msg = f"what is written to entry {entry!r} has no JSON that reads as its type: NaN or infinity, maybe"
            raise InvalidInput(msg) from None
        return written

    def rule_of(self, entry: str) -> Rule:
        """Return what happens where two writes to an entry rest on the same version."""
        return self._known(entry).rule

    def is_watched(self, entry: str) -> bool:
        """Tell whether a source watches an entry, or a condition asks for it."""
        return self._known(entry).watched

    # Definition

    def _invalid(self, why: str) -> InvalidFlow:
        return InvalidFlow(self.name, self.where, why)

    def _check(self, entries: object, sources: object, conflicts: object) -> None:
        if not isinstance(entries, Mapping) or not entries:
            raise self._invalid("entries takes the types of its entries by their names, such as {'plan': Plan}")
        if not isinstance(sources, Sequence) or isinstance(sources, str) or not sources:
            raise self._invalid("sources takes a list of agents, flows or Sources of these, at least one")
        if len(sources) > MAX_SOURCES:
            raise self._invalid(f"{len(sources)} sources; a blackboard has at most {MAX_SOURCES}")
        if not isinstance(conflicts, Mapping | None):
            raise self._invalid("conflicts takes rules by the names of entries, such as {'plan': LastWriter()}")
        for pattern, rule in (conflicts or {}).items():
            if type(rule) not in RULES:
                known = ", ".join(f"{each.__name__}{'(...)' if each in {Merge, Arbiter} else '()'}" for each in RULES)
                raise self._invalid(f"the rule of {pattern!r} is one of {known}, not {rule!r:.80}")
        if not isinstance(self.limits, Limits):
            raise self._invalid(f"limits takes Limits(...), not {self.limits!r:.80}")

    def _pattern(self, given: object) -> str:
        try:
            pattern = pattern_of(self.name, given)
        except InvalidPolicy as error:
            raise self._invalid(error.args[2]) from None
        if pattern.startswith(DISPUTE):
            raise self._invalid(f"no entry can be called {pattern!r}: so begin those that are put to an arbiter")
        if pattern == TASK:
            raise self._invalid("no entry can be called 'task': that is what the board takes")
        return pattern

    def _disputes(self, arbiters: Mapping[str, Arbiter], entries: Mapping[str, Any]) -> dict[str, TypeAdapter[Any]]:
        """Return the types of the entries that hold what is put to arbiters."""
        found = {}
        for pattern in arbiters:
            kinds = [kind for name, kind in entries.items() if _may_match(name, pattern)]
            if len(kinds) != 1:
                said = "no entry" if not kinds else "entries of several types"
                raise self._invalid(
                    f"the arbiter of {pattern!r} has {said} to decide about: give each type its own rule"
                )
            found[f"{DISPUTE}{pattern}"] = self._adapter(pattern, list[Proposal[kinds[0]]])  # type: ignore[valid-type]
        return found

    def _adapter(self, what: str, kind: Any) -> TypeAdapter[Any]:  # noqa: ANN401  a type
        try:
            return TypeAdapter(kind)
        except PydanticUserError as error:
            why = " ".join(str(error).split())
            raise self._invalid(f"pydantic cannot read the type of {what!r}: {why:.200}") from None

    def _number(self, what: str, given: object, most: int) -> None:
        if isinstance(given, bool) or not isinstance(given, int) or not 1 <= given <= most:
            raise self._invalid(f"{what} must be 1 to {most}, a whole number, not {given!r:.80}")

    def _goal(self, goal: object) -> None:
        if goal is None:
            return
        self._condition("goal", goal)

    def _condition(self, what: str, given: object) -> None:
        if not isinstance(given, Condition):
            raise self._invalid(
                f"{what} takes a condition, such as Entry('plan').field('open') == 0, not {given!r:.80}; what takes "
                "code to find out, a source finds out and writes down as an entry"
            )
        if depth(given.as_rule()) > DEEPEST:
            raise self._invalid(f"{what}: conditions are at most {DEEPEST} deep within one another")
        for name in given.names():
            if not any(_may_match(pattern, name) for pattern in self._types):
                raise self._invalid(f"{what} asks for {name!r}, which is no entry; entries: {', '.join(self._types)}")

    def _source(self, source: Source, task: object) -> SourceRules:
        runs = found(source.runs, self.name, self.where)
        name = source.name or (runs.name.rpartition(".")[2] if isinstance(runs, Agent) else runs.name)
        named: object = name
        if not isinstance(named, str) or not NAME.fullmatch(named):
            raise self._invalid(f"a source's name is lower-case letters, digits and _ . -, not {named!r:.80}")
        takes = runs.input_type if isinstance(runs, Agent) else runs.agent_of(runs.plan()[0].name).input_type
        if not (isinstance(takes, type) and issubclass(takes, Wake)):
            raise self._invalid(f"source {name!r} takes Wake[{getattr(task, '__name__', 'Task')}], what wakes it")
        # Generics of pydantic tell their arguments nowhere else.
        (wanted,) = takes.__pydantic_generic_metadata__["args"] or (Any,)
        if why := misfit("task", task, name, wanted):
            raise self._invalid(why)
        watch = (source.watch,) if isinstance(source.watch, str) else tuple(source.watch)
        for pattern in watch:
            if pattern != TASK and not any(_may_match(each, self._watched(pattern)) for each in self._types):
                raise self._invalid(
                    f"source {name!r} watches {pattern!r}, which is no entry; entries: {', '.join(self._types)}"
                )
        if not watch:
            raise self._invalid(f"source {name!r} watches nothing; leave watch out where it is everything")
        if source.when is not None:
            self._condition(f"source {name!r}: when", source.when)
        self._priority(name, source.priority)
        return SourceRules(
            name=name,
            watch=watch,
            when=None if source.when is None else source.when.as_rule(),
            priority=source.priority,
            own=bool(source.own),
            steps=self._steps(name, runs),
        )

    def _priority(self, name: str, given: object) -> None:
        if isinstance(given, bool) or not isinstance(given, int) or not abs(given) <= MAX_PRIORITY:
            most = MAX_PRIORITY
            raise self._invalid(
                f"source {name!r}: priority must be -{most} to {most}, a whole number, not {given!r:.80}"
            )

    def _watched(self, pattern: object) -> str:
        try:
            return pattern_of(self.name, pattern)
        except InvalidPolicy as error:
            raise self._invalid(error.args[2]) from None

    def _steps(self, name: str, runs: Agent[Any, Any] | Flow) -> tuple[PlanStep, ...]:
        if isinstance(runs, Agent):
            within_ms = None if runs.deadline is None else max(1, math.ceil(runs.deadline * 1000))
            return (PlanStep(name="", agent=runs.name, within_ms=within_ms),)
        self._inner[name] = runs
        steps = runs.plan()
        if steps[0].rules is not None:
            raise self._invalid(
                f"source {name!r} begins with a blackboard, which takes no wake: put its sources on this one, or an "
                "agent in front of it"
            )
        if any(step.undo for step in steps):
            raise self._invalid(f"source {name!r} has steps with undo: what is on a board is not undone, it is changed")
        return steps


def _may_match(pattern: str, name: str) -> bool:
    """Tell whether a name, or a pattern of names, can be one of another pattern."""
    return matches(pattern, name) or matches(name, pattern) or ("*" in name and "*" in pattern)
