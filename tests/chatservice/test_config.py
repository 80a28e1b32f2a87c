"""A settings file is checked whole, and an error names file and key in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from chatservice.config import Settings, SettingsError, load_settings, settings_from

SMALLEST: dict[str, Any] = {
    "service": {"state_dir": "/s", "run_dir": "/r"},
    "auth": {"secret_file": "/k"},
}


def changed(section: str, **values: Any) -> dict[str, Any]:
    return SMALLEST | {section: SMALLEST.get(section, {}) | values}


def error(mapping: dict[str, Any]) -> str:
    with pytest.raises(SettingsError) as caught:
        settings_from(mapping, where="f.toml")
    assert caught.value.where == "f.toml"
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_smallest_file_gets_the_documented_defaults() -> None:
    settings = settings_from(SMALLEST, where="f")
    assert (settings.service.host, settings.service.port) == ("127.0.0.1", 8765)
    assert (settings.history.keep, settings.history.newest) == (1000, 50)
    assert (settings.limits.text, settings.limits.frame_bytes) == (4000, 65536)
    assert (settings.log.level, settings.log.format) == ("info", "auto")
    assert settings.database == Path("/s/chat.db")
    assert settings.control_socket == Path("/r/control.sock")


def test_a_file_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    path.write_text(
        '[service]\nstate_dir = "/s"\nrun_dir = "/r"\nport = 1\n[auth]\njwks_url = "https://id"\n'
        "[timing]\nheartbeat = 3\n"
    )
    settings = load_settings(path)
    assert (settings.service.port, settings.timing.heartbeat) == (1, 3.0)
    assert settings.auth.jwks_url == "https://id"


def test_a_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(tmp_path / "none.toml")
    assert str(caught.value) == f"{tmp_path}/none.toml: cannot be read: No such file or directory"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"[service\n", "is not TOML: Expected ']'"),
        (b"a = 1\na = 2\n", "is not TOML: Cannot overwrite a value"),
        (b"a = \xff\n", "is not TOML: 'utf-8' codec can't decode byte 0xff"),
    ],
)
def test_what_is_no_toml_says_where(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "settings.toml"
    path.write_bytes(content)
    with pytest.raises(SettingsError) as caught:
        load_settings(path)
    assert str(caught.value).startswith(f"{path}: {why}")


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({}, "f.toml: service: is required"),
        ({"service": {"state_dir": "/s"}}, "f.toml: service.run_dir: is required"),
        (SMALLEST | {"servce": {}}, "f.toml: servce: unknown key"),
        (changed("limits", txt=1), "f.toml: limits.txt: unknown key"),
        (changed("limits", text="1"), "f.toml: limits.text: expected `int`, got `str`"),
        (changed("limits", text=0), "f.toml: limits.text: expected `int` >= 1"),
        (changed("limits", rate=0), "f.toml: limits.rate: expected `float` > 0.0"),
        (changed("service", port=65_536), "f.toml: service.port: expected `int` <= 65535"),
        (changed("service", port=True), "f.toml: service.port: expected `int`, got `bool`"),
        (changed("service", run_dir=""), "f.toml: service.run_dir: expected `str` of length >= 1"),
        (changed("timing", heartbeat=0), "f.toml: timing.heartbeat: expected `float` > 0.0"),
        (changed("log", level="loud"), "f.toml: log.level: invalid enum value 'loud'"),
        (SMALLEST | {"log": 1}, "f.toml: log: expected `object`, got `int`"),
        (
            SMALLEST | {"auth": {}},
            "f.toml: auth.secret_file: is required, unless jwks_file or jwks_url is given",
        ),
        (
            changed("auth", jwks_file="/j"),
            "f.toml: auth.jwks_file: cannot be given beside secret_file",
        ),
        (
            SMALLEST | {"auth": {"jwks_file": "/j", "jwks_url": "https://h"}},
            "f.toml: auth.jwks_url: cannot be given beside jwks_file",
        ),
        (
            SMALLEST | {"auth": {"jwks_file": "/j", "previous_secret_file": "/p"}},
            "f.toml: auth.previous_secret_file: is of no use without secret_file",
        ),
        (
            changed("auth", origins=["https://a.example", "https://b.example/"]),
            "f.toml: auth.origins[1]: 'https://b.example/' is no origin; "
            "expected scheme://host[:port], as a browser sends it",
        ),
        (
            changed("auth", origins=["*"]),
            "f.toml: auth.origins[0]: '*' is no origin; "
            "expected scheme://host[:port], as a browser sends it",
        ),
        (changed("auth", origins=[7]), "f.toml: auth.origins[0]: expected `str`, got `int`"),
        (changed("history", keep=10), "f.toml: history.newest: is larger than history.keep"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_one_line_with_file_and_key(mapping: dict[str, Any], message: str) -> None:
    assert error(mapping) == message


@pytest.mark.parametrize("origin", ["https://a.example", "http://localhost:3000"])
def test_origins_as_browsers_send_them_are_taken(origin: str) -> None:
    settings = settings_from(changed("auth", origins=[origin]), where="f")
    assert settings.auth.origins == [origin]


def test_settings_do_not_change() -> None:
    settings: Settings = settings_from(SMALLEST, where="f")
    with pytest.raises(AttributeError):
        settings.service.port = 1  # type: ignore[misc]
