"""A connection without a socket: what it writes is kept, and time is as the test wants it."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from websockets.http11 import Request

from chatservice.connection import Connection
from chatservice.limits import TokenBucket
from tests.chatservice.wire import connect_path, request, upgrade_headers


class Loop:
    """The part of an event loop that a connection uses."""

    def __init__(self) -> None:
        self.now = 1000.0

    def time(self) -> float:
        return self.now


class Transport:
    """Takes what is written, up to `room` bytes; the rest waits."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.room = 1 << 60
        self.waiting = 0
        self.ended = False
        self.reading = True
        self.closing = False
        self.aborted = False

    def write(self, data: bytes) -> None:
        assert not self.ended, "written after the end"
        self.writes.append(bytes(data))
        self.waiting += max(0, len(data) - self.room)
        self.room = max(0, self.room - len(data))

    def write_eof(self) -> None:
        self.ended = True

    def get_write_buffer_size(self) -> int:
        return self.waiting

    def is_closing(self) -> bool:
        return self.closing

    def is_reading(self) -> bool:
        return self.reading

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = self.aborted = True

    def get_extra_info(self, name: str) -> Any:
        return ("127.0.0.1", 1) if name == "peername" else None

    def drained(self) -> None:
        """The other end has read everything."""
        self.waiting = 0
        self.room = 1 << 60


class Handler:
    """A server that notes what it is told, and answers when the test says so."""

    handshake_timeout = 10.0
    heartbeat = 25.0
    close_timeout = 5.0
    unsent_limit = 1000
    frame_limit = 65_536

    def __init__(self) -> None:
        self.loop = Loop()
        self.told: list[tuple[Any, ...]] = []
        self.scheduled: list[float] = []
        self.requests: list[Request] = []

    def new_bucket(self) -> TokenBucket:
        return TokenBucket(20.0, 40)

    def schedule(self, connection: Connection, when: float) -> None:
        self.scheduled.append(when)

    def connected(self, connection: Connection) -> None:
        self.told.append(("connected",))

    def requested(self, connection: Connection, request: Request) -> None:
        self.requests.append(request)

    def answered(self, connection: Connection) -> None:
        self.told.append(("answered",))

    def received(self, connection: Connection, text: str) -> None:
        self.told.append(("received", text))

    def flooded(self, connection: Connection, text: str | None) -> None:
        self.told.append(("flooded", text))

    def expired(self, connection: Connection) -> None:
        self.told.append(("expired",))

    def closed(self, connection: Connection, reason: str) -> None:
        self.told.append(("closed", reason))

    def disconnected(self, connection: Connection) -> None:
        self.told.append(("disconnected",))


class Loopback:
    """One connection with its transport and its handler.

    Args:
        handler: what it tells.
        connection: one that goes on here, and is to be given the transport with `attach`.
    """

    def __init__(
        self, handler: Handler | None = None, connection: Connection | None = None
    ) -> None:
        self.handler = handler or Handler()
        self.loop = self.handler.loop
        self.transport = Transport()
        if connection is not None:
            self.connection = connection
            return
        self.connection = Connection(self.handler, cast(asyncio.AbstractEventLoop, self.loop))
        self.attach()

    def attach(self) -> None:
        """Give the connection its transport."""
        self.connection.connection_made(cast(asyncio.BaseTransport, self.transport))

    def upgrade(self) -> Loopback:
        """Make it a WebSocket; what that took is forgotten."""
        self.connection.data_received(request(connect_path("w"), upgrade_headers("token")))
        response = self.connection.accept(self.handler.requests.pop())
        assert response.status_code == 101
        self.connection.respond(response)
        self.transport.writes.clear()
        self.handler.told.clear()
        self.handler.scheduled.clear()
        return self
