"""The synthesiser: removes duplicates, ranks, says what was not checked, and writes it down in three formats."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

from orchestrator import Context, Outcome, Results, agent, get_settings
from workers.files import write_atomically
from workers.review.documents import Review, as_json, as_markdown
from workers.review.errors import NothingToReview
from workers.review.inventory import Inventory, take_inventory
from workers.review.merge import merge
from workers.review.models import SEVERITIES, Findings, Gap, Report, Request, Unchecked
from workers.review.plan import SPECIALISTS, readable
from workers.review.sarif import as_sarif
from workers.visible import one_line

EVERYONE: Final = "all"
MAX_ISSUES: Final = 100  # in what the run returns; the files have all
MAX_PATHS: Final = 50  # of a gap
MAX_REASON: Final = 300  # characters

_FORMATS: Final[dict[str, tuple[str, Callable[[Review], str]]]] = {
    "markdown": ("report.md", as_markdown),
    "json": ("report.json", as_json),
    "sarif": ("report.sarif", as_sarif),
}


@agent("review.report", timeout=300.0)
def report(ctx: Context, results: Results[Request, Findings]) -> Report:
    """
    Make a report of what the specialists have found, whatever is missing of it.

    Raises:
        OSError: the folder for the reports cannot be written to.
    """
    done = [outcome.value for outcome in results.outcomes if outcome.value is not None]
    root, files, gaps = coverage(results)
    found = [(one.tool, finding) for one in done for finding in one.findings]
    issues = merge(found)
    review = Review(
        root=root,
        files=files,
        assignments=len(results.outcomes),
        issues=tuple(issues),
        duplicates=len(found) - len(issues),
        severities=_counted(SEVERITIES, (issue.severity for issue in issues)),
        tools=_counted(sorted({one.tool for one in done}), (tool for tool, _ in found)),
        versions={one.tool: one.version for one in sorted(done, key=lambda one: one.tool)},
        unchecked=tuple(gaps),
        total=len(issues),
        written={},
    )
    # In a folder of the run's own: the three files of two runs shall not mix, whoever writes last.
    out = Path(results.task.out or get_settings().data_dir.resolve() / "review") / ctx.run_id
    written = {}
    for form, (name, render) in _FORMATS.items():
        write_atomically(out / name, render(review))
        written[form] = str(out / name)
    return Report(
        root=review.root,
        files=review.files,
        assignments=review.assignments,
        total=len(review.issues),
        duplicates=review.duplicates,
        severities=review.severities,
        tools=review.tools,
        issues=review.issues[:MAX_ISSUES],
        unchecked=review.unchecked,
        written=written,
    )


def coverage(results: Results[Request, Findings]) -> tuple[str, int, list[Gap]]:
    """
    Compare what is there with what the specialists say they have read, which needs nothing of those that are silent.

    Returns:
        The folder, how many files there are, and what was not checked.
    """
    try:
        inventory = take_inventory(results.task)
    except NothingToReview as error:
        gap = Gap(specialist=EVERYONE, reason=f"gone while it was reviewed: {error}", count=1, paths=())
        return results.task.path, 0, [gap]
    gaps = list(_grouped(EVERYONE, inventory.left_out))
    for name in SPECIALISTS:
        gaps += _gaps(name, inventory, [outcome for outcome in results.outcomes if outcome.worker == name])
    return str(inventory.root), len(inventory.entries), gaps


def _gaps(name: str, inventory: Inventory, outcomes: list[Outcome[Findings]]) -> Iterator[Gap]:
    done = [outcome.value for outcome in outcomes if outcome.value is not None]
    told = [one for findings in done for one in findings.unchecked]
    yield from _grouped(name, told)
    known = {path for findings in done for path in findings.checked} | {one.path for one in told}
    silent = [entry.path for entry in readable(name, inventory.entries) if entry.path not in known]
    failed = [outcome for outcome in outcomes if outcome.value is None]
    if not silent and not failed:
        return
    reasons = Counter(_reason(outcome) for outcome in failed)
    why = "; ".join(reason for reason, _ in sorted(reasons.items(), key=lambda one: (-one[1], one[0]))[:3])
    if failed:
        why = f"{len(failed):,} of {len(outcomes):,} assignments without a result: {why}"
    yield Gap(
        specialist=name,
        reason=why or "not assigned: it was not there when the work was split",
        count=len(silent),
        paths=tuple(silent[:MAX_PATHS]),
    )


def _reason(outcome: Outcome[Findings]) -> str:
    reason = one_line(outcome.reason or "no reason given")[:MAX_REASON]
    return f"{outcome.status}: {reason}"


def _grouped(name: str, unchecked: Iterable[Unchecked]) -> Iterator[Gap]:
    by_reason: dict[str, list[str]] = defaultdict(list)
    for one in unchecked:
        by_reason[one.reason].append(one.path)
    for reason, paths in sorted(by_reason.items()):
        yield Gap(specialist=name, reason=reason, count=len(paths), paths=tuple(sorted(paths)[:MAX_PATHS]))


def _counted(names: Iterable[str], found: Iterable[str]) -> dict[str, int]:
    counts = Counter(found)
    return {name: counts[name] for name in names}
