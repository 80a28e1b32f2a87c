"""Ten deploys of one environment on real hosts at once: one goes ahead, nine name who it is."""

from __future__ import annotations

import json
import re
import subprocess
import time

import pytest

from opskit.deployments import Outcome
from opskit.person import this_person
from tests.hosts.proven import deploy, leftovers
from tests.hosts.site import HostSite

pytestmark = pytest.mark.slow
IN_SERVE = "    import uvloop\n"
UNTIL_TOLD = """\
    import pathlib
    import time

    while not pathlib.Path("/opt/chat/state/go").exists():
        time.sleep(0.02)
"""


def test_ten_deploys_at_once(served: HostSite) -> None:
    """One deploys; each other is told on which host who holds the lock, since when, for what.

    The release waits at its start until the nine have ended, so that none of them comes when the
    deploy is over already.
    """
    before = len(served.connect().lead.record().deployments)
    go = served.hosts[0].root / "opt/chat/state/go"
    served.edit("__main__.py", IN_SERVE, UNTIL_TOLD + IN_SERVE)
    processes = [
        subprocess.Popen(
            served.argv("deploy", "prod", "--json"),
            cwd=served.directory,
            env=served.environ,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(10)
    ]
    deadline = time.monotonic() + 60
    while sum(one.poll() is None for one in processes) > 1 and time.monotonic() < deadline:
        time.sleep(0.05)
    go.touch()
    reports = [json.loads(one.communicate(timeout=120)[0]) for one in processes]
    [won] = [one for one in reports if one["ok"]]
    assert (won["changed"], [won["release"]]) == (True, served.serving)
    lost = [one for one in reports if not one["ok"]]
    assert [process.returncode for process in processes].count(1) == len(lost) == 9
    address, who = served.hosts[0].address, re.escape(this_person().who)
    told = rf"{address}: {who} holds the lock since \d{{4}}-\d\d-\d\dT\S+Z for: deploy prod"
    for one in lost:
        assert re.fullmatch(told, one["error"]), one
        assert one["next"].startswith("wait for it; if it has died, its lease ends by itself in ")
    assert leftovers(served) == []
    [recorded] = served.connect().lead.record().deployments[before:]
    assert (recorded.result, recorded.id) == (Outcome.GOOD, won["id"])
    served.restore()
    served.change("after ten at once")
    deploy(served)
    go.unlink()
