"""opskit killed with -9 on its way to real hosts: the service stays up, the next deploy mends."""

from __future__ import annotations

import hashlib
import re
import signal
import subprocess
import sys

import pytest

from opskit.deploy.plan import Kind
from opskit.deployments import Outcome
from tests.hosts.proven import current, deploy, leftovers, let_the_leases_end
from tests.hosts.site import HostSite
from tests.hosts.watcher import UNNOTICED, watched
from tests.service_process import REPOSITORY

pytestmark = pytest.mark.slow
WITHIN = {
    "install": [("behind", "unpack"), ("behind", "move")],
    "secrets": [("behind", "write-secret")],
    "switch": [("behind", "link"), ("behind", "serve-unit")],
    "record": [("behind", "append-line")],
}
"""In the middle of steps: just after a command that changed something."""


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

    After a step is before the next one; a few more points lie within steps. A changed secret
    goes with each deploy. What comes before `begin` leaves nothing but a lock that ends by itself.
    From there up to the switch, each deploy mends what the one before left, and gets further
    until it is killed itself.
    """
    change(served, "every step")
    deploy(served)
    steps = [event.step for event in served.events if event.kind is Kind.STARTED]
    begin, switch = steps.index("begin"), steps.index("switch")
    assert {*steps[begin:]} >= {*WITHIN, "health", "smoke", "unlock"}
    with watched(served) as watcher:
        change(served, "before the first change")
        for step in steps[:begin]:
            said, before = kill(served, "before", step), served.serving
            assert (served.serving, leftovers(served)) in [
                (before, left) for left in ([], [f"{served.hosts[0].name}: lock"])
            ], said
        points = [
            (number >= switch, point)
            for number, step in enumerate(steps[begin:], begin)
            for point in [("before", step), *WITHIN.get(step, [])]
        ]
        mending = False
        for mended, point in [*points, (True, ("after", steps[-1]))]:
            change(served, "killed " + " ".join(point))
            before = served.serving
            said = kill(served, *point)
            assert watcher.noticed() == UNNOTICED, said
            assert served.serving in (before, [built(said)]), said
            assert not mending or "done mend" in said, "it did not mend what was killed before"
            watcher.await_more()
            mending = not mended and any("in-progress" in one for one in leftovers(served))
            if mended:
                assert_mended(served, said)
                assert watcher.noticed() == UNNOTICED, said


def test_a_deploy_killed_between_hosts(three: HostSite) -> None:
    """In the middle of the second host's switch, and between the records of two hosts.

    What one host has recorded counts, and is completed; what none has is put back.
    """
    second = three.hosts[1].address
    old = three.serving[0]
    with watched(three) as watcher:
        three.change("killed in a switch")
        said = kill(three, "within", "serve-unit", second)
        new = built(said)
        assert (three.serving, current(three)) == (
            [new, old, old],
            [f"releases/{name}" for name in (new, new, old)],
        ), said
        assert_mended(three, said)
        old = three.serving[0]
        three.change("killed between records")
        said = kill(three, "before", "record", second)
        new = built(said)
        assert three.serving == [new] * 3, said
        assert_mended(three, said)
        assert three.serving == [new] * 3, said
        for node in three.connect().nodes:
            results = [one.result for one in node.record().deployments if f"v{one.release}" == new]
            assert results == [Outcome.GOOD], "what was proven was put back, or proven twice"
        watcher.await_more()
    assert watcher.noticed() == UNNOTICED


def change(site: HostSite, word: str) -> None:
    """Make the next release differ, and bring a secret that differs along."""
    site.change(word)
    site.secret("jwt_previous_secret", hashlib.sha256(word.encode()).hexdigest())
    site.configure()


def built(said: str) -> str:
    """Read in the words of a deploy which release it built."""
    match = re.search(r"^done build +(?:the same content as )?(v\d+)", said, re.MULTILINE)
    assert match is not None, said
    return match[1]
