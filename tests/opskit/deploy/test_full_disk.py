"""The disk of a SQLite store is full: a rollback works, and members stay; a deploy is undone.

A process that begins there takes what still finds room in the log, which its predecessor leaves
empty at its end: so each test has one take-over, from one for which even that was full.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from chatservice.client import ChatClient
from checks.smoke import Report
from opskit import operations
from opskit.deploy.act import Act
from opskit.deploy.plan import Kind
from opskit.deployments import Outcome
from opskit.failure import Failure
from opskit.tokens import signer
from tests.opskit.conftest import SiteFactory
from tests.opskit.site import TIMING, Site, get, quick_smoke
from tests.small_disks import fill, mounted


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Where the site's state will be: a file system of 32 MB."""
    with mounted(tmp_path / "s" / "r" / "state", 32) as disk:
        yield disk


@pytest.fixture
def v2(disk: Path, site_factory: SiteFactory) -> Site:
    """An environment in which v2 serves, and v1 did before."""
    site = site_factory(name="s")
    site.deploy()
    site.change("v2")
    site.deploy()
    return site


def member(site: Site) -> ChatClient:
    """One user; a connection that is lost comes back, and is counted."""
    secret = (site.root / "secrets" / "jwt_secret").read_bytes().strip()
    signs = signer(site.environment, {"jwt_secret": secret})
    token = signs.sign(user="ann", workspaces=["w"], ttl=3600)
    return ChatClient(f"ws://127.0.0.1:{site.port}", workspace="w", token=token)


def readiness(site: Site) -> tuple[int, str]:
    """Give the status of /readyz, and what kind of trouble it tells of."""
    answer = get(site.port, "/readyz")
    assert answer is not None, site.log_tail()
    return answer[0], json.loads(answer[1]).get("kind", "")


async def until_nothing_is_taken(site: Site, ann: ChatClient) -> asyncio.Task[object]:
    """Send until nothing is acknowledged any more; give the send that waits."""
    async with asyncio.timeout(60):
        while True:
            waiting: asyncio.Task[object] = asyncio.create_task(ann.send("x" * 4000, timeout=120))
            done, _ = await asyncio.wait([waiting], timeout=1)
            if not done:
                assert readiness(site) == (503, "full")
                return waiting
            await waiting


async def test_a_deploy_is_undone(v2: Site, disk: Path) -> None:
    """The disk was full before it took over; nobody is disconnected."""
    async with member(v2) as ann:
        fill(disk)
        (await until_nothing_is_taken(v2, ann)).cancel()
        v2.change("v3")
        with pytest.raises(Failure, match="v3 serves but is not ready: HTTP 503: ") as caught:
            await asyncio.to_thread(v2.deploy)
        assert "there is no space left for the database" in str(caught.value)
        assert (caught.value.status, v2.serving, v2.current) == (1, "v2", "releases/v2")
        await ann.ping()
        assert ann.connections == 1


async def test_a_rollback_works_and_nobody_is_disconnected(v2: Site, disk: Path) -> None:
    """What was sent meanwhile arrives when there is room again."""
    async with member(v2) as ann:
        for number in range(1, 4):
            assert (await ann.send(f"message {number}")).seq == number
        filler = fill(disk)
        waiting = await until_nothing_is_taken(v2, ann)
        act = await asyncio.to_thread(v2.rollback)
        assert (act.name, v2.serving, v2.current) == ("v1", "v1", "releases/v1")
        assert (v2.outcome("health"), v2.outcome("smoke")) == (
            [Kind.STARTED, Kind.DONE],
            [Kind.SKIPPED],
        )
        [warning] = act.warnings
        assert warning.startswith("v1 is not proven: ")
        assert "opskit smoke dev" in warning
        last = v2.record.last
        assert last is not None
        assert (last.release, last.result, last.smoke) == (1, Outcome.GOOD, None)
        assert v2.leftovers() == []
        assert readiness(v2) == (503, "full")
        page = await ann.history(limit=50)
        assert [one.text for one in page.messages][:3] == [f"message {n}" for n in (1, 2, 3)]
        assert not waiting.done()

        filler.unlink()
        await asyncio.wait_for(waiting, 60)
        assert readiness(v2) == (200, "")
        assert (ann.connections, ann.gaps, ann.repeats) == (1, 0, 0)


async def test_a_rollback_whose_smoke_test_meets_the_full_disk(v2: Site, disk: Path) -> None:
    """The release begins well, for a little was free; that it was not proven is said."""

    def full(act: Act) -> Report:
        """Find it ready, and have it meet the end of its disk."""
        assert readiness(v2) == (200, "")
        asyncio.run(meet())
        return quick_smoke(act)

    async def meet() -> None:
        async with member(v2) as ann:
            fill(disk)
            (await until_nothing_is_taken(v2, ann)).cancel()

    operation = operations.rollback(v2.fleet, None, observe=v2.events.append, timing=TIMING)
    operation.act.smoke = full
    await asyncio.to_thread(operation.run)
    assert (v2.serving, operation.act.report) == ("v1", None)
    assert "v1 is not proven" in operation.act.warnings[0]
    last = v2.record.last
    assert last is not None
    assert (last.release, last.result, last.smoke) == (1, Outcome.GOOD, None)
