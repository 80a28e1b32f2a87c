"""The SQLite store in trouble: real faults, told apart, and recovered from without a restart."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import resource
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from chatservice.store import Append, MoveCursor, StoreError, StoreErrorKind
from chatservice.store.sqlite import SqliteStore
from tests.chatservice.store.conftest import Messages, SqliteFactory, failure_of
from tests.small_disks import mounted

PAGE = 4096


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB."""
    with mounted(tmp_path / "disk", 2) as disk:
        yield disk


async def write_until_it_fails(
    store: SqliteStore, messages: Messages
) -> tuple[list[Append], StoreError]:
    """Commit batches of 20; give what was acknowledged, and how it ended."""
    acknowledged: list[Append] = []
    while len(acknowledged) < 20_000:
        batch = [messages.one(text="x" * 500) for _ in range(20)]
        try:
            await store.commit(batch, [])
        except StoreError as error:
            return acknowledged, error
        acknowledged += batch
    raise AssertionError("it never failed")


async def assert_holds(store: SqliteStore, acknowledged: list[Append]) -> None:
    """All that was acknowledged, and nothing else, numbered without a gap."""
    found = await store.since("w", 0, 10**9)
    assert [message.id for message in found] == [append.id for append in acknowledged]
    assert [message.seq for message in found] == list(range(1, len(acknowledged) + 1))


# --- the disk is full -----------------------------------------------------------------------


async def test_a_full_disk_refuses_writes_until_there_is_space_again(
    small_disk: Path, sqlite_store: SqliteFactory, messages: Messages
) -> None:
    database = small_disk / "chat.db"
    store = sqlite_store(database, keep=100_000)
    await store.start()
    await store.open("w")
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(600_000))
    acknowledged, refused = await write_until_it_fails(store, messages)
    assert refused.kind is StoreErrorKind.FULL
    assert str(refused).startswith(f"{database}: there is no space left for the database")
    assert f"df -h {small_disk}" in str(refused)
    assert len(acknowledged) >= 100

    for _ in range(3):
        large = [messages.one(text="y" * 4000) for _ in range(50)]
        assert (await failure_of(store.commit(large, []))).kind is StoreErrorKind.FULL
        await assert_holds(store, acknowledged)
        # A heartbeat may still find room; that is not enough for the store to be called well.
        assert (await failure_of(store.check())).kind is StoreErrorKind.FULL

    ballast.unlink()
    await store.check()
    again = messages.many(3)
    committed = await store.commit(again, [])
    assert [a.seq - len(acknowledged) for a in committed.appended] == [1, 2, 3]
    await assert_holds(store, acknowledged + again)
    await store.close()


async def test_a_disk_that_is_full_at_the_start(
    small_disk: Path, sqlite_store: SqliteFactory
) -> None:
    store = sqlite_store(small_disk / "chat.db")
    ballast = small_disk / "ballast"
    with contextlib.suppress(OSError):
        ballast.write_bytes(bytes(3_000_000))
    assert (await failure_of(store.start())).kind is StoreErrorKind.FULL
    ballast.unlink()
    await store.start()
    await store.check()


async def test_a_disk_that_is_full_when_an_existing_database_is_opened(
    small_disk: Path, sqlite_store: SqliteFactory
) -> None:
    """What fails then is the index of the log, which SQLite does not call a full disk."""
    before = sqlite_store(small_disk / "chat.db")
    await before.start()
    await before.close()
    ballast = small_disk / "ballast"
    with contextlib.suppress(OSError):
        ballast.write_bytes(bytes(3_000_000))
    store = sqlite_store(small_disk / "chat.db")
    refused = await failure_of(store.start())
    assert refused.kind is StoreErrorKind.FULL
    assert "SQLITE_IOERR" in str(refused)
    ballast.unlink()
    await store.start()
    await store.check()


async def test_a_limit_on_the_size_of_files(
    database: Path, sqlite_store: SqliteFactory, messages: Messages
) -> None:
    """The write of a commit fails half-way, for a reason that SQLite calls an I/O error."""
    store = sqlite_store(keep=100_000)
    await store.start()
    await store.open("w")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
    try:
        acknowledged, refused = await write_until_it_fails(store, messages)
        assert refused.kind is StoreErrorKind.IO
        assert acknowledged
        await assert_holds(store, acknowledged)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    await store.check()
    again = messages.many(3)
    await store.commit(again, [])
    await assert_holds(store, acknowledged + again)


