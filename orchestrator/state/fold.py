"""A run's projection, rebuilt from its events alone: what the Lua scripts do, said once more in Python."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from orchestrator.messages import EVENT_VERSION, RunState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from orchestrator.messages import Event

# A fan-out's fields, as the scripts' Lua table has them: numbers, texts and truths.
FanFields = dict[str, Any]
ENDED = frozenset({"completed", "failed", "cancelled"})


class UnknownEventError(ValueError):
    """The log holds an event this version cannot fold."""


def fold(run_id: str, events: Iterable[Event]) -> RunState:
    """
    Rebuild a run's projection from its log.

    Args:
        run_id: the run.
        events: its events, from the first one on, oldest first. A prefix gives the state at that time.

    Raises:
        UnknownEventError: an event is of a type or version that this code does not know.
    """
    folding = _Folding()
    for event in events:
        handler = _HANDLERS.get(event.type)
        if handler is None or event.version != EVENT_VERSION:
            msg = f"event {event.id} is {event.type} version {event.version}: upgrade celeriac to read this run"
            raise UnknownEventError(msg)
        handler(folding, event)
    steps = [{"name": name, **step} for name, step in folding.steps.items()]
    return RunState.model_validate({"id": run_id, **folding.run, "steps": steps, "fans": folding.fans})


class _Folding:
    """The projection while it is being built, in the shape of the Lua tables it mirrors."""

    def __init__(self) -> None:
        self.run: dict[str, object] = {}
        self.steps: dict[str, dict[str, object]] = {}
        self.fans: dict[str, FanFields] = {}
        self.closing: set[str] = set()

    def step(self, event: Event) -> dict[str, object]:
        return self.steps[str(event.data["step"])]

    def span(self, event: Event) -> Iterator[dict[str, object]]:
        """Give the steps from the gate's start to the gated step: what a revision runs again."""
        gated = str(event.data["step"])
        name = str(self.steps[gated].get("start") or gated)
        while name != gated:
            yield self.steps[name]
            name = str(self.steps[name]["next"])
        yield self.steps[gated]

    def ready(self, step: dict[str, object], event: Event) -> None:
        _settle(step)
        step.update(status="ready", dispatches=1, ready_ms=event.at_ms)
        step["first_ms"] = step.get("first_ms") or event.at_ms
        if step.get("within_ms") and not step.get("until_ms"):
            step["until_ms"] = event.at_ms + cast("int", step["within_ms"])

    def start(self, step: dict[str, object], event: Event) -> None:
        """Let a step be ready; a blackboard, or a conversation, says itself that it is open."""
        if not (step.get("rules") or step.get("converses")):
            self.ready(step, event)

    def close_wakes(self, board: str, but: str | None = None) -> None:
        """End what is unfinished of a blackboard's sources, but one's, or of a conversation's turns."""
        entries = [
            name
            for name, step in self.steps.items()
            if board in {step.get("board"), step.get("talk")} and step.get("member") == name and name != but
        ]
        roots = tuple(_root_of(board, name) for name in entries)
        self.close(lambda name: name in entries or name.startswith(tuple(f"{root}/" for root in roots)))

    def close(self, accepts: Callable[[str], bool] = lambda _: True) -> None:
        """End what is unfinished, of all steps or of some."""
        for name, step in self.steps.items():
            if step["status"] not in ENDED and accepts(name):
                if step["status"] == "waiting":
                    self.wait(-1)
                _settle(step)
                step["status"] = "cancelled"

    def wait(self, by: int) -> None:
        """Count the steps that wait for a person."""
        waits = self.run["waits"] = cast("int", self.run.get("waits", 0)) + by
        if self.run["status"] in {"running", "waiting"}:
            self.run["status"] = "waiting" if waits > 0 else "running"

    def member_ended(self, step: dict[str, object], outcome: str, event: Event) -> None:
        """Count a member of a fan-out, and let the next begin where it goes on."""
        fan, first = self.fans[str(step["fan"])], self.steps[str(step["member"])]
        weight = cast("int", first.get("weight", 1000))
        first["outcome"] = outcome
        fan["ended"] += 1
        if outcome == "failed":
            first["fault"] = step["reason"]
            fan["fault"] = fan.get("fault") or f"{event.data['step']}: {step['reason']}"
            fan["failed"] += 1
            fan["bad_weight"] += weight
            if first is not step or step.get("next"):
                within = str(step["member"]).rpartition("#")
                inside = f"{within[0]}#{within[2].partition('/')[0]}/"
                self.close(lambda name: name.startswith(inside))
        else:
            first["answer"] = event.data["output"]
            if event.data.get("accepted"):
                first["accepted"] = True
            fan["good"] += 1
            fan["good_weight"] += weight
        if not event.data.get("accepted") and not _decided(fan):
            self.open(str(step["fan"]), event)

    def task_of(self, join: str) -> object:
        """Return what the boss took of a fan-out that is given out once more, by the value's name."""
        bosses = [step for step in self.steps.values() if step.get("delegates") and step.get("next") == join]
        return self.fans.get(join, {}).get("task") or (bosses[0].get("input") if bosses else None)

    def lesser(self, last: dict[str, object]) -> tuple[bool, object]:
        """Tell whether a member rests on what a fallback gave, or on a fan-out that got less than it takes; and why."""
        name, lesser, why = str(last["member"]), False, None
        while True:
            step, fan = self.steps[name], self.fans.get(name, {})
            if step.get("degraded"):
                lesser, why = True, step.get("reason") or why
            elif fan.get("degraded"):
                lesser, why = True, why or fan.get("why") or fan.get("fault")
            if step is last:
                return lesser, why
            name = str(step["next"])

    def room(self, name: str) -> int:
        """Return how many members of a fan-out may be in flight: one within another has its share of that one's."""
        fan = self.fans[name]
        if "fan" not in self.steps[name]:
            return int(fan["width"])
        outer = str(self.steps[name]["fan"])
        share = self.room(outer) // max(self.fans[outer]["opened"] - self.fans[outer]["ended"], 1)
        room: int = max(min(fan["width"], share), 1)
        return room

    def open(self, name: str, event: Event) -> None:
        """Let members begin that wait for their place."""
        fan = self.fans[name]
        width = self.room(name) if fan.get("head") else 0
        while fan.get("head") and fan["opened"] - fan["ended"] < width:
            step = self.steps[fan["head"]]
            fan["head"] = step.get("after")
            while step["status"] == "completed" and not step.get("outcome"):  # of a member that was redriven
                step = self.steps[cast("str", step["next"])]
            if step["status"] == "pending":
                fan["opened"] += 1
                self.start(step, event)

    def end(self, status: str, event: Event) -> None:
        if status != "completed" or event.data.get("partial"):
            self.close()
        self.run.update(status=status, ended_ms=event.at_ms)
        self.run.pop("ending", None)
        for fact in ("reason", "output", "partial"):
            if fact in event.data:
                self.run[fact] = event.data[fact]
        if "kind" in event.data:
            self.run["failure"] = {name: event.data[name] for name in ("kind", "step") if name in event.data}


