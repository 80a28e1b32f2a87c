"""Two members who chat on, whatever somebody else does, and notice when anything is amiss."""

from __future__ import annotations

import secrets
import threading
import time
from types import TracebackType
from typing import Final, Self

from tests.chatservice.wire import Wire
from tests.service_process import ServiceProcess

PAUSE: Final = 0.02
"""Seconds between two messages: each of the two sends 25 a second."""


class Bystanders:
    """While it is entered, two members of a workspace talk in turns; each must get every message.

    Each must see every message of the workspace, whole, once and in order, and beside these and
    its own acks nothing but the presence and typing of others.
    """

    def __init__(self, service: ServiceProcess, workspace: str = "w") -> None:
        self.members = {
            name: Wire.join(service, workspace, name) for name in ("bystander-1", "bystander-2")
        }
        first, second = self.members.values()
        assert first.next("presence")["user"] == "bystander-2"
        self._seen = {member: int(second.welcome["seq"]) for member in self.members}
        self.sent = 0
        self.slowest = 0.0
        """The longest that a message took to all, in seconds."""
        self._enough = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._talk, name="bystanders")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def confirm(self) -> None:
        """Wait until each has said something more, and both have heard it.

        Raises:
            AssertionError: something was amiss, now or before.
        """
        enough = self.sent + len(self.members) + 1
        while self.sent < enough and self._thread.is_alive():
            time.sleep(PAUSE / 4)
        self._raise()

    def stop(self) -> None:
        """Leave."""
        self._enough.set()
        self._thread.join()
        for wire in self.members.values():
            wire.socket.close()
        self._raise()

    def _raise(self) -> None:
        if self._failure is not None:
            raise AssertionError("the bystanders noticed something") from self._failure

    def _talk(self) -> None:
        try:
            while not self._enough.is_set():
                for user in self.members:
                    self._say(user)
                    time.sleep(PAUSE)
        except BaseException as failure:
            self._failure = failure

    def _say(self, user: str) -> None:
        started = time.monotonic()
        self.sent += 1
        id = secrets.token_hex(8)
        self.members[user].send("send", id=id, text=f"text {self.sent}")
        for member in self.members:
            self._hear(member, id, acknowledged=member != user)
        self.slowest = max(self.slowest, time.monotonic() - started)

    def _hear(self, member: str, id: str, *, acknowledged: bool) -> None:
        """Read up to the message of that id, and up to its ack unless that is another's."""
        heard = 0
        while not (heard and acknowledged):
            received = self.members[member].next()
            if received["type"] in ("presence", "typing"):
                assert received["user"] not in self.members, received
            elif received["type"] == "ack":
                assert (received["id"], received["seq"], acknowledged) == (id, heard, False)
                acknowledged = True
            else:
                assert received["type"] == "message", received
                assert received["seq"] == self._seen[member] + 1, received
                self._seen[member] += 1
                if received["id"] == id:
                    assert received["text"] == f"text {self.sent}"
                    heard = received["seq"]
