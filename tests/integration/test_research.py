"""The research flow in real workers: four members agree on an answer whose every citation stands in the files."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from orchestrator import RunFailed
from orchestrator.cli.ports import any_free
from orchestrator.state.fold_conversation import fold_conversation
from tests.command_line import Shell
from tests.endpoint import serving
from tests.integration.checks import check_all
from tests.integration.fleet import CHECKOUT, FAST, Deployment, Pool
from tests.researching import DOCS, HALVES, cases, plant
from tests.researching.flows import hurried
from tests.researching.model import PROSE, Scholar
from workers.research import research
from workers.research.models import Question, Report

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator import Run

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("research")]

AGENTS: Final = ("workers.research", "tests.researching.flows")
MEMBERS: Final = ("proposer", "critic", "fact_checker", "scribe")
QUEUES: Final = tuple(f"research.{name}" for name in (*MEMBERS, "publish"))
TALK: Final = "debate/talk"
NEED: Final = 8
"""Questions of ten whose right page must be among the first three citations; 9 were measured, of either ten."""


def deploy(folder: Path, **env: str) -> Deployment:
    """Start a server."""
    folder.mkdir(exist_ok=True)
    made = Deployment("valkey", folder, settings=FAST, agents=AGENTS, path=(CHECKOUT,), env=env)
    made.client.settings = made.settings.model_copy(update={"agents": AGENTS})
    return made


@pytest.fixture(scope="module", params=["asyncio", "prefork"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A worker for all members, on either pool."""
    made = deploy(tmp_path_factory.mktemp("research"))
    pool: Pool = request.param
    made.start_worker(queues=QUEUES, pool=pool, concurrency=4).wait_until_ready()
    yield made
    check_all(made)
    made.close()


@pytest.fixture
def single(tmp_path: Path) -> Iterator[Deployment]:
    """A worker with one slot for all members: who waits for a reply must not hold it."""
    made = deploy(tmp_path / "deployment")
    made.start_worker(queues=QUEUES, pool="solo", concurrency=1).wait_until_ready()
    yield made
    check_all(made)
    made.close()


def report_of(run: Run) -> Report:
    """Wait for an answer."""
    result = run.result(timeout=60)
    assert isinstance(result, Report)
    return result


def stands(folder: Path, report: Report) -> None:
    """Fail unless every citation is in the lines that it names, by the file alone."""
    for point in report.answer.points:
        lines = (folder / point.evidence.path).read_text(encoding="utf-8").split("\n")
        assert "\n".join(lines[point.evidence.first - 1 : point.evidence.last]) == point.evidence.quote


def said(run: Run) -> list[dict[str, Any]]:
    """Return what was said, as the log has it."""
    return [dict(event.data) for event in run.events() if event.type == "MessageSent"]


def asked(folder: Path, text: str, out: Path | None = None) -> Question:
    return Question(text=text, folders=(str(folder),), out=None if out is None else str(out))


def test_four_members_agree_on_an_answer_whose_citations_stand(place: Deployment, tmp_path: Path) -> None:
    # given two documents
    docs = plant(tmp_path / "docs")
    # when a question is asked
    run = place.client.submit(research, asked(docs, "What does a berth cost a night?", tmp_path / "out"))
    report = report_of(run)
    # then the answer is the line that has it
    best = report.answer.points[0]
    assert (best.text, best.evidence.place) == ("A berth costs 20 crowns a night.", "harbour.md:6")
    assert report.answer.text.startswith("A berth costs 20 crowns a night. [1]")
    stands(docs, report)
    # and all four were for it
    assert (report.outcome, set(report.agreed), report.dissent) == ("consensus", set(MEMBERS), ())
    # and all forms say the same
    page = Path(report.written["markdown"]).read_text(encoding="utf-8")
    assert "`harbour.md:6`" in page
    data = json.loads(Path(report.written["json"]).read_text(encoding="utf-8"))
    assert data["answer"]["points"][0]["evidence"]["quote"] == "- A berth costs 20 crowns a night."
    # and the conversation is what its log folds to
    assert place.client.conversations.load(run.id, TALK) == fold_conversation(TALK, run.events())