def _root_of(board: str, entry: str) -> str:
    path = board[: board.rfind("/") + 1]
    return path + entry[len(path) :].partition("/")[0]


def _decided(fan: FanFields) -> bool:
    if fan["accept"]:
        return bool(fan["ended"] >= fan["size"])
    best = fan["weight"] - fan["bad_weight"] if fan["share"] else fan["size"] - fan["failed"]
    if fan["ended"] >= fan["size"] or (fan["otherwise"] == "fail" and best < fan["need"]):
        return True
    return bool(fan["good_weight" if fan["share"] else "good"] >= fan["need"])


def _settle(step: dict[str, object]) -> None:
    for name in ("waiting", "due_ms", "why"):
        step.pop(name, None)


def _give_back(step: dict[str, object]) -> None:
    """Let a step be its first agent's again, and take what that one takes."""
    if first := step.pop("instead_of", None):
        step["agent"] = first
    if own := step.pop("took", None):
        step["input"] = own


def _spent(step: dict[str, object], event: Event) -> None:
    step.update({name: event.data[name] for name in ("tokens", "cost") if name in event.data})


def _run_submitted(folding: _Folding, event: Event) -> None:
    run = dict(event.data)
    plan = cast("list[dict[str, object]]", run.pop("steps", []))
    folding.run = {**run, "status": "queued", "created_ms": event.at_ms}
    for item in plan:
        step = {"status": "pending", **item}
        folding.steps[str(step.pop("name"))] = step
    for step in list(folding.steps.values())[:1]:
        step["input"] = "input"
        folding.start(step, event)


