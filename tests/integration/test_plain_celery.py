"""
Plain Celery tasks and canvases, which know nothing of us: on the asyncio pool they behave as on prefork.

Every test makes the same demand on both pools, of tasks that are functions and of tasks that are coroutine functions.
The producer is a Celery app as anybody has it; the tasks are in `plain/tasks.py`.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Literal, cast

import pytest
from celery import Celery, chain, chord, group
from celery.canvas import chunks, xmap, xstarmap
from celery.exceptions import TaskRevokedError

from tests.integration.fleet import Deployment
from tests.integration.listening import Listener
from tests.servers import no_key_left_without_ttl_or_declaration, task_result, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from celery.canvas import Signature
    from celery.result import AsyncResult

    from tests.integration.fleet import Pool, Worker

    Kind = Literal["sync", "async"]
    MakeTask = Callable[..., Signature]

pytestmark = pytest.mark.integration

QUEUE: Final = "orchestrator"  # the default queue of the app that has the tasks
NARROW: Final = "narrow"
"""The queue of a worker that runs one task at a time."""

TIMEOUT = 20.0
PAUSE: Final = 0.2
"""Seconds between two attempts: Celery sends the next before it books the state RETRY of the last."""

CONCURRENCY: Final[dict[Pool, int]] = {"prefork": 2, "asyncio": 100}
KINDS: Final[tuple[Kind, ...]] = ("sync", "async")


class Bench:
    """
    A deployment that knows a user's plain tasks, with that user's producer.

    Attributes:
        kind: of the tasks that `task` makes: functions or coroutine functions.
        app: the producer's; it knows tasks by name alone.
    """

    def __init__(self, pool: Pool, folder: Path) -> None:
        self.pool = pool
        self.kind: Kind = "sync"
        self.notes_folder = folder / "notes"
        self.notes_folder.mkdir()
        self.deployment = Deployment(
            "valkey", folder, agents=("plain.tasks",), env={"PLAIN_NOTES": str(self.notes_folder)}
        )
        url = self.deployment.server.url
        self.app = Celery("producer", broker=url, backend=url, set_as_current=False)
        self.app.conf.task_default_queue = QUEUE

    def start_worker(self, *queues: str, concurrency: int | None = None) -> Worker:
        """Start a worker of the bench's pool."""
        return self.deployment.start_worker(
            queues=queues, pool=self.pool, concurrency=concurrency or CONCURRENCY[self.pool]
        )

    def task(self, name: str, *args: object, **kwargs: object) -> Signature:
        """Return a signature of one of the tasks."""
        return self.app.signature(f"plain.{self.kind}.{name}", args, kwargs)

    def send(self, name: str, *args: object, **options: Any) -> AsyncResult:  # noqa: ANN401  of apply_async
        """Send a task."""
        return self.task(name, *args).apply_async(**options)

    def run(self, name: str, *args: object, **options: Any) -> Any:  # noqa: ANN401  whatever it returns
        """Send a task and wait for its result."""
        return task_result(self.send(name, *args, **options))

    def notes(self, key: str) -> list[str]:
        """Return the notes that tasks have left."""
        path = self.notes_folder / key
        return path.read_text().splitlines() if path.exists() else []

    def wait_for_notes(self, key: str, count: int = 1) -> list[str]:
        """Wait until there are so many."""
        wait_until(lambda: len(self.notes(key)) >= count, TIMEOUT, f"there are {count} notes {key}")
        return self.notes(key)

    def go(self, result: AsyncResult) -> None:
        """Tell a task that holds to go on."""
        (self.notes_folder / f"{result.id}.go").touch()

    def hold(self, name: str = "hold", **options: Any) -> AsyncResult:  # noqa: ANN401  of apply_async
        """Send a task that holds, and wait until it does."""
        held = self.send(name, **options)
        self.wait_for_notes(f"{held.id}.started")
        return held

    def revoke(self, result: AsyncResult, worker: int = 0, *, terminate: bool = False) -> None:
        """
        Revoke a task, where it is.

        A worker that does not have a task books it as revoked at once, and another may be about to finish it.
        """
        destination = [f"w{worker}@{socket.gethostname()}"]
        self._command("revoke", result.id, destination=destination, terminate=terminate)

    def limit_rate(self, name: str, rate: str | int) -> None:
        """Limit how often a worker starts a task."""
        self._command("rate_limit", self.task(name).task, rate)

    def _command(self, name: str, *args: object, **options: object) -> None:
        # Again until it is answered: a worker that has just said that it is ready may not listen yet.
        command = getattr(self.app.control, name)
        wait_until(lambda: command(*args, reply=True, timeout=1.0, limit=1, **options), TIMEOUT, f"{name} is answered")

    def ended(self, result: AsyncResult) -> str:
        """Wait until a task has ended; return its state."""
        wait_until(result.ready, TIMEOUT, f"{result.id} has ended")
        return str(result.state)

    def unacknowledged(self, result: AsyncResult) -> bool:
        """Whether a task's message is booked as delivered and not acknowledged."""
        return any(result.id.encode() in raw for raw in cast("list[bytes]", self.deployment.broker.hvals("unacked")))

    def close(self) -> None:
        """End everything."""
        # A result unsubscribes when it is collected, which may be in a later test, with no server there any more.
        self.app.backend.result_consumer.cancel_for = lambda *_: None
        self.app.backend.result_consumer.stop()
        self.app.close()
        self.deployment.close()


