"""A process that is to take over from another, whole or broken on purpose, or played by hand."""

from __future__ import annotations

import array
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.chatservice.wire import (
    DEADLINE,
)
from tests.service_process import REPOSITORY, ServiceProcess

TAKE_OVER = b'{"order":"take-over","version":1}\n'


def pid_that_serves(service: ServiceProcess) -> int:
    pid: int = json.loads(service.get("/version")[1])["pid"]
    return pid


def newcomer(
    service: ServiceProcess, settings: Path | None = None, program: tuple[str, ...] = ()
) -> subprocess.Popen[str]:
    """Start another process that is to take over."""
    argv = [*(program or service.program), "serve", "--take-over"]
    argv += ["--settings", str(settings or service.settings_file)]
    return subprocess.Popen(
        [sys.executable, *argv],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        stderr=subprocess.PIPE,
        text=True,
    )


def end_of(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait until a process has ended; give its status and what it said last."""
    _, errors = process.communicate(timeout=DEADLINE)
    said = [line for line in errors.splitlines() if line.startswith("chatservice: ")]
    return process.returncode, said[-1] if said else ""


def launcher(path: Path, patch: str) -> tuple[str, ...]:
    """Write a program that is the service but for `patch`."""
    path.write_text(
        "import os, sys, time\n"
        "import chatservice.process, chatservice.takeover as takeover\n"
        f"{patch}\n"
        "from chatservice.__main__ import main\n"
        "sys.exit(main())\n"
    )
    return (str(path),)


@contextmanager
def conversation(service: ServiceProcess, order: bytes = TAKE_OVER) -> Iterator[socket.socket]:
    """Talk to the control socket by hand."""
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(DEADLINE)
        peer.connect(str(service.settings.control_socket))
        peer.sendall(order)
        yield peer


def receive_listeners(peer: socket.socket) -> list[int]:
    """Take the listeners, as a new process does."""
    line, ancillary, _, _ = peer.recvmsg(4096, 1024)
    offer = json.loads(line)
    assert (offer["ok"], offer["listeners"]) == (True, ["public", "admin"])
    [(_, _, payload)] = ancillary
    numbers = array.array("i")
    numbers.frombytes(payload)
    return list(numbers)