# --- another process holds it ---------------------------------------------------------------


@contextlib.contextmanager
def another_process(database: Path, *statements: str) -> Iterator[None]:
    """Another process that has executed this, and goes on holding what it took hold of."""
    program = (
        "import sqlite3, sys\n"
        "connection = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "for statement in sys.argv[2:]:\n"
        "    connection.execute(statement).fetchall()\n"
        "print('ready', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(database), *statements],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "ready\n"
        try:
            yield
        finally:
            process.stdin.close()


async def test_a_locked_database_refuses_writes_and_still_reads(
    database: Path, sqlite_store: SqliteFactory, messages: Messages
) -> None:
    store = sqlite_store(busy_timeout=0.2)
    await store.start()
    await store.open("w")
    acknowledged = messages.many(3)
    await store.commit(acknowledged, [])
    await store.enter("w", "ann", "Ann", upto=3, after=3, newest=0)
    with another_process(database, "BEGIN EXCLUSIVE"):
        refused = await failure_of(store.commit(messages.many(2), [MoveCursor("w", "ann", 1)]))
        assert refused.kind is StoreErrorKind.LOCKED
        assert f"fuser -v {database}" in str(refused)
        assert (await failure_of(store.check())).kind is StoreErrorKind.LOCKED
        await assert_holds(store, acknowledged)
        known = await store.enter("w", "ann", "Ann", upto=3, after=3, newest=0)
        assert known.resumed
    await store.check()
    again = messages.many(2)
    await store.commit(again, [])
    await assert_holds(store, acknowledged + again)


async def test_reads_do_not_wait_for_a_write(
    database: Path, sqlite_store: SqliteFactory, messages: Messages
) -> None:
    """While the writer waits for a lock, up to a minute, everything can be read."""
    store = sqlite_store(busy_timeout=60)
    await store.start()
    await store.open("w")
    acknowledged = messages.many(3)
    await store.commit(acknowledged, [])
    with another_process(database, "BEGIN IMMEDIATE"):
        waiting = asyncio.ensure_future(store.commit(messages.many(1), []))
        for _ in range(100):
            await assert_holds(store, acknowledged)
        assert not waiting.done()
    assert (await waiting).appended[0].seq == 4


async def test_a_database_that_is_locked_at_the_start(
    database: Path, sqlite_store: SqliteFactory
) -> None:
    first = sqlite_store()
    await first.start()
    await first.close()
    store = sqlite_store(busy_timeout=0.2)
    exclusive = "PRAGMA locking_mode = EXCLUSIVE", "BEGIN EXCLUSIVE", "DELETE FROM heartbeat"
    with another_process(database, *exclusive):
        assert (await failure_of(store.start())).kind is StoreErrorKind.LOCKED
    await store.start()
    await store.check()


# --- the file is damaged --------------------------------------------------------------------


async def test_damage_is_noticed_and_a_repair_is_picked_up(
    database: Path, sqlite_store: SqliteFactory, messages: Messages
) -> None:
    store = sqlite_store()
    await store.start()
    for workspace in ("w", "v"):
        await store.open(workspace)
    acknowledged = messages.many(900)
    await store.commit(acknowledged, [])
    await store.close()
    store = sqlite_store()
    await store.start()
    await store.open("w")

    good = database.read_bytes()
    noise = random.Random(1).randbytes(len(good) - 8 * PAGE)
    with database.open("r+b") as file:
        file.seek(8 * PAGE)  # leaves the schema and the small tables
        file.write(noise)
    damaged = await failure_of(store.history("w", 900, 900))
    assert damaged.kind is StoreErrorKind.CORRUPT
    assert str(database) in str(damaged)
    assert f"sqlite3 {database} .recover" in str(damaged)
    assert (await failure_of(store.commit(messages.many(50), []))).kind is StoreErrorKind.CORRUPT
    for _ in range(2):
        # A heartbeat would succeed: the check reads the whole file before it says so.
        assert (await failure_of(store.check())).kind is StoreErrorKind.CORRUPT

    with database.open("r+b") as file:
        file.write(good)
    await store.check()
    again = messages.many(3)
    await store.commit(again, [])
    await assert_holds(store, acknowledged + again)


async def test_damage_in_one_place_leaves_the_rest_of_use(
    database: Path, sqlite_store: SqliteFactory, messages: Messages
) -> None:
    """Reads of a damaged workspace fail; others', in the same moment, do not."""
    store = sqlite_store()
    await store.start()
    for workspace in ("w", "v"):
        await store.open(workspace)
        await store.commit([messages.one(workspace, text="x" * 2000) for _ in range(400)], [])
    await store.close()
    with closing(sqlite3.connect(database)) as connection:
        pages = connection.execute(
            "SELECT pageno FROM dbstat WHERE name = 'messages' AND pagetype = 'leaf'"
        ).fetchall()
    [victim] = pages[len(pages) // 4]  # of the first half of the table: workspace w
    with database.open("r+b") as file:
        file.seek((victim - 1) * PAGE)
        file.write(b"\xff" * PAGE)
    store = sqlite_store()
    await store.start()
    results = await asyncio.gather(
        *(store.since(workspace, 0, 400) for workspace in "wvwvvw"), return_exceptions=True
    )
    for workspace, result in zip("wvwvvw", results, strict=True):
        if workspace == "w":
            assert isinstance(result, StoreError)
            assert result.kind is StoreErrorKind.CORRUPT
        else:
            assert isinstance(result, list)
            assert len(result) == 400


@pytest.mark.parametrize(
    "content",
    [b"not a database" * 999, b"SQLite format 3\0" + b"\xaa" * 9000],
    ids=["text", "noise"],
)
async def test_garbage_at_the_start(
    database: Path, sqlite_store: SqliteFactory, content: bytes
) -> None:
    """It is never overwritten; a good file in its place is picked up."""
    database.write_bytes(content)
    store = sqlite_store()
    refused = await failure_of(store.start())
    assert refused.kind is StoreErrorKind.CORRUPT
    assert database.read_bytes() == content
    database.unlink()
    await store.start()
    await store.check()


async def test_a_file_cut_short_at_the_start(
    database: Path, sqlite_store: SqliteFactory, messages: Messages
) -> None:
    store = sqlite_store()
    await store.start()
    await store.open("w")
    acknowledged = messages.many(500)
    await store.commit(acknowledged, [])
    await store.close()
    good = database.read_bytes()
    database.write_bytes(good[: len(good) // 2])
    store = sqlite_store()
    with contextlib.suppress(StoreError):
        await store.start()  # the header may still be well
    with contextlib.suppress(StoreError):
        await store.since("w", 0, 500)
    refused = await failure_of(store.check())
    assert refused.kind in (StoreErrorKind.CORRUPT, StoreErrorKind.CLOSED)
    database.write_bytes(good)
    await store.start()
    await store.check()
    await assert_holds(store, acknowledged)


# --- it cannot be opened --------------------------------------------------------------------


async def test_a_directory_that_is_missing(tmp_path: Path, sqlite_store: SqliteFactory) -> None:
    database = tmp_path / "state" / "chat.db"
    store = sqlite_store(database)
    refused = await failure_of(store.start())
    assert refused.kind is StoreErrorKind.IO
    assert str(refused).startswith(f"{database}: ")
    assert "No such file or directory" in str(refused)
    database.parent.mkdir()
    await store.start()
    await store.check()


async def test_a_directory_that_is_a_file(tmp_path: Path, sqlite_store: SqliteFactory) -> None:
    (tmp_path / "state").touch()
    assert (await failure_of(sqlite_store(tmp_path / "state" / "chat.db").start())).kind is (
        StoreErrorKind.IO
    )


async def test_a_disk_that_is_read_only(small_disk: Path, sqlite_store: SqliteFactory) -> None:
    """The state of a disk after the kernel met errors on it."""
    before = sqlite_store(small_disk / "chat.db")
    await before.start()
    await before.open("w")
    await before.close()
    store = sqlite_store(small_disk / "chat.db")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert (await failure_of(store.start())).kind is StoreErrorKind.IO
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    await store.start()
    await store.check()
    await store.close()


async def test_a_directory_without_permission(tmp_path: Path, sqlite_store: SqliteFactory) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o500)
    store = sqlite_store(state / "chat.db")
    root = os.geteuid() == 0
    if root:
        os.seteuid(65_534)  # nobody, who may not even look; root may write anywhere
    try:
        refused = await failure_of(store.start())
    finally:
        if root:
            os.seteuid(0)
    assert refused.kind is StoreErrorKind.IO
    assert "Permission denied" in str(refused)
    assert f"permissions of {state}" in str(refused)
    state.chmod(0o700)
    await store.start()
    await store.check()