def in_group(pool: Pool) -> Any:  # noqa: ANN401  pytest's ParameterSet has no public name
    # One pool's tests on one of pytest-xdist's workers, so that there is one deployment of each.
    return pytest.param(pool, marks=pytest.mark.xdist_group(f"plain-{pool}"))


@pytest.fixture(scope="module")
def benches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Pool], Bench]]:
    """Benches with their workers, made when first asked for."""
    made: dict[Pool, Bench] = {}

    def get(pool: Pool) -> Bench:
        if pool not in made:
            made[pool] = bench = Bench(pool, tmp_path_factory.mktemp(f"plain-{pool}"))
            workers = bench.start_worker(QUEUE), bench.start_worker(NARROW, concurrency=1)
            for worker in workers:
                worker.wait_until_ready()
        return made[pool]

    yield get
    for bench in made.values():
        bench.close()


@pytest.fixture(params=[in_group("prefork"), in_group("asyncio")])
def pool(request: pytest.FixtureRequest) -> Pool:
    return cast("Pool", request.param)


@pytest.fixture
def deployment(benches: Callable[[Pool], Bench], pool: Pool) -> Deployment:
    return benches(pool).deployment


@pytest.fixture
def bench(benches: Callable[[Pool], Bench], pool: Pool, deployment: Deployment) -> Iterator[Bench]:
    """A bench whose tasks are functions; afterwards no message and no key is left."""
    found = benches(pool)
    found.kind = "sync"
    yield found
    queues = (QUEUE, NARROW)
    wait_until(
        lambda: not any(map(deployment.messages, queues)) and not deployment.broker.hlen("unacked"),
        TIMEOUT,
        "no message is left",
    )
    no_key_left_without_ttl_or_declaration(deployment.redis)
    for key in deployment.redis.scan_iter("celery-task*", count=1000):
        deployment.redis.unlink(key)  # each of which the next check would look at again


@pytest.fixture
def own_bench(pool: Pool, tmp_path: Path) -> Iterator[Bench]:
    """A bench of a test's own, without workers."""
    made = Bench(pool, tmp_path)
    yield made
    made.close()


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return cast("Kind", request.param)


@pytest.fixture
def plain(bench: Bench, kind: Kind) -> Bench:
    """A bench once with functions, once with coroutine functions."""
    bench.kind = kind
    return bench


@pytest.fixture
def own(own_bench: Bench, kind: Kind) -> Bench:
    """A bench of a test's own, likewise."""
    own_bench.kind = kind
    return own_bench


# Canvases

CANVASES: Final[dict[str, tuple[Callable[[MakeTask, Celery], Any], object]]] = {
    "chain": (lambda t, _: chain(t("add", 1, 2), t("add", 3), t("double")), 12),
    "chain of one": (lambda t, app: chain(t("add", 1, 2), app=app), 3),
    "chain with a link that takes no result": (
        lambda t, _: chain(t("add", 1, 2), t("add", 3, 4).set(immutable=True)),
        7,
    ),
    "group": (lambda t, _: group(t("add", n, n) for n in range(5)), [0, 2, 4, 6, 8]),
    "group of a group": (lambda t, _: group(group(t("add", 1, 1), t("add", 2, 2)), t("add", 3, 3)), [2, 4, 6]),
    "group of chains": (lambda t, _: group(chain(t("add", n, n), t("double")) for n in range(3)), [0, 4, 8]),
    "chord": (lambda t, _: chord([t("add", n, n) for n in range(5)], t("total")), 20),
    "chord of one": (lambda t, _: chord([t("add", 1, 1)], t("total")), 2),
    "chord in a chain": (
        lambda t, _: chain(t("add", 1, 1), chord([t("add", 1), t("add", 2)], t("total")), t("double")),
        14,
    ),
    "chord first in a chain": (
        lambda t, _: chain(chord([t("add", 1, 1), t("add", 2, 2)], t("total")), t("double")),
        12,
    ),
    "chords one after another": (
        lambda t, _: chain(
            chord([t("add", 1, 1), t("add", 2, 2)], t("total")), chord([t("add", 1), t("add", 2)], t("total"))
        ),
        15,
    ),
    "chain in a chord's header": (
        lambda t, _: chord([chain(t("add", 1, 1), t("double")), t("add", 1, 1)], t("total")),
        6,
    ),
    "group in a chord's header": (
        lambda t, _: chord([group(t("add", 1, 1), t("add", 2, 2)), t("add", 3, 3)], t("total")),
        12,
    ),
    "chord of chords": (
        lambda t, _: chord([chord([t("add", n, 1), t("add", n, 2)], t("total")) for n in range(3)], t("collect")),
        [3, 5, 7],
    ),
    "chord whose body is a chain": (
        lambda t, _: chord([t("add", 1, 1), t("add", 2, 2)], chain(t("total"), t("double"))),
        12,
    ),
    "chord whose body is a group": (
        lambda t, _: chord([t("add", 1, 1), t("add", 2, 2)], group(t("total"), t("collect"))),
        [6, [2, 4]],
    ),
    "chord whose body is a chord": (
        lambda t, _: chord([t("add", 1, 1), t("add", 2, 2)], chord([t("total"), t("total")], t("collect"))),
        [6, 6],
    ),
    "group in a chain": (lambda t, _: chain(t("add", 1, 1), group(t("add", 1), t("add", 2)), t("total")), 7),
    "group at the end of a chain": (lambda t, _: chain(t("add", 1, 1), group(t("add", 1), t("double"))), [3, 4]),
    "group after a group": (
        lambda t, _: chain(group(t("add", 1, 1), t("add", 2, 2)), group(t("total"), t("collect"))),
        [6, [2, 4]],
    ),
    "groups one after another": (
        lambda t, _: chain(
            group(t("add", 1, 1), t("add", 2, 2)), group(t("total"), t("total")), t("total"), t("double")
        ),
        24,
    ),
    "empty chord": (lambda t, app: chord([], t("total"), app=app), 0),
    "empty group": (lambda _, app: group([], app=app), []),
    "chain after a retry": (lambda t, _: chain(t("retry", 2, PAUSE), t("double")), 4),
    "chord with a retry in its header": (lambda t, _: chord([t("retry", 1, PAUSE), t("add", 1, 1)], t("total")), 3),
    "chord with a retry in its body": (
        lambda t, _: chord([t("add", 1, 1)], chain(t("retry", 1, PAUSE).set(immutable=True), t("double"))),
        2,
    ),
}


