"""What systemd is told of the service: sd_notify(3), without a library.

A unit of `Type=notify` with `NotifyAccess=all`. Without NOTIFY_SOCKET in the environment nothing
is told to anybody.
"""

from __future__ import annotations

import array
import os
import select
import socket
from collections.abc import Sequence
from typing import Final

BARRIER_SECONDS: Final = 5.0
"""How long systemd may take to have read what it was told."""


class Notifier:
    """The way to the manager that started this process."""

    def __init__(self, address: str | None = None) -> None:
        given = os.environ.get("NOTIFY_SOCKET", "") if address is None else address
        self.address = given
        """NOTIFY_SOCKET; empty where there is no manager."""
        self._address = "\0" + given[1:] if given.startswith("@") else given

    def __bool__(self) -> bool:
        return bool(self._address)

    def tell(self, *assignments: str, descriptors: Sequence[int] = ()) -> bool:
        """Tell `NAME=value` assignments, in one datagram; gives whether it was sent.

        Raises nothing: a service serves whether or not its manager listens.
        """
        if not self._address:
            return False
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.settimeout(BARRIER_SECONDS)
                sender.connect(self._address)
                sender.sendmsg(["\n".join(assignments).encode()], rights if descriptors else [])
        except OSError:
            return False
        return True

    def barrier(self) -> bool:
        """Wait until everything told so far has been read; blocks. Gives whether it was.

        The manager closes the descriptor that it is sent (`BARRIER=1`) when it gets there.
        """
        if not self._address:
            return False
        ours, theirs = os.pipe()
        try:
            sent = self.tell("BARRIER=1", descriptors=[theirs])
            os.close(theirs)
            poll = select.poll()
            poll.register(ours, 0)  # POLLHUP comes unasked
            return sent and bool(poll.poll(BARRIER_SECONDS * 1000))
        finally:
            os.close(ours)

    def ready(self, status: str) -> None:
        """Say that this process serves and is the main one: its predecessor may end. Blocks."""
        if self:
            self.tell("READY=1", f"MAINPID={os.getpid()}", f"STATUS={status}")
            self.barrier()

    def stopping(self) -> None:
        """The service is about to end."""
        self.tell("STOPPING=1", "STATUS=stopping")
