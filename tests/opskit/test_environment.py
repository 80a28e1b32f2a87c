"""An environment: what opskit makes of what environments.yaml says."""

from __future__ import annotations

import sys
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from chatservice.config import settings_from
from opskit.environments import load_environments
from opskit.patience import Patience
from opskit.problems import ConfigError
from opskit.secrets import Secret
from tests.opskit.environment_texts import DEV, PROD, dev

COMMITTED = Path(__file__).resolve().parents[2] / "environments.yaml"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "environments.yaml"


def test_an_environment_on_this_machine_needs_three_settings(file: Path, tmp_path: Path) -> None:
    environment = dev(file)
    assert (environment.name, environment.target) == ("dev", "local")
    assert environment.root == tmp_path / ".opskit" / "dev"
    assert environment.base_url == "http://127.0.0.1:8765"
    assert environment.ws_url == "ws://127.0.0.1:8765"
    assert environment.python == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert environment.platform is None
    assert environment.hosts == ()
    assert environment.releases_keep == 5
    assert (environment.smoke.users, environment.smoke.delivery_ms) == (3, 1000)
    assert {name: str(ref) for name, ref in environment.secrets.items()} == {
        "jwt_secret": "generate"
    }
    environment.require_deployable()


def test_an_environment_on_hosts_says_what_its_layer_is_built_for(file: Path) -> None:
    file.write_text(PROD)
    environment = load_environments(file).get("prod")
    assert environment.root == Path("/opt/chat")
    assert environment.base_url == "https://chat.example.net"
    assert environment.ws_url == "wss://chat.example.net"
    assert (environment.python, environment.platform) == ("3.11", "x86_64-manylinux_2_28")
    assert (environment.hosts, environment.user) == (("chat1.example.net",), "")
    assert (environment.identity_file, environment.known_hosts, environment.jump) == (
        None,
        None,
        "",
    )
    assert environment.patience == Patience(connect=10.0, command=30.0)
    environment.require_deployable()


def test_the_services_settings_are_complete_with_absolute_paths(file: Path, tmp_path: Path) -> None:
    environment = dev(file, "    chat:\n      limits:\n        text: 17\n")
    root = f"{tmp_path}/.opskit/dev"
    settings = environment.chat_settings()
    assert settings["limits"]["text"] == 17
    assert settings["history"]["keep"] == 1000
    assert settings["service"]["state_dir"] == f"{root}/state"
    assert settings["service"]["run_dir"] == f"{root}/run"
    assert settings["auth"]["secret_file"] == f"{root}/secrets/jwt_secret"
    assert settings_from(settings, where="") == environment.settings


def test_the_services_settings_can_be_had_for_another_root(file: Path) -> None:
    settings = dev(file).chat_settings(Path("/elsewhere"))
    assert settings["service"]["state_dir"] == "/elsewhere/state"
    assert settings["service"]["run_dir"] == "/elsewhere/run"
    assert settings["auth"]["secret_file"] == "/elsewhere/secrets/jwt_secret"
    assert settings["auth"]["jwks_file"] == ""


def test_each_secret_of_the_service_is_a_file_and_the_signing_key_is_none(file: Path) -> None:
    text = DEV.replace("jwt_secret: generate", "jwks: file:a.json\n      signing_key: file:b.pem")
    file.write_text(text)
    environment = load_environments(file).get("dev")
    assert {name: str(path) for name, path in environment.secret_files(Path("/r")).items()} == {
        "jwks": "/r/secrets/jwks"
    }
    auth = environment.chat_settings(Path("/r"))["auth"]
    assert (auth["jwks_file"], auth["secret_file"]) == ("/r/secrets/jwks", "")


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("0.0.0.0", "http://127.0.0.1:9000"),
        ("'::'", "http://[::1]:9000"),
        ("'fe80::1'", "http://[fe80::1]:9000"),
        ("chat.internal", "http://chat.internal:9000"),
    ],
)
def test_the_address_follows_from_where_the_service_listens(
    file: Path, host: str, url: str
) -> None:
    more = f"    chat:\n      service:\n        host: {host}\n        port: 9000\n"
    assert dev(file, more).base_url == url


def test_an_address_that_is_given_wins(file: Path) -> None:
    assert dev(file, "    url: https://dev.example.net/\n").base_url == "https://dev.example.net"


def test_an_environment_cannot_be_changed(file: Path) -> None:
    environment = dev(file)
    with pytest.raises(FrozenInstanceError):
        environment.name = "prod"  # type: ignore[misc]
    with pytest.raises(ValueError, match="frozen"):
        environment.smoke.users = 1
    with pytest.raises(TypeError):
        environment.secrets["jwt_secret"] = None  # type: ignore[index]


def test_every_missing_secret_is_told_at_once(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHORT", "x" * 31)
    file.write_text(DEV.replace("generate", "env:SHORT") + "      jwt_previous_secret: file:none\n")
    with pytest.raises(ConfigError) as caught:
        load_environments(file).get("dev").resolve_secrets()
    assert str(caught.value).splitlines() == [
        "environments.yaml:6: environments.dev.secrets.jwt_secret: has 31 bytes; HS256 needs at "
        "least 32 (RFC 7518, 3.2): `openssl rand -base64 48` makes a good one",
        f"environments.yaml:7: environments.dev.secrets.jwt_previous_secret: {file.parent}/none "
        "cannot be read: No such file or directory",
    ]


def test_secrets_are_fetched_and_the_generated_one_stays_the_same(file: Path) -> None:
    environment = dev(file)
    first = environment.resolve_secrets()
    assert list(first) == ["jwt_secret"]
    assert isinstance(first["jwt_secret"], Secret)
    assert len(first["jwt_secret"]) == 64
    assert environment.resolve_secrets() == first
    assert (environment.root / "secrets/jwt_secret").read_bytes() == first["jwt_secret"] + b"\n"


def test_file_references_are_relative_to_the_file_they_stand_in(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text(DEV.replace("generate", "file:keys/a"))
    (file.parent / "keys").mkdir()
    (file.parent / "keys/a").write_text("s" * 40)
    (file.parent / "keys/a").chmod(0o600)
    monkeypatch.chdir("/")
    environment = load_environments(file).get("dev")
    assert environment.resolve_secrets() == {"jwt_secret": b"s" * 40}


# --- not yet deployable -------------------------------------------------------------------


def test_hosts_that_are_missing_are_asked_for_with_their_line_and_an_example() -> None:
    prod = load_environments(COMMITTED).get("prod")
    with pytest.raises(ConfigError) as caught:
        prod.require_deployable()
    lines = COMMITTED.read_text().splitlines()
    prod_line = lines.index("  prod:")
    hosts = lines.index("    hosts: []", prod_line) + 1
    url = lines.index("    url: https://chat.example.com", prod_line) + 1
    assert [(p.where.rpartition(":")[2], p.key, p.why) for p in caught.value.problems] == [
        (str(hosts), "environments.prod.hosts", "is empty; list the machines to deploy to, for "
         "example\n    hosts: [prod1.example.com, prod2.example.com]"),
        (str(url), "environments.prod.url", "is still the example, https://chat.example.com; "
         "say how clients reach your hosts"),
    ]  # fmt: skip


def test_an_address_that_is_missing_is_asked_for(file: Path) -> None:
    file.write_text(PROD.replace("    url: https://chat.example.net\n", ""))
    with pytest.raises(ConfigError, match=r"^environments.yaml:2: environments.prod.url: is requ"):
        load_environments(file).get("prod").require_deployable()
