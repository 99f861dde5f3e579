"""The rota flow in real workers: it ends with a valid plan, whoever else writes, or says what it lacks."""

from __future__ import annotations

import csv
import itertools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from orchestrator import WriteConflict
from orchestrator.cli.ports import any_free
from orchestrator.state.fold_board import fold_board
from tests.command_line import Shell
from tests.integration.checks import check_all
from tests.integration.fleet import CHECKOUT, FAST, Deployment, Pool
from tests.servers import wait_until
from workers.rota import rota
from workers.rota.checker import violations
from workers.rota.models import Instance, Need, Person, Plan, Request, Week
from workers.rota.reading import INSTANCES, load_instance

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator import Run

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("rota")]

AGENTS: Final = ("workers.rota",)
QUEUES: Final = tuple(f"rota.{name}" for name in ("fill", "repair", "improve", "audit", "publish"))
KIOSK: Final = load_instance(INSTANCES / "kiosk.yaml")
BOARD: Final = "planning/board"


@pytest.fixture(scope="module", params=["asyncio", "prefork"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A worker for all sources, on either pool."""
    made = Deployment("valkey", tmp_path_factory.mktemp("rota"), settings=FAST, agents=AGENTS, path=(CHECKOUT,))
    made.client.settings = made.settings.model_copy(update={"agents": AGENTS})
    pool: Pool = request.param
    made.start_worker(queues=QUEUES, pool=pool, concurrency=4).wait_until_ready()
    yield made
    check_all(made)
    made.close()


def result_of(run: Run) -> Plan:
    """Wait for a plan."""
    result = run.result(timeout=60)
    assert isinstance(result, Plan)
    return result


def folds(deployment: Deployment, run: Run) -> None:
    """Fail unless the board is what its log folds to."""
    assert deployment.client.boards.load(run.id, BOARD) == fold_board(BOARD, run.events())


def test_a_plan_is_valid_and_written_as_a_page_a_table_and_data(place: Deployment, tmp_path: Path) -> None:
    # when a rota is asked for
    run = place.client.submit(rota, Request(instance=KIOSK, out=str(tmp_path)))
    plan = result_of(run)
    # then it keeps every rule, by the checker
    assert (plan.outcome, plan.audit.open, plan.audit.broken) == ("goal", 0, 0)
    assert violations(KIOSK, plan.weeks) == []
    assert not run.state().degraded
    # and all its forms say the same
    given = {
        (str(date), who, what) for week in plan.weeks for date, on in week.given.items() for who, what in on.items()
    }
    with Path(plan.files["csv"]).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(row["date"], row["person"], row["shift"]) for row in rows} == given
    data = json.loads(Path(plan.files["json"]).read_text(encoding="utf-8"))
    assert [Week.model_validate(week) for week in data["weeks"]] == list(plan.weeks)
    page = Path(plan.files["html"]).read_text(encoding="utf-8")
    assert page.count('<i class="shift0">') == 1 + sum(what == "morning" for _, _, what in given)
    folds(place, run)


@pytest.mark.parametrize("place", ["prefork"], indirect=True)  # what is searched for, and how long, is the same on both
def test_where_people_are_missing_the_plan_says_how_many_and_where(place: Deployment, tmp_path: Path) -> None:
    # given a shift on seven days for one who may work six in a row
    scarce = Instance(
        name="Night desk",
        first=KIOSK.first,
        weeks=1,
        shifts=KIOSK.shifts,
        needs=(Need(shift="evening", people=1, days=("mon", "tue", "wed", "thu", "fri", "sat")),),
        people=(Person(id="ann", name="Ann", hours=35),),
        rules=KIOSK.rules.model_copy(update={"hours": 35, "weekends": 0}),
    )
    # when it is planned, then the board is quiet when nothing better is found
    run = place.client.submit(rota, Request(instance=scarce, out=str(tmp_path)))
    plan = result_of(run)
    assert (plan.outcome, plan.audit.open, plan.audit.broken) == ("quiet", 1, 0)
    assert "1 missing on" in Path(plan.files["html"]).read_text(encoding="utf-8")
    assert run.state().degraded
    folds(place, run)


def test_what_a_person_writes_meanwhile_is_mended_and_not_lost_unseen(place: Deployment, tmp_path: Path) -> None:
    run = place.client.submit(rota, Request(instance=KIOSK, out=str(tmp_path)))
    board = run.board(by="ann")
    wait_until(lambda: board.get("week.2"), 20, "the second week is there")
    # when somebody breaks rules while the sources are at work: Cy has no mornings
    wrong = Week(number=2, given={KIOSK.date(day): {"cy": "morning"} for day in range(7, 14)})
    for _ in itertools.count():
        board.get("week.2")
        try:
            board.write({"week.2": wrong})
            break
        except WriteConflict:
            continue
    # then the rota is valid all the same, and the log says who has written what
    plan = result_of(run)
    assert violations(KIOSK, plan.weeks) == []
    assert plan.outcome == "goal"
    authors = {str(event.data["by"]) for event in run.events() if event.type == "EntriesWritten"}
    assert {"ann", "fill", "audit"} <= authors
    folds(place, run)


def test_the_demo_shows_a_table_and_names_the_page(tmp_path: Path) -> None:
    shell = Shell(tmp_path, {"CELERIAC_FLOWER_PORT": str(any_free("127.0.0.1")), "PYTHONWARNINGS": "ignore"})
    done = shell.run("demo", "rota", "--input", str(INSTANCES / "kiosk.yaml"))
    assert done.code == 0, done
    assert "every slot is filled and every rule kept" in done.out
    assert "Ann" in done.out
    page = next(line.split()[1] for line in done.out.splitlines() if line.startswith("report"))
    assert Path(page).read_text(encoding="utf-8").startswith("<!doctype html>")


def test_an_input_that_cannot_be_planned_is_refused_before_anything_starts(tmp_path: Path) -> None:
    Shell(tmp_path).run("demo", "rota", "--input", "none.yaml").assert_one_line("none.yaml", "there is no such file")
    assert not (tmp_path / ".celeriac").exists()
