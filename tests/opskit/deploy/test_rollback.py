"""Going back: which release, under which conditions, and what is said about it."""

from __future__ import annotations

import json

import pytest

from opskit.deploy.plan import Kind
from opskit.deployments import Action, Outcome
from opskit.failure import Failure
from tests.opskit.conftest import SiteFactory
from tests.opskit.site import Site, watched
from tests.service_process import free_ports


@pytest.fixture
def v3(site: Site) -> Site:
    """An environment in which v3 serves, and v1 and v2 did before."""
    site.deploy()
    for name in ("v2", "v3"):
        site.change(name)
        site.deploy()
    return site


def test_back_and_further_back_and_forward_again(v3: Site) -> None:
    """Without a version to the last good one below; with one to that one, up as well as down."""
    with watched(v3) as unanswered:
        act = v3.rollback(smoke=True)
        assert (act.name, act.before, v3.serving, v3.current) == ("v2", 3, "v2", "releases/v2")
        assert act.report is not None
        assert act.report.ok
        steps = [event.step for event in v3.events if event.kind is Kind.DONE]
        assert steps[:4] == ["lock", "select", "begin", "switch"], "more than a fast way back"
        assert v3.rollback().name == v3.serving == "v1"
        with pytest.raises(Failure, match="no good release before v1 to roll back to") as caught:
            v3.rollback()
        assert caught.value.hint == "good releases: v2, v3"
        assert v3.rollback(3).name == v3.serving == "v3"
    assert unanswered() == []
    assert v3.releases == ["v1", "v2", "v3"]
    rolled = v3.record.deployments[3:]
    assert [(one.action, one.release, one.before) for one in rolled] == [
        (Action.ROLLBACK, 2, 3),
        (Action.ROLLBACK, 1, 2),
        (Action.ROLLBACK, 3, 1),
    ]
    assert v3.leftovers() == []
    acts = len(v3.record.deployments)
    assert v3.rollback(3).unchanged, "it serves already"
    assert len(v3.record.deployments) == acts


def test_a_rollback_restores_the_configuration(site: Site) -> None:
    """Settings belong to a release; even the port is the one that it was deployed with."""
    site.deploy()
    old_port, old_pid = site.port, site.pid
    site.port, site.admin_port = free_ports(2)
    site.configure(limits={"text": 100})
    site.deploy()
    assert site.serving == "v2"
    assert site.pid != old_pid
    site.rollback(smoke=True)
    site.port = old_port
    assert site.serving == "v1"


def test_a_failed_release_is_no_target_unless_named(site: Site) -> None:
    """The last good one is chosen over a newer failed one; by its name the failed one serves."""
    site.deploy()
    site.edit("admission.py", 'text_response(b"ok\\n")', 'text_response(b"ill", status=500)')
    with pytest.raises(Failure):
        site.deploy(smoke=True)
    site.restore()
    site.change("v3")
    site.deploy()
    assert site.rollback().name == "v1"
    with pytest.raises(Failure, match="v2 failed 1 of") as caught:
        site.rollback(2, smoke=True)
    assert site.serving == "v1"
    assert "opskit rollback v2 --env dev --no-smoke" in caught.value.hint
    done = site.opskit("rollback", "v2", "--env", "dev", "--no-smoke")
    assert done.returncode == 0, done.stderr
    assert site.serving == "v2"


def test_a_rollback_to_a_damaged_release_is_refused(site: Site) -> None:
    """A file that changed on the host is seen before anything is switched."""
    site.deploy()
    site.change("v2")
    site.deploy()
    file = site.root / "releases/v1/code/chatservice/__main__.py"
    pid, text = site.pid, file.read_text()
    file.write_text(text + "# changed on the host\n")
    with pytest.raises(Failure, match=r"is damaged: code/chatservice/__main__\.py: FAILED"):
        site.rollback()
    assert site.outcome("switch") == []
    assert site.pid == pid
    file.write_text(text)
    (layer,) = (site.root / "layers").iterdir()
    (layer / "uvloop" / "__init__.py").write_text("")
    with pytest.raises(Failure, match=r"is damaged: uvloop/__init__\.py: FAILED"):
        site.rollback(1)
    assert site.pid == pid
    assert site.leftovers() == []


