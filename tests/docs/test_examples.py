"""The Python of the documentation runs as it stands there, on a real server and a real worker."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Final, cast

import pytest
from redis import Redis

from orchestrator.state import keys
from tests.docs.pages import PAGES, Block, blocks, name
from tests.integration.fleet import Worker
from tests.servers import on_valkey, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from tests.servers import Server

pytestmark = pytest.mark.integration

TIMEOUT: Final = 60.0
END: Final = "\x1e"  # printed behind each block, to tell their outputs apart
AGENT: Final = re.compile(r'^@agent\(\s*"([^"]+)"', re.MULTILINE)
MANAGED: Final = re.compile(r'ContractNet\(\s*"([^"]+)"')
MODULE: Final = re.compile(r"(?!test_)(\w+)\.py")


def has_tests(page: Path) -> bool:
    return any((block.file or "").startswith("test_") for block in blocks(page))


def pages(wanted: Callable[[Path], bool]) -> pytest.MarkDecorator:
    found = [pytest.param(page, id=name(page)) for page in PAGES if wanted(page)]
    return pytest.mark.parametrize("page", found, indirect=True)


@pytest.fixture
def page(request: pytest.FixtureRequest) -> Path:
    found: Path = request.param
    return found


@pytest.fixture
def folder(page: Path, tmp_path: Path) -> Path:
    """The page's folder, with the files it shows."""
    for block in blocks(page):
        if block.file:
            path = tmp_path / block.file
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="utf-8") as file:
                file.write(block.text + "\n\n")
    return tmp_path


@pytest.fixture
def environment(server: Server, folder: Path) -> dict[str, str]:
    """Nothing of the developer's settings; the page's modules."""
    (folder / "settings.toml").touch()
    modules = sorted(found[1] for path in folder.iterdir() if (found := MODULE.fullmatch(path.name)))
    return {name: value for name, value in os.environ.items() if not name.startswith("CELERIAC_")} | {
        "CELERIAC_CONFIG": str(folder / "settings.toml"),
        "CELERIAC_REDIS_URL": server.url,
        "CELERIAC_AGENTS": ",".join(modules),
        "CELERIAC_SWEEP": "0.2",
        "PYTHONPATH": str(folder),
    }


@pytest.fixture
def worker(environment: dict[str, str], folder: Path) -> Iterator[Worker]:
    """A worker for the page's agents."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.py"))]
    agents = [name for text in texts for name in AGENT.findall(text)]
    agents += [f"{name}.manager" for text in texts for name in MANAGED.findall(text)]
    started = Worker(["-Q", ",".join([*agents, "orchestrator"])], environment, folder, folder / "worker.log")
    try:
        yield started.wait_until_ready()
    finally:
        started.kill()


@on_valkey
@pages(lambda page: any(block.runs for block in blocks(page)))
@pytest.mark.usefixtures("worker")
def test_the_blocks_of_a_page_run_and_print_what_it_says(page: Path, folder: Path, environment: dict[str, str]) -> None:
    # given the page's blocks, in order, as one program
    found = blocks(page)
    script = folder / "blocks_of_the_page.py"
    script.write_text("\n".join(f"{block.text}\nprint({END!r})" for block in found if block.runs), encoding="utf-8")

    # when it runs
    done = run([str(script)], folder, environment)

    # then nothing fails, and each block prints what the page says
    assert done.returncode == 0, done.stderr
    printed = iter(done.stdout.split(f"{END}\n"))
    for block, said in with_output(found):
        text = next(printed)
        assert said is None or text.rstrip() == said.rstrip(), f"{name(page)}, line {block.line}"


@on_valkey
@pages(has_tests)
def test_the_tests_of_a_page_pass(page: Path, folder: Path, environment: dict[str, str]) -> None:
    tests = sorted(path.name for path in folder.glob("test_*.py"))
    done = run(["-m", "pytest", "-q", "-p", "no:cacheprovider", *tests], folder, environment)
    assert done.returncode == 0, f"{name(page)}: {done.stdout}"


@on_valkey
@pages(lambda page: page.name == "submit-runs.md")
@pytest.mark.usefixtures("worker")
def test_the_least_message_that_the_page_shows_starts_a_run(server: Server, folder: Path) -> None:
    # given the message as JSON, and a client that knows nothing of Celery
    message = (folder / "message.json").read_bytes()
    with Redis.from_url(server.url) as client:
        # when it is put on the queue, twice
        client.lpush("orchestrator", message)
        result = "celery-task-meta-ticket-482"
        wait_until(lambda: client.exists(result), TIMEOUT, "the message was worked off")
        first = json.loads(cast("bytes", client.getdel(result)))
        client.lpush("orchestrator", message)
        wait_until(lambda: client.exists(result), TIMEOUT, "the second one, too")
        # then the result is the id of a run, the same both times
        assert first["status"] == "SUCCESS"
        assert json.loads(cast("bytes", client.get(result)))["result"] == first["result"]
        run = keys.run(first["result"])
        wait_until(lambda: client.hget(run, "status") == b"completed", TIMEOUT, "the run is completed")


def with_output(found: Sequence[Block]) -> Iterator[tuple[Block, str | None]]:
    """Give the blocks that run, each with the output that stands behind it."""
    for number, block in enumerate(found):
        if block.runs:
            following = found[number + 1] if number + 1 < len(found) else None
            yield block, following.text if following and following.is_output else None


def run(arguments: Sequence[str], folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603  our own interpreter
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
