"""The command line without a server: help, and what becomes of bad input."""

from __future__ import annotations

import fcntl
import io
import os
import re
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, cast

import pytest
import typer
from rich.console import Console

from orchestrator.cli import demo
from orchestrator.cli.entry import COMMANDS, LazyGroup, app
from orchestrator.cli.failures import explain
from orchestrator.cli.options import parse_numbers, parse_tags
from orchestrator.cli.output import duration
from orchestrator.cli.reading import read_lines
from orchestrator.cli.summary import percentile, summarise
from orchestrator.cli.watching import View
from orchestrator.errors import InvalidInput
from orchestrator.messages import RunState, StepState, Waiting
from orchestrator.state import keys
from orchestrator.state.dead import is_message_id
from tests.command_line import CHECKOUT, Shell

if TYPE_CHECKING:
    from pathlib import Path

MODULE = """
from pydantic import BaseModel
from orchestrator import Pipeline, agent

class Note(BaseModel):
    text: str
    stars: int = 0

@agent("letters.shout")
def shout(note: Note) -> Note:
    return note.model_copy(update={"text": note.text.upper()})

@agent("letters.sign")
async def sign(note: Note) -> Note:
    return note.model_copy(update={"text": note.text + "!"})

letters = Pipeline("letters", [shout, sign])
"""
GUARDED = """
from pydantic import BaseModel
from orchestrator import Breaker, Cached, Concurrency, RateLimit, Retry, agent

class Note(BaseModel):
    text: str

@agent("guarded.simple")
def simple(note: Note) -> Note:
    return note

@agent(
    "guarded.rich",
    idle=30.0,
    deadline=300.0,
    retry=Retry(),
    breaker=[Breaker(), Breaker(of="openai/gpt-4.1")],
    rate=[RateLimit(requests=60, tokens=90_000), RateLimit(requests=3, per=10.0, of="search")],
    concurrency=Concurrency(total=10, per_tenant=2),
    fallback=[simple, Cached()],
)
async def rich(note: Note) -> Note:
    return note
"""
UNREACHABLE = "redis://:topsecret@127.0.0.1:1/0"


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """A folder with a user's own module in it, and a Redis that is not there."""
    (tmp_path / "letters.py").write_text(MODULE)
    return Shell(tmp_path, {"CELERIAC_AGENTS": "letters", "CELERIAC_REDIS_URL": UNREACHABLE})


def every_command() -> list[list[str]]:
    root = typer.main.get_command(app)
    assert isinstance(root, LazyGroup)
    found: list[list[str]] = []
    for name in COMMANDS:
        command = root.commands[name]
        below = getattr(command, "commands", None)
        found += [[name, sub] for sub in below] if below else [[name]]
    return found


# Help


def test_help_imports_neither_celery_nor_redis(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom orchestrator.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n"
        "    loaded = {name.partition('.')[0] for name in sys.modules}\n"
        "    raise SystemExit(', '.join(loaded & {'celery', 'kombu', 'redis', 'tornado', 'openai'}))\n"
    )
    done = subprocess.run(  # noqa: S603  our own interpreter
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(CHECKOUT)},
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    assert done.stderr.decode().strip() == ""


def test_help_lists_every_command(shell: Shell) -> None:
    # when
    result = shell.run("--help")

    # then
    assert result.code == 0
    for name in COMMANDS:
        assert f"\n  {name} " in result.out


