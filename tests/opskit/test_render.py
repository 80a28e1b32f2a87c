"""Rendered settings say what the environment says, all of it, whatever characters are in it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import inspect

from chatservice.config import Settings, load_settings
from opskit.environment import Environment
from opskit.environments import load_environments
from opskit.failure import Failure
from opskit.render import SETTINGS, TEMPLATES, diff, read_config, render, toml

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = TEMPLATES / "chatservice/settings.toml.j2"


def environment(directory: Path, chat: dict[str, Any]) -> Environment:
    file = directory / "environments.yaml"
    dev = {
        "target": "local",
        "root": "root",
        "secrets": {"jwt_secret": "generate"},
        "smoke": {"timeout": 600},
        "chat": chat,
    }
    file.write_text(yaml.safe_dump({"environments": {"dev": dev}}, allow_unicode=True))
    return load_environments(file).get("dev")


def documented() -> dict[str, str]:
    """Give the comment above each key of the template."""
    found: dict[str, str] = {}
    section = comment = ""
    for line in TEMPLATE.read_text().splitlines():
        if header := re.fullmatch(r"\[(\w+)\]", line):
            section = header[1]
        elif key := re.fullmatch(r"(\w+) = \{\{ (\S+) \| toml \}\}", line):
            assert key[2] == f"{section}.{key[1]}"
            found[key[2]] = comment
            comment = ""
        else:
            comment = line
    return found


def every_key() -> dict[str, inspect.Field]:
    kind = inspect.type_info(Settings)
    assert isinstance(kind, inspect.StructType)
    keys: dict[str, inspect.Field] = {}
    for section in kind.fields:
        assert isinstance(section.type, inspect.StructType)
        keys |= {f"{section.name}.{field.name}": field for field in section.type.fields}
    return keys


# --- the settings file --------------------------------------------------------------------


def test_every_key_of_the_service_is_in_the_template_in_order() -> None:
    assert list(documented()) == list(every_key())


def test_each_key_is_explained_in_one_line_that_tells_its_default() -> None:
    for key, field in every_key().items():
        comment = documented()[key]
        assert comment.startswith("# "), key
        assert len(comment) <= 100, key
        if key.endswith(("_dir", "secret_file", "jwks_file", "dsn_file")):
            assert re.search(r"opskit|secrets\.", comment), key
            continue
        told = re.search(r"\(default ([^ ,;:)]+)", comment)
        assert told, key
        default = msgspec.to_builtins(
            field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
        )
        if isinstance(default, bool):
            assert told[1] == str(default).lower(), key
        elif isinstance(default, float):
            assert float(told[1]) == default, key
        else:
            assert told[1] == str(default or ("none" if default == "" else default)), key


def test_environments_yaml_explains_each_key_in_the_same_words() -> None:
    lines = (ROOT / "environments.yaml").read_text().splitlines()
    dev = lines[: lines.index("  prod:")]
    for key, comment in documented().items():
        if key.endswith(("_dir", "secret_file", "jwks_file", "dsn_file")):
            continue
        assert f"        {comment}" in dev, key
        name = key.partition(".")[2]
        following = dev[dev.index(f"        {comment}") + 1]
        assert re.match(rf"        #?{name}: ", following), key


def test_the_rendered_file_is_what_the_environment_says(tmp_path: Path) -> None:
    chat = {
        "limits": {"text": 17, "rate": 0.5},
        "auth": {"issuer": 'a "quoted" \\ path\tand ☃', "origins": ["https://a.example"]},
        "timing": {"presence_grace": 0},
        "log": {"level": "debug"},
    }
    found = environment(tmp_path, chat)
    written = tmp_path / "settings.toml"
    written.write_text(render(found)[SETTINGS], encoding="utf-8")
    assert load_settings(written) == found.settings
    assert found.settings.auth.issuer == 'a "quoted" \\ path\tand ☃'


def test_it_is_rendered_for_the_root_that_it_will_lie_in(tmp_path: Path) -> None:
    text = render(environment(tmp_path, {}), Path("/srv/ch at"))[SETTINGS]
    service = tomllib.loads(text)["service"]
    assert (service["state_dir"], service["run_dir"]) == ("/srv/ch at/state", "/srv/ch at/run")
    assert str(tmp_path) not in text


def test_the_same_environment_renders_the_same_bytes(tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    chat = {"auth": {"origins": ["https://b.example", "https://a.example"]}}
    first = render(environment(tmp_path, chat), Path("/r"))
    assert render(environment(tmp_path / "again", chat), Path("/r")) == first
    assert list(first) == ["config/settings.toml"]


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.text(st.characters(codec="utf-8"), min_size=1),
    number=st.floats(min_value=5e-324, max_value=1e300, exclude_min=True),
)
def test_any_text_and_number_survives(tmp_path: Path, text: str, number: float) -> None:
    chat = {"auth": {"issuer": text, "audience": text}, "limits": {"rate": number}}
    found = environment_from(tmp_path, chat)
    written = tmp_path / "settings.toml"
    written.write_text(render(found)[SETTINGS], encoding="utf-8", newline="")
    read = load_settings(written)
    assert (read.auth.issuer, read.auth.audience, read.limits.rate) == (text, text, number)


def environment_from(directory: Path, chat: dict[str, Any]) -> Environment:
    """Make an environment without YAML's own limits on characters."""
    whole = environment(directory, {})
    values = whole.chat_settings()
    for section, keys in chat.items():
        values[section] |= keys
    object.__setattr__(whole, "settings", msgspec.convert(values, Settings))
    return whole


