"""The review flow in real workers: it finds what the tools find by hand, and says what was not checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from benchmarks.by_hand import by_hand, reported
from orchestrator.cli.ports import any_free
from tests.command_line import Shell
from tests.integration.fleet import CHECKOUT, FAST, Deployment, Pool
from tests.integration.reviewing.flows import hasty
from tests.planted import KEY, plant, plant_secrets
from tests.servers import no_key_left_without_ttl_or_declaration
from workers.review import review
from workers.review.demo import DEMO
from workers.review.models import Report, Request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from redis import Redis

    from orchestrator import Run

pytestmark = pytest.mark.integration

AGENTS: Final = ("workers.review", "tests.integration.reviewing.flows")
SPECIALISTS: Final = ("ruff", "bandit", "complexity", "dead_code", "licence", "secrets")
QUEUES: Final = ("orchestrator", *(f"review.{name}" for name in ("plan", *SPECIALISTS, "report")))
PYTHON: Final = ("shop/__init__.py", "shop/orders.py", "shop/prices.py")


@pytest.fixture
def standing() -> Iterator[list[Deployment]]:
    """Deployments that a test has started; ended after it."""
    started: list[Deployment] = []
    yield started
    try:
        for one in started:
            # Of a specialist that nobody serves, the messages are still there.
            no_key_left_without_ttl_or_declaration(one.redis, queues=QUEUES)
    finally:
        for one in started:
            one.close()


def deploy(folder: Path, *stubs: Path, **settings: object) -> Deployment:
    """Start a server; `stubs` are folders that workers import from before all others."""
    folder.mkdir()
    return Deployment("valkey", folder, settings={**FAST, **settings}, agents=AGENTS, path=(*stubs, CHECKOUT))


def result_of(run: Run) -> Report:
    """Wait for a review."""
    result = run.result(timeout=60)
    assert isinstance(result, Report)
    return result


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_review_by_workers_finds_what_the_tools_find_by_hand(
    tmp_path: Path, standing: list[Deployment], pool: Pool
) -> None:
    # given
    folder = plant(tmp_path / "folder")
    standing.append(deploy(tmp_path / "deployment"))
    standing[0].start_worker(queues=QUEUES, pool=pool)

    # when
    run = standing[0].client.submit(review, Request(path=str(folder), out=str(tmp_path / "out")))
    made = result_of(run)

    # then
    assert made.unchecked == ()
    assert reported(json.loads(Path(made.written["json"]).read_text(encoding="utf-8"))) == by_hand(folder)
    assert "Every file was checked" in Path(made.written["markdown"]).read_text(encoding="utf-8")


def test_no_secret_gets_into_the_report_the_server_or_the_logs(tmp_path: Path, standing: list[Deployment]) -> None:
    # given
    folder = plant_secrets(plant(tmp_path / "folder"))
    standing.append(deploy(tmp_path / "deployment"))
    standing[0].start_worker(queues=QUEUES)

    # when
    made = result_of(standing[0].client.submit(review, Request(path=str(folder), out=str(tmp_path / "out"))))

    # then
    stored = everything_in(standing[0].redis)
    assert "shop/orders.py" in stored
    assert KEY not in stored
    logs = list((tmp_path / "deployment").rglob("*.log"))
    assert logs
    for file in (*logs, *map(Path, made.written.values())):
        assert KEY.casefold() not in file.read_text(encoding="utf-8").casefold(), file


def everything_in(redis: Redis) -> str:
    """Return all that the server holds, as text."""
    read: dict[object, Callable[[bytes], object]] = {
        b"string": redis.get,
        b"hash": redis.hgetall,
        b"list": lambda key: redis.lrange(key, 0, -1),
        b"set": redis.smembers,
        b"zset": lambda key: redis.zrange(key, 0, -1),
        b"stream": redis.xrange,
    }
    return "\n".join(str(read[redis.type(key)](key)) for key in redis.scan_iter())


def test_a_specialist_whose_queue_nobody_serves_is_late_and_the_report_says_so(
    tmp_path: Path, standing: list[Deployment]
) -> None:
    # given
    folder = plant(tmp_path / "folder")
    standing.append(deploy(tmp_path / "deployment"))
    standing[0].start_worker(queues=[queue for queue in QUEUES if queue != "review.bandit"])

    # when
    made = result_of(standing[0].client.submit(hasty, Request(path=str(folder), out=str(tmp_path / "out"))))

    # then
    (gap,) = made.unchecked
    assert (gap.specialist, gap.count, gap.paths) == ("bandit", 3, PYTHON)
    assert "late" in gap.reason
    assert made.tools["ruff"] > 0
    assert "**bandit**, 3 files" in Path(made.written["markdown"]).read_text(encoding="utf-8")


def test_a_tool_that_is_not_installed_leaves_a_report_that_says_so(tmp_path: Path, standing: list[Deployment]) -> None:
    # given
    folder = plant(tmp_path / "folder")
    stubs = tmp_path / "stubs"
    (stubs / "bandit").mkdir(parents=True)
    (stubs / "bandit" / "__init__.py").write_text("raise ImportError('as if it were not here')\n")
    standing.append(deploy(tmp_path / "deployment", stubs))
    standing[0].start_worker(queues=QUEUES)

    # when
    made = result_of(standing[0].client.submit(review, Request(path=str(folder), out=str(tmp_path / "out"))))

    # then
    (gap,) = made.unchecked
    assert (gap.specialist, gap.count, gap.paths) == ("bandit", 3, PYTHON)
    assert "bandit is not installed where this agent works" in gap.reason
    assert set(made.tools) == {"bc-detect-secrets", "license-expression", "lizard", "ruff", "vulture"}


def test_a_specialist_that_kills_its_process_leaves_a_report_that_says_so(
    tmp_path: Path, standing: list[Deployment]
) -> None:
    # given
    folder = plant(tmp_path / "folder")
    stubs = tmp_path / "stubs"
    stubs.mkdir()
    (stubs / "vulture.py").write_text("import os, signal\n\nos.kill(os.getpid(), signal.SIGKILL)\n")
    standing.append(deploy(tmp_path / "deployment", stubs, max_attempts=2))
    # A pool of its own, as each agent has one: what dies beside it would be lost with it.
    standing[0].start_worker(queues=[queue for queue in QUEUES if queue != "review.dead_code"])
    standing[0].start_worker(queues=["review.dead_code"], concurrency=1)

    # when
    made = result_of(standing[0].client.submit(review, Request(path=str(folder), out=str(tmp_path / "out"))))

    # then
    (gap,) = made.unchecked
    assert (gap.specialist, gap.count, gap.paths) == ("dead_code", 3, PYTHON)
    assert "without a result: failed" in gap.reason
    assert "vulture" not in made.tools


def test_a_folder_that_is_not_there_or_has_nothing_to_review_fails_the_run_with_a_clear_reason(
    tmp_path: Path, standing: list[Deployment]
) -> None:
    # given
    (tmp_path / "empty").mkdir()
    standing.append(deploy(tmp_path / "deployment"))
    standing[0].start_worker(queues=QUEUES)

    # when
    absent = standing[0].client.submit(review, Request(path=str(tmp_path / "absent")))
    empty = standing[0].client.submit(review, Request(path=str(tmp_path / "empty")))

    # then
    with pytest.raises(Exception, match="No such file or directory where the workers are; check the path"):
        absent.result(timeout=30)
    with pytest.raises(Exception, match="there is no text file to review; check path"):
        empty.result(timeout=30)
    # and a demo of it has no report to name
    assert DEMO.report([], tmp_path) is None


def test_the_demo_reviews_a_folder_and_names_its_report(tmp_path: Path) -> None:
    # given
    folder = plant(tmp_path / "folder")
    shell = Shell(tmp_path, {"CELERIAC_FLOWER_PORT": str(any_free("127.0.0.1")), "PYTHONWARNINGS": "ignore"})

    # when
    result = shell.run("demo", "review", "--input", "folder")

    # then
    assert result.code == 0, result
    assert "1 review for flow review" in result.err + result.out
    assert "1 review: 1 completed" in result.out
    (report,) = (tmp_path / ".celeriac" / "review").glob("*/report.md")
    assert f"report  {report}" in result.out
    assert reported(json.loads(report.with_suffix(".json").read_text(encoding="utf-8"))) == by_hand(folder)


def test_the_demo_refuses_a_path_that_is_not_there_before_it_starts_anything(tmp_path: Path) -> None:
    Shell(tmp_path).run("demo", "review", "--input", "absent").assert_one_line("absent", "check the path")


@pytest.mark.parametrize("path", ["", " "])
def test_the_demo_refuses_an_empty_path(tmp_path: Path, path: str) -> None:
    # when
    result = Shell(tmp_path).run("demo", "review", "--input", path)

    # then: a mistake in the command; the current folder was not meant
    assert result.code == 2
    assert result.err.endswith(
        "Invalid value for '--input': is empty; name a file or a folder, `.` for the current one\n"
    )