def test_the_argument_is_one(place: Deployment, tmp_path: Path) -> None:
    # given a sentence that the next one takes back
    docs = plant(tmp_path / "docs")
    # when it is what the best evidence says
    run = place.client.submit(research, asked(docs, "When does the lease end?", tmp_path / "out"))
    report = report_of(run)
    # then the critic has asked the fact-checker about each claim, and rejected one, which was put right
    lines = said(run)
    kinds = Counter(str(line["kind"]) for line in lines)
    claims = [line for line in lines if line["kind"] == "propose" and line.get("type") == "Claim"]
    assert kinds["ask"] == kinds["reply"] == len(claims)
    assert kinds["reject"] >= 1
    narrow = next(each for each in report.answer.refused if each.why == "narrow")
    assert (narrow.by, narrow.place) == ("critic", "leases.md:3")
    assert "But a worker that is alive renews it every three seconds." in report.answer.text
    # and messages carry claims, whatever the size of the documents
    assert (
        max(len(place.client.store.value(run.id, str(line["value"])) or b"") for line in lines if line.get("value"))
        < 5_000
    )
    stands(docs, report)


def test_what_no_document_answers_is_said(place: Deployment, tmp_path: Path) -> None:
    docs = plant(tmp_path / "docs")
    report = report_of(
        place.client.submit(research, asked(docs, "Who composed the zygomorphic fugue?", tmp_path / "out"))
    )
    assert (report.answer.points, report.answer.lacking) == ((), ("composed", "zygomorphic", "fugue"))
    assert "The documents do not answer this." in Path(report.written["markdown"]).read_text(encoding="utf-8")
    assert report.outcome == "consensus"


def test_a_folder_that_the_workers_do_not_see_fails_the_run_with_the_reason(place: Deployment, tmp_path: Path) -> None:
    run = place.client.submit(research, asked(tmp_path / "none", "What?"))
    with pytest.raises(RunFailed, match="No such file or directory where the workers are; check the path"):
        run.result(timeout=30)


@pytest.mark.parametrize("half", HALVES)
def test_the_right_page_is_among_the_first_citations(place: Deployment, tmp_path: Path, half: str) -> None:
    # given questions about this repository's documentation, not in its words
    chosen = cases(half)
    runs = place.client.submit_many(research, [asked(DOCS, case.text, tmp_path / "out") for case in chosen])
    reports = [report_of(run) for run in runs]
    # then most are answered from the right page, and where it says so
    first = [[point.evidence for point in report.answer.points[:3]] for report in reports]
    pages = [
        any(page == one.path for page, _ in case.places for one in found)
        for case, found in zip(chosen, first, strict=True)
    ]
    lines = [
        any(page == one.path and one.first <= line <= one.last for page, line in case.places for one in found)
        for case, found in zip(chosen, first, strict=True)
    ]
    missed = [case.text for case, right in zip(chosen, pages, strict=True) if not right]
    assert sum(pages) >= NEED, missed
    assert sum(lines) >= NEED - 2, missed
    for report in reports:
        stands(DOCS, report)


def test_a_quotation_that_has_moved_since_is_found_out_and_cited_where_it_is(
    single: Deployment, tmp_path: Path
) -> None:
    # given a worker whose index knows a document
    docs = plant(tmp_path / "docs")
    out = tmp_path / "out"
    report = report_of(single.client.submit(research, asked(docs, "What does a berth cost a night?", out)))
    assert report.answer.points[0].evidence.first == 6
    # when the document changes, and does not look changed
    page = docs / "harbour.md"
    text, status = page.read_text(), page.stat()
    lines = text.split("\n")
    page.write_text("\n".join([*lines[:5], lines[6], lines[5], *lines[7:]]))
    os.utime(page, ns=(status.st_atime_ns, status.st_mtime_ns))
    # then the index is wrong, the fact-checker says so, and the answer is right
    report = report_of(single.client.submit(research, asked(docs, "What does a berth cost a night?", out)))
    refused = next(each for each in report.answer.refused if each.why == "quotation")
    assert refused.place == "harbour.md:6"
    assert report.answer.points[0].evidence.place == "harbour.md:7"
    stands(docs, report)
    assert report.outcome == "consensus"


