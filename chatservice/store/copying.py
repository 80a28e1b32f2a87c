"""Moves the data of a stopped SQLite store into an empty PostgreSQL one.

Everything happens in one transaction: whatever goes wrong, and also when the process is killed,
PostgreSQL is left as empty as it was, and the copy can be made again. Before it is committed, every
row is read back from both and compared. The source is not changed.

What is copied: workspaces with their numbers, the messages that are kept (and with them the ids by
which a repeated send is known), and everybody's cursor. Each workspace gets a new epoch, so that
clients reload instead of resuming against a history that may not be the one they know.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import asyncpg
import msgspec

from chatservice.store.postgres_errors import describe, store_error
from chatservice.store.postgres_migrate import CONNECT_SECONDS, migrate
from chatservice.store.sqlite_source import CopyError, Row, SqliteSource

LOCK_SECONDS: Final = 3.0
_AT_ONCE: Final = 1000
"""Rows read back at a time."""

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]


class Copied(msgspec.Struct, frozen=True):
    """What was copied. `replaced`: texts in which U+0000 became U+FFFD, since PostgreSQL has none.

    `cursors` are those of everybody who ever entered.
    """

    workspaces: int
    messages: int
    cursors: int
    replaced: int
    seconds: float


class _Table(msgspec.Struct, frozen=True):
    """One table of the copy: its rows in the source, and the same rows in the target."""

    name: str
    columns: tuple[str, ...]
    rows: Callable[[SqliteSource], Iterator[Row]]
    order: str


_TABLES: Final = (
    _Table(
        "workspaces", ("id", "name", "seq", "pruned", "created_ts"), SqliteSource.workspaces, "id"
    ),
    _Table(
        "messages",
        ("workspace_id", "seq", "ts", "sender", "id", "name", "text"),
        SqliteSource.messages,
        "workspace_id, seq",
    ),
    _Table(
        "members",
        ("workspace_id", "member", "name", "read"),
        SqliteSource.members,
        'workspace_id, member COLLATE "C"',
    ),
)

_CONTENTS = """
SELECT (SELECT count(*) FROM workspaces), (SELECT count(*) FROM messages),
  (SELECT count(*) FROM members), (SELECT name FROM workspaces ORDER BY id LIMIT 1)"""

_NEXT_ID = """
SELECT setval(pg_get_serial_sequence('workspaces', 'id'), max(id)) FROM workspaces
HAVING count(*) > 0"""

_GAP = """
SELECT w.name, w.seq, w.seq - w.pruned AS kept, count(m.seq) AS found
FROM workspaces w LEFT JOIN messages m ON m.workspace_id = w.id
GROUP BY w.id HAVING count(m.seq) <> w.seq - w.pruned OR max(m.seq) <> w.seq
ORDER BY w.id LIMIT 1"""


async def check_empty(dsn: str) -> None:
    """See that something can be copied into a database: the service it comes from may run on.

    Raises:
        StoreError: PostgreSQL cannot be reached, or did not do it.
        CopyError: it holds something already.
    """
    where = describe(dsn)
    try:
        connection = await asyncpg.connect(dsn, timeout=CONNECT_SECONDS)
        try:
            await migrate(connection, where=where)
            await _require_empty(connection, where)
        finally:
            await connection.close()
    except CopyError:
        raise
    except Exception as error:
        raise store_error(error, where) from error


async def copy_sqlite(place: Path, dsn: str, *, keep: int) -> Copied:
    """Copy the SQLite store at `place` into the PostgreSQL database, and prove that all is there.

    Args:
        place: the database of a stopped service, or its state directory.
        dsn: the database; its tables are made where there are none.
        keep: how many messages of each workspace are copied, the newest ones.

    Raises:
        StoreError: the source is in use, missing, damaged or of another schema; or PostgreSQL
            cannot be reached, or did not do it.
        CopyError: PostgreSQL holds something already, or what was written is not what was read.
            In any case nothing is left of the copy.
    """
    started = time.monotonic()
    where = describe(dsn)
    with SqliteSource(place, keep=keep) as source:
        try:
            connection = await asyncpg.connect(
                dsn,
                timeout=CONNECT_SECONDS,
                server_settings={
                    "application_name": "chatservice copy",
                    "statement_timeout": "0",
                    "idle_in_transaction_session_timeout": "0",
                    "lock_timeout": f"{LOCK_SECONDS:g}s",
                    "synchronous_commit": "on",
                },
            )
            try:
                await migrate(connection, where=where)
                async with connection.transaction():
                    counts, replaced = await _copy(source, connection, where)
            finally:
                await connection.close()
        except CopyError:
            raise
        except Exception as error:
            raise store_error(error, where) from error
    workspaces, messages, cursors = counts
    return Copied(
        workspaces, messages, cursors, replaced, seconds=round(time.monotonic() - started, 3)
    )


async def _copy(source: SqliteSource, connection: Connection, where: str) -> tuple[list[int], int]:
    """Write, read back, compare; all inside the caller's transaction."""
    await connection.execute("LOCK TABLE workspaces, messages, members IN EXCLUSIVE MODE")
    await _require_empty(connection, where)
    texts = _Texts()
    for table in _TABLES:
        with_epoch = table.name == "workspaces"
        await connection.copy_records_to_table(
            table.name,
            columns=[*table.columns, *["epoch"] * with_epoch],
            records=(
                (*texts.storable(row), *[secrets.token_hex(16)] * with_epoch)
                for row in table.rows(source)
            ),
        )
    await connection.execute(_NEXT_ID)
    await connection.execute("ANALYZE workspaces, messages, members")
    counts = [await _compare(source, connection, table, where) for table in _TABLES]
    await _require_dense(source, connection)
    return counts, texts.replaced


