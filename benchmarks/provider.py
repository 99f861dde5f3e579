"""
What an outage of a provider costs: agents behind guards, bare agents that try again, and plain Celery with its retries.

A local HTTP server is well, answers 429, then 500, hangs, drips, resets connections, and is well again, while an equal
share of the runs is submitted in each phase. Each side has a server of its own, one after another. Agents run on the
asyncio pool with 32 slots; plain Celery on prefork, whose soft time limit ends a call that drips, with as many
processes as the guarded agent may make calls at a time. It has as many attempts as that agent, and pauses as by
`retry_backoff=True`, up to Celery's 10 min, and with `retry_backoff_max` up to the agent's 1 s.
"""

from __future__ import annotations

import sys
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from celery import Celery
from pydantic import SecretStr

from benchmarks.measuring import Bench
from benchmarks.outage.agents import AT_ONCE
from benchmarks.outage.flows import bare_flow, guarded_flow
from benchmarks.outage.plain import ASK, ASK_SOON
from benchmarks.outage.service import Service
from benchmarks.outage.trial import OUTAGE, RETRY_AFTER, SLOTS, TICK, go_through, recovered_after
from orchestrator import Client, RunFailed, Settings
from orchestrator.cli.fleet import CUSTOM_POOL

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery.result import AsyncResult

    from orchestrator import Pipeline, Run

TIMEOUT: Final = 180.0
"""Seconds for a result."""
OURS: Final[dict[str, Pipeline]] = {"guarded": guarded_flow, "bare": bare_flow}
PLAIN: Final = {"plain": ASK, "plain, up to 1 s": ASK_SOON}
AGENTS: Final = "benchmarks.outage.flows"


@dataclass(frozen=True)
class Measured:
    """
    One side.

    Attributes:
        calls: by phase of the outage.
        most: calls at a time, at most.
        recovered: seconds from when the provider was up, or from the last call that had found it down, to its first
            good answer.
        done: seconds from when it was up to the last result; `total`: from the first submit.
        lost: runs without a result; `cpu`: seconds of the worker and its children.
    """

    calls: dict[str, int]
    most: int
    recovered: float
    done: float
    total: float
    lost: int
    cpu: float

    @property
    def in_vain(self) -> int:
        """All calls in the outage."""
        return sum(self.calls.values())


def measure(side: str, count: int) -> Measured:
    """Put so many runs through the outage."""
    with Service(retry_after=RETRY_AFTER) as service, Bench.fresh(plain=side in PLAIN, agents=AGENTS) as bench:
        through = _ours if side in OURS else _plain
        return through(bench, service, side, count)


def _ours(bench: Bench, service: Service, side: str, count: int) -> Measured:
    chosen = {"tick": TICK, "lease": 3.0}
    extra = {f"CELERIAC_{name.upper()}": str(value) for name, value in chosen.items()} | CUSTOM_POOL
    arguments = ["-A", "orchestrator.app", "worker", "-Q", f"provider.{side}", "-P", "custom", "-c", str(SLOTS)]
    bench.start_worker(arguments, {**extra, f"PROVIDER_{side.upper()}": service.url})
    client = Client(Settings(redis_url=SecretStr(bench.url), agents=(AGENTS,), tick=TICK, lease=3.0))
    runs: list[Run] = []

    def submit(share: range) -> None:
        runs.extend(client.submit_many(OURS[side], [{"text": str(one)} for one in share]))

    def lost() -> Iterator[bool]:
        for run in runs:
            try:
                run.result(timeout=TIMEOUT)
            except RunFailed:
                yield True

    submit(range(1))
    runs.pop().result(timeout=TIMEOUT)  # the worker is there
    started, before = time.time(), bench.spent()
    up_at = go_through([service], submit, runs=count)
    found = _measured(service, lost=sum(lost()), started=started, up_at=up_at, cpu=bench.spent().since(before).worker)
    client.app.close()
    client.store.client.close()
    return found


def _plain(bench: Bench, service: Service, side: str, count: int) -> Measured:
    arguments = ["-A", "benchmarks.outage.plain:plain", "worker", "-Q", "plain", "-c", str(AT_ONCE)]
    bench.start_worker(arguments, {"PROVIDER_PLAIN": service.url})
    results: list[AsyncResult] = []
    with Celery("producer", broker=bench.plain_url, backend=bench.plain_url, set_as_current=False) as producer:

        def submit(share: range) -> None:
            results.extend(producer.send_task(PLAIN[side], (str(one),), queue="plain") for one in share)

        submit(range(1))
        results.pop().get(timeout=TIMEOUT)
        started, before = time.time(), bench.spent()
        up_at = go_through([service], submit, runs=count)
        for result in results:
            result.get(timeout=TIMEOUT, propagate=False)
        lost = sum(result.failed() for result in results)
        return _measured(service, lost=lost, started=started, up_at=up_at, cpu=bench.spent().since(before).worker)


def _measured(service: Service, *, lost: int, started: float, up_at: float, cpu: float) -> Measured:
    now = time.time()
    return Measured(
        calls={phase: service.calls_during(phase) for phase, _ in OUTAGE},
        most=max(service.most.values()),
        recovered=recovered_after(service, up_at),
        done=now - up_at,
        total=now - started,
        lost=lost,
        cpu=cpu,
    )


def main(*, count: int, rounds: int) -> dict[str, Any]:
    """
    Measure every side; of several rounds the one counts whose last result came first.

    Args:
        count: runs of each side.

    Returns:
        The figures, for JSON.
    """
    best: dict[str, Measured] = {}
    for _ in range(rounds):
        for side in (*OURS, *PLAIN):
            found = measure(side, count)
            if side not in best or found.total < best[side].total:
                best[side] = found
            print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return {"count": count, "sides": {side: asdict(found) | {"in vain": found.in_vain} for side, found in best.items()}}


def show(found: dict[str, Any]) -> None:
    """Print the table."""
    phases = [phase for phase, _ in OUTAGE]
    lasts = ", ".join(f"{phase} {seconds:g} s" for phase, seconds in OUTAGE)
    print(f"{found['count']:,} runs through an outage ({lasts}): calls by phase")
    print(
        f"{'':18}{''.join(f'{phase:>11}' for phase in phases)}{'in vain':>9}{'at once':>9}{'recovered':>11}"
        f"{'done':>9}{'total':>9}{'lost':>6}{'CPU':>9}"
    )
    for side, row in found["sides"].items():
        calls = "".join(f"{row['calls'][phase]:11,}" for phase in phases)
        print(
            f"{side:18}{calls}{row['in vain']:9,}{row['most']:9}"
            f"{row['recovered']:9.2f} s{row['done']:7.1f} s{row['total']:7.1f} s{row['lost']:6}{row['cpu']:7.1f} s"
        )
