"""Which store the settings name, with what belongs to it: its bus and its schema.

What a store is made of is loaded where it is used: bringing a schema up to date takes little.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from chatservice.config import Settings, SettingsError
from chatservice.store import migrate as sqlite_schema

if TYPE_CHECKING:
    from chatservice.cluster import Bus
    from chatservice.store import SchemaVersion, Store
    from chatservice.store.copying import Copied


class Backend(Protocol):
    """One kind of store, as the settings describe it."""

    @property
    def where(self) -> str:
        """Names the database in messages, without its password."""

    def store(self) -> Store:
        """Make the store; it is not started yet."""

    def bus(self) -> Bus:
        """Make the way to the other nodes."""

    def release_schema(self) -> SchemaVersion:
        """Give the schema that this release brings."""

    def database_schema(self) -> SchemaVersion | None:
        """Give the schema of the database; None where there is none yet. Writes nothing.

        Raises:
            StoreError: it cannot be read.
        """

    def migrate(self) -> SchemaVersion:
        """Bring the database up to the release's schema.

        Raises:
            StoreError: it cannot be done, or this release is too old for the database.
        """


@dataclass(frozen=True)
class Sqlite:
    """A file on this host, used by one node."""

    settings: Settings

    @property
    def where(self) -> str:
        """The file."""
        return str(self.settings.database)

    def store(self) -> Store:
        """Make the store."""
        from chatservice.store.sqlite import SqliteStore

        settings = self.settings
        return SqliteStore(
            settings.database,
            keep=settings.history.keep,
            busy_timeout=settings.store.busy_timeout,
        )

    def bus(self) -> Bus:
        """There are no other nodes."""
        from chatservice.cluster import Alone

        return Alone()

    def release_schema(self) -> SchemaVersion:
        """Give the schema that this release brings."""
        return sqlite_schema.release_schema()

    def database_schema(self) -> SchemaVersion | None:
        """Give the schema of the file."""
        return sqlite_schema.database_schema(self.settings.database)

    def migrate(self) -> SchemaVersion:
        """Bring the file up to date, making it where there is none."""
        self.settings.database.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        return sqlite_schema.migrate(self.settings.database)


class Postgres:
    """A PostgreSQL server, shared by any number of nodes."""

    def __init__(self, settings: Settings, dsn: str) -> None:
        from chatservice.store.postgres_errors import describe  # asyncpg is loaded where it is used

        self._settings = settings
        self._dsn = dsn
        self._where = f"PostgreSQL at {describe(dsn)}"

    @property
    def where(self) -> str:
        """The server and the database."""
        return self._where

    def store(self) -> Store:
        """Make the store."""
        from chatservice.store.postgres import PostgresStore

        return PostgresStore(
            self._dsn,
            keep=self._settings.history.keep,
            connections=self._settings.store.connections,
        )

    def bus(self) -> Bus:
        """Make the bus."""
        from chatservice.postgres_bus import PostgresBus

        return PostgresBus(self._dsn, lease=self._settings.store.lease)

    def release_schema(self) -> SchemaVersion:
        """Give the schema that this release brings."""
        from chatservice.store.postgres_migrate import MIGRATIONS

        return sqlite_schema.release_schema(MIGRATIONS)

    def database_schema(self) -> SchemaVersion | None:
        """Ask the server."""
        import asyncio

        from chatservice.store import postgres_migrate

        return asyncio.run(postgres_migrate.ask_schema(self._dsn))

    def migrate(self) -> SchemaVersion:
        """Bring the database up to date."""
        import asyncio

        from chatservice.store import postgres_migrate

        return asyncio.run(postgres_migrate.migrate_at(self._dsn))

    def check_empty(self) -> None:
        """See that a store can be copied into the database.

        Raises:
            StoreError, CopyError: it cannot.
        """
        import asyncio

        from chatservice.store.copying import check_empty

        asyncio.run(check_empty(self._dsn))

    def copy_from(self, place: Path) -> Copied:
        """Copy a stopped service's SQLite store into the database, which must be empty.

        Raises:
            StoreError, CopyError: nothing was copied.
        """
        import asyncio

        from chatservice.store.copying import copy_sqlite

        return asyncio.run(copy_sqlite(place, self._dsn, keep=self._settings.history.keep))


def backend(settings: Settings, *, where: str) -> Backend:
    """Give the backend that the settings name; `where` names their source in errors.

    Raises:
        SettingsError: the secret with the database's address cannot be read.
    """
    if settings.store.kind == "sqlite":
        return Sqlite(settings)
    try:
        dsn = Path(settings.store.dsn_file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "is not text"
        raise SettingsError(where, "store.dsn_file", f"cannot be read: {why}") from None
    if not dsn.startswith(("postgresql://", "postgres://")):
        raise SettingsError(where, "store.dsn_file", "must hold a postgresql:// address")
    return Postgres(settings, dsn)
