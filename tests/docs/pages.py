"""
The pages of the documentation, and the blocks in them that a test can run.

What follows the language of a fenced block says what it is for; a reader does not see it:

    ```python file=support.py      written to this file of the page's folder; several blocks make one file
    ```python                      run in the page's folder, after the blocks above it
    ```text output                 what the python block above prints
    ```python not-run              only shown
    ```sh                          commands: their names and options must exist
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
FENCE: Final = re.compile(
    r"^(?P<indent> *)```(?P<info>[^\n`]+)\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL
)
FILE: Final = "file="


@dataclass(frozen=True)
class Block:
    """
    A fenced block.

    Attributes:
        language: `python`, `sh`, ...; `words`: what else its first line says.
        line: of its first line in the page.
    """

    language: str
    words: tuple[str, ...]
    text: str
    line: int

    @property
    def file(self) -> str | None:
        """The file it is written to, if any."""
        return next((word.removeprefix(FILE) for word in self.words if word.startswith(FILE)), None)

    @property
    def runs(self) -> bool:
        """Whether it is Python to be run."""
        return self.language == "python" and self.file is None and "not-run" not in self.words

    @property
    def is_output(self) -> bool:
        """Whether it is what the Python before it prints."""
        return self.language == "text" and "output" in self.words


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    content = page.read_text(encoding="utf-8")
    found = []
    for match in FENCE.finditer(content):
        language, *words = match["info"].split()
        indent = match["indent"]
        text = "".join(line.removeprefix(indent) for line in match["text"].splitlines(keepends=True))
        found.append(Block(language, tuple(words), text, content.count("\n", 0, match.start()) + 1))
    return found


def name(page: Path) -> str:
    """Return what a test calls a page."""
    return page.relative_to(ROOT).as_posix()
