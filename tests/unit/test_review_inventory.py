"""What the review flow finds in a folder, what it leaves out and says so, and how it is split into assignments."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest
from pydantic import ValidationError

from tests.planted import SOURCES, plant
from workers.review import inventory
from workers.review.errors import NothingToReview
from workers.review.inventory import Entry, take_inventory
from workers.review.models import Files, Request
from workers.review.plan import BATCH_BYTES, BATCH_FILES, BATCHED, LABEL, batches, label, plan


def test_every_text_file_is_found_in_order_with_its_language(tmp_path: Path) -> None:
    # when
    found = take_inventory(Request(path=str(plant(tmp_path))))

    # then
    assert [entry.path for entry in found.entries] == [
        *("LICENSE", "README.md", "config.ini"),
        *("shop/__init__.py", "shop/orders.py", "shop/prices.py", "shop/typed.pyi", "web/cart.js"),
    ]
    assert {entry.language for entry in found.entries} == {"python", "python-stub", "javascript", "text"}
    assert found.left_out == ()
    assert sum(entry.size for entry in found.entries) == sum(len(text.encode()) for text in SOURCES.values())


def test_what_is_left_out_is_named_with_its_reason(tmp_path: Path) -> None:
    # given
    root = plant(tmp_path / "root")
    (root / "image.png").write_bytes(b"\x89PNG\0\0")
    (root / "big.json").write_bytes(b"1" * (inventory.MAX_BYTES + 1))
    (root / "link.py").symlink_to(root / "shop" / "orders.py")
    (root / "outside").symlink_to(tmp_path)
    os.mkfifo(root / "pipe")
    (root / os.fsdecode(b"caf\xe9.py")).touch()
    for folder in (".git", "node_modules", "my-env"):
        (root / folder).mkdir()
        (root / folder / "inside.py").touch()
    (root / "my-env" / "pyvenv.cfg").touch()
    (root / "shop" / "__pycache__").mkdir()
    (root / "shop" / "__pycache__" / "orders.cpython-311.pyc").write_bytes(b"\0")

    # when
    found = take_inventory(Request(path=str(root)))

    # then
    assert [entry.path for entry in found.entries] == sorted(SOURCES)
    assert {one.path: one.reason for one in found.left_out} == {
        "image.png": "no text",
        "big.json": "larger than 1,048,576 bytes",
        "link.py": "a link",
        "outside": "a link",
        "pipe": "no regular file",
        "caf\\xe9.py": "its name is not UTF-8",
        ".git/": "a folder of tools or dependencies",
        "node_modules/": "a folder of tools or dependencies",
        "my-env/": "a folder of tools or dependencies",
    }


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # given: whoever runs this may be root, to whom every file opens
    plant(tmp_path)
    really = Path.open

    def refuse(path: Path, mode: str) -> object:
        if path.name == "config.ini":
            raise PermissionError(13, "Permission denied")
        return really(path, mode)

    monkeypatch.setattr(Path, "open", refuse)

    # when
    found = take_inventory(Request(path=str(tmp_path)))

    # then
    assert [(one.path, one.reason) for one in found.left_out] == [("config.ini", "cannot be read: Permission denied")]


def test_patterns_choose_files(tmp_path: Path) -> None:
    # given
    plant(tmp_path)

    # when
    found = take_inventory(Request(path=str(tmp_path), include=("shop/*", "*.md"), exclude=("*/__init__.py",)))

    # then: what was not asked for is not missing
    assert [entry.path for entry in found.entries] == [
        "README.md",
        "shop/orders.py",
        "shop/prices.py",
        "shop/typed.pyi",
    ]
    assert found.left_out == ()


def test_a_single_file_is_reviewed_in_its_folder(tmp_path: Path) -> None:
    # when
    found = take_inventory(Request(path=str(plant(tmp_path) / "shop" / "orders.py")))

    # then
    assert found.root == tmp_path / "shop"
    assert [entry.path for entry in found.entries] == ["orders.py"]


def test_more_files_than_a_review_takes_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # given
    monkeypatch.setattr(inventory, "MAX_FILES", 3)

    # when
    found = take_inventory(Request(path=str(plant(tmp_path))))

    # then
    assert len(found.entries) == 3
    (rest,) = found.left_out
    assert rest.path == "5 more files"
    assert "`include`" in rest.reason


@pytest.mark.parametrize("path", ["absent", "a\0b", "empty"])
def test_nothing_to_review_is_an_error_that_names_the_path(tmp_path: Path, path: str) -> None:
    # given
    (tmp_path / "empty").mkdir()

    # when
    with pytest.raises(NothingToReview) as caught:
        plan(Request(path=f"{tmp_path}/{path}"))

    # then
    assert str(caught.value).startswith(f"{tmp_path}/{path}: ")
    assert "check" in str(caught.value)
    assert caught.value.args[0] == f"{tmp_path}/{path}"


@pytest.mark.parametrize("field", ["path", "out"])
def test_a_relative_path_is_refused_because_workers_run_elsewhere(field: str) -> None:
    with pytest.raises(ValidationError, match="absolute path"):
        Request.model_validate({"path": "/tmp", field: "src"})  # noqa: S108  it is not used


def test_each_file_goes_once_to_each_specialist_that_reads_it(tmp_path: Path) -> None:
    # when
    made = plan(Request(path=str(plant(tmp_path))))

    # then
    given: Counter[tuple[str | None, str]] = Counter()
    for assignment in made.assignments:
        assert isinstance(assignment.input, Files)
        assert assignment.input.root == str(tmp_path)
        given.update((assignment.to, path) for path in assignment.input.paths if not assignment.input.whole)
    python = {"shop/__init__.py", "shop/orders.py", "shop/prices.py"}
    assert given == Counter(
        {
            **{("ruff", path): 1 for path in (*python, "shop/typed.pyi")},
            **{("bandit", path): 1 for path in python},
            **{("complexity", path): 1 for path in (*python, "web/cart.js")},
            **{(name, path): 1 for name in ("licence", "secrets") for path in SOURCES},
        }
    )
    # and: what only the folder as one can tell
    whole = {one.to: one.input.paths for one in made.assignments if one.input.whole}
    assert set(whole["dead_code"]) == python
    assert whole["licence"] == ("LICENSE", "README.md", "config.ini")


@pytest.mark.parametrize("size", [10, 3000])
def test_a_batch_has_one_language_and_is_small(size: int) -> None:
    # given
    entries = [Entry(f"{number:03}.{suffix}", suffix, size) for number in range(40) for suffix in ("py", "js")]
    entries.append(Entry("zz-huge.py", "py", BATCH_BYTES * 10))

    # when
    made = list(batches(entries))

    # then
    assert [entry for language in ("js", "py") for _, batch in made for entry in batch if entry.language == language]
    assert sorted(entry.path for _, batch in made for entry in batch) == sorted(entry.path for entry in entries)
    for language, batch in made:
        assert {entry.language for entry in batch} == {language}
        assert len(batch) <= BATCH_FILES
        assert sum(entry.size for entry in batch) <= BATCH_BYTES or len(batch) == 1


@pytest.mark.parametrize("size", [0, 500, inventory.MAX_BYTES])
def test_the_largest_folder_makes_no_more_assignments_than_a_run_has(size: int) -> None:
    # given
    entries = [Entry(f"{number}.py", "python", size) for number in range(inventory.MAX_FILES)]

    # when
    made = sum(1 for _ in batches(entries))

    # then
    assert 0 < made * len(BATCHED) + 2 <= 10_000


def test_a_label_names_the_first_files_and_is_short() -> None:
    assert label(["a.py"]) == "a.py"
    assert label(["a.py", "b.py", "c.py", "d.py", "e.py"]) == "a.py, b.py, c.py and 2 more"
    long = label(["x" * 250, "y" * 250, "z", "more"])
    assert len(long) == LABEL
    assert long.endswith("… and 1 more")