def value(canvas: Signature) -> object:
    """Send a canvas and wait for its result."""
    return task_result(canvas.apply_async())


def makers(bench: Bench) -> dict[str, MakeTask]:
    """Return what makes signatures: of functions, of coroutine functions, of the one and the other by turns."""
    turns = itertools.cycle(KINDS)

    def of(kinds: Iterable[Kind]) -> MakeTask:
        remaining = iter(kinds)
        return lambda name, *args: bench.app.signature(f"plain.{next(remaining)}.{name}", args)

    return {"sync": of(itertools.repeat("sync")), "async": of(itertools.repeat("async")), "mixed": of(turns)}


@pytest.mark.parametrize("canvas", CANVASES)
def test_canvas_comes_to_its_value(bench: Bench, canvas: str) -> None:
    build, expected = CANVASES[canvas]
    results = {how: build(make, bench.app).apply_async() for how, make in makers(bench).items()}
    found = {how: task_result(result) for how, result in results.items()}
    assert found == {"sync": expected, "async": expected, "mixed": expected}


BUILT_IN: Final[dict[str, tuple[Callable[[MakeTask, Celery], Any], object]]] = {
    "map": (lambda t, app: xmap(t("double"), [1, 2], app=app), [2, 4]),
    "starmap": (lambda t, app: xstarmap(t("add"), [[1, 1], [2, 2]], app=app), [2, 4]),
    "chunks": (lambda t, app: chunks(t("add"), [[1, 1], [2, 2], [3, 3]], 2, app=app).group(), [[2, 4], [6]]),
}


@pytest.mark.parametrize("canvas", BUILT_IN)
def test_built_in_task_calls_another_for_each_item(plain: Bench, canvas: str) -> None:
    build, expected = BUILT_IN[canvas]
    assert value(build(plain.task, plain.app)) == expected


REPLACED: Final = {"task": 2, "chain": 4, "group": [2, 3], "chord": 5, "replace": 4}


@pytest.mark.parametrize("by", REPLACED)
def test_replaced_task_has_the_result_of_what_replaced_it(plain: Bench, by: str) -> None:
    found = plain.run("replace", by, plain.kind)
    assert found == REPLACED[by]


@pytest.mark.parametrize("by", REPLACED)
def test_chain_goes_on_after_a_replaced_task(plain: Bench, by: str) -> None:
    canvas = chain(plain.task("replace", by, plain.kind), plain.task("collect"))
    assert value(canvas) == REPLACED[by]


@pytest.mark.parametrize("by", REPLACED)
def test_chord_counts_a_replaced_task_once(plain: Bench, by: str) -> None:
    canvas = chord([plain.task("replace", by, plain.kind), plain.task("add", 1, 1)], plain.task("collect"))
    assert value(canvas) == [REPLACED[by], 2]


def test_links_of_a_chain_know_their_root_and_their_parent(plain: Bench) -> None:
    seen = chain(plain.task("lineage", []), plain.task("lineage"), plain.task("lineage")).apply_async()
    first, second, third = [link[0] for link in task_result(seen)]
    assert seen.get() == [[first, first, None], [second, first, first], [third, first, second]]
    assert (seen.id, seen.parent.id, seen.parent.parent.id) == (third, second, first)


