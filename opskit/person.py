"""Who acts, and whether an earlier one still lives."""

from __future__ import annotations

import getpass
import os
import socket
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Person:
    """Who acts: `user@machine`, and which process, as the lock wants to know it."""

    who: str
    owner: str


def this_person() -> Person:
    """Say who runs this process."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return Person(f"{user}@{socket.gethostname()}", this_process())


def this_process() -> str:
    """Name this process such that no other, on any machine, has the same name."""
    return f"{_machine()} {os.getpid()} {_started(os.getpid())}"


def died(owner: str) -> bool:
    """Say whether a process that called itself so is known to be gone.

    False where that cannot be known: it ran on another machine or in another container.
    """
    machine, _, process = owner.partition(" ")
    pid, _, started = process.partition(" ")
    if machine != _machine() or not pid.isdigit():
        return False
    return _started(int(pid)) != started


def _machine() -> str:
    """Name this boot of this machine, as seen from this process's container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return "unknown/" + os.urandom(8).hex()


def _started(pid: int) -> str:
    """Give when a process started, in the kernel's ticks; empty when it is gone or a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] in "ZX" else fields[19]
