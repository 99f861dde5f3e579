"""A real HTTP server that speaks a language model's protocol, and says what a test has prepared."""

from __future__ import annotations

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Iterator

Json = dict[str, object]


class Endpoint(BaseHTTPRequestHandler):
    """Gives the prepared answers in turn, the last one for ever; keeps what it was asked."""

    answers: ClassVar[list[tuple[int, Json]]] = []
    asked: ClassVar[list[tuple[str, str]]] = []
    keys: ClassVar[list[str | None]] = []

    def do_POST(self) -> None:
        """Answer."""
        length = int(self.headers["Content-Length"])
        self.asked.append((self.path, self.rfile.read(length).decode()))
        self.keys.append(self.headers["Authorization"])
        status, body = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        self.respond(status, body)

    def respond(self, status: int, body: Json) -> None:
        """Send an answer."""
        encoded = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(encoded)))
        self.send_header("Retry-After-Ms", "1")  # the client's own backoff would be half a second
        self.end_headers()
        self.wfile.write(encoded)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class's name
        """Keep the test's output clean."""


def completion(content: str | None, **more: object) -> Json:
    """Return an answer as the protocol has it."""
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}} | more
    usage = {"prompt_tokens": 30, "completion_tokens": 12, "total_tokens": 42}
    return {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}


@contextlib.contextmanager
def serving(endpoint: type[Endpoint]) -> Iterator[str]:
    """Serve it; gives its address."""
    endpoint.answers, endpoint.asked, endpoint.keys = [], [], []
    server = ThreadingHTTPServer(("127.0.0.1", 0), endpoint)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