def test_members_of_a_group_in_a_chain_know_their_root_and_their_parent(plain: Bench) -> None:
    lineage = plain.task("lineage")
    seen = chain(plain.task("lineage", []), group(lineage, lineage), plain.task("collect")).apply_async()
    one, other = task_result(seen)
    first = one[0][0]
    assert one[0] == other[0] == [first, first, None]
    assert [link[1:] for link in (one[1], other[1])] == [[first, first], [first, first]]


def test_task_sent_by_a_task_knows_its_root_and_its_parent(plain: Bench) -> None:
    parent, child = plain.run("spawn", plain.kind)
    assert task_result(plain.app.AsyncResult(child)) == [[child, parent, parent]]


def test_task_may_not_wait_for_another(plain: Bench) -> None:
    assert "Never call result.get() within a task" in plain.run("wait_for_child", plain.kind)


# Callbacks and errbacks


def test_link_is_called_with_the_result(plain: Bench) -> None:
    result = plain.send("add", 1, 2, link=plain.task("add", 3))
    assert task_result(result) == 3
    wait_until(lambda: result.children, TIMEOUT, "the link was sent")
    assert [task_result(child) for child in result.children] == [6]


def test_every_link_is_called(plain: Bench) -> None:
    result = plain.send("add", 1, 2, link=[plain.task("add", 3), plain.task("double")])
    assert task_result(result) == 3
    wait_until(lambda: result.children, TIMEOUT, "the links were sent")
    assert [task_result(child) for child in result.children] == [[6, 6]]  # the children are one group


@pytest.mark.parametrize(("errback", "told"), [("on_error", "Unlucky: ('no luck', 7)"), ("on_error_old", "failed")])
def test_link_error_is_called_once_with_the_failure(plain: Bench, errback: str, told: str) -> None:
    result = plain.send("fail", link=plain.task("mark", "never-linked"), link_error=plain.task(errback))
    assert plain.ended(result) == "FAILURE"
    plain.wait_for_notes(f"{result.id}.errbacks")
    plain.run("add", 1, 2)  # whatever else was sent would have run before
    assert plain.notes(f"{result.id}.errbacks") == [told]
    assert plain.notes("never-linked") == []


@pytest.mark.parametrize("errback", ["on_error", "on_error_old"])
def test_failing_link_of_a_chain_ends_it_and_calls_the_errback_once(plain: Bench, errback: str) -> None:
    key = f"{plain.kind}-{errback}-after-the-failure"
    canvas = chain(plain.task("add", 1, 2), plain.task("fail"), plain.task("mark", key).set(immutable=True))
    last = canvas.apply_async(link_error=plain.task(errback))
    with pytest.raises(Exception, match="no luck"):
        task_result(last.parent)
    plain.wait_for_notes(f"{last.parent.id}.errbacks")
    plain.run("add", 1, 2)
    assert len(plain.notes(f"{last.parent.id}.errbacks")) == 1
    assert plain.notes(key) == []


@pytest.mark.parametrize("errback", ["on_error", "on_error_old"])
def test_failing_header_skips_the_body_and_calls_its_errback_once(plain: Bench, errback: str) -> None:
    key = f"{plain.kind}-{errback}-body"
    body = plain.task("mark", key).set(immutable=True, link_error=[plain.task(errback)])
    result = chord([plain.task("add", 1, 1), plain.task("fail"), plain.task("add", 2, 2)], body).apply_async()
    assert plain.ended(result) == "FAILURE"
    assert type(result.result).__name__ == "ChordError"
    assert "no luck" in str(result.result)
    plain.wait_for_notes(f"{result.id}.errbacks")
    plain.run("add", 1, 2)
    assert len(plain.notes(f"{result.id}.errbacks")) == 1
    assert plain.notes(key) == []


# Failures


def stored(bench: Bench, result: AsyncResult) -> dict[str, Any]:
    """Return what the backend holds of a task's end."""
    bench.ended(result)
    meta = json.loads(bench.app.backend.get(f"celery-task-meta-{result.id}"))
    return {name: meta[name] for name in ("status", "result")}


def test_failure_shows_its_type_its_arguments_and_where_it_was_raised(plain: Bench) -> None:
    result = plain.send("fail")
    assert stored(plain, result) == {
        "status": "FAILURE",
        "result": {"exc_type": "Unlucky", "exc_message": ["no luck", 7], "exc_module": "plain.tasks"},
    }
    lines = result.traceback.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert "plain/tasks.py" in lines[-3]
    assert lines[-3].endswith("in fail")
    assert lines[-1] == "plain.tasks.Unlucky: ('no luck', 7)"


def test_failure_that_is_a_group_shows_its_parts(plain: Bench) -> None:
    result = plain.send("fail_badly")
    assert stored(plain, result) == {
        "status": "FAILURE",
        "result": {
            "exc_type": "ExceptionGroup",
            "exc_message": ["several", "[ValueError(1), Unlucky('x')]"],
            "exc_module": "builtins",
        },
    }
    assert "ValueError: 1" in result.traceback


