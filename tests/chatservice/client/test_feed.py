"""Readers of what came: in order, at their own pace, and told what they missed."""

from __future__ import annotations

import asyncio

import pytest

from chatservice.client.errors import ClosedForGood
from chatservice.client.feed import Feed, LaggedError
from chatservice.protocol import Pong, ServerFrame, Typing

DEADLINE = 20.0


def feed(*seqs: int, size: int = 100) -> Feed:
    made = Feed(size)
    for seq in seqs:
        made.append(Pong(seq))
    return made


async def test_frames_come_in_order_and_once() -> None:
    reading = feed(1, 2)
    assert [await reading.next(), await reading.next()] == [Pong(1), Pong(2)]
    waiting = asyncio.create_task(reading.next())
    await asyncio.sleep(0)
    assert not waiting.done()
    reading.append(Pong(3))
    assert await waiting == Pong(3)


async def test_a_slow_reader_is_told_how_much_it_lost() -> None:
    reading = feed(1, 2, 3, 4, 5, size=2)
    with pytest.raises(LaggedError) as caught:
        await reading.next()
    assert caught.value.lost == 3
    assert [await reading.next(), await reading.next()] == [Pong(4), Pong(5)]


async def test_after_the_end_what_came_is_still_read() -> None:
    reading = feed(1)
    reading.finish(ClosedForGood(4503, "out"))
    reading.finish(ClosedForGood(1000, "too late"))
    assert await reading.next() == Pong(1)
    for _ in range(2):
        with pytest.raises(ClosedForGood) as caught:
            await reading.next()
        assert caught.value.code == 4503


async def test_the_end_wakes_everybody_who_waits() -> None:
    reading = feed()
    waiting = [
        asyncio.create_task(reading.next()),
        asyncio.create_task(reading.find(lambda frame: True, 0)),
    ]
    await asyncio.sleep(0)
    reading.finish(ClosedForGood(4503, "out"))
    for task in waiting:
        with pytest.raises(ClosedForGood):
            await asyncio.wait_for(task, DEADLINE)


async def test_find_looks_back_and_then_waits() -> None:
    reading = feed(1, 2, 3)
    assert await reading.find(lambda frame: frame == Pong(2), 0) == Pong(2)
    since = reading.end
    waiting = asyncio.create_task(reading.find(lambda frame: isinstance(frame, Pong), since))
    await asyncio.sleep(0)
    reading.append(Typing("ada"))
    await asyncio.sleep(0)
    assert not waiting.done()
    reading.append(Pong(4))
    assert await asyncio.wait_for(waiting, DEADLINE) == Pong(4)
    assert await reading.next() == Pong(1)


async def test_find_looks_at_each_frame_once_even_when_old_ones_go() -> None:
    reading = feed(size=2)
    seen: list[ServerFrame] = []

    def look(frame: ServerFrame) -> bool:
        seen.append(frame)
        return frame == Pong(9)

    waiting = asyncio.create_task(reading.find(look, 0))
    for seq in range(10):
        await asyncio.sleep(0)
        reading.append(Pong(seq))
    assert await asyncio.wait_for(waiting, DEADLINE) == Pong(9)
    assert seen == [Pong(seq) for seq in range(10)]


async def test_who_stops_waiting_is_forgotten() -> None:
    reading = feed()
    waiting = asyncio.create_task(reading.next())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not reading._waiters
    reading.append(Pong(1))
    assert await reading.next() == Pong(1)
