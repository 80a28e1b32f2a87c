"""What a monitoring host is given to run the smoke test by itself."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path, PurePosixPath

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from opskit.environment import Environment
from opskit.environments import load_environments
from opskit.observe.probing import Key, key_of, layer_key_of, probe_files, probes, warning
from opskit.observe.provisioning import warnings
from opskit.problems import ConfigError
from opskit.secrets import Secret
from opskit.signing import public_key
from tests.opskit.observe.test_reach import prod
from tests.service_process import ServiceProcess

SHARED = Key("jwt_secret", Secret(b"s" * 48), None)


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    return prod(tmp_path, hosts=["chat1"], host="chat1", admin_host="127.0.0.1")


def written(directory: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return directory / "probe/run.py"


def run(program: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run it as the host does; what is of this repository comes from beside it, or from nowhere."""
    argv = [sys.executable, "-I", "-B", str(program), *words]
    return subprocess.run(argv, cwd="/", capture_output=True, text=True, timeout=120, check=False)


def test_it_has_all_that_it_loads(environment: Environment, tmp_path: Path) -> None:
    """The libraries are those of the layer (here: of this interpreter); all else is beside it."""
    files = probe_files(
        environment, PurePosixPath("/x"), key=SHARED, layer=PurePosixPath("/none"), certificates=""
    )
    program = written(tmp_path, files)
    done = run(program, "--check")
    assert (done.returncode, done.stderr) == (0, "")
    (tmp_path / "probe/code/opskit/failure.py").unlink()
    assert "No module named 'opskit.failure'" in run(program, "--check").stderr


def test_it_runs_the_smoke_test_and_exports_what_it_found(
    environment: Environment, tmp_path: Path
) -> None:
    """Against a real service; the token is signed with the secret that lies there."""
    files = probe_files(
        environment, PurePosixPath("/x"), key=SHARED, layer=PurePosixPath("/none"), certificates=""
    )
    program = written(tmp_path / "configuration", files)
    told = json.loads(files["probe/probe.json"])
    secret, metrics = tmp_path / "secret", tmp_path / "metrics"
    service = ServiceProcess(tmp_path / "service")
    secret.write_text(service.secret, encoding="utf-8")
    told |= {"url": service.url, "secret": str(secret), "metrics": str(metrics)}
    program.with_name("probe.json").write_text(json.dumps(told), encoding="utf-8")
    service.start()
    try:
        began = time.time()
        done = run(program)
        assert done.returncode == 0, done.stdout + done.stderr
        lines = (metrics / "probe.prom").read_text().splitlines()
        assert "opskit_probe_success 1.0" in lines
        assert 'opskit_probe_check_success{check="no_token"} 1' in lines
        [at] = [line for line in lines if line.startswith("opskit_probe_timestamp_seconds ")]
        assert began <= float(at.split()[1]) <= time.time()
        secret.write_text("x" * 64, encoding="utf-8")
        assert run(program).returncode == 1
        assert "opskit_probe_success 0.0" in (metrics / "probe.prom").read_text().splitlines()
    finally:
        service.close()


def test_no_secret_is_in_it_and_its_layer_is_that_of_the_service(
    environment: Environment,
) -> None:
    files = probe_files(
        environment, PurePosixPath("/opt/m"), key=SHARED,
        layer=PurePosixPath("/opt/m/layers/abc"), certificates="PEM",
    )  # fmt: skip
    told = json.loads(files["probe/probe.json"])
    assert told["secret"] == "/opt/m/secrets/jwt_secret"
    assert (told["url"], told["certificates"]) == ("https://chat.example.net", "PEM")
    assert told["layer"] == "/opt/m/layers/abc"
    assert len(layer_key_of(environment)) == 20


# --- private keys -----------------------------------------------------------------------------


def keyed(directory: Path, *, probe_key: bool = True, **secrets: str) -> Environment:
    """An environment whose tokens are signed with private keys."""
    one = {
        "target": "ssh",
        "hosts": ["a"],
        "url": "https://a.example.net",
        "secrets": {"jwks": "file:keys.json", **secrets},
        "monitoring": {"host": "a"} | ({"probe_key": "file:probe.pem"} if probe_key else {}),
    }
    file = directory / "environments.yaml"
    file.write_text(json.dumps({"environments": {"prod": one}}, indent=1), encoding="utf-8")
    return load_environments(file).get("prod")


def pair(directory: Path) -> dict[str, str]:
    """Make a private key, and give its public half."""
    key = ed25519.Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (directory / "probe.pem").write_bytes(pem)
    (directory / "probe.pem").chmod(0o600)
    return public_key(pem)