def test_result_that_is_no_json_fails_the_task(plain: Bench) -> None:
    result = plain.send("unserialisable")
    assert plain.ended(result) == "FAILURE"
    assert type(result.result).__name__ == "EncodeError"
    assert "Object of type object is not JSON serializable" in str(result.result)


def test_task_that_exits_is_a_lost_worker_and_the_next_one_runs(plain: Bench) -> None:
    result = plain.send("leave", queue=NARROW, link_error=plain.task("on_error"))
    assert plain.ended(result) == "FAILURE"
    assert type(result.result).__name__ == "WorkerLostError"
    assert plain.run("add", 1, 2, queue=NARROW) == 3
    assert len(plain.wait_for_notes(f"{result.id}.errbacks")) == 1


# Retries


def test_retry_counts_its_attempts_and_keeps_its_id(plain: Bench) -> None:
    result = plain.send("retry", 3, PAUSE)
    assert task_result(result) == 3
    assert plain.notes(f"{result.id}.attempts") == ["0", "1", "2", "3"]


def test_retry_waits_for_its_countdown_in_the_state_retry(plain: Bench) -> None:
    result = plain.send("retry", 1, 1.0)
    wait_until(lambda: result.state == "RETRY", TIMEOUT, "it is to be retried")
    assert plain.notes(f"{result.id}.attempts") == ["0"]
    assert task_result(result) == 1
    assert result.state == "SUCCESS"


def test_retries_end_with_their_number(plain: Bench) -> None:
    result = plain.send("retry_in_vain")
    assert plain.ended(result) == "FAILURE"
    assert type(result.result).__name__ == "MaxRetriesExceededError"
    assert plain.notes(f"{result.id}.attempts") == ["0", "1", "2"]


def test_retries_end_with_the_reason_they_gave(plain: Bench) -> None:
    result = plain.task("retry_in_vain", because="tired").apply_async()
    assert stored(plain, result)["result"] == {
        "exc_type": "Unlucky",
        "exc_message": ["tired"],
        "exc_module": "plain.tasks",
    }
    assert plain.notes(f"{result.id}.attempts") == ["0", "1", "2"]


@pytest.mark.parametrize(("times", "state"), [(2, "SUCCESS"), (3, "FAILURE")])
def test_failure_is_retried_where_the_task_says_so(plain: Bench, times: int, state: str) -> None:
    result = plain.send("retry_by_itself", times)
    assert plain.ended(result) == state
    assert plain.notes(f"{result.id}.attempts") == ["0", "1", "2"]
    assert result.result == 2 if state == "SUCCESS" else type(result.result).__name__ == "Unlucky"


# Messages


def test_message_sent_back_comes_again(plain: Bench) -> None:
    result = plain.send("send_back_once")
    assert task_result(result) == "done"
    assert plain.notes(f"{result.id}.attempts") == ["False", "True"]


def test_refused_message_does_not_come_again(plain: Bench) -> None:
    result = plain.send("refuse")
    assert plain.ended(result) == "FAILURE"
    assert type(result.result).__name__ == "Reject"
    assert plain.run("add", 1, 2) == 3
    assert plain.notes(f"{result.id}.attempts") == ["ran"]


def test_ignored_task_has_no_result(plain: Bench) -> None:
    result = plain.send("ignore", queue=NARROW)
    assert plain.run("add", 1, 2, queue=NARROW) == 3
    assert plain.notes(f"{result.id}.attempts") == ["ran"]
    assert result.state == "PENDING"


def test_result_that_nobody_wants_is_not_stored(plain: Bench) -> None:
    result = plain.send("forget", f"{plain.kind}-forgotten", queue=NARROW)
    assert plain.run("add", 1, 2, queue=NARROW) == 3
    assert plain.notes(f"{plain.kind}-forgotten") == ["ran"]
    assert result.state == "PENDING"


def test_expired_message_is_not_executed(plain: Bench) -> None:
    key = f"{plain.kind}-expired"
    result = plain.send("mark", key, queue=NARROW, expires=datetime.now(UTC) - timedelta(seconds=1))
    with pytest.raises(TaskRevokedError, match="expired"):
        task_result(result)
    assert plain.notes(key) == []


def test_message_that_expires_while_it_waits_for_a_slot_is_not_executed(plain: Bench) -> None:
    held = plain.hold(queue=NARROW)
    key, expires = f"{plain.kind}-expired-waiting", datetime.now(UTC) + timedelta(seconds=0.5)
    result = plain.send("mark", key, queue=NARROW, expires=expires)
    wait_until(lambda: datetime.now(UTC) > expires, TIMEOUT, "it has expired")
    plain.go(held)
    with pytest.raises(TaskRevokedError, match="expired"):
        task_result(result)
    assert plain.notes(key) == []


def test_late_acknowledged_message_is_kept_while_its_task_runs(plain: Bench) -> None:
    held = plain.hold("hold_late")
    assert plain.unacknowledged(held)
    plain.go(held)
    assert task_result(held) == held.id
    wait_until(lambda: not plain.unacknowledged(held), TIMEOUT, "it is acknowledged")


