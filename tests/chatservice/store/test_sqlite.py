"""The SQLite store in good health: threads, transactions, and what is on disk."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
import struct
import threading
from contextlib import closing
from pathlib import Path

import pytest

from chatservice.store import Append, MoveCursor, StoreError, StoreErrorKind
from tests.chatservice.store.conftest import Messages, SqliteFactory


def query(database: Path, sql: str) -> list[tuple[object, ...]]:
    """Look into the database from outside."""
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute(sql).fetchall()


def logged_commits(database: Path) -> int:
    """Count the transactions in the write-ahead log: frames that carry a database size.

    https://www.sqlite.org/fileformat2.html#the_write_ahead_log
    """
    log = database.with_name("chat.db-wal").read_bytes()
    if not log:
        return 0
    page_size, salt = struct.unpack(">I4x8s", log[8:24])
    frames = [log[start : start + 24] for start in range(32, len(log), 24 + page_size)]
    return sum(1 for frame in frames if frame[8:16] == salt and frame[4:8] != bytes(4))


async def test_the_files_belong_to_the_owner_alone(
    database: Path, sqlite_store: SqliteFactory
) -> None:
    store = sqlite_store()
    await store.start()
    await store.open("w")
    modes = {file.name: file.stat().st_mode & 0o777 for file in database.parent.iterdir()}
    assert modes == {"chat.db": 0o600, "chat.db-wal": 0o600, "chat.db-shm": 0o600}


async def test_every_commit_is_synced(database: Path, sqlite_store: SqliteFactory) -> None:
    """`synchronous` is FULL (2) on the connection that writes: only then is a commit synced."""
    store = sqlite_store()
    await store.start()
    read = await store._writer.submit(
        lambda session: session.connection.execute("PRAGMA synchronous").fetchone()
    )
    assert read == (2,)


async def test_closing_leaves_one_file_and_no_thread(
    database: Path, sqlite_store: SqliteFactory, messages: Messages
) -> None:
    store = sqlite_store()
    await store.start()
    await store.open("w")
    await store.commit(messages.many(100), [])
    assert {"store-writer", "store-reader"} <= {thread.name for thread in threading.enumerate()}
    await asyncio.gather(store.close(), store.close())
    assert not {thread for thread in threading.enumerate() if thread.name.startswith("store-")}
    assert [file.name for file in database.parent.iterdir()] == ["chat.db"]


async def test_closing_empties_the_log_beside_another_process(
    database: Path, sqlite_store: SqliteFactory, messages: Messages
) -> None:
    """As when one process takes over from another: the database is complete without its log."""
    store, successor = sqlite_store(), sqlite_store()
    await store.start()
    await successor.start()
    await store.open("w")
    await store.commit(messages.many(100), [])
    await store.close()
    assert database.with_name("chat.db-wal").stat().st_size == 0
    assert len(await successor.since("w", 0, 100)) == 100


async def test_two_stores_on_one_database_see_each_other(
    sqlite_store: SqliteFactory, messages: Messages
) -> None:
    """Nothing is remembered between transactions: the numbers go on where the other left off."""
    one, other = sqlite_store(), sqlite_store()
    await one.start()
    await other.start()
    assert await one.open("w") == await other.open("w")
    sent = messages.many(6)
    for index, append in enumerate(sent):
        committed = await (one, other)[index % 2].commit([append], [])
        assert committed.appended[0].seq == index + 1
    assert (await one.commit([sent[1]], [])).appended[0].repeated
    assert await one.since("w", 0, 9) == await other.since("w", 0, 9)


async def test_thousands_who_enter_at_once_cost_few_transactions(
    database: Path, sqlite_store: SqliteFactory
) -> None:
    store = sqlite_store()
    await store.start()
    await store.open("w")
    before = store.transactions, logged_commits(database)
    await asyncio.gather(
        *(
            store.enter("w", f"user-{index:04}", "Name", upto=0, after=None, newest=50)
            for index in range(5000)
        )
    )
    after = store.transactions, logged_commits(database)
    assert len(await store.members("w")) == 5000
    assert after[0] - before[0] == after[1] - before[1]
    assert after[1] - before[1] < 250


async def test_thousands_who_open_new_workspaces_cost_few_transactions(
    database: Path, sqlite_store: SqliteFactory
) -> None:
    store = sqlite_store()
    await store.start()
    before = logged_commits(database)
    await asyncio.gather(*(store.open(f"room-{index}") for index in range(2000)))
    assert query(database, "SELECT count(*) FROM workspaces") == [(2000,)]
    assert logged_commits(database) - before < 100


async def test_who_is_known_enters_without_a_write(sqlite_store: SqliteFactory) -> None:
    store = sqlite_store()
    await store.start()
    await store.open("w")
    await store.enter("w", "ann", "Ann", upto=0, after=None, newest=50)
    before = store.transactions
    await store.enter("w", "ann", "Ann", upto=0, after=None, newest=50)
    await store.open("w")
    assert store.transactions == before
    await store.enter("w", "ann", "Anne", upto=0, after=None, newest=50)
    assert store.transactions == before + 1


@pytest.mark.parametrize(
    ("bad", "kind"),
    [
        (Append("w", "ann", "Ann", "bad", "\ud800", 1), StoreErrorKind.INTERNAL),
        (Append("w", "ann", "Ann", "bad", "text", 2**63), StoreErrorKind.INTERNAL),
        (Append("nowhere", "ann", "Ann", "bad", "text", 1), StoreErrorKind.STALE),
    ],
    ids=["no Unicode", "no 64-bit number", "no such workspace"],
)
async def test_what_fails_for_its_own_reason_fails_alone(
    database: Path,
    sqlite_store: SqliteFactory,
    messages: Messages,
    bad: Append,
    kind: StoreErrorKind,
) -> None:
    """Of calls that end up in one transaction; they gather while the database is locked."""
    store = sqlite_store()
    await store.start()
    await store.open("w")
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        calls = [
            asyncio.ensure_future(call)
            for call in (
                store.commit(messages.many(3), []),
                store.commit([messages.one(), bad], [MoveCursor("w", "ann", 1)]),
                store.commit(messages.many(2), []),
            )
        ]
        opened = asyncio.ensure_future(store.open("new"))
        await asyncio.sleep(0)
        other.execute("COMMIT")
    with pytest.raises(StoreError) as caught:
        await calls[1]
    assert caught.value.kind is kind
    assert [appended.seq for appended in (await calls[0]).appended] == [1, 2, 3]
    assert [appended.seq for appended in (await calls[2]).appended] == [4, 5]
    assert (await opened).seq == 0
    assert [message.seq for message in await store.since("w", 0, 99)] == [1, 2, 3, 4, 5]
    assert await store.members("w") == []


@pytest.mark.parametrize("text", ["\0", "a\0b", "\0\0"])
async def test_zero_characters_come_back_as_they_were(
    sqlite_store: SqliteFactory, text: str
) -> None:
    """JSON, in which rows come back, escapes them; C would end the text there."""
    store = sqlite_store()
    await store.start()
    await store.open("w")
    append = Append("w", f"u{text}", f"n{text}", f"i{text}", text, 5)
    await store.commit([append], [MoveCursor("w", append.user, 1)])
    assert (await store.commit([append], [])).appended[0].repeated
    [found] = await store.since("w", 0, 1)
    assert (found.user, found.name, found.id, found.text) == (
        append.user,
        append.name,
        append.id,
        text,
    )
    [member] = await store.members("w")
    assert member.user == append.user


async def test_pruning_is_now_and_then_and_never_far_behind(
    database: Path, sqlite_store: SqliteFactory, messages: Messages
) -> None:
    store = sqlite_store(keep=512)
    await store.start()
    workspaces = [f"room-{index}" for index in range(8)]
    for workspace in workspaces:
        await store.open(workspace)
    oldest: list[list[tuple[object, ...]]] = []
    for _ in range(180):
        batch = [message for workspace in workspaces for message in messages.many(5, workspace)]
        await store.commit(batch, [])
        rows = query(
            database,
            "SELECT min(seq), count(*), max(seq) FROM messages GROUP BY workspace_id",
        )
        assert len(rows) == 8
        for low, count, high in rows:
            assert isinstance(count, int)
            assert isinstance(low, int)
            assert isinstance(high, int)
            assert count == high - low + 1
            assert min(512, high) <= count <= 512 + 64
        oldest.append(rows)
    pruned = [
        sum(a[0] != b[0] for a, b in zip(before, after, strict=True))
        for before, after in itertools.pairwise(oldest)
    ]
    # 900 messages each: 388 pruned, 64 at a time, and not in all workspaces at the same time.
    assert 8 * 5 <= sum(pruned) <= 8 * 7
    assert max(pruned) <= 2


async def test_a_lower_limit_prunes_step_by_step(
    database: Path, sqlite_store: SqliteFactory, messages: Messages
) -> None:
    """What used to be kept is deleted over several commits, none of which takes long."""
    store = sqlite_store(keep=20_000)
    await store.start()
    await store.open("w")
    await store.commit(messages.many(15_000), [])
    await store.close()
    store = sqlite_store(keep=100)
    await store.start()
    counts = []
    for _ in range(6):
        await store.commit([messages.one()], [])
        counts += query(database, "SELECT count(*) FROM messages")
    assert counts == [(10_905,), (6810,), (2715,), (100,), (101,), (102,)]


async def test_forgetting_leaves_nothing_on_disk(
    database: Path, sqlite_store: SqliteFactory, messages: Messages
) -> None:
    store = sqlite_store()
    await store.start()
    for workspace in ("w", "v"):
        await store.open(workspace)
        await store.enter(workspace, "ann", "Ann", upto=0, after=None, newest=0)
    await store.commit([*messages.many(5), *messages.many(2, "v")], [])
    await store.forget("w")
    assert query(database, "SELECT name FROM workspaces") == [("v",)]
    for table, rows in (("messages", 2), ("members", 1)):
        assert query(database, f"SELECT count(*) FROM {table}") == [(rows,)]


async def test_the_log_stays_bounded(
    database: Path, sqlite_store: SqliteFactory, messages: Messages
) -> None:
    """100 MB go through it; it is emptied into the database at 16 MiB."""
    store = sqlite_store()
    await store.start()
    await store.open("w")
    log = database.with_name("chat.db-wal")
    for _ in range(50):
        await store.commit([messages.one(text="x" * 4000) for _ in range(250)], [])
        assert log.stat().st_size < 24 * 2**20
    assert store.transactions >= 50
