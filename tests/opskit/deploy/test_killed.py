"""opskit killed with -9 at every point: the service stays up, and the next command mends."""

from __future__ import annotations

import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import pytest

from opskit.deployments import Outcome
from tests.opskit.conftest import SiteFactory
from tests.opskit.site import Site, watched
from tests.service_process import REPOSITORY

pytestmark = pytest.mark.slow
UNPROVEN = "append-line"
"""Killed before this command, a deploy has switched, and its release is not recorded as good."""
DYING = Path(__file__).with_name("dying.py")


def kill(site: Site, action: str, last: int | str, *release: str) -> tuple[bool, str]:
    """Let opskit die before a command, by number or name; gives whether it did, and its words."""
    done = subprocess.run(
        [sys.executable, DYING, site.file, site.layers, action, str(last), *release],
        env=site.environ,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stdout + done.stderr
    site.let_the_lease_end()
    return done.returncode != 0, done.stdout


def test_a_deploy_killed_before_each_of_its_commands(site_factory: SiteFactory) -> None:
    """Wherever it is killed, somebody answers all the time, and the next deploy just works.

    Two environments at once, one for the odd commands and one for the even ones.
    """
    sites = [site_factory(), site_factory()]
    with ThreadPoolExecutor(2) as pool:
        ends = list(pool.map(killed_before_every_other, sites, (1, 2)))
    assert min(ends) > 12, "it was killed at few points only"


def killed_before_every_other(site: Site, first: int) -> int:
    """Kill deploys before their first, third, fifth ... command; gives where there is none."""
    site.deploy()
    with watched(site) as unanswered:
        for last in count(first, step=2):
            before, new = site.serving, site.upcoming
            site.change(f"killed at {last}")
            killed, said = kill(site, "deploy", last)
            assert unanswered() == [], said
            assert site.serving in (before, new), said
            if not killed:
                break
            site.change(f"mended after {last}")
            act = site.deploy()
            assert unanswered() == [], said
            assert (site.serving, site.current) == (act.name, f"releases/{act.name}"), said
            assert site.leftovers() == [], said
            good = site.record.deployments[-1]
            assert (good.result, good.release) == (Outcome.GOOD, act.number), said
    numbers = [one.release or 0 for one in site.record.deployments]
    assert numbers == sorted(numbers), "a number was used again"
    assert site.record.torn == ()
    return last


def test_a_rollback_killed_before_every_other_of_its_commands(site: Site) -> None:
    """After a rollback that was killed, the same rollback puts back or carries on."""
    site.deploy()
    site.change("v2")
    site.deploy()
    with watched(site) as unanswered:
        for last in count(2, step=2):
            killed, said = kill(site, "rollback", last, "1")
            assert unanswered() == [], said
            if not killed:
                break
            assert site.serving in ("v1", "v2"), said
            if site.serving == "v1" and site.record.deployments[-1].result is Outcome.GOOD:
                site.rollback(2)  # it had been recorded
            else:
                site.deploy()  # the same content as v2
            assert unanswered() == [], said
            assert (site.serving, site.current) == ("v2", "releases/v2"), said
            assert site.leftovers() == [], said
    assert last > 8, "it was killed at few points only"
    assert site.serving == "v1"


def test_mending_can_be_killed_too(site: Site) -> None:
    """A deploy that mends after a killed one, and is killed in the middle of that, is mended."""
    site.deploy()
    with watched(site) as unanswered:
        for last in count(2, step=3):
            before = site.serving
            site.change(f"killed at {last}")
            killed, said = kill(site, "deploy", UNPROVEN)
            assert killed, said
            site.change(f"killed again at {last}")
            killed, said = kill(site, "deploy", last)
            assert unanswered() == [], said
            if not killed or "build" in said:
                break
            assert site.serving is not None
            assert site.rollback().name == before, said
            assert (site.serving, site.leftovers()) == (before, []), said
            assert unanswered() == [], said
    assert last > 5, "it was killed at few points only"
    assert {one.result for one in site.record.deployments} == {Outcome.GOOD, Outcome.INTERRUPTED}


def test_an_interrupted_first_deploy_is_relieved(site: Site) -> None:
    """Killed after the first release serves, the next deploy takes over from what was unproven."""
    killed, said = kill(site, "deploy", UNPROVEN)
    assert killed, said
    assert site.serving == "v1", said
    with watched(site) as unanswered:
        act = site.deploy()
    assert unanswered() == []
    assert (act.name, site.serving, site.leftovers()) == ("v2", "v2", [])
    assert site.record.good == {2}


def test_read_only_commands_tell_of_an_interrupted_deploy(site: Site) -> None:
    """Status and deployments say what was interrupted, and that the next command mends it."""
    site.deploy()
    site.change("v2")
    killed, said = kill(site, "deploy", UNPROVEN)
    assert killed, said
    status = site.opskit("status", "dev")
    assert "was interrupted in the step" in status.stdout
    assert "deploy dev" in status.stdout
    listed = site.opskit("deployments", "dev")
    assert "was interrupted" in listed.stdout
    before = site.tree()
    assert site.opskit("check", "dev").returncode == 0
    assert site.tree() == before


def test_a_rollback_after_a_killed_deploy_goes_back_one_step(site: Site) -> None:
    """What the killed deploy replaced serves again, and not the release before that."""
    site.deploy()
    site.change("v2")
    site.deploy()
    site.change("v3")
    killed, said = kill(site, "deploy", UNPROVEN)
    assert killed, said
    act = site.rollback()
    assert (act.name, site.serving, site.current) == ("v2", "v2", "releases/v2")
    assert site.leftovers() == []


def test_a_note_that_nobody_can_read_is_no_obstacle(site: Site) -> None:
    """Whatever wrote it, what is proven serves, and the next deploy goes on."""
    site.deploy()
    (site.root / "in-progress.json").write_text("{")
    site.change("v2")
    assert site.deploy().name == "v2"
    assert (site.serving, site.leftovers()) == ("v2", [])


def test_a_stop_mends_without_starting_anything(site: Site) -> None:
    """After a killed deploy, stop stops; current is the proven release, for the next deploy."""
    site.deploy()
    site.change("v2")
    killed, said = kill(site, "deploy", UNPROVEN)
    assert killed, said
    site.stop()
    assert (site.serving, site.current, site.leftovers()) == (None, "releases/v1", [])
