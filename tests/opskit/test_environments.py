"""environments.yaml: what it may say, and how it is told what is wrong."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from chatservice.config import Settings
from opskit.chat_settings import OWN_KEYS
from opskit.environment_file import SECRETS, Local, Releases, Smoke, Ssh
from opskit.environments import load_environments
from opskit.monitoring_file import Monitoring, Receivers
from opskit.patience import Patience
from opskit.problems import ConfigError
from tests.opskit.environment_texts import DEV, PROD, dev

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = ROOT / "environments.yaml"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "environments.yaml"


def complaints(file: Path, text: str) -> list[str]:
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_environments(file)
    assert caught.value.status == 2
    return str(caught.value).splitlines()


def complaint(file: Path, text: str) -> str:
    lines = complaints(file, text)
    assert len(lines) == 1, lines
    return lines[0]


# --- what it may say ----------------------------------------------------------------------


def test_sections_without_keys_are_the_defaults(file: Path) -> None:
    more = "    releases:\n    smoke:\n    chat:\n      limits:\n      log:\n"
    assert dev(file, more).settings == dev(file).settings


def test_anchors_and_merges_share_settings_between_environments(file: Path) -> None:
    file.write_text(
        DEV.replace("  dev:", "  dev: &dev", 1)
        + "    chat:\n      history: {keep: 70}\n      service: {}\n      auth: {}\n"
        + "  test:\n    <<: *dev\n    root: .opskit/test\n"
        + "  next:\n    <<: *dev\n    root: .opskit/next\n"
    )
    environments = load_environments(file)
    assert environments.get("test").settings.history.keep == 70
    for name in ("dev", "test", "next"):
        state = environments.get(name).chat_settings()["service"]["state_dir"]
        assert state == str(file.parent / ".opskit" / name / "state")


# --- what is wrong ------------------------------------------------------------------------


def test_every_error_is_told_at_once_in_the_order_of_the_file(file: Path) -> None:
    text = """\
