"""A host without a byte left on its root file system: a deploy says so, and a rollback works.

With the messages in SQLite on that disk nobody can write until there is room; members stay, also
in a crash, and read.
"""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from opskit.deployments import Outcome
from tests.chatservice.wire import eventually
from tests.hosts.conftest import HostSites
from tests.hosts.failing import failed_deploy, last, meddled
from tests.hosts.machine import Host
from tests.hosts.proven import current, deploy, leftovers
from tests.hosts.site import HostSite
from tests.hosts.watcher import UNNOTICED, watched
from tests.postgres_server import PostgresServer

pytestmark = pytest.mark.slow
DISK = 768
"""MiB: what a host that was made ready and a few releases need, and what a deploy wants free."""
RECORD = "deployments.jsonl"


def installed(host: Host) -> list[str]:
    """Give everything in the environment's root that is neither the service's nor the record."""
    root = host.root / "opt/chat"
    paths = [path.relative_to(root) for path in root.rglob("*")]
    kept = [path for path in paths if path.parts[0] not in ("state", "run", RECORD)]
    return sorted(f"{path} {(root / path).lstat().st_size}" for path in kept)


def assert_as_it_was(site: HostSite, name: str, before: list[str]) -> None:
    """See that a release serves, and that nothing lies on the host that was not there before."""
    [host] = site.hosts
    assert (site.serving, current(site)) == ([name], [f"releases/{name}"])
    assert leftovers(site) == []
    assert installed(host) == before


def test_a_root_file_system_without_a_byte_left(
    host_site: HostSites, lab_postgres: PostgresServer
) -> None:
    """With the messages in PostgreSQL nobody notices, and all of opskit but a deploy works."""
    site = host_site(disk=DISK)
    [host] = site.hosts
    dsn = lab_postgres.database().replace("127.0.0.1", host.network.gateway)
    site.secret("database_url", dsn)
    site.configure(store={"kind": "postgres"})
    first = deploy(site)
    site.change("the second")
    second = deploy(site)
    before = installed(host)
    assert any(line.startswith("spare ") for line in before)
    site.change("the third")
    with watched(site) as watcher:
        failure = meddled(site, "lock", lambda: host.fill(leave=300 << 10))
        assert "No space left on device" in str(failure)
        assert f"make room on {host.address} (see with: df -h; df -i)" in failure.hint
        assert (failure.status, last(site).result) == (1, Outcome.FAILED)
        assert_as_it_was(site, second.name, before)

        host.fill()
        said = failed_deploy(site)
        few = rf"{host.address}: only 0 MB free at /opt/chat, a deploy needs 268 MB\n"
        assert re.search(few, said)
        assert "next: make room there" in said
        assert_as_it_was(site, second.name, before)

        done = site.opskit("rollback", "--env", "prod")
        assert done.returncode == 0, done.stdout + done.stderr
        assert_as_it_was(site, first.name, before)
        assert last(site).result is Outcome.GOOD

        host.make_room()
        third = deploy(site)
        assert site.serving == [third.name]
        watcher.await_more()
    assert watcher.noticed() == UNNOTICED


def readiness(host: Host) -> dict[str, Any]:
    """Give what /readyz says; nothing while the service does not answer."""
    said = host.text("curl", "-s", "http://127.0.0.1:8765/readyz", check=False)
    return json.loads(said) if said.startswith("{") else {}


def test_messages_on_a_root_file_system_without_a_byte_left(host_site: HostSites) -> None:
    """A member is connected throughout; what it sent meanwhile arrives in the end, once."""
    site = host_site(disk=DISK)
    [host] = site.hosts
    first = deploy(site)
    site.change("the second")
    deploy(site)
    with watched(site) as watcher:
        host.fill()
        eventually(lambda: readiness(host).get("kind") == "full")
        done = site.opskit("rollback", "--env", "prod")
        assert done.returncode == 0, done.stdout + done.stderr
        assert (site.serving, current(site)) == ([first.name], [f"releases/{first.name}"])
        assert (leftovers(site), last(site).result) == ([], Outcome.GOOD)
        assert watcher.noticed() == UNNOTICED
        host.fill()  # what the spare of the lock had given back did for the store as well
        eventually(lambda: readiness(host).get("kind") == "full")

        pid = site.versions()[0]["pid"]
        unit = site.environment.unit
        host.run("systemctl", "kill", "--signal=KILL", "--kill-whom=main", unit)
        eventually(lambda: site.versions()[0].get("pid", pid) != pid)
        eventually(lambda: readiness(host).get("kind") == "full")
        host.fill()
        acknowledged = len(watcher.sent)
        host.make_room()
        watcher.await_more(deadline=60)
        assert readiness(host) == {"ready": True}
    assert (watcher.unanswered, watcher.failure) == ([], "")
    assert watcher.connections <= 2, "it came back once, if the crash met it in the middle of a try"
    assert len(watcher.sent) > acknowledged
    assert watcher.sent == [*range(1, len(watcher.sent) + 1)]
    assert site.opskit("smoke", "prod").returncode == 0
