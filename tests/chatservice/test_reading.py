"""What a room misses is read from a real store; who waits for it waits no longer than needed."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from chatservice.cluster import Alone
from chatservice.fanout import LiveRoom
from chatservice.health import StoreHealth
from chatservice.metrics import Metrics
from chatservice.room import Rules
from chatservice.rooms import Rooms
from chatservice.store import Append
from chatservice.store.sqlite import SqliteStore
from chatservice.timers import TimerWheel

KEPT = 10
RULES = Rules(presence_grace=1.0, text_limit=100, heartbeat=25.0, shared=True)


@contextmanager
def no_hang(seconds: int = 20) -> Iterator[None]:
    """Fail where the event loop does not turn: no timeout of its own would end that."""

    def fail(_: int, __: object) -> None:
        pytest.fail(f"the event loop has not turned for {seconds} s")

    former = signal.signal(signal.SIGALRM, fail)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, former)


class Site:
    """The rooms of a node, and the store, in which another node writes."""

    def __init__(self, directory: Path) -> None:
        self.store = SqliteStore(directory / "chat.db", keep=KEPT, busy_timeout=5)
        metrics = Metrics(release="v1", commit="c", state_dir=directory)
        self.health = StoreHealth(self.store, metrics)
        self.evicted: list[LiveRoom] = []
        wheel = TimerWheel(asyncio.get_running_loop(), lambda _: None)
        self.rooms = Rooms(
            self.store, self.health, metrics, wheel, RULES,
            bus=Alone(), queued_writes=10, evict=self.evicted.append,
        )  # fmt: skip

    async def written_elsewhere(self, count: int) -> None:
        """Have another node store so many messages, of which no word comes."""
        await self.store.commit(
            [Append("w", "bob", "Bob", f"{number}", "x", 1) for number in range(count)], []
        )


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    site = Site(tmp_path)
    await site.health.start()
    yield site
    await site.health.close()
    await site.rooms.close()
    await site.store.close()


async def test_who_comes_in_is_given_the_room_with_all_that_was_stored_elsewhere(
    site: Site,
) -> None:
    """Also who says no number: a welcome to less had an old cursor, and an old count of unread."""
    live = await site.rooms.open("w")
    await site.written_elsewhere(KEPT)
    assert await site.rooms.reached("w") is live
    assert (live.room.seq, site.evicted) == (KEPT, [])


async def test_a_room_that_is_too_far_behind_is_replaced_and_its_visitor_given_the_new_one(
    site: Site,
) -> None:
    """What it misses is out of history; waiting for it anyway stopped the event loop for good."""
    live = await site.rooms.open("w")
    await site.written_elsewhere(KEPT + 2)
    with no_hang():
        fresh = await site.rooms.reached("w")
    assert (live.stale, site.evicted) == (True, [live])
    assert fresh is not live
    assert (fresh.room.seq, fresh.room.epoch) == (KEPT + 2, live.room.epoch)
