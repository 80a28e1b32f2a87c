"""The part of a service manager that sd_notify(3) speaks to."""

from __future__ import annotations

import array
import os
import socket
import threading
from pathlib import Path
from types import TracebackType
from typing import Self


class Manager:
    """Notes what services tell, in `told`, and lets go of barriers when it has.

    It keeps no descriptors; see `keeper` for one that does.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.told: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._thread = threading.Thread(target=self._listen, name="manager")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"END", str(self.path))
        self._thread.join()
        self._socket.close()

    def _listen(self) -> None:
        while True:
            data, descriptors = receive(self._socket)
            text = data.decode()
            for descriptor in descriptors:
                os.close(descriptor)
            if text == "END":
                return
            if text != "BARRIER=1" and not text.startswith("FDSTORE"):
                self.told.append(text)


def receive(notifications: socket.socket) -> tuple[bytes, list[int]]:
    """Take one notification, and the descriptors that come with it."""
    data, ancillary, _, _ = notifications.recvmsg(65_536, socket.CMSG_SPACE(253 * 4))
    numbers = array.array("i")
    for _, kind, payload in ancillary:
        if kind == socket.SCM_RIGHTS:
            numbers.frombytes(payload[: len(payload) - len(payload) % 4])
    return data, list(numbers)
