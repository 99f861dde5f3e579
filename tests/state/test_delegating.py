"""What users' code around a fan-out does to the step it is asked in: routers, joins, validators, large results."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest
from pydantic import BaseModel, field_validator

from orchestrator import (
    AgentFailed,
    Assignment,
    Constant,
    Context,
    Hierarchy,
    Join,
    Pipeline,
    Plan,
    Results,
    RunFailed,
    Specialist,
    agent,
)
from orchestrator.state import keys
from tests.servers import on_valkey, wait_until
from tests.state import flows
from tests.state.invariants import look, problems
from tests.state.test_client import messages
from tests.state.test_execution import deliver

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis import Redis

    from orchestrator import Client
    from orchestrator.client import Run

    Deliver = Callable[[Run, str], Any]

__all__ = ["deliver"]  # a fixture
pytestmark = on_valkey


class Ask(BaseModel):
    """What a boss takes: what its specialists are to say, and what it answers itself."""

    texts: list[str] = []
    answer: str | None = None


class Said(BaseModel):
    """What a specialist takes and gives."""

    text: str

    @field_validator("text")
    @classmethod
    def _odd(cls, value: str) -> str:
        if value == "slow":
            told(value)
        return {"odd": {}}.get(value, {"text": value})["text"]  # a KeyError, which pydantic lets through


class Loud(BaseModel):
    """What fits nobody."""

    text: str

    @field_validator("text")
    @classmethod
    def _never(cls, value: str) -> str:
        raise LookupError(value)


@agent("state.boss")
def boss(ask: Ask) -> Plan | Said:
    """Give out, or answer."""
    if ask.answer is not None:
        return Said(text=ask.answer)
    return Plan([Assignment(to=text.partition(":")[0] or None, input=_input(text)) for text in ask.texts])


def _input(text: str) -> dict[str, Any]:
    to, _, said = text.partition(":")
    return {"answer": said} if to == "inner" else {"text": said}


@agent("state.say")
def say(said: Said) -> Said:
    """Pass on."""
    return said


@agent("state.fails", fallback=[Constant({"text": "good"})])
def fails(said: Said) -> Said:
    """Fail."""
    raise RuntimeError(said.text)


@agent("state.boasts", fallback=[Constant({"text": "x" * (20 << 20)})])
def boasts(said: Said) -> Said:
    """Fail."""
    raise RuntimeError(said.text)


@agent("state.starts")
def starts(ctx: Context, said: Said) -> Said:
    """Start a run."""
    return Said(text=ctx.submit("state-says", said))


@agent("state.loud")
def loud(said: Said) -> Loud:
    """Give what does not fit."""
    return cast("Loud", {"text": said.text})  # which is yet to be validated


@agent("state.join")
def put_together(results: Results[Ask, Said]) -> Said:
    """Put it together."""
    taken = f", took {results.accepted.text}" if results.accepted else ""
    return Said(text=" ".join(f"{one.worker}={one.status}" for one in results.outcomes) + taken)


asked: list[Callable[[], object]] = []
"""What routers, joins and validators of these tests do once when they are asked."""
judged: list[str] = []


def judge(said: Said) -> bool:
    judged.append(said.text)
    return False


def told(_: object) -> bool:
    while asked:
        asked.pop()()
    return False


def route(_: Assignment, __: tuple[str, ...]) -> str:
    told(_)
    return "say"


inner = Hierarchy("state-inner", boss=boss, workers=[say], synthesize=put_together)
accepting = Hierarchy(
    "state-accepting",
    boss=boss,
    workers=[say, fails, Specialist(inner, name="inner")],
    synthesize=put_together,
    join=Join(accept=lambda said: said.text == "good"),
)
judging = Hierarchy("state-judging", boss=boss, workers=[say], synthesize=put_together, join=Join(accept=told))
routing = Hierarchy("state-routing", boss=boss, workers=[say], synthesize=put_together, router=route)
plain = Hierarchy(
    "state-plain", boss=boss, workers=[say, loud, starts], synthesize=put_together, join=Join(otherwise="degrade")
)


followed = Hierarchy(
    "state-followed",
    boss=boss,
    workers=[Specialist(Pipeline("state-ends", [inner, say]), name="inner")],
    synthesize=put_together,
    join=Join(accept=judge),
)
saying, shouting, boasting = (Pipeline(f"state-{one.name[6:]}s", [one]) for one in (say, loud, boasts))


def _until_renewed(run: Run, step: str, redis_client: Redis) -> Callable[[], None]:
    leases, entry = keys.leases(keys.shard_of(run.id)), f"{run.id}/{step}"

    def wait() -> None:
        expiry = redis_client.zscore(leases, entry)
        assert expiry is not None
        wait_until(lambda: redis_client.zscore(leases, entry) != expiry, 10, "the lease is renewed")

    return wait


@pytest.fixture(autouse=True)
def _asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked.clear()
    judged.clear()
    names = [f"state.{name}" for name in ("boss", "say", "fails", "boasts", "starts", "loud", "join")]
    monkeypatch.setattr(flows, "QUEUES", (*flows.QUEUES, *names))


@pytest.mark.parametrize(("flow", "before", "step"), [(routing, (), "boss"), (judging, ("boss",), "say#1")])
def test_a_router_and_a_join_hold_the_lease_while_they_are_asked(
    client: Client, deliver: Deliver, redis_client: Redis, flow: Hierarchy, before: tuple[str, ...], step: str
) -> None:
    # given one that takes so long that the lease has to be renewed
    run = client.submit(flow, Ask(texts=[":x" if flow is routing else "say:x"]))
    for each in before:
        deliver(run, each)
    asked.append(_until_renewed(run, step, redis_client))

    # when it is asked
    deliver(run, step)

    # then the step is not lost meanwhile
    assert asked == []
    found = run.state().step(step)
    assert found is not None
    assert found.status == "completed"
    assert problems(look(client.store, run.id)) == []


def test_what_many_have_given_is_gathered_under_the_lease(
    client: Client, deliver: Deliver, redis_client: Redis
) -> None:
    # given results that take so long to be read that the lease has to be renewed
    run = client.submit(plain, Ask(texts=["say:slow"]))
    deliver(run, "boss")
    deliver(run, "say#1")
    asked.append(_until_renewed(run, "join", redis_client))

    # when they are gathered
    deliver(run, "join")

    # then the step is not lost meanwhile
    assert asked == []
    assert run.result(timeout=1.0).text == "say=ok"


@pytest.mark.parametrize(
    ("text", "step"), [("inner:good", "inner#1/boss"), ("fails:x", "fails#1"), ("say:good", "say#1")]
)
def test_the_first_acceptable_answer_is_enough_whoever_gave_it(
    client: Client, deliver: Deliver, text: str, step: str
) -> None:
    # given an inner boss that answers itself, a fallback's value, or a specialist, and another that is not acceptable
    run = client.submit(accepting, Ask(texts=[text, "say:bad"]))
    deliver(run, "boss")

    # when it has answered
    deliver(run, step)

    # then nobody else is asked, and the run goes on
    fan = run.state().fans["join"]
    assert fan.verdict == "accepted"
    deliver(run, "join")
    assert run.result(timeout=1.0).text.endswith(", took good")
    assert problems(look(client.store, run.id)) == []


def test_an_inner_boss_whose_answer_is_not_the_members_is_not_judged_by_the_join(
    client: Client, deliver: Deliver
) -> None:
    # given an inner hierarchy with a stage behind it
    run = client.submit(followed, Ask(texts=["inner:x"]))
    deliver(run, "boss")

    # when its boss answers
    deliver(run, "inner#1/state-inner/boss")

    # then the join is asked about what comes of the last stage alone
    assert judged == []
    deliver(run, "inner#1/say")
    assert judged == ["x"]


@pytest.mark.parametrize(
    ("flow", "text", "reason"),
    [
        ("takes", "odd", r"the input does not fit agent 'state\.say': KeyError: 'text'"),
        ("gives", "x", r"agent 'state\.loud' returned what it does not declare: LookupError: x"),
    ],
)
def test_a_validator_that_raises_anything_fails_its_step_with_the_reason(
    client: Client, deliver: Deliver, flow: str, text: str, reason: str
) -> None:
    # given an input, or an output, whose validator raises what pydantic lets through
    run = client.submit(saying if flow == "takes" else shouting, {"text": "x"})
    if flow == "takes":
        client.store.client.hset(keys.data(run.id), "input", b'{"text": "%s"}' % text.encode())

    # when its step is executed
    with pytest.raises(AgentFailed, match=reason):
        deliver(run, run.state().steps[0].name)

    # then its run tells why, instead of trying until its attempts are used up
    with pytest.raises(RunFailed, match=reason):
        run.result(timeout=1.0)


def test_an_answer_whose_value_is_gone_fails_the_step_that_joins_with_the_reason(
    client: Client, deliver: Deliver, redis_client: Redis
) -> None:
    # given a large answer that was evicted
    large = "x" * (client.settings.claim_check_bytes + 1)
    run = client.submit(plain, Ask(texts=[f"say:{large}"]))
    deliver(run, "boss")
    deliver(run, "say#1")
    redis_client.delete(*redis_client.keys(f"{keys.run(run.id)}:blob:say#1@*"))

    # when it is to be read
    with pytest.raises(AgentFailed, match="noeviction"):
        deliver(run, "join")

    # then the run tells why
    with pytest.raises(RunFailed, match="noeviction"):
        run.result(timeout=1.0)


def test_what_follows_an_assignment_whose_input_is_gone_follows_at_once(
    client: Client, deliver: Deliver, redis_client: Redis
) -> None:
    # given an assignment whose large input was evicted
    large = "x" * (client.settings.claim_check_bytes + 1)
    run = client.submit(plain, Ask(texts=[f"say:{large}"]))
    deliver(run, "boss")
    redis_client.delete(*redis_client.keys(f"{keys.run(run.id)}:blob:say#1<*"))

    # when it is to be done
    with pytest.raises(AgentFailed, match="noeviction"):
        deliver(run, "say#1")

    # then who puts together what there is does not wait for a message that nobody has sent
    assert messages(redis_client, "state.join") == 1
    deliver(run, "join")
    assert run.result(timeout=1.0).text == "say=failed"
    assert problems(look(client.store, run.id)) == ["the value say#1< cannot be read"]


def test_a_fallbacks_value_that_is_too_large_is_passed_over(client: Client, deliver: Deliver) -> None:
    # given a constant that is larger than what may be stored
    run = client.submit(boasting, {"text": "x"})

    # when the agent fails
    with pytest.raises(AgentFailed, match="RuntimeError: x"):
        deliver(run, "boasts")

    # then the run tells why it failed
    with pytest.raises(RunFailed, match="RuntimeError: x"):
        run.result(timeout=1.0)


def test_a_worker_that_has_a_specialist_alone_does_its_work(
    client: Client, deliver: Deliver, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a worker whose modules hold the agent and not the hierarchy
    run = client.submit(plain, Ask(texts=["say:x"]))
    judged_run = client.submit(judging, Ask(texts=["say:x"]))
    for one in (run, judged_run):
        deliver(one, "boss")
    monkeypatch.setattr("orchestrator.patterns.flow._flows", {})

    # when it executes a member, then that is done where the join asks for no more than that
    deliver(run, "say#1")
    found = run.state().step("say#1")
    assert found is not None
    assert found.outcome == "ok"
    # and where it does, the reason says what to do
    with pytest.raises(AgentFailed, match=r"does not know flow 'state-judging'.*CELERIAC_AGENTS"):
        deliver(judged_run, "say#1")


def test_a_step_that_cannot_be_executed_says_why_instead_of_being_begun_again(
    client: Client, deliver: Deliver, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given something in the worker that nobody has thought of
    def broken(*_: object, **__: object) -> None:
        raise KeyError("unthought-of")

    monkeypatch.setattr("orchestrator.runtime.step.Guarding", broken)
    run = client.submit(saying, {"text": "x"})

    # when the step is delivered, then its run says why
    with pytest.raises(AgentFailed, match="it cannot be executed: KeyError: 'unthought-of'"):
        deliver(run, "say")
    assert run.status() == "failed"


def test_what_a_step_starts_knows_whose_it_is(client: Client, deliver: Deliver) -> None:
    # given a member that starts a run
    run = client.submit(plain, Ask(texts=["starts:x"]))
    deliver(run, "boss")
    # when it is executed
    deliver(run, "starts#1")
    # then that run can end with it
    child = client.get(client.store.children(run.id)[0])
    assert (child.state().parent, child.state().parent_step) == (run.id, "starts#1")
    child.cancel()
