"""Deployments for the integration tests; see `fleet.Deployment`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, cast

import pytest

from tests.integration.checks import check_all
from tests.integration.fleet import Deployment
from tests.servers import Kind, missing

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from tests.integration.fleet import Pool

    Make = Callable[..., Deployment]

FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let one of pytest-xdist's processes run all tests of a shared deployment, so that there is one of each."""
    for item in items:
        if isinstance(item, pytest.Function) and "shared" in item.fixturenames:
            item.add_marker(pytest.mark.xdist_group(f"shared-{item.callspec.params['deployment']}"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Tell a test's fixtures whether it failed, and put the workers' log beside the failure."""
    report = yield
    if report.failed:
        item.stash[FAILED] = True
        if call.when == "call":
            for value in getattr(item, "funcargs", {}).values():
                if isinstance(value, Deployment):
                    report.sections.append(("workers' log", value.last_log()))
    return report


@pytest.fixture(scope="session", autouse=True)
def _settings_of_nobody(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What the developer's shell and folder set does not count."""
    nothing = tmp_path_factory.mktemp("config") / "settings.toml"
    nothing.touch()
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("CELERIAC_")]:
            patch.delenv(name)
        patch.setenv("CELERIAC_CONFIG", str(nothing))
        yield


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Kind, Pool], Deployment]]:
    """Deployments with a worker, which tests share that kill nothing; made when first asked for."""
    made: dict[tuple[Kind, Pool], Deployment] = {}

    def get(kind: Kind, pool: Pool) -> Deployment:
        if why := missing(kind):
            pytest.skip(why)
        if (kind, pool) not in made:
            # Half of them have a broker of their own, so that both layouts are tried.
            made[kind, pool] = Deployment(kind, tmp_path_factory.mktemp(f"{kind}-{pool}"), own_broker=pool != "prefork")
            made[kind, pool].start_worker(pool=pool).wait_until_ready()
        return made[kind, pool]

    yield get
    for deployment in made.values():
        deployment.close()


@pytest.fixture(params=["valkey-prefork"])
def deployment(request: pytest.FixtureRequest, shared: Callable[[Kind, Pool], Deployment]) -> Iterator[Deployment]:
    """A shared deployment; afterwards all its runs have ended, and nothing is left that should not be."""
    kind, pool = cast("str", request.param).split("-")
    found = shared(cast("Kind", kind), cast("Pool", pool))
    yield found
    (found.floor / "all.go").unlink(missing_ok=True)
    if FAILED in request.node.stash:
        found.checked.clear()
    else:
        check_all(found)


@pytest.fixture
def make(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Make]:
    """Deployments of a test's own, which it may break; made without workers, checked and closed afterwards."""
    made: list[Deployment] = []

    def new(kind: Kind = "valkey", **options: object) -> Deployment:
        if why := missing(kind):
            pytest.skip(why)
        deployment = Deployment(kind, tmp_path_factory.mktemp("deployment"), **options)  # type: ignore[arg-type]  # passed on
        made.append(deployment)
        return deployment

    yield new
    try:
        if FAILED not in request.node.stash:
            for deployment in made:
                check_all(deployment)
        else:
            for deployment in made:
                print(deployment.last_log())  # noqa: T201  pytest shows it with the failure
    finally:
        for deployment in made:
            deployment.close()