class _Texts:
    """Makes texts such that PostgreSQL can store them."""

    def __init__(self) -> None:
        self.replaced = 0

    def storable(self, row: Row) -> Row:
        """Put U+FFFD where U+0000 is; messages of old releases may hold it."""
        if any(isinstance(value, str) and "\0" in value for value in row):
            self.replaced += 1
            return tuple(
                value.replace("\0", "\N{REPLACEMENT CHARACTER}")
                if isinstance(value, str)
                else value
                for value in row
            )
        return row


async def _require_empty(connection: Connection, where: str) -> None:
    row = await connection.fetchrow(_CONTENTS)
    assert row is not None
    workspaces, messages, members, first = row
    if workspaces or messages or members:
        raise CopyError(
            f"PostgreSQL at {where} is not empty: it holds {workspaces} workspaces (the first is "
            f"{first!r}), {messages} messages and {members} cursors; nothing was copied. "
            "Copy into a new database",
        )


async def _compare(source: SqliteSource, connection: Connection, table: _Table, where: str) -> int:
    """Read a table from both, row by row; give how many rows it has.

    Raises:
        CopyError: they differ.
    """
    texts = _Texts()
    expected = map(texts.storable, table.rows(source))
    count = 0
    async for row in _read_back(connection, table):
        wanted = next(expected, None)
        if wanted != row:
            raise _differs(table, where, wanted, row)
        count += 1
    if (wanted := next(expected, None)) is not None:
        raise _differs(table, where, wanted, None)
    return count


async def _read_back(connection: Connection, table: _Table) -> AsyncIterator[Row]:
    query = f"SELECT {', '.join(table.columns)} FROM {table.name} ORDER BY {table.order}"  # noqa: S608
    async for row in connection.cursor(query, prefetch=_AT_ONCE):
        yield tuple(row)


def _differs(table: _Table, where: str, wanted: Row | None, found: Row | None) -> CopyError:
    """Name the row and what is wrong with it, but show no text of a message."""
    what = f"has {_named(table, found)} where the source has {_named(table, wanted)}"
    if wanted and found and wanted[:2] == found[:2]:
        columns = [
            name
            for name, one, other in zip(table.columns, wanted, found, strict=True)
            if one != other
        ]
        what = f"has other {', '.join(columns)} in {_named(table, found)} than the source"
    return CopyError(f"{table.name}: PostgreSQL at {where} {what}; nothing was copied")


def _named(table: _Table, row: Row | None) -> str:
    if row is None:
        return "nothing more"
    return ", ".join(
        f"{name} {value!r}" for name, value in zip(table.columns[:2], row, strict=False)
    )


async def _require_dense(source: SqliteSource, connection: Connection) -> None:
    """Make sure that each workspace's kept messages lead up to its newest number without a gap.

    Raises:
        CopyError: the source itself lacks some.
    """
    if (row := await connection.fetchrow(_GAP)) is not None:
        raise CopyError(
            f"{source.path}: workspace {row['name']!r} is at number {row['seq']} and should keep "
            f"{row['kept']} messages, but has {row['found']}: put a backup in its place; nothing "
            "was copied",
        )
