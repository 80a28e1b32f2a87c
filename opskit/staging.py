"""Directories that appear whole or not at all, however the process that makes them ends.

A directory is made beside its place under a hidden name, locked for as long as its maker lives
(flock: the kernel lets go of it with the process), opened to every reader, put on disk if it is to
last, and renamed into place. What a killed maker left is removed by the next one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_MARK: Final = ".making-"


@contextlib.contextmanager
def staged(place: Path, *, replace: bool = False, lasting: bool = True) -> Iterator[Path]:
    """Give a directory to fill, which becomes `place` when the block ends without an error.

    Args:
        place: the name that it gets.
        replace: whether it takes the place of what has that name. A process that dies between
            the two renames leaves neither.
        lasting: whether it outlives a power cut; not for what is made to be sent elsewhere.

    Raises:
        FileExistsError: `place` is there by then, and `replace` is not set.
        OSError: it cannot be made.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    with _locked(place.parent):
        _sweep(place.parent)
        directory = Path(tempfile.mkdtemp(prefix=f"{_MARK}{place.name}-", dir=place.parent))
        lock = _open_directory(directory)
        fcntl.flock(lock, fcntl.LOCK_EX)
    former = directory.with_name(f"{directory.name}-former")
    try:
        yield directory
        open_to_readers(directory)
        if lasting:
            sync_tree(directory)
        with _locked(place.parent):
            if os.path.lexists(place):
                if not replace:
                    raise FileExistsError(errno.EEXIST, "is there already", str(place))
                os.rename(place, former)
            os.rename(directory, place)
        if lasting:
            sync(place.parent)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        shutil.rmtree(former, ignore_errors=True)
        os.close(lock)


@contextlib.contextmanager
def _locked(parent: Path) -> Iterator[None]:
    """Keep other makers in a directory from beginning, sweeping and renaming for a moment."""
    lock = _open_directory(parent)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _open_directory(directory: Path) -> int:
    return os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _sweep(parent: Path) -> None:
    """Remove what makers that are no more have left."""
    for left in parent.glob(f"{_MARK}*"):
        with contextlib.suppress(OSError):
            lock = _open_directory(left)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left, ignore_errors=True)
            finally:
                os.close(lock)


def open_to_readers(directory: Path) -> None:
    """Let everybody read a tree, whatever the umask was that it was made under."""
    for parent, _, names in os.walk(directory):
        Path(parent).chmod(0o755)
        for name in names:
            path = Path(parent, name)
            if not path.is_symlink():
                path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)


def sync_tree(directory: Path) -> None:
    """Put every file and directory of a tree on disk."""
    for parent, _, names in os.walk(directory):
        for name in names:
            path = Path(parent, name)
            if not path.is_symlink():
                sync(path)
        sync(Path(parent))


def sync(path: Path) -> None:
    """Put one file, or the names in one directory, on disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
