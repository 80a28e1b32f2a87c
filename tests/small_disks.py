"""Disks that are soon full: file systems of a few MB, mounted for one test."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NoReturn

import pytest

_BLOCK = 4096


@contextmanager
def mounted(
    place: Path, megabytes: int, kind: Literal["tmpfs", "ext4"] = "tmpfs"
) -> Iterator[Path]:
    """Mount a file system at `place`, which is made; everything is gone afterwards.

    Where that cannot be the test does not run; in CI, as root, that is a failure.

    Args:
        place: where; what is beside it may be used, too.
        megabytes: its size.
        kind: in memory, or on a disk, as one that is written to through mapped pages has to be.
    """
    if os.geteuid() != 0:
        pytest.skip("NOT TESTED: mounting a file system takes root")
    place.mkdir(parents=True)
    argv = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0700", "small", str(place)]
    if kind == "ext4":
        image = place.with_name(f"{place.name}.image")
        image.write_bytes(bytes(megabytes * 1024 * 1024))
        make = shutil.which("mkfs.ext4", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
        if make is None:
            _not_tested("there is no mkfs.ext4 (apt-get install e2fsprogs)")
        _run([make, "-q", "-F", "-m", "0", "-b", "4096", "-O", "^has_journal", str(image)])
        argv = ["mount", "-o", "loop", str(image), str(place)]
    _run(argv)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def _run(argv: list[str]) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        _not_tested(f"{argv[0]} is refused here: {done.stderr.strip()}")


def _not_tested(why: str) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(why)
    pytest.skip(f"NOT TESTED: {why}")


def take_all(filler: Path) -> int:
    """Let a file grow until no byte of its disk is free, also none for root; gives its size."""
    with filler.open("ab") as file:
        size, step = filler.stat().st_size, 1 << 30
        while step >= _BLOCK:
            try:
                os.posix_fallocate(file.fileno(), size, step)
                size += step
            except OSError:
                step //= 2
        os.ftruncate(file.fileno(), size)
    return size


def fill(disk: Path, *, leave: int = 0) -> Path:
    """Leave no byte free there, or as many as asked for; give the file to remove.

    May be called again after something else was removed.
    """
    filler = disk / "filler"
    size = take_all(filler)
    assert os.statvfs(disk).f_bavail == 0
    os.truncate(filler, size - leave)
    return filler