@pytest.mark.parametrize("command", every_command(), ids=" ".join)
def test_every_command_has_help_with_examples(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    # when
    with pytest.raises(SystemExit) as ended:
        typer.main.get_command(app).main(args=[*command, "--help"], prog_name="celeriac")

    # then
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert "Examples:\n" in shown
    assert f"celeriac {' '.join(command)}" in shown


@pytest.mark.parametrize("group", ["runs", "dead", "breakers", "budgets"])
def test_groups_have_examples_too(group: str, capsys: pytest.CaptureFixture[str]) -> None:
    # when
    with pytest.raises(SystemExit):
        typer.main.get_command(app).main(args=[group, "--help"], prog_name="celeriac")

    # then
    assert f"Examples:\n    celeriac {group} list" in capsys.readouterr().out


@pytest.mark.parametrize(
    "command",
    [
        *(["runs", name] for name in ("show", "events", "watch", "cancel", "approve", "reject")),
        *(["dead", name] for name in ("show", "redrive", "drop")),
    ],
    ids=" ".join,
)
def test_examples_show_ids_that_could_be_one(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    # when
    with pytest.raises(SystemExit):
        typer.main.get_command(app).main(args=[*command, "--help"], prog_name="celeriac")

    # then
    shown = re.findall(rf"celeriac {' '.join(command)} (\w[\w-]+)", capsys.readouterr().out)
    assert shown
    assert all(keys.is_run_id(found) or is_message_id(found) for found in shown)


@pytest.mark.parametrize("command", every_command(), ids=" ".join)
def test_every_command_that_prints_facts_takes_json(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    # when
    with pytest.raises(SystemExit):
        typer.main.get_command(app).main(args=[*command, "--help"], prog_name="celeriac")

    # then
    assert "--json" in capsys.readouterr().out


def test_mistyped_command_is_wrong_usage_and_names_the_right_one(shell: Shell) -> None:
    # when
    result = shell.run("worekr")

    # then
    assert result.code == 2
    assert "Did you mean 'worker'?" in result.err


# Facts that need no server


def test_agents_and_flows_of_the_current_folder_are_found(shell: Shell) -> None:
    # when
    agents = shell.run("agents", "--json").document
    flows = shell.run("flows", "--json").document

    # then
    assert [agent["name"] for agent in agents] == ["letters.shout", "letters.sign"]
    assert agents[0]["input"] == "Note"
    assert agents[0]["where"].startswith(str(shell.folder / "letters.py"))
    assert [step["name"] for step in flows[0]["steps"]] == ["shout", "sign"]
    assert flows[0]["input"]["required"] == ["text"]


def test_agents_are_listed_with_their_policies(shell: Shell) -> None:
    # given
    (shell.folder / "guarded.py").write_text(GUARDED)

    # when
    env = {"CELERIAC_AGENTS": "guarded"}
    rich, simple = shell.run("agents", "--json", env=env).document
    text = shell.run("agents", env=env).out

    # then
    assert simple["guards"] == []
    assert rich["guards"] == [
        *("idle 30.0 s", "deadline 5 min", "retry 4", "breaker", "breaker of openai/gpt-4.1"),
        *("60 requests/min", "90,000 tokens/min", "3 requests/10 s of search", "10 at a time", "2 per tenant"),
        "fallback 2",
    ]
    assert "retry 4, breaker, breaker of openai/gpt-4.1, 60 requests/min" in text


def test_tables_on_a_pipe_are_plain_and_never_cut(shell: Shell) -> None:
    # when
    result = shell.run("flows")

    # then
    assert "\x1b" not in result.out
    assert "shout → sign" in result.out
    assert str(shell.folder / "letters.py") in result.out


def test_version_names_what_it_runs_on(shell: Shell) -> None:
    # when
    found = shell.run("version", "--json").document

    # then
    assert found["celery"].startswith("5.")


# Bad input: one line, the remedy, no traceback


def test_unknown_flow_names_those_that_are_known(shell: Shell) -> None:
    # when
    result = shell.run("submit", "leters", "--input", "-", stdin="{}")

    # then
    result.assert_one_line("no flow 'leters'", "known: letters", "CELERIAC_AGENTS")


@pytest.mark.parametrize("command", [["worker", "nobody"], ["up", "--agent", "nobody=2"]], ids=" ".join)
def test_unknown_agent_names_those_that_are_known(shell: Shell, command: list[str]) -> None:
    # when
    result = shell.run(*command)

    # then
    result.assert_one_line("no agent 'nobody'", "letters.shout, letters.sign")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b'{"text": "a",\n "stars": }', "line 2, column 11"),
        (b"", "line 1, column 1"),
        (b'{"text": "a"}\n{"text": "b"}\n', "--each"),
        (b'{"text": "a", "stars": NaN}', "NaN is not JSON"),
        (b'{"text": "\xff"}', "not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_invalid_json_says_where(shell: Shell, text: bytes, said: str) -> None:
    # when
    result = shell.run("submit", "letters", "--input", "-", stdin=text)

    # then
    result.assert_one_line(said)


def test_invalid_line_of_json_lines_says_which(shell: Shell) -> None:
    # when
    result = shell.run("submit", "letters", "--each", "--input", "-", stdin='{"text": "a"}\n\n{"text" "b"}\n')

    # then
    result.assert_one_line("line 3, column 9")


@pytest.mark.parametrize(
    ("second", "said"),
    [
        ('{"text": 5}', "line 2: the input does not fit flow 'letters': text"),
        ('{"text": "a", "stars": NaN}', "line 2: NaN is not JSON"),
    ],
)
def test_line_that_does_not_fit_is_named_before_a_server_is_asked(shell: Shell, second: str, said: str) -> None:
    # when: Redis is not there, and is not missed
    result = shell.run("submit", "letters", "--each", "--input", "-", stdin=f'{{"text": "a"}}\n{second}\n')

    # then
    result.assert_one_line(said)


def test_line_ends_at_a_newline_and_not_within_a_text(tmp_path: Path) -> None:
    # given
    (tmp_path / "notes.jsonl").write_bytes('"a\u2028b"\r\n\n"c"'.encode())

    # then
    assert read_lines(str(tmp_path / "notes.jsonl")) == [(1, "a\u2028b"), (3, "c")]


def test_missing_input_file_is_named(shell: Shell) -> None:
    # when
    result = shell.run("submit", "letters", "--input", "nothing.json")

    # then
    result.assert_one_line("cannot read nothing.json: No such file or directory")


def test_module_that_cannot_be_imported_is_named_with_the_setting(shell: Shell) -> None:
    # when
    result = shell.run("agents", env={"CELERIAC_AGENTS": "letters,lettres"})

    # then
    result.assert_one_line("cannot import 'lettres'", "CELERIAC_AGENTS")


def test_setting_that_does_not_fit_is_named(shell: Shell) -> None:
    # when
    result = shell.run("runs", "list", env={"CELERIAC_SHARDS": "many"})

    # then
    result.assert_one_line("shards", "CELERIAC_<NAME>")


@pytest.mark.parametrize(
    "command",
    [
        *(["runs", "list"], ["runs", "show", "x"], ["dead", "list"], ["dead", "drop", "1753950000000-0"]),
        *(["breakers"], ["breakers", "open", "x"], ["budgets"], ["budgets", "clear", "x"]),
        *(["worker"], ["up", "--no-flower"]),
    ],
    ids=" ".join,
)
def test_redis_that_is_down_is_named_without_its_password(shell: Shell, command: list[str]) -> None:
    # when
    result = shell.run(*command)

    # then
    result.assert_one_line("127.0.0.1:1", "cannot be reached", "CELERIAC_REDIS_URL")
    assert "topsecret" not in result.err + result.out


RUN_ID = "01m827j9mx48nx7rdn7rf906"
MESSAGE_ID = "1753950000000-0"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("dead redrive", "give ids, or --all"),
        (f"dead redrive {RUN_ID} --all", "give ids, or --all"),
        (f"dead redrive {RUN_ID} --flow f", "--agent, --flow and --kind choose among --all"),
        ("dead redrive --all --kind messages --flow f", "a message has no flow"),
        (f"dead redrive {RUN_ID} {RUN_ID} --input -", "an input belongs to one run"),
        ("dead redrive --all --input -", "an input belongs to one run"),
        (f"dead redrive {RUN_ID} {MESSAGE_ID} --to a --step s", "--to, --step is for runs"),
        ("dead redrive --all --kind messages --deadline 5", "--deadline is for runs"),
        ("dead drop", "give ids, or --all"),
        ("budgets set acme", "give --tokens, --cost or both"),
        ("budgets set acme --cost nan", "--cost"),
        ("budgets set acme --cost -1", "--cost"),
        ("budgets set acme --cost inf", "--cost"),
        ("budgets set acme --tokens 5 --per 0", "--per"),
        ("submit letters --input - --budget-cost nan", "--budget-cost"),
        ("submit letters --input - --budget-tokens -5", "--budget-tokens"),
    ],
)
def test_wrong_usage_is_told_before_a_server_is_asked(shell: Shell, command: str, said: str) -> None:
    # when
    result = shell.run(*command.split(), stdin='{"text": "a"}')

    # then
    assert result.code == 2, result
    assert said in result.err
    assert "Traceback" not in result.err


@pytest.mark.parametrize("command", ["dead show x", "dead redrive x", f"dead drop {RUN_ID} {RUN_ID[:-1]}"])
def test_what_is_no_id_is_told_before_a_server_is_asked(shell: Shell, command: str) -> None:
    shell.run(*command.split(), env={"CELERIAC_REDIS_URL": ""}).assert_one_line(
        "is no id of a run", "celeriac dead list"
    )


def test_redrive_to_an_agent_nobody_knows_names_those_that_are(shell: Shell) -> None:
    result = shell.run("dead", "redrive", RUN_ID, "--to", "nobody")
    result.assert_one_line("no agent 'nobody'", "letters.shout, letters.sign")


def test_url_that_makes_no_sense_shows_what_one_looks_like(shell: Shell) -> None:
    # when
    result = shell.run("runs", "list", env={"CELERIAC_REDIS_URL": "redis://localhost:redis/0"})

    # then
    result.assert_one_line("redis_url", "redis://[[user]:password@]host")


def test_address_of_another_machine_is_refused_for_flower(shell: Shell) -> None:
    # when
    result = shell.run("up", env={"CELERIAC_FLOWER_HOST": "192.0.2.1"})

    # then
    result.assert_one_line("192.0.2.1", "CELERIAC_FLOWER_HOST")


def test_port_that_is_taken_is_named_before_anything_starts(shell: Shell) -> None:
    with socket.socket() as taken:
        # given
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        # when
        result = shell.run("up", "--flower-port", str(port), env={"CELERIAC_REDIS_URL": ""})

    # then
    result.assert_one_line(f"error: port {port} on 127.0.0.1 is taken", "--flower-port", "--no-flower")
    assert not (shell.folder / ".celeriac").exists()


def test_second_up_in_a_folder_is_told_before_its_port_is_looked_at(shell: Shell) -> None:
    # given: a first one, with its Flower
    (shell.folder / ".celeriac").mkdir(mode=0o700)
    lock = shell.folder / ".celeriac" / "up.lock"
    with socket.socket() as taken, lock.open("w") as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        first.write("4711")
        first.flush()
        taken.bind(("127.0.0.1", 0))
        taken.listen()

        # when
        result = shell.run("up", "--flower-port", str(taken.getsockname()[1]))

    # then
    result.assert_one_line("a development server runs in", "(process 4711)", "CELERIAC_DATA_DIR")


@pytest.mark.parametrize("command", ["up", "worker"])
def test_no_agent_is_refused(shell: Shell, command: str) -> None:
    shell.run(command, env={"CELERIAC_AGENTS": ""}).assert_one_line("there is no agent to run", "CELERIAC_AGENTS")


def test_open_data_folder_is_refused_with_the_command_that_mends_it(shell: Shell) -> None:
    # given
    (shell.folder / ".celeriac").mkdir()
    (shell.folder / ".celeriac").chmod(0o777)

    # when
    result = shell.run("runs", "list", env={"CELERIAC_REDIS_URL": ""})

    # then
    result.assert_one_line("open to other users", f"chmod 700 {shell.folder / '.celeriac'}")


def test_demo_without_the_reference_flows_says_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    # given
    monkeypatch.setattr(demo, "ROOM", "workers_that_are_elsewhere")

    # then
    with pytest.raises(InvalidInput, match="clone the repository"):
        demo.find_demo("moderation")


def test_unknown_demo_names_those_that_are_known(shell: Shell) -> None:
    # given
    (shell.folder / "workers" / "letters").mkdir(parents=True)
    for folder in ("workers", "workers/letters"):
        (shell.folder / folder / "__init__.py").touch()

    # then
    shell.run("demo", "spam").assert_one_line("no reference flow 'spam'", "known: letters")
    shell.run("demo", "letters").assert_one_line("workers.letters has no demo")


@pytest.mark.parametrize(
    "arguments",
    [
        ["submit", "letters", "--input", "-", "--priority", "urgent"],
        ["submit", "letters", "--input", "-", "--deadline", "soon"],
        ["submit", "letters", "--input", "-", "--tag", "batch"],
        ["submit", "letters", "--input", "-", "--each", "--key", "k"],
        ["submit", "letters"],
        ["runs", "list", "--limit", "0"],
        ["up", "--agent", "letters.shout=many"],
    ],
    ids=" ".join,
)
def test_wrong_usage_ends_with_two_and_no_traceback(shell: Shell, arguments: list[str]) -> None:
    # when
    result = shell.run(*arguments, stdin="{}")

    # then
    assert result.code == 2
    assert result.err.startswith("Usage: ")
    assert "Traceback" not in result.err


@pytest.mark.parametrize("place", ["first", "last", "setting"])
def test_traceback_is_shown_on_request(shell: Shell, place: str) -> None:
    # given
    arguments = {"first": ["--debug", "runs", "list"], "last": ["runs", "list", "--debug"], "setting": ["runs", "list"]}

    # when
    result = shell.run(*arguments[place], env={"CELERIAC_DEBUG": "1"} if place == "setting" else {})

    # then
    assert result.code == 1
    assert "Traceback" in result.err


def test_interrupt_ends_with_130(shell: Shell) -> None:
    # given
    fifo = shell.folder / "input"
    os.mkfifo(fifo)
    process = shell.start("submit", "letters", "--input", str(fifo))

    # when
    with fifo.open("w"):  # opens once the command reads
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate()

    # then
    assert process.returncode == 130
    assert "Traceback" not in said


# Parts


def test_closing_text_of_a_demo_has_the_report_the_times_and_what_to_type_next() -> None:
    # given
    document = {
        "documents": 3,
        "noun": "document",
        "outcomes": {"completed": 1, "failed": 1, "waiting": 1},
        "seconds": 2.0,
        "per_second": 1.0,
        "p50": 1.5,
        "p95": 1.9,
        "total_seconds": 7.25,
        "report": "/somewhere/report.html",
        "flower": "http://127.0.0.1:5556",
        "tag": "letters-1",
        "failures": {"shout: too loud": 1},
        "waiting": [{"run": "01abc", "step": "shout", "question": "really?"}],
    }

    # when
    text = "\n".join(demo.closing_lines(document, "http://127.0.0.1:5555", "celeriac up"))

    # then
    assert "3 documents: 1 completed, 1 failed, 1 wait for a person" in text
    assert "1.5 s at p50, 1.9 s at p95; 7.2 s in all" in text
    assert "report  /somewhere/report.html" in text
    assert "http://127.0.0.1:5556 while this ran; http://127.0.0.1:5555 with `celeriac up`" in text
    assert "1x  shout: too loud" in text
    assert "01abc  really?" in text
    assert "celeriac runs approve 01abc --step shout" in text


def test_command_to_type_is_a_path_where_it_is_not_on_the_search_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given
    program = tmp_path / ".venv" / "bin" / "celeriac"
    program.parent.mkdir(parents=True)
    program.touch(mode=0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(program)])

    # then
    monkeypatch.setenv("PATH", "/nowhere")
    assert demo.program_name() == ".venv/bin/celeriac"
    monkeypatch.setenv("PATH", str(program.parent))
    assert demo.program_name() == "celeriac"


