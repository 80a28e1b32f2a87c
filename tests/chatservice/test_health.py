"""The verdict on the store: red at the first failure, green again by itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import pytest

from chatservice import health as health_module
from chatservice.health import StoreHealth
from chatservice.metrics import Metrics
from chatservice.store import Store, StoreError, StoreErrorKind
from chatservice.store.sqlite import SqliteStore

FULL = StoreError(StoreErrorKind.FULL, "no space is left")


class Patient:
    """A store of which the test says how it is."""

    def __init__(self) -> None:
        self.ill: Exception | None = None
        self.starting: asyncio.Event | None = None
        self.starts = 0
        self.checks = 0

    async def start(self) -> None:
        self.starts += 1
        if self.starting is not None:
            await self.starting.wait()
        if self.ill is not None:
            raise self.ill

    async def check(self) -> None:
        self.checks += 1
        if self.ill is not None:
            raise self.ill


@pytest.fixture
def store() -> Patient:
    return Patient()


@pytest.fixture
def metrics(tmp_path: Path) -> Metrics:
    return Metrics(release="v1", commit="c", state_dir=tmp_path)


@pytest.fixture
async def health(
    store: Patient, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[StoreHealth]:
    monkeypatch.setattr(health_module, "INTERVAL", 0.02)
    monkeypatch.setattr(health_module, "RETRY", 0.01)
    health = StoreHealth(cast(Store, store), metrics)
    yield health
    await health.close()


def up(metrics: Metrics) -> float | None:
    return metrics.registry.get_sample_value("chat_store_up")


async def until(condition: object, *, deadline: float = 10.0) -> None:
    assert callable(condition)
    async with asyncio.timeout(deadline):
        while not condition():
            await asyncio.sleep(0.005)


async def test_a_store_is_not_well_before_it_is_started(
    health: StoreHealth, store: Patient, metrics: Metrics
) -> None:
    assert (health.ok, health.reason) == (False, "the store is not started yet")
    await health.start()
    assert (health.ok, health.reason, up(metrics)) == (True, "", 1)
    assert store.starts == 1


async def test_a_store_that_does_not_start_is_started_again_until_it_does(
    health: StoreHealth, store: Patient, metrics: Metrics
) -> None:
    store.ill = FULL
    with pytest.raises(StoreError, match="no space"):
        await health.start()
    assert (health.ok, health.reason, up(metrics)) == (False, "no space is left", 0)
    await until(lambda: store.starts > 2)
    store.ill = None
    await until(lambda: health.ok)
    starts = store.starts
    await until(lambda: store.checks > 5)
    assert store.starts == starts  # only until it did


async def test_a_slow_start_is_not_begun_twice(health: StoreHealth, store: Patient) -> None:
    store.starting = asyncio.Event()
    starting = asyncio.ensure_future(health.start())
    await asyncio.sleep(0.1)  # ten times as long as after a failure
    assert store.starts == 1
    store.starting.set()
    await starting
    assert health.ok


async def test_a_store_that_falls_ill_is_noticed_and_so_is_its_recovery(
    health: StoreHealth, store: Patient, metrics: Metrics
) -> None:
    await health.start()
    store.ill = FULL
    await until(lambda: not health.ok)
    assert (health.reason, up(metrics)) == ("no space is left", 0)
    store.ill = None
    await until(lambda: health.ok)
    assert (health.reason, health.kind, up(metrics)) == ("", None, 1)


async def test_a_full_disk_keeps_nobody_from_reading_once_the_store_is_open(
    health: StoreHealth, store: Patient
) -> None:
    assert not health.readable
    store.ill = FULL
    with pytest.raises(StoreError):
        await health.start()
    assert (health.readable, health.kind) == (False, StoreErrorKind.FULL)
    store.ill = None
    await until(lambda: health.ok)
    assert (health.readable, health.kind) == (True, None)
    health.failed(FULL)
    assert (health.readable, health.ok) == (True, False)
    store.ill = StoreError(StoreErrorKind.LOCKED, "busy")
    await until(lambda: health.reason == "busy")
    assert (health.readable, health.kind) == (False, StoreErrorKind.LOCKED)


async def test_a_failed_call_counts_at_once(
    health: StoreHealth, store: Patient, metrics: Metrics
) -> None:
    await health.start()
    health.failed(FULL)
    assert (health.ok, health.reason, up(metrics)) == (False, "no space is left", 0)
    await until(lambda: health.ok)


async def test_a_bug_in_the_store_does_not_end_the_watch(
    health: StoreHealth, store: Patient
) -> None:
    await health.start()
    store.ill = ZeroDivisionError("a bug")
    await until(lambda: not health.ok)
    assert health.reason == "ZeroDivisionError: a bug"
    store.ill = None
    await until(lambda: health.ok)


async def test_a_real_database_that_is_taken_away_and_put_back(
    tmp_path: Path, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health_module, "INTERVAL", 0.05)
    monkeypatch.setattr(health_module, "RETRY", 0.05)
    path = tmp_path / "chat.db"
    store = SqliteStore(path, keep=10, busy_timeout=0.2)
    health = StoreHealth(store, metrics)
    await health.start()
    path.rename(tmp_path / "elsewhere")
    await until(lambda: not health.ok)
    assert str(path) in health.reason
    (tmp_path / "elsewhere").rename(path)
    await until(lambda: health.ok)
    await health.close()
    await store.close()