def test_message_is_acknowledged_when_its_task_starts(plain: Bench) -> None:
    held = plain.hold("hold")
    wait_until(lambda: not plain.unacknowledged(held), TIMEOUT, "it is acknowledged")
    assert not held.ready()
    plain.go(held)
    assert task_result(held) == held.id


def test_late_acknowledged_task_of_a_killed_worker_is_executed_by_another(own: Bench) -> None:
    worker = own.start_worker(QUEUE).wait_until_ready()
    held = own.hold("hold_late")
    worker.kill()
    own.go(held)
    assert own.unacknowledged(held)
    # The visibility timeout passes: as if the message had been delivered in 1970.
    for tag in cast("list[bytes]", own.deployment.broker.zrange("unacked_index", 0, -1)):
        own.deployment.broker.zadd("unacked_index", {tag: 0})
    own.start_worker(QUEUE)
    assert task_result(held, 2 * TIMEOUT) == held.id
    assert len(own.notes(f"{held.id}.started")) == 2
    wait_until(lambda: not own.unacknowledged(held), TIMEOUT, "it is acknowledged")


def test_limited_rate_holds_a_message_back(own_bench: Bench) -> None:
    worker = own_bench.start_worker(QUEUE, concurrency=4).wait_until_ready()  # what is held back counts as taken
    own_bench.limit_rate("mark", "1/h")
    own_bench.send("mark", "limited")
    own_bench.wait_for_notes("limited")
    held_back = own_bench.send("mark", "limited")
    own_bench.send("mark", "limited")
    assert own_bench.run("add", 1, 2) == 3  # which was sent last
    assert own_bench.run("add", 1, 2) == 3
    assert own_bench.notes("limited") == ["ran"]
    assert own_bench.unacknowledged(held_back)
    worker.stop()
    assert len(own_bench.deployment.messages(QUEUE)) == 2


def test_lifted_rate_limit_lets_everything_pass(own_bench: Bench) -> None:
    own_bench.start_worker(QUEUE).wait_until_ready()
    own_bench.limit_rate("mark", "1/h")
    own_bench.limit_rate("mark", 0)
    for _ in range(3):
        own_bench.send("mark", "passed")
    own_bench.wait_for_notes("passed", 3)


# Revoking


def test_revoked_task_does_not_start_when_its_countdown_ends(plain: Bench) -> None:
    key = f"{plain.kind}-revoked-countdown"
    result = plain.send("mark", key, countdown=1.0)
    wait_until(lambda: plain.unacknowledged(result), TIMEOUT, "a worker has it")
    plain.revoke(result)
    with pytest.raises(TaskRevokedError, match="revoked"):
        task_result(result)
    assert plain.notes(key) == []


def test_revoked_task_does_not_start_when_it_gets_a_slot(plain: Bench) -> None:
    held = plain.hold(queue=NARROW)
    key = f"{plain.kind}-revoked-waiting"
    result = plain.send("mark", key, queue=NARROW)
    plain.revoke(result, 1)
    plain.go(held)
    with pytest.raises(TaskRevokedError, match="revoked"):
        task_result(result)
    assert plain.notes(key) == []


def test_running_task_is_not_touched_by_a_revoke_that_does_not_terminate(plain: Bench) -> None:
    held = plain.hold()
    plain.revoke(held)
    plain.go(held)
    assert task_result(held) == held.id


def test_revoked_running_task_ends_and_its_slot_is_free(plain: Bench) -> None:
    held = plain.hold("hold_late", queue=NARROW)
    plain.revoke(held, 1, terminate=True)
    with pytest.raises(TaskRevokedError, match="terminated"):
        task_result(held)
    assert held.state == "REVOKED"
    wait_until(lambda: not plain.unacknowledged(held), TIMEOUT, "it is acknowledged")
    assert plain.run("add", 1, 2, queue=NARROW) == 3
    if plain.pool == "asyncio":  # prefork kills its process, and no `finally` with it
        assert plain.wait_for_notes(f"{held.id}.finally") == [held.id]
    assert plain.notes(f"{held.id}.started") == ["0"]


# Time limits

LIMIT: Final = 0.3


def skip_where_a_signal_hits_the_loop(plain: Bench) -> None:
    # There the limit is raised wherever the process is, in asyncio's own code too, which may swallow it.
    if plain.pool == "prefork" and plain.kind == "async":
        pytest.skip("prefork interrupts the event loop by a signal, and not the coroutine")


def test_soft_time_limit_fails_the_task(plain: Bench) -> None:
    skip_where_a_signal_hits_the_loop(plain)
    held = plain.send("hold", soft_time_limit=LIMIT)
    assert plain.ended(held) == "FAILURE"
    assert type(held.result).__name__ == "SoftTimeLimitExceeded"
    assert plain.notes(f"{held.id}.finally") == [held.id]


def test_soft_time_limit_can_be_caught(plain: Bench) -> None:
    skip_where_a_signal_hits_the_loop(plain)
    assert plain.run("hold_softly", soft_time_limit=LIMIT) == "caught"


