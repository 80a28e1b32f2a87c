"""Deploying for real: releases that work, one after another."""

from __future__ import annotations

import json
import os
import stat

import pytest

from opskit.deploy.plan import Kind
from opskit.deployments import Outcome
from opskit.failure import Failure
from tests.opskit.conftest import SiteFactory
from tests.opskit.site import Site, watched


def test_the_first_deploy_serves_and_is_recorded(site: Site) -> None:
    """A deploy to nothing makes v1 serve, with the whole smoke test, and leaves nothing behind."""
    act = site.deploy(smoke=True)
    assert (act.name, site.serving, site.current) == ("v1", "v1", "releases/v1")
    assert act.report is not None
    assert act.report.ok
    assert act.report.passed > 30
    (one,) = site.record.deployments
    assert (one.release, one.before, one.result) == (1, None, Outcome.GOOD)
    assert one.smoke is not None
    assert (one.smoke.passed, one.smoke.failed) == (act.report.passed, 0)
    assert (
        one.content == json.loads((site.root / "releases/v1/manifest.json").read_text())["content"]
    )
    assert set(one.secrets) == {"jwt_secret"}
    assert site.leftovers() == []


def test_the_next_deploy_takes_over_without_a_gap(site: Site) -> None:
    """A second release replaces the first; all the while somebody answers."""
    site.deploy()
    first = site.pid
    site.change("v2")
    with watched(site) as unanswered:
        act = site.deploy()
    assert unanswered() == []
    assert (act.name, act.before, site.serving, site.current) == ("v2", 1, "v2", "releases/v2")
    assert site.pid != first
    assert site.releases == ["v1", "v2"]
    assert site.leftovers() == []


def test_the_same_content_is_not_deployed_again(site: Site) -> None:
    """Without a change nothing is written; what serves is tested again, by the same process."""
    site.deploy()
    pid, before = site.pid, site.tree()
    act = site.deploy(smoke=True)
    assert act.unchanged
    assert act.name == "v1"
    assert act.report is not None
    assert act.report.ok
    assert site.pid == pid
    assert site.tree() == before
    assert site.leftovers() == []
    assert site.outcome("switch") == [Kind.SKIPPED]


def test_a_stopped_service_is_started_by_the_same_deploy(site: Site) -> None:
    """Without a change, but with nothing serving, a deploy starts the release that is there."""
    site.deploy()
    site.stop()
    assert site.serving is None
    before = site.tree()
    act = site.deploy()
    assert act.unchanged
    assert site.serving == "v1"
    assert site.tree() == before


def test_numbers_are_never_used_again(site: Site) -> None:
    """The next number is above all that were ever recorded, though their releases are gone."""
    site.deploy()
    site.edit("__main__.py", "    import uvloop\n", "    raise RuntimeError('broken')\n")
    with pytest.raises(Failure):
        site.deploy()
    assert site.releases == ["v1", "v2"]
    os.rename(site.root / "releases/v2", site.directory / "gone")
    site.edit("__main__.py", "    raise RuntimeError('broken')\n", "    import uvloop  # mended\n")
    assert site.deploy().name == "v3"
    assert [one.release for one in site.record.deployments] == [1, 2, 3]


def test_what_is_on_the_host_is_private(site: Site) -> None:
    """Secrets, state and the control socket are closed to other users."""
    site.deploy()
    modes = {
        name: stat.S_IMODE((site.root / name).stat().st_mode)
        for name in ("secrets", "state", "run", "secrets/jwt_secret", "secrets/fingerprint-salt")
    }
    assert modes == {
        "secrets": 0o700,
        "state": 0o700,
        "run": 0o700,
        "secrets/jwt_secret": 0o600,
        "secrets/fingerprint-salt": 0o600,
    }


def test_secrets_show_nowhere(site_factory: SiteFactory) -> None:
    """The secret is in its file, and in no log, record, plan, output or process list."""
    secret = "a-secret-that-must-not-show-anywhere-0123456789"
    site = site_factory(secrets={"jwt_secret": "env:SHOWN_NOWHERE"})
    done = site.opskit("deploy", "dev", SHOWN_NOWHERE=secret)
    assert done.returncode == 0, done.stdout + done.stderr
    plan = site.opskit("deploy", "dev", "--plan", SHOWN_NOWHERE=secret + "-changed")
    assert plan.returncode == 0, plan.stderr
    assert "changed" in plan.stdout
    said = done.stdout + done.stderr + plan.stdout + plan.stderr
    assert secret not in said
    assert (site.root / "secrets/jwt_secret").read_text() == secret + "\n"
    for path in site.root.rglob("*"):
        if path.is_file() and not path.is_symlink() and path.parent.name != "secrets":
            assert secret.encode() not in path.read_bytes(), path
    pid = site.pid
    for name in ("cmdline", "environ"):
        with open(f"/proc/{pid}/{name}", "rb") as file:
            assert secret.encode() not in file.read()


def test_a_changed_secret_alone_restarts_the_same_release(site_factory: SiteFactory) -> None:
    """A new secret is brought to the host and the release starts anew with it, under its number."""
    site = site_factory(secrets={"jwt_secret": "file:secret"})
    write_secret(site, "the-first-secret-0123456789-0123456789")
    site.deploy(smoke=True)
    first = site.pid
    write_secret(site, "the-other-secret-0123456789-0123456789")
    with watched(site) as unanswered:
        act = site.deploy(smoke=True)
    assert unanswered() == []
    assert (act.name, act.changed_secrets, act.unchanged) == ("v1", ("jwt_secret",), False)
    assert site.pid != first
    assert site.releases == ["v1"]
    one, other = site.record.deployments
    assert one.secrets["jwt_secret"] != other.secrets["jwt_secret"]
    assert site.leftovers() == []


def test_a_secret_that_breaks_the_service_is_taken_back(site_factory: SiteFactory) -> None:
    """When the release does not work with the new secret, the old one is in force again."""
    site = site_factory(secrets={"jwt_secret": "file:secret"})
    write_secret(site, "the-first-secret-0123456789-0123456789")
    site.edit(
        "__main__.py",
        "    import uvloop\n",
        "    import uvloop\n\n"
        "    if 'breaks' in open(settings.auth.secret_file).read():\n"
        "        raise RuntimeError('this secret cannot be used')\n",
    )
    site.deploy()
    write_secret(site, "this-secret-breaks-it-0123456789-0123456789")
    with pytest.raises(Failure, match="ended while it was starting") as caught:
        site.deploy()
    assert any("this secret cannot be used" in line for line in caught.value.lines)
    assert site.serving == "v1"
    text = (site.root / "secrets/jwt_secret").read_text()
    assert text == "the-first-secret-0123456789-0123456789\n"
    assert site.leftovers() == []


def write_secret(site: Site, value: str) -> None:
    path = site.directory / "secret"
    path.touch(mode=0o600)
    path.write_text(value)


def test_metrics_are_asked_for_at_the_address_that_is_theirs(site: Site) -> None:
    """On hosts that is one of a private network; nothing is on 127.0.0.1 then."""
    ports = {"port": site.port, "admin_port": site.admin_port}
    site.configure(service={**ports, "admin_host": "127.0.0.2"})
    act = site.deploy()
    assert (act.name, site.serving) == ("v1", "v1")
    serving = site.facts.serving
    assert serving is not None
    assert serving.metrics
    assert json.loads(site.opskit("top", "dev", "--json").stdout)["workspaces"] == []
