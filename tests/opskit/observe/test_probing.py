"""What a monitoring host is given to run the smoke test by itself."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path, PurePosixPath

import pytest

from opskit.environment import Environment, load_environments
from opskit.observe.probing import layer_key_of, probe_files, probes
from tests.opskit.observe.test_reach import prod
from tests.service_process import ServiceProcess


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
        environment, PurePosixPath("/x"), layer=PurePosixPath("/none"), certificates=""
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
        environment, PurePosixPath("/x"), layer=PurePosixPath("/none"), certificates=""
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
        environment, PurePosixPath("/opt/m"), layer=PurePosixPath("/opt/m/layers/abc"),
        certificates="PEM",
    )  # fmt: skip
    told = json.loads(files["probe/probe.json"])
    assert told["secret"] == "/opt/m/secrets/jwt_secret"
    assert (told["url"], told["certificates"]) == ("https://chat.example.net", "PEM")
    assert told["layer"] == "/opt/m/layers/abc"
    assert len(layer_key_of(environment)) == 20


def test_a_private_key_does_not_leave_so_that_nothing_can_be_probed_there(tmp_path: Path) -> None:
    one = {"target": "ssh", "hosts": ["a"], "url": "https://a.example.net",
           "secrets": {"jwks": "file:keys.json", "signing_key": "file:key.pem"}}  # fmt: skip
    file = tmp_path / "environments.yaml"
    file.write_text(json.dumps({"environments": {"prod": one}}), encoding="utf-8")
    assert not probes(load_environments(file).get("prod"))