def test_view_on_a_terminal_has_stages_reasons_and_how_to_decide() -> None:
    # given
    steps = (
        StepState(name="draft", agent="acme.draft", status="completed", started_ms=1_000, ended_ms=3_500, attempt=1),
        StepState(
            name="check",
            agent="acme.check",
            status="waiting",
            attempt=2,
            degraded=True,
            waiting=Waiting(question="is this right?", until_ms=9_000, default="reject"),
        ),
    )
    state = run_state("01abc", "waiting", steps=steps)
    out = Console(file=io.StringIO(), width=120, force_terminal=True)

    # when
    out.print(View(state).render())

    # then
    shown = re.sub(r"\x1b\[[0-9;]*m", "", cast("io.StringIO", out.file).getvalue())
    assert "2.5 s" in shown
    assert "is this right?; by the fallback" in shown
    assert "celeriac runs approve 01abc --step check" in shown


def run_state(run_id: str, status: str, **more: object) -> RunState:
    return RunState.model_validate(
        {"id": run_id, "flow": "f", "status": status, "tenant": "t", "priority": "normal", "tags": {}}
        | {"created_ms": 1_000, "deadline_ms": 9_000, "retention_ms": 1, **more}
    )


def test_unexpected_error_asks_for_a_report_in_one_line() -> None:
    # when
    said = explain(KeyError("x\ny"))

    # then
    assert "KeyError" in said
    assert "--debug" in said
    assert "\n" not in said


