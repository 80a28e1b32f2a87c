"""Ports for servers of tests, which stay theirs over restarts."""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
import threading
from pathlib import Path
from typing import BinaryIO, Final

LOWEST: Final = 10_000
HIGHEST: Final = 32_000
"""Below the range that Linux hands out by itself (`ip_local_port_range`, from 32768), so that
outgoing connections never occupy a port between two starts of a server."""


class Reservations:
    """Ports that some test of this machine has for its own, from asking until its process ends.

    A port that is free when it is asked for may be asked for by another process of tests before
    the server is started on it; so each one is a locked byte of a shared file. The kernel frees
    the locks of a process that ends, however it does.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._own: set[int] = set()
        self._mutex = threading.Lock()

    def take(self, port: int) -> bool:
        """Reserve a port; False when it is somebody's already, or in use."""
        with self._mutex:
            if port in self._own:  # the locks of one process do not exclude each other
                return False
            if self._file is None:
                self._file = self._path.open("ab")
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
            except OSError:
                return False
            if not _is_free(port):
                fcntl.lockf(self._file, fcntl.LOCK_UN, 1, port)
                return False
            self._own.add(port)
            return True


_reservations = Reservations(Path(tempfile.gettempdir()) / f"chatservice-test-ports-{os.getuid()}")


def free_ports(count: int) -> list[int]:
    """Give ports on 127.0.0.1 that are this process's until it ends."""
    ports: list[int] = []
    for _ in range(1000 * count):
        if len(ports) == count:
            return ports
        port = random.randrange(LOWEST, HIGHEST)
        if _reservations.take(port):
            ports.append(port)
    raise RuntimeError(f"no {count} free ports between {LOWEST} and {HIGHEST} on 127.0.0.1")


def _is_free(port: int) -> bool:
    with socket.socket() as candidate:
        try:
            candidate.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