def key_set(directory: Path, *keys: dict[str, str]) -> Path:
    path = directory / "keys.json"
    path.write_text(json.dumps({"keys": keys}), encoding="utf-8")
    path.chmod(0o600)
    return path


def test_a_probe_with_a_key_of_its_own_is_let_in(tmp_path: Path) -> None:
    """By a real service that knows its public half among others; and no more after it is gone."""
    public = pair(tmp_path)
    others = public_key(_pem(ec.generate_private_key(ec.SECP256R1())))
    keys = key_set(tmp_path, others | {"kid": "a"}, public | {"kid": "probe"})
    environment = keyed(tmp_path, signing_key="file:never-read.pem")
    assert (probes(environment), warning(environment)) == (True, "")
    key = key_of(environment)
    assert (key.name, key.key_id) == ("probe_key", "probe")
    files = probe_files(
        environment, PurePosixPath("/x"), key=key, layer=PurePosixPath("/none"), certificates=""
    )
    assert not [name for name, text in files.items() if "PRIVATE KEY-----\nM" in text]
    program = written(tmp_path / "configuration", files)
    told, metrics = json.loads(files["probe/probe.json"]), tmp_path / "metrics"
    assert told["secret"] == "/x/secrets/probe_key"
    service = ServiceProcess(
        tmp_path / "service", overrides={"auth": {"secret_file": "", "jwks_file": str(keys)}}
    )
    told |= {"url": service.url, "metrics": str(metrics), "secret": str(tmp_path / "probe.pem")}
    program.with_name("probe.json").write_text(json.dumps(told), encoding="utf-8")
    service.start()
    try:
        done = run(program)
        assert done.returncode == 0, done.stdout + done.stderr
        lines = (metrics / "probe.prom").read_text().splitlines()
        assert "opskit_probe_success 1.0" in lines
        assert 'opskit_probe_check_success{check="bad_token"} 1' in lines
        pair(tmp_path)  # another one
        assert run(program).returncode == 1
    finally:
        service.close()


def test_a_key_that_no_host_would_take_is_refused_before_anything_is_brought(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the first that is heard of it is an alert that the smoke test fails."""
    monkeypatch.chdir(tmp_path)
    public = pair(tmp_path)
    key_set(tmp_path, public_key(_pem(ec.generate_private_key(ec.SECP256R1()))))
    environment = keyed(tmp_path)
    with pytest.raises(ConfigError, match=r"has its public half not in secrets\.jwks") as caught:
        key_of(environment)
    assert caught.value.problems[0].key == "monitoring.probe_key"
    key_set(tmp_path, public)
    assert key_of(environment).key_id == "", "the set names none, so the token says none"
    (tmp_path / "probe.pem").write_bytes(_pem(ec.generate_private_key(ec.SECP384R1())))
    with pytest.raises(ConfigError, match=r"cannot be signed with: it must be an RSA, P-256 or"):
        key_of(environment)


def test_a_private_key_does_not_leave_and_what_to_do_is_said(tmp_path: Path) -> None:
    """Without a key for the probe nothing is probed there, and nobody may believe that it is."""
    environment = keyed(tmp_path, probe_key=False, signing_key="file:key.pem")
    assert not probes(environment)
    said = warning(environment)
    assert "a does not run the smoke test: tokens are signed with secrets.signing_key" in said
    assert "monitoring.probe_key" in said
    assert "`opskit probe prod` every 300 s" in said
    assert warnings(environment) == [said], "provisioning says it, too"
    nothing = warning(keyed(tmp_path, probe_key=False))
    assert "there is nothing that it could sign tokens with" in nothing
    shared = prod(tmp_path, hosts=["chat1"], host="chat1", admin_host="127.0.0.1")
    assert warning(shared) == ""


def test_a_key_for_a_probe_that_nobody_runs_is_refused_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    keyed(tmp_path)
    text = (tmp_path / "environments.yaml").read_text(encoding="utf-8")
    lost = text.replace('"host": "a",', "")
    with pytest.raises(ConfigError, match="is for the probe of a monitoring host") as caught:
        load_one(tmp_path, lost)
    [problem] = caught.value.problems
    assert problem.key == "environments.prod.monitoring.probe_key"
    shared = text.replace('"jwks": "file:keys.json"', '"jwt_secret": "env:SECRET"')
    with pytest.raises(ConfigError, match="has no key set that its public half could be in"):
        load_one(tmp_path, shared)


def load_one(directory: Path, text: str) -> Environment:
    file = directory / "environments.yaml"
    file.write_text(text, encoding="utf-8")
    return load_environments(file).get("prod")


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
