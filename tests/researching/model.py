"""A language model that knows the research flow's questions, as an HTTP server."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import ClassVar

from tests.endpoint import Endpoint, completion

PROSE = "As it is written, it is so [1]."


class Scholar(Endpoint):
    """
    Answers what it is asked, by the instructions.

    Attributes:
        calls: how often it was asked for claims, a judgement, an answer.
        verdict: its judgement of every claim; `prose`: its answer; `helpful`: which quotations it makes claims of.
    """

    calls: ClassVar[Counter[str]] = Counter()
    verdict: ClassVar[str] = "accept"
    prose: ClassVar[str] = PROSE
    helpful: ClassVar[tuple[int, ...]] = (1, 2, 3)

    @classmethod
    def reset(cls) -> None:
        """Forget it all."""
        cls.calls, cls.verdict, cls.prose, cls.helpful = Counter(), "accept", PROSE, (1, 2, 3)

    def do_POST(self) -> None:  # noqa: N802  the base class's name
        """Answer."""
        given = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.asked.append((self.path, given))
        body = json.loads(given)
        kind = body["response_format"]["json_schema"]["name"]
        text = body["messages"][1]["content"]
        self.calls[kind] += 1
        if kind == "sentences":
            there = {int(number) for number in re.findall(r"^\[(\d+)\] ", text, re.MULTILINE)}
            claims = [{"quotation": number, "text": "It is written so."} for number in self.helpful if number in there]
            answer: object = {"claims": claims}
        elif kind == "judgement":
            answer = {"reason": "by what it says", "verdict": self.verdict}
        else:
            answer = {"text": self.prose}
        self.respond(200, completion(json.dumps(answer)))
