"""Group commit: what arrives while one commit runs goes into the next, in order, and reported."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from chatservice.committer import Committer, Done, Failed
from chatservice.store import (
    Append,
    Appended,
    Committed,
    Cursor,
    MoveCursor,
    Store,
    StoreError,
    StoreErrorKind,
)
from chatservice.store.sqlite import SqliteStore

Batch = Done[str] | Failed[str]


class HeldStore:
    """Takes batches, and finishes each when and how the test says."""

    def __init__(self) -> None:
        self.batches: list[tuple[list[str], list[str]]] = []
        self._answers: asyncio.Queue[BaseException | None] = asyncio.Queue()
        self._seq = 0

    async def commit(self, appends: Sequence[Append], reads: Sequence[MoveCursor]) -> Committed:
        self.batches.append(([append.id for append in appends], [read.user for read in reads]))
        answer = await self._answers.get()
        if answer is not None:
            raise answer
        numbers = range(self._seq + 1, self._seq + 1 + len(appends))
        self._seq += len(appends)
        return Committed(
            [Appended(number, 0, False) for number in numbers],
            [Cursor(0, 0) for _ in reads],
            {"w": self._seq},
        )

    def finish(self, answer: BaseException | None = None) -> None:
        self._answers.put_nowait(answer)


def append(id: str) -> Append:
    return Append("w", "ann", "Ann", id, "text", 0)


async def turn() -> None:
    """Let everything happen that can."""
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.fixture
def store() -> HeldStore:
    return HeldStore()


@pytest.fixture
def reported() -> list[Batch]:
    return []


@pytest.fixture
async def committer(store: HeldStore, reported: list[Batch]) -> AsyncIterator[Committer[str]]:
    committer: Committer[str] = Committer(cast(Store, store), 4, reported.append)
    committer.start()
    yield committer
    await committer.close()


async def test_what_arrives_during_a_commit_goes_into_the_next(
    committer: Committer[str], store: HeldStore, reported: list[Batch]
) -> None:
    assert committer.append("a", append("1"))
    await turn()
    assert committer.append("b", append("2"))
    assert committer.move("c", MoveCursor("w", "ann", 1))
    assert committer.append("d", append("3"))
    await turn()
    assert store.batches == [(["1"], [])]
    assert reported == []  # nothing before it is on disk
    store.finish()
    await turn()
    assert store.batches == [(["1"], []), (["2", "3"], ["ann"])]
    store.finish()
    await committer.drain()
    first, second = reported
    assert isinstance(first, Done)
    assert isinstance(second, Done)
    assert [(origin, part.id, got.seq) for origin, part, got in first.appends] == [("a", "1", 1)]
    assert [(origin, part.id, got.seq) for origin, part, got in second.appends] == [
        ("b", "2", 2),
        ("d", "3", 3),
    ]
    assert [(origin, part.user) for origin, part, _ in second.cursors] == [("c", "ann")]
    assert second.newest == {"w": 3}


async def test_a_full_queue_refuses_until_it_is_taken(
    committer: Committer[str], store: HeldStore
) -> None:
    committer.append("", append("under way"))
    await turn()
    for number in range(3):
        assert committer.append("", append(str(number)))
    assert committer.move("", MoveCursor("w", "ann", 1))
    assert committer.full
    assert not committer.append("", append("4"))
    assert not committer.move("", MoveCursor("w", "ann", 2))
    store.finish()
    await turn()
    assert not committer.full
    assert committer.append("", append("4"))


async def test_a_refused_batch_is_reported_and_the_next_one_is_tried(
    committer: Committer[str], store: HeldStore, reported: list[Batch]
) -> None:
    committer.append("a", append("1"))
    committer.move("b", MoveCursor("w", "ann", 1))
    full = StoreError(StoreErrorKind.FULL, "no space")
    store.finish(full)
    await committer.drain()
    [failed] = reported
    assert failed == Failed([("a", append("1"))], [("b", MoveCursor("w", "ann", 1))], full)
    committer.append("a", append("1"))
    store.finish()
    await committer.drain()
    assert isinstance(reported[1], Done)


async def test_an_unforeseen_failure_of_the_store_refuses_the_batch_and_stops_nothing(
    committer: Committer[str], store: HeldStore, reported: list[Batch]
) -> None:
    committer.append("a", append("1"))
    store.finish(ZeroDivisionError("a bug"))
    await committer.drain()
    [failed] = reported
    assert isinstance(failed, Failed)
    assert failed.error.kind is StoreErrorKind.INTERNAL
    assert str(failed.error) == "ZeroDivisionError: a bug"
    committer.append("a", append("2"))
    store.finish()
    await committer.drain()
    assert isinstance(reported[1], Done)


async def test_a_failure_to_report_is_noticed_and_stops_nothing(store: HeldStore) -> None:
    noticed: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: noticed.append(context))
    reported: list[Batch] = []

    def report(batch: Batch) -> None:
        reported.append(batch)
        if len(reported) == 1:
            raise ZeroDivisionError("a bug")

    committer: Committer[str] = Committer(cast(Store, store), 10, report)
    committer.start()
    for id in ("1", "2"):
        committer.append("a", append(id))
        store.finish()
        await asyncio.wait_for(committer.drain(), 10)
    assert len(reported) == 2
    assert [context["message"] for context in noticed] == ["a batch could not be reported"]
    await committer.close()


async def test_drain_waits_for_all_that_was_accepted(
    committer: Committer[str], store: HeldStore, reported: list[Batch]
) -> None:
    await asyncio.wait_for(committer.drain(), 10)  # nothing was
    committer.append("a", append("1"))
    await turn()
    committer.append("b", append("2"))
    draining = asyncio.ensure_future(committer.drain())
    store.finish()
    await turn()
    assert len(reported) == 1
    assert not draining.done()
    store.finish()
    await asyncio.wait_for(draining, 10)
    assert len(reported) == 2


async def test_closing_drops_what_was_not_drained(
    committer: Committer[str], store: HeldStore, reported: list[Batch]
) -> None:
    committer.append("a", append("1"))
    await turn()
    await committer.close()
    store.finish()
    await turn()
    assert reported == []


async def test_a_real_store_numbers_batches_in_the_order_in_which_they_came(
    tmp_path: Path,
) -> None:
    store = SqliteStore(tmp_path / "chat.db", keep=10_000, busy_timeout=2.0)
    await store.start()
    await store.open("w")
    reported: list[Batch] = []
    committer: Committer[str] = Committer(store, 10_000, reported.append)
    committer.start()
    for number in range(2000):
        committer.append(str(number), append(str(number)))
        if number % 50 == 0:
            await asyncio.sleep(0)
    await committer.drain()
    await committer.close()
    await store.close()
    assert all(isinstance(batch, Done) for batch in reported)
    numbered = [
        (part.id, got.seq)
        for batch in reported
        if isinstance(batch, Done)
        for _, part, got in batch.appends
    ]
    assert numbered == [(str(number), number + 1) for number in range(2000)]
    assert 2 <= len(reported) < 200  # in groups
