"""Settings: environment over file over defaults, and a message that names what does not fit."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from orchestrator import Settings, get_settings
from orchestrator.errors import InvalidSettings
from orchestrator.settings import load_settings


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Take away what the developer's shell and folder set."""
    for name in [name for name in os.environ if name.startswith("CELERIAC_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


# Where values come from


def test_without_anything_the_defaults_apply() -> None:
    settings = load_settings()

    assert (settings.redis_url, settings.agents, settings.data_dir) == (None, (), Path(".celeriac"))
    assert (settings.shards, settings.lease, settings.sweep, settings.max_attempts) == (8, 10.0, 2.0, 5)
    assert (settings.claim_check_bytes, settings.max_payload_bytes) == (256 * 1024, 16 * 1024 * 1024)


def test_the_file_is_stronger_than_the_defaults(tmp_path: Path) -> None:
    write(tmp_path / "config" / "settings.toml", 'lease = 3.5\nagents = ["acme.agents"]\n')

    settings = load_settings()

    assert (settings.lease, settings.agents, settings.sweep) == (3.5, ("acme.agents",), 2.0)


def test_the_environment_is_stronger_than_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # given a file and an environment that share one setting
    write(tmp_path / "config" / "settings.toml", 'lease = 3.5\nsweep = 0.5\nagents = ["acme.agents"]\n')
    monkeypatch.setenv("CELERIAC_LEASE", "7")
    monkeypatch.setenv("CELERIAC_AGENTS", "other")

    # when they are read, then the environment's applies, and the file's where it says nothing
    settings = load_settings()
    assert (settings.lease, settings.sweep, settings.agents) == (7.0, 0.5, ("other",))


def test_arguments_are_stronger_than_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELERIAC_LEASE", "7")

    assert Settings(lease=9.0).lease == 9.0


def test_another_file_may_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # given a file in the usual place, and another one that is named
    write(tmp_path / "config" / "settings.toml", "lease = 3.5\nsweep = 0.5\n")
    named = write(tmp_path / "elsewhere.toml", "lease = 4.5\n")
    monkeypatch.setenv("CELERIAC_CONFIG", str(named))

    # when they are read, then the named one alone counts
    settings = load_settings()
    assert (settings.lease, settings.sweep) == (4.5, 2.0)


@pytest.mark.parametrize(
    ("text", "modules"),
    [
        ("acme.agents", ("acme.agents",)),
        ("acme.agents,acme.more", ("acme.agents", "acme.more")),
        (" acme.agents , acme.more ,", ("acme.agents", "acme.more")),
        ("", ()),
        (" , ", ()),
    ],
)
def test_a_list_in_the_environment_is_separated_by_commas(
    monkeypatch: pytest.MonkeyPatch, text: str, modules: tuple[str, ...]
) -> None:
    monkeypatch.setenv("CELERIAC_AGENTS", text)

    assert load_settings().agents == modules


def test_an_empty_text_in_the_environment_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    # given variables that a compose file passes on though they are not set
    names = ("redis_url", "broker_url", "model", "model_url", "model_key")
    for name in names:
        monkeypatch.setenv(f"CELERIAC_{name.upper()}", "")

    # then they are not set
    settings = load_settings()
    assert [getattr(settings, name) for name in names] == [None] * len(names)


def test_an_unknown_variable_is_not_our_business(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELERIAC_NOTHING", "1")

    assert load_settings() == Settings()


@pytest.mark.parametrize("url", ["redis://h:1/0", "rediss://:secret@h", "unix:///tmp/s.sock"])
def test_redis_is_named_by_any_url_that_redis_py_takes(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("CELERIAC_REDIS_URL", url)

    assert load_settings().redis_url == SecretStr(url)


# What does not fit


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("shards", "0"),
        ("shards", "257"),
        ("shards", "many"),
        ("lease", "0.1"),
        ("lease", "-1"),
        ("lease", "nan"),
        ("lease", "inf"),
        ("lease", ""),
        ("sweep", "0"),
        ("dispatch_timeout", "0"),
        ("max_attempts", "0"),
        ("max_attempts", "2.5"),
        ("run_deadline", "0"),
        ("retention", "-5"),
        ("retention", "1e99"),
        ("claim_check_bytes", "10"),
        ("max_payload_bytes", "1e99"),
        ("redis_retry", "-1"),
        ("pool", "gevent"),
        ("concurrency", "0"),
        ("flower_port", "70000"),
        ("model_timeout", "0"),
        ("model_timeout", "nan"),
        ("debug", "perhaps"),
        ("redis_url", "localhost:6379"),
        ("redis_url", "http://localhost"),
    ],
)
def test_a_value_that_does_not_fit_is_an_error_that_names_its_setting(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    # given a value in the environment
    monkeypatch.setenv(f"CELERIAC_{name.upper()}", value)

    # when the settings are read
    with pytest.raises(InvalidSettings) as invalid:
        load_settings()

    # then one line names the setting, and where to correct it
    message = str(invalid.value)
    assert message.startswith(f"invalid settings: {name}: ")
    assert "correct it in the environment (CELERIAC_<NAME>) or the settings file" in message
    assert len(message.splitlines()) == 1


def test_all_that_does_not_fit_is_named_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "config" / "settings.toml", "lease = -1\n")
    monkeypatch.setenv("CELERIAC_POOL", "gevent")

    with pytest.raises(InvalidSettings, match=r"lease: .*; pool: |pool: .*; lease: "):
        load_settings()


def test_a_setting_that_does_not_exist_is_an_error_of_the_file(tmp_path: Path) -> None:
    write(tmp_path / "config" / "settings.toml", "leese = 3.5\n")

    with pytest.raises(InvalidSettings, match="leese: Extra inputs are not permitted"):
        load_settings()


def test_a_claim_check_is_smaller_than_the_largest_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELERIAC_MAX_PAYLOAD_BYTES", "2048")

    with pytest.raises(InvalidSettings, match="claim_check_bytes must not exceed max_payload_bytes"):
        load_settings()


@pytest.mark.parametrize("named", ["nothing.toml", "."])
def test_a_file_that_is_named_must_be_there(monkeypatch: pytest.MonkeyPatch, named: str) -> None:
    monkeypatch.setenv("CELERIAC_CONFIG", named)

    with pytest.raises(InvalidSettings) as invalid:
        load_settings()
    assert str(invalid.value) == (
        f"invalid settings: CELERIAC_CONFIG={named}: there is no such file; correct the path or unset it"
    )


@pytest.mark.parametrize("content", [b"lease = \n", b"lease 3\n", b"\xff\xfe", b"lease = 1\nlease = 2\n", b"[lease"])
def test_a_file_that_is_no_toml_is_an_error_that_says_where(tmp_path: Path, content: bytes) -> None:
    write(tmp_path / "config" / "settings.toml", "").write_bytes(content)

    with pytest.raises(InvalidSettings) as invalid:
        load_settings()
    assert "the settings file is not valid TOML" in str(invalid.value)
    assert len(str(invalid.value).splitlines()) == 1


def test_a_password_is_in_no_message(monkeypatch: pytest.MonkeyPatch) -> None:
    # given a URL that is wrong, and one that is right
    monkeypatch.setenv("CELERIAC_REDIS_URL", "http://:s3cret@host")
    monkeypatch.setenv("CELERIAC_BROKER_URL", "amqp://me:s3cret@host")
    monkeypatch.setenv("CELERIAC_MODEL_KEY", "s3cret")

    # when the settings are refused, or shown
    with pytest.raises(InvalidSettings) as invalid:
        load_settings()
    monkeypatch.setenv("CELERIAC_REDIS_URL", "redis://:s3cret@host")
    shown = repr(load_settings())

    # then the password is in neither
    assert "s3cret" not in str(invalid.value)
    assert "s3cret" not in shown


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().lease = 1.0  # type: ignore[misc]  # what must not work


def test_a_process_reads_its_settings_once(monkeypatch: pytest.MonkeyPatch) -> None:
    # given settings that have been read
    get_settings.cache_clear()
    first = get_settings()

    # when the environment changes, then they stay
    monkeypatch.setenv("CELERIAC_LEASE", "99")
    assert get_settings() is first
    get_settings.cache_clear()
