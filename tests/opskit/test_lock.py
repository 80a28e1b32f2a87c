"""A lease: kept by a thread, lost when another takes it, and what then may still be run."""

from __future__ import annotations

import json
import time
from pathlib import Path, PurePosixPath

import pytest

from opskit.commands import Command, lock
from opskit.failure import Unreachable
from opskit.lock import FencedExecutor, Holder, Lease, LeaseLost, LockHeld
from opskit.transport import LocalExecutor, RecordingExecutor, Result

HOLDER = Holder("ann@desk", "2026-01-31T12:00:00Z", "deploy dev", "boot/pid 1 2")
LOCAL = LocalExecutor()


@pytest.fixture
def root(tmp_path: Path) -> PurePosixPath:
    return PurePosixPath(tmp_path / "root")


def test_the_loser_is_told_who_since_when_and_for_what(root: PurePosixPath) -> None:
    """The message names the holder, and says when the lease ends by itself."""
    lease = Lease(LOCAL, root, HOLDER)
    lease.acquire()
    try:
        with pytest.raises(LockHeld) as caught:
            Lease(LOCAL, root, Holder("bob", "", "", "")).acquire()
        assert str(caught.value) == (
            "this machine: ann@desk holds the lock since 2026-01-31T12:00:00Z for: deploy dev"
        )
        assert caught.value.holder == HOLDER
        assert 10 < caught.value.left <= 15
        assert caught.value.status == 1
    finally:
        lease.release()
    assert not (Path(root) / "lock").exists()


def test_a_lease_is_kept_for_longer_than_it_lasts(root: PurePosixPath) -> None:
    """Its thread renews it: after several times its length it is still held."""
    lease = Lease(LOCAL, root, HOLDER, ttl=1.5)
    lease.acquire()
    try:
        first = (Path(root) / "lock").read_text()
        ends = time.monotonic() + 4
        while time.monotonic() < ends:
            with pytest.raises(LockHeld):
                Lease(LOCAL, root, HOLDER, ttl=1.5).acquire()
            time.sleep(0.1)
        lease.check()
        assert (Path(root) / "lock").read_text() != first
    finally:
        lease.release()


def test_a_lease_that_another_took_is_lost(root: PurePosixPath) -> None:
    """Who did not run for longer than the lease learns who has it, before changing anything."""
    lease = Lease(LOCAL, root, HOLDER, ttl=60)
    lease.acquire()
    theirs = json.dumps({"who": "bob", "since": "now", "what": "rollback dev", "owner": ""})
    LOCAL.run(lock.release(root, lease.token))
    LOCAL.check(lock.acquire(root, "theirs", theirs, ttl=60))
    executor = FencedExecutor(LOCAL, lease)
    with pytest.raises(LeaseLost, match="bob took it for: rollback dev"):
        executor.run(Command(("touch", str(root / "changed")), "touch", "touch"))
    assert not (Path(root) / "changed").exists()
    looking = Command(("true",), "look", "look", changes=False)
    assert executor.run(looking).status == 0, "looking needs no lease"
    lease.release()
    assert "theirs" in (Path(root) / "lock").read_text(), "another's lease was released"


def test_a_host_that_cannot_be_reached_for_too_long_is_a_lost_lease() -> None:
    """Nobody knows whether another has taken it, so nothing more is changed."""
    executor = RecordingExecutor({"renew-lock": Result(255, "", "no route to host")})
    lease = Lease(executor, PurePosixPath("/r"), HOLDER, ttl=0.3)
    lease.acquire()
    time.sleep(0.35)  # longer than the lease: this is what the test is about
    with pytest.raises(LeaseLost, match="could not be renewed"):
        lease.check()
    lease.release()


def test_a_lease_that_was_never_taken_is_not_released() -> None:
    """Releasing is safe at any time, and runs nothing without need."""
    executor = RecordingExecutor()
    Lease(executor, PurePosixPath("/r"), HOLDER).release()
    assert executor.commands == []


def test_an_unreadable_holder_is_unknown() -> None:
    """The lock works all the same."""
    assert Holder.parse("nonsense").who == "unknown"
    assert Holder.parse('{"who": "x"}').who == "unknown"


def test_a_host_out_of_reach_is_named_and_not_the_lease() -> None:
    """It is the host that somebody has to look after."""

    def out_of_reach(command: Command) -> Result:
        raise Unreachable("h: the host does not answer", hint="see that it runs")

    executor = RecordingExecutor({"renew-lock": out_of_reach})
    lease = Lease(executor, PurePosixPath("/r"), HOLDER)
    lease.acquire()
    with pytest.raises(Unreachable, match=r"^h: the host does not answer$") as caught:
        lease.confirm()
    assert caught.value.hint == "see that it runs"
    lease.release()
