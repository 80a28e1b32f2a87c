"""systemd's store of descriptors: what it keeps for a service while no process runs.

Told in datagrams like everything else (sd_notify(3), FDSTORE), but without waiting: what the
manager does not take at once is told in order, as soon as it does. What it kept comes with the next
start (sd_listen_fds(3)).
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import os
import socket
from collections import deque

from chatservice.logs import get_logger

log = get_logger("descriptor_store")

FIRST: int = 3
"""The number of the first descriptor that is passed (SD_LISTEN_FDS_START)."""


class DescriptorStore:
    """Keeps descriptors by name.

    Args:
        address: NOTIFY_SOCKET.

    Raises:
        OSError: nobody listens there.
    """

    def __init__(self, address: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket = socket.socket(
            socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        )
        self._waiting: deque[tuple[bytes, int]] = deque()
        try:
            self._socket.connect("\0" + address[1:] if address.startswith("@") else address)
        except OSError:
            self._socket.close()
            raise

    def keep(self, name: str, descriptor: int) -> None:
        """Have a copy of a descriptor kept, until it is `dropped`."""
        self._tell(f"FDSTORE=1\nFDNAME={name}".encode(), os.dup(descriptor))

    def drop(self, name: str) -> None:
        """Have what is kept under a name closed."""
        self._tell(f"FDSTOREREMOVE=1\nFDNAME={name}".encode(), -1)

    def _tell(self, what: bytes, descriptor: int) -> None:
        self._waiting.append((what, descriptor))
        if len(self._waiting) == 1:
            self._flush()

    def _flush(self) -> None:
        while self._waiting:
            what, descriptor = self._waiting[0]
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))]
            try:
                self._socket.sendmsg([what], rights if descriptor >= 0 else [])
            except BlockingIOError:
                self._loop.add_writer(self._socket, self._flush)
                return
            except OSError as error:
                log.error("systemd takes no descriptors", reason=str(error))
            self._waiting.popleft()
            if descriptor >= 0:
                os.close(descriptor)
        self._loop.remove_writer(self._socket)

    def close(self) -> None:
        """Tell nothing more."""
        self._loop.remove_writer(self._socket)
        self._socket.close()
        for _, descriptor in self._waiting:
            if descriptor >= 0:
                os.close(descriptor)
        self._waiting.clear()


def kept() -> list[tuple[str, socket.socket]]:
    """Take what was kept, once: sockets with their names."""
    pid, count, names = (
        os.environ.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
    )
    if pid != str(os.getpid()) or not count.isdigit():
        return []
    found = []
    named = names.split(":")
    for index in range(int(count)):
        descriptor = FIRST + index
        os.set_inheritable(descriptor, False)
        try:
            found.append((named[index] if index < len(named) else "", _socket(descriptor)))
        except OSError:
            with contextlib.suppress(OSError):
                os.close(descriptor)
    return found


def _socket(descriptor: int) -> socket.socket:
    return socket.socket(fileno=descriptor)