def test_a_rollback_that_fails_is_undone(site: Site) -> None:
    """The release that served before serves again, and the target does not count as good."""
    site.edit(
        "__main__.py",
        "    import uvloop\n",
        "    import uvloop\n\n"
        "    if (settings.database.parent / 'poison').exists():\n"
        "        raise RuntimeError('poisoned')\n",
    )
    site.deploy()
    site.restore()
    site.deploy()
    (site.root / "state/poison").touch()
    with (
        watched(site) as unanswered,
        pytest.raises(Failure, match="v1 ended while it was starting") as caught,
    ):
        site.rollback()
    assert unanswered() == []
    assert caught.value.lines[-1] == "RuntimeError: poisoned"
    assert (site.serving, site.current, site.leftovers()) == ("v2", "releases/v2", [])
    assert site.record.deployments[-1].result is Outcome.UNDONE
    assert site.record.good == {2}


def test_it_says_which_secrets_changed_since(site_factory: SiteFactory) -> None:
    """Secrets are not part of a release: a rollback keeps the new ones, and says so."""
    site = site_factory(secrets={"jwt_secret": "file:secret"})
    secret = site.directory / "secret"
    secret.touch(mode=0o600)
    secret.write_text("the-first-secret-0123456789-0123456789")
    site.deploy()
    secret.write_text("the-other-secret-0123456789-0123456789")
    site.change("v2")
    site.deploy()
    done = site.opskit("rollback", "--env", "dev")
    assert done.returncode == 0, done.stderr
    assert "secrets are not rolled back; changed since then: jwt_secret" in done.stdout
    assert "the-other-secret" in (site.root / "secrets/jwt_secret").read_text()
    assert site.serving == "v1"


MIGRATION = "-- readable-from: {readable_from}\nCREATE TABLE later{number} (x INTEGER) STRICT;\n"


def migration(site: Site, readable_from: int) -> None:
    """Give the source one more migration."""
    directory = site.directory / "chatservice/store/migrations/sqlite"
    number = max(int(path.name[:3]) for path in directory.glob("[0-9]*.sql")) + 1
    text = MIGRATION.format(readable_from=readable_from, number=number)
    (directory / f"{number:03d}_later.sql").write_text(text)


def schema(site: Site) -> int:
    text = (site.root / "current/manifest.json").read_text()
    return int(json.loads(text)["schema"]["version"])


def test_a_release_that_cannot_read_the_database_is_refused(site: Site) -> None:
    """After a migration that only newer releases can work with, the older one is no way back."""
    site.deploy()
    first = schema(site)
    migration(site, readable_from=first)
    site.deploy()
    migration(site, readable_from=first + 1)
    site.deploy()
    assert schema(site) == first + 2
    pid = site.pid
    with pytest.raises(Failure) as caught:
        site.rollback(1)
    assert str(caught.value) == (
        f"v1 cannot read the database: it has schema {first}, and the database needs {first + 1} "
        "or newer"
    )
    assert "fix forward" in caught.value.hint
    assert site.pid == pid
    assert site.rollback().name == site.serving == "v2"


def test_a_migration_that_leaves_no_way_back_is_refused(site: Site) -> None:
    """What the release that serves could not survive is not begun: expand first, then contract."""
    site.deploy()
    first, pid = schema(site), site.pid
    migration(site, readable_from=first + 1)
    with pytest.raises(Failure, match="so nothing could be undone") as caught:
        site.deploy()
    assert "expand first, contract later" in caught.value.hint
    assert (site.pid, site.releases) == (pid, ["v1"])


def test_pruned_releases(site_factory: SiteFactory) -> None:
    """The last good ones are kept, as many as configured; what else there was is gone."""
    site = site_factory(keep=2)
    for number in range(1, 5):
        site.change(f"v{number}")
        site.deploy()
    assert site.releases == ["v3", "v4"]
    assert len(site.record.deployments) == 4
    with pytest.raises(Failure, match="there is no release v1") as caught:
        site.rollback(1)
    assert caught.value.hint == "good releases: v3"
