"""The journal of hosts, followed: live, merged, and without a gap when a connection is lost."""

from __future__ import annotations

import json
import queue
import subprocess
import threading
import time
from collections.abc import Callable

from tests.hosts.conftest import HostSites
from tests.hosts.machine import Host

DEADLINE = 60.0
RELOADED = "the secrets were reloaded"


def reload(host: Host, times: int) -> None:
    """Have the service log a line, so many times."""
    for _ in range(times):
        before = host.journal("chat-prod.service").count(RELOADED)
        host.text("systemctl", "kill", "--kill-who=main", "--signal=HUP", "chat-prod.service")
        deadline = time.monotonic() + DEADLINE
        while host.journal("chat-prod.service").count(RELOADED) == before:
            assert time.monotonic() < deadline, "the service does not reload its secrets"
            time.sleep(0.05)


class Following:
    """An `opskit tail` that runs, and the lines that it has given."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.seen: list[dict[str, object]] = []
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)

    def until(self, enough: Callable[[list[dict[str, object]]], bool]) -> None:
        """Take lines until there are enough."""
        while not enough(self.seen):
            self.seen.append(json.loads(self._lines.get(timeout=DEADLINE)))


def count(node: str) -> Callable[[list[dict[str, object]]], int]:
    return lambda seen: sum(line.get("source") == node for line in seen)


def test_logs_are_merged_and_a_lost_connection_leaves_no_gap(host_site: HostSites) -> None:
    """What is logged while one host's SSH connections are cut comes afterwards, once."""
    site = host_site(2)
    site.deploy()
    one, two = site.hosts
    argv = site.argv("tail", "prod", "--since", "1h", "--search", RELOADED, "--format", "json")
    process = subprocess.Popen(
        argv,
        env=site.environ,
        cwd=site.directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        following = Following(process)
        seen_one, seen_two = count(one.address), count(two.address)
        reload(one, 1)
        reload(two, 1)
        following.until(lambda seen: seen_one(seen) >= 1 and seen_two(seen) >= 1)
        one.text("systemctl", "stop", "ssh.socket", "ssh.service", check=False)
        one.text("pkill", "--full", "^sshd: ", check=False)
        reload(one, 3)
        reload(two, 1)
        following.until(lambda seen: seen_two(seen) >= 2)
        assert seen_one(following.seen) == 1
        one.text("systemctl", "start", "ssh.service")
        reload(one, 1)
        following.until(lambda seen: seen_one(seen) >= 5)
        times = [str(line["ts"]) for line in following.seen if line["source"] == one.address]
        assert len(times) == len(set(times)) == 5
        assert times == sorted(times)
    finally:
        process.kill()
        _, complaints = process.communicate()
    assert f"{one.address}: " in complaints
    assert "without a gap" in complaints


def test_filters_and_merged_order_over_hosts(host_site: HostSites) -> None:
    """The last lines of all hosts, in the order of their times; by level, text and workspace."""
    site = host_site(2)
    site.deploy()
    said = site.opskit("tail", "prod", "--no-follow", "--lines", "1000", "--format", "json")
    lines = [json.loads(line) for line in said.stdout.splitlines()]
    assert {line["source"] for line in lines} == {host.address for host in site.hosts}
    times = [line["ts"] for line in lines]
    assert times == sorted(times)
    three = site.opskit("tail", "prod", "--no-follow", "--lines", "3", "--format", "json")
    assert [json.loads(line) for line in three.stdout.splitlines()] == lines[-3:]
    since = site.opskit("tail", "prod", "--no-follow", "--since", "1h", "--search", '"serving"')
    assert since.stdout.count('"msg":"serving"') + since.stdout.count('"msg": "serving"') == 2
    assert site.opskit("tail", "prod", "--no-follow", "--since", "0s").stdout == ""
