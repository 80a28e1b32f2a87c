"""Whether the process that held a lock is known to be gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from opskit.person import died, this_person, this_process

PROGRAM = (
    "import sys; from opskit.person import this_process; print(this_process(), flush=True); "
    "sys.stdin.read()"
)


def test_a_living_process_has_not_died() -> None:
    """The test itself, and one beside it; once that is killed, it has died, reaped or not."""
    assert not died(this_process())
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        owner = other.stdout.readline().strip()
        assert not died(owner)
        os.kill(other.pid, signal.SIGKILL)
        deadline = time.monotonic() + 20
        while not died(owner):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert died(owner)


def test_a_process_with_the_same_number_is_another() -> None:
    """Numbers are used again; the time of its start tells them apart."""
    machine, pid, started = this_process().split(" ")
    assert died(f"{machine} {pid} {int(started) + 1}")


def test_on_another_machine_nobody_knows() -> None:
    """Its boot or its container is another: it may well live."""
    _, pid, started = this_process().split(" ")
    assert not died(f"other-boot/pid:[1] {pid} {started}")
    assert not died("")
    assert not died("nonsense")


def test_a_person_is_a_user_on_a_machine() -> None:
    """As the record of deployments names them."""
    user, _, machine = this_person().who.partition("@")
    assert user
    assert machine
