"""Several at once: one goes ahead, the others are told who it is."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time

import pytest

from checks.smoke import Report
from opskit.deploy.act import Act
from opskit.deployments import Outcome
from opskit.lock import Holder, Lease, LeaseLost, LockHeld
from opskit.person import this_person
from tests.opskit.site import Site, quick_smoke


@pytest.fixture
def served(shared_site: Site) -> Site:
    """The environment of all tests here; some release serves."""
    shared_site.restore()
    shared_site.change("other than all before: " + shared_site.upcoming)
    return shared_site


def test_ten_deploys_at_once(served: Site) -> None:
    """One deploys; each other is told who holds the lock, since when and for what.

    Or it comes when that is over, and finds nothing to do. Nothing is deployed twice.
    """
    new, before = served.upcoming, len(served.record.deployments)
    command = [sys.executable, "-m", "opskit", "deploy", "dev", "--json"]
    processes = [
        subprocess.Popen(
            command,
            cwd=served.directory,
            env=served.environ,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(10)
    ]
    reports = [json.loads(process.communicate(timeout=300)[0]) for process in processes]
    statuses = [process.returncode for process in processes]
    deployed = [one for one in reports if one["ok"] and one["changed"]]
    refused = [one for one in reports if not one["ok"]]
    assert len(deployed) == 1, reports
    assert deployed[0]["release"] == new
    assert statuses.count(1) == len(refused)
    told = r"this machine: \S+@\S+ holds the lock since \d{4}-\d\d-\d\dT\S+Z for: deploy dev"
    for one in refused:
        assert re.fullmatch(told, one["error"]), one
    assert served.serving == new
    assert len(served.record.deployments) == before + 1
    assert served.leftovers() == []


def test_a_living_owner_is_not_waited_for(served: Site) -> None:
    """Whoever finds the lock held by a process that lives is refused at once."""
    holder = Holder("ann@desk", "noon", "deploy dev", this_person().owner)
    target = served.target
    lease = Lease(target.executor, target.root, holder)
    lease.acquire()
    try:
        with pytest.raises(LockHeld, match="ann@desk holds the lock since noon"):
            served.deploy()
        with pytest.raises(LockHeld):
            served.rollback()
        with pytest.raises(LockHeld):
            served.stop()
        status = served.opskit("status", "dev")
        assert "ann@desk is busy since noon: deploy dev" in status.stdout
        assert status.returncode == 0
    finally:
        lease.release()
    assert served.leftovers() == []


def test_a_deploy_that_loses_its_lease_stops_and_is_mended(served: Site) -> None:
    """When another has taken the lease, it changes nothing more; the other puts back what it began.

    So it is when the machine that opskit runs on slept for longer than the lease.
    """
    serving = served.serving
    root = served.root

    def asleep(act: Act) -> Report:
        assert act.lead.lease is not None
        text = (root / "lock").read_text()
        boot, _, rest = text.split(" ", 2)
        assert rest.lstrip().startswith(act.lead.lease.token)
        # It ended, and another came: exactly what the next command finds after such a sleep.
        holder = Holder("bob", "noon", "rollback dev", this_person().owner)
        act.lead.lease._done.set()
        (root / "lock").write_text(f"{boot} 0 {rest}")
        other = Lease(served.target.executor, served.target.root, holder, ttl=60)
        other.acquire()
        others.append(other)
        return quick_smoke(act)

    others: list[Lease] = []
    operation = served.prepare()
    operation.act.smoke = asleep
    with pytest.raises(LeaseLost, match=r"the lock was lost.*bob took it for: rollback dev"):
        operation.run()
    assert served.serving == operation.act.name, "it changed something without the lease"
    assert (root / "in-progress.json").exists()
    others[0].release()
    act = served.rollback()
    assert act.name == served.serving
    assert act.name == serving
    assert served.record.deployments[-1].result is Outcome.INTERRUPTED
    assert served.leftovers() == []


def test_a_dead_owner_is_waited_for(served: Site) -> None:
    """A lease whose owner was killed ends by itself; the next deploy waits for that."""
    program = (
        "import sys\n"
        "from opskit.lock import Holder, Lease\n"
        "from opskit.person import this_person\n"
        "from opskit.transport import LocalExecutor\n"
        "from pathlib import PurePosixPath\n"
        "me = this_person()\n"
        "holder = Holder(me.who, 'noon', 'deploy dev', me.owner)\n"
        f"Lease(LocalExecutor(), PurePosixPath({str(served.root)!r}), holder, ttl=3).acquire()\n"
        "print('held', flush=True)\n"
        "sys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        env=served.environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    process.kill()
    process.communicate()
    started = time.monotonic()
    act = served.deploy()
    assert time.monotonic() - started < 60
    assert served.serving == act.name
    assert any("has died; its lease ends in" in event.text for event in served.events)
