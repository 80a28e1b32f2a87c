"""Clients in the middle of something, and what must come of it, whoever serves them meanwhile.

One has sent half a frame, one half a frame header, one half a message of two fragments with a ping
in between, one does not read, so that bytes for it wait in the service, and one has sent half of
its request to connect.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import socket
from types import TracebackType
from typing import Any, Final, Self

from tests.chatservice.wire import (
    CONT,
    DEADLINE,
    PING,
    PONG,
    TEXT,
    Wire,
    connect_path,
    frame,
    metrics,
    request,
    text,
    upgrade_headers,
)
from tests.service_process import ServiceProcess

SETTINGS: Final[dict[str, dict[str, Any]]] = {
    "limits": {"rate": 2000, "burst": 2000, "connections_per_user": 100},
    "timing": {"handshake": 300.0},
}
"""What a service needs for this."""
LONG: Final = "🦑" * 3900
"""16 kB."""
WAITING: Final = 100_000
"""Bytes that wait in the service for who does not read."""
MOST: Final = 1000


class Midway:
    """While it is entered, they wait; `finish` has each go on, and checks what comes of it."""

    def __init__(self, service: ServiceProcess, workspace: str = "midway") -> None:
        self._service = service
        self._workspace = workspace
        self._open: list[Wire] = []
        self._halves: list[tuple[Wire, str, bytes]] = []
        self._flooded = 0

    def __enter__(self) -> Self:
        self._slow = self._join("slow", receive_buffer=4096)
        self._begin_halves()
        self._flood()
        self._visitor = Wire(self._service)
        self._open.append(self._visitor)
        asked = request(
            connect_path(self._workspace),
            upgrade_headers(self._service.token("visitor", self._workspace)),
        )
        self._visitor.write(asked[:40])
        self._rest = asked[40:]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for wire in self._open:
            wire.socket.close()

    def _join(self, user: str, *, receive_buffer: int = 0) -> Wire:
        wire = Wire.join(self._service, self._workspace, user, receive_buffer=receive_buffer)
        self._open.append(wire)
        return wire

    def _begin_halves(self) -> None:
        for name, cut in (("header", 1), ("length", 3), ("mask", 6), ("payload", 60)):
            wire = self._join(name)
            id = secrets.token_hex(4)
            whole = text({"type": "send", "id": id, "text": "t" * 300})
            wire.write(whole[:cut])
            self._halves.append((wire, id, whole[cut:]))
        wire = self._join("fragments")
        id = secrets.token_hex(4)
        payload = json.dumps({"type": "send", "id": id, "text": "zażółć " * 50}).encode()
        wire.write(frame(TEXT, payload[:31], fin=False) + frame(PING, b"now"))
        while True:  # so that it has been parsed up to here
            opcode, answer = wire.frame()
            if opcode == PONG:
                assert answer == b"now"
                break
        last = frame(CONT, payload[31:])
        wire.write(last[:9])
        self._halves.append((wire, id, last[9:]))

    def _flood(self) -> None:
        """Have bytes wait for the one that does not read."""
        with Wire.join(self._service, self._workspace, "flood") as flood:
            while metrics(self._service)["chat_send_queue_bytes"] < WAITING:
                for _ in range(20):
                    self._flooded += 1
                    assert self._flooded < MOST, "nothing waits for who does not read"
                    flood.send("send", id=str(self._flooded), text=LONG)
                    flood.until("ack")

    def read_some(self) -> None:
        """Have the slow one read all that the kernels hold for it, and then some."""
        self._slow.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self._slow.socket.settimeout(0.5)
        with contextlib.suppress(TimeoutError):
            while True:
                self._slow._buffer += self._slow.socket.recv(65_536)
        self._slow.socket.settimeout(DEADLINE)

    def finish(self) -> None:
        """Have each go on where it was.

        Raises:
            AssertionError: something else came of it than should.
        """
        self._visitor.write(self._rest)
        assert self._visitor.answer().status == 101
        for wire, id, rest in self._halves:
            wire.write(rest)
            ack = wire.until("ack")
            assert ack["id"] == id
        total = self._flooded + len(self._halves)
        self._slow.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        for seq in range(1, total + 1):
            message = self._slow.until("message")
            assert message["seq"] == seq
            if seq <= self._flooded:
                assert message["text"] == LONG
        self._slow.send("ping")
        assert self._slow.until("pong")["seq"] == total

    def unsent(self) -> int:
        """Give how many bytes wait in the service."""
        return int(metrics(self._service)["chat_send_queue_bytes"])
