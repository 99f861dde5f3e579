"""Conversations in Redis, without workers: who is told what, who waits for whom, how they end, what is left behind."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from orchestrator.conversation.ends import Concluded, Consensus, Deadline, MaxTurns, Silence, Spent
from orchestrator.conversation.transcript import lines, spoken
from orchestrator.messages import Member, PlanStep, Terms, Woken
from orchestrator.state import keys
from orchestrator.state.boards import Author, Boards, Put
from orchestrator.state.fan_outs import FanOuts
from orchestrator.state.fold import fold
from orchestrator.state.fold_board import fold_board
from orchestrator.state.runs import Refused, RunStore
from tests.servers import no_key_left_without_ttl_or_declaration, wait_until
from tests.state.talking import (
    TALK,
    TASK,
    Said,
    Stage,
    accept,
    ask,
    begin,
    conclude,
    invite,
    leave,
    peer,
    propose,
    reject,
    resolve,
    rules,
    step_of,
    submit,
    tell,
    vote,
)
from tests.state.test_boards import rules as board_rules
from tests.state.test_boards import source

if TYPE_CHECKING:
    from collections.abc import Iterator

    from redis import Redis

    from orchestrator import Settings
    from orchestrator.conversation.ends import End
    from orchestrator.messages import ConversationRules, PeerRules


@pytest.fixture
def store(redis_client: Redis, settings: Settings) -> Iterator[RunStore]:
    """A store; what it leaves behind is looked at."""
    store = RunStore(redis_client, settings.model_copy(update={"max_attempts": 2, "claim_check_bytes": 2000}))
    yield store
    no_key_left_without_ttl_or_declaration(redis_client)


def stage(store: RunStore, *members: Any, **more: Any) -> Stage:  # noqa: ANN401
    return Stage(store, submit(store, rules(*members, **more)))


def outside(body: bytes) -> dict[str, Any]:
    return {"by": "bob", "said": '{"kind":"tell","to":["b"]}', "body": body, "dispatch_ms": 1000}


def nothing_is_left(talk: Stage) -> None:
    """Of a run that has ended nothing is in an index, and all its keys expire."""
    shard = keys.shard_of(talk.run)
    for index in (keys.ready(shard), keys.leases(shard), keys.timers(shard)):
        left = [entry.decode() for entry in cast("list[bytes]", talk.store.client.zrange(index, 0, -1))]
        assert [entry for entry in left if entry.startswith(talk.run)] == []
    for key in talk.store.client.scan_iter(match=f"{keys.run(talk.run)}*"):
        assert talk.store.client.pttl(key) > 0, key


# Mail


def test_who_opens_it_is_told_the_task(store: RunStore) -> None:
    talk = stage(store, "a", "b", "c", opening=("a", "c"))
    assert talk.ready == ["a#1", "c#1"]
    begun = talk.begin("a#1")
    assert begun.value == TASK
    assert begun.step.mail is not None
    assert (begun.step.mail.kind, begun.step.mail.id, begun.step.mail.sender) == ("open", 1, "")
    assert begun.step.mail.to == ("a", "c")
    assert talk.now().peers["b"].turn is None


def test_a_member_handles_its_mail_in_order_and_one_at_a_time(store: RunStore) -> None:
    talk = stage(store, "a", "b", "c")
    talk.turn("a#1", tell(["b", "c"], b"2"), tell("b", b"3"), tell("b", b"4"))
    assert talk.ready == ["b#1", "c#1"]
    assert talk.mail("b") == (3, 4)
    # another's message comes behind
    talk.turn("c#1", tell("b", b"5"))
    seen = []
    for number in range(1, 5):
        assert [name for name in talk.ready if name.startswith("b#")] == [f"b#{number}"]
        begun = talk.begin(f"b#{number}")
        seen.append(begun.value)
        assert talk.ready == []
        talk.speak(begun)
    assert seen == [b"2", b"3", b"4", b"5"]
    assert talk.result["outcome"] == "quiet"
    nothing_is_left(talk)


def test_a_message_from_one_turn_is_there_only_when_the_turn_is_committed(store: RunStore) -> None:
    talk = stage(store, "a", "b")
    begun = talk.begin("a#1")
    assert talk.now().messages == 1
    assert talk.ready == []
    # when its worker dies, nothing was said, and it begins again
    store.client.zadd(keys.leases(keys.shard_of(talk.run)), {keys.member(talk.run, "a#1"): 1})
    assert store.lost(talk.run, "a#1").what == "ready"
    assert talk.speak(begun, tell("b")).what == "stale"
    assert talk.now().messages == 1
    assert talk.turn("a#1", tell("b")).what == "joins"
    assert talk.now().messages == 2
    assert talk.ready == ["b#1"]


def test_a_failed_attempt_says_nothing(store: RunStore) -> None:
    talk = stage(store, "a", "b")
    begun = talk.begin("a#1")
    store.postpone(begun, 0, "503")
    talk.ring_until("ready", "a#1")
    again = talk.begin("a#1")
    assert talk.speak(begun, tell("b")).what == "stale"
    talk.speak(again, tell("b", b"7"))
    assert talk.begin("b#1").value == b"7"
    assert talk.now().messages == 2


def test_the_same_commit_sent_again_says_nothing_again(store: RunStore) -> None:
    talk = stage(store, "a", "b")
    begun = talk.begin("a#1")
    first = talk.speak(begun, tell("b"), propose())
    before = talk.now()
    assert talk.speak(begun, tell("b"), propose()) == first
    assert talk.now() == before
    # also where it was the end of it all
    last = talk.begin("b#1")
    assert talk.speak(last) == talk.speak(last)
    nothing_is_left(talk)


def test_the_same_question_sent_again_is_asked_once(store: RunStore) -> None:
    talk = stage(store, "a", "b")
    begun = talk.begin("a#1")
    assert talk.speak(begun, tell("b"), ask("b")).what == "asked"
    before = talk.now()
    assert talk.speak(begun, tell("b"), ask("b")).what == "asked"
    assert talk.now() == before
    talk.turn("b#1")
    talk.reply("b#2")
    # and once it has gone on, it is another's
    assert talk.ready == ["a#1"]
    assert talk.speak(begun, tell("b"), ask("b")).what == "asked"
    again = talk.begin("a#1")
    assert (again.step.asked, again.step.said) == ((3,), 2)
    assert talk.speak(begun, tell("b"), ask("b")).what == "stale"
    talk.speak(again)
    assert talk.result["messages"] == 4


def test_what_is_said_from_outside_is_mail_like_any_other_and_said_once(store: RunStore) -> None:
    talk = stage(store, "a", "b")
    assert talk.say(["a", "b"]) == ("said", "2")
    assert talk.ready == ["a#1", "b#1"]
    letter = talk.begin("b#1").step.mail
    assert letter is not None
    assert (letter.sender, letter.kind, letter.hops) == ("~ann", "tell", 0)
    facts, body = tell("b", b"3")
    call = outside(body)
    assert facts["to"] == ["b"]
    first = store.scripts.talk_say(talk.run, TALK, nonce="x", **call)
    assert talk.say("b") == ("said", "4")
    # the same call sent again says nothing more, whatever others have said since
    assert store.scripts.talk_say(talk.run, TALK, nonce="x", **call)[:2] == first[:2] == [b"said", b"3"]
    assert talk.now().messages == 4


def test_a_call_from_outside_that_ended_it_gets_the_same_answer_again(store: RunStore) -> None:
    talk = stage(store, "a", "b", max_turns=1)
    call = outside(b"3")
    first = store.scripts.talk_say(talk.run, TALK, nonce="x", **call)
    assert talk.result["outcome"] == "limit"
    assert store.scripts.talk_say(talk.run, TALK, nonce="x", **call)[:2] == first[:2] == [b"said", b"2"]
    # and another one is told that it is over
    assert talk.say("a")[0] == "closed"


def test_outside_nobody_is_heard_before_it_opens_or_after_its_end(store: RunStore) -> None:
    run = submit(store, PlanStep(name="first", agent="x"), rules("a"), PlanStep(name="last", agent="x"))
    talk = Stage(store, run)
    assert talk.say("a")[0] == "gone"
    assert Stage(store, run, "last").say("a")[0] == "gone"
    store.commit(begin(store, run, "first"), b'{"x":1}')
    assert talk.say("a")[0] == "said"
    talk.turn("a#1")
    talk.turn("a#2")
    assert talk.say("a") == ("ended", "quiet")
    assert begin(store, run, "last").value.startswith(b'{"outcome":"quiet"')
    assert talk.now().status == "ended"


@pytest.mark.parametrize("wide", [True, False])
def test_to_all_or_a_topic_goes_to_who_is_there_and_to_one_who_was_named_returns(store: RunStore, wide: bool) -> None:  # noqa: FBT001
    talk = stage(store, "a", "b", peer("c", present=False))
    talk.turn("a#1", tell(["b", "c"], wide=["b", "c"] if wide else []))
    assert talk.ready == (["b#1"] if wide else ["b#1", "a#2"])
    if not wide:
        assert talk.told("MessageReturned") == [{"talk": TALK, "id": 2, "to": "c", "why": "absent"}]
        begun = talk.begin("a#2")
        assert json.loads(begun.value) == {"message": 2, "kind": "tell", "to": "c", "why": "absent", "reason": ""}
        assert begun.step.mail is not None
        assert (begun.step.mail.kind, begun.step.mail.sender, begun.step.mail.re) == ("returned", "", 2)
    assert talk.now().peers["c"].mail == ()


def test_who_is_named_beside_a_topic_is_told_or_it_returns(store: RunStore) -> None:
    talk = stage(store, "a", peer("b", present=False), peer("c", present=False))
    talk.turn("a#1", tell(["b", "c"], wide=["c"]))
    assert [each["to"] for each in talk.told("MessageReturned")] == ["b"]


def test_a_member_may_go_on_by_telling_itself_as_long_as_it_has_turns(store: RunStore) -> None:
    talk = stage(store, "a", max_volleys=2, max_turns=6)
    for number in range(1, 7):
        talk.turn(f"a#{number}", tell("a"))
    assert (talk.result["outcome"], talk.told("PingPongFound")) == ("limit", [])


def test_what_returns_comes_behind_what_was_sent_before_it(store: RunStore) -> None:
    talk = stage(store, "a", peer("c", present=False))
    talk.turn("a#1", tell(["c", "a"]), tell("a"))
    assert talk.begin("a#2").step.mail.id == 2  # type: ignore[union-attr]  # it has one
    assert talk.mail("a") == (3, 4)


def test_to_nobody_is_no_mail(store: RunStore) -> None:
    talk = stage(store, "a", peer("c", present=False))
    talk.turn("a#1", tell(["c"], wide=["c"]), tell([]))
    assert talk.result["messages"] == 3


def test_returned_mail_is_for_those_who_take_it(store: RunStore) -> None:
    talk = stage(store, peer("a", returns=False), peer("b", present=False))
    talk.turn("a#1", tell("b"))
    assert talk.result["outcome"] == "quiet"
    assert [each["why"] for each in talk.told("MessageReturned")] == ["absent"]


def test_a_returned_message_does_not_return(store: RunStore) -> None:
    talk = stage(store, "a", peer("b", present=False), otherwise="degrade")
    talk.turn("a#1", tell("b"))
    store.fail(talk.begin("a#2"), "no")
    assert [(each["id"], each["why"]) for each in talk.told("MessageReturned")] == [(2, "absent"), (3, "failed")]
    assert store.load(talk.run).step(TALK).degraded  # type: ignore[union-attr]  # it has the step
    assert talk.result["messages"] == 3


def test_a_full_mailbox_gives_back_what_does_not_fit(store: RunStore) -> None:
    talk = stage(store, "a", "b", max_mail=2)
    talk.turn("a#1", *[tell("b", b"%d" % number) for number in range(5)], ask("b"))
    # one it has at hand, two wait
    assert talk.mail("b") == (3, 4)
    assert [(each["id"], each["why"]) for each in talk.told("MessageReturned")] == [
        (5, "full"),
        (7, "full"),
        (9, "full"),
    ]
    assert talk.ready == ["a#1", "b#1"]
    assert talk.talks.answers(talk.run, TALK, 9)["b"]["why"] == "full"
    talk.turn("b#1")
    assert talk.mail("b") == (4,)
    talk.turn("a#1", tell("b"))
    assert talk.mail("b") == (4, 10)


def test_what_follows_from_too_many_messages_goes_nowhere(store: RunStore) -> None:
    talk = stage(store, "a", "b", "c", max_hops=3)
    for number, name in enumerate("abc"):
        talk.turn(f"{name}#1", tell("bca"[number]))
    # the fourth in a row
    talk.turn("a#2", tell("b"))
    assert [each["why"] for each in talk.told("MessageReturned")] == ["hops"]
    assert talk.result["outcome"] == "quiet"
    assert talk.now().peers["b"].turns == 1


def test_ping_pong_is_found_and_ends(store: RunStore) -> None:
    talk = stage(store, "a", "b", "c", max_volleys=3)
    talk.turn("a#1", tell("b"))
    for step, to in (("b#1", "a"), ("a#2", "b"), ("b#2", "a")):
        talk.turn(step, tell(to))
    talk.turn("a#3", tell("b"))
    assert [(each["peers"], each["volleys"]) for each in talk.told("PingPongFound")] == [(["a", "b"], 4)]
    assert talk.result["outcome"] == "quiet"


def test_a_third_who_is_told_too_makes_it_no_ping_pong(store: RunStore) -> None:
    talk = stage(store, "a", "b", "c", max_volleys=2)
    talk.turn("a#1", tell("b"))
    for number in range(1, 6):
        talk.turn(f"b#{number}", tell("a"))
        talk.turn(f"a#{number + 1}", tell(["b", "c"]))
    assert talk.told("PingPongFound") == []


# Asking


def test_who_asks_waits_without_a_worker_and_goes_on_with_the_reply(store: RunStore) -> None:
    talk = stage(store, "a", "b")
    change = talk.turn("a#1", ask("b", b"9", within=30.0))
    assert change.ready == (("b#1", "b"),)
    waits = talk.now().peers["a"]
    assert (waits.turn, waits.waits) == ("a#1", ("b",))
    step = store.load(talk.run).step("a#1")
    assert step is not None
    assert (step.status, step.asking, step.attempt) == ("delayed", 2, 0)
    begun = talk.begin("b#1")
    assert begun.value == b"9"
    assert begun.step.mail is not None
    assert begun.step.mail.until_ms == step.due_ms
    change = talk.speak(begun, value=b'{"r":5}', says="Reply")
    assert ("a#1", "a") in change.ready
    again = talk.begin("a#1")
    assert (again.step.asked, again.step.said, again.step.asking) == ((2,), 1, None)
    answers = talk.talks.answers(talk.run, TALK, 2)
    assert (answers["b"]["body"], answers["b"]["y"]) == (b'{"r":5}', "Reply")
    talk.speak(again)
    assert talk.result["turns"] == 2
    nothing_is_left(talk)


def test_a_member_that_waits_handles_no_other_mail(store: RunStore) -> None:
    talk = stage(store, "a", "b", "c", opening=("a", "c"))
    talk.turn("a#1", ask("b"))
    talk.turn("c#1", tell("a"))
    assert talk.mail("a") == (3,)
    talk.reply("b#1")
    talk.turn("a#1")
    assert talk.ready == ["a#2"]


def test_a_large_reply_is_kept_behind_a_claim_check(store: RunStore) -> None:
    talk = stage(store, "a", "b")
    talk.turn("a#1", ask("b"))
    large = b'"' + b"x" * 5000 + b'"'
    talk.reply("b#1", large)
    assert talk.talks.answers(talk.run, TALK, 2)["b"]["body"] == large
    assert [body for _, _, body in talk.talks.transcript(talk.run, TALK, 1)] == [large]
    talk.turn("a#1")
    talk.now()  # it is compared with its log


@pytest.mark.parametrize("why", ["deadline", "declined", "failed", "absent", "left", "full", "hops", "volleys"])
def test_a_question_without_a_reply_tells_why(store: RunStore, why: str) -> None:
    more: dict[str, Any] = {"max_mail": 1} if why == "full" else {}
    more |= {"max_hops": 2} if why == "hops" else {}
    more |= {"max_volleys": 1} if why == "volleys" else {}
    talk = stage(store, "a", peer("b", present=why != "absent"), **more)
    asker, asked, step, before = "a", "b", "a#1", 1
    if why in {"hops", "volleys"}:
        talk.turn("a#1", tell("b"))
        talk.turn("b#1", tell("a"))
        step, before = "a#2", 3
    extra: list[Said] = [tell("b"), tell("b")] if why == "full" else []
    talk.turn(step, *extra, ask(asked, within=0.05 if why == "deadline" else 30.0))
    number = before + len(extra) + 1
    if why == "deadline":
        talk.ring_until("ready", step)
    elif why == "declined":
        talk.turn("b#1")
    elif why == "failed":
        store.fail(talk.begin("b#1"), "boom")
    elif why == "left":
        # it has it at hand: what waits behind it is what returns
        talk.say("b")
        talk.reply("b#1")
        talk.turn("b#2", leave())
        talk = stage(store, "a", "b", opening=("a", "b"))
        talk.begin("b#1")
        talk.turn("a#1", ask("b"))
        number = 2
        talk.speak(begin(store, talk.run, "b#1", nonce="n1"), leave())
    answer = talk.talks.answers(talk.run, TALK, number)["b"]
    assert answer["why"] == why
    assert ("boom" in answer.get("reason", "")) == (why == "failed")
    assert step in talk.ready
    talk.turn(step)
    assert talk.now().peers[asker].waits == ()


def test_a_reply_that_comes_too_late_counts_for_nothing_and_is_in_the_transcript(store: RunStore) -> None:
    talk = stage(store, "a", "b")
    talk.turn("a#1", ask("b", within=0.05))
    begun = talk.begin("b#1")
    talk.ring_until("ready", "a#1")
    talk.speak(begun, value=b'{"r":1}', says="Reply")
    assert talk.talks.answers(talk.run, TALK, 2)["b"] == {"why": "deadline"}
    assert [each["kind"] for each in talk.told("MessageSent")] == ["open", "ask", "reply"]
    talk.turn("a#1")
    assert talk.result["outcome"] == "quiet"


def test_a_question_whose_asker_has_failed_meanwhile_is_answered_to_nobody(store: RunStore) -> None:
    slow = peer("a", steps=(PlanStep(name="", agent="a", within_ms=50),))
    talk = stage(store, slow, "b", "c", opening=("a", "c"), otherwise="degrade")
    talk.turn("a#1", ask("b"))
    begun = talk.begin("b#1")
    wait_until(lambda: store.overrun(talk.run, "a#1").what == "failed", 10, "its time is over")
    talk.turn("c#1", tell("a"))
    talk.turn("a#2")
    talk.speak(begun, value=b'{"r":1}', says="Reply")
    assert talk.now().status == "ended"
    assert talk.result["outcome"] == "quiet"
    nothing_is_left(talk)


def test_a_circle_of_waiting_is_found_when_it_would_close(store: RunStore) -> None:
    talk = stage(store, "a", "b", "c")
    talk.turn("a#1", ask("b"))
    talk.turn("b#1", ask("c"))
    change = talk.turn("c#1", ask("a"))
    assert change.ready == (("c#1", "c"),)
    assert [each["peers"] for each in talk.told("WaitCycleFound")] == [["a", "b", "c"]]
    answer = talk.talks.answers(talk.run, TALK, 4)["a"]
    assert (answer["why"], answer["reason"]) == ("cycle", "c waits for a waits for b waits for c")
    talk.reply("c#1")
    talk.reply("b#1")
    talk.turn("a#1")
    assert talk.result["turns"] == 3


def test_a_member_that_asks_itself_waits_for_itself(store: RunStore) -> None:
    talk = stage(store, "a")
    talk.turn("a#1", ask("a"))
    assert talk.talks.answers(talk.run, TALK, 2)["a"]["why"] == "cycle"
    talk.turn("a#1")
    assert talk.result["turns"] == 1


def test_of_several_who_are_asked_one_may_close_a_circle(store: RunStore) -> None:
    talk = stage(store, "a", "b", "c")
    talk.turn("a#1", ask("b"))
    talk.turn("b#1", ask(["a", "c"]))
    assert talk.ready == ["c#1"]
    talk.reply("c#1")
    assert talk.ready == ["b#1"]
    answers = talk.talks.answers(talk.run, TALK, 3)
    assert ("body" in answers["c"], answers["a"]["why"]) == (True, "cycle")
    assert talk.now().peers["b"].waits == ()


def test_several_are_asked_at_once_and_all_are_awaited(store: RunStore) -> None:
    talk = stage(store, "a", "b", "c", peer("d", present=False))
    talk.turn("a#1", ask(["b", "c", "d"]))
    assert talk.now().peers["a"].waits == ("b", "c")
    talk.reply("b#1")
    assert talk.now().peers["a"].waits == ("c",)
    assert talk.ready == ["c#1"]
    talk.turn("c#1")
    answers = talk.talks.answers(talk.run, TALK, 2)
    assert ("body" in answers["b"], answers["c"]["why"], answers["d"]["why"]) == (True, "declined", "absent")
    assert talk.ready == ["a#1"]


def test_of_several_who_are_asked_as_many_as_are_needed_are_awaited(store: RunStore) -> None:
    talk = stage(store, "a", "b", "c", "d")
    talk.turn("a#1", ask(["b", "c", "d"], need=2))
    talk.reply("b#1")
    assert "a#1" not in talk.ready
    talk.turn("c#1")  # declined: it does not count
    assert "a#1" not in talk.ready
    late = talk.begin("d#1")
    talk.speak(late, value=b'{"r":1}', says="Reply")
    assert talk.ready == ["a#1"]
    # and where they cannot come, all are
    again = stage(store, "a", "b", "c")
    again.turn("a#1", ask(["b", "c"], need=2))
    again.turn("b#1")
    again.turn("c#1")
    assert again.ready == ["a#1"]


def test_who_is_asked_after_enough_have_replied_is_not_awaited_any_more(store: RunStore) -> None:
    talk = stage(store, "a", "b", "c")
    talk.turn("a#1", ask(["b", "c"], need=1))
    talk.reply("b#1")
    talk.turn("a#1", ask("b"))
    talk.reply("c#1")
    assert talk.now().peers["a"].waits == ("b",)
    assert "body" not in talk.talks.answers(talk.run, TALK, 2)["c"]


def test_to_ask_nobody_is_answered_at_once(store: RunStore) -> None:
    talk = stage(store, "a", peer("b", present=False))
    change = talk.turn("a#1", ask(["b"], wide=["b"]))
    assert change.ready == (("a#1", "a"),)
    assert talk.talks.answers(talk.run, TALK, 2) == {}
    talk.turn("a#1")
    assert talk.result["outcome"] == "quiet"


def test_a_failure_at_a_question_is_no_end(store: RunStore) -> None:
    talk = stage(store, "a", "b")
    talk.turn("a#1", ask("b"))
    store.fail(talk.begin("b#1"), "boom")
    talk.turn("a#1")
    assert talk.result["outcome"] == "quiet"
    assert not store.load(talk.run).step(TALK).degraded  # type: ignore[union-attr]  # it has the step


def test_what_a_turn_has_started_ends_where_it_fails_at_a_question(store: RunStore) -> None:
    talk = stage(store, "a", "b")
    talk.turn("a#1", ask("b"))
    begun = talk.begin("b#1")
    child = submit(store, PlanStep(name="x", agent="x"), parent=talk.run, parent_step="b#1")
    store.fail(begun, "boom")
    # the caretaker is told to look after them
    timers = keys.timers(keys.shard_of(talk.run))
    assert store.client.zscore(timers, keys.member(talk.run, "/")) is not None
    assert store.orphan(child, talk.run).what == "cancelled"
    store.leave(talk.run)
    talk.turn("a#1")
    nothing_is_left(talk)


@pytest.mark.parametrize("otherwise", ["fail", "degrade"])
def test_a_failure_at_any_other_message_ends_it_unless_it_goes_on_without(store: RunStore, otherwise: str) -> None:
    talk = stage(store, "a", "b", "c", otherwise=otherwise)
    talk.turn("a#1", tell(["b", "c"]))
    store.fail(talk.begin("b#1"), "boom")
    state = store.load(talk.run)
    if otherwise == "fail":
        assert (state.status, state.reason) == ("failed", "talk: b#1: boom")
        assert state.step("c#1").status == "cancelled"  # type: ignore[union-attr]  # it has the step
        assert talk.now().outcome == "failed"
    else:
        assert talk.ready == ["c#1", "a#2"]
        assert b'"why":"failed"' in talk.begin("a#2").value
        talk.turn("c#1")
        talk.speak(begin(store, talk.run, "a#2", nonce="n3"))
        state = store.load(talk.run)
        assert (state.status, state.step(TALK).degraded) == ("completed", True)  # type: ignore[union-attr]  # it has it
        assert state.step(TALK).reason == "b#1: boom"  # type: ignore[union-attr]  # likewise
    assert talk.now().status == "ended"
    nothing_is_left(talk)


# Who is there


def test_a_member_that_is_invited_joins_with_the_message(store: RunStore) -> None:
    talk = stage(store, "a", peer("b", present=False))
    assert not talk.now().peers["b"].present
    talk.turn("a#1", invite("b", b"7"))
    begun = talk.begin("b#1")
    assert begun.value == b"7"
    assert begun.step.mail is not None
    assert begun.step.mail.kind == "invite"
    assert talk.now().peers["b"].present
    assert talk.told("MemberJoined") == [{"talk": TALK, "peer": "b", "why": "invited by a"}]


def test_a_member_that_leaves_gives_back_what_waits_for_it_and_stands_for_nothing(store: RunStore) -> None:
    talk = stage(store, "a", "b", "c", until=Consensus(0.6))
    talk.turn("a#1", propose("b"), tell("b", b"3"), ask("b"))
    talk.turn("b#1", leave())
    assert talk.now().peers["b"].present is False
    # its own turn was ended; what came behind went back, in their order
    assert [(each["id"], each["why"]) for each in talk.told("MessageReturned")] == [(3, "left"), (4, "left")]
    assert talk.talks.answers(talk.run, TALK, 4)["b"]["why"] == "left"
    assert talk.ready == ["a#1"]
    assert talk.mail("a") == (5,)
    talk.turn("a#1")
    assert talk.begin("a#2").step.mail.re == 3  # type: ignore[union-attr]  # it has one


def test_who_leaves_while_it_has_a_turn_leaves_with_that(store: RunStore) -> None:
    talk = stage(store, "a", "b", until=Consensus(1.0))
    talk.turn("a#1", leave(), propose(), ask("b"))
    assert talk.now().peers["a"].present
    assert talk.now().peers["a"].stance == (2,)
    talk.turn("b#1", tell("a"))
    talk.turn("a#1")
    assert talk.now().peers["a"].present is False
    assert [(each["id"], each["why"]) for each in talk.told("MessageReturned")] == [(4, "left")]
    assert talk.now().peers["a"].stance == ()


def test_members_join_and_leave_by_their_conditions(store: RunStore) -> None:
    talk = stage(store, "a", peer("b", present=False, joins=MaxTurns(2)), peer("c", leaves=MaxTurns(3)))
    talk.turn("a#1", tell("a"))
    talk.turn("a#2", tell("a"))
    assert talk.now().peers["b"].present
    begun = talk.begin("b#1")
    assert (begun.value, begun.step.mail.kind) == (TASK, "open")  # type: ignore[union-attr]  # it has one
    talk.turn("a#3")
    assert talk.now().peers["c"].present is False
    talk.speak(begun)
    assert talk.result["outcome"] == "quiet"


def test_a_member_that_cannot_be_told_the_task_joins_without_it(store: RunStore) -> None:
    talk = stage(store, "a", peer("b", present=False, joins=MaxTurns(1), greeted=False))
    talk.turn("a#1", tell("a"))
    assert talk.now().peers["b"].present
    assert talk.ready == ["a#2"]


def test_a_member_that_left_by_itself_does_not_join_by_its_condition_again(store: RunStore) -> None:
    talk = stage(store, "a", peer("b", present=False, joins=MaxTurns(1)))
    talk.turn("a#1", tell("a"))
    talk.turn("b#1", leave())
    assert not talk.now().peers["b"].present
    talk.turn("a#2")
    assert talk.result["turns"] == 3


def test_a_member_that_is_invited_back_does_not_leave_by_its_condition_again(store: RunStore) -> None:
    talk = stage(store, "a", peer("b", leaves=MaxTurns(1)))
    talk.turn("a#1", tell("a"))
    assert not talk.now().peers["b"].present
    talk.turn("a#2", invite("b"))
    talk.turn("b#1")
    assert talk.now().peers["b"].present
    assert talk.result["outcome"] == "quiet"


def test_a_member_leaves_and_another_joins_by_time_alone(store: RunStore) -> None:
    talk = stage(
        store,
        "a",
        peer("b", present=False, joins=Deadline(0.05)),
        peer("c", leaves=Deadline(0.1)),
        until=Silence(30.0),
    )
    begun = talk.begin("a#1")
    wait_until(lambda: bool(talk.ring()) and talk.now().peers["b"].present, 10, "b has joined")
    assert talk.ready == ["b#1"]
    wait_until(lambda: bool(talk.ring()) and not talk.now().peers["c"].present, 10, "c has left")
    talk.speak(begun)
    assert talk.now().status == "open"


# How it ends


@pytest.mark.parametrize(
    ("until", "outcome"),
    [
        (MaxTurns(1), "turns"),
        (Consensus(0.5), "consensus"),
        (Concluded("a"), "verdict"),
        (Spent(tokens=10), "spent"),
        (Spent(cost=0.5), "spent"),
        (Spent(tokens=10, cost=100.0), "spent"),
        (MaxTurns(1) | Deadline(60.0), "turns"),
        (MaxTurns(1) & Consensus(0.5), "consensus"),
        (MaxTurns(1) & (Deadline(60.0) | Concluded("a")), "verdict"),
        (Consensus(0.5) & Concluded("a"), "verdict"),
        (MaxTurns(2), None),
        (Consensus(0.51), None),
        (Concluded("b"), None),
        (Spent(tokens=11), None),
        (MaxTurns(1) & Deadline(60.0), None),
        (MaxTurns(1) & Consensus(0.6), None),
    ],
)
def test_it_ends_when_its_condition_holds(store: RunStore, until: End, outcome: str | None) -> None:
    talk = stage(store, "a", "b", until=until)
    begun = talk.begin("a#1")
    spent = (10, 0.5)
    said = [propose("b"), conclude(b'{"v":1}')]
    talk.talks.speak(begun, b"null", asks=False, said=said, spent=spent)
    found = talk.now()
    assert found.outcome == outcome
    if outcome is None:
        assert talk.ready == ["b#1"]
        return
    result = talk.result
    assert result["outcome"] == outcome
    assert store.load(talk.run).step("b#1").status == "cancelled"  # type: ignore[union-attr]  # it has the step
    if outcome == "consensus":
        assert result["decision"] == {"message": 2, "by": "a", "type": "Word", "body": {"p": 1}}
    if outcome == "verdict":
        assert result["decision"]["body"] == {"v": 1}
    assert talk.told("ConversationEnded")[0]["late"] == 1
    nothing_is_left(talk)


def test_the_verdicts_of_several_may_be_asked_for(store: RunStore) -> None:
    talk = stage(store, "a", "b", until=Concluded("a") & Concluded("b"))
    talk.turn("a#1", conclude(b"1"), tell("b"))
    assert talk.now().status == "open"
    talk.turn("b#1", conclude(b"2"))
    assert talk.result["decision"] == {"message": 4, "by": "b", "type": "Word", "body": 2}


def test_the_verdict_is_of_whom_the_condition_names(store: RunStore) -> None:
    talk = stage(store, "a", "b", until=Concluded("a") & MaxTurns(2) | Concluded("b") & MaxTurns(9))
    talk.turn("a#1", conclude(b"1"), tell("b"))
    talk.turn("b#1", conclude(b"2"))
    assert talk.result["decision"]["body"] == 1


@pytest.mark.parametrize(
    "until", [Deadline(0.1), Silence(0.1), Deadline(0.1) | Consensus(1.0), Deadline(0.1) & MaxTurns(1)]
)
def test_it_ends_by_its_timer(store: RunStore, until: End) -> None:
    talk = stage(store, "a", "b", until=until, otherwise="degrade")
    talk.turn("a#1", tell("b"))
    begun = talk.begin("b#1")
    talk.ring_until("joined")
    assert talk.speak(begun, tell("a")).what == "late"
    assert talk.now().outcome in {"deadline", "silence"}
    assert talk.result["messages"] == 2
    nothing_is_left(talk)


def test_silence_is_counted_from_what_was_last_said(store: RunStore) -> None:
    talk = stage(store, "a", "b", until=Silence(0.3))
    talk.turn("a#1")
    assert talk.now().status == "open"  # nobody has anything to do
    said = talk.say("b")
    assert said[0] == "said"
    at_ms = talk.told("MessageSent")[-1]
    assert at_ms["id"] == 2
    talk.turn("b#1")  # which says nothing
    talk.ring_until("joined")
    last = [event for event in talk.events if event.type == "MessageSent"][-1]
    (timer,) = [event for event in talk.events if event.type == "ConversationEnded"]
    assert timer.at_ms >= last.at_ms + 300
    assert talk.result["why"] == "nothing was said for 0.3 s"


def test_silence_passes_though_somebody_is_at_work(store: RunStore) -> None:
    talk = stage(store, "a", "b", until=Silence(0.2))
    talk.turn("a#1", tell(["b", "a"]))
    first = [event.at_ms for event in talk.events if event.type == "MessageSent"][-1]
    begun = talk.begin("a#2")
    talk.begin("b#1")
    wait_until(lambda: store_now(talk) >= first + 150, 5, "most of it has passed")
    # when a turn ends that says nothing, the silence goes on
    talk.speak(begun)
    sums = talk.store.client.hget(keys.talk(talk.run, TALK), "#sums")
    assert b'"last":%d' % first in (sums or b"")
    talk.ring_until("joined")


@pytest.mark.parametrize("works", [True, False])
def test_a_silence_that_others_do_not_join_does_not_keep_it_open_for_ever(store: RunStore, works: bool) -> None:  # noqa: FBT001  drawn
    talk = stage(store, "a", "b", opening=("a", "b"), until=Silence(0.2) & MaxTurns(9))
    talk.turn("b#1")
    if works:
        begun = talk.begin("a#1")
        sums = json.loads(store.client.hget(keys.talk(talk.run, TALK), "#sums") or b"")
        wait_until(lambda: store_now(talk) > sums["last"] + 200, 5, "it has passed while somebody is at work")
        assert talk.ring() == "early"
        talk.speak(begun)
    else:
        talk.turn("a#1")
        assert talk.now().status == "open"
        talk.ring_until("joined")
    assert (talk.result["outcome"], talk.result["why"]) == ("quiet", "nobody has anything to do")
    nothing_is_left(talk)


def test_a_silence_and_a_deadline_are_both_waited_for(store: RunStore) -> None:
    talk = stage(store, "a", until=Silence(0.05) & Deadline(0.4))
    talk.turn("a#1")
    wait_until(lambda: talk.ring() == "joined", 10, "both have passed")
    assert talk.result["why"] == "nothing was said for 0.05 s; 0.4 s"


def store_now(talk: Stage) -> int:
    seconds, microseconds = talk.store.client.time()
    return int(seconds * 1000 + microseconds // 1000)


def test_it_ends_where_nobody_has_anything_to_do(store: RunStore) -> None:
    talk = stage(store, "a", "b", until=MaxTurns(9) | Deadline(60.0))
    talk.turn("a#1", tell("b"))
    talk.turn("b#1")
    result = talk.result
    assert (result["outcome"], result["turns"], result["messages"]) == ("quiet", 2, 2)
    nothing_is_left(talk)


def test_a_limit_of_turns_is_reached_in_the_middle_of_a_broadcast(store: RunStore) -> None:
    talk = stage(store, "a", "b", "c", "d", max_turns=3)
    talk.turn("a#1", tell(["b", "c", "d"]), tell("b"))
    assert talk.now().outcome == "limit"
    assert talk.result["why"] == "after 3 turns"
    assert [talk.now().peers[name].mail for name in "bcd"] == [(3,), (), (2,)]
    assert [talk.now().peers[name].turns for name in "bcd"] == [1, 1, 0]
    nothing_is_left(talk)


def test_a_limit_that_is_reached_at_its_opening_ends_it(store: RunStore) -> None:
    talk = stage(store, "a", "b", opening=("a", "b"), max_turns=1)
    begun = talk.begin("a#1")
    assert talk.ring() == "joined"
    assert talk.speak(begun).what == "late"
    assert talk.result["outcome"] == "limit"
    nothing_is_left(talk)


def test_a_run_of_as_many_steps_as_it_may_have_ends_it(store: RunStore) -> None:
    talk = stage(store, "a", "b", max_steps=2)
    talk.turn("a#1", tell("b"))
    assert talk.result["why"] == "after as many steps as a run may have"


def test_a_cancelled_run_leaves_nothing_while_members_wait(store: RunStore) -> None:
    talk = stage(store, "a", "b", "c", opening=("a", "c"), until=Deadline(30.0) | Silence(20.0))
    talk.turn("a#1", tell("b"), ask("b"))
    talk.begin("b#1")
    store.cancel(talk.run, reason="enough", by="me")
    found = talk.now()
    assert (found.status, found.outcome, found.why) == ("ended", "closed", "its run has ended")
    assert {(peer.turn, peer.waits) for peer in found.peers.values()} == {(None, ())}
    nothing_is_left(talk)
    # and so its transcript ends
    (end,) = [line for line in lines(talk.events, lambda _: {}) if line.kind == "ended"]
    assert spoken(end) == ("the end: closed", "its run has ended: enough")
    assert list(lines(talk.events, lambda _: {}, "another")) == []
    assert talk.ring() == "closed"
    assert talk.ring("a#1") == "closed"


def test_a_run_whose_deadline_has_passed_leaves_nothing_while_members_wait(store: RunStore) -> None:
    talk = Stage(store, submit(store, rules("a", "b", until=Deadline(30.0)), deadline=0.2))
    talk.turn("a#1", ask("b"))
    wait_until(lambda: store.expire(talk.run).what == "cancelled", 10, "its deadline has passed")
    assert store.load(talk.run).status == "failed"
    nothing_is_left(talk)


# How it is decided


def play(store: RunStore, said: dict[str, list[Said]], *, until: End | None = None, **more: Any) -> Stage:  # noqa: ANN401
    """Let members say something, one after the other, in one turn each."""
    weights = more.pop("weights", {})
    members = [peer(name, votes=weights.get(name, 1000)) for name in said]
    talk = stage(store, *members, opening=tuple(said), until=until, **more)
    for name, each in said.items():
        talk.turn(f"{name}#1", *each)
    talk.now()  # it is compared with its log
    return talk


# the task is message 1: what a proposes is message 2, what b does 3, what c does 4
THREE: dict[str, list[Said]] = {"a": [propose()], "b": [propose()], "c": [propose()]}


@pytest.mark.parametrize(
    ("how", "more", "weights", "wins", "tie"),
    [
        ({"by": "vote"}, {"d": [accept(3)]}, {}, 3, False),
        ({"by": "vote"}, {}, {}, 2, True),
        ({"by": "vote", "ties": "latest"}, {}, {}, 4, True),
        ({"by": "vote", "ties": "none"}, {}, {}, None, True),
        ({"by": "vote", "ties": "confidence"}, {"d": [accept(3, confidence=0.5)], "e": [accept(4)]}, {}, 3, True),
        ({"by": "vote"}, {"d": [accept(3)]}, {"c": 2500}, 4, False),
        ({"by": "vote", "weighted": False}, {"d": [accept(3)]}, {"c": 2500}, 3, False),
        ({"by": "vote", "need": 500}, {"d": [accept(3)]}, {}, None, False),
        ({"by": "vote", "need": 500}, {"d": [accept(3)], "e": [accept(3)]}, {}, 3, False),
        ({"by": "vote"}, {}, {"a": 0}, 3, True),
        ({"by": "vote"}, {"d": [vote(4, 2)]}, {}, 4, False),
        ({"by": "ranked"}, {"c": [propose(), vote(4, 3)], "d": [vote(2)], "e": [vote(3)]}, {}, 3, False),
        ({"by": "ranked"}, {}, {}, 2, True),
        ({"by": "ranked", "ties": "latest"}, {}, {}, 4, True),
        ({"by": "ranked", "ties": "none"}, {}, {}, None, True),
        ({"by": "order", "order": ["d", "b"]}, {"d": [vote()]}, {}, 3, False),
        ({"by": "order", "order": ["d", "b"]}, {"d": [accept(4)]}, {}, 4, False),
        ({"by": "order", "order": ["d"]}, {"d": [tell("a")]}, {}, None, False),
        ({"by": "confidence"}, {"d": [accept(4, confidence=0.9)]}, {}, 4, False),
        ({"by": "confidence"}, {"d": [accept(4, confidence=0.9)], "e": [accept(3, confidence=0.9)]}, {}, 3, True),
    ],
)
def test_it_is_decided_by_its_rule(
    store: RunStore,
    how: dict[str, Any],
    more: dict[str, list[Said]],
    weights: dict[str, int],
    wins: int | None,
    tie: bool,  # noqa: FBT001  a parameter of the table
) -> None:
    talk = play(store, THREE | more, resolve=resolve(**how), weights=weights, otherwise="degrade")
    while talk.ready:
        talk.turn(talk.ready[0])
    result = talk.result
    assert ((result["decision"] or {}).get("message"), result["tie"]) == (wins, tie), result["how"]
    assert store.load(talk.run).step(TALK).degraded == (wins is None)  # type: ignore[union-attr]  # it has the step


def test_the_result_says_who_dissents_and_who_abstains(store: RunStore) -> None:
    said: dict[str, list[Said]] = {"d": [], "e": [reject(2)], "f": [accept(2)]}
    talk = play(store, THREE | said, resolve=resolve("vote"), weights={"c": 0})
    result = talk.result
    assert (result["decision"]["message"], result["votes"]) == (2, {"2": 2, "3": 1})
    assert (result["dissent"], result["abstained"]) == (["b"], ["d", "e"])
    assert result["how"] == "2 of 5 votes"


def test_the_last_thing_said_is_where_a_member_stands(store: RunStore) -> None:
    talk = stage(store, "a", "b", until=Silence(60.0))
    talk.turn("a#1", propose(confidence=0.9), propose(), vote(3, 2, confidence=0.4), tell("a"))
    assert (talk.now().peers["a"].stance, talk.now().peers["a"].confidence) == ((3, 2), 0.4)
    talk.turn("a#2", reject(3), tell("a"))
    assert (talk.now().peers["a"].stance, talk.now().peers["a"].confidence) == ((2,), None)
    talk.turn("a#3", accept(3, confidence=1.0), tell("a"))
    assert (talk.now().peers["a"].stance, talk.now().peers["a"].confidence) == ((3,), 1.0)
    talk.turn("a#4", vote(confidence=0.5), tell("a"))
    assert (talk.now().peers["a"].stance, talk.now().peers["a"].confidence) == ((), None)
    talk.turn("a#5", accept(2), reject(2))
    assert talk.now().peers["a"].stance == ()


@pytest.mark.parametrize("said", [accept(9, "b", b"1"), reject(9), vote(2, 9), vote(9), accept(1, "b", b"1")])
def test_what_is_about_no_proposal_changes_nothing_and_returns(store: RunStore, said: Said) -> None:
    talk = stage(store, "a", "b")
    talk.turn("a#1", propose(), vote(2, confidence=0.5), said, tell("b"))
    peers = talk.now().peers
    assert (peers["a"].stance, peers["a"].confidence) == ((2,), 0.5)
    assert [(each["id"], each["why"]) for each in talk.told("MessageReturned")] == [(4, "proposal")]
    assert talk.begin("a#2").step.mail.kind == "returned"  # type: ignore[union-attr]  # it has one
    assert talk.begin("b#1").step.mail.id == 6  # type: ignore[union-attr]  # likewise


@pytest.mark.parametrize("how", ["vote", "ranked", "confidence", "order", "judge"])
def test_what_is_not_of_a_type_that_is_decided_is_never_the_decision(store: RunStore, how: str) -> None:
    # given a proposal that all hear, with the highest confidence, and one that can be the decision
    more: dict[str, dict[str, Any]] = {"order": {"order": ("b", "a")}, "judge": {"steps": JUDGE}}
    said: dict[str, list[Said]] = {"a": [propose(confidence=0.1)], "b": [propose(type="Note", confidence=1.0)]}
    talk = play(store, {**said, "c": []}, resolve=resolve(how, **more.get(how, {})), decides=("Word",))
    # then it is no proposal, and nobody is for it, who made it least of all
    assert talk.now().proposals == (2,)
    assert [talk.now().peers[name].stance for name in "abc"] == [(2,), (), ()]
    if how == "judge":
        begun = talk.begin("judge#1")
        assert [each["id"] for each in json.loads(begun.value)["proposals"]] == [2]
        talk.speak(begun, value=b'{"proposal":3}')
        assert store.load(talk.run).status == "failed"
    else:
        assert (talk.result["decision"]["message"], talk.result["abstained"]) == (2, ["b", "c"])
    nothing_is_left(talk)


@pytest.mark.parametrize("said", [accept(3), vote(3), vote(2, 3)])
def test_nobody_is_for_what_cannot_be_decided_and_is_told_so(store: RunStore, said: Said) -> None:
    talk = stage(store, "a", "b", decides=("Word",), until=Silence(60.0))
    talk.turn("a#1", propose(confidence=0.5), propose("b", type="Note"), said)
    assert (talk.now().peers["a"].stance, talk.now().peers["a"].confidence) == ((2,), 0.5)
    assert [each["reason"] for each in talk.told("MessageReturned")] == [
        "proposal 3 is a Note, and what is decided is Word"
    ]
    # and who is against it stands where it stood
    talk.turn("a#2", reject(3, "b", b"1"), tell("b"))
    assert (talk.now().peers["a"].stance, talk.now().peers["a"].confidence) == ((2,), 0.5)
    assert len(talk.told("MessageReturned")) == 1
    talk.turn("b#1")
    assert talk.begin("b#2").step.mail.kind == "reject"  # type: ignore[union-attr]  # it has one


def test_a_consensus_or_a_verdict_is_of_what_can_be_decided(store: RunStore) -> None:
    until = Consensus(0.5) | Concluded("a")
    talk = stage(store, "a", "b", decides=("Word", "Term"), until=until)
    talk.turn("a#1", propose(type="Note"), conclude(type="Note"), tell("a"))
    assert talk.now().status == "open"
    talk.turn("a#2", conclude(type="Term"))
    assert (talk.result["outcome"], talk.result["decision"]["type"]) == ("verdict", "Term")


def test_where_nothing_that_can_be_decided_was_proposed_the_run_says_so(store: RunStore) -> None:
    talk = play(store, {"a": [propose(type="Note")]}, resolve=resolve("vote"), decides=("Word", "Term"))
    assert str(store.load(talk.run).reason).endswith("nothing was proposed that can be decided, which is Word or Term")


def test_votes_of_those_who_are_not_there_do_not_count(store: RunStore) -> None:
    talk = stage(store, "a", "b", "c", peer("d", present=False), opening=("a", "b", "c"), until=Consensus(1.0))
    talk.turn("a#1", propose("b"))
    talk.turn("b#1", accept(2))
    talk.turn("c#1", leave())
    assert talk.now().outcome == "consensus"


def test_of_those_who_lose_the_one_with_less_sure_supporters_is_struck(store: RunStore) -> None:
    # given two with as few first places, of which the first has the less sure supporter
    said: dict[str, list[Said]] = {
        "a": [propose(), tell("a")],
        "b": [propose(confidence=0.9)],
        "c": [propose()],
        "d": [vote(5)],
    }
    talk = play(store, said, resolve=resolve("ranked", ties="confidence"))
    talk.turn("a#2", vote(2, 4, confidence=0.1))
    # then it is struck, and its vote goes on to the other, which has as many then as the third, and is surer
    assert (talk.result["decision"]["message"], talk.result["tie"]) == (4, True)


JUDGE = (PlanStep(name="", agent="judge"),)


@pytest.mark.parametrize(
    ("ruling", "wins"),
    [(b'{"proposal":3,"why":"w"}', 3), (b'{"proposal":null,"why":"w"}', None), (b'{"proposal":9}', None)],
)
def test_a_judge_decides(store: RunStore, ruling: bytes, wins: int | None) -> None:
    talk = play(store, THREE | {"d": []}, resolve=resolve("judge", steps=JUDGE), until=MaxTurns(4), otherwise="degrade")
    assert talk.now().status == "judging"
    assert talk.say("a") == ("ended", "")
    begun = talk.begin("judge#1")
    assert begun.value.startswith(b'{"why":"4 turns","proposals":[{"id":2,"by":"a"')
    talk.speak(begun, value=ruling)
    decision = talk.result["decision"]
    assert (decision and decision["message"]) == wins
    assert talk.result["outcome"] == "turns"
    nothing_is_left(talk)


@pytest.mark.parametrize("otherwise", ["fail", "degrade"])
def test_a_judge_may_fail(store: RunStore, otherwise: str) -> None:
    talk = play(store, THREE, resolve=resolve("judge", steps=JUDGE), otherwise=otherwise)
    store.fail(talk.begin("judge#1"), "boom")
    assert store.load(talk.run).status == ("failed" if otherwise == "fail" else "completed")
    assert talk.now().status == "ended"
    if otherwise == "degrade":
        assert talk.result["how"] == "its judge failed: boom"
    nothing_is_left(talk)


def test_a_judge_that_is_a_flow_is_called_once(store: RunStore) -> None:
    steps = (PlanStep(name="read", agent="r", next="rule"), PlanStep(name="rule", agent="r"))
    talk = play(store, THREE, resolve=resolve("judge", steps=steps), until=MaxTurns(3))
    talk.turn("judge#1/read", value=b"1")
    assert talk.ready == ["judge#1/rule"]
    talk.turn("judge#1/rule", value=b'{"proposal":4}')
    assert talk.result["decision"]["message"] == 4


def test_a_ruling_of_many_words_is_read(store: RunStore) -> None:
    talk = play(store, THREE, resolve=resolve("judge", steps=JUDGE))
    talk.turn("judge#1", value=b'{"proposal":4,"why":"' + b"x" * 5000 + b'"}')
    assert (talk.result["decision"]["message"], len(talk.result["note"])) == (4, 5000)


def test_a_judge_is_not_called_where_nothing_was_proposed(store: RunStore) -> None:
    talk = play(store, {"a": []}, resolve=resolve("judge", steps=JUDGE))
    state = store.load(talk.run)
    assert (state.status, state.reason) == (
        "failed",
        "talk: no decision was reached: quiet, nobody has anything to do; nothing was proposed",
    )


def test_a_run_is_cancelled_while_its_judge_is_at_work(store: RunStore) -> None:
    talk = play(store, THREE, resolve=resolve("judge", steps=JUDGE))
    begun = talk.begin("judge#1")
    store.cancel(talk.run, reason="enough", by="me")
    assert talk.speak(begun, value=b'{"proposal":2}').what == "closed"
    assert talk.now().outcome == "closed"
    nothing_is_left(talk)


def test_without_a_decision_it_fails(store: RunStore) -> None:
    talk = play(store, {"a": [tell("a")]}, resolve=resolve("vote"))
    talk.turn("a#2")
    state = store.load(talk.run)
    assert (state.status, state.failure.kind) == ("failed", "failed")  # type: ignore[union-attr]  # it has one
    assert "nothing was proposed" in (state.reason or "")
    assert talk.now().outcome == "quiet"


# In other flows, and others in it


def test_what_a_turn_gives_after_the_end_is_recorded_where_the_run_goes_on(store: RunStore) -> None:
    run = submit(store, rules("a", "b", until=MaxTurns(1)), PlanStep(name="last", agent="x"))
    talk = Stage(store, run)
    talk.say("b")
    begun = talk.begin("b#1")
    talk.turn("a#1")
    assert talk.speak(begun, tell("a"), value=b"7").what == "late"
    assert talk.speak(begun, tell("a"), value=b"7").what == "late"
    assert (talk.ready, store.value(run, "b#1@1")) == (["last"], b"7")
    assert (talk.now().messages, talk.now().outcome) == (2, "turns")


def test_a_member_may_be_a_flow_whose_steps_speak(store: RunStore) -> None:
    steps = (PlanStep(name="x", agent="a", next="y"), PlanStep(name="y", agent="a"))
    talk = stage(store, peer("a", steps=steps), "b")
    change = talk.turn("a#1/x", tell("b", b"1"), value=b"9")
    assert (change.what, change.step) == ("next", "a#1/y")
    assert talk.ready == ["a#1/y", "b#1"]
    talk.turn("b#1", tell("a"))
    assert talk.mail("a") == (3,)
    begun = talk.begin("a#1/y")
    assert begun.value == b"9"
    talk.speak(begun, ask("b"))
    talk.reply("b#2")
    talk.turn("a#1/y")
    assert talk.ready == ["a#2/x"]
    assert talk.now().peers["a"].turns == 2


def test_an_intermediate_step_of_a_member_may_end_it(store: RunStore) -> None:
    steps = (PlanStep(name="x", agent="a", next="y"), PlanStep(name="y", agent="a"))
    talk = stage(store, peer("a", steps=steps), "b", until=Consensus(0.5))
    talk.turn("a#1/x", propose("b"))
    assert talk.result["outcome"] == "consensus"
    assert store.load(talk.run).step("a#1/y").status == "cancelled"  # type: ignore[union-attr]  # it has the step
    nothing_is_left(talk)


def test_a_member_that_is_a_flow_may_wait_for_a_person(store: RunStore) -> None:
    steps = (PlanStep(name="x", agent="a", gated=True, next="y"), PlanStep(name="y", agent="a"))
    talk = stage(store, peer("a", steps=steps), "b", opening=("a", "b"))
    details = {"question": "?", "timeout_ms": 60_000, "default": "reject"}
    store.commit(talk.begin("a#1/x"), b"9", "wait", details)
    assert store.load(talk.run).status == "waiting"
    talk.turn("b#1", tell("a"))
    store.decide(talk.run, "a#1/x", "approve", by="me")
    assert talk.ready == ["a#1/y"]
    talk.turn("a#1/y")
    store.commit(talk.begin("a#2/x"), b"9", "wait", details)
    store.decide(talk.run, "a#2/x", "reject", by="me")
    assert store.load(talk.run).status == "failed"
    talk.now()  # it is compared with its log
    nothing_is_left(talk)


def test_it_ends_while_a_member_waits_for_a_person(store: RunStore) -> None:
    steps = (PlanStep(name="x", agent="a", gated=True),)
    talk = stage(store, peer("a", steps=steps), "b", opening=("a", "b"), until=Concluded("b"))
    store.commit(talk.begin("a#1/x"), b"9", "wait", {"question": "?", "timeout_ms": 60_000, "default": "reject"})
    talk.turn("b#1", conclude())
    assert talk.result["outcome"] == "verdict"
    assert store.load(talk.run).waits == 0
    talk.now()  # it is compared with its log
    nothing_is_left(talk)


def test_a_conversation_is_a_stage_of_a_pipeline(store: RunStore) -> None:
    after = PlanStep(name="last", agent="x")
    run = submit(store, PlanStep(name="first", agent="x"), rules("a", until=Deadline(30.0)), after)
    store.commit(begin(store, run, "first"), b'{"task":2}')
    talk = Stage(store, run)
    begun = talk.begin("a#1")
    assert begun.value == b'{"task":2}'
    change = talk.speak(begun)
    assert change.ready == (("last", "x"),)
    assert b'"outcome":"quiet"' in begin(store, run, "last").value
    talk.now()  # it is compared with its log


@pytest.mark.parametrize("size", [10, 5000])
def test_what_it_gives_has_the_task_however_large(store: RunStore, size: int) -> None:
    # given two conversations, of which the second is about what the first has come to
    task = json.dumps({"text": "\u00e9\n" * size}).encode()
    plan = (step_of(rules("a"), "one/talk"), step_of(rules("a"), "two/talk"))
    run = submit(store, *plan, PlanStep(name="last", agent="x"), value=task)
    Stage(store, run, "one/talk").turn("one/a#1")
    second = Stage(store, run, "two/talk").begin("two/a#1")
    assert json.loads(second.value)["task"] == json.loads(task)
    Stage(store, run, "two/talk").speak(second)
    # then whoever comes next knows what was asked
    given = json.loads(begin(store, run, "last").value)
    assert (given["outcome"], given["task"]) == ("quiet", json.loads(second.value))
    output = store.load(run).step("two/talk").output  # type: ignore[union-attr]  # it has the step
    assert json.loads(store.value(run, str(output)) or b"") == given


def test_one_that_goes_on_without_who_has_failed_says_so_in_what_it_gives(store: RunStore) -> None:
    talk = stage(store, "a", "b", otherwise="degrade")
    store.fail(talk.begin("a#1"), "boom")
    assert (talk.result["outcome"], talk.result["fault"]) == ("quiet", "a#1: boom")
    well = stage(store, "a", otherwise="degrade")
    well.turn("a#1")
    assert "fault" not in well.result


def test_two_conversations_of_a_pipeline_are_apart(store: RunStore) -> None:
    first = rules("a", "b")
    plan = (
        PlanStep(name="one/talk", agent="dinner", converses=first),
        PlanStep(name="two/talk", agent="dinner", converses=first),
    )
    run = submit(store, *plan)
    one, two = Stage(store, run, "one/talk"), Stage(store, run, "two/talk")
    one.turn("one/a#1", tell("b"))
    one.turn("one/b#1")
    assert two.ready == ["two/a#1"]
    two.turn("two/a#1")
    assert (one.now().turns, two.now().turns) == (2, 1)
    nothing_is_left(two)


# Beginning anew


def test_a_failed_conversation_begins_anew_when_it_is_redriven(store: RunStore) -> None:
    talk = stage(store, "a", "b", until=Deadline(30.0))
    talk.turn("a#1", propose("b"), tell("b"))
    store.fail(talk.begin("b#1"), "boom")
    assert store.load(talk.run).status == "failed"
    assert store.client.pttl(keys.talk(talk.run, TALK)) > 0
    assert store.redrive(talk.run, step="", value=None, agent="", deadline=60.0, by="me").what == "redriven"
    assert store.client.pttl(keys.talk(talk.run, TALK)) == -1
    now = talk.now()
    assert (now.status, now.proposals, now.turns, now.messages) == ("open", (), 1, 4)
    assert (talk.ready, now.peers["b"].mail, now.peers["a"].stance) == (["a#2"], (), ())
    talk.turn("a#2", propose("b"))
    talk.turn("b#2", accept(5))
    assert talk.result["messages"] == 6
    nothing_is_left(talk)


def test_a_conversation_that_failed_at_its_judge_begins_anew(store: RunStore) -> None:
    talk = play(store, THREE, resolve=resolve("judge", steps=JUDGE))
    store.fail(talk.begin("judge#1"), "boom")
    assert store.redrive(talk.run, step="", value=None, agent="", deadline=60.0, by="me").what == "redriven"
    assert talk.ready == ["a#2", "b#2", "c#2"]
    for name in "abc":
        talk.turn(f"{name}#2", propose())
    talk.turn("judge#2", value=b'{"proposal":%d}' % talk.now().proposals[0])
    assert talk.result["decision"]["by"] == "a"


def test_what_a_reader_sees_of_a_stale_turn_is_what_was_committed(store: RunStore) -> None:
    talk = stage(store, "a", "b")
    stale = talk.begin("a#1")
    store.postpone(stale, 0, "again")
    talk.ring_until("ready", "a#1")
    talk.turn("a#1", ask("b"))
    # a late execution of the first attempt neither speaks, nor wakes whoever waits
    assert talk.speak(stale, tell("b")).what == "stale"
    assert talk.speak(stale, ask("b")).what == "stale"
    refused = store.begin(talk.run, "a#1", agent="a", nonce="x", worker="w")
    assert isinstance(refused, Refused)
    assert refused.why == "early"
    assert talk.now().messages == 2


def test_a_server_that_is_away_says_nothing_twice(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    talk = stage(store, "a", "b")
    begun = talk.begin("a#1")
    speak, calls = store.scripts.speak, []

    def lossy(*args: Any, **more: Any) -> Any:  # noqa: ANN401
        reply = speak(*args, **more)
        calls.append(reply)
        if len(calls) == 1:
            raise RedisConnectionError("the reply is lost")
        return reply

    monkeypatch.setattr(store.scripts, "speak", lossy)
    with pytest.raises(RedisConnectionError):
        talk.speak(begun, tell("b"))
    assert talk.speak(begun, tell("b")).what == "joins"
    assert talk.now().messages == 2


# Within each other


def nested(store: RunStore, inner: ConversationRules, *others: PeerRules | str, **more: Any) -> Stage:  # noqa: ANN401
    """A conversation of which the first member is one itself, whose step is called `talk`, too."""
    member = peer("team", steps=(step_of(inner),))
    return stage(store, member, *others, **more)


def test_a_member_may_be_a_conversation(store: RunStore) -> None:
    talk = nested(store, rules("x", "y"), "b")
    inner = Stage(store, talk.run, "team#1/talk")
    assert talk.ready == ["team#1/x#1"]
    letter = talk.begin("team#1/x#1").step.mail
    assert letter is not None
    assert letter.within is not None
    assert (letter.kind, letter.within.kind, letter.within.to, letter.within.id) == ("open", "open", ("team",), 1)
    inner.speak(begin(store, talk.run, "team#1/x#1", nonce="n1"), tell("y"))
    assert (talk.now().peers["team"].turn, inner.now().peers["y"].turn) == ("team#1/talk", "team#1/y#1")
    inner.turn("team#1/y#1")
    assert inner.now().outcome == "quiet"
    assert talk.result["turns"] == 1
    nothing_is_left(talk)


def test_who_speaks_to_a_member_that_is_a_conversation_is_remembered(store: RunStore) -> None:
    # given that the turn which wakes it goes on in the same script
    inner = rules("x")
    talk = stage(store, "a", peer("team", steps=(step_of(inner),)), "b")
    talk.turn("a#1", tell("team", b"2"), tell("b", b"3"), tell("team", b"4"))
    now = talk.now()
    assert (now.messages, now.turns) == (4, 3)
    assert (now.peers["team"].turn, now.peers["team"].mail, now.peers["a"].turn) == ("team#1/talk", (4,), None)
    assert talk.begin("team#1/x#1").value == b"2"
    talk.turn("b#1")
    talk.speak(begin(store, talk.run, "team#1/x#1", nonce="n2"))
    assert talk.ready == ["team#2/x#1"]
    talk.turn("team#2/x#1")
    assert talk.result["turns"] == 4
    nothing_is_left(talk)


def test_a_conversation_can_be_asked(store: RunStore) -> None:
    talk = stage(store, "a", peer("team", steps=(step_of(rules("x", until=Concluded("x"))),)))
    talk.turn("a#1", ask("team"))
    talk.turn("team#1/x#1", conclude(b'{"v":2}'))
    answer = talk.talks.answers(talk.run, TALK, 2)["team"]
    assert json.loads(answer["body"])["decision"]["body"] == {"v": 2}
    talk.turn("a#1")
    assert talk.result["outcome"] == "quiet"


def test_a_conversation_that_others_go_on_without_is_closed(store: RunStore) -> None:
    inner = rules("x", "y", opening=("x", "y"), until=Deadline(30.0), resolve=resolve("judge", steps=JUDGE))
    for judging in (False, True):
        talk = nested(store, inner, "b", opening=("team", "b"), until=Concluded("b"))
        team = Stage(store, talk.run, "team#1/talk")
        team.turn("team#1/x#1", propose("y"), ask("y"))
        if judging:
            team.turn("team#1/y#1")
            team.turn("team#1/y#2")
            team.reply("team#1/y#3")
            team.turn("team#1/x#1")
            assert team.now().status == "judging"
        talk.turn("b#1", conclude())
        assert talk.result["outcome"] == "verdict"
        assert (team.now().status, team.now().outcome) == ("ended", "closed")
        assert team.now().peers["x"].turn is None
        assert talk.now().outcome == "verdict"
        nothing_is_left(talk)


def test_a_limit_within_a_member_is_that_members_alone(store: RunStore) -> None:
    talk = nested(store, rules("x", "y", opening=("x", "y"), max_turns=1), "b")
    assert Stage(store, talk.run, "team#1/talk").ring() == "joined"
    assert talk.result["outcome"] == "quiet"
    nothing_is_left(talk)


HIERARCHY = (
    PlanStep(name="boss", agent="boss", next="join", delegates=True),
    PlanStep(name="join", agent="join", joins=True),
)


def test_a_conversation_is_a_member_of_a_fan_out(store: RunStore) -> None:
    run = submit(store, *HIERARCHY)
    common: dict[str, Any] = {"fan": "join", "member": "team#1/talk", "round": 1}
    talking = Member(steps=(step_of(rules("x", "y", until=Deadline(30.0)), "team#1/talk", **common),), value=b"7")
    plain = Member(steps=(PlanStep(name="work#1", agent="work", fan="join", member="work#1", round=1),), value=b"8")
    terms = Terms(need=1, share=False, accept=False, otherwise="fail", width=9, within=None)
    FanOuts(store).delegate(begin(store, run, "boss"), "join", [talking, plain], terms, b"1")
    talk = Stage(store, run, "team#1/talk")
    assert talk.begin("team#1/x#1").value == b"7"
    # when the others come together without it
    store.commit(begin(store, run, "work#1"), b"1")
    assert talk.ready == ["join"]
    assert (talk.now().status, talk.now().outcome) == ("ended", "closed")
    store.commit(begin(store, run, "join"), b"1")
    talk.now()  # it is compared with its log
    nothing_is_left(talk)


def test_what_a_conversation_gives_counts_in_a_fan_out(store: RunStore) -> None:
    run = submit(store, *HIERARCHY)
    common: dict[str, Any] = {"fan": "join", "member": "team#1/talk", "round": 1}
    talking = Member(steps=(step_of(rules("x"), "team#1/talk", **common),), value=b"7")
    terms = Terms(need=1, share=False, accept=False, otherwise="fail", width=9, within=None)
    FanOuts(store).delegate(begin(store, run, "boss"), "join", [talking], terms, b"1")
    talk = Stage(store, run, "team#1/talk")
    assert talk.turn("team#1/x#1").ready == (("join", "join"),)
    (found,) = list(FanOuts(store).gather(run, FanOuts(store).load(run, "join")))  # type: ignore[arg-type]  # it is there
    assert (found[0].outcome, json.loads(found[1] or b"")["outcome"]) == ("ok", "quiet")
    talk.now()  # it is compared with its log
    store.fail(begin(store, run, "join"), "boom")
    # sent again with all that was given out, it opens anew
    store.redrive(run, step="boss", value=None, agent="", deadline=60.0, by="")
    assert talk.ready == ["boss"]


def test_a_member_that_is_a_hierarchy_gives_work_out(store: RunStore) -> None:
    talk = stage(store, peer("team", steps=HIERARCHY), "b", until=Silence(60.0))
    work = Member(
        steps=(PlanStep(name="team#1/work#1", agent="work", fan="team#1/join", member="team#1/work#1", round=1),),
        value=b"8",
    )
    terms = Terms(need=1, share=False, accept=False, otherwise="fail", width=9, within=None)
    talk.say("team")
    FanOuts(store).delegate(talk.begin("team#1/boss"), "team#1/join", [work], terms, b"1")
    store.commit(talk.begin("team#1/work#1"), b"1")
    begun = talk.begin("team#1/join")
    # what puts it together is told what the boss was told
    assert (begun.value, begun.step.mail.kind) == (TASK, "open")  # type: ignore[union-attr]  # it has one
    talk.speak(begun, tell("b"))
    assert talk.ready == ["b#1", "team#2/boss"]
    # a boss that answers itself gives nothing out
    assert store.commit(talk.begin("team#2/boss"), b"5", "answer").what == "joins"
    state = store.load(talk.run)
    assert [state.step(f"team#2/{name}").status for name in ("boss", "join")] == ["completed"] * 2  # type: ignore[union-attr]
    assert (talk.mail("b"), talk.now().peers["team"].turn) == ((), None)


def specialists(*names: str) -> list[Member]:
    common: dict[str, Any] = {"fan": "team#1/join", "round": 1}
    return [
        Member(steps=(PlanStep(name=f"team#1/{name}", agent="work", member=f"team#1/{name}", **common),), value=b"8")
        for name in names
    ]


@pytest.mark.parametrize("fails", [True, False])
def test_what_specialists_within_a_turn_use_counts_for_its_end(store: RunStore, fails: bool) -> None:  # noqa: FBT001  drawn
    talk = stage(store, peer("team", steps=HIERARCHY), "b", opening=("team", "b"), until=Spent(tokens=10))
    terms = Terms(need=3, share=False, accept=False, otherwise="degrade", width=9, within=None)
    work = specialists("x#1", "x#2", "x#3")
    # given a boss that has used something, and a specialist
    FanOuts(store).delegate(talk.begin("team#1/boss"), "team#1/join", work, terms, b"1", (4, 0.0))
    store.commit(talk.begin("team#1/x#1"), b"1", spent=(3, 0.0))
    assert talk.now().status == "open"
    # when it is too much with the second one, then it ends at once, and not when the turn does
    second = talk.begin("team#1/x#2")
    if fails:
        store.fail(second, "boom", spent=(3, 0.0))
    else:
        store.commit(second, b"1", spent=(3, 0.0))
    assert (talk.result["outcome"], talk.result["why"]) == ("spent", "10 tokens and a cost of 0")
    talk.now()  # it is compared with its log
    assert talk.ready == []
    nothing_is_left(talk)


def test_a_boss_that_answers_itself_has_used_something_too(store: RunStore) -> None:
    talk = stage(store, peer("team", steps=HIERARCHY), "b", opening=("team", "b"), until=Spent(tokens=4))
    store.commit(talk.begin("team#1/boss"), b"5", "answer", spent=(4, 0.0))
    assert talk.result["outcome"] == "spent"


def test_what_is_sent_back_counts_once(store: RunStore) -> None:
    steps = (PlanStep(name="x", agent="a", next="y"), PlanStep(name="y", agent="a", start="x", gated=True))
    talk = stage(store, peer("a", steps=steps), "b", opening=("a", "b"), until=Spent(tokens=10))
    talk.talks.speak(talk.begin("a#1/x"), b"1", asks=False, said=[], spent=(6, 0.0))
    store.commit(talk.begin("a#1/y"), b"1", "revise", {"feedback": "again"})
    talk.talks.speak(talk.begin("a#1/x"), b"1", asks=False, said=[], spent=(1, 0.0))
    assert talk.now().status == "open"
    talk.talks.speak(talk.begin("a#1/y"), b"1", asks=False, said=[], spent=(3, 0.0))
    assert talk.result["why"] == "10 tokens and a cost of 0"


def test_what_is_used_within_a_board_or_a_conversation_counts_for_those_around(store: RunStore) -> None:
    inner = step_of(rules("x"), "inner")
    of = board_rules(source("fill", "task", steps=(inner,)))
    talk = stage(
        store,
        peer("team", steps=(PlanStep(name="board", agent="rota", rules=of),)),
        "b",
        opening=("team", "b"),
        until=Spent(cost=0.5),
    )
    within = Stage(store, talk.run, "team#1/fill#1/inner")
    within.talks.speak(within.begin("team#1/fill#1/x#1"), b"null", asks=False, said=[], spent=(0, 0.5))
    assert (talk.result["outcome"], talk.result["turns"]) == ("spent", 2)
    talk.now()  # it is compared with its log
    nothing_is_left(talk)


def test_what_a_synthesiser_has_asked_is_of_its_round(store: RunStore) -> None:
    talk = stage(store, peer("team", steps=HIERARCHY), "b")
    terms = Terms(need=0, share=False, accept=False, otherwise="fail", width=9, within=None)
    FanOuts(store).delegate(talk.begin("team#1/boss"), "team#1/join", [], terms, b"1")
    talk.turn("team#1/join", ask("b"))
    talk.reply("b#1")
    begun = talk.begin("team#1/join")
    assert begun.step.asked == (2,)
    # when it gives work out once more, then it may ask other questions when that has come together
    FanOuts(store).delegate(begun, "team#1/join", [], terms, b"1")
    again = talk.begin("team#1/join")
    assert (again.step.asked, again.step.said) == ((), 0)
    talk.now()  # it is compared with its log


def test_a_question_to_a_hierarchy_is_answered_by_its_boss_alone(store: RunStore) -> None:
    talk = stage(store, "a", peer("team", steps=HIERARCHY))
    talk.turn("a#1", ask("team"))
    store.commit(talk.begin("team#1/boss"), b'{"r":1}', "answer")
    answer = talk.talks.answers(talk.run, TALK, 2)["team"]
    assert (answer["body"], answer["y"]) == (b'{"r":1}', "")


def test_a_conversation_is_a_source_of_a_blackboard(store: RunStore) -> None:
    talking = source("team", "task week", steps=(step_of(rules("x")),))
    run = submit(store, PlanStep(name="board", agent="rota", rules=board_rules(talking, source("fill", "task"))))
    talk = Stage(store, run, "team#1/talk")
    begun = talk.begin("team#1/x#1")
    assert begun.step.mail is not None
    assert begun.step.mail.wake == Woken(source="team", number=1, changed=("task",))
    fill = talk.begin("fill#1")
    author = Author(name="fill", writer=fill.fence, step="fill#1", fence=fill.fence)
    Boards(store).write(run, "board", author, 1, [Put(name="week", how="set", value=b"1")])
    # it is woken again by what comes after it has looked, and by nothing else
    talk.speak(begun)
    again = talk.begin("team#2/x#1")
    assert again.step.mail is not None
    assert again.step.mail.wake == Woken(source="team", number=2, changed=("week",))
    talk.speak(again)
    store.commit(fill, b"1")
    assert store.load(run).status == "completed"
    events = talk.events
    assert fold(run, events) == store.load(run)
    assert fold_board("board", events) == Boards(store).load(run, "board")
    nothing_is_left(talk)


def test_a_blackboard_is_a_member_of_a_conversation(store: RunStore) -> None:
    of = board_rules(source("fill", "task"))
    talk = stage(store, peer("team", steps=(PlanStep(name="board", agent="rota", rules=of),)), "b")
    begun = talk.begin("team#1/fill#1")
    assert begun.step.mail is not None
    assert (begun.value, begun.step.mail.kind, begun.step.talk) == (TASK, "open", None)
    store.commit(begun, b"1")
    assert talk.result["turns"] == 1
    nothing_is_left(talk)
