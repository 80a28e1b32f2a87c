"""What SQLite and the operating system report, as a `StoreError` that tells a person what to do.

The result codes and their meaning: https://www.sqlite.org/rescode.html
"""

from __future__ import annotations

import errno
import sqlite3
from pathlib import Path

from chatservice.store import StoreError, StoreErrorKind
from chatservice.store.sqlite_room import free_bytes

_KINDS = {
    sqlite3.SQLITE_FULL: StoreErrorKind.FULL,
    sqlite3.SQLITE_BUSY: StoreErrorKind.LOCKED,
    sqlite3.SQLITE_LOCKED: StoreErrorKind.LOCKED,
    sqlite3.SQLITE_PROTOCOL: StoreErrorKind.LOCKED,
    sqlite3.SQLITE_CORRUPT: StoreErrorKind.CORRUPT,
    sqlite3.SQLITE_NOTADB: StoreErrorKind.CORRUPT,
    sqlite3.SQLITE_IOERR: StoreErrorKind.IO,
    sqlite3.SQLITE_CANTOPEN: StoreErrorKind.IO,
    sqlite3.SQLITE_READONLY: StoreErrorKind.IO,
    sqlite3.SQLITE_PERM: StoreErrorKind.IO,
}

_WHAT = {
    StoreErrorKind.FULL: "there is no space left for the database",
    StoreErrorKind.LOCKED: "another process holds the database for longer than the busy timeout",
    StoreErrorKind.CORRUPT: "the database is damaged, or is not a database",
    StoreErrorKind.IO: "the database cannot be read, written or opened",
    StoreErrorKind.INTERNAL: "the store failed in an unforeseen way",
}

_WHAT_TO_DO = {
    StoreErrorKind.FULL: "free some space (`df -h {directory}`); it then recovers by itself",
    StoreErrorKind.LOCKED: "`fuser -v {path}` shows who; it recovers when that one lets go",
    StoreErrorKind.CORRUPT: (
        "put a backup in its place, or save what can be saved with "
        "`sqlite3 {path} .recover`; a good file is picked up by itself"
    ),
    StoreErrorKind.IO: (
        "look at the kernel's log (`dmesg`) and the permissions of {directory}; "
        "it recovers by itself when the disk does"
    ),
    StoreErrorKind.INTERNAL: "this is a bug: please report it with the log",
}


def store_error(error: BaseException, path: Path) -> StoreError:
    """Explain any exception raised while working on the database `path`."""
    if isinstance(error, StoreError):
        return StoreError(error.kind, str(error))
    return explain(kind_of(error, path), _detail(error), path)


def explain(kind: StoreErrorKind, detail: str, path: Path) -> StoreError:
    """Put into words what went wrong with the database `path`, and what to do next."""
    what_to_do = _WHAT_TO_DO[kind].format(path=path, directory=path.parent)
    return StoreError(kind, f"{path}: {_WHAT[kind]} ({detail}): {what_to_do}")


def kind_of(error: BaseException, path: Path) -> StoreErrorKind:
    """Tell what kind of failure an exception is that was raised at work on the database `path`."""
    if isinstance(error, sqlite3.Error):
        # Absent where the module itself objects, and not the library.
        code = getattr(error, "sqlite_errorcode", None)
        kind = _KINDS.get(code & 0xFF) if code is not None else None
        if kind is StoreErrorKind.IO and _no_space(path):
            return StoreErrorKind.FULL  # growing the -shm file says IOERR, not FULL
        return kind or StoreErrorKind.INTERNAL
    if isinstance(error, OSError):
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return StoreErrorKind.FULL if full else StoreErrorKind.IO
    return StoreErrorKind.INTERNAL


def _detail(error: BaseException) -> str:
    if isinstance(error, sqlite3.Error):
        name = getattr(error, "sqlite_errorname", None)
        return f"{name}: {error}" if name else str(error)
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return f"{type(error).__name__}: {error}"


def _no_space(path: Path) -> bool:
    try:
        return free_bytes(path) == 0
    except OSError:
        return False
