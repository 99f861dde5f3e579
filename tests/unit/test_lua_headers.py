"""The header of a Lua script says what its body does with KEYS and ARGV."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from orchestrator.state import scripts

SCRIPTS = Path(__file__).parents[2] / "orchestrator" / "state" / "scripts"

HEADER = re.compile(r"\A--\[\[ (?P<name>\w+): \S.*?\n(?P<fields>.*?)\n?\]\]", re.DOTALL)
COMMENT = re.compile(r"--\[\[.*?\]\]|--[^\n]*", re.DOTALL)
# `KEYS[2]  name  type  pattern`; `ARGV[5..]` stands for that argument and all that follow.
DECLARED = re.compile(r"^(KEYS|ARGV)\[(\d+(?:\.\.)?)\]  *(.*)$", re.MULTILINE)
# `KEYS[1-13]  as in _run.lua`: that file stands in front of this one and declares these keys.
INHERITED = re.compile(r"^KEYS\[(\d+)-(\d+)\]  +as in (_\w+\.lua)$", re.MULTILINE)
USED = re.compile(r"\b(KEYS|ARGV)\[([^\]]*)\]")
COLUMNS = {"KEYS": ("name", "type", "pattern"), "ARGV": ("name", "type")}


def _scripts() -> list[Path]:
    return sorted(SCRIPTS.glob("*.lua"))


def _declared_in_front(path: Path, fields: str) -> tuple[set[str], list[str]]:
    """Return the keys that the files in front of `path` declare, and where its header misquotes them."""
    keys: set[str] = set()
    offences = []
    for first, last, name in INHERITED.findall(fields):
        front = path.with_name(name)
        source = front.read_text() if front.is_file() else ""
        named = {str(index) for index in range(int(first), int(last) + 1)}
        keys |= named
        if named != {index for table, index, _ in DECLARED.findall(source) if table == "KEYS"}:
            offences.append(f"KEYS[{first}-{last}] is not what {name} declares")
    return keys, offences


def _compare(table: str, declared: set[str], inherited: set[str], used: set[str]) -> Iterator[str]:
    literal = {index for index in used if index.isdigit()}
    computed = used - literal
    single = {index for index in declared if index.isdigit()}
    first_of_rest = min((int(index[:-2]) for index in declared - single), default=None)
    covered = {index for index in literal if first_of_rest is not None and int(index) >= first_of_rest}
    for index in sorted(literal - single - covered - inherited, key=int):
        yield f"{table}[{index}] is used and not declared"
    # An index computed in a loop stands for what is declared and never written out; there must be some.
    idle = single - literal
    if computed and not (idle or first_of_rest is not None):
        yield f"{table}[{min(computed)}] is used, and every {table} declared is used by its number"
    if not computed:
        for index in sorted(idle, key=int):
            yield f"{table}[{index}] is declared and not used"
        if first_of_rest is not None and not covered:
            yield f"{table}[{first_of_rest}..] is declared and not used"


def find_offences(path: Path) -> list[str]:
    """Return one sentence for each way in which the header of `path` and its body disagree."""
    source = path.read_text(encoding="utf-8")
    offences = [] if source.isascii() else ["holds characters that are not ASCII"]
    header = HEADER.match(source)
    if header is None:
        return [*offences, "does not begin with `--[[ name: what it does`"]
    fields, body = header["fields"], COMMENT.sub("", source[header.end() :])
    if header["name"] != path.stem:
        offences.append(f"is called {header['name']} in its header")
    # A file whose name begins with an underscore stands in front of scripts and returns nothing.
    offences += [
        f"has no line `{word}`"
        for word in ("Returns", "Atomic")
        if not path.name.startswith("_") and not re.search(rf"^{word}  +\S", fields, re.MULTILINE)
    ]
    declarations = DECLARED.findall(fields)
    offences += [
        f"{table}[{index}] lacks a column: {', '.join(COLUMNS[table])}"
        for table, index, columns in declarations
        if len(columns.split()) < len(COLUMNS[table])
    ]
    inherited, misquoted = _declared_in_front(path, fields)
    offences += misquoted
    for table in COLUMNS:
        declared = {index for its_table, index, _ in declarations if its_table == table}
        used = {index for its_table, index in USED.findall(body) if its_table == table}
        offences += _compare(table, declared, inherited if table == "KEYS" else set(), used)
    return offences


def test_every_script_does_what_its_header_declares() -> None:
    # given every script of the state room
    scripts = _scripts()
    assert scripts, f"no scripts in {SCRIPTS}"

    # when header and body are compared
    offences = [f"{path.name}: {offence}" for path in scripts for offence in find_offences(path)]

    # then they agree
    assert not offences, "\n".join(["", *offences])


GOOD = """--[[ renew: extend a lease that the caller still owns.
KEYS[1]  lease   string  run:{id}:lease
KEYS[2..]  index  zset   {s}:leases, one per shard
ARGV[1]  owner   string  token from begin
ARGV[2]  ttl_ms  int     > 0
Returns  1 renewed | 0 lost
Atomic   check and expiry together: between them the lease may expire and be taken
]]
-- ARGV[7] in a comment is no use of it
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
for i = 2, #KEYS do redis.call('ZADD', KEYS[i], ARGV[2], ARGV[1]) end
return 1
"""


@pytest.mark.parametrize(
    ("old", "new", "offence"),
    [
        ("", "", None),
        ("renew: extend", "extend: extend", "is called extend in its header"),
        ("--[[ renew", "-- renew", "does not begin with `--[[ name: what it does`"),
        ("Returns  1", "Gives    1", "has no line `Returns`"),
        ("Atomic   check", "", "has no line `Atomic`"),
        ("KEYS[1]  lease   string  run:{id}:lease\n", "", "KEYS[1] is used and not declared"),
        ("ARGV[2], ARGV[1])", "ARGV[3], ARGV[2])", "ARGV[3] is used and not declared"),
        ("ARGV[2], ARGV[1])", "1, ARGV[1])", "ARGV[2] is declared and not used"),
        ("KEYS[i]", "ARGV[i]", "ARGV[i] is used, and every ARGV declared is used by its number"),
        ("KEYS[i]", "KEYS[1]", "KEYS[2..] is declared and not used"),
        ("lease   string  run:{id}:lease", "lease   string", "KEYS[1] lacks a column: name, type, pattern"),
        (
            "ARGV[1]  owner",
            "KEYS[1-2]  as in _front.lua\nARGV[1]  owner",
            "KEYS[1-2] is not what _front.lua declares",
        ),
        ("still owns", "still \N{EM DASH} owns", "holds characters that are not ASCII"),
    ],
)
def test_a_header_that_differs_from_its_body_is_found(tmp_path: Path, old: str, new: str, offence: str | None) -> None:
    # given a script with one thing wrong, or none
    script = tmp_path / "renew.lua"
    script.write_text(GOOD.replace(old, new, 1), encoding="utf-8")

    # when header and body are compared
    offences = find_offences(script)

    # then that is what is reported, among what follows from it
    assert (offence in offences) if offence else (offences == [])


def test_a_script_may_use_the_keys_that_the_file_in_front_of_it_declares(tmp_path: Path) -> None:
    # given a shared beginning that declares a key, and a script that adds another
    (tmp_path / "_run.lua").write_text(
        "--[[ _run: what all share.\nKEYS[1]  run  hash  {s}:run:<id>\n]]\nlocal RUN = KEYS[1]\n"
    )
    script = tmp_path / "end.lua"
    script.write_text(
        "--[[ end: close a run.\n"
        "KEYS[1-1]  as in _run.lua\n"
        "KEYS[2]  open  zset  {s}:open\n"
        "Returns  1\n"
        "Atomic   both or neither\n"
        "]]\n"
        "redis.call('DEL', KEYS[1])\n"
        "return redis.call('ZREM', KEYS[2], RUN)\n"
    )

    # when each is compared with its header, then neither offends
    assert find_offences(tmp_path / "_run.lua") == []
    assert find_offences(script) == []


def test_a_second_client_in_a_process_reads_no_script_again(monkeypatch: pytest.MonkeyPatch) -> None:
    # given a process that has made a client, whose package then goes away
    scripts.Scripts(Redis())

    def gone(package: str) -> Path:
        raise ModuleNotFoundError(package)

    monkeypatch.setattr(scripts, "files", gone)

    # then another client has the scripts all the same
    scripts.Scripts(Redis())
