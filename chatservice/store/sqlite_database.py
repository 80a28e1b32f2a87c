"""One database, as the writer and the reader thread share it.

Each thread has a session: its own connection, opened by that thread. Sessions are opened anew
after a failure that a fresh connection may cure (damage, I/O), and when another file was put in
the database's place. The new connection is opened before the old one is closed: SQLite then
keeps the log's index, and does not take the frames of a commit that failed for a commit when it
rebuilds that index.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from chatservice.store import StoreError, StoreErrorKind
from chatservice.store.migrate import migrate
from chatservice.store.sqlite_errors import explain, store_error
from chatservice.store.sqlite_file import (
    FileId,
    Sidecars,
    checkpoint,
    connect_to_write,
    file_id,
)
from chatservice.store.sqlite_room import free_bytes, keep_spare

_log = logging.getLogger(__name__)

_REOPEN = frozenset({StoreErrorKind.CORRUPT, StoreErrorKind.IO})
"""After these a connection may hold on to what is wrong: damaged pages, a broken descriptor."""


_SOME_SPACE = 256 * 1024
"""Bytes to be free after the disk was full. A heartbeat finds room where a batch does not: were
it enough, the store would seem to recover after each failure, only to fail again."""


@dataclass
class _File:
    """The file that is open, as opposed to its name, which may come to mean another one."""

    id: FileId
    generation: int
    opened: set[str] | None
    """The workspaces that were opened, where it replaced another file; None: not tracked."""
    sidecars: Sidecars | None = None


@dataclass(frozen=True)
class Session:
    """A thread's connection to one file."""

    connection: sqlite3.Connection
    keep: int
    _file: _File = field(repr=False)
    _generation: int

    def note_opened(self, workspace: str) -> None:
        """From here on the caller knows this workspace as it is in this file."""
        if self._file.opened is not None:
            self._file.opened.add(workspace)

    def require_opened(self, workspaces: Iterable[str]) -> None:
        """Refuse workspaces that were opened in a file that has since been replaced.

        Raises:
            StoreError: `STALE`: their numbers and epoch are no longer what the caller thinks.
        """
        if self._file.opened is None:
            return
        for workspace in workspaces:
            if workspace not in self._file.opened:
                raise stale(workspace, "the database was replaced by another file")


def stale(workspace: str, why: str) -> StoreError:
    """The caller knows a state of the workspace that is no longer so."""
    return StoreError(StoreErrorKind.STALE, f"workspace {workspace!r}: {why}: open it again")


class Database:
    """Which file is open, and since when. Safe to use from both threads."""

    def __init__(self, path: Path, *, keep: int, busy_timeout: float, migrations: Path) -> None:
        self.path = path
        self.suspect = False
        """Damage was met, and the file has not been checked whole since."""
        self.short_of_space = False
        """The disk was full, and has not been seen to have some space since."""
        self._keep = keep
        self._busy_timeout = busy_timeout
        self._migrations = migrations
        self._file: _File | None = None
        self._lock = threading.Lock()

    def session(
        self,
        current: Session | None,
        connect: Callable[[Path, float], sqlite3.Connection],
        *,
        must_exist: bool,
    ) -> Session:
        """Give `current` where it still serves, or else a new session; `current` is then closed.

        Args:
            current: the calling thread's session, if it has one.
            connect: opens a connection of the kind that the thread needs.
            must_exist: whether to fail where the file is gone. Without, the session in hand
                goes on: what an open file holds stays readable after its name is gone.

        Raises:
            StoreError, sqlite3.Error, OSError: it cannot be opened; `current` is left open.
        """
        found = file_id(self.path)
        if found is None and current is not None and not must_exist:
            return current
        file = self._file
        if file is None or found != file.id:
            file = self._adopt(current)
        generation = file.generation
        if current is not None and current._file is file and current._generation == generation:
            return current
        connection = connect(self.path, self._busy_timeout)
        if file.sidecars is None:
            file.sidecars = Sidecars(self.path)
        if current is not None:
            current.connection.close()
        return Session(connection, self._keep, file, generation)

    def failed(self, error: Exception) -> StoreError:
        """Explain what went wrong in a session, and see to it that the next one can do better."""
        explained = store_error(error, self.path)
        if explained.kind in _REOPEN:
            with self._lock:
                if self._file is not None:
                    self._file.generation += 1
        if explained.kind is StoreErrorKind.CORRUPT:
            self.suspect = True
        if explained.kind is StoreErrorKind.FULL:
            self.short_of_space = True
        return explained

    def require_space(self) -> None:
        """After the disk was full, make sure that there is room for more than a heartbeat.

        Where there is plenty, some is set apart for the day on which there is none.

        Raises:
            StoreError: `FULL`.
        """
        if self.short_of_space:
            if not self.has_space():
                why = f"less than {_SOME_SPACE // 1024} KiB are free"
                raise explain(StoreErrorKind.FULL, why, self.path)
            self.short_of_space = False
        keep_spare(self.path)

    def has_space(self) -> bool:
        """Whether some room is free; where there is none, none is to be given up."""
        try:
            return free_bytes(self.path) >= _SOME_SPACE
        except OSError:
            return False

    def require_in_place(self, session: Session) -> None:
        """Make sure that what was just committed went into the file of that name.

        Raises:
            StoreError: the file was replaced or removed in the meantime.
        """
        if file_id(self.path) != session._file.id:
            raise explain(StoreErrorKind.IO, "the file was replaced while written to", self.path)

    def _adopt(self, current: Session | None) -> _File:
        """Take the file that is there now for the database.

        At first that is all. Later it means that somebody restored a backup: clients know
        numbers that are not in it, so every workspace gets a new epoch. The former file, wherever
        it is now, is first made complete without its log, which stays behind under this name.
        """
        with self._lock:
            found = file_id(self.path)
            before = self._file
            if before is None:
                migrate(self.path, migrations=self._migrations, busy_timeout=self._busy_timeout)
                found = file_id(self.path)
                if found is None:
                    raise FileNotFoundError(2, "the file was removed at once")
                self._file = _File(found, generation=0, opened=None)
                return self._file
            if found is None:
                raise self._missing()
            if found == before.id:
                return before  # the other thread was faster
            if current is not None:
                checkpoint(current.connection)
            aside = before.sidecars.set_aside() if before.sidecars else None
            migrate(self.path, migrations=self._migrations, busy_timeout=self._busy_timeout)
            self._renew_epochs()
            _log.warning(
                "%s was replaced by another file: every workspace has a new epoch, and clients "
                "reload%s",
                self.path,
                f"; the log of the former database was kept as {aside}" if aside else "",
            )
            self._file = _File(found, generation=0, opened=set())
            return self._file

    def _renew_epochs(self) -> None:
        with closing(connect_to_write(self.path, busy_timeout=self._busy_timeout)) as connection:
            connection.execute("UPDATE workspaces SET epoch = lower(hex(randomblob(16)))")

    def _missing(self) -> StoreError:
        return StoreError(
            StoreErrorKind.IO,
            f"{self.path}: the database was deleted or moved away while in use: put it back, or "
            "put a backup in its place; it is picked up by itself. To begin with an empty one, "
            "restart the service",
        )
