"""
The service: a small HTTP server on a free port, on a thread of its own, that does what it is told.

    ok        answers after `LATENCY` seconds
    limited   429 at once, with Retry-After
    broken    500 at once
    hanging   takes the request and says nothing
    dripping  a byte now and then, and never the last one
    resetting drops the connection by RST
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import Final, Literal, Self

Phase = Literal["ok", "limited", "broken", "hanging", "dripping", "resetting"]

LATENCY: Final = 0.02
DRIP: Final = 0.1
BODY: Final = b'{"said": "hello"}'
NEVER: Final = 3600.0
ABORT: Final = struct.pack("ii", 1, 0)  # linger for no time: closing resets the connection


@dataclass(frozen=True)
class Call:
    """A request: when it arrived (s since the epoch), and the phase it met."""

    at: float
    phase: Phase


class Service:
    """
    Serve until closed.

    Args:
        retry_after: what it says where it says 429, in seconds.

    Attributes:
        calls: all requests so far; `answered`: when it gave each good answer; `failed`: when every other call was over.
        most: how many requests it had at a time, by phase.
    """

    def __init__(self, *, retry_after: int = 1) -> None:
        self.calls: list[Call] = []
        self.answered: list[float] = []
        self.failed: list[float] = []
        self.most: Counter[Phase] = Counter()
        self._phase: Phase = "ok"
        self._retry_after = retry_after
        self._now = 0
        self._loop = asyncio.new_event_loop()
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve_for_ever, name="service", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def turn(self, phase: Phase) -> float:
        """Behave so from now on; what has arrived already goes on as it was. Returns when (s since the epoch)."""
        self._phase = phase
        return time.time()

    def calls_during(self, *phases: Phase) -> int:
        """Return how many requests met one of these phases."""
        return sum(call.phase in phases for call in self.calls)

    def most_within(self, seconds: float) -> int:
        """Return the most requests that arrived within so many seconds, anywhere."""
        times = [call.at for call in self.calls]
        first = most = 0
        for last, at in enumerate(times):
            while times[first] <= at - seconds:
                first += 1
            most = max(most, last - first + 1)
        return most

    def _serve_for_ever(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, sock=self._socket))
        self._loop.run_forever()
        server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            await reader.readuntil(b"\r\n\r\n")
            phase = self._phase
            self.calls.append(Call(time.time(), phase))
            self._now += 1
            self.most[phase] = max(self.most[phase], self._now)
            try:
                await self._answer(phase, reader, writer)
            finally:
                self._now -= 1
                if phase != "ok":
                    self.failed.append(time.time())
            await writer.drain()
        writer.close()

    async def _answer(self, phase: Phase, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        match phase:
            case "ok":
                await asyncio.sleep(LATENCY)
                if not reader.at_eof():  # else the caller has given up, and will ask again
                    self.answered.append(time.time())
                writer.write(_response("200 OK", len(BODY)) + BODY)
            case "limited":
                writer.write(_response("429 Too Many Requests", 0, f"Retry-After: {self._retry_after}\r\n"))
            case "broken":
                writer.write(_response("500 Internal Server Error", 0))
            case "hanging":
                await reader.read()  # until the caller hangs up
            case "dripping":
                writer.write(_response("200 OK", int(NEVER / DRIP)))
                while not reader.at_eof():
                    writer.write(b" ")
                    await writer.drain()
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(reader.read(), DRIP)
            case "resetting":
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
                writer.transport.abort()


def _response(status: str, length: int, more: str = "") -> bytes:
    lines = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n"
    return f"{lines}{more}Connection: close\r\n\r\n".encode()
