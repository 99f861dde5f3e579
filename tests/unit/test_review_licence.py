"""Licences that files and folders declare."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from workers.review.licence import licence
from workers.review.models import Files, Findings

if TYPE_CHECKING:
    from pathlib import Path


def read(folder: Path, *paths: str, whole: bool = False) -> Findings:
    """Let the specialist look at files."""
    return licence(Files(root=str(folder), language="text", paths=paths, whole=whole))


@pytest.mark.parametrize(
    ("line", "rules"),
    [
        ("# SPDX-License-Identifier: MIT", []),
        ("/* SPDX-License-Identifier: MIT OR Apache-2.0 */", []),
        ("<!-- SPDX-License-Identifier: CC0-1.0 -->", []),
        ("// SPDX-License-Identifier: LicenseRef-Ours", []),
        ("# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception", []),
        ("# SPDX-License-Identifier: GPL-3.0-or-later", ["copyleft"]),
        ("# spdx-license-identifier: (MIT AND LGPL-2.1-only)", ["copyleft-limited"]),
        ("# SPDX-License-Identifier: BUSL-1.1", ["not-free"]),
        ("# SPDX-License-Identifier: Mine", ["spdx-unknown"]),
        ("# SPDX-License-Identifier: MIT OR", ["spdx-invalid"]),
        ("# SPDX-License-Identifier: MIT Apache", ["spdx-invalid"]),
        ("# SPDX-License-Identifier: */", ["spdx-invalid"]),
        ("TAG = 'SPDX-License-Identifier: Mine'", []),
        ("# See SPDX-License-Identifier: Mine", []),
        ("# SPDX-License-Identifier:", []),
    ],
)
def test_a_tag_is_judged_by_the_list_of_licences(tmp_path: Path, line: str, rules: list[str]) -> None:
    # given
    (tmp_path / "file").write_text(f"first\n{line}\n")

    # when
    found = read(tmp_path, "file")

    # then
    assert [one.rule for one in found.findings] == rules
    assert all(one.line == 2 for one in found.findings)


def test_a_tag_in_a_file_that_is_not_utf8_is_read(tmp_path: Path) -> None:
    # given
    (tmp_path / "file").write_bytes(b"# caf\xe9\r\n# SPDX-License-Identifier: Mine\r\n")

    # when, then
    assert [one.rule for one in read(tmp_path, "file").findings] == ["spdx-unknown"]


@pytest.mark.parametrize(
    ("name", "text", "rules"),
    [
        ("LICENSE", "text", []),
        ("licence.txt", "text", []),
        ("COPYING.LESSER", "text", []),
        ("README.md", "text", ["no-licence"]),
        ("pyproject.toml", '[project]\nlicense = "MIT"\n', []),
        ("pyproject.toml", '[project]\nlicense = {file = "X"}\n', []),
        ("pyproject.toml", '[tool.poetry]\nlicense = "Mine"\n', ["spdx-unknown"]),
        ("pyproject.toml", '[project]\nname = "x"\n', ["no-licence"]),
        ("pyproject.toml", "project = 3\n", ["no-licence"]),
        ("package.json", '{\n"license": "ISC"}', []),
        ("package.json", '{"license": {"type": "MIT"}}', []),
        ("package.json", "[]", ["no-licence"]),
        ("Cargo.toml", '[package]\nlicense = "MIT OR Apache-2.0"\n', []),
        ("Cargo.toml", '[package]\nlicense-file = "X"\n', []),
    ],
)
def test_a_folder_declares_a_licence_in_a_file_or_a_manifest(
    tmp_path: Path, name: str, text: str, rules: list[str]
) -> None:
    # given
    (tmp_path / name).write_text(text)

    # when
    found = read(tmp_path, name, whole=True)

    # then
    assert [one.rule for one in found.findings] == rules
    assert found.unchecked == ()
    assert found.checked == ()  # tags are another assignment's


def test_a_finding_in_a_manifest_names_its_line(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "x"\nlicense = "Mine"\n')
    (one,) = read(tmp_path, "pyproject.toml", whole=True).findings
    assert (one.path, one.line) == ("pyproject.toml", 3)


@pytest.mark.parametrize(("name", "text"), [("pyproject.toml", "[project"), ("package.json", "{")])
def test_a_manifest_that_cannot_be_read_is_named(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    found = read(tmp_path, name, whole=True)
    assert [one.path for one in found.unchecked] == [name]


@pytest.mark.parametrize(
    ("metadata", "rules"),
    [
        ("License-Expression: BSD-3-Clause", []),
        ("License-Expression: Mine", ["spdx-unknown"]),
        ("License: BSD", []),
        ("Classifier: License :: OSI Approved :: BSD License", []),
        ("Classifier: Typing :: Typed", ["no-licence"]),
    ],
)
def test_an_installed_package_has_the_licence_of_its_distribution(
    tmp_path: Path, metadata: str, rules: list[str]
) -> None:
    # given
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").touch()
    about = tmp_path / "the_shop-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.4\nName: the-shop\nVersion: 1.0\n{metadata}\n")
    (about / "RECORD").write_text("shop/__init__.py,,\n")

    # when
    found = read(tmp_path / "shop", whole=True)

    # then
    assert [one.rule for one in found.findings] == rules


MEBI = 1024 * 1024  # the largest file that is read


@pytest.mark.timeout(20)  # a pattern that is tried again from each character would need hours
@pytest.mark.parametrize(
    ("line", "rules"),
    [
        (f"# SPDX-License-Identifier: MIT{'-' * MEBI}x", ["spdx-invalid"]),
        (f"# SPDX-License-Identifier: MIT {'-' * MEBI}", []),
        (f"# SPDX-License-Identifier: MIT {'*/ ' * (MEBI // 3)}", []),
        (f"{'-' * MEBI}SPDX-License-Identifier: Mine", ["spdx-unknown"]),
        (f"{'-' * MEBI}x SPDX-License-Identifier: Mine", []),
        (f"# SPDX-License-Identifier:{' ' * MEBI}Mine", ["spdx-unknown"]),
        (f"# SPDX-License-Identifier: {'(' * MEBI}MIT", ["spdx-invalid"]),
        (f"# SPDX-License-Identifier: {'(' * 900}MIT{')' * 90}", ["spdx-invalid"]),
        (f"# SPDX-License-Identifier: {'MIT OR ' * (MEBI // 7)}MIT", ["spdx-invalid"]),
    ],
)
def test_a_line_as_long_as_a_file_is_judged_at_once(tmp_path: Path, line: str, rules: list[str]) -> None:
    # given
    (tmp_path / "file").write_text(f"{line}\n")

    # when, then
    assert [one.rule for one in read(tmp_path, "file").findings] == rules