def _step_started(folding: _Folding, event: Event) -> None:
    data, step = event.data, folding.step(event)
    step.update(status="running", started_ms=event.at_ms, attempt=data["attempt"], begins=data["begins"])
    step.update(fence=data["fence"], worker=data["worker"])
    if "changed" in data:
        step["changed"] = data["changed"]
    if folding.run["status"] == "queued":
        folding.run["status"] = "running"


def _step_completed(folding: _Folding, event: Event) -> None:
    data, step = event.data, folding.step(event)
    _settle(step)
    _spent(step, event)
    step.update(status="completed", output=data["output"], ended_ms=event.at_ms)
    if "says" in data:
        step["says"] = data["says"]
    if data.get("partial"):
        step.update(status="cancelled", reason=data["reason"])
        step.pop("degraded", None)
    elif "reason" in data:
        step.update(degraded=True, reason=data["reason"])
    undoes = step.get("undoes")
    if undoes:
        _undone(folding.steps[str(undoes)], cast("int", step.get("revision", 0)))
    if data.get("answers") and str(step["next"]) in folding.fans:
        folding.fans[str(step["next"])] = {"total": folding.fans[str(step["next"])]["total"]}
    if step.get("fan") and not step.get("next"):
        lesser, why = folding.lesser(step)
        if lesser and why:
            folding.steps[str(step["member"])]["fault"] = why
        folding.member_ended(step, "degraded" if lesser else "ok", event)
    elif step.get("next") and not data.get("partial") and not data.get("answers"):
        following = folding.steps[str(step["next"])]
        if not undoes:
            following["input"] = data["output"]
        folding.start(following, event)


def _undone(step: dict[str, object], revision: int) -> None:
    left = [one for one in cast("list[dict[str, object]]", step.pop("earlier", [])) if one["revision"] != revision]
    if left:
        step["earlier"] = left
    if revision == step.get("revision", 0) or step["status"] != "completed":
        step["undone"] = True


def _step_revised(folding: _Folding, event: Event) -> None:
    _spent(folding.step(event), event)
    span = list(folding.span(event))
    for step in span:
        if step.get("undo") and step["status"] == "completed":
            before = {"output": step["output"], "revision": step.get("revision", 0)}
            step["earlier"] = [*cast("list[object]", step.get("earlier", [])), before]
        step.update(status="pending", attempt=0, revision=cast("int", step.get("revision", 0)) + 1)
        _give_back(step)
        for name in ("degraded", "reason", "first_ms", "until_ms", "rung", "losses", "strikes", "asked", "said"):
            step.pop(name, None)
    for step in span[:-1]:
        step.pop("sent_back", None)
    span[-1]["sent_back"] = cast("int", span[-1].get("sent_back", 0)) + 1
    feedback = cast("list[object]", span[0].get("feedback", []))
    span[0]["feedback"] = [*feedback, event.data["feedback"]]
    span[-1].pop("output", None)
    # Feedback on what a nested flow gave is about no draft of its first step, whatever an own gate sent back before.
    span[0]["draft"] = event.data.get("draft")
    folding.ready(span[0], event)


def _step_fell_back(folding: _Folding, event: Event) -> None:
    data, step = event.data, folding.step(event)
    step.setdefault("instead_of", step["agent"])
    step.update(agent=data["agent"], input=data["input"], reason=data["reason"], degraded=True, attempt=0)
    step.update(took=data.get("took"))
    if "rung" in data:
        step["rung"] = data["rung"]
    _spent(step, event)
    for name in ("output", "draft", "first_ms", "losses", "strikes", "asked", "said"):
        step.pop(name, None)
    folding.ready(step, event)


def _step_waiting(folding: _Folding, event: Event) -> None:
    data, step = event.data, folding.step(event)
    _spent(step, event)
    step.update(status="waiting", output=data["output"], waiting=data["waiting"])
    folding.wait(1)


def _step_decided(folding: _Folding, event: Event) -> None:
    step = folding.step(event)
    step.pop("waiting", None)
    step["decision"] = {**cast("dict[str, object]", event.data["decision"]), "at_ms": event.at_ms}
    step["status"] = "running"
    folding.wait(-1)


def _step_lost(folding: _Folding, event: Event) -> None:
    data, step = event.data, folding.step(event)
    _spent(step, event)
    step.update({name: data[name] for name in ("losses", "strikes") if name in data})
    if "due_ms" in data:
        step.update(status="delayed", due_ms=data["due_ms"], why=data["why"])
    else:
        folding.ready(step, event)