def test_where_a_member_is_silent_the_run_ends_in_time_with_the_reason(tmp_path: Path) -> None:
    # given no worker for the fact-checker
    made = deploy(tmp_path / "deployment")
    try:
        made.start_worker(queues=[queue for queue in QUEUES if "fact" not in queue], pool="asyncio").wait_until_ready()
        # when a question is asked with little time
        run = made.client.submit(hurried, asked(plant(tmp_path / "docs"), "What does a berth cost?", tmp_path / "out"))
        # then it is not waited for, and the reason names the end and what to do
        with pytest.raises(RunFailed, match=r"deadline, .*nothing was proposed that can be decided, which is Answer"):
            run.result(timeout=30)
    finally:
        made.close()


def test_a_model_writes_prose_and_no_call_is_paid_twice(tmp_path: Path) -> None:
    # given a model
    Scholar.reset()
    with serving(Scholar) as url:
        made = deploy(tmp_path / "deployment", CELERIAC_MODEL="tiny", CELERIAC_MODEL_URL=url)
        try:
            made.start_worker(queues=QUEUES, pool="asyncio", concurrency=8).wait_until_ready()
            docs = plant(tmp_path / "docs")
            run = made.client.submit(research, asked(docs, "What does a berth cost?", tmp_path / "out"))
            report, lines, state = report_of(run), said(run), run.state()
            calls = Scholar.calls.copy()
            Scholar.prose = "It costs 99 crowns [1]."
            made_up = report_of(
                made.client.submit(research, asked(docs, "What does a berth cost?", tmp_path / "out"), key="again")
            )
            check_all(made)
        finally:
            made.close()
    # then the answer is the model's, and rests on quotations that stand
    assert (report.answer.text, report.answer.written_by) == (PROSE, "model:tiny")
    stands(docs, report)
    # and the critic, whose turns begin twice as they ask the fact-checker, has asked the model once for each claim
    let_stand = [line for line in lines if line["from"] == "critic" and line.get("type") == "Assent"]
    assert calls["judgement"] == len(let_stand) > 0
    assert state.tokens == 42 * sum(calls.values())
    # and prose with a number that no quotation has is not agreed on: the claims speak for themselves
    assert (made_up.outcome, made_up.answer.written_by) == ("consensus", "extract")
    assert "99" not in made_up.answer.text


def test_the_demo_shows_the_answer_with_its_citations_and_names_the_report(tmp_path: Path) -> None:
    plant(tmp_path / "docs")
    shell = Shell(tmp_path, {"CELERIAC_FLOWER_PORT": str(any_free("127.0.0.1")), "PYTHONWARNINGS": "ignore"})
    done = shell.run("demo", "research", "--input", "docs", "--question", "What does a berth cost a night?")
    assert done.code == 0, done
    assert "A berth costs 20 crowns a night. [1]" in done.out
    assert "[1] harbour.md:6" in done.out
    report = next(line.split()[1] for line in done.out.splitlines() if line.startswith("report"))
    assert Path(report).read_text(encoding="utf-8").startswith("# What does a berth cost a night?")


def test_what_cannot_be_asked_is_refused_before_anything_starts(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    shell.run("demo", "research", "--input", "none").assert_one_line("none: there is no such file or folder")
    shell.run("demo", "research", "--question", " ? ").assert_one_line("the question is empty: ask something")
    shell.run("demo", "rota", "--question", "who?").assert_one_line(
        "'rota' answers no questions", "leave --question out"
    )
    assert not (tmp_path / ".celeriac").exists()
