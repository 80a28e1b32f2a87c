"""The whole way on real hosts: from a Debian made ready to a release that is served and proven."""

from __future__ import annotations

import json

from opskit.deploy.plan import Kind
from opskit.deployments import Outcome
from tests.hosts.conftest import HostSites


def test_deploy_change_and_roll_back_on_one_host(host_site: HostSites) -> None:
    """Served over HTTPS and proven each time; connections move, and the record says so."""
    site = host_site()
    first = site.deploy()
    assert first.report is not None
    assert first.report.ok, first.report.table()
    assert site.serving == ["v1"]
    site.change("two")
    site.deploy()
    assert site.serving == ["v2"]
    assert site.deploy().unchanged
    assert site.rollback().number == 1
    assert site.serving == ["v1"]
    record = site.connect().lead.record()
    assert [(one.release, one.result) for one in record.deployments] == [
        (1, Outcome.GOOD),
        (2, Outcome.GOOD),
        (1, Outcome.GOOD),
    ]
    assert [one.connections.how for one in record.deployments if one.connections] == [
        "cold",
        "handover",
        "handover",
    ]


def test_three_hosts_are_rolled_in_turn(host_site: HostSites) -> None:
    """One after the other, on one PostgreSQL; a host out of reach stops it before any change."""
    site = host_site(3)
    assert site.deploy().name == "v1"
    assert site.serving == ["v1"] * 3
    site.change("two")
    site.deploy()
    names = [host.address for host in site.hosts]
    assert site.outcome("switch") == [
        (name, kind) for name in names for kind in (Kind.STARTED, Kind.DONE)
    ]
    assert site.serving == ["v2"] * 3
    status = json.loads(site.opskit("status", "prod", "--json").stdout)
    assert (status["ok"], [node["node"] for node in status["nodes"]]) == (True, names)
    said = site.opskit("exec", "prod", "--", "hostname")
    assert sorted(said.stdout.split()) == sorted(
        word for host in site.hosts for word in (f"{host.address}:", host.name)
    )
    drained = site.opskit("drain", "prod", names[1])
    assert drained.returncode == 0, drained.stdout + drained.stderr
    assert site.serving == ["v2", None, "v2"]
    assert site.deploy().name == "v2", "the drained one is started again, the others stay"
    assert site.serving == ["v2"] * 3
    site.hosts[2].kill()
    site.change("three")
    done = site.opskit("deploy", "prod")
    assert done.returncode == 1, done.stdout + done.stderr
    assert names[2] in done.stderr
    assert site.hosts[0].text("ls", "/opt/chat/releases").split() == ["v1", "v2"]
    seen = site.opskit("status", "prod")
    assert seen.returncode == 1
    assert "out of reach" in seen.stdout


def test_a_host_that_boots_serves_what_was_current(host_site: HostSites) -> None:
    """Systemd starts the release that `current` points at."""
    site = host_site()
    site.deploy()
    site.hosts[0].reboot()
    assert site.opskit("status", "prod").returncode == 0
    assert site.serving == ["v1"]
