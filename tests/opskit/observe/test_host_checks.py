"""What is said of a monitoring host: of this machine, looked at as if it were one."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from opskit.deploy.preflight import Verdict
from opskit.environment import Environment
from opskit.environments import load_environments
from opskit.host_checks import parse_facts
from opskit.observe.host_checks import (
    LEAST_DISK,
    LEAST_MEMORY,
    Look,
    disk,
    inspect,
    inspect_monitoring,
    memory,
    packages,
    ports,
)
from opskit.provision.seen import parse_look
from opskit.transport import LocalExecutor
from tests.service_process import free_ports

FRESH = "os\tdebian\t12\n"
RECORDED = (
    "clock\t1795390922.767693980\nuser\t0\nsystem\tDebian GNU/Linux 12 (bookworm)\n"
    "machine\tx86_64\nlibc\tglibc 2.36\nsystemd\t252\npython\t3.11.2\nMemTotal\t4000000\n"
    'MemAvailable\t3000000\nport:9090\t"prometheus",pid=437\nport:9093\t\nport:9095\t\n'
    "disk:/opt/chat-monitoring/prod\t20000000000\n"
)


def watched(directory: Path, ports: list[int], **changes: Any) -> Environment:
    """An environment whose hosts and monitoring host are this machine."""
    names = ("prometheus_port", "alertmanager_port", "exporter_port")
    one: dict[str, Any] = {
        "target": "ssh",
        "hosts": ["127.0.0.1"],
        "url": f"http://127.0.0.1:{ports[3]}",
        "secrets": {"jwt_secret": "file:secret"},
        "monitoring": {"host": "localhost", **dict(zip(names, ports, strict=False))},
        "chat": {"service": {"admin_host": "0.0.0.0", "admin_port": ports[4]}},
    }
    for section, values in changes.items():
        one[section] = {**one[section], **values} if isinstance(values, dict) else values
    (directory / "secret").write_text("s" * 48)
    (directory / "secret").chmod(0o600)
    file = directory / "environments.yaml"
    file.write_text(json.dumps({"environments": {"prod": one}}, indent=1), encoding="utf-8")
    return load_environments(file).get("prod")


def by_name(found: list[Verdict]) -> dict[str, Verdict]:
    return {one.name: one for one in found}


@pytest.fixture
def recorded(tmp_path: Path) -> Look:
    environment = watched(tmp_path, [9090, 9093, 9095, 80, 8766])
    return Look(environment, parse_facts(RECORDED, before=0.0, after=0.0), parse_look(FRESH))


# --- a real look ------------------------------------------------------------------------------


def test_a_look_at_a_machine_has_a_verdict_of_everything(tmp_path: Path) -> None:
    """Nothing serves and nothing watches here yet; the packages are what dpkg has."""
    environment = watched(tmp_path, free_ports(5))
    found = inspect(LocalExecutor(), environment)
    assert [one.name for one in found] == [
        "reachable", "system", "systemd", "memory", "clock", "disk", "packages", "ports",
        "metrics", "address", "probe", "receivers", "provisioned",
    ]  # fmt: skip
    seen = by_name(found)
    assert seen["clock"].ok
    bound = environment.settings.service
    assert seen["metrics"] == Verdict(
        "metrics", True, f"reachable; nobody serves them yet at 127.0.0.1:{bound.admin_port}"
    )
    assert seen["address"].ok
    assert seen["probe"].detail == "every 300 s, its tokens signed with the jwt_secret"
    assert (seen["receivers"].ok, seen["receivers"].detail) == (True, "nobody is told of alerts")
    wanted = ("prometheus", "prometheus-alertmanager", "python3", "python3.11", "python3-httpx")
    lacking = [name for name in wanted if not _installed(name)]
    assert seen["packages"].ok is not bool(lacking)
    for name in lacking:
        assert name in seen["packages"].detail
    free = os.statvfs("/opt")
    told = seen["disk"].detail.partition(" GB free")[0]
    assert float(told) == pytest.approx(free.f_bavail * free.f_frsize / 1e9, abs=2)


def _installed(name: str) -> bool:
    argv = ["dpkg-query", "-W", "-f=${db:Status-Status}", name]
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout == "installed"


def test_what_is_in_the_way_is_named_with_its_remedy(tmp_path: Path) -> None:
    """A port that somebody has, metrics out of reach, secrets that cannot be had."""
    numbers = free_ports(5)
    environment = watched(
        tmp_path,
        numbers,
        hosts=["nowhere.invalid"],
        monitoring={"receivers": {"webhook": {"url": "http://a.invalid", "token": "env:NOT_SET"}}},
        secrets={"jwt_secret": "file:missing"},
    )
    with socket.create_server(("127.0.0.1", numbers[2])):
        seen = by_name(inspect(LocalExecutor(), environment))
    port = seen["ports"]
    assert not port.ok
    assert port.detail.startswith(f"port {numbers[2]} is in use by ")
    assert port.detail.endswith(f"(pid {os.getpid()})")
    assert "monitoring.exporter_port" in port.hint
    metrics = seen["metrics"]
    assert not metrics.ok
    assert metrics.detail.startswith(f"cannot be reached: nowhere.invalid:{numbers[4]}: ")
    assert "let localhost through the firewall" in metrics.hint
    assert (seen["probe"].ok, seen["receivers"].ok) == (False, False)
    assert "NOT_SET is not set" in seen["receivers"].detail


def test_what_answers_is_said_to(tmp_path: Path) -> None:
    numbers = free_ports(5)
    environment = watched(tmp_path, numbers)
    with (
        socket.create_server(("127.0.0.1", numbers[3])),
        socket.create_server(("127.0.0.1", numbers[4])),
    ):
        seen = by_name(inspect(LocalExecutor(), environment))
    assert seen["metrics"].detail == f"127.0.0.1:{numbers[4]} answers"
    assert seen["address"].detail == f"127.0.0.1:{numbers[3]} answers"


def test_a_host_out_of_reach_is_one_verdict_in_its_own_table(tmp_path: Path) -> None:
    """Whoever reads it must not take it for one that serves."""
    [closed] = free_ports(1)
    environment = watched(
        tmp_path, free_ports(5), monitoring={"host": f"127.0.0.1:{closed}"}, hosts=["a.invalid"]
    )
    [verdict] = inspect_monitoring(environment)
    assert (verdict.name, verdict.ok) == ("reachable", False)
    assert verdict.node == "127.0.0.1 (monitoring)"
    assert "nothing answers at" in verdict.detail
    alone = watched(tmp_path, free_ports(5), monitoring={"host": None})
    assert inspect_monitoring(alone) == []


# --- from what was recorded -------------------------------------------------------------------


def test_a_port_that_its_own_program_has_is_fine(recorded: Look) -> None:
    """The unit that opskit wrote runs; without it, it is somebody else's Prometheus."""
    verdict = ports(recorded)
    assert (verdict.ok, verdict.detail) == (False, "port 9090 is in use by prometheus (pid 437)")
    unit = "unit\topskit-prometheus-prod.service\tenabled\tactive\tno\n"
    assert ports(replace(recorded, seen=parse_look(FRESH + unit))).ok