def test_own_error_is_its_message() -> None:
    assert explain(InvalidInput("say more")) == "say more"


def test_tags_and_numbers_are_read() -> None:
    assert parse_tags(["a=1", "b=x=y", "c="]) == {"a": "1", "b": "x=y", "c": ""}
    assert parse_numbers(["letters.shout=4"]) == {"letters.shout": 4}


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.123, "0.12 s"), (59.94, "59.9 s"), (150, "2 min"), (7200, "2 h"), (1e6, "12 d")]
)
def test_durations_fit_a_column(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_percentile_is_the_nearest_rank() -> None:
    assert percentile([], 0.5) == 0.0
    assert percentile([1.0], 0.95) == 1.0
    assert percentile(list(map(float, range(1, 101))), 0.95) == 95.0


def test_summary_counts_from_the_first_start_to_the_last_end() -> None:
    # given
    def run(number: int, ended: int | None) -> RunState:
        step = StepState(name="a", agent="a", status="completed", started_ms=2_000 + number, ended_ms=ended)
        return run_state(str(number), "completed" if ended else "waiting", ended_ms=ended, steps=(step,))

    # when
    summary = summarise([run(0, 3_000), run(1, 6_000), run(2, None)])

    # then
    assert summary.outcomes == {"completed": 2, "waiting": 1}
    assert summary.seconds == 4.0
    assert summary.per_second == 0.5
    assert (summary.p50, summary.p95) == (2.0, 5.0)
