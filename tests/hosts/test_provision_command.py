"""`opskit provision` as a person and as a script run it, on real hosts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hosts.conftest import NewHosts
from tests.hosts.machine import Host

CHECKOUT = Path(__file__).resolve().parents[2]
YAML = """\
environments:
  shop:
    target: ssh
    hosts: [{hosts}]
    user: ops
    identity_file: {one.key}
    known_hosts: {one.known_hosts}
    url: https://{one.address}
    secrets:
      jwt_secret: env:NONE
      database_url: env:NONE
    chat:
      store: {{kind: postgres}}
  dev:
    target: local
    root: dev
    secrets: {{jwt_secret: generate}}
"""


def opskit(directory: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run opskit there."""
    return subprocess.run(
        [sys.executable, "-m", "opskit", "--environments", directory / "environments.yaml", *words],
        cwd=CHECKOUT, check=False, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def write(directory: Path, hosts: list[Host], *more: str) -> None:
    listed = ", ".join([*(host.address for host in hosts), *more])
    text = YAML.format(hosts=listed, one=hosts[0])
    (directory / "environments.yaml").write_text(text)


def test_two_hosts_are_planned_made_ready_and_found_ready(
    new_hosts: NewHosts, with_packages: Path, tmp_path: Path
) -> None:
    hosts = new_hosts(2, layers=(with_packages,))
    write(tmp_path, hosts)
    plan = opskit(tmp_path, "provision", "shop", "--plan")
    assert plan.returncode == 0, plan.stdout + plan.stderr
    assert plan.stdout.endswith("\nnothing was changed\n")
    for line in (
        "$ useradd --system --user-group --no-create-home --home-dir /nonexistent",
        "$ install -d -m750 -oroot -gchat /opt/chat/secrets",
        "+ExecReload=/usr/bin/python3.11 -I /opt/chat/current/run.py ctl reload",
        "$ <write-proxy.sh> /etc/caddy/sites/chat-shop.caddy /etc/caddy/Caddyfile",
    ):
        assert plan.stdout.count(line) == 2, line
    assert hosts[0].text("sh", "-c", "ls /opt") == ""

    first = opskit(tmp_path, "provision", "shop")
    assert first.returncode == 0, first.stdout + first.stderr
    for host in hosts:
        assert f"✓ {host.address} is ready: 12 changes made\n" in first.stdout
    again = opskit(tmp_path, "provision", "shop")
    for host in hosts:
        assert f"✓ {host.address} was ready: nothing to change\n" in again.stdout
    report = json.loads(opskit(tmp_path, "provision", "shop", "--json").stdout)
    assert report == {
        "environment": "shop",
        "plan": False,
        "ok": True,
        "changed": False,
        "hosts": [
            {"host": host.address, "changes": [], "failure": None, "hint": None} for host in hosts
        ],
    }


def test_a_host_that_is_away_fails_by_itself_with_its_reason(
    new_hosts: NewHosts, with_packages: Path, tmp_path: Path
) -> None:
    [host] = new_hosts(layers=(with_packages,))
    write(tmp_path, [host], f"{host.address}:2222")
    done = opskit(tmp_path, "provision", "shop")
    assert done.returncode == 1
    assert f"✓ {host.address} is ready: 12 changes made\n" in done.stdout
    assert f"✗ {host.address}:2222 is not ready\n" in done.stdout
    assert f"{host.address}:2222: nothing answers at {host.address} port 2222" in done.stderr
    report = opskit(tmp_path, "provision", "shop", "--json")
    assert report.returncode == 1
    fields = json.loads(report.stdout)
    assert (fields["ok"], fields["changed"]) == (False, False)
    assert "nothing answers" in fields["hosts"][1]["failure"]


@pytest.mark.parametrize("words", [("provision", "dev"), ("provision", "dev", "--plan")])
def test_this_machine_needs_no_provisioning(
    host: Host, tmp_path: Path, words: tuple[str, ...]
) -> None:
    write(tmp_path, [host])
    done = opskit(tmp_path, *words)
    assert done.returncode == 2
    assert "dev is on this machine, which needs no provisioning" in done.stderr
