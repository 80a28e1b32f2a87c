"""Checksums of a tree: what a release or a layer consists of, and how it differs from that."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path


def files_of(directory: Path) -> Iterator[str]:
    """Give the path of every file and symbolic link in a tree, relative to it."""
    for parent, directories, names in os.walk(directory):
        links = [name for name in directories if os.path.islink(os.path.join(parent, name))]
        for name in (*names, *links):
            yield Path(parent, name).relative_to(directory).as_posix()


def sha256(path: Path) -> str:
    """Give the checksum of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksums(directory: Path) -> dict[str, str]:
    """Give the checksum of every regular file in a tree, by path."""
    return {
        path: sha256(directory / path)
        for path in sorted(files_of(directory))
        if not (directory / path).is_symlink()
    }


def differences(directory: Path, expected: Mapping[str, str], *, beside: set[str]) -> list[str]:
    """Say how a tree differs from what it should be, one line for each file.

    Args:
        directory: the tree.
        expected: the checksum of each file.
        beside: what may be there without being checked.
    """
    found = set(files_of(directory))
    lines = dict.fromkeys(expected.keys() - found, "is missing")
    lines |= dict.fromkeys(found - expected.keys() - beside, "should not be there")
    for path in expected.keys() & found:
        file = directory / path
        if file.is_symlink() or not file.is_file():
            lines[path] = "is not a file"
        elif sha256(file) != expected[path]:
            lines[path] = "was changed"
    return [f"{path}: {lines[path]}" for path in sorted(lines)]
