"""Room on the disk of the database: what is free, and a little that is kept for when nothing is.

To open a database takes room even where nothing is written to it: when nobody else has it open,
SQLite makes the log's index (`-shm`) anew, 32 KiB and more, and perhaps the log itself. On a full
disk a service that was restarted could then not even read. So the file `<database>-spare` takes
some room up while there is plenty. Who opens the database and finds none gives a slice of it back
and tries again: only a slice, for whatever else fills the disk may be faster than SQLite.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

SPARE: Final = "-spare"
SPARE_BYTES: Final = 1024 * 1024
SLICE: Final = 128 * 1024
"""Bytes given back at a time. The index of a log of 16 MiB, at which it is emptied, takes 32 KiB;
that of one that readers let grow four times as long fits, too."""
PLENTY: Final = 16 * 1024 * 1024
"""Bytes to be free before the spare is taken: it must not be what fills the disk."""


def sidecar(path: Path, suffix: str) -> Path:
    """Name a file that is kept beside the database."""
    return path.with_name(path.name + suffix)


def free_bytes(path: Path) -> int:
    """Give the bytes that are free for files in the directory of `path`."""
    disk = os.statvfs(path.parent)
    return disk.f_bavail * disk.f_frsize


def keep_spare(path: Path) -> None:
    """See to it that the spare of database `path` is whole, where there is plenty of room.

    Best effort: without it, the database can be read again when there is room again.
    """
    spare = sidecar(path, SPARE)
    with contextlib.suppress(OSError):
        # Blocks, and not bytes: a copy made of a backup may be all hole.
        taken = 512 * spare.stat().st_blocks if spare.exists() else 0
        if taken >= SPARE_BYTES or free_bytes(path) < PLENTY:
            return
        descriptor = os.open(spare, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, SPARE_BYTES)
        finally:
            os.close(descriptor)


def give_back(path: Path) -> bool:
    """Free a slice of the spare of database `path`; False where there is nothing left of it."""
    try:
        descriptor = os.open(sidecar(path, SPARE), os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        size = os.fstat(descriptor).st_size
        if size == 0:
            return False
        os.ftruncate(descriptor, max(0, size - SLICE))
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True