environments:
  dev:
    target: local
    root: .opskit/dev
    colour: blue
    secrets:
      jwt_secret: generate
    smoke:
      users: 1
      delivery_ms: soon
  Prod: {}
  next:
    target: local
    root: .opskit/next
    secrets:
      jwt_secret: generate
    chat:
      limits:
        text: x
        frame_bites: 7
      auth:
        origins: [https://fine.example, no, https://good.example, "nor this"]
      log:
        level: loud
else: 1
"""
    assert complaints(file, text) == [
        "environments.yaml:5: environments.dev.colour: unknown key; known here: url, chat, "
        "secrets, releases, smoke, monitoring, target, root, nodes",
        "environments.yaml:9: environments.dev.smoke.users: expected int >= 2 and <= 1000, got 1",
        "environments.yaml:10: environments.dev.smoke.delivery_ms: expected int >= 1 and "
        "<= 60000, got 'soon'",
        "environments.yaml:11: environments.Prod: a name has a to z, 0 to 9 and -, starts with "
        "a letter, and is at most 32 long",
        "environments.yaml:19: environments.next.chat.limits.text: expected int from 1 to "
        "1000000, got 'x'",
        "environments.yaml:20: environments.next.chat.limits.frame_bites: unknown key; did you "
        "mean frame_bytes? known here: text, frame_bytes, rate, burst, connections, "
        "connections_per_user, connections_per_workspace, handshakes, unsent_bytes, queued_writes",
        "environments.yaml:22: environments.next.chat.auth.origins[1]: expected text, got false",
        "environments.yaml:22: environments.next.chat.auth.origins[3]: 'nor this' is no origin; "
        "expected scheme://host[:port], as a browser sends it",
        "environments.yaml:24: environments.next.chat.log.level: expected one of debug, error, "
        "info, warning, got 'loud'",
        "environments.yaml:25: else: unknown key; the only one here is environments",
    ]


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ("    chat: 7", "7: environments.dev.chat: expected a mapping, got 7"),
        ("    chat: {rooms: {}}", "7: environments.dev.chat.rooms: unknown key; known here: "
         "service, auth, store, history, limits, timing, log"),
        ("    chat: {limits: 7}", "7: environments.dev.chat.limits: expected a mapping of "
         "settings, got 7"),
        ("    chat: {auth: 7}", "7: environments.dev.chat.auth: expected a mapping of "
         "settings, got 7"),
        ("    chat: {service: {prot: 1}}", "7: environments.dev.chat.service.prot: unknown key; "
         "did you mean port? known here: host, port, admin_host, admin_port, "
         "survive_crashes"),
        ("    chat: {limits: {rate: 0}}", "7: environments.dev.chat.limits.rate: expected "
         "number > 0, got 0"),
        ("    chat: {limits: {burst: true}}", "7: environments.dev.chat.limits.burst: expected "
         "int >= 1, got true"),
        ("    chat: {auth: {issuer: [a]}}", "7: environments.dev.chat.auth.issuer: expected "
         "text, got a list"),
        ("    chat: {service: {host: ''}}", "7: environments.dev.chat.service.host: expected "
         "text that is not empty, got ''"),
        ("    chat:\n      history:\n        newest: 90\n        keep: 50",
         "9: environments.dev.chat.history.newest: is larger than history.keep"),
        ("    chat: {service: {port: 0}}", "7: environments.dev.chat.service.port: is 0, any "
         "free port; opskit must know it, so choose one"),
        ("    chat: {service: {port: 8766}}", "7: environments.dev.chat.service.admin_port: is "
         "8766, which is chat.service.port; choose another"),
        ("    chat: {service: {state_dir: /x}}", "7: environments.dev.chat.service.state_dir: is "
         "<root>/state; it cannot be set"),
        ("    chat: {auth: {secret_file: /x}}", "7: environments.dev.chat.auth.secret_file: is "
         "written by opskit; set secrets.jwt_secret of the environment instead"),
        ("    chat: {auth: {jwks_url: 'https://a'}}", "7: environments.dev.chat.auth.jwks_url: "
         "cannot be given beside jwt_secret"),
        ("    smoke: {timeout: 1}", "7: environments.dev.smoke.timeout: is 1 s, and the smoke "
         "test waits for people to leave, 1 s; raise it"),
        ("    smoke: fast", "7: environments.dev.smoke: expected a mapping, got 'fast'"),
        ("    url: chat.example.net", "7: environments.dev.url: expected http(s)://host[:port], "
         "without a path, got 'chat.example.net'"),
        ("    url: https://chat.example.net/chat", "7: environments.dev.url: expected "
         "http(s)://host[:port], without a path, got 'https://chat.example.net/chat'"),
        ("    hosts: [a]", "7: environments.dev.hosts: unknown key; known here: url, chat, "
         "secrets, releases, smoke, monitoring, target, root, nodes"),
        ("    releases: {keep: '5'}", "7: environments.dev.releases.keep: expected int >= 1 and "
         "<= 100, got '5'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_line_key_and_remedy(
    file: Path, more: str, expected: str
) -> None:
    assert complaint(file, f"{DEV}{more}\n") == f"environments.yaml:{expected}"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("python: 3.10", "expected text; put it in quotes, since YAML reads 3.10 as the number "
         "3.1, got 3.1"),
        ("python: '3.10'", "expected \"3.11\" or newer, in quotes and without a patch number, "
         "got '3.10'"),
        ("platform: windows", "expected one of x86_64-manylinux_2_28, aarch64-manylinux_2_28, "
         "got 'windows'"),
        ("connect_timeout: 0", "expected number >= 1 and <= 300, got 0"),
        ("connect_timeout: 301", "expected number >= 1 and <= 300, got 301"),
        ("connect_timeout: .nan", "expected number >= 1 and <= 300, got nan"),
        ("connect_timeout: 10s", "expected number >= 1 and <= 300, got '10s'"),
        ("command_timeout: 29.9", "expected number >= 30 and <= 3600, got 29.9"),
        ("command_timeout: 3601", "expected number >= 30 and <= 3600, got 3601"),
        ("user: Root!", "expected the name of a user, got 'Root!'"),
        ("root: opt/chat", "expected an absolute path of letters, digits and . _ -, "
         "got 'opt/chat'"),
        ("root: /opt/../chat", "expected an absolute path of letters, digits and . _ -, "
         "got '/opt/../chat'"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_hosts_is_named(file: Path, line: str, expected: str) -> None:
    key = line.partition(":")[0]
    found = complaint(file, f"{PROD}    {line}\n")
    assert found == f"environments.yaml:8: environments.prod.{key}: {expected}"


def test_how_hosts_are_logged_in_to_is_relative_to_the_file(file: Path, tmp_path: Path) -> None:
    more = "      database_url: env:CHAT_DATABASE\n    chat: {store: {kind: postgres}}\n"
    more += "    identity_file: keys/deploy\n    known_hosts: /etc/known\n    jump: ops@gate:2222\n"
    hosts = "ops@chat1.example.net:2222, '[fd00::2]:22', fd00::3"
    file.write_text(PROD.replace("chat1.example.net]", f"{hosts}]") + more)
    environment = load_environments(file).get("prod")
    assert environment.hosts == ("ops@chat1.example.net:2222", "[fd00::2]:22", "fd00::3")
    assert environment.identity_file == tmp_path / "keys/deploy"
    assert environment.known_hosts == Path("/etc/known")
    assert environment.jump == "ops@gate:2222"


def test_slow_hosts_are_given_more_time(file: Path) -> None:
    file.write_text(PROD + "    connect_timeout: 2.5\n    command_timeout: 120\n")
    environment = load_environments(file).get("prod")
    assert environment.patience == Patience(connect=2.5, command=120.0)


def test_two_environments_on_one_host_need_a_root_each(file: Path) -> None:
    """As after copying one for staging: they shared releases, messages and connections."""
    copy = PROD.replace("environments:\n", "").replace("  prod:", "  stage:")
    two = copy.replace("[chat1", "[chat0.example.net, ops@chat1")
    two += "      database_url: env:URL\n    chat: {store: {kind: postgres}}\n"
    assert complaint(file, PROD + two) == (
        "environments.yaml:8: environments.stage.root: is also the root of prod on "
        "chat1.example.net; give each environment its own"
    )
    file.write_text(PROD + copy + "    root: /opt/stage\n")
    assert set(load_environments(file).by_name) == {"prod", "stage"}


@pytest.mark.parametrize("again", ["chat1.example.net", "ops@chat1.example.net:22"])
def test_a_host_that_is_listed_twice_is_refused(file: Path, again: str) -> None:
    """A deployment would find it locked, by itself."""
    found = complaint(file, PROD.replace("chat1.example.net]", f"chat1.example.net, '{again}']"))
    assert found == (
        f"environments.yaml:4: environments.prod.hosts: {again} is there twice: expected each host "
        "once, got a list"
    )


@pytest.mark.parametrize("host", ["chat1:0", "chat1:65536", "[fd00::2]:99999"])
def test_a_port_of_ssh_that_there_cannot_be_is_refused(file: Path, host: str) -> None:
    """It was taken, and what came of it was no name of a host."""
    found = complaint(file, PROD.replace("chat1.example.net]", f"'{host}']"))
    assert found == (
        "environments.yaml:4: environments.prod.hosts[0]: expected [user@]name[:port], the port "
        f"from 1 to 65535, got '{host}'"
    )


@pytest.mark.parametrize("port", ["0", "65536", "http"])
def test_a_port_of_the_address_that_there_cannot_be_is_refused(file: Path, port: str) -> None:
    """It was taken, and every command that looks at the address was an internal error."""
    address = f"https://chat.example.net:{port}"
    assert complaint(file, PROD.replace("https://chat.example.net", address)) == (
        "environments.yaml:5: environments.prod.url: expected http(s)://host[:port], the port from "
        f"1 to 65535, got '{address}'"
    )


def test_a_host_that_ssh_would_take_for_an_option_is_refused(file: Path) -> None:
    found = complaint(file, PROD.replace("chat1.example.net", "good, -oProxyCommand=evil"))
    assert found == (
        "environments.yaml:4: environments.prod.hosts[1]: expected a host as "
        "[user@]name[:port], or its address, got '-oProxyCommand=evil'"
    )


@pytest.mark.parametrize("text", ["", "7\n", "environments:\n", "environments: []\n", "a: 1\n"])
def test_a_file_without_environments_says_what_is_expected(file: Path, text: str) -> None:
    assert complaint(file, text) == (
        "environments.yaml:1: environments: expected a mapping `environments:` with one entry "
        "for each environment"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dev: soon", "expected the settings of an environment, got 'soon'"),
        ("dev: {root: x}", "is required: local (this machine) or ssh (hosts)"),
        ("dev: {target: cloud}", "expected local (this machine) or ssh (hosts), got 'cloud'"),
        ("dev: {target: [ssh]}", "expected local (this machine) or ssh (hosts), got a list"),
    ],
)
def test_an_environment_says_what_kind_it_is(file: Path, text: str, expected: str) -> None:
    assert complaint(file, f"environments:\n  {text}\n").endswith(expected)


def test_a_missing_root_is_named(file: Path) -> None:
    text = DEV.replace("    root: .opskit/dev\n", "")
    assert complaint(file, text) == "environments.yaml:2: environments.dev.root: is required"


def test_two_environments_cannot_share_a_root(file: Path) -> None:
    more = "  test:\n    target: local\n    root: x/../.opskit//dev/\n    secrets:\n"
    assert complaint(file, DEV + more + "      jwt_secret: generate\n") == (
        "environments.yaml:9: environments.test.root: is also the root of dev; give each "
        "environment its own"
    )


def test_a_root_too_long_for_the_control_socket_is_refused(file: Path) -> None:
    found = complaint(file, DEV.replace(".opskit/dev", "/" + "d" * 90))
    assert found == (
        f"environments.yaml:4: environments.dev.root: is too long: /{'d' * 90}/run/control.sock "
        "has 108 bytes, and the path of a Unix socket at most 107; choose a shorter one"
    )
    file.write_text(DEV.replace(".opskit/dev", "/" + "d" * 89))
    load_environments(file)


def test_a_missing_file_says_what_to_do(file: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_environments(file)
    assert str(caught.value) == (
        "environments.yaml: there is no such file; run opskit where it is, or give "
        "--environments FILE"
    )


def test_an_unknown_environment_is_answered_with_those_that_there_are(file: Path) -> None:
    file.write_text(DEV + "  test:\n    <<: &x {target: local, root: a}\n    secrets: {jwt_secret: "
                    "generate}\n")  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        load_environments(file).get("pord")
    assert str(caught.value) == (
        "environments.yaml: there is no environment 'pord'; there are: dev, test"
    )


# --- secrets ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "written",
    ["hunter2-hunter2", "'env'", "'env:'", "'env: '", "'file:'", "vault:hunter2-hunter2", "12345",
     "[hunter2-hunter2]", "{a: hunter2-hunter2}", "generate:hunter2-hunter2", "", "true",
     "env:hunter2-hunter2", "'command:echo \"hunter2-hunter2'"],
)  # fmt: skip
def test_a_secret_written_in_clear_is_refused_and_not_shown(file: Path, written: str) -> None:
    found = complaint(file, DEV.replace("generate", written))
    assert found.startswith("environments.yaml:6: environments.dev.secrets.jwt_secret: ")
    assert "hunter2" not in found
    assert "12345" not in found


def test_secrets_that_are_no_mapping_are_refused_and_not_shown(file: Path) -> None:
    text = DEV.replace("secrets:\n      jwt_secret: generate", "secrets: hunter2-hunter2")
    assert complaint(file, text) == (
        "environments.yaml:5: environments.dev.secrets: expected a mapping of names to "
        "references (what stands there is not shown)"
    )


def test_an_unknown_secret_is_named(file: Path) -> None:
    assert complaint(file, DEV + "      jwt_secrets: env:A\n") == (
        "environments.yaml:7: environments.dev.secrets.jwt_secrets: unknown key; did you mean "
        "jwt_secret? known here: jwt_secret, jwt_previous_secret, jwks, signing_key, "
        "database_url"
    )


def test_generate_is_for_the_jwt_secret_of_a_local_environment_alone(file: Path) -> None:
    expected = (
        "generate is only for the jwt_secret of a local environment; give env:NAME, file:PATH "
        "or command:WORDS"
    )
    found = complaint(file, PROD.replace("env:CHAT_JWT_SECRET", "generate"))
    assert found == f"environments.yaml:7: environments.prod.secrets.jwt_secret: {expected}"
    found = complaint(file, DEV + "      signing_key: generate\n")
    assert found == f"environments.yaml:7: environments.dev.secrets.signing_key: {expected}"


def test_something_must_say_who_may_connect(file: Path) -> None:
    text = DEV.replace("      jwt_secret: generate\n", "")
    assert complaints(file, text) == [
        "environments.yaml:5: environments.dev.secrets.jwt_secret: is required, unless "
        "secrets.jwks or chat.auth.jwks_url is given; for example",
        "    jwt_secret: env:CHAT_JWT_SECRET",
    ]
    file.write_text(text + "    chat: {auth: {jwks_url: 'https://id.example.net/keys'}}\n")
    assert load_environments(file).get("dev").secrets == {}


def test_a_jwt_secret_and_a_key_set_exclude_each_other(file: Path) -> None:
    assert complaint(file, DEV + "      jwks: file:keys.json\n") == (
        "environments.yaml:7: environments.dev.secrets.jwks: cannot be given beside jwt_secret"
    )


def test_a_previous_secret_needs_a_present_one(file: Path) -> None:
    text = DEV.replace("jwt_secret: generate", "jwt_previous_secret: env:A\n      jwks: file:b")
    assert complaint(file, text) == (
        "environments.yaml:6: environments.dev.secrets.jwt_previous_secret: is of no use without "
        "jwt_secret"
    )


def test_a_database_server_needs_an_address_and_a_file_needs_none(file: Path) -> None:
    postgres = "    chat: {store: {kind: postgres}}\n"
    assert complaint(file, DEV + postgres) == (
        "environments.yaml:5: environments.dev.secrets.database_url: is required with "
        'store.kind = "postgres"'
    )
    address = "      database_url: env:CHAT_DATABASE_URL\n"
    assert complaint(file, DEV + address) == (
        "environments.yaml:7: environments.dev.secrets.database_url: is of no use with "
        "chat.store.kind sqlite; set that to postgres, or remove this"
    )
    environment = dev(file, address + postgres)
    assert list(environment.secret_files()) == ["jwt_secret", "database_url"]
    store = environment.chat_settings(Path("/r"))["store"]
    assert (store["kind"], store["dsn_file"]) == ("postgres", "/r/secrets/database_url")


# --- the file in this repository ----------------------------------------------------------


def uncommented(text: str) -> Any:
    """Read environments.yaml with every setting at its documented default switched on."""
    return yaml.safe_load(re.sub(r"^( *)#(?=[a-z_]+:)", r"\1", text, flags=re.MULTILINE))


def test_dev_of_this_repository_is_deployable_as_it_is() -> None:
    environment = load_environments(COMMITTED).get("dev")
    environment.require_deployable()
    assert environment.root == ROOT / ".opskit/dev"


def test_dev_shows_every_setting_of_the_service_at_its_real_default() -> None:
    shown = uncommented(COMMITTED.read_text())["environments"]["dev"]["chat"]
    defaults = msgspec.to_builtins(
        msgspec.convert({"service": {"state_dir": "x", "run_dir": "x"}, "auth": {}}, Settings)
    )
    for key in OWN_KEYS:
        section, name = key.split(".")
        del defaults[section][name]
    # What dev sets otherwise, so that a deployment on this machine takes seconds.
    active = yaml.safe_load(COMMITTED.read_text())["environments"]["dev"]["chat"]
    changed = {(s, k): v for s, keys in active.items() for k, v in (keys or {}).items()}
    assert set(changed) == {
        ("timing", "presence_grace"), ("timing", "drain"), ("timing", "reconnect_spread"),
    }  # fmt: skip
    for (section, name), value in changed.items():
        defaults[section][name] = value
    assert shown == defaults


def test_every_other_setting_is_shown_at_its_real_default_too() -> None:
    shown = uncommented(COMMITTED.read_text())["environments"]
    dev_, prod = shown["dev"], shown["prod"]
    assert dev_["releases"] == Releases().model_dump()
    assert dev_["smoke"] == Smoke().model_dump()
    assert set(dev_) == set(Local.model_fields)
    assert set(dev_["secrets"]) == set(SECRETS)
    watched = dev_["monitoring"]
    assert watched.pop("receivers").keys() == Receivers.model_fields.keys()
    assert watched == Monitoring().model_dump(exclude={"receivers", "host", "probe_key"})
    assert set(prod) == set(Ssh.model_fields) - {"chat", "releases", "smoke"}
    assert set(prod["monitoring"]) == {"host", "probe_key"}
    for name in ("root", "python", "platform", "connect_timeout", "command_timeout"):
        assert prod[name] == Ssh.model_fields[name].default
    assert dev_["url"] == load_environments(COMMITTED).get("dev").base_url


def test_every_setting_has_one_line_that_says_its_default() -> None:
    lines = COMMITTED.read_text().splitlines()
    settings = 0
    for number, line in enumerate(lines):
        match = re.fullmatch(r" +(#?)([a-z_]+): (.+)", line)
        if not match or match[2] in ("target", "jwt_secret"):
            continue
        settings += 1
        comment = lines[number - 1].strip()
        assert comment.startswith("# "), line
        assert len(lines[number - 1]) <= 100
        told = re.search(r"\((default|required)[^)]*", comment)
        assert told or "instead of" in comment or "never leaves" in comment, comment
        if match[1] and told and re.fullmatch(r"[\d.]+", match[3]):
            assert f"default {match[3]}" in told[0], comment
    assert settings > 40


def test_naming_a_wrong_environment_costs_no_import_of_the_service() -> None:
    """Loading takes the time of pydantic and msgspec, not that of cryptography or uvloop."""
    code = (
        "import sys; from opskit.environments import load_environments; from pathlib import Path;"
        f"load_environments(Path({str(COMMITTED)!r}));"
        "print([m for m in ('jwt', 'cryptography', 'uvloop', 'websockets', 'jinja2') "
        "if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