def _step_delayed(folding: _Folding, event: Event) -> None:
    data, step = event.data, folding.step(event)
    _spent(step, event)
    step.update(status="delayed", due_ms=data["due_ms"], why=data["why"], attempt=data["attempt"])


def _step_ready(folding: _Folding, event: Event) -> None:
    folding.step(event).pop("asking", None)
    folding.ready(folding.step(event), event)


def _step_asked(folding: _Folding, event: Event) -> None:
    data, step = event.data, folding.step(event)
    _settle(step)
    _spent(step, event)
    for name in ("losses", "strikes"):
        step.pop(name, None)
    step.update(status="delayed", due_ms=data["due_ms"], why=data["why"], attempt=0, said=data["said"])
    step.update(asking=data["id"], asked=[*cast("list[object]", step.get("asked", [])), data["id"]])


def _effect_recorded(folding: _Folding, event: Event) -> None:
    step = folding.step(event)
    step["effects"] = cast("int", step.get("effects", 0)) + 1


def _step_redispatched(folding: _Folding, event: Event) -> None:
    folding.step(event)["dispatches"] = event.data["dispatches"]


def _step_failed(folding: _Folding, event: Event) -> None:
    data, step = event.data, folding.step(event)
    if step["status"] == "waiting":
        folding.wait(-1)
    _settle(step)
    _spent(step, event)
    step.update(status="failed", reason=data["reason"], ended_ms=event.at_ms)
    step.update({name: data[name] for name in ("losses", "strikes") if name in data})
    undoes = step.get("undoes")
    if undoes:
        ending = cast("dict[str, object]", folding.run["ending"])
        ending.update(status="failed", kind="undo", step=data["step"])
        if "ending" in data:
            ending["reason"] = data["ending"]
        if step.get("next"):
            folding.ready(folding.steps[str(step["next"])], event)
    elif step.get("fan"):
        folding.member_ended(step, "failed", event)
    elif step.get("board") or step.get("talk"):
        _inner_failed(folding, step, event)


def _inner_failed(folding: _Folding, step: dict[str, object], event: Event) -> None:
    """A step of a blackboard's source, or of a conversation's member, has failed for good."""
    following = step
    while following.get("next"):
        following = folding.steps[str(following["next"])]
        if following["status"] not in ENDED:
            _settle(following)
            following["status"] = "cancelled"
    inside = str(step.get("board") or step.get("talk"))
    above = folding.steps[inside]
    rules = cast("dict[str, object]", above.get("rules") or above.get("converses"))
    if step.get("talk"):
        mail = cast("dict[str, object]", folding.steps[str(step["member"])].get("mail") or {})
        if mail.get("kind", "ask") == "ask":
            return  # whoever asked is told; of a judge's failure its conversation's end tells
    if rules["otherwise"] == "degrade" and inside not in folding.closing:
        above["degraded"] = True
        above["reason"] = above.get("reason") or f"{event.data['step']}: {step['reason']}"


def _board_opened(folding: _Folding, event: Event) -> None:
    step = folding.steps[str(event.data["board"])]
    _settle(step)
    step.update(status="running", started_ms=event.at_ms, begins=event.data["begins"])


def _source_woken(folding: _Folding, event: Event) -> None:
    data = event.data
    steps = cast("dict[str, dict[str, object]]", data["steps"])
    order = cast("list[str]", data["order"])
    for name in order:
        folding.steps[name] = dict(steps[name])
    folding.start(folding.steps[order[0]], event)


def _goal_reached(folding: _Folding, event: Event) -> None:
    folding.close_wakes(str(event.data["board"]), str(event.data["by"]))
    folding.closing.add(str(event.data["board"]))


def _board_ended(folding: _Folding, event: Event) -> None:
    folding.close_wakes(str(event.data["board"]))


def _conversation_opened(folding: _Folding, event: Event) -> None:
    step = folding.steps[str(event.data["talk"])]
    _settle(step)
    step.update(status="running", started_ms=event.at_ms, begins=event.data["begins"])
    if "changed" in event.data:
        step["changed"] = event.data["changed"]


def _turn_started(folding: _Folding, event: Event) -> None:
    _source_woken(folding, event)


def _judge_called(folding: _Folding, event: Event) -> None:
    folding.close_wakes(str(event.data["talk"]))
    _source_woken(folding, event)


def _conversation_ended(folding: _Folding, event: Event) -> None:
    folding.close_wakes(str(event.data["talk"]))


