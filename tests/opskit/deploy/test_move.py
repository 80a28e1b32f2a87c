"""From SQLite to PostgreSQL: the messages come along, or nothing happens."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

from chatservice.client import ChatClient
from opskit import operations
from opskit.deployments import Outcome
from opskit.failure import Failure, Misuse
from opskit.tokens import issue
from tests.opskit.conftest import SiteFactory
from tests.opskit.deploy import dying
from tests.opskit.site import TIMING, Site, get, quick_smoke, watched
from tests.postgres_server import PostgresServer


@pytest.fixture
def site(site_factory: SiteFactory, postgres_server: PostgresServer) -> Site:
    """v1 serves from SQLite, with five messages; environments.yaml asks for PostgreSQL."""
    site = site_factory()
    site.deploy()
    asyncio.run(say(site, *"abcde"))
    dsn = site.directory / "dsn"
    dsn.write_text(postgres_server.database())
    dsn.chmod(0o600)
    site.secrets["database_url"] = "file:dsn"
    site.configure(store={"kind": "postgres"})
    return site


def client(site: Site) -> ChatClient:
    token = issue(site.environment, workspaces=["team"], user="ada", name="Ada", ttl="1h").token
    return ChatClient(site.environment.ws_url, workspace="team", token=token)


def back_without(site: Site, wanted: int) -> None:
    """Roll back to a release with another store, and leave the messages since behind."""
    operation = operations.rollback(
        site.fleet, wanted, observe=site.events.append, leave_data=True, timing=TIMING
    )
    operation.act.smoke = quick_smoke
    operation.run()


async def say(site: Site, *texts: str) -> list[int]:
    """Say something; gives the numbers that it got."""
    async with client(site) as ada:
        return [(await ada.send(text)).seq for text in texts]


async def epoch(site: Site) -> str:
    async with client(site) as ada:
        return ada.epoch


def test_the_messages_move_and_the_numbers_go_on(site: Site) -> None:
    """All counted and compared; the next message has the next number, in a new epoch."""
    before = asyncio.run(epoch(site))
    act = site.deploy(move=True)
    moved = next(event.text for event in site.events if event.step == "move" and event.text)
    assert moved == "5 messages and 1 cursors of 1 workspaces copied and compared"
    assert asyncio.run(epoch(site)) != before, "clients are told to reload"
    assert asyncio.run(say(site, "f")) == [6]
    assert act.name == "v2"
    assert site.deploy().unchanged


@pytest.mark.parametrize("choice", ["neither", "leave"])
def test_messages_are_left_behind_only_when_that_is_said(site: Site, choice: str) -> None:
    """A change of the store alone is refused, with both commands; left, they start again at 1."""
    if choice == "neither":
        with pytest.raises(Misuse, match="the store changes from sqlite to postgres") as caught:
            site.deploy()
        assert "--move-data" in caught.value.hint
        assert any("--leave-data" in line for line in caught.value.lines)
        assert site.serving == "v1"
        return
    site.deploy(leave=True)
    assert asyncio.run(say(site, "f")) == [1]


def test_both_choices_at_once_are_refused(site: Site) -> None:
    """Nothing is copied, and nothing stopped."""
    with pytest.raises(Misuse, match="--move-data and --leave-data contradict each other"):
        site.deploy(move=True, leave=True)
    assert site.serving == "v1"


def test_the_plan_of_a_move_says_what_would_be_run(site: Site) -> None:
    """The copy is shown among the commands; the service is not stopped for it."""
    done = site.opskit("deploy", "dev", "--plan", "--move-data")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "stop the service, copy its SQLite store into PostgreSQL" in done.stdout
    [copy] = [line for line in done.stdout.splitlines() if f"--from {site.root}/state" in line]
    assert copy.lstrip().startswith("$ "), "a command that changes something"
    assert site.serving == "v1"


def test_a_release_that_fails_after_the_move_is_undone_onto_the_old_store(site: Site) -> None:
    """Nothing was taken out of SQLite: v1 serves it again, all there; the copy grows old."""
    site.edit("routes.py", '"/healthz"', '"/unhealthz"')
    with pytest.raises(Failure, match=r"failed .* smoke checks") as caught:
        site.deploy(move=True)
    assert caught.value.hint == (
        "v1 serves as before; put that right, give it an empty database, "
        "then: opskit deploy dev --move-data"
    )
    assert site.serving == "v1"
    assert asyncio.run(say(site, "f")) == [6]
    assert [one.result for one in site.record.deployments] == [Outcome.GOOD, Outcome.UNDONE]


def test_a_copy_that_is_refused_puts_the_service_back(site: Site) -> None:
    """Where the new store is not empty, the copy is refused and v1 serves on its own."""
    site.deploy(move=True)
    back_without(site, 1)
    moved = site.record.deployments[1]
    assert any(
        event.text
        == "v1 serves the messages in SQLite as they were when it served last; those written "
        f"since {moved.started} stay in PostgreSQL, are not lost, and are not seen"
        for event in site.events
    )
    asyncio.run(say(site, "f"))
    site.change("again")
    with pytest.raises(Failure, match=r"not empty|is there already|holds") as caught:
        site.deploy(move=True)
    assert caught.value.status == 1
    assert site.serving == "v1"
    assert asyncio.run(say(site, "g")) == [7]


def test_a_store_that_is_not_empty_is_noticed_while_the_service_runs(site: Site) -> None:
    """It is not stopped for a copy that would be refused."""
    site.deploy(move=True)
    back_without(site, 1)
    pid = site.pid
    site.change("again")
    with watched(site) as unanswered:
        with pytest.raises(Failure, match="is not empty"):
            site.deploy(move=True)
        assert unanswered() == []
    assert site.pid == pid, "it was never stopped"


def test_an_opskit_killed_after_the_copy_is_mended_onto_the_old_store(site: Site) -> None:
    """The service was stopped when opskit died; the next command brings v1 back."""
    argv = [sys.executable, dying.__file__, str(site.file), str(site.layers), "move", "link"]
    died = subprocess.run(argv, env=site.environ, capture_output=True, text=True, check=False)
    assert "killed before: point" in died.stdout, died.stdout + died.stderr
    assert site.serving is None
    site.let_the_lease_end()
    site.rollback()
    assert site.serving == "v1"
    assert asyncio.run(say(site, "f")) == [6]


def test_going_back_to_the_old_store_is_refused_until_it_is_said_what_is_left(site: Site) -> None:
    """Both stores, the messages since and both commands are named before anything is changed."""
    site.deploy(move=True)
    asyncio.run(say(site, "f"))
    moved, pid = site.record.deployments[1], site.pid
    refused = site.opskit("rollback", "--env", "dev", "--no-smoke")
    assert refused.returncode == 2, refused.stdout
    said = refused.stderr
    assert "v1 has its messages in SQLite, and v2, which serves, in PostgreSQL" in said
    assert f"those written since {moved.started} stay in PostgreSQL, are not lost" in said
    assert "rollback v1 --env dev --leave-data (without them)" in said
    assert (site.serving, site.pid, site.leftovers()) == ("v2", pid, [])
    assert len(site.record.deployments) == 2, "nothing was done, so nothing is recorded"
    done = site.opskit("rollback", "--env", "dev", "--no-smoke", "--leave-data")
    assert done.returncode == 0, done.stdout + done.stderr
    assert asyncio.run(say(site, "g")) == [6], "numbers go on after the five that SQLite has"
    back_without(site, 2)
    assert asyncio.run(say(site, "h")) == [7], "what was left in PostgreSQL is there again"


def test_of_a_release_that_was_stopped_nobody_says_that_it_serves(site: Site) -> None:
    site.deploy(move=True)
    site.stop()
    with pytest.raises(Misuse) as caught:
        site.rollback(1)
    assert str(caught.value) == (
        "v1 has its messages in SQLite, and v2, which is current, in PostgreSQL"
    )


def test_a_release_with_sqlite_is_no_way_back_for_several_nodes(site: Site) -> None:
    """Where the number of nodes stands is said; with one, the rollback goes, and ends the other."""
    site.nodes = 2
    site.configure()
    site.deploy(move=True)
    second = site.fleet.nodes[1]
    assert get(second.address[1], "/healthz") == (200, "ok\n")
    for wanted in (None, 1):
        with pytest.raises(Misuse) as caught:
            site.rollback(wanted)
        where = site.environment.where("nodes")
        assert str(caught.value) == (
            f"v1 cannot serve 2 nodes, which {where} asks for: its messages are in SQLite, a file "
            "of one process"
        )
        assert caught.value.hint == (
            f"write `nodes: 1` at {where} and leave the rest as it is, then: opskit rollback v1 "
            "--env dev --leave-data (ends node 2, too)"
        )
        assert "stay in PostgreSQL, are not lost, and are not seen" in caught.value.lines[0]
    assert site.serving == "v2"
    assert site.leftovers() == []
    site.nodes = 1
    site.configure()
    back_without(site, 1)
    assert site.serving == "v1"
    assert get(second.address[1], "/healthz") is None
    assert asyncio.run(say(site, "f")) == [6]
