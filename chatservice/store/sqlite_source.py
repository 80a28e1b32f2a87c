"""A SQLite store that nobody uses, read whole and in order, to be copied elsewhere.

It is opened for this process alone: SQLite gives that only when no other process has the file
open, and nobody can open it until this one is done.
https://www.sqlite.org/pragma.html#pragma_locking_mode
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from chatservice.store import SchemaVersion, StoreError, StoreErrorKind
from chatservice.store.migrate import database_schema, release_schema
from chatservice.store.sqlite_errors import store_error

DATABASE: Final = "chat.db"
"""The name of the database in a state directory."""

BUSY_SECONDS: Final = 2.0
_AT_ONCE: Final = 1000
"""Rows fetched at a time; more than these are never in memory."""

_WORKSPACES = """
SELECT id, name, seq, max(pruned, seq - ?1), created_ts FROM workspaces ORDER BY id"""

_MESSAGES = """
SELECT m.workspace_id, m.seq, m.ts, m.user, m.id, m.name, m.text
FROM workspaces w CROSS JOIN messages m
ON m.workspace_id = w.id AND m.seq > max(w.pruned, w.seq - ?1)
ORDER BY w.id, m.seq"""

_MEMBERS = """
SELECT m.workspace_id, m.user, m.name, m.read
FROM workspaces w CROSS JOIN members m ON m.workspace_id = w.id
ORDER BY w.id, m.user"""

Row = tuple[Any, ...]


class CopyError(Exception):
    """The data was not copied; the message is one line that says why and what to do."""


class SqliteSource:
    """A stopped service's database; a context manager that holds it alone.

    Args:
        place: the database, or the state directory that it is in.
        keep: how many messages of each workspace are given.

    Raises:
        StoreError: there is none, a process uses it, or its schema is not this release's.
    """

    def __init__(self, place: Path, *, keep: int) -> None:
        self.path = place / DATABASE if place.is_dir() else place
        self._keep = keep
        self._connection: sqlite3.Connection

    def __enter__(self) -> Self:
        self._require_schema()
        try:
            self._connection = _alone(self.path)
        except sqlite3.Error as error:
            raise self._refusal(error) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._connection.close()

    def workspaces(self) -> Iterator[Row]:
        """Give `(id, name, seq, floor, created_ts)` of each, by id."""
        return self._rows(_WORKSPACES, self._keep)

    def messages(self) -> Iterator[Row]:
        """Give `(workspace id, seq, ts, user, id, name, text)` of each kept, in order."""
        return self._rows(_MESSAGES, self._keep)

    def members(self) -> Iterator[Row]:
        """Give `(workspace id, user, name, read)` of each, in the order of the ids' bytes."""
        return self._rows(_MEMBERS)

    def _rows(self, query: str, *values: object) -> Iterator[Row]:
        try:
            cursor = self._connection.execute(query, values)
            while rows := cursor.fetchmany(_AT_ONCE):
                yield from rows
        except sqlite3.Error as error:
            raise store_error(error, self.path) from error

    def _require_schema(self) -> None:
        found, known = database_schema(self.path), release_schema()
        if found is None:
            raise StoreError(
                StoreErrorKind.IO,
                f"{self.path}: there is no database: name the state directory of the service "
                f"whose data is to be copied, or its {DATABASE}",
            )
        if found.version != known.version:
            raise StoreError(StoreErrorKind.SCHEMA, _other_schema(self.path, found, known))

    def _refusal(self, error: sqlite3.Error) -> StoreError:
        explained = store_error(error, self.path)
        if explained.kind is not StoreErrorKind.LOCKED:
            return explained
        return StoreError(
            StoreErrorKind.LOCKED,
            f"{self.path}: a process uses the database: stop the service first "
            f"(`fuser -v {self.path}` shows who it is)",
        )


def _other_schema(path: Path, found: SchemaVersion, known: SchemaVersion) -> str:
    do = (
        "bring it up to date first, with `migrate` and the settings of the stopped service"
        if found.version < known.version
        else "copy it with the release that last used it, or a newer one"
    )
    return f"{path}: has schema {found.version}, and this release copies {known.version}: {do}"


def _alone(path: Path) -> sqlite3.Connection:
    """Open a database so that no other process has it open, or can open it.

    The locking mode must be set before the first read, or a write-ahead log is shared.
    """
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=BUSY_SECONDS, isolation_level=None
    )
    try:
        for statement in (
            "PRAGMA locking_mode = EXCLUSIVE",
            "PRAGMA trusted_schema = OFF",
            "PRAGMA cell_size_check = ON",
            "BEGIN EXCLUSIVE",
        ):
            connection.execute(statement)
    except BaseException:
        connection.close()
        raise
    return connection
