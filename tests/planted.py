"""A folder with a problem for every specialist of the review flow, and files that are hard to read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

KEY: Final = "AKIA" + "QRSTUVWX234567AB"  # in two parts: this file shall not look as if it held one
BRANCHES: Final = "".join(f"    if value == {number}:\n        return {number + 1}\n" for number in range(20))

SOURCES: Final = {
    "LICENSE": "Apache License 2.0\n",
    "shop/__init__.py": "# SPDX-License-Identifier: MIT OR Mine-1.0\n",
    "shop/orders.py": (
        "# SPDX-License-Identifier: Apache-2.0\n"
        "import os\n"  # nothing uses it: for ruff and for vulture
        "import subprocess\n\n\n"
        "def place(order):\n"
        "    return subprocess.call(order, shell=True)\n\n\n"
        "def forgotten():\n"
        "    return undefined_name\n"
    ),
    "shop/prices.py": (
        f"from shop.orders import place\n\n\ndef price(value):\n{BRANCHES}    return place(value)\n\n\nprice(3)\n"
        # Nothing here reads `daemon`; the library does.
        "import threading\n\nthread = threading.Thread(target=print)\nthread.daemon = True\nthread.start()\n"
    ),
    "shop/typed.pyi": "import os\n",
    "web/cart.js": "function total(a) {\n" + "  if (a) { a++; }\n" * 20 + "  return a;\n}\n",
    "config.ini": f"[aws]\naws_access_key_id = {KEY}\n",
    "README.md": "# Shop\n",
}

# Every place in which one of the tools has been seen to quote what the code has in quotes; {} is the secret.
LEAKS: Final = (
    "password = '{}'",
    "if password == '{}': pass",
    "d = {{'password': '{}', 'token_{}': '{}'}}",
    "d['token_{}'] = '{}'",
    "class Account:\n    password: str = '{}'",
    "def log_in(user, token='{}', *, pwd='{}'): return connect(passwd='{}')",
    "open('/tmp/{}')",
    "os.chmod('/etc/{}', 0o777)",
    "{{'{}': 1, '{}': 2}}",
    "{{'`{}': 1, '`{}': 2}}",
    "{{'{}', '{}'}}",
    "{{'{}': n for n in range(3)}}",
    "'%({})s' % {{'x{}': 1}}",
    "'{{{}}}'.format(x{}=1)",
    "__all__ = ['{}']",
    "from star import *\nz: '{}' = 1",
    "y: 'list[{}]' = 1",
    "y: '{} {}' = 1",
    "f(**{{'{}': 1}}, **{{'{}': 2}}, {}=3)",
    "match x:\n    case {{'{}': 1, '{}': 2}}: pass",
    "# SPDX-License-Identifier: {}",
    "# SPDX-License-Identifier: MIT {}",
    "# noqa: {}",
    "value = '{}",
)


def plant_secrets(folder: Path) -> Path:
    """Write a file for each of LEAKS, and in other languages: passwords that hold KEY; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, leak in enumerate(LEAKS):
        (folder / f"leak{number}.py").write_text(leak.format(*[KEY] * 9) + "\n")
    branches = "  if (a) { a++; }\n" * 20
    (folder / "computed.js").write_text(f'x = {{ ["{KEY}"]: function(a) {{\n{branches}}} }}\n')
    (folder / "spec.rb").write_text(f'it "{KEY}" do\n' + "  if a then b end\n" * 20 + "end\n")
    (folder / "package.json").write_text(f'{{"license": "{KEY}"}}')
    (folder / "Cargo.toml").write_text(f"{KEY} = 1\n{KEY} = 2\n")
    return folder


def plant(folder: Path) -> Path:
    """Write the folder and return it."""
    for name, text in SOURCES.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return folder


def plant_odd(folder: Path) -> Path:
    """Write what cannot be read in full, beside a file that can; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "fine.py").write_text("assert True\n")
    (folder / "broken.py").write_text("def broken(:\n")
    (folder / "latin.py").write_bytes("# caf\xe9\nname = 'caf\xe9'\n".encode("latin-1"))
    (folder / "coding.py").write_text("# -*- coding: klingon -*-\n")
    (folder / "late_zero.py").write_bytes(b"#" * 10_000 + b"\n\0\n")
    (folder / "deep.py").write_text(f"value = {'(' * 3000}1{')' * 3000}\n")
    (folder / "long.py").write_text(f"value = {' + '.join(['1'] * 3000)}\n")
    (folder / "empty.py").touch()
    (folder / "utf16.txt").write_bytes("password".encode("utf-16"))
    (folder / "bom.py").write_text("assert True\n", encoding="utf-8-sig")
    (folder / "crlf.py").write_bytes(b"assert True\r\n")
    (folder / "-rf.py").write_text("assert True\n")
    (folder / "a name with 'quotes' & ü.py").write_text("assert True\n")
    return folder
