"""Versioned migrations of the PostgreSQL schema, numbered like those of SQLite.

All of them run in one transaction under an advisory lock, so that of many nodes that start at
once one migrates and the others wait for it.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import asyncpg

from chatservice.store import SchemaVersion, StoreError, StoreErrorKind
from chatservice.store.migrate import load_migrations
from chatservice.store.postgres_errors import describe, store_error

MIGRATIONS: Final = Path(__file__).parent / "migrations" / "postgres"

CONNECT_SECONDS: Final = 3.0

_LOCK: Final = 0x63686174  # "chat": the key of the advisory lock

_CREATE = """
CREATE TABLE IF NOT EXISTS schema (
  version integer PRIMARY KEY, readable_from integer NOT NULL,
  name text NOT NULL, applied_ts bigint NOT NULL)"""

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]


async def database_schema(connection: Connection) -> SchemaVersion | None:
    """Give the schema of the database, or None where there is none yet. Writes nothing."""
    if await connection.fetchval("SELECT to_regclass('schema')") is None:
        return None
    row = await connection.fetchrow("SELECT max(version), max(readable_from) FROM schema")
    if row is None or row[0] is None:
        return None
    return SchemaVersion(row[0], row[1])


async def ask_schema(dsn: str) -> SchemaVersion | None:
    """Connect and give the schema of the database.

    Raises:
        StoreError: it cannot be reached or read.
    """
    try:
        connection = await asyncpg.connect(dsn, timeout=CONNECT_SECONDS)
        try:
            return await database_schema(connection)
        finally:
            await connection.close()
    except Exception as error:
        raise store_error(error, describe(dsn)) from None


async def migrate_at(dsn: str, *, migrations: Path = MIGRATIONS) -> SchemaVersion:
    """Connect and bring the database up to this release's schema.

    Raises:
        StoreError: it cannot be done, or this release is too old for the database.
    """
    where = describe(dsn)
    try:
        connection = await asyncpg.connect(dsn, timeout=CONNECT_SECONDS)
        try:
            return await migrate(connection, where=where, migrations=migrations)
        finally:
            await connection.close()
    except Exception as error:
        raise store_error(error, where) from None


async def migrate(
    connection: Connection, *, where: str, migrations: Path = MIGRATIONS
) -> SchemaVersion:
    """Bring the database up to this release's schema.

    Raises:
        StoreError: `SCHEMA` where this release cannot work with the database.
        asyncpg.PostgresError, OSError: PostgreSQL did not do it; nothing was changed.
    """
    steps = load_migrations(migrations)
    release = steps[-1].version
    found = await database_schema(connection)
    if found is None or found.version < release:
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
            await connection.execute(_CREATE)
            found = await database_schema(connection)
            for step in steps:
                if found is None or step.version > found.version:
                    await connection.execute(step.sql)
                    await connection.execute(
                        "INSERT INTO schema VALUES ($1, $2, $3, $4)",
                        step.version,
                        step.readable_from,
                        step.name,
                        time.time_ns() // 1_000_000,
                    )
        found = await database_schema(connection)
    assert found is not None
    if release < found.readable_from:
        raise StoreError(
            StoreErrorKind.SCHEMA,
            f"PostgreSQL at {where} has schema {found.version}, which releases from schema "
            f"{found.readable_from} on can read; this release has schema {release}: "
            "deploy a newer release, or restore a backup made before the migration",
        )
    return found
