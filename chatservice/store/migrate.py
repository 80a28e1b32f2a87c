"""Versioned migrations of the SQLite schema: expand first, contract a release later.

A migration is `migrations/sqlite/NNN_name.sql`, numbered from 001, with a line `-- readable-from:
N`: the oldest release schema that can still work with the database after it. PostgreSQL's lie
beside them, and a number means the same version for both: where one store has nothing to do, a
file says so. The table `schema` records each one applied. A release runs on a database when its
own version is at least the database's `readable_from`; a database that is newer but readable is
used as it is.
"""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple

from chatservice.store import SchemaVersion, StoreError, StoreErrorKind
from chatservice.store.sqlite_errors import store_error
from chatservice.store.sqlite_file import connect, create_file, size_of, write_ahead_log_size

MIGRATIONS: Final = Path(__file__).parent / "migrations" / "sqlite"

_FILE_NAME = re.compile(r"(\d{3})_\w+\.sql")
_READABLE_FROM = re.compile(r"^-- readable-from: (\d+)\s*$", re.MULTILINE)


class Migration(NamedTuple):
    """One step from a version of the schema to the next."""

    version: int
    readable_from: int
    name: str
    sql: str


def release_schema(migrations: Path = MIGRATIONS) -> SchemaVersion:
    """Give the schema that this release brings.

    Raises:
        StoreError: a migration file is misnamed, missing or without its header (`INTERNAL`).
    """
    found = load_migrations(migrations)
    return SchemaVersion(found[-1].version, max(each.readable_from for each in found))


def database_schema(path: Path, *, busy_timeout: float = 2.0) -> SchemaVersion | None:
    """Give the schema of the database `path`, or None where there is none yet. Writes nothing.

    Raises:
        StoreError: it cannot be read, or is not one of this service.
    """
    try:
        if not path.exists() or path.stat().st_size == 0:
            return None
        # A database nobody has open has no log. Then `immutable` reads it without leaving files.
        mode = "ro" if write_ahead_log_size(path) else "ro&immutable=1"
        with closing(connect(path, mode=mode, busy_timeout=busy_timeout)) as connection:
            return _schema_of(connection, path)
    except (sqlite3.Error, OSError) as error:
        raise store_error(error, path) from error


def migrate(
    path: Path, *, migrations: Path = MIGRATIONS, busy_timeout: float = 5.0
) -> SchemaVersion:
    """Bring the database up to this release's schema, creating it where there is none.

    Each migration is one transaction. Several processes may do this at once: each migration is
    applied by one of them.

    Returns:
        The schema of the database, which is newer than the release's where a newer release
        has been here and left it readable.

    Raises:
        StoreError: `SCHEMA` where this release cannot work with the database; or it cannot be
            opened or written.
    """
    steps = load_migrations(migrations)
    try:
        create_file(path)
        with closing(connect(path, mode="rw", busy_timeout=busy_timeout)) as connection:
            _require_readable(_schema_of(connection, path), steps[-1].version, path)
            _use_write_ahead_log(connection, busy_timeout)
            for step in steps:
                _apply(connection, step, path)
            schema = _schema_of(connection, path)
    except (sqlite3.Error, OSError) as error:
        raise store_error(error, path) from error
    assert schema is not None
    _require_readable(schema, steps[-1].version, path)
    return schema


def load_migrations(directory: Path) -> list[Migration]:
    """Read the migrations, and check that they are numbered 1, 2, 3 ..."""
    found: list[Migration] = []
    for file in sorted(directory.glob("*.sql")):
        name, sql = _FILE_NAME.fullmatch(file.name), file.read_text(encoding="utf-8")
        header = _READABLE_FROM.search(sql)
        expected = len(found) + 1
        if not name or int(name[1]) != expected:
            raise _broken(file, f"the next migration must be called {expected:03d}_<name>.sql")
        if not header or not 1 <= int(header[1]) <= expected:
            raise _broken(file, f"needs a line `-- readable-from: N`, N from 1 to {expected}")
        found.append(Migration(expected, int(header[1]), file.stem, sql))
    if not found:
        raise _broken(directory, "holds no migration; the release is incomplete")
    return found


def _broken(file: Path, why: str) -> StoreError:
    return StoreError(StoreErrorKind.INTERNAL, f"{file}: {why}")


def _schema_of(connection: sqlite3.Connection, path: Path) -> SchemaVersion | None:
    """Read the version of an open database; None where it is empty."""
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema")}
    if not tables:
        return None
    if "schema" not in tables:
        raise StoreError(
            StoreErrorKind.SCHEMA,
            f"{path}: is a database, but not one of this service: look at service.state_dir",
        )
    version, readable_from = connection.execute(
        "SELECT max(version), max(readable_from) FROM schema"
    ).fetchone()
    return SchemaVersion(version, readable_from)


def _require_readable(schema: SchemaVersion | None, release: int, path: Path) -> None:
    if schema is not None and release < schema.readable_from:
        raise StoreError(
            StoreErrorKind.SCHEMA,
            f"{path}: has schema {schema.version}, which releases from schema "
            f"{schema.readable_from} on can read; this release has schema {release}: "
            "deploy a newer release, or put back a backup made before the migration",
        )


def _use_write_ahead_log(connection: sqlite3.Connection, busy_timeout: float) -> None:
    """Switch to WAL; lasting, so only the first time does anything.

    SQLite does not wait for its busy timeout here when another process does the same.
    """
    deadline = time.monotonic() + busy_timeout
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise
            if time.monotonic() > deadline:
                raise
        time.sleep(0.01)


def _apply(connection: sqlite3.Connection, step: Migration, path: Path) -> None:
    """Apply one migration in one transaction, unless it was applied before."""
    if _version(connection, path) >= step.version:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        if _version(connection, path) < step.version:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS schema ("
                " version INTEGER PRIMARY KEY, readable_from INTEGER NOT NULL,"
                " name TEXT NOT NULL, applied_ts INTEGER NOT NULL) STRICT"
            )
            for statement in _statements(step.sql):
                connection.execute(statement)
            connection.execute(
                "INSERT INTO schema (version, readable_from, name, applied_ts) VALUES (?, ?, ?, ?)",
                (step.version, step.readable_from, step.name, time.time_ns() // 1_000_000),
            )
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        explained = store_error(error, path)
        what = f"migration {step.name}: {explained}"
        if explained.kind is StoreErrorKind.FULL:
            what += f"; {_most_room(path) / 1e6:.0f} MB there are enough for it"
        raise StoreError(explained.kind, what) from error
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _most_room(path: Path) -> int:
    """Give the bytes that a migration takes at most: every page anew, in the log and after it."""
    return 2 * size_of(path) + 2_000_000


def _version(connection: sqlite3.Connection, path: Path) -> int:
    schema = _schema_of(connection, path)
    return schema.version if schema else 0


def _statements(sql: str) -> Iterator[str]:
    """Split a script; `executescript` would commit the transaction that it runs in."""
    statement = ""
    for part in re.split("(?<=;)", sql):
        statement += part
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
    if re.sub(r"--.*", "", statement).strip():
        yield statement
