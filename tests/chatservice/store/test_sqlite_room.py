"""A SQLite store opened on a disk without a byte left: what is there is read, and all comes back.

What makes that possible is the spare beside the database. Real disks, really full.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from chatservice.store import SchemaVersion, StoreErrorKind
from chatservice.store.migrate import MIGRATIONS, database_schema, release_schema
from chatservice.store.sqlite import SqliteStore
from chatservice.store.sqlite_room import PLENTY, SLICE, SPARE_BYTES, give_back, keep_spare
from tests.chatservice.store.conftest import Messages, SqliteFactory, failure_of
from tests.service_process import REPOSITORY
from tests.small_disks import fill, mounted

WRITER = """
import asyncio, sys
from pathlib import Path
from chatservice.store import Append
from chatservice.store.sqlite import SqliteStore

async def main():
    store = SqliteStore(Path(sys.argv[1]), keep=1000, busy_timeout=5)
    await store.start()
    await store.check()
    await store.open("w")
    batch = [Append("w", "ann", "Ann", f"id-{n}", "x" * 500, n) for n in range(1, 101)]
    await store.commit(batch, [])
    print("stored", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture(params=["tmpfs", "ext4"])
def disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A file system of 24 MB, on which there is plenty of room."""
    with mounted(tmp_path / "disk", 24, request.param) as disk:
        yield disk


def spare(database: Path) -> Path:
    return database.with_name("chat.db-spare")


def taken(path: Path) -> int:
    """Give the bytes of the disk that a file takes."""
    return 512 * path.stat().st_blocks


async def used(store: SqliteStore, messages: Messages) -> None:
    """Start a new store, have 20 messages in it, and close it in order."""
    await store.start()
    await store.check()
    await store.open("w")
    await store.enter("w", "ann", "Ann", upto=0, after=None, newest=5)
    await store.commit(messages.many(20), [])
    await store.close()


async def assert_reads_only(store: SqliteStore, count: int) -> None:
    """See that everything is there, and that it is said why nothing can be added."""
    assert [message.seq for message in await store.since("w", 0, 10**9)] == [*range(1, count + 1)]
    assert (await store.open("w")).seq == count
    assert len((await store.enter("w", "ann", "Ann", upto=count, after=2, newest=5)).messages) == 18
    assert (await failure_of(store.check())).kind is StoreErrorKind.FULL


@pytest.mark.parametrize("left", [0, 20 * 1024])
async def test_a_database_that_was_closed_in_order_is_opened_on_a_full_disk(
    disk: Path, sqlite_store: SqliteFactory, messages: Messages, left: int
) -> None:
    """Neither its log nor the index of that is there any more: both take room to be made.

    What is left may do for a part of them.
    """
    database = disk / "chat.db"
    await used(sqlite_store(database), messages)
    assert {path.name for path in disk.glob("chat*")} == {"chat.db", "chat.db-spare"}
    assert (taken(spare(database)), spare(database).stat().st_size) == (SPARE_BYTES, SPARE_BYTES)
    filler = fill(disk, leave=left)
    store = sqlite_store(database)
    await store.start()
    fill(disk)
    large = [messages.one(text="x" * 4000) for _ in range(100)]
    assert (await failure_of(store.commit(large, []))).kind is StoreErrorKind.FULL
    await assert_reads_only(store, 20)
    assert SPARE_BYTES // 2 <= spare(database).stat().st_size < SPARE_BYTES

    filler.unlink()
    await store.check()
    assert (await store.commit(large, [])).appended[-1].seq == 120
    assert taken(spare(database)) == SPARE_BYTES


async def test_a_database_that_nobody_closed_is_opened_on_a_full_disk(
    disk: Path, sqlite_store: SqliteFactory
) -> None:
    """All that the killed process had committed is still in the log alone."""
    database = disk / "chat.db"
    killed_in_use(database)
    assert database.with_name("chat.db-wal").stat().st_size > 50_000
    filler = fill(disk)
    store = sqlite_store(database)
    await store.start()
    fill(disk)
    assert [message.seq for message in await store.since("w", 0, 10**9)] == [*range(1, 101)]
    await store.close()

    fill(disk)
    again = sqlite_store(database)
    await again.start()
    assert len(await again.since("w", 0, 10**9)) == 100
    filler.unlink()
    await again.check()


async def test_whoever_is_relieved_on_a_full_disk_leaves_the_log_its_room(
    disk: Path, sqlite_store: SqliteFactory, messages: Messages
) -> None:
    """The successor goes on writing where a hungry neighbour would have taken it."""
    database = disk / "chat.db"
    log = database.with_name("chat.db-wal")
    grown = sqlite_store(database, keep=100)  # the database has all the room that it will need
    await grown.start()
    await grown.open("w")
    for _ in range(10):
        await grown.commit(messages.many(100), [])
    await grown.close()
    before = sqlite_store(database, keep=100)
    await before.start()
    await before.open("w")
    for _ in range(10):
        await before.commit(messages.many(100), [])
    size = log.stat().st_size
    filler = fill(disk)
    after = sqlite_store(database, keep=100)
    await after.start()
    await before.close()
    assert (log.stat().st_size, fill(disk)) == (size, filler)
    for _ in range(3):
        await after.commit(messages.many(20), [])

    filler.unlink()
    last = sqlite_store(database)
    await last.start()
    await after.close()
    assert log.stat().st_size == 0
    assert (await last.open("w")).seq == 2060


async def test_the_schema_of_a_database_that_nobody_closed_is_told_on_a_full_disk(
    disk: Path,
) -> None:
    """As `opskit rollback` asks for it before anything starts."""
    database = disk / "chat.db"
    killed_in_use(database)
    database.with_name("chat.db-shm").unlink()
    fill(disk)
    assert database_schema(database) == release_schema()


def killed_in_use(database: Path) -> None:
    """Have a process store 100 messages, and kill it."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(database)], stdout=subprocess.PIPE, cwd=REPOSITORY
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"stored\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()


async def test_the_spare_does_for_several_starts_and_then_the_store_waits_for_room(
    disk: Path, sqlite_store: SqliteFactory, messages: Messages
) -> None:
    """The worst case: all that a start gave back is gone again by the next."""
    database = disk / "chat.db"
    await used(sqlite_store(database), messages)
    filler = fill(disk)
    starts = 0
    while spare(database).stat().st_size:
        store = sqlite_store(database)
        await store.start()
        assert len(await store.since("w", 0, 10**9)) == 20
        await store.close()
        fill(disk)
        starts += 1
        assert starts <= SPARE_BYTES // SLICE
    assert starts >= 4
    store = sqlite_store(database)
    refused = await failure_of(store.start())
    assert (refused.kind, f"df -h {disk}" in str(refused)) == (StoreErrorKind.FULL, True)
    filler.unlink()
    await store.start()
    await store.check()
    assert taken(spare(database)) == SPARE_BYTES


async def test_a_migration_is_refused_on_a_full_disk_and_takes_no_spare(
    disk: Path, tmp_path: Path, messages: Messages
) -> None:
    """It says how much room is enough; with that it is made."""
    database = disk / "chat.db"
    store = SqliteStore(database, keep=1000, busy_timeout=5)
    await used(store, messages)
    newer = tmp_path / "newer"
    newer.mkdir()
    for file in MIGRATIONS.glob("*.sql"):
        (newer / file.name).write_text(file.read_text())
    version = release_schema().version + 1
    name = f"{version:03d}_copy"
    (newer / f"{name}.sql").write_text(
        "-- readable-from: 1\nCREATE TABLE copied AS SELECT * FROM messages;\n"
        "CREATE TABLE filled (x BLOB); INSERT INTO filled VALUES (zeroblob(1000000));\n"
    )
    filler = fill(disk)
    store = SqliteStore(database, keep=1000, busy_timeout=5, migrations=newer)
    refused = await failure_of(store.start())
    assert refused.kind is StoreErrorKind.FULL
    assert f"migration {name}: " in str(refused)
    assert f"df -h {disk}" in str(refused)
    assert str(refused).endswith("; 2 MB there are enough for it")
    assert spare(database).stat().st_size >= SPARE_BYTES - 2 * SLICE
    older = SqliteStore(database, keep=1000, busy_timeout=5)
    await older.start()
    fill(disk)
    large = [messages.one(text="x" * 4000) for _ in range(100)]
    assert (await failure_of(older.commit(large, []))).kind is StoreErrorKind.FULL
    await assert_reads_only(older, 20)
    filler.unlink()
    await store.start()
    assert database_schema(database) == SchemaVersion(version, 1)
    await asyncio.gather(store.close(), older.close())


def test_the_spare_is_taken_where_there_is_plenty_only(disk: Path) -> None:
    database = disk / "chat.db"
    with (disk / "ballast").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, os.statvfs(disk).f_bavail * 4096 - PLENTY + 4096)
    keep_spare(database)
    assert (spare(database).exists(), give_back(database)) == (False, False)
    (disk / "ballast").unlink()
    keep_spare(database)
    assert give_back(database)
    assert taken(spare(database)) == SPARE_BYTES - SLICE
    os.truncate(spare(database), 0)
    os.truncate(spare(database), SPARE_BYTES)  # as a copy of a backup has it: all hole
    keep_spare(database)
    assert taken(spare(database)) == SPARE_BYTES
    assert spare(database).stat().st_mode & 0o777 == 0o600