def _in_the_conversation(folding: _Folding, event: Event) -> None:
    """What members say is folded by `fold_conversation`: it is no part of the run's projection."""


def _entries_written(folding: _Folding, event: Event) -> None:
    """What a board holds is folded by `fold_board`: it is no part of the run's projection."""


def _step_delegated(folding: _Folding, event: Event) -> None:
    data, step = event.data, folding.step(event)
    name, facts = str(data["fan"]), cast("FanFields", data["facts"])
    old, again = folding.fans.get(name, {}), data["step"] == data["fan"]
    fan: FanFields = {
        **{field: facts[field] for field in (*_TERMS, "failed", "bad_weight")},
        "total": old.get("total", 0) + facts["size"],
        "round": old.get("round", 0) + 1 if again else 1,
        "degraded": again and (old.get("degraded", False) or step.get("degraded", False)),
        "fault": facts.get("fault"),
        "first": (old.get("first") if again else None) or facts.get("first"),
        "tail": facts.get("last") or (old.get("tail") if again else None),
        "head": facts.get("first"),
        "task": (folding.task_of(name) if again else None) or step.get("input"),
        "opened": facts["failed"],
        "ended": facts["failed"],
        "good": 0,
        "good_weight": 0,
    }
    if "within_ms" in facts:
        fan |= {"within_ms": facts["within_ms"], "until_ms": event.at_ms + facts["within_ms"]}
    folding.fans[name] = fan
    _settle(step)
    _spent(step, event)
    if again:
        step.update(status="pending", attempt=0, revision=cast("int", step.get("revision", 0)) + 1)
        _give_back(step)
        for gone in (*_OF_A_ROUND, "asked", "said"):
            step.pop(gone, None)
        if facts.get("first") and old.get("tail"):
            folding.steps[old["tail"]]["after"] = facts["first"]
    else:
        step.update(status="completed", output=data["output"], ended_ms=event.at_ms)


_OF_A_ROUND = ("input", "first_ms", "until_ms", "rung", "losses", "strikes", "degraded", "reason")
_TERMS = ("need", "share", "accept", "otherwise", "width", "size", "weight")


def _members_added(folding: _Folding, event: Event) -> None:
    for name, step in cast("dict[str, dict[str, object]]", event.data["steps"]).items():
        folding.steps[name] = dict(step)


def _members_opened(folding: _Folding, event: Event) -> None:
    folding.open(str(event.data["fan"]), event)


def _fan_out_joined(folding: _Folding, event: Event) -> None:
    data, name = event.data, str(event.data["fan"])
    fan, verdict = folding.fans[name], str(data["verdict"])
    missed = verdict in {"missed", "overdue"}
    fan.update(verdict=verdict, why=data.get("why"), head=None)
    if (fan["failed"] > 0 and verdict != "accepted") or missed:
        fan["degraded"] = True
    path = name[: name.rfind("/") + 1]
    if data["late"]:
        folding.close(lambda step: step.startswith(path) and "#" in step[len(path) :].partition("/")[0])
    if not (missed and fan["otherwise"] == "fail"):
        folding.steps[name]["input"] = f"fan:{name}"
        folding.ready(folding.steps[name], event)


def _step_late(folding: _Folding, event: Event) -> None:
    step = folding.step(event)
    _spent(step, event)
    step["output"] = event.data["output"]


def _step_spent(folding: _Folding, event: Event) -> None:
    step = folding.step(event)
    _spent(step, event)
    step.pop("fence", None)


def _run_undoing(folding: _Folding, event: Event) -> None:
    folding.close()
    data = dict(event.data)
    plan = cast("list[dict[str, object]]", data.pop("steps"))
    ending = {name: data[name] for name in ("status", "reason", "kind", "step", "by") if name in data}
    folding.run.update(status="undoing", deadline_ms=data["deadline_ms"], ending=ending)
    for item in plan:
        step = {"status": "pending", **item}
        folding.steps[str(step.pop("name"))] = step
    folding.ready(folding.steps[str(plan[0]["name"])], event)