@pytest.mark.parametrize("pool", ["asyncio"])
def test_soft_time_limit_ends_the_children_of_a_task_group(bench: Bench) -> None:
    bench.kind = "async"
    held = bench.send("hold_children", soft_time_limit=LIMIT)
    assert bench.ended(held) == "FAILURE"
    assert type(held.result).__name__ == "SoftTimeLimitExceeded"
    assert bench.notes(f"{held.id}.children") == ["ended", "ended"]


@pytest.mark.parametrize("pool", ["asyncio"])
def test_soft_time_limit_can_be_caught_in_the_midst_of_publishing(bench: Bench) -> None:
    bench.kind = "async"
    assert bench.run("publish_for_ever", soft_time_limit=LIMIT) == "caught by plain.async.publish_for_ever"


@pytest.mark.parametrize("pool", ["asyncio"])
def test_many_tasks_that_send_canvases_at_once_do_not_wait_for_each_other(bench: Bench) -> None:
    bench.kind = "async"
    sent = [bench.send("fan") for _ in range(40)]
    assert [task_result(result) for result in sent] == [1] * 40


@pytest.mark.parametrize("pool", ["asyncio"])
def test_acknowledgements_that_redis_refuses_cost_no_slot(own_bench: Bench) -> None:
    # given tasks that are acknowledged late
    own_bench.kind = "async"
    own_bench.start_worker(QUEUE, concurrency=20).wait_until_ready()
    held = [own_bench.hold("hold_late", ignore_result=True) for _ in range(10)]
    # when they end while Redis takes no writes
    own_bench.deployment.redis.config_set("min-replicas-to-write", 1)
    for result in held:
        own_bench.go(result)
    for result in held:
        own_bench.wait_for_notes(f"{result.id}.finally")
    time.sleep(1.0)  # so long it refuses
    own_bench.deployment.redis.config_set("min-replicas-to-write", 0)
    # then every slot is free again
    wait_until(lambda: in_flight(own_bench) == 0, TIMEOUT, "nothing is in flight")


def in_flight(bench: Bench) -> int | None:
    """Return how many async tasks the bench's worker says it has in flight."""
    replies = bench.app.control.inspect(timeout=2.0, limit=1).stats() or {}
    return next((stats["pool"]["async-in-flight"] for stats in replies.values()), None)


def test_soft_time_limit_that_is_not_reached_changes_nothing(plain: Bench) -> None:
    assert plain.run("add", 1, 2, soft_time_limit=5, time_limit=10) == 3


def test_hard_time_limit_fails_the_task_calls_its_errback_and_frees_its_slot(plain: Bench) -> None:
    held = plain.send("hold_late", queue=NARROW, time_limit=LIMIT, link_error=plain.task("on_error"))
    assert stored(plain, held) == {
        "status": "FAILURE",
        "result": {"exc_type": "TimeLimitExceeded", "exc_message": [LIMIT], "exc_module": "billiard.exceptions"},
    }
    assert plain.run("add", 1, 2, queue=NARROW) == 3
    # Once on the asyncio pool; on prefork Celery calls it a second time when it has replaced the process.
    assert set(plain.wait_for_notes(f"{held.id}.errbacks")) == {f"TimeLimitExceeded: TimeLimitExceeded({LIMIT},)"}
    assert plain.notes(f"{held.id}.started") == ["0"]


def test_hard_time_limit_in_a_header_fails_the_chord(plain: Bench) -> None:
    key = f"{plain.kind}-body-of-an-overrun-header"
    header = [plain.task("hold").set(time_limit=LIMIT), plain.task("add", 1, 1)]
    result = chord(header, plain.task("mark", key).set(immutable=True)).apply_async()
    with pytest.raises(Exception, match="TimeLimitExceeded"):
        task_result(result)
    assert plain.notes(key) == []


# States, and what a task knows of itself


def test_started_task_says_where(plain: Bench) -> None:
    held = plain.hold("hold_tracked")
    assert held.state == "STARTED"
    assert set(held.info) == {"pid", "hostname"}
    assert isinstance(held.info["pid"], int)
    plain.go(held)
    assert task_result(held) == held.id


def test_task_may_set_a_state_of_its_own(plain: Bench) -> None:
    held = plain.hold("progress")
    assert (held.state, held.info) == ("PROGRESS", {"done": 1, "of": 2})
    plain.go(held)
    assert task_result(held) == held.id


def test_task_knows_its_request(plain: Bench) -> None:
    result = plain.app.signature(f"plain.{plain.kind}.who_am_i", (1,), {"x": 2}).apply_async(time_limit=30)
    before, after = task_result(result)
    assert before == after
    hostname = before.pop("hostname")
    assert hostname.startswith("w0@")
    assert before == {
        "task": f"plain.{plain.kind}.who_am_i",
        "current": result.id,
        "id": result.id,
        "root_id": result.id,
        "parent_id": None,
        "retries": 0,
        "is_eager": False,
        "called_directly": False,
        "delivery_info": {"exchange": "", "routing_key": QUEUE, "priority": 0, "redelivered": False},
        "correlation_id": result.id,
        "timelimit": [30, None],
        "args": [1],
        "kwargs": {"x": 2},
    }


