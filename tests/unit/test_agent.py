"""What can be an agent, what it is given, and how it registers."""

from __future__ import annotations

import asyncio
import functools
import importlib
import sys
import time
from decimal import Decimal
from typing import TYPE_CHECKING, Any, cast

import pytest
from pydantic import BaseModel

from orchestrator import Agent, Breaker, Cached, Concurrency, Constant, Context, RateLimit, Retry, Spend, agent
from orchestrator.agent import Flag, agents, load_agents
from orchestrator.errors import AgentsNotFound, DuplicateName, InvalidAgent, InvalidInput, InvalidPolicy
from orchestrator.testing import fake_context

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("registries")


class Text(BaseModel):
    """What the agents here take and give."""

    text: str = ""


class Opaque:
    """Nothing that pydantic could read."""


def length(text: str) -> int:
    return len(text)


async def awaited(text: str) -> int:
    return len(text)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], Path]]:
    """Write a module that can be imported; it is forgotten when the test is over."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)

    def write(name: str, source: str) -> Path:
        path = tmp_path / f"{name}.py"
        path.write_text(source)
        importlib.invalidate_caches()
        return path

    yield write
    for name in set(sys.modules) - before:
        del sys.modules[name]


# What can be an agent


def test_the_context_may_be_left_out() -> None:
    # given handlers with and without a context
    @agent("a.with")
    def with_context(ctx: Context, text: Text) -> Text:
        return Text(text=text.text + ctx.step)

    @agent("a.without")
    def without(text: Text) -> Text:
        return text

    # then each knows what it takes
    assert (with_context.takes_context, without.takes_context) == (True, False)
    assert (with_context.input_type, with_context.output_type) == (Text, Text)
    assert (without.input_type, without.output_type) == (Text, Text)


def test_an_agent_is_called_like_its_function() -> None:
    # given a sync and an async agent
    @agent("a.sync")
    def double(text: Text) -> Text:
        return Text(text=text.text * 2)

    @agent("a.async")
    async def mark(ctx: Context, text: Text) -> Text:
        await asyncio.sleep(0)
        return Text(text=f"{text.text}@{ctx.step}")

    # when they are called without a broker
    doubled = double(Text(text="x"))
    marked = asyncio.run(mark(fake_context(step="here"), text=doubled))

    # then they do what the functions do
    assert marked == Text(text="xx@here")
    assert (double.is_async, mark.is_async) == (False, True)


def test_an_agent_keeps_its_functions_name_and_documentation() -> None:
    @agent("a.documented", timeout=7.5)
    def summarise(text: Text) -> Text:
        """Say it in fewer words."""
        return text

    assert (summarise.__name__, summarise.__doc__) == ("summarise", "Say it in fewer words.")
    assert summarise.where.startswith(f"{__file__}:")
    assert (summarise.name, summarise.timeout, repr(summarise)) == ("a.documented", 7.5, "<agent a.documented>")


def test_any_type_that_pydantic_knows_goes_in_and_out() -> None:
    @agent("a.plain")
    def count(words: dict[str, list[int]]) -> int | None:
        return len(words) or None

    assert count.input.validate_json('{"a": ["1"]}') == {"a": [1]}
    assert count.output.dump_json(None) == b"null"


def no_input() -> Text:
    return Text()


def two_inputs(text: Text, other: Text) -> Text:
    return Text(text=text.text + other.text)


def context_alone(ctx: Context) -> Text:
    return Text(text=ctx.step)


def context_second(text: Text, ctx: Context) -> Text:
    return Text(text=text.text + ctx.step)


def many_inputs(*texts: Text) -> Text:
    return texts[0]


def keywords(**texts: Text) -> Text:
    return texts["a"]


def keyword_only(*, text: Text) -> Text:
    return text


def unannotated(text) -> Text:  # type: ignore[no-untyped-def]  # noqa: ANN001  what is wrong with it
    return text  # type: ignore[no-any-return]


def no_output(text: Text):  # type: ignore[no-untyped-def]  # noqa: ANN201  what is wrong with it
    return text


def opaque(text: Opaque) -> Text:
    return Text(text=str(text))


def opaque_output(text: Text) -> Opaque:
    raise NotImplementedError(text)


ONE_INPUT = "the handler takes an optional `ctx: Context` and one input, nothing else"


@pytest.mark.parametrize(
    ("handler", "why"),
    [
        (no_input, ONE_INPUT),
        (two_inputs, ONE_INPUT),
        (context_alone, ONE_INPUT),
        (context_second, ONE_INPUT),
        (many_inputs, ONE_INPUT),
        (keywords, ONE_INPUT),
        (keyword_only, ONE_INPUT),
        (unannotated, "annotate the input 'text' with a pydantic model"),
        (no_output, "annotate the output: `-> SomeModel`"),
        (opaque, "pydantic cannot handle"),
        (opaque_output, "pydantic cannot handle"),
    ],
)
def test_a_handler_that_cannot_be_an_agent_is_an_error_that_names_the_file(
    handler: Callable[..., Text], why: str
) -> None:
    with pytest.raises(InvalidAgent) as invalid:
        agent("a.bad")(handler)

    message = str(invalid.value)
    assert message.startswith(f"agent 'a.bad' ({__file__}:")
    assert why in message
    assert len(message.splitlines()) == 1
    assert agents() == {}


class Handler:
    """Can be called, yet is no function."""

    def __call__(self, text: Text) -> Text:
        return text


@pytest.mark.parametrize("handler", [functools.partial(two_inputs, Text()), Handler(), Handler, len])
def test_what_is_no_plain_function_cannot_be_an_agent(handler: Callable[..., Text]) -> None:
    with pytest.raises(InvalidAgent, match="plain function"):
        agent("a.bad")(handler)


def plain(text: Text) -> Text:
    return text


@pytest.mark.parametrize(
    "name",
    [
        *("", "Upper", "9first", ".dot", "-dash", "with space", "with/slash", "ümlaut", "new\nline", "x" * 101, "a|b"),
        *("orchestrator", "celery"),
    ],
)
def test_a_name_that_does_not_fit_is_refused(name: str) -> None:
    with pytest.raises(InvalidAgent, match="a name is lower-case letters"):
        agent(name)(plain)


@pytest.mark.parametrize("name", ["a", "moderation.classify", "a-b_c.d9", "x" * 100])
def test_a_name_that_fits_is_the_agents(name: str) -> None:
    made = agent(name)(plain)

    assert agents() == {name: made}


def test_an_option_that_there_is_not_is_refused_by_name() -> None:
    # A slip of the pen must not take all protection away.
    with pytest.raises(InvalidAgent, match=r"there is no option fallbacks, retires \(known: timeout, idle, "):
        agent("a", retires=Retry(), fallbacks=[])(lambda text: text)  # type: ignore[call-arg]  # what is wrong with it


@pytest.mark.parametrize("timeout", [0, -1.0, float("nan"), float("inf")])
def test_a_timeout_is_a_number_of_seconds(timeout: float) -> None:
    with pytest.raises(InvalidAgent, match="timeout must be"):
        agent("a.bad", timeout=timeout)(plain)


# Registering


def test_two_functions_with_one_name_are_an_error_that_names_both_files(module: Callable[[str, str], Path]) -> None:
    # given an agent of another module
    source = "from orchestrator import agent\n\n@agent('shop.price')\ndef price(x: int) -> int:\n    return x\n"
    other = module("first_shop", source)
    importlib.import_module("first_shop")

    # when a second one takes its name
    with pytest.raises(DuplicateName) as duplicate:

        @agent("shop.price")
        def price(text: Text) -> Text:
            return text

    # then both places are named
    assert f"{other}:3" in str(duplicate.value)
    assert f"{__file__}:" in str(duplicate.value)
    assert "rename one" in str(duplicate.value)


def test_a_module_imported_a_second_time_is_no_second_agent(module: Callable[[str, str], Path]) -> None:
    # given a module that has been imported
    source = "from orchestrator import agent\n\n@agent('shop.price')\ndef price(x: int) -> int:\n    return x\n"
    path = module("shop", source)
    first = importlib.import_module("shop")

    # when the same file is imported again, as `python -m` does under another name
    spec = importlib.util.spec_from_file_location("shop_again", path)
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    importlib.reload(first)

    # then there is one agent
    assert list(agents()) == ["shop.price"]


def test_a_type_imported_for_type_checking_alone_is_an_error_that_says_so(module: Callable[[str, str], Path]) -> None:
    # given a module whose agent takes a type that is not there when it runs
    path = module(
        "shop",
        "from __future__ import annotations\n"
        "from typing import TYPE_CHECKING\n"
        "from orchestrator import agent\n"
        "if TYPE_CHECKING:\n"
        "    from decimal import Decimal\n"
        "@agent('shop.price')\n"
        "def price(x: Decimal) -> int:\n"
        "    return 1\n",
    )

    # when it is loaded
    with pytest.raises(InvalidAgent) as invalid:
        load_agents(["shop"])

    # then the message names file, type and remedy
    assert f"{path}:6" in str(invalid.value)
    assert "Decimal" in str(invalid.value)
    assert "import the type outside `if TYPE_CHECKING`" in str(invalid.value)


@pytest.mark.parametrize(
    ("source", "why"),
    [
        (None, "ModuleNotFoundError: No module named 'shop'"),
        ("import nothing_of_the_kind", "ModuleNotFoundError: No module named 'nothing_of_the_kind'"),
        ("def broken(:\n    pass", "SyntaxError"),
        ("raise ValueError('first line\\nsecond line')", "ValueError: first line second line"),
    ],
)
def test_a_module_that_cannot_be_imported_is_an_error_that_says_why(
    module: Callable[[str, str], Path], source: str | None, why: str
) -> None:
    # given a module that cannot be imported
    module("other" if source is None else "shop", source or "")

    # when it is loaded
    with pytest.raises(AgentsNotFound) as not_found:
        load_agents(["shop"])

    # then one line names it, and what to do
    message = str(not_found.value)
    assert message.startswith("cannot import 'shop', named in CELERIAC_AGENTS")
    assert why in message
    assert "correct the name" in message
    assert len(message.splitlines()) == 1


def test_agents_are_given_in_the_order_of_their_names_and_cannot_be_added_to() -> None:
    for name in ("b", "a", "c"):
        agent(name)(plain)

    found = agents()
    found.clear()

    assert list(agents()) == ["a", "b", "c"]
    assert all(isinstance(one, Agent) for one in agents().values())


# The context


def test_the_idempotency_key_is_the_same_for_every_attempt_and_another_for_every_revision() -> None:
    first, again = fake_context(step="s", attempt=1), fake_context(step="s", attempt=2)
    revised, elsewhere = fake_context(step="s", revision=1), fake_context(step="t")

    assert first.idempotency_key == again.idempotency_key
    assert len({first.idempotency_key, revised.idempotency_key, elsewhere.idempotency_key}) == 3


def test_what_remains_until_the_deadline_is_never_below_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    context = Context(run_id="r", flow="f", step="s", deadline=100.0)

    for now, remaining in ((90.0, 10.0), (100.0, 0.0), (110.0, 0.0)):
        monkeypatch.setattr(time, "monotonic", lambda now=now: now)
        assert context.remaining() == remaining


def test_a_context_is_cancelled_when_the_worker_says_so() -> None:
    cancelled = Flag()
    context = Context(run_id="r", flow="f", step="s", _cancelled=cancelled)
    assert not context.cancelled

    cancelled.set()

    assert context.cancelled


def test_a_fake_context_is_what_a_worker_would_make() -> None:
    context = fake_context(feedback=("shorter",), draft=Text(text="long"), tags={"a": "b"}, tenant="acme")

    assert (context.feedback, context.draft, context.tags) == (("shorter",), Text(text="long"), {"a": "b"})
    assert (context.tenant, context.attempt, context.revision, context.cancelled) == ("acme", 1, 0, False)
    assert context.remaining() == float("inf")


@pytest.mark.parametrize(
    ("policies", "reason"),
    [
        ({"timeout": "1"}, "timeout must be above 0 s and finite, not '1'"),
        ({"timeout": True}, "timeout must be above 0 s and finite, not True"),
        ({"idle": 0.0}, "idle must be above 0 s and finite"),
        ({"idle": "1"}, "idle must be above 0 s and finite, not '1'"),
        ({"deadline": [1]}, "deadline must be above 0 s and finite, not"),
        ({"deadline": -1.0}, "deadline must be above 0 s and finite"),
        ({"retry": 3}, r"retry takes Retry\(...\), not 3"),
        ({"breaker": ["x"]}, r"breaker takes Breaker\(...\), not 'x'"),
        ({"breaker": None}, r"breaker takes Breaker\(...\), or a list of them, not None"),
        ({"breaker": "x"}, r"breaker takes Breaker\(...\), or a list of them, not 'x'"),
        ({"rate": 3}, r"rate takes RateLimit\(...\), or a list of them, not 3"),
        ({"rate": [60]}, r"rate takes RateLimit\(...\), not 60"),
        ({"concurrency": 10}, r"concurrency takes Concurrency\(...\), not 10"),
        ({"concurrency": [Concurrency(total=1)]}, r"concurrency takes Concurrency\(...\), not \["),
        ({"fallback": Constant(1)}, r"fallback takes a list of rungs, such as \[Constant\(value=1\)\], not Constant"),
        ({"fallback": "unit.other"}, r"fallback takes a list of rungs, such as \['unit.other'\], not 'unit.other'"),
        ({"fallback": [5]}, r"a fallback is an agent, its name, Cached\(...\) or Constant\(...\), not 5"),
        ({"fallback": ["unit.policies"]}, "it cannot be its own fallback"),
        ({"fallback": [Constant("many")]}, "is not what it gives"),
        ({"fallback": [Cached(), Cached(same_input=False)]}, "one Cached"),
        ({"estimate": "few"}, "estimate is a number of tokens"),
        ({"estimate": True}, "estimate is a number of tokens"),
        ({"breaker": [None]}, r"breaker takes Breaker\(...\), not None"),
        ({"estimate": -3}, "estimate: tokens must be 0 or more and finite, not -3"),
        ({"estimate": 10**19}, "estimate: tokens must be at most"),
        ({"estimate": lambda: 3}, "estimate is a function that takes the agent's input"),
        ({"estimate": awaited}, "estimate is a plain function"),
        (
            {"estimate": 500, "rate": RateLimit(tokens=100)},
            "its estimate is 500 tokens, and its rate limit never lets more than 100 through",
        ),
        (
            {"estimate": Spend(tokens=500), "rate": [RateLimit(tokens=1000), RateLimit(tokens=100, of="x")]},
            "its estimate is 500 tokens, and its rate limit never lets more than 100 through",
        ),
        ({"breaker": [Breaker(of="a"), Breaker(of="a")]}, "of the same dependency"),
        ({"breaker": [Breaker(), Breaker(of="unit.policies")]}, "of the same dependency"),
        ({"rate": [RateLimit(requests=1), RateLimit(tokens=1)]}, "of the same dependency"),
        ({"rate": [RateLimit(requests=1, per=1.0), RateLimit(tokens=1, per=1.0001)]}, "of the same dependency"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_a_policy_that_does_not_fit_is_refused_with_the_line(policies: dict[str, Any], reason: str) -> None:
    def count(text: str) -> int:
        return len(text)

    with pytest.raises(InvalidAgent, match=reason) as refused:
        Agent("unit.policies", count, **policies)
    assert "test_agent.py:" in str(refused.value)


def test_a_name_that_is_no_text_is_refused_with_the_line() -> None:
    def count(text: str) -> int:
        return len(text)

    with pytest.raises(InvalidAgent, match=r"test_agent.py:\d+\): a name is"):
        Agent(cast("Any", 5), count)


@pytest.mark.parametrize("given", ["few", 1.5, True, -5])
def test_an_estimate_that_is_no_amount_is_refused_with_what_it_gave(given: Any) -> None:  # noqa: ANN401  whatever it gives
    made = Agent("unit.estimated", length, estimate=lambda _: given)
    with pytest.raises(InvalidPolicy, match=rf"not {given!r}$"):
        made.expects("x")


def test_policies_become_what_the_worker_asks() -> None:
    def count(text: str) -> int:
        return len(text)

    made = Agent(
        "unit.guarded",
        count,
        breaker=Breaker(of="provider"),
        rate=[RateLimit(requests=5), RateLimit(tokens=100, per=1.0)],
        concurrency=Concurrency(total=2),
        fallback=["unit.other", Constant(7)],
        estimate=lambda text: len(text) * 2,
    )
    assert [(guard.kind, guard.name) for guard in made.guards(fallback=True)] == [
        ("breaker", "provider"),
        ("rate", "unit.guarded"),
        ("rate", "unit.guarded"),
        ("concurrency", "unit.guarded"),
    ]
    # a breaker that is open lets wait only where there is nothing to fall back to
    assert [made.guards(fallback=left)[0].waits for left in (False, True)] == [True, False]
    assert made.fallback_agents == ("unit.other",)
    assert made.expects("abc") == Spend(tokens=6)
    assert made.constant(Constant(7)) == b"7"


def test_a_context_adds_up_what_is_spent_and_refuses_what_is_no_amount() -> None:
    ctx = fake_context()
    ctx.spend(tokens=5)
    ctx.spend(tokens=2, cost=0.5)
    assert ctx.spent == Spend(tokens=7, cost=0.5)
    for amounts, why in (
        ({"tokens": -1}, "tokens must be 0 or more"),
        ({"tokens": 10**15}, "tokens must be at most 1,000,000,000,000,000"),
        ({"tokens": 10**400}, "tokens must be at most"),
        ({"tokens": "7"}, "tokens must be 0 or more and finite, an int or a float, not '7'"),
        ({"tokens": None}, "tokens must be 0 or more and finite, an int or a float, not None"),
        ({"cost": Decimal("0.5")}, r"cost must be 0 or more and finite, an int or a float, not Decimal\('0.5'\)"),
    ):
        with pytest.raises(InvalidInput, match=why) as refused:
            ctx.spend(**cast("Any", amounts))
        assert "test_agent.py:" in str(refused.value)
    assert ctx.spent == Spend(tokens=7, cost=0.5)
    ctx.heartbeat()  # of an agent without an idle limit it is nothing


def test_a_child_run_is_submitted_once_for_a_key() -> None:
    ctx = fake_context()
    assert ctx.submit("flow", {"text": "x"}) == ctx.submit("flow", {"text": "x"})
    assert ctx.submit("flow", {"text": "x"}, key="another") != ctx.submit("flow", {"text": "x"})
