"""opskit killed with -9 on its way to real hosts: the service stays up, the next deploy mends."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from opskit.deploy.plan import Kind
from opskit.deployments import Outcome
from tests.hosts.proven import current, deploy, leftovers, let_the_leases_end
from tests.hosts.site import HostSite
from tests.hosts.watcher import UNNOTICED, watched
from tests.service_process import REPOSITORY

pytestmark = pytest.mark.slow
DYING = Path(__file__).with_name("dying.py")
IN_THE_MIDDLE = ["unpack", "move", "write-secret", "link", "serve-unit", "append-line"]
"""Commands that change something in the middle of a step; opskit dies before or after these."""


def kill(site: HostSite, *where: str) -> str:
    """Let opskit die somewhere (see dying.py), and the lease with it; gives its words."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.hosts.dying", site.file, site.layers, *where],
        env=site.environ,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, f"{where}: {done.stdout}{done.stderr}"
    let_the_leases_end(site)
    return done.stdout


def assert_mended(site: HostSite, said: str) -> None:
    """See that the next deploy just works, and that nothing of the killed one is left."""
    act = deploy(site)
    assert site.serving == [act.name] * len(site.hosts), said
    assert current(site) == [f"releases/{act.name}"] * len(site.hosts), said
    assert leftovers(site) == [], said
    for node in site.connect().nodes:
        record = node.record()
        last = record.deployments[-1]
        assert (last.result, last.release) == (Outcome.GOOD, act.number), said
        assert record.torn == ()


def test_a_deploy_killed_before_and_after_each_of_its_steps(served: HostSite) -> None:
    """Whatever was done of it, somebody serves all the time, and the next deploy just works.

    After a step is before the next one. Some changed secret goes with each deploy.
    """
    served.secret("jwt_previous_secret", "0" * 64)
    served.configure()
    served.change("all steps")
    deploy(served)
    steps = [event.step for event in served.events if event.kind is Kind.STARTED]
    assert len(steps) > 12
    points = [("before", step) for step in steps] + [("after", steps[-1])]
    with watched(served) as watcher:
        for number, (when, step) in enumerate(points):
            served.secret("jwt_previous_secret", f"{number:064}")
            served.change(f"killed {when} {step}")
            before = served.serving
            said = kill(served, when, step)
            assert watcher.noticed() == UNNOTICED, said
            assert served.serving[0] in (before[0], f"v{int(before[0][1:]) + 1}"), said
            watcher.await_more()
            assert_mended(served, said)
            assert watcher.noticed() == UNNOTICED, said