def _run_redriven(folding: _Folding, event: Event) -> None:
    data = event.data
    for name, step in list(folding.steps.items()):
        if step.get("undoes") or name in cast("list[str]", data.get("dropped") or []):
            del folding.steps[name]
            folding.fans.pop(name, None)
    for name, fan in cast("dict[str, FanFields]", data.get("fans") or {}).items():
        folding.fans[name] = dict(fan)
    for name in cast("list[str]", data["reset"] or []):
        _reset(folding.steps[name], name, event)
    for entry, name in cast("dict[str, str]", data.get("goes_on") or {}).items():
        _go_on(folding, entry, name)
    for name, used in cast("dict[str, dict[str, object]]", data.get("spent") or {}).items():
        folding.steps[name].update(used)
    for gone in ("ended_ms", "reason", "failure", "output", "partial"):
        folding.run.pop(gone, None)
    folding.run.update(status="running", deadline_ms=data["deadline_ms"])
    if order := cast("list[str]", data.get("order")):
        folding.steps = {name: folding.steps[name] for name in order}
    step = folding.step(event)
    step["agent"] = data["agent"]
    if data.get("reopens"):
        step.pop("input", None)
    else:
        step["input"] = data["input"]
        folding.start(step, event)


def _reset(step: dict[str, object], name: str, event: Event) -> None:
    data = event.data
    if name in cast("list[str]", data["revised"] or []):
        step["revision"] = cast("int", step.get("revision", 0)) + 1
    _settle(step)
    _give_back(step)
    for gone in _OF_WHAT_WAS_DONE:
        step.pop(gone, None)
    step.update(status="pending", attempt=0)
    # A member of the fan-out that goes on takes what it took.
    if name != data["step"] and not (step.get("fan") == data["step"] and step.get("member") == name):
        step.pop("input", None)


def _go_on(folding: _Folding, entry: str, name: str) -> None:
    """Let a member go on at one of its steps: those before it stay as they are."""
    step = folding.steps[entry]
    for gone in ("outcome", "answer", "fault", "accepted"):
        step.pop(gone, None)
    while step["next"] != name:
        step = folding.steps[cast("str", step["next"])]
    folding.steps[name]["input"] = step["output"]


_OF_WHAT_WAS_DONE = (
    *("output", "draft", "reason", "degraded", "undone", "rung", "losses", "strikes"),
    *("ended_ms", "first_ms", "until_ms", "decision", "sent_back", "outcome", "answer", "fault", "accepted", "earlier"),
)


def _dead_letter_dropped(folding: _Folding, event: Event) -> None:  # noqa: ARG001  the handlers' signature
    folding.run.pop("failure", None)


def _run_completed(folding: _Folding, event: Event) -> None:
    folding.end("completed", event)


def _run_failed(folding: _Folding, event: Event) -> None:
    folding.end("failed", event)


def _run_cancelled(folding: _Folding, event: Event) -> None:
    folding.end("cancelled", event)


_HANDLERS: dict[str, Callable[[_Folding, Event], None]] = {
    "RunSubmitted": _run_submitted,
    "StepStarted": _step_started,
    "StepCompleted": _step_completed,
    "StepRevised": _step_revised,
    "StepFellBack": _step_fell_back,
    "StepWaiting": _step_waiting,
    "StepDecided": _step_decided,
    "StepLost": _step_lost,
    "StepDelayed": _step_delayed,
    "StepReady": _step_ready,
    "StepDelegated": _step_delegated,
    "MembersAdded": _members_added,
    "MembersOpened": _members_opened,
    "FanOutJoined": _fan_out_joined,
    "StepLate": _step_late,
    "StepSpent": _step_spent,
    "BoardOpened": _board_opened,
    "SourceWoken": _source_woken,
    "EntriesWritten": _entries_written,
    "GoalReached": _goal_reached,
    "BoardEnded": _board_ended,
    "ConversationOpened": _conversation_opened,
    "TurnStarted": _turn_started,
    "JudgeCalled": _judge_called,
    "ConversationEnded": _conversation_ended,
    "MessageSent": _in_the_conversation,
    "MessageReturned": _in_the_conversation,
    "AskUnanswered": _in_the_conversation,
    "MemberJoined": _in_the_conversation,
    "MemberLeft": _in_the_conversation,
    "WaitCycleFound": _in_the_conversation,
    "PingPongFound": _in_the_conversation,
    "StepAsked": _step_asked,
    "EffectRecorded": _effect_recorded,
    "StepRedispatched": _step_redispatched,
    "StepFailed": _step_failed,
    "RunUndoing": _run_undoing,
    "RunRedriven": _run_redriven,
    "DeadLetterDropped": _dead_letter_dropped,
    "RunCompleted": _run_completed,
    "RunFailed": _run_failed,
    "RunCancelled": _run_cancelled,
}
