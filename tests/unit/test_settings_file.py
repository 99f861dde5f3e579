"""config/settings.toml names every setting, shows its default, and names nothing else."""

import re
import tomllib
from pathlib import Path

import pytest

from orchestrator.settings import Settings

ROOT = Path(__file__).parents[2]
FILE = ROOT / "config" / "settings.toml"

# A setting is either set, `key = value`, or shown commented out, `# key = value`.
COMMENTED_OUT = re.compile(r"^# ?(?=[a-z_]+ = )", re.MULTILINE)


def _shown() -> dict[str, object]:
    return tomllib.loads(COMMENTED_OUT.sub("", FILE.read_text()))


def test_the_file_names_every_setting_and_nothing_unknown() -> None:
    # given the fields of the model
    known = set(Settings.model_fields)

    # when the file is read, its commented-out lines included
    named = set(_shown())

    # then the two are the same
    assert sorted(known - named) == [], "settings missing from config/settings.toml"
    assert sorted(named - known) == [], "config/settings.toml names what is not a setting"


def test_the_file_explains_each_setting_in_the_line_above_it() -> None:
    # given the lines of the file
    lines = FILE.read_text().splitlines()

    # when we look above every line that names a setting
    unexplained = [
        line
        for above, line in zip(["", *lines], lines, strict=False)
        if re.match(r"(# ?)?[a-z_]+ = ", line) and not (above.startswith("# ") and not COMMENTED_OUT.match(above))
    ]

    # then each has its comment
    assert unexplained == []


def test_the_values_shown_are_valid_and_a_value_commented_out_is_the_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # given every line of the file in force, and nothing else to read settings from
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CELERIAC_CONFIG", raising=False)
    shown = _shown()
    in_force = set(tomllib.loads(FILE.read_text()))

    # when the model validates them
    settings = Settings.model_validate(shown)

    # then those commented out are what applies without them; one without a default shows an example
    defaults = {name: field.default for name, field in Settings.model_fields.items()}
    differing = [
        name
        for name in shown
        if name not in in_force and defaults[name] is not None and getattr(settings, name) != defaults[name]
    ]
    assert differing == []


def test_every_reference_flow_is_known_and_served_without_more_being_said() -> None:
    # given the reference flows, each a package
    flows = sorted(f"workers.{folder.parent.name}" for folder in ROOT.glob("workers/*/__init__.py"))

    # then the file names them, and so do the services of the Compose file
    assert sorted(Settings.model_validate(tomllib.loads(FILE.read_text())).agents) == flows
    named = re.search(r"CELERIAC_AGENTS: (.*)", (ROOT / "docker-compose.yml").read_text())
    assert named is not None
    assert sorted(named[1].split(",")) == flows
