"""The mapping that outlives a crash, against what the kernel counts."""

from __future__ import annotations

import contextlib
import errno
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chatservice.survival import FULL_SECONDS, LEFT, MEMBER, SLOT, Survival, Who, counted
from tests.service_process import REPOSITORY
from tests.small_disks import mounted


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The two ends of a TCP connection: ours and the client's."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as client,
    ):
        ours, _ = listener.accept()
        with ours:
            yield ours, client


def who(base: tuple[int, int] = (0, 0), *, token: str = "t") -> Who:
    return Who("c-1", "ann", "Ann", "w", 1, token, *base)


def reopened(survival: Survival) -> Survival:
    """What the next process finds: nothing was written back, nothing was closed."""
    return Survival(survival.path, 8)


def test_both_directions_agree_only_when_nothing_was_lost(
    tmp_path: Path, pair: tuple[socket.socket, socket.socket]
) -> None:
    ours, client = pair
    client.sendall(b"upgrade")
    assert ours.recv(100) == b"upgrade"
    survival = Survival(tmp_path / "lifeline", 8)
    slot = survival.keep(who(counted(ours)))
    assert slot is not None

    def settled() -> tuple[bool, bool]:
        after = reopened(survival)
        return after.settled(slot.number, after.who(slot.number), ours)

    assert settled() == (True, True)
    slot.wrote(5)
    assert settled() == (True, False)  # said to be written, and not yet
    ours.sendall(b"hello")
    assert settled() == (True, True)
    client.sendall(b"request")
    client.recv(100)
    assert settled() == (True, True)  # it waits in the kernel
    ours.recv(3)
    slot.received += 3
    assert settled() == (False, True)  # half of it died with the process
    ours.recv(100)
    slot.received += 4
    assert settled() == (False, True)
    slot.settled()
    assert settled() == (True, True)


def test_slots_are_found_again_with_rooms_and_those_who_left(tmp_path: Path) -> None:
    survival = Survival(tmp_path / "lifeline", 8)
    survival.publish("w", "epoch", 3)
    survival.publish("w", "epoch", 4)
    first, second = survival.keep(who()), survival.keep(who())
    assert first is not None
    assert second is not None
    survival.leave(second.number, 12.5)
    after = reopened(survival)
    [(_, where, seq)] = after.rooms()
    assert (where.workspace, where.epoch, seq) == ("w", "epoch", 4)
    states = {number: (state, found.until) for number, found, state in after.members()}
    assert states == {first.number: (MEMBER, 0.0), second.number: (LEFT, 12.5)}
    after.let_go(second.number)
    after.offline("w", "ann")
    assert [number for number, _, _ in after.members()] == [first.number]


def test_a_number_is_not_used_again_before_its_socket_is_let_go_of(tmp_path: Path) -> None:
    survival = Survival(tmp_path / "lifeline", 1)
    slot = survival.keep(who())
    assert slot is not None
    survival.release(slot.number)
    assert survival.keep(who()) is None
    survival.let_go(slot.number)
    assert survival.keep(who()) is not None


def test_who_does_not_fit_is_not_kept(tmp_path: Path) -> None:
    survival = Survival(tmp_path / "lifeline", 8)
    assert survival.keep(who(token="t" * SLOT)) is None
    assert list(survival.members()) == []


def test_a_file_of_another_kind_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "lifeline"
    path.write_bytes(b"\xff" * 3 * SLOT)
    survival = Survival(path, 8)
    assert (list(survival.members()), list(survival.rooms())) == ([], [])
    assert path.stat().st_mode & 0o777 == 0o644  # as it was; a new one is for its owner alone
    assert (tmp_path / "new").exists() is False
    Survival(tmp_path / "new", 8)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o600


def test_crashes_are_counted_while_each_comes_soon_after_the_other(tmp_path: Path) -> None:
    survival = Survival(tmp_path / "lifeline", 8)
    assert [survival.crashed(60.0) for _ in range(3)] == [1, 2, 3]
    assert reopened(survival).crashed(60.0) == 4
    assert survival.crashed(0.0) == 1


UNTIL_FULL = """
import sys
from pathlib import Path
from chatservice.survival import Survival, Who

survival = Survival(Path(sys.argv[1]), 20_000)
kept = 0
while survival.keep(Who("c", "ann", "Ann", "w", 1, "t", 0, 0)) is not None:
    kept += 1
survival.publish("w", "e", 1)
survival.clear()
again = 0
while survival.keep(Who("c", "ann", "Ann", "w", 1, "t", 0, 0)) is not None:
    again += 1
print(kept, again)
"""


def test_a_full_disk_is_not_asked_again_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every room asks with each batch that it publishes, on the event loop."""
    survival = Survival(tmp_path / "lifeline", 40_000)
    now, asked = 1000.0, 0

    def full(start: int, end: int) -> None:
        nonlocal asked
        asked += 1
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(survival, "_rewrite", full)
    monkeypatch.setattr("time.monotonic", lambda: now)
    while survival.keep(who()) is not None:
        pass
    for number in range(100):
        survival.publish(f"w{number}", "epoch", 1)
    assert asked == 1
    now += FULL_SECONDS
    assert survival.keep(who()) is None
    assert asked == 2
    now += FULL_SECONDS
    monkeypatch.undo()
    assert survival.keep(who()) is not None


@pytest.fixture(params=["ext4", "tmpfs"])
def small_disk(tmp_path: Path, request: Any) -> Iterator[Path]:
    """A file system of 11 MB on a disk, or 12 in memory: there, reading takes room, too."""
    with mounted(tmp_path / "disk", 12, request.param) as disk:
        yield disk


def test_a_full_disk_keeps_fewer_and_ends_nobody(small_disk: Path) -> None:
    """Writing to a mapped page that the disk has no room for would kill the process (SIGBUS)."""
    lifeline = small_disk / "lifeline"
    done = subprocess.run(
        [sys.executable, "-c", UNTIL_FULL, lifeline],
        cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    kept, again = map(int, done.stdout.split())
    assert 4000 < kept == again < 6200
    # Beside it: what is removed may be free only a while later.
    with contextlib.suppress(OSError), (small_disk / "filler").open("wb", 0) as filler:
        while True:
            filler.write(bytes(4096))
    with pytest.raises(OSError, match="No space left on device"):
        Survival(small_disk / "another", 8)