# --- toml ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "true"),
        (7, "7"),
        (5.0, "5.0"),
        (1e-05, "1e-05"),
        ("", '""'),
        ('"\\\n\x7f\x00', r'"\"\\\n\u007f\u0000"'),
        ("☃😀", '"☃😀"'),
        (["a", 'b"'], '["a", "b\\""]'),
        ([], "[]"),
    ],
)
def test_values_are_written_as_toml(value: object, text: str) -> None:
    assert toml(value) == text
    assert tomllib.loads(f"x = {text}") == {"x": value}


def test_what_no_setting_can_be_is_refused() -> None:
    with pytest.raises(TypeError, match="no setting is a NoneType"):
        toml(None)


# --- diff ---------------------------------------------------------------------------------


def test_equal_configurations_have_no_diff() -> None:
    assert diff({"a": "1\n", "b": "2\n"}, {"b": "2\n", "a": "1\n"}) == ""


def test_a_diff_shows_changed_new_and_removed_files_by_name() -> None:
    old = {"config/b.toml": "same\nold\n", "config/gone": "x\n"}
    new = {"config/b.toml": "same\nnew\n", "config/a": "y"}
    assert diff(old, new) == (
        "--- /dev/null\n+++ new/config/a\n@@ -0,0 +1 @@\n+y\n\\ No newline at end of file\n"
        "--- live/config/b.toml\n+++ new/config/b.toml\n@@ -1,2 +1,2 @@\n same\n-old\n+new\n"
        "--- live/config/gone\n+++ /dev/null\n@@ -1 +0,0 @@\n-x\n"
    )


def test_a_diff_against_a_release_reads_its_configuration(tmp_path: Path) -> None:
    assert read_config(tmp_path / "none") == {}
    (tmp_path / "config/deeper").mkdir(parents=True)
    (tmp_path / "config/settings.toml").write_text("a = 1\n")
    (tmp_path / "config/deeper/x").write_text("☃")
    (tmp_path / "run.py").write_text("no configuration")
    assert read_config(tmp_path) == {"config/deeper/x": "☃", "config/settings.toml": "a = 1\n"}


def test_no_secret_can_be_in_a_diff(tmp_path: Path) -> None:
    found = environment(tmp_path, {})
    secret = found.resolve_secrets()["jwt_secret"].decode()
    assert secret not in diff({}, render(found))


def test_templates_that_are_missing_say_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from opskit import render as module

    monkeypatch.setattr(module, "TEMPLATES", tmp_path / "none")
    module.templates.cache_clear()
    with pytest.raises(Failure, match="none is missing") as caught:
        render(environment(tmp_path, {}))
    assert "make dev" in caught.value.hint
