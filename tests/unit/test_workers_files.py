"""Files that are whole or absent, whoever is killed and whoever writes at the same time."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from tests.command_line import CHECKOUT
from workers.files import write_atomically

if TYPE_CHECKING:
    from pathlib import Path

KILLED = """
import os, pathlib, signal, sys
os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
from workers.files import write_atomically
write_atomically(pathlib.Path(sys.argv[1]), "a long text that never gets there")
"""


def test_what_a_killed_writer_leaves_is_gone_after_the_next_write(tmp_path: Path) -> None:
    # given
    file = tmp_path / "report.json"
    write_atomically(file, "old")
    done = subprocess.run([sys.executable, "-c", KILLED, str(file)], cwd=CHECKOUT, check=False)  # noqa: S603  our own
    assert done.returncode == -signal.SIGKILL
    assert file.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2

    # when
    write_atomically(file, "new")

    # then
    assert list(tmp_path.iterdir()) == [file]
    assert file.read_text() == "new"


def test_of_many_writers_at_once_one_has_written_all_of_it(tmp_path: Path) -> None:
    # given
    file = tmp_path / "report.json"
    texts = [str(number) * 50_000 for number in range(8)]
    seen: set[str] = set()
    failed: list[Exception] = []

    def write(text: str) -> None:
        try:
            for _ in range(25):
                write_atomically(file, text)
                seen.add(file.read_text())
        except Exception as error:  # noqa: BLE001  told below
            failed.append(error)

    # when
    threads = [threading.Thread(target=write, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    # then
    assert failed == []
    assert seen <= set(texts)
    assert list(tmp_path.iterdir()) == [file]


def test_a_link_in_its_place_is_not_written_through(tmp_path: Path) -> None:
    # given
    other = tmp_path / "other"
    other.write_text("precious")
    (tmp_path / ".report.json.part").symlink_to(other)

    # when, then
    with pytest.raises(OSError, match="symbolic links"):
        write_atomically(tmp_path / "report.json", "new")
    assert other.read_text() == "precious"
