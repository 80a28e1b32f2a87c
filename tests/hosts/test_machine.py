"""The throwaway hosts themselves: that they are what the other tests take them for."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.hosts.conftest import NewHosts
from tests.hosts.lab import HOME, Lab
from tests.hosts.machine import Host


def ssh(host: Host, user: str, command: str, *, timeout: int = 5) -> str:
    """Run a command with OpenSSH's own client, and give what it wrote or why it could not."""
    done = subprocess.run(
        [
            "ssh", "-F", "none", "-i", host.key, "-o", f"UserKnownHostsFile={host.known_hosts}",
            "-o", "BatchMode=yes", "-o", f"ConnectTimeout={timeout}", "-o", "LogLevel=ERROR",
            f"{user}@{host.address}", command,
        ],
        check=False, capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    return done.stdout.strip() or done.stderr.strip()


def test_a_host_is_a_machine_with_systemd_that_lets_three_users_in(host: Host) -> None:
    assert ssh(host, "root", "ps -o comm= -p 1; hostname") == f"systemd\n{host.name}"
    assert ssh(host, "ops", "id -un; sudo -n id -un") == "ops\nroot"
    assert ssh(host, "nosudo", "sudo -n true 2>/dev/null || echo refused") == "refused"
    assert host.text("systemctl", "is-system-running").strip() == "running"


def test_a_host_reaches_the_archive_of_debian(host: Host) -> None:
    said = host.text("apt-cache", "policy", "caddy")
    assert "Installed: (none)" in said
    assert host.run("apt-get", "-qq", "update").returncode == 0


def test_a_killed_host_is_gone_at_once_and_comes_back_with_its_disk(new_hosts: NewHosts) -> None:
    [host] = new_hosts()
    host.run("sh", "-c", "echo kept > /var/lib/kept && sync")
    before = host.boot_id()
    host.kill()
    assert not host.answers()
    with pytest.raises(RuntimeError, match="is not running"):
        host.text("true")
    host.start()
    host.wait()
    assert ssh(host, "root", "cat /var/lib/kept") == "kept"
    assert host.boot_id() not in ("", before)


def test_a_reboot_is_another_boot_of_the_same_machine(new_hosts: NewHosts) -> None:
    [host] = new_hosts()
    before = host.boot_id()
    machine = host.text("cat", "/etc/machine-id")
    host.reboot()
    assert host.boot_id() not in ("", before)
    assert host.text("cat", "/etc/machine-id") == machine
    assert ssh(host, "root", "uptime >/dev/null && echo up") == "up"


def test_a_silent_host_refuses_nothing_and_answers_nothing(host: Host) -> None:
    with host.silent():
        started = time.monotonic()
        said = ssh(host, "root", "true", timeout=2)
        assert "timed out" in said
        assert time.monotonic() - started >= 2
        assert host.text("hostname").strip() == host.name
    assert ssh(host, "root", "echo heard") == "heard"


def test_hosts_made_from_a_frozen_one_begin_with_its_disk(new_hosts: NewHosts, lab: Lab) -> None:
    [host] = new_hosts()
    host.run("sh", "-c", "echo made > /opt/made; rm /etc/motd")
    layer = lab.freeze(host)
    first, second = new_hosts(2, layers=(layer,))
    first.run("sh", "-c", "echo changed > /opt/made")
    assert second.text("sh", "-c", "cat /opt/made; ls /etc/motd 2>/dev/null || echo gone") == (
        "made\ngone\n"
    )
    assert first.host_key() != second.host_key()


_MAKER = """
import sys
sys.path.insert(0, sys.argv[1])
from tests.hosts.lab import Lab
lab = Lab()
lab.up()
[host] = lab.boot()
print(lab.number, host.name, flush=True)
sys.stdin.read()
"""


def test_hosts_of_a_killed_process_die_with_it_and_the_next_lab_removes_the_rest(
    lab: Lab,
) -> None:
    checkout = Path(__file__).resolve().parents[2]
    maker = subprocess.Popen(
        [sys.executable, "-c", _MAKER, str(checkout)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert maker.stdout is not None
    number, name = maker.stdout.readline().split()
    group = next(iter(Path("/sys/fs/cgroup").glob(f"**/opskit-{name}")))
    maker.kill()
    maker.wait()
    deadline = time.monotonic() + 20
    while any(path.read_text() for path in group.rglob("cgroup.procs")):
        assert time.monotonic() < deadline, "the host outlives who made it"
        time.sleep(0.05)
    assert (HOME / number).is_dir()
    again = Lab()
    try:
        again.up()
        assert str(HOME / number) not in Path("/proc/mounts").read_text()
        assert again.number == int(number) or not (HOME / number).exists()
    finally:
        again.down()
    assert not group.exists()


MISSING = "not installed: systemd-nspawn, debootstrap"


@pytest.mark.parametrize(
    ("ci", "status", "said"),
    [
        ("", 0, f"NOT TESTED on real hosts: {MISSING}"),
        ("true", 1, f"Failed: no test hosts: {MISSING}"),
    ],
)
def test_where_hosts_cannot_be_booted_the_tests_say_so_and_ci_fails(
    ci: str, status: int, said: str
) -> None:
    one = f"{__file__}::{test_a_reboot_is_another_boot_of_the_same_machine.__name__}"
    done = subprocess.run(
        [sys.executable, "-B", "-m", "pytest", "-p", "no:cacheprovider", "-q", "-rs", one],
        cwd=Path(__file__).resolve().parents[2],
        env={**os.environ, "CI": ci, "PATH": "/nonexistent"},
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert said in done.stdout + done.stderr
    assert done.returncode == status
