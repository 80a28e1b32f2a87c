"""The database file is exchanged, moved or removed while the store has it open."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest

from chatservice.store import Append, StoreErrorKind
from chatservice.store.sqlite import SqliteStore
from chatservice.store.sqlite_database import Session
from tests.chatservice.store.conftest import Messages, SqliteFactory, failure_of


def back_up(database: Path, copy: Path) -> None:
    """Copy a database that is in use."""
    with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)


async def ids(store: SqliteStore) -> list[str]:
    return [message.id for message in await store.since("w", 0, 10**9)]


async def with_backup(
    store: SqliteStore, database: Path, messages: Messages
) -> tuple[Path, list[Append], list[Append]]:
    """Write five messages, back up, write three more."""
    await store.start()
    await store.open("w")
    kept, lost = messages.many(5), messages.many(3)
    await store.commit(kept, [])
    copy = database.with_name("backup.db")
    back_up(database, copy)
    await store.commit(lost, [])
    return copy, kept, lost


@pytest.mark.parametrize("notice", ["check", "commit", "read"])
async def test_a_restored_backup_is_picked_up_with_new_epochs(
    database: Path,
    sqlite_store: SqliteFactory,
    messages: Messages,
    caplog: pytest.LogCaptureFixture,
    notice: str,
) -> None:
    """Whichever call comes first; the log of the former database is not applied to it."""
    store = sqlite_store()
    copy, kept, lost = await with_backup(store, database, messages)
    before = await store.open("w")
    copy.rename(database)
    with caplog.at_level(logging.WARNING):
        if notice == "check":
            await store.check()
        elif notice == "commit":
            stale = await failure_of(store.commit([messages.one()], []))
            assert stale.kind is StoreErrorKind.STALE
            assert "'w'" in str(stale)
        else:
            assert await ids(store) == [append.id for append in kept]
    assert f"{database} was replaced by another file" in caplog.text

    entering = store.enter("w", "ann", "Ann", upto=8, after=None, newest=5)
    assert (await failure_of(entering)).kind is StoreErrorKind.STALE
    after = await store.open("w")
    assert (after.seq, after.epoch != before.epoch) == (5, True)
    committed = await store.commit(lost, [])  # sent again by their clients
    assert [appended.seq for appended in committed.appended] == [6, 7, 8]
    assert not any(appended.repeated for appended in committed.appended)
    await store.check()
    await store.close()
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("SELECT epoch FROM workspaces").fetchall() == [(after.epoch,)]
    assert {file.name for file in database.parent.iterdir()} == {"chat.db", "chat.db-spare"}


async def test_the_former_database_is_complete_wherever_it_went(
    database: Path, sqlite_store: SqliteFactory, messages: Messages, tmp_path: Path
) -> None:
    """Moved aside without its log, and replaced: what it had acknowledged is in it."""
    store = sqlite_store()
    copy, kept, lost = await with_backup(store, database, messages)
    former = tmp_path / "former.db"
    database.rename(former)
    copy.rename(database)
    await store.check()
    await store.close()
    with closing(sqlite3.connect(former)) as connection:
        found = connection.execute("SELECT id FROM messages ORDER BY seq").fetchall()
    assert found == [(append.id,) for append in (*kept, *lost)]


async def test_a_log_that_cannot_be_emptied_is_kept_under_another_name(
    database: Path,
    sqlite_store: SqliteFactory,
    messages: Messages,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Somebody reads the former database, so that its log cannot be copied into it."""
    store = sqlite_store(busy_timeout=0.1)
    copy, kept, _ = await with_backup(store, database, messages)
    with closing(sqlite3.connect(database, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM messages").fetchone()
        copy.rename(database)
        with caplog.at_level(logging.WARNING):
            await store.check()
        assert await ids(store) == [append.id for append in kept]
    [aside] = database.parent.glob("chat.db-wal.replaced-*")
    assert aside.stat().st_size > 0
    assert str(aside) in caplog.text


async def test_a_backup_with_an_older_schema_is_migrated(
    database: Path, sqlite_store: SqliteFactory, messages: Messages
) -> None:
    """One from before the first migration, as an empty file: it is a database like any other."""
    store = sqlite_store()
    await with_backup(store, database, messages)
    empty = database.with_name("empty.db")
    empty.touch()
    empty.rename(database)
    await store.check()
    assert (await failure_of(store.commit([messages.one()], []))).kind is StoreErrorKind.STALE
    assert (await store.open("w")).seq == 0
    assert (await store.commit([messages.one()], [])).appended[0].seq == 1


async def test_a_file_put_in_its_place_that_is_no_database(
    database: Path, sqlite_store: SqliteFactory, messages: Messages
) -> None:
    store = sqlite_store()
    copy, kept, _ = await with_backup(store, database, messages)
    noise = database.with_name("noise")
    noise.write_bytes(b"no database" * 1000)
    noise.rename(database)
    assert (await failure_of(store.check())).kind is StoreErrorKind.CORRUPT
    assert (await failure_of(store.open("w"))).kind is StoreErrorKind.CORRUPT
    copy.rename(database)
    await store.check()
    assert (await store.open("w")).seq == 5
    assert await ids(store) == [append.id for append in kept]


async def test_a_database_that_is_gone_takes_no_writes_and_loses_nothing(
    database: Path, sqlite_store: SqliteFactory, messages: Messages
) -> None:
    """It is not begun anew; what the store has open can still be read, and be put back."""
    store = sqlite_store()
    _, kept, more = await with_backup(store, database, messages)
    acknowledged = [append.id for append in (*kept, *more)]
    away = database.with_name("away.db")
    database.rename(away)
    gone = await failure_of(store.commit(messages.many(2), []))
    assert gone.kind is StoreErrorKind.IO
    assert str(gone).startswith(f"{database}: the database was deleted or moved away")
    assert (await failure_of(store.check())).kind is StoreErrorKind.IO
    assert await ids(store) == acknowledged
    assert not database.exists()

    away.rename(database)
    await store.check()
    again = messages.many(2)
    assert [a.seq for a in (await store.commit(again, [])).appended] == [9, 10]
    await store.close()
    store = sqlite_store()
    await store.start()
    assert await ids(store) == acknowledged + [append.id for append in again]


async def test_nothing_is_acknowledged_that_went_into_a_replaced_file(
    database: Path, sqlite_store: SqliteFactory, messages: Messages
) -> None:
    """The file is replaced in the middle of a commit, while it waits for a lock."""
    store = sqlite_store()
    copy, kept, _ = await with_backup(store, database, messages)
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        commit = asyncio.ensure_future(store.commit([messages.one()], []))
        async with asyncio.timeout(20):
            await asyncio.sleep(0)
            while not store._writer._queue.empty():
                await asyncio.sleep(0)
        copy.rename(database)
        other.execute("ROLLBACK")
    refused = await failure_of(commit)
    assert refused.kind in (StoreErrorKind.IO, StoreErrorKind.STALE)
    await store.check()
    assert await ids(store) == [append.id for append in kept]


async def test_who_still_reads_the_former_database_goes_on_undisturbed(
    database: Path, sqlite_store: SqliteFactory, messages: Messages
) -> None:
    """The writer has picked up the new file while the reader is in a transaction on the old.

    Were the new database given the old one's index of the log, which SQLite then cuts short,
    the reader would be killed by SIGBUS; it takes a log of more than one page of index.
    """
    store = sqlite_store(busy_timeout=0.1)
    copy, kept, more = await with_backup(store, database, messages)
    reading, replaced = threading.Event(), threading.Event()

    def read(session: Session) -> list[int]:
        def count() -> int:
            (found,) = session.connection.execute("SELECT count(*) FROM messages").fetchone()
            return int(found)

        first = count()
        reading.set()
        assert replaced.wait(20)
        session.connection.execute("PRAGMA shrink_memory")  # from the files, not from memory
        return [first, count()]

    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("BEGIN")
        other.execute("SELECT count(*) FROM messages").fetchone()  # keeps the log from being copied
        for _ in range(10):
            more += (batch := [messages.one(text="x" * 8000) for _ in range(500)])
            await store.commit(batch, [])
        assert database.with_name("chat.db-shm").stat().st_size > 32768
        counting = store._reader.submit(read)
        assert await asyncio.to_thread(reading.wait, 20)
        copy.rename(database)
        commit = store.commit([messages.one()], [])
        assert (await failure_of(commit)).kind is StoreErrorKind.STALE
        replaced.set()
        first, second = await counting
    assert first == second
    assert await ids(store) == [append.id for append in kept]
