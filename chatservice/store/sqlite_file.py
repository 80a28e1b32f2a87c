"""The database as files: opening them, and telling one file from another of the same name.

A database in use is three files: itself, `-wal` (the write-ahead log: what was committed and not
yet copied into the database) and `-shm` (the log's index, in shared memory).
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from pathlib import Path
from typing import Final, NamedTuple

from chatservice.store import StoreErrorKind
from chatservice.store.sqlite_errors import kind_of
from chatservice.store.sqlite_room import give_back, sidecar

LOG: Final = "-wal"
LOG_INDEX: Final = "-shm"

_CHECKPOINT_PAGES: Final = 4000
"""At 16 MiB the log is copied into the database. 1,000 workspaces dirty 2,000 pages in one
batch: with SQLite's own 1,000 every such commit would copy, and be a third slower."""

_LOG_KEPT_BYTES: Final = 32 * 1024 * 1024
"""A log that grew beyond this (a reader held it) is cut back to it at the next checkpoint."""

_CACHE_KIB: Final = 8192
"""Page cache of each connection, filled as needed."""


class FileId(NamedTuple):
    """What a file is, whatever it is called."""

    device: int
    inode: int


def file_id(path: Path) -> FileId | None:
    """Identify the file of that name; None where there is none."""
    try:
        state = os.stat(path)
    except FileNotFoundError:
        return None
    return FileId(state.st_dev, state.st_ino)


def write_ahead_log_size(path: Path) -> int:
    """Give the size of the log of database `path` in bytes; 0 where it has none."""
    return size_of(sidecar(path, LOG))


def size_of(path: Path) -> int:
    """Give the size of a file in bytes; 0 where it does not exist."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def create_file(path: Path) -> None:
    """Create an empty database that only its owner may read, unless there is one.

    SQLite gives the log and its index the permissions of the database.
    """
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))


def connect(path: Path, *, mode: str, busy_timeout: float) -> sqlite3.Connection:
    """Open a connection with the settings that all have in common.

    Args:
        path: the database.
        mode: `rw` or `ro` (see https://www.sqlite.org/uri.html); never creates a file.
        busy_timeout: how long to wait for another process's lock, in seconds.

    Where the disk is full, room is made for it of the spare (see `sqlite_room`).
    """
    while True:
        try:
            return _connect(path, mode=mode, busy_timeout=busy_timeout)
        except sqlite3.Error as error:
            if kind_of(error, path) is not StoreErrorKind.FULL or not give_back(path):
                raise


def _connect(path: Path, *, mode: str, busy_timeout: float) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}",
        uri=True,
        timeout=busy_timeout,
        isolation_level=None,  # transactions begin and end where this package says so
        cached_statements=256,
    )
    try:
        for setting in (
            "trusted_schema = OFF",
            "cell_size_check = ON",  # notices a damaged page when it is read, not pages later
            "temp_store = MEMORY",
            f"cache_size = -{_CACHE_KIB}",
        ):
            connection.execute(f"PRAGMA {setting}")
        connection.execute("SELECT 1 FROM sqlite_schema").fetchone()  # opening proper: reads it
    except BaseException:
        connection.close()
        raise
    return connection


def connect_to_write(path: Path, *, busy_timeout: float) -> sqlite3.Connection:
    """Open the connection whose commits are durable."""
    connection = connect(path, mode="rw", busy_timeout=busy_timeout)
    try:
        for setting in (
            "journal_mode = WAL",
            "synchronous = FULL",  # fsync at every commit
            f"wal_autocheckpoint = {_CHECKPOINT_PAGES}",
            f"journal_size_limit = {_LOG_KEPT_BYTES}",
            "secure_delete = FAST",  # overwrites what is deleted where that costs no extra write
        ):
            connection.execute(f"PRAGMA {setting}")
    except BaseException:
        connection.close()
        raise
    return connection


def connect_to_read(path: Path, *, busy_timeout: float) -> sqlite3.Connection:
    """Open a connection that sees committed states only, waits for no writer, and never writes.

    It is opened read-write all the same: a reader of a WAL database shares in its index.
    """
    connection = connect(path, mode="rw", busy_timeout=busy_timeout)
    connection.execute("PRAGMA query_only = ON")
    return connection


def checkpoint(connection: sqlite3.Connection, *, shrink: bool = True) -> None:
    """Copy the log into the database and empty it, as far as others let us. Best effort.

    Unless it shall `shrink`, the log keeps its room on the disk, and is written from its beginning.
    """
    with contextlib.suppress(sqlite3.Error):
        connection.execute(f"PRAGMA wal_checkpoint({'TRUNCATE' if shrink else 'RESTART'})")


class Sidecars:
    """The log and its index of one database file, remembered by identity.

    Were another database put in this one's place, SQLite would apply the old log to it, and so
    damage it: https://www.sqlite.org/howtocorrupt.html, section 1.4.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._ids = {suffix: file_id(sidecar(path, suffix)) for suffix in (LOG, LOG_INDEX)}

    def set_aside(self) -> Path | None:
        """Take them out of the way, unless they are no longer there.

        The index goes; the log, which may hold the last messages of the database that it
        belonged to, is renamed.

        Returns:
            The log's new name, where there was one.
        """
        index, log = sidecar(self._path, LOG_INDEX), sidecar(self._path, LOG)
        if file_id(index) is not None and file_id(index) == self._ids[LOG_INDEX]:
            index.unlink(missing_ok=True)
        if file_id(log) is None or file_id(log) != self._ids[LOG]:
            return None
        with contextlib.suppress(FileNotFoundError):
            if log.stat().st_size == 0:
                log.unlink()
                return None
            aside = log.with_name(f"{log.name}.replaced-{time.time_ns() // 1_000_000}")
            log.rename(aside)
            return aside
        return None