def test_packages_that_are_missing_are_named(recorded: Look) -> None:
    some = FRESH + "package\tprometheus\tinstalled 2.42.0+ds-5\npackage\tpython3\tinstalled 3.11\n"
    verdict = packages(replace(recorded, seen=parse_look(some)))
    assert (verdict.ok, verdict.detail) == (
        False, "not installed: prometheus-alertmanager, python3.11, python3-httpx",
    )  # fmt: skip
    assert verdict.hint == "opskit provision prod installs them with apt"


def test_room_for_metrics_and_memory_are_needed(recorded: Look) -> None:
    assert disk(recorded) == Verdict(
        "disk", True, "20.0 GB free; 30 days of metrics take about 90 MB"
    )
    place = "/opt/chat-monitoring/prod"
    full = replace(recorded.facts, disks={place: LEAST_DISK - 1}, available=LEAST_MEMORY - 1)
    short = replace(recorded, facts=full)
    assert disk(short).detail == f"only 512 MB free at {place}"
    assert not disk(short).ok
    assert (memory(recorded).ok, memory(short).ok) == (True, False)
    unit = "unit\topskit-prometheus-prod.service\tenabled\tactive\tno\n"
    assert memory(replace(short, seen=parse_look(FRESH + unit))).ok, "it has its memory already"
