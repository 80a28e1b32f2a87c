"""The shell behind the lock, run for real: a lease that exactly one holds."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest

from opskit.commands import Command, lock
from opskit.transport import LocalExecutor
from tests.small_disks import mounted

LOCAL = LocalExecutor()
HOLDER = '{"who": "ann@desk", "since": "now", "what": "deploy dev", "owner": ""}'


@pytest.fixture
def root(tmp_path: Path) -> PurePosixPath:
    return PurePosixPath(tmp_path / "root")


def status(command: Command) -> int:
    return LOCAL.run(command).status


def test_the_second_is_told_who_holds_it(root: PurePosixPath) -> None:
    """The lease says who, and how long it lasts unless it is renewed."""
    assert status(lock.acquire(root, "mine", HOLDER, ttl=15)) == 0
    result = LOCAL.run(lock.acquire(root, "theirs", "{}", ttl=15))
    assert result.status == lock.HELD
    left, holder = result.stdout.splitlines()
    assert 1000 < int(left) <= 1500
    assert holder == HOLDER
    assert status(lock.acquire(root, "mine", HOLDER, ttl=15)) == 0, "one's own is no obstacle"


def test_of_twenty_at_once_one_gets_it(root: PurePosixPath) -> None:
    """However they race, one takes the lease and all others are refused."""
    barrier = threading.Barrier(20)

    def take(number: int) -> int:
        barrier.wait()
        return status(lock.acquire(root, f"token{number}", HOLDER, ttl=60))

    with ThreadPoolExecutor(20) as pool:
        statuses = sorted(pool.map(take, range(20)))
    assert statuses == [0] + [lock.HELD] * 19


def test_a_lease_ends_by_itself(root: PurePosixPath) -> None:
    """What is not renewed can be taken by another; the first then learns that it is lost."""
    assert status(lock.acquire(root, "mine", HOLDER, ttl=0.2)) == 0
    deadline = time.monotonic() + 20
    while status(lock.acquire(root, "theirs", "{}", ttl=60)) != 0:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert status(lock.renew(root, "mine", ttl=60)) == lock.HELD
    assert status(lock.release(root, "mine")) == lock.HELD
    assert status(lock.renew(root, "theirs", ttl=60)) == 0


def test_only_the_owner_releases_it(root: PurePosixPath) -> None:
    """Another's release does nothing; the owner's does; after it anybody may come."""
    assert status(lock.acquire(root, "mine", HOLDER, ttl=60)) == 0
    assert status(lock.release(root, "theirs")) == lock.HELD
    assert status(lock.acquire(root, "theirs", "{}", ttl=60)) == lock.HELD
    assert status(lock.release(root, "mine")) == 0
    assert os.listdir(root) == ["spare"]
    assert status(lock.acquire(root, "theirs", "{}", ttl=60)) == 0


def test_a_lease_of_before_a_reboot_has_ended(root: PurePosixPath) -> None:
    """The uptime starts anew with a boot, so a lease names the boot that it belongs to."""
    assert status(lock.acquire(root, "mine", HOLDER, ttl=1000)) == 0
    file = Path(root) / "lock"
    boot, rest = file.read_text().split(" ", 1)
    file.write_text(f"{boot[::-1]} {rest}")
    assert status(lock.acquire(root, "theirs", "{}", ttl=60)) == 0


@pytest.mark.parametrize("content", ["", "nonsense\n", "a b c d e f\n", "\0\0\0\n"])
def test_a_damaged_lock_file_is_no_lease(root: PurePosixPath, content: str) -> None:
    """What cannot be read does not lock anybody out for ever."""
    Path(root).mkdir()
    (Path(root) / "lock").write_text(content)
    assert status(lock.acquire(root, "mine", HOLDER, ttl=60)) == 0


def test_a_removed_lease_is_lost(root: PurePosixPath) -> None:
    """Somebody may have taken and released it meanwhile: it is not simply renewed."""
    assert status(lock.acquire(root, "mine", HOLDER, ttl=60)) == 0
    (Path(root) / "lock").unlink()
    result = LOCAL.run(lock.renew(root, "mine", ttl=60))
    assert (result.status, result.stdout) == (lock.HELD, "0\n\n")
    assert not (Path(root) / "lock").exists()


def test_a_fenced_command_runs_only_with_the_lease(root: PurePosixPath, tmp_path: Path) -> None:
    """With the lease it runs, with its input and its status; without, it never starts."""
    assert status(lock.acquire(root, "mine", HOLDER, ttl=60)) == 0
    target = tmp_path / "written"
    command = Command(
        ("sh", "-c", 'cat > "$1"; exit 7', "sh", str(target)), "write", "write", stdin=b"input"
    )
    assert status(lock.fenced(command, root, "mine", ttl=60)) == 7
    assert target.read_bytes() == b"input"
    target.unlink()
    assert status(lock.fenced(command, root, "theirs", ttl=60)) == lock.HELD
    assert not target.exists()


def test_a_fence_renews_the_lease(root: PurePosixPath) -> None:
    """A command that begins late in a lease does not outlive it at once."""
    assert status(lock.acquire(root, "mine", HOLDER, ttl=5)) == 0
    nothing = Command(("true",), "do nothing", "nothing")
    assert status(lock.fenced(nothing, root, "mine", ttl=1000)) == 0
    left = int(LOCAL.run(lock.acquire(root, "theirs", "{}", ttl=1)).stdout.splitlines()[0])
    assert left > 50_000


def test_a_fenced_command_does_not_hold_flock(root: PurePosixPath) -> None:
    """While a long command runs, the lease can be renewed."""
    assert status(lock.acquire(root, "mine", HOLDER, ttl=60)) == 0
    long = Command(("sh", "-c", "echo begun; exec sleep 60"), "take long", "long")
    process = subprocess.Popen(
        lock.fenced(long, root, "mine", ttl=60).argv, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        assert status(replace(lock.renew(root, "mine", ttl=60), timeout=30)) == 0
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[PurePosixPath]:
    """A file system of 3 MB."""
    with mounted(tmp_path / "disk", 3) as disk:
        yield PurePosixPath(disk)


def fill(disk: PurePosixPath) -> None:
    """Leave no byte free there."""
    with contextlib.suppress(OSError), (Path(disk) / "filler").open("ab", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def test_on_a_full_disk_the_spare_gives_room_for_the_lock(small_disk: PurePosixPath) -> None:
    """A rollback is what is tried first there. What holds the lock extends it without any room."""
    root = small_disk / "root"
    assert status(lock.acquire(root, "first", HOLDER, ttl=60)) == 0
    assert status(lock.release(root, "first")) == 0
    fill(small_disk)
    assert status(lock.acquire(root, "mine", HOLDER, ttl=60)) == 0
    assert os.listdir(root) == ["lock"]
    fill(small_disk)
    assert status(lock.renew(root, "mine", ttl=1000)) == 0
    nothing = Command(("true",), "do nothing", "nothing")
    assert status(lock.fenced(nothing, root, "mine", ttl=1000)) == 0
    assert (Path(root) / "lock").read_text().splitlines()[1] == HOLDER
    left = LOCAL.run(lock.acquire(root, "theirs", "{}", ttl=1)).stdout.splitlines()[0]
    assert int(left) > 90_000
    assert status(lock.release(root, "mine")) == 0
    assert os.listdir(root) == [], "half a spare is none"


def test_a_lock_for_which_there_is_no_room_at_all(small_disk: PurePosixPath) -> None:
    """It says so, and leaves nothing half-written."""
    root = small_disk / "root"
    Path(root).mkdir()
    fill(small_disk)
    result = LOCAL.run(lock.acquire(root, "mine", HOLDER, ttl=60))
    assert (result.status, os.listdir(root)) == (1, [])
    assert "No space left on device" in result.stderr
