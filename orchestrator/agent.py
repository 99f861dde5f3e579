"""The contract an agent fulfils, what it is given, and how it registers."""

from __future__ import annotations

import functools
import importlib
import inspect
import re
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import (
    TYPE_CHECKING,
    Any,
    Final,
    Generic,
    ParamSpec,
    Protocol,
    TypedDict,
    TypeVar,
    Unpack,
    get_type_hints,
    overload,
)

from pydantic import PydanticUndefinedAnnotation, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from orchestrator.errors import (
    AgentsNotFound,
    DefinitionError,
    DuplicateName,
    InvalidAgent,
    InvalidInput,
    InvalidPolicy,
    definition_site,
    text_of,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable, Iterator, Mapping

    from orchestrator.board.handle import Board
    from orchestrator.conversation.handle import Talk
    from orchestrator.resilience.budget import Guard
    from orchestrator.resilience.fallback import Rung
    from orchestrator.resilience.idle import IdleWatch

from orchestrator.board.either import PLAIN_FUNCTION, at_once, in_a_coroutine
from orchestrator.conversation.speaker import Speaker
from orchestrator.resilience.breaker import Breaker
from orchestrator.resilience.budget import Spend
from orchestrator.resilience.fallback import Cached, Constant
from orchestrator.resilience.limit import Concurrency, RateLimit
from orchestrator.resilience.options import is_number
from orchestrator.resilience.retry import Retry

P = ParamSpec("P")
R = TypeVar("R")
Policy = TypeVar("Policy")

Estimate = int | Spend | Callable[[Any], "int | Spend"]

NAME: Final = re.compile(r"[a-z][a-z0-9_.-]{0,99}")
RESERVED: Final = frozenset({"orchestrator", "celery"})
DEFAULT_TIMEOUT: Final = 300.0
LONGEST_NAME: Final = 100


class Journal(Protocol):
    """
    What a step does in Redis: keeps the results of its sub-steps by name, and submits child runs.

    All but `call` block; that makes such a call from a coroutine.
    """

    def recall(self, name: str) -> bytes | None:
        """Return a recorded result."""

    def record(self, name: str, value: bytes) -> bytes:
        """Record a result; what was recorded first stands and is returned."""

    def submit(self, flow: str, value: object, *, key: str, deadline: float | None) -> str:
        """Submit a child run and return its id."""

    async def call(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Make a blocking call."""


class MemoryJournal:
    """
    A journal that lives as long as its process: for tests.

    Attributes:
        submitted: what was submitted, by key: the flow and its input.
    """

    def __init__(self) -> None:
        self.submitted: dict[str, tuple[str, object]] = {}
        self._recorded: dict[str, bytes] = {}

    def recall(self, name: str) -> bytes | None:
        """Return a recorded result."""
        return self._recorded.get(name)

    def record(self, name: str, value: bytes) -> bytes:
        """Record a result; what was recorded first stands and is returned."""
        return self._recorded.setdefault(name, value)

    def submit(self, flow: str, value: object, *, key: str, deadline: float | None) -> str:  # noqa: ARG002  the protocol's
        """Remember a child run; its id tells how many there were before it."""
        self.submitted.setdefault(key, (flow, value))
        return f"{list(self.submitted).index(key):024}"

    async def call(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Make a call; nothing here blocks."""
        return function(*args, **kwargs)


class Account:
    """Adds up what an attempt uses; from any thread."""

    __slots__ = ("_lock", "total")

    def __init__(self) -> None:
        self.total = Spend()
        self._lock = threading.Lock()

    def add(self, *, tokens: int, cost: float) -> None:
        """
        Add to it.

        Raises:
            InvalidInput: an amount is no number, below 0, or too large to be added up.
        """
        try:
            more = Spend(tokens=tokens, cost=cost)
            with self._lock:
                self.total = self.total + more
        except DefinitionError as error:
            raise InvalidInput(str(error)) from None


class Flag:
    """Set once, from any thread; a tenth of a threading.Event, which nobody waits for here."""

    __slots__ = ("_value",)

    def __init__(self) -> None:
        self._value = False

    def set(self) -> None:
        """Set it."""
        self._value = True

    def is_set(self) -> bool:
        """Whether it is set."""
        return self._value


@dataclass(frozen=True, kw_only=True)
class Context(Speaker):
    """
    What a handler may know of its step, and do in it.

    Made by the worker; in a test, by `orchestrator.testing.fake_context`. Methods that go to Redis are awaited in an
    async agent, and called in a sync one.

    Attributes:
        attempt: 1 for the first; `revision`: 0 until the gate sent the step back.
        degraded: whether the agent stands in for the step's own, as its fallback.
        feedback: what the gate said, oldest first; `draft`: the output it said it of.
        deadline: when the step, its run and its fan-out must be done, in seconds of `time.monotonic()` of this process.
    """

    run_id: str
    flow: str
    step: str
    attempt: int = 1
    revision: int = 0
    degraded: bool = False
    feedback: tuple[str, ...] = ()
    draft: object | None = None
    tenant: str = "default"
    tags: Mapping[str, str] = field(default_factory=dict)
    deadline: float = float("inf")
    _cancelled: Flag = field(default_factory=Flag, repr=False)
    _journal: Journal = field(default_factory=MemoryJournal, repr=False)
    _account: Account = field(default_factory=Account, repr=False)
    _watch: IdleWatch | None = field(default=None, repr=False)
    _rung: int = field(default=0, repr=False)
    _board: Board | None = field(default=None, repr=False)
    _talk: Talk | None = field(default=None, repr=False)

    @property
    def board(self) -> Board:
        """
        The blackboard that the agent is a source of; where that is a hierarchy its boss and its synthesiser have it.

        Raises:
            InvalidInput: it is none's.
        """
        if self._board is None:
            msg = (
                f"step {self.step!r} of flow {self.flow!r} is no blackboard's: only its sources have ctx.board, and "
                "of a hierarchy the boss and the synthesiser; a specialist is given what it needs in its assignment"
            )
            raise InvalidInput(msg)
        return self._board

    def _talk_here(self) -> Talk:
        if self._talk is None:
            msg = f"step {self.step!r} of flow {self.flow!r} is no conversation's: only its members speak"
            raise InvalidInput(msg)
        return self._talk

    @property
    def idempotency_key(self) -> str:
        """
        The same for every attempt of this step at this revision: hand it to services outside Redis.

        A fallback's differs from its first agent's, and from another fallback's: a service must not answer the one with
        the other's result.
        """
        return f"{self.run_id}:{self.step}:{self.revision}{f':fallback-{self._rung}' if self.degraded else ''}"

    @property
    def cancelled(self) -> bool:
        """Whether the run has ended or the step is another's: stop, the output will be discarded."""
        return self._cancelled.is_set()

    def remaining(self) -> float:
        """Return the seconds left until the step, its run or its fan-out must be done, the nearest; never below 0."""
        return max(0.0, self.deadline - time.monotonic())

    def heartbeat(self) -> None:
        """Show a sign of life: an agent with an `idle` limit is given up when none has come for so long."""
        if self._watch is not None:
            self._watch.beat()

    def spend(self, *, tokens: int = 0, cost: float = 0.0) -> None:
        """
        Tell what the attempt has used, in addition to what was told before; it also counts as a heartbeat.

        Limits and budgets are settled with it when the attempt ends; it is kept in the run's state.

        Raises:
            InvalidInput: an amount is no number, below 0, or too large to be added up.
        """
        self._account.add(tokens=tokens, cost=cost)
        self.heartbeat()

    @property
    def spent(self) -> Spend:
        """What the attempt has told so far."""
        return self._account.total

    def submit(self, flow: str, input: object, *, key: str | None = None, deadline: float | None = None) -> Any:  # noqa: A002, ANN401  the id, or an awaitable of it
        """
        Submit a child run, and return its id; awaited in an async agent.

        The child ends when this run fails or is cancelled, its deadline is not after this run's, and it draws on this
        run's budgets. Another attempt of the step finds the child that the first one submitted.

        Args:
            flow: the flow's name.
            input: its input: a model, or plain data that fits.
            key: unique among the children of this step; the flow's name unless given.
            deadline: seconds; at most what is left of this run's. Unless given, what is left of the step's time, where
                the agent has a `deadline`.

        Raises:
            InvalidInput: the flow is unknown or the input does not fit; nothing was submitted.
            LeaseLost: this run has ended.
        """
        call = functools.partial(
            self._journal.submit, flow, input, key=f"{self.idempotency_key}:{key or flow}", deadline=deadline
        )
        return self._journal.call(call) if in_a_coroutine() else call()

    @overload
    def once(self, name: str, make: Callable[[], Awaitable[R]], *, returns: type[R] | None = None) -> Awaitable[R]: ...

    @overload
    def once(self, name: str, make: Callable[[], R], *, returns: type[R] | None = None) -> R: ...

    def once(self, name: str, make: Callable[[], Any], *, returns: type[Any] | None = None) -> Any:
        """
        Do a sub-step and record its result; another attempt of the step gets the recorded one and does not do it again.

        A process that dies after `make` and before its result is recorded does it again: give services outside
        `idempotency_key` too.

        Args:
            name: of the sub-step, unique in the step; at most 100 characters.
            make: does it. In an async agent it may be a coroutine function, and `once` is awaited.
            returns: the result's type, where it is more than plain JSON data.

        Raises:
            InvalidInput: the name does not fit, or the result is no JSON data and `returns` is missing.
            LeaseLost: the run has ended or the step is another execution's; nothing was recorded.
            PayloadTooLarge: the result is over the maximum.
        """
        awaited = in_a_coroutine()
        if not awaited and inspect.iscoroutinefunction(make):
            raise InvalidInput(PLAIN_FUNCTION)
        steps = self._once(name, make, TypeAdapter(Any if returns is None else returns), plain=returns is None)
        return steps if awaited else at_once(steps)

    async def _once(self, name: str, make: Callable[[], Any], kind: TypeAdapter[Any], *, plain: bool) -> Any:  # noqa: ANN401
        if not 0 < len(name) <= LONGEST_NAME or not name.isprintable():
            msg = f"the name of a sub-step has 1 to {LONGEST_NAME} printable characters, not {len(name)}: {name!r:.120}"
            raise InvalidInput(msg)
        recorded = await self._journal.call(self._journal.recall, name)
        if recorded is None:
            made = make()
            if inspect.isawaitable(made):
                made = await made
            value = to_json(kind, made)
            if plain and from_json(kind, value) != made:
                msg = f"once({name!r}) made a {type(made).__name__}, which JSON does not give back: pass returns="
                raise InvalidInput(msg)
            recorded = await self._journal.call(self._journal.record, name, value)
        return from_json(kind, recorded)


class Policies(TypedDict, total=False):
    """
    What an agent may be declared with; durations are seconds.

    Attributes:
        timeout: per attempt; 300 unless given. Async handlers are cancelled at it wherever they run, sync ones where
            the pool can interrupt them (prefork, asyncio).
        idle: without `ctx.heartbeat()` after which an attempt is given up.
        deadline: from when a step of this agent is first ready until it is done, with all attempts and waits.
        retry: which failures are tried again, and when. Without it the first failure is the last.
        breaker: stops calls to what is down; one, or one for each dependency.
        rate: requests and tokens per time, for the whole fleet; one, or one for each dependency.
        concurrency: attempts at a time, for the whole fleet.
        fallback: what takes the place of an output that the agent cannot give: agents, `Cached`, `Constant`, in order.
        estimate: what an attempt will use: tokens, a `Spend`, or a function of the input that gives one. Limits and
            budgets reserve it; `ctx.spend` tells what it was.
    """

    timeout: float
    idle: float | None
    deadline: float | None
    retry: Retry | None
    breaker: Breaker | Sequence[Breaker]
    rate: RateLimit | Sequence[RateLimit]
    concurrency: Concurrency | None
    fallback: Sequence[Agent[Any, Any] | Rung]
    estimate: Estimate | None


class Agent(Generic[P, R]):
    """
    A typed function with a name, which is also its queue and its Celery task.

    Calling an agent calls the function: no broker, no Redis.

    Attributes:
        name: of the agent; `where`: `file:line` of the function.
        timeout: seconds, per attempt; `idle`: without a heartbeat; `deadline`: from ready to done.
        retry, breakers, rates, concurrency: its policies; `fallback`: agents by name, and other rungs, in order.
        estimate: what an attempt is expected to use; None: not known.
        takes_context: whether the handler's first parameter is a Context.
        input, output: adapters that validate and serialise what it takes and gives.
    """

    def __init__(self, name: str, function: Callable[P, R], **policies: Unpack[Policies]) -> None:
        self.name = name
        self.where = _where(function)
        unknown = sorted(policies.keys() - Policies.__annotations__.keys())
        if unknown:
            known = ", ".join(Policies.__annotations__)
            raise self._invalid(f"there is no option {', '.join(unknown)} (known: {known})")
        self.function = function
        self.timeout = policies.get("timeout", DEFAULT_TIMEOUT)
        self.idle, self.deadline = policies.get("idle"), policies.get("deadline")
        self.retry, self.concurrency = policies.get("retry"), policies.get("concurrency")
        self.estimate = policies.get("estimate")
        self.breakers: tuple[Breaker, ...] = self._several("breaker", policies.get("breaker", ()), Breaker)
        self.rates: tuple[RateLimit, ...] = self._several("rate", policies.get("rate", ()), RateLimit)
        self.fallback: tuple[Rung, ...] = self._rungs(policies.get("fallback", ()))
        if not inspect.isfunction(function):
            raise self._invalid(f"{function!r:.80} is no plain function: write `def` or `async def` below @agent")
        self.is_async = inspect.iscoroutinefunction(function)
        self.__doc__ = function.__doc__
        self.__name__ = function.__name__
        self.__module__ = function.__module__
        named: object = name
        if not isinstance(named, str) or not NAME.fullmatch(named) or name in RESERVED:
            raise self._invalid(
                "a name is lower-case letters, digits, '.', '_' and '-', starts with a letter, has at most 100 "
                f"characters and is none of {', '.join(sorted(RESERVED))}"
            )
        if not (is_number(self.timeout) and self.timeout > 0):
            raise self._invalid(f"timeout must be above 0 s and finite, not {self.timeout!r:.40}")
        hints = self._hints()
        parameters = list(inspect.signature(function).parameters.values())
        self.takes_context = bool(parameters) and hints.get(parameters[0].name) is Context
        takes = parameters[1:] if self.takes_context else parameters
        if len(takes) != 1 or takes[0].kind in {takes[0].VAR_POSITIONAL, takes[0].VAR_KEYWORD, takes[0].KEYWORD_ONLY}:
            raise self._invalid("the handler takes an optional `ctx: Context` and one input, nothing else")
        if takes[0].name not in hints:
            raise self._invalid(f"annotate the input {takes[0].name!r} with a pydantic model")
        if "return" not in hints:
            raise self._invalid("annotate the output: `-> SomeModel`")
        self.input_type, self.output_type = hints[takes[0].name], hints["return"]
        self.input: TypeAdapter[Any] = self._adapter(self.input_type)  # user types: only pydantic knows them
        self.output: TypeAdapter[Any] = self._adapter(self.output_type)
        self._check_policies()
        self._expected = None if callable(self.estimate) else self._amount(self.estimate)
        others = tuple(policy.guard(name) for policy in self._limits())
        # A breaker that is open lets a step wait, or fall back where there is a rung left to fall back to.
        self._guards = {
            fallback: (*(policy.guard(name, fallback=fallback) for policy in self.breakers), *others)
            for fallback in (False, True)
        }

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the plain function."""
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<agent {self.name}>"

    @property
    def fallback_agents(self) -> tuple[str, ...]:
        """The agents among its fallbacks, by name."""
        return tuple(rung for rung in self.fallback if isinstance(rung, str))

    @property
    def is_guarded(self) -> bool:
        """Whether its attempts ask guards, or count for its tenants' budgets."""
        return bool(self._guards[False]) or self.estimate is not None

    def guards(self, *, fallback: bool) -> tuple[Guard, ...]:
        """Return what must let an attempt through; `fallback`: whether the step has something to fall back to."""
        return self._guards[fallback]

    def expects(self, value: object) -> Spend | None:
        """
        Return what an attempt on this input is expected to use; None: not known.

        Raises:
            Exception: whatever a user's estimate raises, or an InvalidPolicy where it gives no amount.
        """
        if not callable(self.estimate):
            return self._expected
        return self._amount(self.estimate(value))

    def _amount(self, found: object) -> Spend | None:
        if found is None or isinstance(found, Spend):
            return found
        if isinstance(found, int) and not isinstance(found, bool):
            return Spend(tokens=found)
        raise InvalidPolicy("estimate", self.where, f"it gives a number of tokens or Spend(...), not {found!r:.40}")

    def constant(self, rung: Constant) -> bytes:
        """Return a fixed output as it is stored between steps."""
        return to_json(self.output, self.output.validate_python(rung.value))

    def _limits(self) -> Iterator[RateLimit | Concurrency]:
        yield from self.rates
        if self.concurrency is not None:
            yield self.concurrency

    def _check_policies(self) -> None:
        for what, seconds in (("idle", self.idle), ("deadline", self.deadline)):
            if seconds is not None and not (is_number(seconds) and seconds > 0):
                raise self._invalid(f"{what} must be above 0 s and finite, not {seconds!r:.40}")
        given: list[tuple[str, Iterable[object], type]] = [
            ("retry", [] if self.retry is None else [self.retry], Retry),
            ("breaker", self.breakers, Breaker),
            ("rate", self.rates, RateLimit),
            ("concurrency", [] if self.concurrency is None else [self.concurrency], Concurrency),
        ]
        for what, policies, kind in given:
            strange = [policy for policy in policies if not isinstance(policy, kind)]
            if strange:
                raise self._invalid(f"{what} takes {kind.__name__}(...), not {strange[0]!r:.80}")
        # Counted twice, a failure would open a breaker too early, and a call use a limit up.
        states = [one.guard(self.name).key for policies in (self.breakers, self.rates) for one in policies]
        if len(set(states)) < len(states):
            raise self._invalid("two breakers, or two rate limits with the same `per`, are of the same dependency")
        if isinstance(self.estimate, bool) or not (
            self.estimate is None or isinstance(self.estimate, int | Spend) or callable(self.estimate)
        ):
            raise self._invalid("estimate is a number of tokens, Spend(...), or a function of the input that gives one")
        self._check_estimate()
        self._check_fallbacks()

    def _check_estimate(self) -> None:
        if inspect.iscoroutinefunction(self.estimate):
            raise self._invalid("estimate is a plain function: nobody awaits what `async def` gives")
        if callable(self.estimate):
            if not _takes_one(self.estimate):
                raise self._invalid("estimate is a function that takes the agent's input, and nothing else")
            return
        try:
            expected = self._amount(self.estimate)
        except InvalidPolicy as error:
            raise self._invalid(f"estimate: {error.args[2]}") from None
        if expected is None:
            return
        tokens = expected.tokens
        for rate in self.rates:
            if rate.tokens is not None and tokens > rate.tokens:
                why = f"its estimate is {tokens} tokens, and its rate limit never lets more than {rate.tokens} through"
                raise self._invalid(f"{why}: no attempt could begin")

    def _check_fallbacks(self) -> None:
        if sum(isinstance(rung, Cached) for rung in self.fallback) > 1:
            raise self._invalid("one Cached(...) among its fallbacks is enough: one output is kept")
        for rung in self.fallback:
            if rung == self.name:
                raise self._invalid("it cannot be its own fallback")
            if isinstance(rung, Constant):
                try:
                    self.constant(rung)
                except Exception as error:  # noqa: BLE001  a validator of the user's may raise anything
                    why = str(error) if isinstance(error, ValidationError) else text_of(error)
                    raise self._invalid(f"{rung!r:.80} is not what it gives: {why.splitlines()[0]}") from None
            elif not isinstance(rung, str | Cached):
                raise self._invalid(f"a fallback is an agent, its name, Cached(...) or Constant(...), not {rung!r:.80}")

    def _several(self, what: str, given: object, kind: type[Policy]) -> tuple[Policy, ...]:
        """Return policies of which there may be one, or some in a sequence; their kind is checked with the others."""
        if isinstance(given, kind):
            return (given,)
        if isinstance(given, str) or not isinstance(given, Sequence):
            raise self._invalid(f"{what} takes {kind.__name__}(...), or a list of them, not {given!r:.80}")
        return tuple(given)

    def _rungs(self, given: object) -> tuple[Rung, ...]:
        if isinstance(given, str) or not isinstance(given, Sequence):
            raise self._invalid(f"fallback takes a list of rungs, such as [{given!r:.80}], not {given!r:.80}")
        return tuple(rung.name if isinstance(rung, Agent) else rung for rung in given)

    def _invalid(self, why: str) -> InvalidAgent:
        return InvalidAgent(self.name, self.where, why)

    def _hints(self) -> dict[str, Any]:
        try:
            return get_type_hints(self.function, include_extras=True)
        except NameError as error:
            raise self._invalid(
                f"an annotation cannot be resolved: {error}; import the type outside `if TYPE_CHECKING`"
            ) from None

    def _adapter(self, kind: Any) -> TypeAdapter[Any]:  # noqa: ANN401  any annotation a user may write
        try:
            return TypeAdapter(kind)
        except (PydanticUserError, PydanticUndefinedAnnotation) as error:
            raise self._invalid(f"pydantic cannot handle {kind!r}: {str(error).splitlines()[0]}") from None


def _takes_one(function: Callable[..., object]) -> bool:
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        return False
    except ValueError:
        pass  # built in, and Python cannot tell
    return True


def _where(function: object) -> str:
    if made_for := getattr(function, "__defined_at__", None):  # one that a flow has made for itself
        return str(made_for)
    code = getattr(inspect.unwrap(function) if callable(function) else function, "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else definition_site()


def to_json(adapter: TypeAdapter[Any], value: object) -> bytes:
    """
    Write a value as it is stored between steps: fields by their aliases, under which a model reads itself again.

    Raises:
        PydanticSerializationError: it holds what JSON or UTF-8 cannot.
    """
    return adapter.dump_json(value, by_alias=True)


def from_json(adapter: TypeAdapter[Any], stored: bytes) -> Any:  # noqa: ANN401  what the adapter is for
    """
    Read a value that `to_json` has written; a field that has no alias to be written by is read by its name.

    Raises:
        ValidationError: it does not fit.
    """
    return adapter.validate_json(stored, by_alias=True, by_name=True)


_agents: dict[str, Agent[Any, Any]] = {}


def agent(name: str, **policies: Unpack[Policies]) -> Callable[[Callable[P, R]], Agent[P, R]]:
    """
    Make a plain function an agent.

    Args:
        name: unique in the deployment; the queue's and the Celery task's name, such as `moderation.classify`.
        policies: see Policies; none is needed.

    Raises:
        InvalidAgent: the name or the signature does not fit; the message names the file.
        DuplicateName: another function has the name; the message names both files.

    The function takes one input, optionally preceded by `ctx: Context`, and returns its output, both annotated with
    types that pydantic can validate and serialise.
    """

    def register(function: Callable[P, R]) -> Agent[P, R]:
        made = Agent(name, function, **policies)
        known = _agents.get(name)
        # The same line again is a module imported under two names or reloaded, not a second agent.
        if known is not None and known.where != made.where:
            raise DuplicateName("agent", name, known.where, made.where)
        _agents[name] = made
        return made

    return register


def agents() -> dict[str, Agent[Any, Any]]:
    """Return the registered agents by name."""
    return dict(sorted(_agents.items()))


def is_agent(name: object) -> bool:
    """Tell whether an agent has this name."""
    return name in _agents


def _raised_in(error: BaseException) -> str:
    """Return `file:line: ` of where a module's import failed; nothing where the module itself was not found."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<frozen")]
    inside = [frame for frame in frames if frame.filename not in {__file__, importlib.__file__}]
    return f"{inside[-1].filename}:{inside[-1].lineno}: " if inside else ""


def load_agents(modules: Iterable[str]) -> None:
    """
    Import the modules that define agents and flows.

    Raises:
        AgentsNotFound: a module cannot be imported.
        DefinitionError: an agent or flow in it is declared wrongly.
    """
    for module in modules:
        try:
            importlib.import_module(module)
        except DefinitionError:
            raise
        except Exception as error:
            # Whatever a user's module raises while it is imported, the remedy is in that module.
            why = " ".join(f"{type(error).__name__}: {error}".split())
            raise AgentsNotFound(module, f"{_raised_in(error)}{why}") from error
