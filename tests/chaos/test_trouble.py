"""With the database locked, the disk full or failing under load, a real service keeps its word."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.disruptions import Disruptions
from tests.chaos.ordeal import endure
from tests.chaos.plan import Plan
from tests.conftest import ServiceFactory
from tests.small_disks import mounted

pytestmark = pytest.mark.slow

DISK_MEGABYTES = 48
"""Room for the log of a database, 16 MiB before it is copied, and the database."""
QUIET = {"log": {"level": "warning"}, "store": {"busy_timeout": 0.5}}
ERRORS = frozenset({"rate_limited", "unavailable"})
REFUSED = 100
"""The trouble lasts until so many requests were refused, however slow the machine is."""


async def test_database_locked(service_factory: ServiceFactory, seed: int) -> None:
    """Somebody holds the write lock past the busy timeout, over a kill -9 and a start, too."""

    async def lock(disruptions: Disruptions) -> None:
        await disruptions.calm(1.0, 1.5)
        with disruptions.locked():
            await disruptions.calm(1.5, 2.0)
            await disruptions.refused(REFUSED)
            await disruptions.kill(ready=False)
            await disruptions.calm(1.0, 1.5)
        await disruptions.recovered()
        await disruptions.calm(0.5, 1.0)

    outcome = await endure(service_factory(QUIET), Plan(seed=seed), lock, expected=ERRORS)
    print(outcome)
    assert outcome.verdict.clean, str(outcome)
    assert not outcome.unsettled
    assert outcome.errors["unavailable"] >= REFUSED


async def test_writes_that_fail(service_factory: ServiceFactory, seed: int) -> None:
    """Writes fail in the middle of a commit, and again until a kill -9."""

    async def fail(disruptions: Disruptions) -> None:
        await disruptions.calm(0.5, 1.0)
        with disruptions.failing_writes():
            await disruptions.calm(1.0, 1.5)
            await disruptions.refused(REFUSED)
        await disruptions.recovered()
        await disruptions.calm(0.5, 1.0)
        with disruptions.failing_writes():
            await disruptions.calm(0.5, 1.0)
            await disruptions.kill()
        await disruptions.calm(0.5, 1.0)

    outcome = await endure(service_factory(QUIET), Plan(seed=seed), fail, expected=ERRORS)
    print(outcome)
    assert outcome.verdict.clean, str(outcome)
    assert not outcome.unsettled
    assert outcome.errors["unavailable"] >= REFUSED


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, for a service's state."""
    with mounted(tmp_path / "service-0" / "state", DISK_MEGABYTES) as disk:
        yield disk


@pytest.mark.usefixtures("small_disk")
async def test_disk_full_and_freed(service_factory: ServiceFactory, seed: int) -> None:
    """Not a byte is left for a while, over a kill -9 and a start, too."""

    async def fill(disruptions: Disruptions) -> None:
        await disruptions.calm(0.5, 1.0)
        with disruptions.full_disk():
            await disruptions.calm(1.0, 1.5)
            await disruptions.refused(REFUSED)
            await disruptions.kill(ready=False)
            await disruptions.calm(1.0, 1.5)
        await disruptions.recovered()
        await disruptions.calm(0.5, 1.0)

    outcome = await endure(service_factory(QUIET), Plan(seed=seed), fill, expected=ERRORS)
    print(outcome)
    assert outcome.verdict.clean, str(outcome)
    assert not outcome.unsettled
    assert outcome.errors["unavailable"] >= REFUSED