def test_many_tasks_at_once_each_know_their_own_request(bench: Bench) -> None:
    canvas = group(
        bench.app.signature(f"plain.{kind}.who_am_i", (number,)) for number in range(40) for kind in KINDS
    ).apply_async()
    for member, (before, after) in zip(canvas.results, task_result(canvas), strict=True):
        assert {before["current"], before["id"], after["current"], after["id"]} == {member.id}
        assert before["task"] == after["task"]
        assert before["args"] == after["args"]


# Hooks, signals, events


@pytest.mark.parametrize("luck", [True, False])
def test_hooks_of_a_task_are_called_in_turn(plain: Bench, luck: bool) -> None:  # noqa: FBT001  pytest's way
    result = plain.task("hooked", luck=luck).apply_async()
    end = (
        ["on_success luck True", "after_return SUCCESS luck True"]
        if luck
        else ["on_failure out of luck True", "after_return FAILURE out of luck True"]
    )
    expected = ["before_start True", "on_retry first True", "before_start True", *end]
    assert plain.wait_for_notes(f"{result.id}.hooks", len(expected)) == expected


SIGNALS: Final = {
    "add": ((1, 2), ["prerun True", "success 3", "postrun SUCCESS True"]),
    "fail": ((), ["prerun True", "failure Unlucky", "postrun FAILURE True"]),
    "retry": (
        (1, PAUSE),
        [
            "prerun True",
            f"retry Retry in {PAUSE}s",
            "postrun RETRY True",
            "prerun True",
            "success 1",
            "postrun SUCCESS True",
        ],
    ),
    "ignore": ((), ["prerun True", "postrun IGNORED True"]),
}


@pytest.mark.parametrize("name", SIGNALS)
def test_signals_are_sent_in_turn(plain: Bench, name: str) -> None:
    args, expected = SIGNALS[name]
    result = plain.send(name, *args)
    times = 2 if name == "retry" else 1
    notes = plain.wait_for_notes(f"{result.id}.signals", len(expected) + times)
    # The second attempt is received before the first has ended: it was sent to wait for its countdown in the worker.
    assert [note for note in notes if note != "received"] == expected
    assert (notes[0], notes.count("received")) == ("received", times)


def test_signals_of_a_revoked_running_task(plain: Bench) -> None:
    held = plain.hold()
    plain.revoke(held, terminate=True)
    plain.ended(held)
    wait_until(lambda: "revoked" in "".join(plain.notes(f"{held.id}.signals")), TIMEOUT, "it is told")
    # Where the process goes on, as in the asyncio pool, those who wait for a postrun get one.
    told = [note for note in plain.notes(f"{held.id}.signals") if note != "postrun None True"]
    assert told == ["received", "prerun True", "revoked terminated=True expired=False"]


EVENTS: Final = {
    "add": ((1, 2), ["task-received", "task-started", "task-succeeded"], {"result": "3"}),
    "fail": ((), ["task-received", "task-started", "task-failed"], {"exception": "Unlucky('no luck', 7)"}),
    "retry": (
        (1, PAUSE),
        ["task-received", "task-started", "task-retried", "task-started", "task-succeeded"],
        {"result": "1"},
    ),
}


@pytest.fixture(scope="module")
def listeners() -> Iterator[Callable[[Bench], Listener]]:
    """One for each bench, as there is nothing to hear before a worker's next heartbeat."""
    made: dict[Bench, Listener] = {}
    with contextlib.ExitStack() as stack:

        def get(bench: Bench) -> Listener:
            if bench not in made:
                made[bench] = stack.enter_context(Listener(bench.app))
            return made[bench]

        yield get


@pytest.fixture
def listener(benches: Callable[[Pool], Bench], listeners: Callable[[Bench], Listener], pool: Pool) -> Listener:
    return listeners(benches(pool))


@pytest.mark.parametrize("name", EVENTS)
def test_events_are_sent_in_turn(plain: Bench, listener: Listener, name: str) -> None:
    args, types, last = EVENTS[name]
    result = plain.send(name, *args)
    wait_until(lambda: listener.types(result.id)[-1:] == types[-1:], TIMEOUT, "all its events are there")
    found = listener.types(result.id)
    assert found[0] == "task-received"
    assert found.count("task-received") == (2 if name == "retry" else 1)  # of the second attempt before the first's end
    assert [event for event in found if event != "task-received"] == types[1:]
    assert last.items() <= listener.of(result.id)[-1].items()


def test_events_of_a_revoked_running_task(plain: Bench, listener: Listener) -> None:
    held = plain.hold()
    plain.revoke(held, terminate=True)
    assert listener.end_of(held.id) == "task-revoked"
    assert listener.types(held.id) == ["task-received", "task-started", "task-revoked"]
    assert listener.of(held.id)[-1]["terminated"] is True
